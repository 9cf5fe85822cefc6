"""Which definition each event of a trigger gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from dressage.connectors.config import BatchConfig, TriggerConfig
from dressage.connectors.definitions import Entry
from dressage.connectors.engine import Engine
from dressage.connectors.mapping import EventMapping

LOOK_S: Final = 0.05


@dataclass(slots=True, frozen=True)
class Rule:
    """What becomes of events from `first_seq` on, in a stream that was `created` then, until the next rule."""

    mapping: EventMapping
    engine: Engine
    batch: BatchConfig | None = None
    number: int = 1
    first_seq: int = 0
    created: str = ""


class Lease:
    """Until when a process may act by the definitions that it has read, in seconds of its loop."""

    def __init__(self, until: float = 0.0) -> None:
        self.until = until

    @property
    def holds(self) -> bool:
        return asyncio.get_running_loop().time() < self.until


class Rules:
    """The rules of one trigger. They may change under way; while a change is asked for nobody is given any."""

    def __init__(self, make: Callable[[TriggerConfig], Rule], lease: Lease) -> None:
        self._make = make
        self._lease = lease
        self._rules: Sequence[Rule] = ()
        self._asked = False

    def always(self, config: TriggerConfig) -> None:
        """One rule for all events."""
        self._rules = [self._make(config)]

    def set(self, entry: Entry) -> None:
        """Raises `ConfigInvalid` for what a newer release has stored; then nobody is given a rule."""
        self._asked = True
        known = {rule.number: rule for rule in self._rules}
        self._rules = [
            replace(
                known.get(each.number) or self._make(each.config),
                number=each.number,
                first_seq=each.first_seq,
                created=each.created,
            )
            for each in entry.versions
        ]
        self._asked = entry.asked is not None

    async def of(self, created: str, seq: int) -> Rule:
        """The rule of an event, by its sequence in a stream that was made then. Waits until that is certain.

        Who is given one here has it while the lease holds: so the event was stored before any change that is not known
        here, and a later change is none of its.
        """
        while (rule := self.now(created, seq)) is None:
            await asyncio.sleep(LOOK_S)
        return rule

    def now(self, created: str, seq: int) -> Rule | None:
        """The same without waiting; None while it is not certain."""
        if self._asked or not self._lease.holds:
            return None
        return next(
            rule for rule in reversed(self._rules) if rule.created != created or rule.first_seq <= seq
        )
