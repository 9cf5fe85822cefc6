"""`dressage run`: starting, stopping, resuming and cancelling runs, posting to them, reading and following them."""

from __future__ import annotations

import json
import sys
from contextlib import aclosing
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dressage.cli import options
from dressage.cli.event_lines import as_text, brief, line_of, said
from dressage.cli.given import any_json, parsed
from dressage.cli.rescuing import edit, fork, rescue
from dressage.cli.run_graph import graph
from dressage.cli.running import INTERRUPTED, interruptible, require_answer, run
from dressage.client import ChildRun, Client
from dressage.client.client import raise_without_output
from dressage.protocol.commands import DeadTaskView, FailureInfo, HoldView, RunView, StopView
from dressage.protocol.events import ReceivedEvent

_timeout = click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), help="Seconds to wait.  [default: for ever]"
)


@click.group("run")
def runs() -> None:
    """Start runs, wait for them and read them, post to them, stop, cancel, rescue, edit, keep and delete them."""


runs.add_command(rescue)
runs.add_command(fork)
runs.add_command(edit)


@runs.command()
@click.argument("workflow", metavar="WORKFLOW[@VERSION]")
@click.option(
    "--input",
    "given",
    metavar="JSON|@FILE|-",
    default="{}",
    callback=parsed,
    help="The parameters by name: as they are, in a file, or on standard input.  [default: none]",
)
@click.option("--run-id", help="The same id and input again is the same run.  [default: a new one]")
@click.option("--wait", "wait_", is_flag=True, help="Wait for the end and print the output.")
@_timeout
@options.actor
@options.server
@options.namespace
@options.as_json
def start(
    workflow: str,
    given: msgspec.Raw,
    run_id: str | None,
    wait_: bool,
    timeout_s: float | None,
    actor: str,
    server: str,
    namespace: str,
    as_json: bool,
) -> None:
    """Start a run, of the latest version unless it says which. Returns once the engine has accepted it, or with --wait
    once it has ended."""

    async def begin() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            handle = await client.start(workflow, given, run_id=run_id)
            if wait_:
                click.echo(f"run {handle.run_id}", err=True)
                view = await client.wait(
                    handle.run_id, timeout_s=timeout_s, not_before=handle.seq, shard=handle.shard
                )
                _print_end(view, as_json)
            elif as_json:
                click.echo(json.dumps({"run_id": handle.run_id, "existing": handle.existing}))
            else:
                click.echo(handle.run_id)

    run(begin())


@runs.command()
@click.argument("run_id")
@click.option("--graph", "drawn", is_flag=True, help="Also its workflow, with how each step of it stands.")
@options.server
@options.namespace
@options.as_json
def get(run_id: str, drawn: bool, server: str, namespace: str, as_json: bool) -> None:
    """Show a run as it stands.

    \b
    dressage run get order-17 --graph
    """

    if drawn and as_json:
        raise click.UsageError("--graph is for people: leave out --json")

    async def read() -> tuple[RunView, list[str]]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            view = await client.get(run_id)
            return view, await _drawn(client, run_id) if drawn else []

    view, lines = run(read())
    if as_json:
        click.echo(msgspec.json.encode(view))
        return
    _print_view(view)
    for line in ["", *lines] if lines else []:
        click.echo(line)


async def _drawn(client: Client, run_id: str) -> list[str]:
    found = await client.waits(run_id)
    view = found.run
    spec = (await client.registry.get(view.workflow, view.version)).spec
    events = [event async for event in client.history(run_id)]
    return list(graph(spec, events, found.waits, ended=view.status != "running"))


@runs.command()
@click.argument("run_id")
@_timeout
@options.server
@options.namespace
@options.as_json
def wait(run_id: str, timeout_s: float | None, server: str, namespace: str, as_json: bool) -> None:
    """Wait for a run to end and print its output. Exits with 1 if it failed or was cancelled."""

    async def read() -> RunView:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return await client.wait(run_id, timeout_s=timeout_s)

    _print_end(run(read()), as_json)


@runs.command()
@click.argument("run_id")
@click.option("--reason", default="", help="Kept with the run, for whoever looks at it later.")
@click.option("--at-once", is_flag=True, help="End it where it stands, without letting it tidy up.")
@click.option(
    "--thread",
    type=click.IntRange(0),
    help="Only this branch, and what it has started: the run goes on.  [default: all of the run]",
)
@options.actor
@options.server
@options.namespace
def cancel(
    run_id: str, reason: str, at_once: bool, thread: int | None, actor: str, server: str, namespace: str
) -> None:
    """Cancel a run, or a branch of it. To cancel a cancelled run again changes nothing.

    Its `finally` clauses and sagas tidy up before it ends, if it has any. An attempt that is with a worker is
    cancelled there; one that waits in its queue is still executed, and its result refused.
    """

    async def end() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            await client.cancel(run_id, reason, at_once=at_once, thread=thread)

    run(end())


