"""One turn while it is being filled, and what goes out behind it once it is committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from dressage.brokers.interface import Message
from dressage.orchestrator.fold.state import State
from dressage.orchestrator.tracing import Traced
from dressage.orchestrator.turn.routing import MapSince
from dressage.orchestrator.turn.runs import Run
from dressage.protocol.commands import Answer, AttemptStopped

EFFECTS_MAX: Final = 900
"""Messages of one commit; JetStream takes 1,000 in a batch, the cursor among them."""

COMMANDS_MAX: Final = 500
"""Commands of one turn: bounds what a crash makes us fold again, and how long an answer waits."""

BYTES_MAX: Final = 4 * 1024 * 1024


class TimerCancel(msgspec.Struct, frozen=True, gc=False):
    """An effect that is no message of its own: the timer on `subject` goes with whichever message carries that."""

    subject: str


class PlacedEvent(msgspec.Struct, gc=False):
    """An output event with its place: the `number`th of command `seq`, counted from 1.

    `opens` is 1 for the start of a run, -1 for its end.
    """

    seq: int
    number: int
    message: Message
    opens: int = 0


@dataclass(slots=True)
class Frozen:
    """A run's state as it stood at the end of its turn; it may be stored once cursor and position cover its `seq`.

    A fold works on a copy, so holding the state is enough: what never gets written need not be encoded.
    """

    run: Run
    state: State


@dataclass(slots=True)
class Cleanup:
    """What the command with sequence `seq` has left to be done, which has deleted a run; `events` says whether its
    output events go, too."""

    run: Run
    seq: int
    workflow: str
    events: bool


@dataclass(slots=True)
class Turn:
    """Commands folded together. `place` is where the cursor will stand: (command sequence, effects of it).

    `effects` are those that are messages; `cancels` are subjects of timers.
    """

    place: tuple[int, int]
    effects: list[Message] = field(default_factory=list[Message])
    cancels: list[str] = field(default_factory=list[str])
    effect_bytes: int = 0
    has_send: bool = False
    events: list[PlacedEvent] = field(default_factory=list[PlacedEvent])
    changed: dict[str, Run] = field(default_factory=dict[str, Run])
    frozen: list[Frozen] = field(default_factory=list[Frozen])
    stateless: list[int] = field(default_factory=list[int])
    answers: list[tuple[str, Answer | AttemptStopped]] = field(
        default_factory=list[tuple[str, Answer | AttemptStopped]]
    )
    dead: list[Message] = field(default_factory=list[Message])
    cleanups: list[Cleanup] = field(default_factory=list[Cleanup])
    traced: list[Traced] = field(default_factory=list[Traced])
    """Its commands of runs that are in a trace."""

    commands: int = 0
    through: int = 0
    """The last command that is wholly in this turn, or in one before it."""
    maps: tuple[MapSince, ...] = ()
    refused: tuple[int, ...] = ()
    """Starts that were refused because too many runs were open."""
    share: int | None = None
    """How many may be open by the starts behind this turn; None for any number."""

    @property
    def full(self) -> bool:
        return (
            self.effect_count >= EFFECTS_MAX
            or self.commands >= COMMANDS_MAX
            or self.effect_bytes >= BYTES_MAX
        )

    @property
    def effect_count(self) -> int:
        return len(self.effects) + len(self.cancels)

    def room_for(self, effects: int) -> bool:
        return self.effect_count + effects <= EFFECTS_MAX and self.effect_bytes < BYTES_MAX

    def add_effect(self, effect: Message | TimerCancel) -> None:
        if isinstance(effect, TimerCancel):
            self.cancels.append(effect.subject)
            return
        self.effects.append(effect)
        self.effect_bytes += len(effect.data)

    def batch(self, cursor: Message) -> list[Message]:
        """The turn as one atomic batch, in the order in which it must take effect.

        Storing a message can remove one timer. Cancels ride on messages that are there anyway as far as these go:
        on effects that are no timers themselves (2.12.1 performs only one of the two). The others ride on copies
        of the cursor behind it, so any number of cancels fits. (The cursor itself carries none: 2.12.1 does not
        look at that beside its rollup; and a rollup may not follow another message of its subject in a batch.) A
        timer that this very turn sets must be cancelled behind its setting, so that one rides on a copy, too.
        """
        carriers = (effect for effect in self.effects if effect.schedule is None)
        set_here = {effect.subject for effect in self.effects if effect.schedule is not None}
        copies: list[Message] = []
        for subject in self.cancels:
            carrier = None if subject in set_here else next(carriers, None)
            if carrier is None:
                carrier = Message(cursor.subject, cursor.data)
                copies.append(carrier)
            carrier.cancels = subject
        return [*self.effects, cursor, *copies]

    def freeze(self) -> None:
        """Holds every changed run's state as it stands now: what memory holds later is ahead of this turn."""
        for run in self.changed.values():
            if run.state is not None:
                self.frozen.append(Frozen(run, run.state))
