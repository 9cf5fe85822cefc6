"""What one fold gives back, and the one error by which a fold says that a command cannot be taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from dressage.orchestrator.fold.effects import Effect
from dressage.orchestrator.fold.state import RunState, RunThread, State, TaskWait
from dressage.protocol.commands import REASON_BYTES_MAX, RefusalCode
from dressage.protocol.events import EventData

ThreadChange = tuple[RunThread | None, RunThread | None]
"""A run thread as it was before a fold, and as it is behind it; None: there was, or is, no such thread."""


class Outcome(msgspec.Struct):
    """The new state (None: there is none), what to perform, and what happened.

    A refusal leaves the state as it was; `first_event` is the index of the first of `events` in its run;
    `actor` is who caused them. `threads` are the run threads that changed, by their ids; None: any of them may have.
    """

    state: State | None
    effects: list[Effect] = msgspec.field(default_factory=list[Effect])
    events: list[EventData] = msgspec.field(default_factory=list[EventData])
    first_event: int = 0
    code: RefusalCode | None = None
    message: str = ""
    existing: bool = False
    early: bool = False
    actor: str = ""
    threads: Mapping[int, ThreadChange] | None = None

    @property
    def run(self) -> RunState | None:
        """The new state, if it is that of a run."""
        return self.state if isinstance(self.state, RunState) else None


def stopped(before: RunState, outcome: Outcome, task_id: str) -> Iterator[TaskWait]:
    """The attempts that a run does not wait for any more, but for that with `task_id`, which has ended."""
    after = outcome.state
    if not isinstance(after, RunState) or after is before:
        return
    if after.finished or outcome.threads is None:
        left = {thread.step_id for thread in after.threads}
        dropped = [thread.wait for thread in before.threads if thread.step_id not in left]
    else:
        changes = outcome.threads.values()
        dropped = [was.wait for was, now in changes if was and (now is None or now.step_id != was.step_id)]
    for wait in dropped:
        if isinstance(wait, TaskWait) and wait.task_id != task_id:
            yield wait


class Stamp(msgspec.Struct, frozen=True, gc=False):
    """Where and when the broker stored the command: its stream sequence and the leader's clock."""

    seq: int
    time_ms: int


class RefuseCommand(Exception):
    """Raised inside a fold; nothing of the fold has an effect."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.message = message


def check_reason(reason: str) -> None:
    """What somebody does something for. Raises `RefuseCommand` for one that is too long."""
    size = len(reason.encode())
    if size > REASON_BYTES_MAX:
        raise RefuseCommand(
            "REASON_TOO_LONG",
            f"the reason takes {size} bytes of {REASON_BYTES_MAX} allowed: shorten it (limit reason-size)",
        )