_thread = click.option(
    "--thread",
    type=click.IntRange(0),
    default=0,
    help="Only this run thread, and what it has started.  [default: all of the run]",
)


@runs.command()
@click.argument("run_id")
@click.option("--reason", default="", help="Kept with the run while it is stopped, and in its history.")
@_thread
@options.actor
@options.server
@options.namespace
def stop(run_id: str, reason: str, thread: int, actor: str, server: str, namespace: str) -> None:
    """Stop a run until it is resumed. To stop a stopped run again changes nothing.

    Attempts that are on their way are executed, timers fire, events come; what they come to is kept, and counts when
    the run goes on. Child runs that it waits for are stopped with it.
    """

    async def end() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            await client.stop(run_id, reason, thread=thread)

    run(end())


@runs.command()
@click.argument("run_id")
@_thread
@options.actor
@options.server
@options.namespace
def resume(run_id: str, thread: int, actor: str, server: str, namespace: str) -> None:
    """Let a run go on that was stopped."""

    async def begin() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            await client.resume(run_id, thread=thread)

    run(begin())


@runs.command()
@click.argument("run_id")
@click.option("--reason", default="", help="Kept in the last event of the run.")
@click.option(
    "--cancel", "cancels", is_flag=True, help="Cancel it first if it runs, and wait until it has ended."
)
@click.option("--events", is_flag=True, help="Remove its output events from the stream, too.")
@_timeout
@options.actor
@options.server
@options.namespace
def delete(
    run_id: str,
    reason: str,
    cancels: bool,
    events: bool,
    timeout_s: float | None,
    actor: str,
    server: str,
    namespace: str,
) -> None:
    """Delete a run that has ended: its state, its objects, and the child runs that it has waited for.

    Its id is free from then on. Analytics forget it, too. A run that is held is not deleted. --timeout is for the wait
    with --cancel.
    """

    async def go() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            if cancels:
                view = await client.get(run_id)
                # One that is held would be cancelled for a deletion that is refused.
                if view.status == "running" and view.held is None:
                    await client.cancel(run_id, reason)
                    await client.wait(run_id, timeout_s=timeout_s)
            await client.delete(run_id, reason, events=events)

    run(go())


@runs.command()
@click.argument("run_id")
@click.option("--reason", default="", help="Kept with the run while it is held, and in its history.")
@options.actor
@options.server
@options.namespace
def hold(run_id: str, reason: str, actor: str, server: str, namespace: str) -> None:
    """Keep a run from being deleted, by whomever and whatever, until it is released. It goes on as before."""

    async def keep() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            await client.hold(run_id, reason)

    run(keep())


@runs.command()
@click.argument("run_id")
@options.actor
@options.server
@options.namespace
def release(run_id: str, actor: str, server: str, namespace: str) -> None:
    """Hold a run no longer. If the time is over for which it was to be kept, it is deleted."""

    async def let_go() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            await client.release(run_id)

    run(let_go())


@runs.command()
@click.argument("run_id")
@click.argument("event")
@click.argument("payload", default="null", callback=any_json)
@click.option("--id", "event_id", help="The same id is the same event, however often it is posted.")
@options.actor
@options.server
@options.namespace
def post(
    run_id: str,
    event: str,
    payload: msgspec.Raw,
    event_id: str | None,
    actor: str,
    server: str,
    namespace: str,
) -> None:
    """Post an external event to a run. PAYLOAD is JSON, @FILE, or - for standard input.

    The run's earliest wait for the event takes it, now or later; a run that does not exist yet has it when it is
    started.
    """

    async def tell() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            posted = await client.post(run_id, event, payload, event_id=event_id)
        if posted.early:
            click.echo(f"run {run_id!r} does not exist yet: it has the event when it is started", err=True)

    run(tell())


