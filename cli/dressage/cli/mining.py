"""`dressage mining`: which step follows which, and the log of steps for tools of process mining."""

from __future__ import annotations

import csv
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple, TextIO
from xml.sax.saxutils import quoteattr

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.moments import SINCE
from dressage.cli.running import require_answer, run
from dressage.cli.runs import console
from dressage.client.finding.mining import Follows, Step, follows, steps
from dressage.flow.drawing.mermaid import escaped
from dressage.protocol.names import Names

START: Final = "start"


@click.group()
def mining() -> None:
    """See how runs really go: which step follows which, how often, and how long after it."""


def _of_workflow(command: Callable[..., Any]) -> Callable[..., Any]:
    taken = [
        click.argument("workflow"),
        click.option("--version", type=click.IntRange(1), help="Only runs of this version."),
        click.option("--since", type=SINCE, help="Only runs that were started since then."),
        options.server,
        options.namespace,
    ]
    for each in reversed(taken):
        command = each(command)
    return command


@mining.command()
@_of_workflow
@click.option("--mermaid", "form", flag_value="mermaid", help="Print a Mermaid flowchart.")
@click.option("--json", "form", flag_value="json", help="Print JSON, for programs.")
def graph(
    workflow: str, version: int | None, since: datetime | None, server: str, namespace: str, form: str | None
) -> None:
    """Print which step follows which.

    \b
    dressage mining graph process-order
    dressage mining graph process-order --since 7d --mermaid > flow.mmd
    """

    async def ask() -> list[Follows]:
        await require_answer(server)
        connection = await JetStreamBroker(server).connect("mining")
        try:
            return await follows(connection, Names(namespace), workflow, version=version or 0, since=since)
        finally:
            await connection.close()

    found = run(ask())
    if form == "json":
        click.echo(msgspec.json.encode(found))
    elif form == "mermaid":
        click.echo("\n".join(drawn(found)))
    else:
        table = Table("from", "to", "times", "median", box=None, pad_edge=False)
        for each in found:
            table.add_row(
                escape(each.before or START), escape(_after(each)), str(each.times), _took(each.median_ms)
            )
        console().print(table)


def drawn(found: Sequence[Follows]) -> Iterator[str]:
    """As lines of Mermaid."""
    numbers: dict[str, str] = {}
    yield "flowchart TD"
    yield f'    {START}(["{START}"])'
    for each in found:
        for name in (each.before, each.after):
            if name is not None and name not in numbers:
                numbers[name] = f"n{len(numbers)}"
                yield f'    {numbers[name]}["{escaped(name)}"]'
    for status in dict.fromkeys(each.status for each in found if each.after is None):
        yield f'    end_{status.replace("-", "_")}(["{escaped(status)}"])'
    for each in found:
        before = START if each.before is None else numbers[each.before]
        after = f"end_{each.status.replace('-', '_')}" if each.after is None else numbers[each.after]
        yield f'    {before} -->|"{escaped(f"{each.times} times, {_took(each.median_ms)}")}"| {after}'


def _after(each: Follows) -> str:
    return f"({each.status})" if each.after is None else each.after


def _took(median_ms: float | None) -> str:
    if median_ms is None:
        return "-"
    seconds = median_ms / 1000
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3f} s"


# -- the log ---------------------------------------------------------------------------------------
@mining.command()
@_of_workflow
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "xes"]),
    default="csv",
    show_default=True,
    help="Of the log.",
)
def log(
    workflow: str, version: int | None, since: datetime | None, server: str, namespace: str, form: str
) -> None:
    """Write the steps as an event log: the start and the end of each, with the run as the case.

    \b
    dressage mining log process-order > orders.csv
    dressage mining log process-order --since 30d --format xes > orders.xes
    """
    write = _csv if form == "csv" else _xes

    async def ask() -> None:
        await require_answer(server)
        connection = await JetStreamBroker(server).connect("mining")
        try:
            told = steps(connection, Names(namespace), workflow, version=version or 0, since=since)
            await write(told, sys.stdout)
        finally:
            await connection.close()

    run(ask())


_COLUMNS: Final = (
    "case:concept:name",
    "concept:name",
    "time:timestamp",
    "lifecycle:transition",
    "org:resource",
    "kind",
    "outcome",
    "attempts",
    "version",
)


class _Event(NamedTuple):
    """A step's begin, or its end, at which its outcome is known. They sort by when they were."""

    at: str
    step_seq: int
    transition: str
    outcome: str
    step: Step


async def _cases(told: AsyncGenerator[Step, None]) -> AsyncGenerator[tuple[str, list[_Event]], None]:
    """The events of one run after the other, those of each in their order."""
    case: str | None = None
    events: list[_Event] = []
    async for each in told:
        if case is not None and each.run_id != case:
            yield case, sorted(events, key=_when)
            events = []
        case = each.run_id
        events.append(_Event(each.began_at, each.step_seq, "start", "", each))
        if each.ended_at is not None:
            events.append(_Event(each.ended_at, each.step_seq, "complete", each.outcome, each))
    if case is not None:
        yield case, sorted(events, key=_when)


def _when(event: _Event) -> tuple[str, int, bool]:
    return event.at, event.step_seq, event.transition == "complete"


async def _csv(told: AsyncGenerator[Step, None], out: TextIO) -> None:
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    async for case, events in _cases(told):
        for at, _, transition, outcome, step in events:
            writer.writerow(
                [
                    *(case, step.step, at, transition, step.who),
                    *(step.kind, outcome, step.attempts, step.version),
                ]
            )


async def _xes(told: AsyncGenerator[Step, None], out: TextIO) -> None:
    """IEEE 1849: one trace for each run."""
    out.write(
        '<?xml version="1.0" encoding="UTF-8"?>\n<log xes.version="1849.2016" xmlns="http://www.xes-standard.org/">\n'
    )
    for name, prefix in (
        ("Concept", "concept"),
        ("Time", "time"),
        ("Lifecycle", "lifecycle"),
        ("Organizational", "org"),
    ):
        out.write(
            f'  <extension name="{name}" prefix="{prefix}" uri="http://www.xes-standard.org/{prefix}.xesext"/>\n'
        )
    async for case, events in _cases(told):
        out.write(f"  <trace>\n{_attribute('string', 'concept:name', case, 4)}")
        for at, _, transition, outcome, step in events:
            out.write("    <event>\n")
            out.write(_attribute("string", "concept:name", step.step, 6))
            out.write(_attribute("date", "time:timestamp", at, 6))
            out.write(_attribute("string", "lifecycle:transition", transition, 6))
            out.write(_attribute("string", "org:resource", step.who, 6))
            out.write(_attribute("string", "kind", step.kind, 6))
            out.write(_attribute("string", "outcome", outcome, 6))
            out.write(_attribute("int", "attempts", str(step.attempts), 6))
            out.write(_attribute("int", "version", str(step.version), 6))
            out.write("    </event>\n")
        out.write("  </trace>\n")
    out.write("</log>\n")


def _attribute(kind: str, key: str, value: str, indent: int) -> str:
    if not value:
        return ""
    # XML has no way to write most control characters.
    clean = "".join(char if char.isprintable() or char in "\t\n" else "\ufffd" for char in value)
    return f"{' ' * indent}<{kind} key={quoteattr(key)} value={quoteattr(clean)}/>\n"
