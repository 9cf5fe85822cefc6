"""`dressage http`."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Final

import click

from dressage.cli import options, serving
from dressage.cli.running import run
from dressage.connectors.http.app import OPENAPI, HttpApp, HttpOptions
from dressage.protocol.errors import BadInput
from dressage.telemetry import Meters, meters_for

TOKENS: Final = "DRESSAGE_HTTP_TOKENS"


@click.command()
@serving.host
@serving.port
@options.server
@options.namespace
@options.metrics_port
@options.metrics_host
def http(
    host: str, port: int, server: str, namespace: str, metrics_port: int | None, metrics_host: str
) -> None:
    """Let callers without NATS start runs, read them and post to them, by HTTP.

    Requests show one of the tokens that the environment variable DRESSAGE_HTTP_TOKENS has, with commas between. Without
    it whoever reaches the port may do all that is offered, so then it has to be on loopback. Put a proxy before it that
    speaks TLS. Any number of processes may serve.

    \b
    DRESSAGE_HTTP_TOKENS=secret dressage http --port 8080
    """
    tokens = tuple(filter(None, (each.strip() for each in os.environ.get(TOKENS, "").split(","))))
    if not tokens and not _is_loopback(host):
        raise BadInput(
            f"whoever reaches {host} could start runs: set {TOKENS}, or listen on loopback",
            code="TOKEN_MISSING",
        )
    run(_serve(HttpOptions(tokens), (host, port), server, namespace, meters_for(metrics_port, metrics_host)))


async def _serve(
    chosen: HttpOptions, place: tuple[str, int], server: str, namespace: str, meters: Meters
) -> None:
    app = HttpApp(server, namespace, chosen, meters)

    def told(base: str) -> None:
        click.echo(f"http: {base}{OPENAPI}", err=True)

    await serving.serve(app, server, place, app.unready, meters, told, app.end)
    click.echo("http: stopped, nothing left in flight", err=True)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