@runs.command()
@click.argument("run_id")
@options.server
@options.namespace
@options.as_json
def children(run_id: str, server: str, namespace: str, as_json: bool) -> None:
    """List the child runs that a run has started; with --json one a line.

    \b
    dressage run children order-7
    """

    async def read() -> list[ChildRun]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return await client.children(run_id)

    found = run(read())
    if as_json:
        for child in found:
            click.echo(msgspec.json.encode(child))
        return
    table = Table("run", "workflow", "status", "started", box=None, pad_edge=False)
    for child in found:
        table.add_row(escape(child.run_id), child.workflow, child.status, child.started_at)
    console().print(table)


@runs.command()
@click.argument("run_id")
@options.server
@options.namespace
@options.as_json
def history(run_id: str, server: str, namespace: str, as_json: bool) -> None:
    """Show what happened in a run; with --json one event a line."""

    async def read() -> list[ReceivedEvent]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return [event async for event in client.history(run_id)]

    events = run(read())
    if as_json:
        for event in events:
            click.echo(msgspec.json.encode(event))
        return
    table = Table("", "time", "event", "what", box=None, pad_edge=False)
    for event in events:
        table.add_row(str(event.index), event.time, event.kind, escape(brief(said(event))))
    console().print(table)


@runs.command()
@click.argument("run_id")
@click.option(
    "--after",
    type=click.IntRange(-1),
    default=-1,
    metavar="INDEX",
    help="Begin behind this event, the last one that you have.  [default: with the first]",
)
@options.server
@options.namespace
@options.as_json
def follow(run_id: str, after: int, server: str, namespace: str, as_json: bool) -> None:
    """Show what happens in a run, as it happens, until it has ended; with --json one event a line.

    Exits with 0 however the run ended, which `dressage run wait` tells. Ctrl-C stops it, and it says how to go on.
    """
    last = after

    async def show() -> None:
        nonlocal last
        await require_answer(server)
        async with (
            Client(server, namespace=namespace) as client,
            aclosing(client.follow(run_id, after=after)) as events,
        ):
            async for event in events:
                click.echo(msgspec.json.encode(event) if as_json else line_of(event))
                last = event.index

    if not run(interruptible(show())):
        click.echo(f"stopped: --after {last} goes on from here", err=True)
        raise click.exceptions.Exit(INTERRUPTED)


def _print_end(view: RunView, as_json: bool) -> None:
    """Prints the output of a run that ended. Raises `RunFailed` or `RunCancelled` if it has none."""
    if as_json:
        click.echo(msgspec.json.encode(view))
    raise_without_output(view)
    if not as_json:
        click.echo(bytes(view.output) if isinstance(view.output, msgspec.Raw) else b"null")


def _dead(task: DeadTaskView) -> str:
    return f"{task.task} {task.task_id} since {task.since}: {_failure(task.failure)}"


def _print_view(view: RunView) -> None:
    rows: dict[str, Any] = {
        "run": view.run_id,
        "workflow": f"{view.workflow} v{view.version}",
        "status": f"{view.status}, being cancelled" if view.cancelling else view.status,
        "stopped": "; ".join(map(_stop, view.stops)),
        "waiting for": view.waiting_for,
        "dead tasks": "; ".join(map(_dead, view.dead_tasks)),
        "parent": view.parent,
        "started": f"{view.started_at} by {view.actor or '?'}",
        "ended": view.ended_at,
        "held": _held(view.held) if view.held else "",
        "kept until": view.kept_until,
        "failure": _failure(view.failure) if view.failure else "",
        "cancelled for": view.reason,
        "input": as_text(view.input),
        "output": bytes(view.output).decode() if isinstance(view.output, msgspec.Raw) else "",
    }
    for what, values in (("search", view.search), ("variable", view.variables)):
        # A name with `$` is a temporary of the compiler, which no author has written.
        rows |= {
            f"{what} {name}": as_text(value) for name, value in values.items() if not name.startswith("$")
        }
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(brief(str(value))))
    console().print(table)


def _stop(stop: StopView) -> str:
    what = f"run thread {stop.thread} " if stop.thread else ""
    by = " with its parent" if stop.by == "parent" else ""
    why = f": {stop.reason}" if stop.reason else ""
    return f"{what}since {stop.since} by {stop.actor or '?'}{by}{why}"


def _held(held: HoldView) -> str:
    return f"since {held.since} by {held.actor or '?'}" + (f": {held.reason}" if held.reason else "")


def _failure(failure: FailureInfo) -> str:
    """In one line, that of branches with what each of them failed with."""
    causes = ", ".join(map(_failure, failure.causes))
    return f"{failure.name}: {failure.message}" + (f": {causes}" if causes else "")


def console() -> Console:
    # In a pipe a table must not be cut to the width of a terminal that is not there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 1_000)
