"""`dressage tail`: the output events of all runs, as they happen."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC
from typing import Final

import click
import msgspec

from dressage.brokers.event_feed import BatchLimits, EventFeed, stream_info
from dressage.brokers.interface import Connection, Delivery
from dressage.cli import options
from dressage.cli.event_lines import line_with_run
from dressage.cli.moments import SINCE_OR_ALL
from dressage.cli.running import INTERRUPTED, interruptible, require_answer, run
from dressage.client import Client
from dressage.protocol.errors import DressageError
from dressage.protocol.events import KINDS, decode_event
from dressage.protocol.names import Names, check_name

RETRY_S: Final = 0.5
LIMITS: Final = BatchLimits(events_max=500, pause_s=0.0)


def _since(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """As a time in RFC 3339; empty for now, and `all` stays."""
    if value in ("", "all"):
        return value
    return SINCE_OR_ALL.convert(value, parameter, context).astimezone(UTC).isoformat().replace("+00:00", "Z")


def _workflows(_: click.Context, __: click.Parameter, value: Sequence[str]) -> list[str]:
    return [check_name(name, "workflow") for name in value]


@click.command()
@click.option(
    "--workflow", "workflows", multiple=True, callback=_workflows, help="Only runs of it; may be repeated."
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(sorted(KINDS)),
    help="Only events of it; may be repeated.",
)
@click.option("--run", "run_ids", multiple=True, metavar="RUN_ID", help="Only of this run; may be repeated.")
@click.option(
    "--since",
    default="",
    callback=_since,
    metavar="WHEN",
    help="Begin with what happened then: 10m, 2h, 2026-11-29T20:00:00Z, or all.  [default: now]",
)
@click.option("--count", type=click.IntRange(1), help="End after so many events.  [default: go on for ever]")
@options.server
@options.namespace
@options.as_json
def tail(
    workflows: list[str],
    kinds: Sequence[str],
    run_ids: Sequence[str],
    since: str,
    count: int | None,
    server: str,
    namespace: str,
    as_json: bool,
) -> None:
    """Show what happens in all runs, as it happens; with --json one event a line. Ctrl-C ends it.

    \b
    dressage tail --kind run-failed --kind task-failed --since 1h
    """

    async def show() -> None:
        await require_answer(server)
        left = count
        async with Client(server, namespace=namespace) as client:
            names = client.names
            filters = [
                names.events_like(workflow, kind)
                for workflow, kind in itertools.product(workflows or ["*"], kinds or ["*"])
            ]
            async with aclosing(_messages(client.connection, names, filters, since)) as messages:
                async for message in messages:
                    try:
                        event = decode_event(message.data)
                    except msgspec.MsgspecError as error:
                        click.echo(
                            f"message {message.stream_seq} of {names.events_stream} is no event: {error}",
                            err=True,
                        )
                        continue
                    if run_ids and event.subject not in run_ids:
                        continue
                    click.echo(msgspec.json.encode(event) if as_json else line_with_run(event))
                    left = None if left is None else left - 1
                    if left == 0:
                        return

    if not run(interruptible(show())):
        raise click.exceptions.Exit(INTERRUPTED)


async def _messages(
    connection: Connection, names: Names, filters: Sequence[str], since: str
) -> AsyncGenerator[Delivery]:
    """All there are, and each that comes. What interrupts it is told once, and it goes on behind the last one."""
    start: int | str = since
    if not since:
        start = (await stream_info(connection, names.events_stream)).state.last_seq + 1
    elif since == "all":
        start = 1
    told = ""
    while True:
        try:
            wanted = filters or [names.all_events()]
            feed = await EventFeed.open(connection, names.events_stream, wanted, start, LIMITS, "tail")
        except DressageError as error:
            if not error.retryable:
                raise
            if error.code != told:
                click.echo(f"{error.code}: {error.message}: trying again", err=True)
            told = error.code
            await asyncio.sleep(RETRY_S)
            continue
        try:
            told = ""
            while True:
                for message in await feed.take(0.0):
                    yield message
                    start = message.stream_seq + 1
        except DressageError as error:
            if not error.retryable:
                raise
            await asyncio.sleep(RETRY_S)
        finally:
            with contextlib.suppress(DressageError):
                await feed.close()
