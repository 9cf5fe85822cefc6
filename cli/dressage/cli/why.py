"""`dressage why`: what a run waits for, since when, what has failed last, and what would let it go on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from dressage.cli import options
from dressage.cli.running import require_answer, run
from dressage.client import Client
from dressage.protocol.commands import FailureInfo, QueueDemand, RunView, RunWaits, StopView, WaitView
from dressage.protocol.errors import NotFound
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.names import queue_text
from dressage.protocol.spec import WorkflowSpec

EVENTS_LOOKED_AT: Final = 1_000
"""In so many of a run's last events its last failures are looked for."""

MESSAGE_SHOWN: Final = 500
"""Characters of a failure's message."""


class Failed(msgspec.Struct):
    """What is needed of a task-failed event, or of one that says what an attempt before a dead task has failed with."""

    task: str
    node: int
    attempt: int
    failure: FailureInfo
    worker: str = ""


@click.command()
@click.argument("run_id")
@options.server
@options.namespace
@options.as_json
def why(run_id: str, server: str, namespace: str, as_json: bool) -> None:
    """Say why a run stands where it stands, and what would let it go on.

    For each run thread: what it waits for, at which line of the workflow, since when, what has failed there last,
    whether workers ask for such tasks, and the command that would move it.

    \b
    dressage why order-17
    """

    async def read() -> list[str]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            found = await client.waits(run_id)
            if as_json:
                return [msgspec.json.encode(found).decode()]
            registered = await client.registry.get(found.run.workflow, found.run.version)
            after = max(-1, found.run.events - EVENTS_LOOKED_AT - 1)
            events = [event async for event in client.history(run_id, after=after)]
            above = await _above(client, found.run)
            return list(told(found, registered.spec, events, datetime.now(UTC), above))

    for line in run(read()):
        click.echo(line)


async def _above(client: Client, view: RunView) -> RunView | None:
    """The run that was told that this one has failed."""
    if view.status != "failed" or not view.awaited:
        return None
    try:
        return await client.get(view.parent)
    except NotFound:
        return None


def told(
    found: RunWaits,
    spec: WorkflowSpec,
    events: Sequence[ReceivedEvent],
    now: datetime,
    above: RunView | None = None,
) -> Iterator[str]:
    """The lines of the answer. `above` is the run that was told that this one has failed, if it was."""
    failures = _last_failures(events)
    view = found.run
    yield from _head(view, spec, failures, now, above)
    demands = {each.queue: each for each in found.queues}
    for wait in found.waits:
        yield ""
        of = "the run itself" if wait.thread == 0 else f"run thread {wait.thread}"
        yield f"{of} waits for {_what(wait)}{_times(wait, now)}"
        yield from (f"  {line}" for line in _place(wait, spec))
        yield from (f"  {line}" for line in _more(wait, view, demands.get(wait.queue), failures))
    if found.more:
        yield ""
        yield f"and {found.more} more run threads wait"


# -- the run -----------------------------------------------------------------------------------------
def _head(
    view: RunView, spec: WorkflowSpec, failures: Mapping[int, Failed], now: datetime, above: RunView | None
) -> Iterator[str]:
    name = f"run {view.run_id} of {view.workflow} version {view.version}"
    began = f"it was started {_ago(view.started_at, now)}"
    match view.status:
        case "running":
            being = "is being cancelled, and tidies up" if view.cancelling else "goes on"
            yield f"{name} {being}: {began}, and something happened last {_ago(view.updated_at, now)}"
        case "completed":
            yield f"{name} has completed {_ago(view.ended_at, now)}: there is nothing that it waits for"
        case "cancelled":
            yield f"{name} was cancelled {_ago(view.ended_at, now)}{_because(view.reason)}"
        case _:
            yield f"{name} has failed {_ago(view.ended_at, now)}{_because(view.reason)}"
            if view.failure is not None:
                yield f"  {_failure(view.failure)}"
                yield from (f"  {line}" for line in _where_it_failed(view.failure, spec, failures))
            yield from (f"  {line}" for line in _rescue(view, spec, above))
    for stop in view.stops:
        yield _stop(view, stop, now)


def _rescue(view: RunView, spec: WorkflowSpec, above: RunView | None) -> Iterator[str]:
    if above is not None and above.failed_child == view.run_id:
        yield f"`dressage run rescue {above.run_id}` lets the run go on that has failed with it, and it with that"
        return
    if above is not None:
        yield (
            f"run {above.run_id} was told so, and is {above.status}: it is not rescued; "
            f"`dressage run fork {view.run_id}` starts another run that goes on as it has ended"
        )
        return
    if view.failed_child:
        yield f"it has failed with run {view.failed_child}: `dressage why {view.failed_child}` says with what"
    if view.failed_node is None:
        return
    line = spec.nodes[view.failed_node].line if view.failed_node < len(spec.nodes) else 0
    yield f"`dressage run rescue {view.run_id}` lets it go on" + (f" at line {line}" if line else "")


def _where_it_failed(
    failure: FailureInfo, spec: WorkflowSpec, failures: Mapping[int, Failed]
) -> Iterator[str]:
    """The last attempt that has failed with what the run has failed with."""
    for failed in reversed(list(failures.values())):
        if failed.failure.name == failure.name and failure.message.startswith(failed.failure.message):
            by = f" of worker {failed.worker}" if failed.worker else ""
            yield f"it came from attempt {failed.attempt} of task {failed.task}{by}"
            yield from _line(failed.node, spec)
            return


