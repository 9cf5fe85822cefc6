"""What must hold after every fold. Stays on in production: a broken rule stops one run, loudly, not a shard."""

from __future__ import annotations

from collections import Counter

from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, SetTimer
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.fold.state import ConditionWait, EventWait, GatherWait, RunState, TaskWait
from dressage.protocol.errors import InvariantBroken


def check(before: RunState | None, outcome: Outcome) -> None:
    """Raises `InvariantBroken`."""
    broken = _broken(before, outcome)
    if broken:
        raise InvariantBroken(broken)


def _broken(before: RunState | None, outcome: Outcome) -> str:
    """The first rule that does not hold, in words; empty when all hold."""
    after = outcome.state
    if after is None or after is before:
        return "nothing changed, yet something happened" if outcome.effects or outcome.events else ""
    counted = 0 if before is None else before.events
    if outcome.first_event != counted or after.events != counted + len(outcome.events):
        return "events were not counted, or do not follow the last one"
    if before is not None:
        if after.seq <= before.seq:
            return "a command was folded twice"
        if after.time_ms < before.time_ms:
            return "the run's time ran backwards"
        if before.finished:
            return "a finished run changed"
    if after.finished:
        return _broken_end(after) or _broken_cancel(before, outcome)
    return _broken_waits(after, outcome)


def _broken_end(after: RunState) -> str:
    if after.threads or after.ended_ms <= 0:
        return "a finished run has threads, or no end"
    if bool(after.output) != (after.status == "completed"):
        return "only a completed run has an output"
    return ""


def _broken_cancel(before: RunState | None, outcome: Outcome) -> str:
    """A cancelled run leaves no timer behind."""
    after = outcome.state
    if before is None or after is None or after.status != "cancelled":
        return ""
    pending = {thread.timer_id for thread in before.threads} - {""}
    left = pending - {effect.timer_id for effect in outcome.effects if isinstance(effect, CancelTimer)}
    return f"timers {left} outlive their run" if left else ""


def _broken_waits(after: RunState, outcome: Outcome) -> str:
    """Every thread waits; what began to wait in this fold has its effect, and every effect its wait."""
    asked: set[str] = set()
    for effect in outcome.effects:
        if isinstance(effect, DispatchTask):
            asked.add(effect.task_id)
        elif isinstance(effect, SetTimer):
            asked.add(effect.timer_id)
    begun: set[str] = set()
    open_branches = Counter(thread.parent for thread in after.threads if thread.parent is not None)
    gathers = {thread.id for thread in after.threads if isinstance(thread.wait, GatherWait)}
    if open_branches.keys() - gathers:
        return "a branch belongs to no gather"
    ids = {thread.id for thread in after.threads}
    if len(ids) < len(after.threads) or max(ids, default=0) >= after.threads_made:
        return "two threads have one id"
    seq = str(after.seq)
    for thread in after.threads:
        wait = thread.wait
        if wait is None:
            return "a thread neither moves nor waits"
        if isinstance(wait, GatherWait):
            running = open_branches[thread.id]
            if running + wait.ended + len(wait.given) != wait.branches or not running:
                return "a gather waits for branches that are not there"
            continue
        if isinstance(wait, EventWait | ConditionWait) and not wait.timer_id:
            continue
        wait_id = wait.task_id if isinstance(wait, TaskWait) else wait.timer_id
        if wait_id.split("-")[2] == seq:
            begun.add(wait_id)
    if not after.threads:
        return "a running run has no threads"
    return "" if begun == asked else f"waits {begun} and effects {asked} do not match"
