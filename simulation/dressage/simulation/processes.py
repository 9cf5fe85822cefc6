"""Processes that can crash, pause and come back: each incarnation with a lane and a broker of its own."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from dressage.brokers.memory import MemoryBroker, MemoryServer
from dressage.brokers.memory.connection import MemoryConnection
from dressage.protocol.errors import DressageError
from dressage.simulation.loop import Lane, SimLoop
from dressage.simulation.network import Links
from dressage.simulation.striking import strike

RESTART_S: Final = 1.0
"""After so long whatever supervises a process starts it again when it has ended by itself."""


class Life:
    """One incarnation of a process: what it writes is marked with it, so that nothing of a dead one passes."""

    def __init__(self, process: Process, number: int, server: MemoryServer, links: Links) -> None:
        self.process = process
        self.name = process.name
        self.number = number
        self.lane = Lane(f"{process.name}.{number}")
        self.lane.skew_s = process.skew_s
        self.lane.calendar_s = process.calendar_s
        self.broker = TenureBroker(server, links, self)
        self.ended = False

    def __repr__(self) -> str:
        return self.lane.name


class Tenure(NamedTuple):
    """Who wrote: the four connections of an owner, from one take-over to the next, share one of these."""

    process: str
    life: int
    shard: str
    number: int

    def __str__(self) -> str:
        return f"{self.process}.{self.life} (shard {self.shard}, tenure {self.number})"


class TenureBroker(MemoryBroker):
    """Knows of each connection which tenure it belongs to, which nothing on the wire tells."""

    def __init__(self, server: MemoryServer, links: Links, life: Life) -> None:
        super().__init__(server, links, life)
        self._life = life
        self._counts: dict[str, int] = {}
        self.tenures: dict[int, Tenure] = {}

    async def connect(self, name: str, *, reconnect: bool = False) -> MemoryConnection:
        connection = await super().connect(name, reconnect=reconnect)
        shard, _, role = name.removeprefix("dressage-shard-").partition("-")
        if role == "intake":
            self._counts[shard] = self._counts.get(shard, 0) + 1
        life = self._life
        self.tenures[connection.serial] = Tenure(life.name, life.number, shard, self._counts.get(shard, 0))
        return connection


def tenure_of(writer: object) -> Tenure:
    """The tenure, or for clients and workers the incarnation, that a record's writer belongs to."""
    assert isinstance(writer, MemoryConnection)
    life = writer.process
    assert isinstance(life, Life)
    return life.broker.tenures[writer.serial]


class Process:
    """A named process of the simulated system. `main` is what an incarnation runs."""

    def __init__(
        self,
        name: str,
        kind: str,
        main: Callable[[Life], Coroutine[Any, Any, None]],
        loop: SimLoop,
        server: MemoryServer,
        links: Links,
        trace: Callable[[str], None],
    ) -> None:
        self.name = name
        self.kind = kind
        self.skew_s = 0.0
        self.calendar_s = 0.0
        self._main = main
        self._loop = loop
        self._server = server
        self._links = links
        self._trace = trace
        self._lives = 0
        self.life: Life | None = None
        self.unexpected: list[str] = []

    @property
    def alive(self) -> bool:
        return self.life is not None

    def start(self) -> None:
        if self.life is not None:
            return
        self._lives += 1
        life = self.life = Life(self, self._lives, self._server, self._links)
        life.lane.on_death = lambda: self._died(life)
        self._trace(f"{life} starts")
        task = self._loop.begin(life.lane, self._main(life))
        task.add_done_callback(lambda done: self._ended(life, done), context=self._loop.world.context)

    def crash(self, steps: int = 0) -> None:
        """Dies now, or at the given number of its steps from now; each step is a point between two awaits."""
        life = self.life
        if life is None:
            return
        strike().hit()
        if steps:
            life.lane.dies_in = steps
        else:
            self._died(life)

    def _died(self, life: Life) -> None:
        if self.life is not life:
            return
        self._trace(f"{life} crashes")
        self.life = None
        self._loop.kill(life.lane)
        for connection in list(life.broker.connections):
            connection.kill()

    def _ended(self, life: Life, task: asyncio.Task[None]) -> None:
        """The main task is over: by itself, by an order, or by an error that a supervisor would see."""
        if self.life is not life or task.cancelled():
            return
        error = task.exception()
        self.life = None
        self._loop.kill(life.lane)
        for connection in list(life.broker.connections):
            connection.kill()
        if error is None:
            self._trace(f"{life} ended")
            return
        self._trace(f"{life} ended with {type(error).__name__}: {error}")
        if not isinstance(error, DressageError):
            said = "".join(traceback.format_exception(error)).strip()
            self.unexpected.append(f"{life}: {said}")
        self._loop.call_later(RESTART_S, self.start, context=self._loop.world.context)

    def pause(self) -> None:
        if self.life is not None and not self.life.lane.paused:
            strike().hit()
            self._trace(f"{self.life} is paused")
            self._loop.pause(self.life.lane)

    def resume(self) -> None:
        if self.life is not None and self.life.lane.paused:
            self._trace(f"{self.life} wakes up")
            self._loop.resume(self.life.lane)

    def cut(self, chance: random.Random) -> None:
        """Breaks one of its connections, or all of them."""
        if self.life is None:
            return
        connections = list(self.life.broker.connections)
        if not connections:
            return
        strike().hit()
        chosen = connections if chance.random() < 0.3 else [chance.choice(connections)]
        self._trace(f"{self.life} loses {', '.join(each.name for each in chosen)}")
        for connection in chosen:
            connection.cut()
