"""What must hold after every fold. Stays on in production: a broken rule stops one run, loudly, not a shard."""

from __future__ import annotations

from dressage.orchestrator.fold.effects import DispatchTask, SetTimer
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.fold.state import RunState, SleepWait, TaskWait
from dressage.protocol.errors import InvariantBroken


def check(before: RunState | None, outcome: Outcome) -> None:
    """Raises `InvariantBroken`."""
    after = outcome.state
    if after is None or after is before:
        _hold(not outcome.effects and not outcome.events, "nothing changed, yet something happened")
        return
    counted = before.events if before is not None else 0
    _hold(outcome.first_event == counted, "the first event does not follow the last one")
    _hold(after.events == counted + len(outcome.events), "events were not counted")
    if before is not None:
        _hold(after.seq > before.seq, "a command was folded twice")
        _hold(after.time_ms >= before.time_ms, "the run's time ran backwards")
        _hold(not before.finished, "a finished run changed")
    if after.finished:
        _hold(not after.threads and after.ended_ms > 0, "a finished run has threads, or no end")
        _hold(bool(after.output) == (after.status == "completed"), "only a completed run has an output")
    else:
        _hold(bool(after.threads), "a running run has no threads")
        _hold(all(thread.wait is not None for thread in after.threads), "a thread neither moves nor waits")
    _waits_are_served(after, outcome)


def _waits_are_served(after: RunState, outcome: Outcome) -> None:
    """Every wait that began in this fold has its effect, and every effect its wait."""
    asked = {effect.task_id for effect in outcome.effects if isinstance(effect, DispatchTask)}
    asked |= {effect.timer_id for effect in outcome.effects if isinstance(effect, SetTimer)}
    begun: set[str] = set()
    for thread in after.threads:
        match thread.wait:
            case TaskWait(task_id=wait_id) | SleepWait(timer_id=wait_id):
                if wait_id.split("-")[2] == str(after.seq):
                    begun.add(wait_id)
            case None:
                pass
    _hold(begun <= asked, f"waits without an effect: {begun - asked}")
    _hold(asked <= begun or after.finished, f"effects that nobody waits for: {asked - begun}")


def _hold(condition: bool, rule: str) -> None:
    if not condition:
        raise InvariantBroken(rule)
