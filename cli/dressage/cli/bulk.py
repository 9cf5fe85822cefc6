"""`dressage bulk`: the same done with all runs that a search finds."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import click
import msgspec

from dressage.cli import options
from dressage.cli.running import INTERRUPTED, interruptible, require_answer, run
from dressage.cli.search import of_runs, query_of, show_runs
from dressage.client import Client
from dressage.client.finding import (
    FoundRun,
    FoundRuns,
    RunQuery,
    condition,
    count_runs,
    parse_condition,
    runs,
)
from dressage.protocol.commands import REASON_BYTES_MAX
from dressage.protocol.errors import BadInput, DressageError, NotFound, Refused

Command = TypeVar("Command", bound=Callable[..., Any])
Act = Callable[[Client, str, str], Awaitable[int]]
"""Does it to a run, under the id of a command."""

PAGE: Final = 500
AGE_S: Final = 5.0
"""So old may be what is known of a run when it is told: a page has no more runs than are told in that time."""

ASK_S: Final = 60.0
AT_A_TIME: Final = 20
TRIES: Final = 3
"""Of one run, when nobody answers; under one id, so that it counts once."""

AGAIN_S: Final = 2.0
SHOWN: Final = 10
EXAMPLES: Final = 5

_OVER: Final = ("RUN_FINISHED", "RUN_UNKNOWN")
"""It has ended, or is gone, since it was found: nothing is left to do."""

_FAILED: Final = ("failed", "engine-fault")
_ENDED: Final = ("completed", "failed", "cancelled", "engine-fault")


class Told(msgspec.Struct):
    """What became of the runs that were found: it was done, there was nothing left to do, or there was not, by the code
    of why; with the ids of some of these."""

    found: int = 0
    done: int = 0
    over: int = 0
    refused: dict[str, int] = {}
    examples: dict[str, list[str]] = {}


@click.group()
def bulk() -> None:
    """Do the same with all runs that a search finds.

    A command takes what `dressage search` takes, says how many runs it is about, and asks. It can be stopped and called
    again at any time: what is done is not done twice.

    \b
    dressage bulk stop process-order --where 'provider = acme' --reason 'acme is down' --dry-run
    dressage bulk resume process-order --where 'provider = acme' --yes
    """


def _reason(_: click.Context, __: click.Parameter, reason: str) -> str:
    if len(reason.encode("utf-8", "replace")) > REASON_BYTES_MAX:
        raise click.BadParameter(f"it has more than {REASON_BYTES_MAX:,} bytes")
    return reason


def _acting(command: Command) -> Command:
    """What all commands take."""
    taken = [
        click.option("--reason", default="", callback=_reason, help="Why: it stands in the runs' histories."),
        click.option(
            "--rate", type=click.FloatRange(0.1), default=100.0, show_default=True, help="Runs a second."
        ),
        click.option(
            "--limit", type=click.IntRange(1), help="At most so many, those that were started first."
        ),
        click.option("--all", "every", is_flag=True, help="Without any condition: all that there are."),
        click.option("--dry-run", is_flag=True, help="Only show which they are."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        options.actor,
        options.server,
        options.namespace,
        options.as_json,
    ]
    for each in reversed(taken):
        command = each(command)
    return of_runs(command)


@bulk.command()
@click.option("--at-once", is_flag=True, help="End them where they stand, without letting them tidy up.")
@_acting
def cancel(at_once: bool, reason: str, **given: Any) -> None:
    """Cancel runs: they tidy up, and end."""
    _all(
        "cancel",
        _open(given),
        lambda client, run_id, command_id: client.cancel(
            run_id, reason, at_once=at_once, command_id=command_id
        ),
    )


@bulk.command()
@_acting
def stop(reason: str, **given: Any) -> None:
    """Stop runs until they are resumed."""
    _all(
        "stop",
        _open(given) | {"stopped": False},
        lambda client, run_id, command_id: client.stop(run_id, reason, command_id=command_id),
    )


@bulk.command()
@_acting
def resume(reason: str, **given: Any) -> None:
    """Let runs go on that are stopped."""
    if reason:
        raise click.UsageError("no reason is kept of a run that goes on")
    wanted = _open(given) | {"stopped": True}
    _all("resume", wanted, lambda client, run_id, command_id: client.resume(run_id, command_id=command_id))


@bulk.command()
@click.option("--skip", is_flag=True, help="Go on behind the step that has failed, as if it had been done.")
@_acting
def rescue(skip: bool, reason: str, **given: Any) -> None:
    """Let runs go on that have failed, where they have failed."""
    if set(given["status"]) - set(_FAILED):
        raise click.UsageError("only a run that has failed is rescued: leave out --status")
    once = uuid.uuid4().hex  # One id for all: who is told as a run and by its child runs is told once.
    _all(
        "rescue",
        given | {"status": given["status"] or _FAILED},
        lambda client, run_id, _: _rescue(client, run_id, once, skip, reason),
    )


async def _rescue(client: Client, run_id: str, command_id: str, skip: bool, reason: str) -> int:
    try:
        return (await client.rescue(run_id, skip=skip, reason=reason, command_id=command_id)).seq
    except Refused as refused:
        if refused.code not in ("RUN_OPEN", "RUN_OWNED"):
            raise
        # It goes on, or is that of a run which has not failed with it: nothing is left to do.
        raise Refused(refused.message, code="RUN_FINISHED") from refused


@bulk.command()
@click.option("--events", is_flag=True, help="Also their output events in the stream.")
@_acting
def delete(events: bool, reason: str, **given: Any) -> None:
    """Delete runs that have ended."""
    if "running" in given["status"]:
        raise click.UsageError("a run that is running is not deleted: cancel it first")
    given["status"] = given["status"] or _ENDED
    _all(
        "delete",
        given,
        lambda client, run_id, command_id: client.delete(
            run_id, reason, events=events, command_id=command_id
        ),
    )


def _open(given: dict[str, Any]) -> dict[str, Any]:
    if set(given["status"]) - {"running"}:
        raise click.UsageError("only a run that is running can be told so: leave out --status")
    return given | {"status": ("running",)}


def _all(what: str, given: dict[str, Any], act: Act) -> None:
    server, namespace, actor = given.pop("server"), given.pop("namespace"), given.pop("actor")
    rate, limit, as_json = given.pop("rate"), given.pop("limit"), given.pop("as_json")
    dry, yes, every = given.pop("dry_run"), given.pop("yes"), given.pop("every")
    said = any(value for name, value in given.items() if name not in ("status", "stopped"))
    if every == said and what != "resume":
        raise click.UsageError("say which runs, or --all" if not said else "--all takes no conditions")
    asked = query_of(**given)
    count, first, asked = run(_meant(server, namespace, asked))
    count = count if limit is None else min(count, limit)
    first = first[:count]
    runs = f"{count:,} {'run' if count == 1 else 'runs'}"
    if not as_json:
        click.echo(f"{what} {runs} of namespace {namespace}", err=True)
    if dry:
        _show_dry(count, first, as_json)
        return
    if count == 0:
        _tell(what, Told(), as_json)
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("say --yes where nobody can be asked, or --dry-run")
        click.confirm(f"{what} {runs}?", abort=True, err=True)
    told, broken = Told(), list[DressageError]()
    pace = _Pace(rate, limit)
    ended = run(interruptible(_work(server, namespace, actor, asked, act, pace, told, broken)))
    _tell(what, told, as_json)
    if broken:
        click.echo("it could not go on: call it again", err=True)
        raise broken[0]
    if not ended:
        click.echo("it was interrupted: call it again to go on", err=True)
        raise click.exceptions.Exit(INTERRUPTED)
    if told.refused:
        raise click.exceptions.Exit(1)


async def _meant(server: str, namespace: str, asked: RunQuery) -> tuple[int, list[FoundRun], RunQuery]:
    """How many there are, the first of them, and what finds no run that starts later. Raises `BadInput`."""
    await require_answer(server)
    async with Client(server, namespace=namespace) as client:
        connection, names = client.connection, client.names
        await _check_names(client, asked)
        newest = await runs(connection, names, asked, sort="-started_at", limit=1, timeout_s=ASK_S)
        if not newest.runs:
            return 0, [], asked
        behind = datetime.fromisoformat(newest.runs[0].started_at) + timedelta(microseconds=1)
        asked = msgspec.structs.replace(asked, started_until=behind)
        (counted,) = await count_runs(connection, names, asked, timeout_s=ASK_S)
        page = await runs(connection, names, asked, sort="started_at", limit=SHOWN, timeout_s=ASK_S)
        return counted.runs, page.runs, asked


async def _check_names(client: Client, asked: RunQuery) -> None:
    """An attribute that no run has ever had is null of all of them: who misspells it would mean all."""
    for each in asked.where:
        said = parse_condition(each) if isinstance(each, str) else each
        if said.operator != "is null":
            continue
        ever = RunQuery(where=[condition(said.name, "is not null")])
        (counted,) = await count_runs(client.connection, client.names, ever, timeout_s=ASK_S)
        if not counted.runs:
            raise BadInput(
                f"no run has an attribute {said.name!r}, so all runs would be meant", code="CONDITION_INVALID"
            )


class _Pace:
    """When the next run may be told, and whether there may be one more."""

    def __init__(self, rate: float, limit: int | None) -> None:
        self._rate = rate
        self._left = limit
        self._next = 0.0

    @property
    def page(self) -> int:
        return max(1, min(PAGE, round(AGE_S * self._rate)))

    async def may(self) -> bool:
        if self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now)
        wait_s = self._next - now
        self._next += 1 / self._rate
        await asyncio.sleep(wait_s)
        return True


async def _work(
    server: str,
    namespace: str,
    actor: str,
    asked: RunQuery,
    act: Act,
    pace: _Pace,
    told: Told,
    broken: list[DressageError],
) -> None:
    """Ends when all are told, or when no page can be had: `broken` says why."""
    async with Client(server, namespace=namespace, actor=actor) as client, asyncio.TaskGroup() as tasks:
        free = asyncio.Semaphore(AT_A_TIME)

        async def one(run_id: str) -> None:
            try:
                await tell_one(client, run_id, act, told)
            finally:
                free.release()

        after = ""
        while True:
            # What is told leaves those that are found: pages go on behind the last, which does not change.
            try:
                page = await _page(client, asked, pace.page, after)
            except DressageError as error:
                broken.append(error)
                return
            for each in page.runs:
                if not await pace.may():
                    return
                await free.acquire()
                told.found += 1
                tasks.create_task(one(each.run_id))
            after = page.next
            if not after:
                return
            click.echo(f"{told.found:,} so far, the last was started at {page.runs[-1].started_at}", err=True)


async def _page(client: Client, asked: RunQuery, limit: int, after: str) -> FoundRuns:
    for number in range(1, TRIES + 1):
        try:
            return await runs(
                client.connection,
                client.names,
                asked,
                sort="started_at",
                limit=limit,
                after=after,
                timeout_s=ASK_S,
            )
        except DressageError as error:
            if number == TRIES or not error.retryable:
                raise
            await asyncio.sleep(number * AGAIN_S)  # It may be restarted just then.
    raise AssertionError("the last try has returned, or raised")


async def tell_one(client: Client, run_id: str, act: Act, told: Told) -> None:
    """Does it to one run, under one id however often it is tried, and notes what became of it."""
    command_id = uuid.uuid4().hex
    for number in range(1, TRIES + 1):
        try:
            await act(client, run_id, command_id)
        except (Refused, NotFound) as error:
            if error.code in _OVER:
                told.over += 1
            else:
                _refused(told, error.code, run_id)
            return
        except DressageError as error:
            if number == TRIES or not error.retryable:
                _refused(told, error.code, run_id)
                return
        else:
            told.done += 1
            return


def _refused(told: Told, code: str, run_id: str) -> None:
    told.refused[code] = told.refused.get(code, 0) + 1
    examples = told.examples.setdefault(code, [])
    if len(examples) < EXAMPLES:
        examples.append(run_id)


def _show_dry(count: int, first: Sequence[FoundRun], as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"found": count, "first": [each.run_id for each in first]}))
        return
    if first:
        show_runs(first)
    if count > len(first):
        click.echo(f"and {count - len(first):,} more")


def _tell(what: str, told: Told, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(told))
        return
    click.echo(
        f"{what}: {told.done:,} of {told.found:,} done" + (f", {told.over:,} were over" if told.over else "")
    )
    for code, number in sorted(told.refused.items()):
        listed = ", ".join(told.examples[code])
        click.echo(f"{code}: {number:,} refused, such as {listed}", err=True)
