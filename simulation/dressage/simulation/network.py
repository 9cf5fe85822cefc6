"""The links between processes and the broker: how long a message takes, and what never arrives."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dressage.brokers.memory import Fate, Network
from dressage.simulation.striking import Strike, strike

_AT_ONCE = Fate()


@dataclass(slots=True)
class Weather:
    """A disturbance of some links while it lasts. `process` and `role` None mean every one.

    `role` is the end of a connection's name, such as "states"; `loss` is the share of messages that vanish, in
    either direction; `delay_s` is added at most; `twice` is the share of deliveries that come a second time.
    """

    process: str | None = None
    role: str | None = None
    loss_out: float = 0.0
    loss_in: float = 0.0
    delay_s: float = 0.0
    twice: float = 0.0
    kinds: frozenset[str] = frozenset()
    strike: Strike = field(default_factory=strike)
    """The fault whose weather it is."""

    def hits(self, connection: Any, kind: str) -> bool:
        return (
            (self.process is None or connection.process.name == self.process)
            and (self.role is None or connection.name.endswith(self.role))
            and (not self.kinds or kind in self.kinds)
        )


@dataclass
class Links(Network):
    """Delays of `delay_s` on the mean, and whatever weather there is."""

    chance: random.Random
    delay_s: float = 0.0005
    weather: list[Weather] = field(default_factory=list[Weather])
    lost: int = 0
    """Messages that vanished, counted."""

    @contextmanager
    def under(self, weather: Weather) -> Iterator[None]:
        self.weather.append(weather)
        try:
            yield
        finally:
            self.weather.remove(weather)

    def outgoing(self, connection: Any, kind: str) -> Fate:
        return self._fate(connection, kind, outwards=True)

    def incoming(self, connection: Any, kind: str) -> Fate:
        return self._fate(connection, kind, outwards=False)

    def _fate(self, connection: Any, kind: str, *, outwards: bool) -> Fate:
        chance = self.chance
        delay = chance.random() * 2 * self.delay_s
        if not self.weather:
            return Fate(delay)
        lost = False
        for weather in self.weather:
            if weather.hits(connection, kind):
                delay += chance.random() * weather.delay_s
                loses = not lost and chance.random() < (weather.loss_out if outwards else weather.loss_in)
                if loses or weather.delay_s:
                    weather.strike.hit()
                lost = lost or loses
        self.lost += lost
        return Fate(delay, lost)

    def duplicate_delivery(self, connection: Any) -> bool:
        for weather in self.weather:
            if weather.hits(connection, "delivery") and self.chance.random() < weather.twice:
                weather.strike.hit()
                return True
        return False

    def survives(self, connection: Any) -> bool:
        """Whether one more of the messages that were on their way when a process died still arrives."""
        return self.chance.random() < 0.6
