"""`dressage shards`: who serves which slice of a namespace, and how it stands."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import OPEN_RUNS_MAX, Namespace, limit_open_runs
from dressage.cli import options
from dressage.cli.running import require_answer, run, signals
from dressage.orchestrator.growth import grow, retire
from dressage.orchestrator.overview import Overview, ShardView, read_overview
from dressage.protocol.names import Names
from dressage.protocol.shardmap import SHARDS_MAX

WATCH_S: Final = 2.0


@click.group("shards", invoke_without_command=True)
@click.option("--watch", is_flag=True, help="Show it again every 2 seconds.")
@options.server
@options.namespace
@options.as_json
@click.pass_context
def shards(ctx: click.Context, watch: bool, server: str, namespace: str, as_json: bool) -> None:
    """Show which orchestrator serves which shard, how far it is, and how fast."""
    if ctx.invoked_subcommand is None:
        run(_show(server, Names(namespace), watch=watch, as_json=as_json))


@shards.command("grow")
@click.argument("count", type=click.IntRange(1, SHARDS_MAX))
@options.server
@options.namespace
@options.as_json
def grow_(count: int, server: str, namespace: str, as_json: bool) -> None:
    """Cut the namespace into more shards. Runs stay where they are; new ones go by the new count.

    Nothing stops for it. When the runs of before have ended, finish it with `dressage shards retire`.
    """
    names = Names(namespace)
    _say(run(_changed(server, lambda connection: grow(connection, names, count))), as_json)


@shards.command("retire")
@options.server
@options.namespace
@options.as_json
def retire_(server: str, namespace: str, as_json: bool) -> None:
    """Finish a growth. Refused while a run is open where the new count would not look for it."""
    names = Names(namespace)
    _say(run(_changed(server, lambda connection: retire(connection, names))), as_json)


@shards.command("limit")
@click.option(
    "--open-runs", type=click.IntRange(0, OPEN_RUNS_MAX), required=True, help="How many; 0 for any number."
)
@options.server
@options.namespace
@options.as_json
def limit_(open_runs: int, server: str, namespace: str, as_json: bool) -> None:
    """Limit how many runs of the namespace may be open at a time. Each shard takes its share."""
    names = Names(namespace)
    changed = run(_changed(server, lambda connection: limit_open_runs(connection, names, open_runs)))
    if as_json:
        click.echo(msgspec.json.encode(changed))
    else:
        click.echo(f"at most {open_runs} open runs" if open_runs else "any number of open runs")


async def _changed(server: str, change: Callable[[Connection], Awaitable[Namespace]]) -> Namespace:
    await require_answer(server)
    connection = await JetStreamBroker(server).connect("dressage-shards", reconnect=True)
    try:
        return await change(connection)
    finally:
        await connection.close()


def _say(namespace: Namespace, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(namespace))
    elif namespace.previous is not None:
        click.echo(f"growing from {namespace.previous} to {namespace.shards} shards")
    else:
        click.echo(f"{namespace.shards} shards, nothing to finish")


async def _show(server: str, names: Names, *, watch: bool, as_json: bool) -> None:
    await require_answer(server)
    connection = await JetStreamBroker(server).connect("dressage-shards", reconnect=True)
    stop = asyncio.Event()
    try:
        with signals(stop.set):
            while not stop.is_set():
                overview = await read_overview(connection, names)
                if as_json:
                    click.echo(msgspec.json.encode(overview))
                else:
                    if watch:
                        click.clear()
                    _print(overview)
                if not watch:
                    return
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(WATCH_S):
                        await stop.wait()
    finally:
        await connection.close()


def _print(overview: Overview) -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("shard", "state", "served by", "epoch", "command", "lag", "events", "open runs"):
        table.add_column(column, justify="left" if column in ("state", "served by") else "right")
    for column in ("commands/s", "tasks/s"):
        table.add_column(column, justify="right")
    for view in overview.shards:
        table.add_row(
            str(view.shard),
            view.state,
            _who(view),
            str(view.epoch),
            str(view.seq),
            str(view.lag) + (f" ({view.backlog} to fold)" if view.backlog else ""),
            _events(view),
            _or_unknown(view.open_runs),
            _or_unknown(view.commands_s),
            _or_unknown(view.tasks_s),
        )
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 1_000)
    console.print(table)
    if overview.previous is not None:
        click.echo(
            f"growing from {overview.previous} to {len(overview.shards)} shards; dressage shards retire finishes it"
        )
    unserved = [str(view.shard) for view in overview.shards if view.state in ("unserved", "silent")]
    if unserved:
        click.secho(f"nobody serves shard {', '.join(unserved)}: start an orchestrator", fg="yellow")


def _who(view: ShardView) -> str:
    tried = f"tried in vain by {', '.join(view.unable)}" if view.unable else ""
    served = f"{view.member} ({view.where})" if view.member else ""
    return "; ".join(part for part in (served, tried) if part)


def _events(view: ShardView) -> str:
    if view.behind is None:
        return f"at {view.position}"
    return f"{view.behind} behind" if view.behind else "up to date"


def _or_unknown(figure: float | None) -> str:
    return "?" if figure is None else f"{figure:g}"
