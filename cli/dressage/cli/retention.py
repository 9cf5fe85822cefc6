"""`dressage retention`: for how long runs are kept that have ended."""

from __future__ import annotations

import re
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from dressage.brokers.provision import keep_runs, require_namespace
from dressage.cli import options
from dressage.cli.running import require_answer, run
from dressage.client import Client
from dressage.protocol.retention import Retention

UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
FOR_EVER: Final = "for-ever"
_TIME: Final = re.compile(r"([0-9]{1,9})([smhd])")


class KeptFor(click.ParamType[Retention]):
    """A number with a unit, or for ever."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Retention:
        if value == FOR_EVER:
            return Retention()
        seconds = seconds_of(str(value))
        if seconds is None:
            self.fail(f"give a number and a unit, such as 30d, 12h, 30m or 10s, or {FOR_EVER}", param, ctx)
        return Retention(seconds)


def seconds_of(text: str) -> float | None:
    """What a number with a unit says; None for any other text."""
    found = _TIME.fullmatch(text)
    return None if found is None else float(found[1]) * UNITS_S[found[2]]


@click.group()
def retention() -> None:
    """Say for how long runs are kept that have ended, of a workflow or of the whole namespace."""


@retention.command("set")
@click.argument("kept", metavar="TIME", type=KeptFor())
@click.option("--workflow", default="", help="Of this workflow only, whatever holds for the namespace.")
@click.option("--events", is_flag=True, help="Remove their output events from the stream, too.")
@options.server
@options.namespace
def set_(kept: Retention, workflow: str, events: bool, server: str, namespace: str) -> None:
    """Delete runs so long after they have ended. TIME is such as 30d, 12h, 30m or 10s, or for-ever.

    It holds for runs that are started from then on; where runs were started with a shorter time, the longer one holds.
    """
    wanted = msgspec.structs.replace(kept, events=events)

    async def change() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            if workflow:
                await client.registry.keep(workflow, wanted)
            else:
                await keep_runs(client.connection, client.names, wanted)

    run(change())
    click.echo(f"{workflow or 'runs'}: {_said(wanted)}")


@retention.command()
@click.argument("workflow")
@options.server
@options.namespace
def clear(workflow: str, server: str, namespace: str) -> None:
    """Let a workflow be as the namespace has it."""

    async def change() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            await client.registry.keep(workflow, None)

    run(change())
    click.echo(f"{workflow}: as the namespace has it")


@retention.command()
@options.server
@options.namespace
@options.as_json
def show(server: str, namespace: str, as_json: bool) -> None:
    """Show what holds for the namespace, and for workflows of which something else is said."""

    async def read() -> tuple[Retention, dict[str, Retention]]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            default = (await require_namespace(client.connection, client.names)).retention
            own = {
                name: (await client.registry.versions(name)).retention
                for name in await client.registry.names()
            }
            return default, {name: kept for name, kept in own.items() if kept is not None}

    default, own = run(read())
    if as_json:
        click.echo(msgspec.json.encode({"namespace": default, "workflows": own}))
        return
    table = Table("of", "kept", box=None, pad_edge=False)
    table.add_row("all others" if own else "all", _said(default))
    for name, kept in own.items():
        table.add_row(name, _said(kept))
    Console(highlight=False).print(table)


def _said(kept: Retention) -> str:
    if kept.keep_s is None:
        return "kept for ever"
    unit, seconds = next((unit, size) for unit, size in reversed(UNITS_S.items()) if kept.keep_s % size == 0)
    events = ", then deleted with their output events" if kept.events else ", then deleted"
    return f"kept for {kept.keep_s / seconds:g}{unit}{events}"
