"""`dressage search` and `dressage count`: runs by what is known of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.moments import SINCE
from dressage.cli.running import require_answer, run
from dressage.cli.runs import console
from dressage.client.finding import FoundRun, RunQuery, count_runs, runs
from dressage.protocol.names import Names, check_name

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_SHOWN = 120
"""Characters of attributes in a table; `--json` has all."""

_STATUSES = ("running", "completed", "failed", "cancelled", "engine-fault")
_OPTIONS = (
    click.argument(
        "workflow", default="", callback=lambda _, __, name: check_name(name, "workflow") if name else ""
    ),
    click.option(
        "--status", type=click.Choice(_STATUSES), multiple=True, help="How they stand; may be repeated."
    ),
    click.option(
        "--where",
        multiple=True,
        metavar="CONDITION",
        help="What an attribute has to be: 'total > 100', 'city ^= Ber', 'tier in gold, lead', 'tags has new', "
        "'note is null'. All of several.",
    ),
    click.option("--failure", default="", metavar="NAME", help="The failure that they have ended with."),
    click.option("--version", type=click.IntRange(1), help="The number of the version that they are of."),
    click.option("--id", "run_id", default="", metavar="PREFIX", help="What their ids begin with."),
    click.option("--started-by", default="", metavar="ACTOR", help="Who has started them."),
    click.option("--stopped", is_flag=True, help="Those that somebody has stopped."),
    click.option(
        "--since", type=SINCE, metavar="WHEN", help="Started then, or later: 30m, 2h, 2026-11-29T20:00:00Z."
    ),
    click.option("--until", type=SINCE, metavar="WHEN", help="Started before that."),
    click.option("--ended-since", type=SINCE, metavar="WHEN", help="Ended then, or later."),
    click.option("--ended-until", type=SINCE, metavar="WHEN", help="Ended before that."),
)


_timeout = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the answer.",
)


def of_runs(command: Command) -> Command:
    """What a command is told of runs, for `query_of`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@of_runs
@click.option(
    "--sort",
    default="-started_at",
    show_default=True,
    metavar="BY",
    help="started_at, ended_at, duration_ms, run_id, workflow, or an attribute; with - in front downwards.",
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@click.option("--after", default="", metavar="NEXT", help="Go on behind a page: what its end has said.")
@_timeout
@options.server
@options.namespace
@options.as_json
def search(
    sort: str,
    limit: int,
    after: str,
    timeout_s: float,
    server: str,
    namespace: str,
    as_json: bool,
    **said: Any,
) -> None:
    """Find runs. Asks the analytics process, which knows what has happened up to now.

    \b
    dressage search --status failed --since 2h
    dressage search process-order --where 'total > 100' --where 'tier in gold, lead' --sort -total
    dressage search --json --status running | jq -r '.runs[].run_id'
    """
    said["stopped"] = said["stopped"] or None
    asked = query_of(**said)
    page = _ask(
        server,
        namespace,
        lambda connection: runs(
            connection, Names(namespace), asked, sort=sort, limit=limit, after=after, timeout_s=timeout_s
        ),
    )
    if as_json:
        click.echo(msgspec.json.encode(page))
        return
    show_runs(page.runs)
    if page.next:
        click.echo(f"there are more: --after {page.next}", err=True)


@click.command()
@of_runs
@click.option(
    "--by",
    default="",
    metavar="WHAT",
    help="For each status, workflow, version, failure, actor, or attribute.",
)
@click.option(
    "--limit", type=click.IntRange(1, 9_999), default=100, show_default=True, help="At most so many values."
)
@_timeout
@options.server
@options.namespace
@options.as_json
def count(
    by: str, limit: int, timeout_s: float, server: str, namespace: str, as_json: bool, **said: Any
) -> None:
    """Count runs: those that `dressage search` finds with the same options.

    \b
    dressage count process-order --since 1d --by status
    dressage count process-order --status running --by country
    """
    said["stopped"] = said["stopped"] or None
    asked = query_of(**said)
    counted = _ask(
        server,
        namespace,
        lambda connection: count_runs(
            connection, Names(namespace), asked, by=by, limit=limit + 1, timeout_s=timeout_s
        ),
    )
    more, counted = len(counted) > limit, counted[:limit]
    if more:
        click.echo(f"only the {limit} most frequent are shown: see --limit", err=True)
    if as_json:
        click.echo(msgspec.json.encode(counted if by else {"runs": counted[0].runs}))
    elif not by:
        click.echo(counted[0].runs)
    else:
        table = Table(by, "runs", box=None, pad_edge=False)
        for each in counted:
            table.add_row(escape(_text(each.value)), str(each.runs))
        console().print(table)


def query_of(
    *,
    workflow: str,
    version: int | None,
    status: Sequence[Any],
    failure: str,
    run_id: str,
    started_by: str,
    stopped: bool | None,
    where: Sequence[str],
    since: datetime | None,
    until: datetime | None,
    ended_since: datetime | None,
    ended_until: datetime | None,
) -> RunQuery:
    return RunQuery(
        workflow=workflow,
        version=version,
        status=status,
        failure=failure,
        run_id=run_id,
        actor=started_by,
        stopped=stopped,
        started_from=since,
        started_until=until,
        ended_from=ended_since,
        ended_until=ended_until,
        where=where,
    )


def _ask(server: str, namespace: str, ask: Callable[[Connection], Awaitable[T]]) -> T:
    async def asking() -> T:
        await require_answer(server)
        connection = await JetStreamBroker(server).connect("search")
        try:
            return await ask(connection)
        finally:
            await connection.close()

    return run(asking())


def show_runs(found: Sequence[FoundRun]) -> None:
    table = Table(
        "run", "workflow", "status", "started", "took", "attributes", "failure", box=None, pad_edge=False
    )
    for each in found:
        table.add_row(*map(escape, _row(each)))
    console().print(table)


def _row(each: FoundRun) -> tuple[str, ...]:
    took = "" if each.duration_ms is None else _took(each.duration_ms / 1000)
    attributes = ", ".join(f"{name}={_text(value)}" for name, value in sorted(each.search.items()))
    workflow = f"{each.workflow} v{each.version}"
    started = each.started_at[:19].replace("T", " ") + "Z"
    return each.run_id, workflow, each.status, started, took, _cut(attributes), each.failure_name or ""


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _took(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2f} s"


def _text(value: object) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value
        case _:
            return msgspec.json.encode(value).decode()
