"""A limiter: lets attempts of a task be dispatched, so many at a time, and so many in a time.

Runs ask it for a permit for each attempt, and return it when they wait for that attempt no more. Higher priorities come
first; of one priority each run that waits has its turn, one attempt after the other. Whatever is said twice, or late,
comes out right: an attempt is known by its id and its run, and one that gets a permit when its run waits no more gives
it back.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

from dressage.orchestrator.fold.effects import CancelTimer, Effect, SendCommand, SetTimer
from dressage.orchestrator.fold.limits import (
    LIMITER_BYTES_MAX,
    LIMITER_WAITS_MAX,
    PERMIT_BYTES,
)
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp
from dressage.orchestrator.fold.state import LIMITER_FORMAT, Limiter, RunThread, State, TaskWait
from dressage.protocol.commands import AskPermit, Command, DeferPermit, GivePermit, ReturnPermit, TimerFired
from dressage.protocol.errors import BadRunId
from dressage.protocol.names import limiter_of, limiter_token, run_id_of, run_token

SLICES: Final = 100
"""Into so many slices the time of a rate is cut: what begins in one counts until the whole of it is over."""

LATER_MS: Final = 5_000
LATER_STEP_MS: Final = 5
LATER_MS_MAX: Final = 60_000
"""Those that are deferred come again one after the other, in so many milliseconds at first and at last."""


def fold_limiter(state: State | None, command: Command, token: str, stamp: Stamp) -> Outcome:
    """Applies one command to one limiter. The state that is passed in is never changed."""
    task, key = limiter_of(token)
    before = state if isinstance(state, Limiter) else None
    try:
        match command:
            case AskPermit():
                return _ask(before, command, task, key, stamp)
            case ReturnPermit():
                return _return(before, command, stamp)
            case TimerFired() if before is not None and before.timer_id == command.timer_id != "":
                after = _next(before, stamp)
                after.timer_id, after.timer_ms = "", 0
                return Outcome(after, _hand_out(after))
            case TimerFired():
                raise RefuseCommand("RESULT_STALE", f"the limiter of task {task!r} waits for no such timer")
            case _:
                raise RefuseCommand("RUN_UNKNOWN", f"{token!r} is the limiter of task {task!r}, and no run")
    except RefuseCommand as refusal:
        return Outcome(state, code=refusal.code, message=refusal.message)


def give_back(run_id: str, command: GivePermit) -> SendCommand:
    """No wait of the run is for this permit any more."""
    return SendCommand(limiter_token(command.task, command.key), ReturnPermit(run_id, command.task_id))


def returns(run_id: str, threads: list[RunThread]) -> list[Effect]:
    """What these threads have of limiters, or have asked for, is needed no more."""
    waits = [thread.wait for thread in threads if isinstance(thread.wait, TaskWait)]
    return [return_permit(run_id, wait) for wait in waits if wait.permit in ("asked", "held")]


def return_permit(run_id: str, wait: TaskWait) -> SendCommand:
    """An attempt needs its permit no more."""
    return SendCommand(limiter_token(wait.task, wait.key), ReturnPermit(run_id, wait.task_id))


def free_ms(limiter: Limiter) -> int:
    """When the rate lets another attempt begin; 0: at once."""
    limit = limiter.limit
    if limit.rate is None or sum(count for _, count in limiter.given) < limit.rate:
        return 0
    return limiter.given[0][0] + _per_ms(limiter)


def _per_ms(limiter: Limiter) -> int:
    return max(1, round(limiter.limit.per_s * 1000))


def _next(before: Limiter, stamp: Stamp) -> Limiter:
    after = before.copy()
    after.seq, after.time_ms = stamp.seq, max(before.time_ms, stamp.time_ms)
    return after


def _token(run_id: str) -> str:
    try:
        return run_token(run_id)
    except BadRunId as error:
        raise RefuseCommand("RUN_ID_INVALID", error.message) from error


def _name(attempt: str, run: str) -> str:
    return f"{attempt} {run}"


def _ask(before: Limiter | None, command: AskPermit, task: str, key: str, stamp: Stamp) -> Outcome:
    run, attempt = _token(command.run_id), command.task_id
    if before is None:
        after = Limiter(LIMITER_FORMAT, task, key, stamp.seq, stamp.time_ms, command.limit, command.since)
    elif _name(attempt, run) in before.taken:
        return Outcome(before, existing=True)
    else:
        after = _next(before, stamp)
    if command.since >= after.since:
        after.limit, after.since = command.limit, command.since
    places = _places(after, run)
    if any(after.attempts[place] == attempt for place in places):
        return Outcome(before, existing=True)
    rank = _rank(after, -command.priority, places)
    place = bisect_right(after.ranks, rank)
    after.ranks.insert(place, rank)
    after.runs.insert(place, run)
    after.attempts.insert(place, attempt)
    after.size += _bytes(attempt, run)
    effects = _hand_out(after)
    while len(after.ranks) > LIMITER_WAITS_MAX or (after.ranks and after.size > LIMITER_BYTES_MAX):
        effects.append(_defer(after))
    return Outcome(after, effects)


def _places(after: Limiter, run: str) -> list[int]:
    """Where attempts of a run stand among those that wait."""
    places: list[int] = []
    try:
        while True:
            places.append(after.runs.index(run, places[-1] + 1 if places else 0))
    except ValueError:
        return places


def _rank(after: Limiter, priority: int, places: list[int]) -> tuple[int, int]:
    """The round that is on, or the one behind that of the run's last attempt that waits."""
    ranks = after.ranks
    first = bisect_left(ranks, (priority, 0))
    current = ranks[first][1] if first < len(ranks) and ranks[first][0] == priority else 0
    own = [ranks[place][1] + 1 for place in places if ranks[place][0] == priority]
    return priority, max([current, *own])