def _stop(view: RunView, stop: StopView, now: datetime) -> str:
    what = f"run thread {stop.thread} is stopped" if stop.thread else "it is stopped"
    if stop.by == "parent":
        return f"{what} since {_ago(stop.since, now)} with the run that has started it: resume {view.parent}"
    thread = f" --thread {stop.thread}" if stop.thread else ""
    by = f" by {stop.actor}" if stop.actor else ""
    resume = f"`dressage run resume {view.run_id}{thread}` lets it go on"
    return f"{what}{by} since {_ago(stop.since, now)}{_because(stop.reason)}: {resume}"


# -- a wait ------------------------------------------------------------------------------------------
def _what(wait: WaitView) -> str:
    match wait.kind:
        case "task":
            return f"task {wait.what}, attempt {wait.attempt}"
        case "dead-task":
            return (
                f"somebody who retries task {wait.what}, or lets it fail: attempt {wait.attempt} was its last"
            )
        case "limit":
            key = f", key {wait.key}" if wait.key else ""
            return f"its turn at the limit of task {wait.what}{key}, attempt {wait.attempt}"
        case "sleep":
            return "a time"
        case "condition":
            return f"condition {wait.what}"
        case "event":
            return f"event {wait.what}" + (f" at key {wait.key}" if wait.key else "")
        case "user-task":
            return f"user task {wait.what} {wait.who}"
        case "child":
            return f"run {wait.id} of workflow {wait.what}"
        case "child-begin":
            return f"the begin of run {wait.id} of workflow {wait.what}"
        case "held":
            return "being allowed to go on: what it waited for has come"
        case "turn":
            return "its turn to interrupt"


def _times(wait: WaitView, now: datetime) -> str:
    since = f", since {_ago(wait.since, now)}" if wait.since else ""
    return since + (f", until {wait.until}" if wait.until else "")


def _place(wait: WaitView, spec: WorkflowSpec) -> Iterator[str]:
    yield from _line(wait.node, spec)
    if wait.interrupted:
        yield "it is interrupted: it goes on when the handler has ended"


def _line(node: int, spec: WorkflowSpec) -> Iterator[str]:
    """Where it stands, and how that line reads."""
    line = spec.nodes[node].line if node < len(spec.nodes) else 0
    if line:
        text = spec.source.splitlines()[line - spec.first_line : line - spec.first_line + 1]
        reads = f": {text[0].strip()}" if text else ""
        yield f"line {line} of {spec.module or 'its file'}{reads}"


def _more(
    wait: WaitView, view: RunView, demand: QueueDemand | None, failures: Mapping[int, Failed]
) -> Iterator[str]:
    failed = failures.get(wait.node)
    if failed is not None and wait.kind in ("task", "dead-task", "limit"):
        by = f" of worker {failed.worker}" if failed.worker else ""
        yield f"attempt {failed.attempt}{by} has failed with {_failure(failed.failure)}"
    match wait.kind:
        case "task":
            yield from _of_workers(wait, demand)
        case "dead-task":
            yield f"`dressage task retry {view.run_id} {wait.id}` tries it again, `dressage task fail` lets it fail"
        case "limit":
            key = f" --key {wait.key}" if wait.key else ""
            yield f"`dressage task limit {wait.what}{key}` says who has its permits"
        case "condition":
            yield "it goes on when an assignment of the workflow, in another run thread, makes it true"
        case "event" if wait.key:
            yield f"`dressage event post {wait.what} {wait.key} PAYLOAD` lets it go on"
        case "event":
            yield f"`dressage run post {view.run_id} {wait.what} PAYLOAD` lets it go on"
        case "user-task":
            yield f"`dressage user-task complete {view.run_id} {wait.id} VALUES` lets it go on"
        case "child" | "child-begin":
            yield f"`dressage why {wait.id}` says why that has not ended"
        case "sleep" | "held" | "turn":
            pass


def _of_workers(wait: WaitView, demand: QueueDemand | None) -> Iterator[str]:
    queue = f"queue {queue_text(wait.queue)}"
    if wait.worker:
        yield f"worker {wait.worker} has said that it has it"
    if demand is None:
        return
    if demand.asking:
        yield f"workers ask for tasks of {queue}: {_count(demand.under_way, 'attempt')} under way"
    elif demand.under_way:
        yield (
            f"no worker asks for more tasks of {queue}: {_count(demand.under_way, 'attempt')} under way, "
            f"{demand.waiting} waiting. Workers may be at their limit, or gone: what those had is given out again"
        )
    else:
        build = wait.queue.partition("_")[2]
        option = f" --build {build}" if build else ""
        yield f"no worker asks for tasks of {queue}: start one, `dressage worker APP{option}`"


def _count(number: int, what: str) -> str:
    return f"{number} {what} is" if number == 1 else f"{number} {what}s are"


# -- words -------------------------------------------------------------------------------------------
def _last_failures(events: Sequence[ReceivedEvent]) -> dict[int, Failed]:
    """Of each node the attempt that has failed last, the last one of all at the end."""
    found: dict[int, Failed] = {}
    for event in events:
        if event.kind == "task-failed":
            failed = msgspec.json.decode(event.data, type=Failed)
            found.pop(failed.node, None)
            found[failed.node] = failed
        elif event.kind == "run-migrated":
            found.clear()  # The nodes are those of another version.
    return found


def _failure(failure: FailureInfo) -> str:
    message = failure.message
    if len(message) > MESSAGE_SHOWN:
        message = f"{message[:MESSAGE_SHOWN]}..."
    causes = "; ".join(map(_failure, failure.causes))
    return f"{failure.name}: {message}" + (f" ({causes})" if causes else "")


def _because(reason: str) -> str:
    return f", because of {reason!r}" if reason else ""


def _ago(moment: str, now: datetime) -> str:
    """The moment, and how long that is ago."""
    seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    units: tuple[tuple[int, str], ...] = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    size, unit = next((each for each in units if seconds >= each[0]), units[-1])
    return f"{moment} ({seconds // size} {unit} ago)"
