"""Serving an ASGI app by HTTP until a signal comes."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Final

import click

from dressage.cli.running import inspect_server, signals
from dressage.protocol.errors import BadInput
from dressage.telemetry import Meters

HEADERS_BYTES_MAX: Final = 16 * 1024
"""Of a request's first line and headers."""

CONNECTIONS_WAITING: Final = 256
IDLE_S: Final = 5
DRAIN_S: Final = 10


async def serve(
    app: Any,
    server: str,
    place: tuple[str, int],
    unready: Callable[[], str],
    meters: Meters,
    told: Callable[[str], None],
    ending: Callable[[], None] = lambda: None,
) -> None:
    """Serves at a host and port until SIGTERM, which `ending` hears of first, and then answers what is under way.
    `server` is that of NATS; `told` is given the address.

    Raises `BadInput` (ADDRESS_UNUSABLE).
    """
    import uvicorn

    await inspect_server(server)
    with _listening(*place) as listening:
        host, port = listening.getsockname()[:2]
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=CONNECTIONS_WAITING,
            h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
            timeout_keep_alive=IDLE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
        serving = uvicorn.Server(config)

        def stop() -> None:
            ending()
            serving.should_exit = True

        told(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        with signals(stop), meters.health.shown(unready):
            await serving.serve(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=CONNECTIONS_WAITING)
    except OSError as error:
        raise BadInput(
            f"{host} port {port} cannot be listened on: {error.strerror or error}. Choose another --host or --port",
            code="ADDRESS_UNUSABLE",
        ) from error
    # Connections inherit it. asyncio sets it for sockets only that it has made itself, and an answer is two writes: the
    # second would wait 40 ms for the first to be acknowledged.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


host = click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen: loopback only, unless told."
)
port = click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."
)
