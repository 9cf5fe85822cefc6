"""One turn while it is being filled, and what goes out behind it once it is committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from dressage.brokers.interface import Message
from dressage.orchestrator.fold.state import RunState
from dressage.orchestrator.turn.runs import Run
from dressage.protocol.commands import Answer

EFFECTS_MAX: Final = 900
"""Messages of one commit; JetStream takes 1,000 in a batch, the cursor among them."""

COMMANDS_MAX: Final = 500
"""Commands of one turn: bounds what a crash makes us fold again, and how long an answer waits."""

BYTES_MAX: Final = 4 * 1024 * 1024


class PlacedEvent(msgspec.Struct, gc=False):
    """An output event with its place: the `number`th of command `seq`, counted from 1."""

    seq: int
    number: int
    message: Message


@dataclass(slots=True)
class Frozen:
    """A run's state as it stood at the end of its turn; it may be stored once cursor and position cover its `seq`.

    A fold works on a copy, so holding the state is enough: what never gets written need not be encoded.
    """

    run: Run
    state: RunState


@dataclass(slots=True)
class Turn:
    """Commands folded together. `place` is where the cursor will stand: (command sequence, effects of it)."""

    place: tuple[int, int]
    effects: list[Message] = field(default_factory=list[Message])
    effect_bytes: int = 0
    has_send: bool = False
    events: list[PlacedEvent] = field(default_factory=list[PlacedEvent])
    changed: dict[str, Run] = field(default_factory=dict[str, Run])
    frozen: list[Frozen] = field(default_factory=list[Frozen])
    stateless: list[int] = field(default_factory=list[int])
    answers: list[tuple[str, Answer]] = field(default_factory=list[tuple[str, Answer]])
    dead: list[Message] = field(default_factory=list[Message])
    commands: int = 0

    @property
    def full(self) -> bool:
        return (
            len(self.effects) >= EFFECTS_MAX
            or self.commands >= COMMANDS_MAX
            or self.effect_bytes >= BYTES_MAX
        )

    def room_for(self, effects: int) -> bool:
        return len(self.effects) + effects <= EFFECTS_MAX

    def add_effect(self, message: Message) -> None:
        self.effects.append(message)
        self.effect_bytes += len(message.data)

    def freeze(self) -> None:
        """Holds every changed run's state as it stands now: what memory holds later is ahead of this turn."""
        for run in self.changed.values():
            if run.state is not None:
                self.frozen.append(Frozen(run, run.state))
