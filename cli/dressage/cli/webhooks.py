"""`dressage webhook`."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.cli import options
from dressage.cli.letters import ask_again
from dressage.cli.running import inspect_server, require_answer, run, signals
from dressage.cli.runs import console
from dressage.cli.triggers import describe_target
from dressage.client import Client
from dressage.connectors.engine import engine_of
from dressage.connectors.mapping import EventMapping
from dressage.connectors.replay import Letter, dead_letters
from dressage.connectors.webhooks import WebhookApp, WebhookConfig, load_webhooks
from dressage.protocol.errors import BadInput, NotFound
from dressage.protocol.names import check_name
from dressage.telemetry import Meters, meters_for

HEADERS_BYTES_MAX: Final = 16 * 1024
"""Of a request's first line and headers."""

CONNECTIONS_WAITING: Final = 256
IDLE_S: Final = 5
DRAIN_S: Final = 10
ANSWER_S: Final = 8.0

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def webhook() -> None:
    """Start runs, and post external events, from signed HTTP requests.

    FILE declares webhooks in TOML: which path, signed how, starts which workflow, under which run id and with which
    input, or is an external event of which run. See docs/webhooks.md.
    """


@webhook.command()
@_file
def check(file: Path) -> None:
    """Tell what FILE declares, or everything that is wrong with it. Needs no server, and no secret."""
    for each in load_webhooks(file):
        click.echo(f"{each.name}: {_described(each)}")


@webhook.command("run")
@_file
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen: loopback only, unless told."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0 takes a free one."
)
@options.server
@options.namespace
@options.metrics_port
@options.metrics_host
def run_(
    file: Path,
    host: str,
    port: int,
    server: str,
    namespace: str,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Serve the webhooks that FILE declares by HTTP.

    Put a proxy before it that speaks TLS. Any number of processes may serve the same webhooks. On SIGTERM a process
    answers the requests under way, and takes no more.
    """
    webhooks = load_webhooks(file)
    run(_serve(webhooks, (host, port), server, namespace, meters_for(metrics_port, metrics_host)))


async def _serve(
    webhooks: list[WebhookConfig], place: tuple[str, int], server: str, namespace: str, meters: Meters
) -> None:
    import uvicorn

    app = WebhookApp(webhooks, server, namespace, meters=meters)
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
            serving.should_exit = True

        base = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        for each in webhooks:
            click.echo(f"webhook {each.name}: {base}{each.path}", err=True)
        with signals(stop):
            await serving.serve(sockets=[listening])
    click.echo("webhooks: stopped, nothing left in flight", err=True)


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


@webhook.command()
@click.argument("name")
@options.server
@options.namespace
@options.as_json
def dead(name: str, server: str, namespace: str, as_json: bool) -> None:
    """Show the dead letters of a webhook: requests that asked for nothing that there is, with the reason."""
    check_name(name, "webhook")

    async def read() -> list[Letter]:
        async with _connected(server, namespace) as client:
            return [each async for each in _letters(client, name)]

    letters = run(read())
    if as_json:
        click.echo(msgspec.json.encode([_as_json(each) for each in letters]))
        return
    table = Table("seq", "code", "path", "came", "reason", box=None, pad_edge=False)
    for each in letters:
        table.add_row(str(each.seq), each.code, escape(each.event.subject), each.time, escape(each.reason))
    console().print(table)


def _letters(client: Client, name: str, seqs: Collection[int] = ()) -> AsyncIterator[Letter]:
    return dead_letters(client.connection, client.names, client.names.dead_webhook(name), seqs)


def _as_json(letter: Letter) -> dict[str, object]:
    return {
        "seq": letter.seq,
        "code": letter.code,
        "reason": letter.reason,
        "path": letter.event.subject,
        "time": letter.time,
        "headers": dict(letter.event.headers or {}),
        "payload_base64": letter.event.data,
    }


@webhook.command()
@_file
@click.argument("name")
@click.option("--seq", "seqs", type=click.IntRange(1), multiple=True, help="This one; several are allowed.")
@click.option("--all", "every", is_flag=True, help="All that there are.")
@options.server
@options.namespace
def replay(file: Path, name: str, seqs: tuple[int, ...], every: bool, server: str, namespace: str) -> None:
    """Ask for dead letters of webhook NAME once more, as FILE declares it now.

    What was accepted is a dead letter no more. Each event counts once, however often it is replayed. Exit code 1 if a
    letter stays.
    """
    if bool(seqs) == every:
        raise click.UsageError("say which: give --seq, or --all")
    config = _declared(file, name)

    async def ask() -> bool:
        async with _connected(server, namespace) as client:
            engine = engine_of(config.target, client, actor=f"webhook/{name}", answer_s=ANSWER_S)
            return await ask_again(client, _letters(client, name, seqs), EventMapping(config), engine, seqs)

    if run(ask()):
        raise SystemExit(1)


def _declared(file: Path, name: str) -> WebhookConfig:
    for each in load_webhooks(file):
        if each.name == name:
            return each
    raise NotFound(f"{file.name} declares no webhook {name!r}", code="WEBHOOK_UNKNOWN")


@asynccontextmanager
async def _connected(server: str, namespace: str) -> AsyncIterator[Client]:
    await require_answer(server)
    async with Client(server, namespace=namespace) as client:
        yield client


def _described(each: WebhookConfig) -> str:
    signature = each.signature
    how = "not signed" if signature.scheme == "none" else f"signed as {signature.scheme}"
    header = f" in {signature.header}" if signature.header else ""
    return f"POST {each.path}, {how}{header} -> {describe_target(each.target)}"
