"""`dressage webhook`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.cli import options, serving
from dressage.cli.letters import ask_again, check_which, declared, which
from dressage.cli.running import require_answer, run
from dressage.cli.runs import console
from dressage.cli.triggers import describe_target
from dressage.client import Client
from dressage.connectors.engine import engine_of
from dressage.connectors.mapping import EventMapping
from dressage.connectors.replay import Letter, by_mapping, dead_letters
from dressage.connectors.webhooks import WebhookApp, WebhookConfig, load_webhooks
from dressage.protocol.names import check_name
from dressage.telemetry import Meters, meters_for

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
@serving.host
@serving.port
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
    app = WebhookApp(webhooks, server, namespace, meters=meters)

    def told(base: str) -> None:
        for each in webhooks:
            click.echo(f"webhook {each.name}: {base}{each.path}", err=True)

    await serving.serve(app, server, place, app.unready, meters, told)
    click.echo("webhooks: stopped, nothing left in flight", err=True)


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
@which
@options.server
@options.namespace
def replay(file: Path, name: str, seqs: tuple[int, ...], every: bool, server: str, namespace: str) -> None:
    """Ask for dead letters of webhook NAME once more, as FILE declares it now.

    What was accepted is a dead letter no more. Each event counts once, however often it is replayed. Exit code 1 if a
    letter stays.
    """
    check_which(seqs, every=every)
    config = declared(load_webhooks(file), name, file, "webhook")

    async def ask() -> bool:
        async with _connected(server, namespace) as client:
            engine = engine_of(config.target, client, actor=f"webhook/{name}", answer_s=ANSWER_S)
            again = by_mapping(EventMapping(config), engine)
            return await ask_again(client, _letters(client, name, seqs), again, seqs)

    if run(ask()):
        raise SystemExit(1)


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
