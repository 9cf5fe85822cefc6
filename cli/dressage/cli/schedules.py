"""`dressage schedule`: runs that are started by themselves."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.given import parsed
from dressage.cli.moments import MOMENT
from dressage.cli.running import require_answer, run
from dressage.cli.runs import console
from dressage.client import At, Client, Cron, Every, ScheduleHandle
from dressage.client.finding import schedules as find_schedules
from dressage.client.schedules import When
from dressage.expressions.calendar import CATCH_UP_S_MAX, EVERY_S_MAX
from dressage.protocol.names import Names
from dressage.protocol.schedules import JITTER_S_MAX, ScheduleSpec, ScheduleView, Timing

_SHOWN = 10
"""Fires that a table shows; `--json` shows all that are known."""


_OVERLAPS = click.Choice(["skip", "queue", "cancel", "allow"])


@click.group("schedule")
def schedules() -> None:
    """Start runs by themselves: at the moments of a calendar, every so often, or once."""


@schedules.command("set")
@click.argument("name")
@click.argument("workflow", metavar="WORKFLOW[@VERSION]")
@click.option(
    "--cron", multiple=True, help="A cron expression, such as '30 8 * * MON-FRI'; several are allowed."
)
@click.option("--zone", default="UTC", show_default=True, help="The time zone of the cron expressions.")
@click.option("--every", type=click.FloatRange(1, EVERY_S_MAX), help="Every so many seconds.")
@click.option("--at", type=MOMENT, help="Once, at this moment.")
@click.option("--begins", type=MOMENT, help="Not before this moment.")
@click.option("--until", type=MOMENT, help="Not after this moment.")
@click.option(
    "--input",
    "given",
    metavar="JSON|@FILE|-",
    default="{}",
    callback=parsed,
    help="The parameters by name.  [default: none]",
)
@click.option(
    "--overlap",
    type=_OVERLAPS,
    default="skip",
    show_default=True,
    help="What becomes of a fire while a run of it is open.",
)
@click.option(
    "--jitter", type=click.FloatRange(0, JITTER_S_MAX), default=0.0, help="Spread fires over so many seconds."
)
@click.option(
    "--catch-up",
    type=click.FloatRange(0, CATCH_UP_S_MAX),
    default=86_400.0,
    show_default=True,
    help="Seconds for which a fire may be late.",
)
@click.option("--moment-as", default="", help="The parameter that is given the moment that a run is for.")
@click.option("--new", is_flag=True, help="Refuse to change one that there is.")
@options.actor
@options.server
@options.namespace
def set_(
    name: str,
    workflow: str,
    cron: tuple[str, ...],
    zone: str,
    every: float | None,
    at: datetime | None,
    begins: datetime | None,
    until: datetime | None,
    given: msgspec.Raw,
    overlap: Any,
    jitter: float,
    catch_up: float,
    moment_as: str,
    new: bool,
    actor: str,
    server: str,
    namespace: str,
) -> None:
    """Make a schedule, or change the one of this name."""
    if sum((bool(cron), every is not None, at is not None)) != 1:
        raise click.UsageError("say when: give --cron, --every or --at")
    if at is not None and (begins or until):
        raise click.UsageError("one moment has neither a begin nor an end: leave out --begins and --until")
    if zone != "UTC" and not cron:
        raise click.UsageError("--zone is for cron expressions: leave it out")
    if any(map(math.isnan, (every or 0.0, jitter, catch_up))):
        raise click.UsageError("--every, --jitter and --catch-up are numbers of seconds, not nan")
    when: When
    if at is not None:
        when = At(at)
    elif every is not None:
        when = Every(timedelta(seconds=every), begins, until)
    else:
        when = Cron(*cron, zone=zone, begins=begins, until=until)

    async def tell() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            schedule = await client.set_schedule(
                name,
                workflow,
                given,
                when=when,
                overlap=overlap,
                jitter=timedelta(seconds=jitter),
                catch_up=timedelta(seconds=catch_up),
                moment_as=moment_as,
                new=new,
            )
            click.echo((await schedule.view()).next or "never")

    run(tell())


def _target(spec: ScheduleSpec) -> str:
    return f"{spec.workflow}@{spec.version}" if spec.version else spec.workflow


@schedules.command()
@click.argument("name")
@options.server
@options.namespace
@options.as_json
def get(name: str, server: str, namespace: str, as_json: bool) -> None:
    """Show a schedule: its next moments, its open runs, and its last fires."""

    async def read() -> tuple[ScheduleView, list[datetime]]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            schedule = client.schedule(name)
            return await schedule.view(), await schedule.upcoming()

    view, upcoming = run(read())
    if as_json:
        click.echo(msgspec.json.encode(view))
        return
    rows = {
        "schedule": view.name,
        "workflow": _target(view.spec),
        "when": _when(view.spec.timing),
        "overlap": view.spec.overlap,
        "input": bytes(view.spec.input).decode(),
        "paused": (view.reason or "yes") if view.paused else "",
        "next": ", ".join(each.isoformat().replace("+00:00", "Z") for each in upcoming),
        "open": ", ".join(view.open),
        "queued": ", ".join(view.queued),
        "fired": f"{view.fired}, skipped {view.skipped}, missed {view.missed}",
        "changed": f"{view.changed_at} by {view.actor or '?'}",
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for what, value in rows.items():
        if value:
            table.add_row(what, escape(value))
    console().print(table)
    fires = Table("moment", "fired", "what came of it", "run", box=None, pad_edge=False)
    for fire in view.fires[-_SHOWN:]:
        outcome = f"{fire.outcome}, by hand" if fire.by_hand else fire.outcome
        fires.add_row(fire.moment, fire.fired, outcome, escape(fire.run_id))
    if view.fires:
        console().print(fires)


def _when(timing: Timing) -> str:
    between = "".join(
        f", {what} {moment}" for what, moment in (("from", timing.begins), ("until", timing.until)) if moment
    )
    if timing.at:
        return f"at {timing.at}"
    if timing.every_s:
        return f"every {timing.every_s:g} s{between}"
    return f"{'; '.join(timing.cron)} in {timing.zone}{between}"


@schedules.command("list")
@click.option("--workflow", default="", help="Those that start runs of this workflow.")
@options.server
@options.namespace
@options.as_json
def list_(workflow: str, server: str, namespace: str, as_json: bool) -> None:
    """Find schedules, the next one to fire first. Asks the analytics process."""

    async def ask() -> list[Any]:
        await require_answer(server)
        connection = await JetStreamBroker(server).connect("schedules")
        try:
            return list(await find_schedules(connection, Names(namespace), workflow=workflow))
        finally:
            await connection.close()

    found = run(ask())
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    table = Table(
        "schedule",
        "workflow",
        "next",
        "paused",
        "fired",
        "skipped",
        "missed",
        "failed",
        box=None,
        pad_edge=False,
    )
    for each in found:
        counts = (each.fired, each.skipped, each.missed, each.failed)
        paused = "yes" if each.paused else ""
        table.add_row(each.schedule, each.workflow, each.next or "", paused, *map(str, counts))
    console().print(table)


def _tell(
    act: Callable[[ScheduleHandle], Awaitable[object]], name: str, actor: str, server: str, namespace: str
) -> None:
    async def tell() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            await act(client.schedule(name))

    run(tell())


@schedules.command()
@click.argument("name")
@click.option("--reason", default="", help="Kept with it, for whoever looks at it later.")
@options.actor
@options.server
@options.namespace
def pause(name: str, reason: str, actor: str, server: str, namespace: str) -> None:
    """Let it fire no more until it is resumed."""
    _tell(lambda each: each.pause(reason), name, actor, server, namespace)


@schedules.command()
@click.argument("name")
@options.actor
@options.server
@options.namespace
def resume(name: str, actor: str, server: str, namespace: str) -> None:
    """Let it fire again, from its next moment on."""
    _tell(lambda each: each.resume(), name, actor, server, namespace)


@schedules.command()
@click.argument("name")
@options.actor
@options.server
@options.namespace
def fire(name: str, actor: str, server: str, namespace: str) -> None:
    """Fire it now, also if it is paused."""
    _tell(lambda each: each.fire(), name, actor, server, namespace)


@schedules.command()
@click.argument("name")
@click.argument("first", type=MOMENT)
@click.argument("last", type=MOMENT)
@click.option(
    "--overlap", type=_OVERLAPS, help="What becomes of those for which a run is open.  [default: its own]"
)
@options.actor
@options.server
@options.namespace
def backfill(
    name: str, first: datetime, last: datetime, overlap: Any, actor: str, server: str, namespace: str
) -> None:
    """Fire it for its moments from FIRST to LAST for which there was no run."""
    _tell(lambda each: each.backfill(first, last, overlap=overlap), name, actor, server, namespace)


@schedules.command()
@click.argument("name")
@options.actor
@options.server
@options.namespace
def delete(name: str, actor: str, server: str, namespace: str) -> None:
    """Take it away. Its runs go on."""
    _tell(lambda each: each.delete(), name, actor, server, namespace)
