"""What must hold of limits, told from outside: by what runs wait for, and by when they were let."""

from __future__ import annotations

from collections.abc import Callable

from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.fold.state import Limiter, RunState, State, TaskWait
from dressage.protocol.commands import GivePermit
from dressage.protocol.names import limiter_token
from dressage.simulation.behaviour import LIMITED_CONCURRENCY, LIMITED_PER_MS, LIMITED_RATE

Attempt = tuple[str, str]
"""The token of a run, and the id of an attempt of it."""


class Permits:
    """Counts for each limiter who is with workers, and who began when."""

    def __init__(self, broken: Callable[[str, str], None]) -> None:
        self._broken = broken
        self._held: dict[str, set[Attempt]] = {}
        self._of_run: dict[str, dict[Attempt, str]] = {}
        self._began_ms: dict[str, list[int]] = {}

    def folded(self, token: str, outcome: Outcome, now_ms: int) -> None:
        """A command was folded, whose time is `now_ms`."""
        if isinstance(outcome.state, Limiter):
            given = [each for each in outcome.effects if _gives(each)]
            began = self._began_ms.setdefault(token, [])
            began += [max([now_ms, *began[-1:]])] * len(given)
            for first, beyond in zip(began, began[LIMITED_RATE:], strict=False):
                if beyond - first < LIMITED_PER_MS:
                    self._broken(
                        "limits-hold", f"{token}: {LIMITED_RATE + 1} began from {first} to {beyond} ms"
                    )
            del began[: -2 * LIMITED_RATE]
        elif isinstance(outcome.state, RunState):
            self._hold(token, held_by(token, outcome.state))

    def _hold(self, token: str, now: dict[Attempt, str]) -> None:
        before = self._of_run.get(token, {})
        if before == now:
            return
        for attempt, limiter in before.items():
            self._held[limiter].discard(attempt)
        for attempt, limiter in now.items():
            held = self._held.setdefault(limiter, set())
            held.add(attempt)
            if len(held) > LIMITED_CONCURRENCY:
                self._broken("limits-hold", f"{limiter}: {sorted(held)} are with workers")
        self._of_run[token] = now


def _gives(effect: object) -> bool:
    return isinstance(effect, SendCommand) and isinstance(effect.command, GivePermit)


def held_by(token: str, state: State) -> dict[Attempt, str]:
    """The attempts of a run that have a permit and are waited for, with their limiters."""
    threads = state.threads if isinstance(state, RunState) and not state.finished else []
    waits = [thread.wait for thread in threads if isinstance(thread.wait, TaskWait)]
    return {
        (token, wait.task_id): limiter_token(wait.task, wait.key) for wait in waits if wait.permit == "held"
    }


def judge_permits(states: dict[str, State], broken: Callable[[str, str], None]) -> None:
    """At the end who has a permit is waited for, and nobody waits for one who could have it."""
    for token, state in states.items():
        if not isinstance(state, Limiter):
            continue
        for name in state.taken:
            attempt, run = name.split(" ")
            if held_by(run, states[run]).get((run, attempt)) != token:
                broken("permits-come-back", f"{token}: attempt {attempt} of {run} still has a permit")
        if state.runs or state.timer_id:
            broken("permits-come-back", f"{token}: {state.runs} still wait, for timer {state.timer_id!r}")