def _bytes(attempt: str, run: str) -> int:
    """Both are of characters that take one byte in JSON."""
    return len(attempt) + len(run) + PERMIT_BYTES


def _defer(after: Limiter) -> Effect:
    """The last of those that wait comes again: there is no room for it."""
    run, attempt = after.runs.pop(), after.attempts.pop()
    after.ranks.pop()
    after.size -= _bytes(attempt, run)
    soonest, latest = after.time_ms + LATER_MS, after.time_ms + LATER_MS_MAX
    after.later_ms = min(max(after.later_ms + LATER_STEP_MS, soonest), latest)
    return SendCommand(run, DeferPermit(attempt, after.later_ms - after.time_ms))


def _return(before: Limiter | None, command: ReturnPermit, stamp: Stamp) -> Outcome:
    if before is None:
        return Outcome(None, existing=True)
    run, attempt = _token(command.run_id), command.task_id
    if _name(attempt, run) in before.taken:
        after = _next(before, stamp)
        del after.taken[_name(attempt, run)]
        after.size -= _bytes(attempt, run)
        return Outcome(after, _hand_out(after))
    place = next((each for each in _places(before, run) if before.attempts[each] == attempt), None)
    if place is None:
        return Outcome(before, existing=True)
    after = _next(before, stamp)
    del after.runs[place], after.attempts[place], after.ranks[place]
    after.size -= _bytes(attempt, run)
    return Outcome(after)


def _hand_out(after: Limiter) -> list[Effect]:
    """Gives permits to those that are next, as many as may be."""
    effects: list[Effect] = []
    limit, now = after.limit, after.time_ms
    per_ms = _per_ms(after)
    after.given = [each for each in after.given if each[0] + per_ms > now] if limit.rate is not None else []
    count = len(after.ranks)
    if limit.concurrency is not None:
        count = min(count, limit.concurrency - len(after.taken))
    if limit.rate is not None:
        count = min(count, limit.rate - sum(number for _, number in after.given))
    for run, attempt in zip(after.runs[: max(0, count)], after.attempts, strict=False):
        if limit.concurrency is None:
            after.size -= _bytes(attempt, run)  # It is never asked again who has one.
        else:
            after.taken[_name(attempt, run)] = now
        effects.append(SendCommand(run, GivePermit(attempt, after.task, after.key)))
    if count > 0:
        del after.runs[:count], after.attempts[:count], after.ranks[:count]
        if limit.rate is not None:
            _count(after, count, per_ms)
    return effects + _arm(after)


def _count(after: Limiter, count: int, per_ms: int) -> None:
    """So many begin now: it counts as if they did when this slice of time ends, so that they never are too many."""
    length = max(1, per_ms // SLICES)
    ends_ms = (after.time_ms // length + 1) * length
    if after.given and after.given[-1][0] >= ends_ms:
        last, before = after.given[-1]
        after.given[-1] = last, before + count
    else:
        after.given.append((ends_ms, count))


def _arm(after: Limiter) -> list[Effect]:
    """Sets the timer for the moment at which the rate lets another one begin, where it is that for which they wait."""
    limit = after.limit
    full = limit.concurrency is not None and len(after.taken) >= limit.concurrency
    due_ms = 0 if full or not after.ranks else free_ms(after)
    if not due_ms or (after.timer_id and after.timer_ms <= due_ms):
        return []  # A return lets the next one begin; or the timer is set, and looks again.
    effects: list[Effect] = [CancelTimer(after.timer_id)] if after.timer_id else []
    after.timer_id, after.timer_ms = f"0-0-{after.seq}", due_ms
    return [*effects, SetTimer(after.timer_id, due_ms, TimerFired(after.timer_id))]


def attempts_of(limiter: Limiter) -> list[tuple[str, str, int]]:
    """Who has a permit: the id of the run, that of the attempt, and since when."""
    named = [(name.split(" ", 1), since) for name, since in limiter.taken.items()]
    return [(run_id_of(run), attempt, since) for (attempt, run), since in named]
