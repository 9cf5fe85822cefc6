"""What one fold gives back, and the one error by which a fold says that a command cannot be taken."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dressage.orchestrator.fold.effects import Effect
from dressage.orchestrator.fold.state import RunState, RunThread, State
from dressage.protocol.commands import RefusalCode
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
