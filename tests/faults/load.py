"""The client under whose load everything else dies: it starts runs whose results are known beforehand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from tests.faults.outside import TERMINAL  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import Connection
from dressage.client import Client
from dressage.protocol.commands import StartRun
from dressage.protocol.errors import DressageError
from dressage.protocol.spec import RegisteredWorkflow

POLL_S: Final = 0.02
LOADED_S: Final = 60.0


@dataclass(frozen=True)
class Moment:
    """What stood open when a fault hit. `at_s` is in seconds since 1970, as the times of stored messages are."""

    ended: int
    open_runs: int
    unacknowledged: int
    at_s: float

    def __str__(self) -> str:
        return f"{self.open_runs} runs open, {self.unacknowledged} commands unacknowledged"


@dataclass(frozen=True)
class Demand:
    """`open_wanted` runs are kept open at a time, and at most `per_s` started in a second (0: no bound)."""

    open_wanted: int
    per_s: float = 0.0
    poll_s: float = POLL_S


class Load:
    """Starts runs, whatever dies meanwhile. Half of the starts await acceptance, half only that they are stored."""

    def __init__(
        self,
        client: Client,
        shards: int,
        workflow: RegisteredWorkflow,
        demand: Demand,
        observer: Connection | None = None,
        ended: Callable[[], int] | None = None,
    ) -> None:
        """`observer` asks how much is open, if the client's own connection is to be hit too.

        `ended` knows how many runs have ended, where somebody counts along.
        """
        self._client = client
        self._observer = observer
        self._told = ended
        self.names = client.names
        self._shards = shards
        self._workflow = workflow.spec.name
        self._version = workflow.version
        self.demand = demand
        self._prefix = "run"
        self._before = 0
        self._task: asyncio.Task[None] | None = None
        self._starting: set[asyncio.Task[None]] = set()
        self.sent = 0
        self.started: dict[str, int] = {}
        """The runs whose start was acknowledged or accepted, and their input."""
        self.ended = 0

    async def begin(self, prefix: str = "run") -> None:
        """Begins to start runs, with ids that begin with `prefix`; forgets those of an earlier time."""
        self._prefix = prefix
        self._before = await self._patient_count()
        self.sent = self.ended = 0
        self.started = {}
        self._task = asyncio.create_task(self._run())

    async def end(self, patience_s: float = 60.0) -> dict[str, int]:
        """Starts no more; returns those that were acknowledged, once every start has its answer.

        Raises `TimeoutError` when one has none.
        """
        await self.abandon()
        async with asyncio.timeout(patience_s):
            await asyncio.gather(*self._starting)
        return self.started

    async def abandon(self) -> None:
        """Starts no more, and does not wait for answers."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def cut_off(self) -> None:
        """Forgets the starts that have no answer yet, as a client that dies does."""
        await self.abandon()
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)

    @property
    def unsure(self) -> set[str]:
        """Runs whose start was sent and has no answer."""
        return {self._name(n) for n in range(self.sent)} - self.started.keys()

    def _name(self, n: int) -> str:
        return f"{self._prefix}-{n}"

    async def _run(self) -> None:
        began = time.monotonic()
        while True:
            with contextlib.suppress(DressageError):
                self.ended = await self.count_ended() - self._before
            missing = self.demand.open_wanted - (self.sent - self.ended)
            if self.demand.per_s:
                missing = min(missing, int((time.monotonic() - began) * self.demand.per_s) - self.sent)
            for _ in range(missing):
                self._start(self.sent)
                self.sent += 1
            await asyncio.sleep(self.demand.poll_s)

    def _start(self, n: int) -> None:
        task = asyncio.create_task(self._ask(n) if n % 2 else self._send(n))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _send(self, n: int) -> None:
        command = StartRun(
            self._workflow, self._version, msgspec.Raw(b'{"n":%d}' % n), f"start-{self._name(n)}"
        )
        while True:
            with contextlib.suppress(DressageError):
                await self._client.send(self._name(n), command)
                self.started[self._name(n)] = n
                return
            await asyncio.sleep(POLL_S)

    async def _ask(self, n: int) -> None:
        while True:
            with contextlib.suppress(DressageError):
                await self._client.start(
                    self._workflow, {"n": n}, run_id=self._name(n), version=self._version
                )
                self.started[self._name(n)] = n
                return
            await asyncio.sleep(POLL_S)

    # -- how much is open --------------------------------------------------------------------------
    async def count_ended(self) -> int:
        """Runs that have ended since the stream began."""
        if self._told is not None:
            return self._told()
        events, root = self.names.events_stream, self.names.root
        return sum([await self._count(events, f"{root}.events.*.*.{kind}.*") for kind in TERMINAL])

    async def _patient_count(self) -> int:
        while True:
            with contextlib.suppress(DressageError):
                return await self.count_ended()
            await asyncio.sleep(POLL_S)

    async def _count(self, stream: str, subjects: str) -> int:
        connection = self._observer or self._client.connection
        state = await connection.stream_state(stream, subjects=subjects)
        return sum(state.subjects.values()) if state else 0

    async def moment(self) -> Moment:
        """How much is open now. Raises `DressageError` when the server does not answer."""
        ended = await self.count_ended() - self._before
        commands = [
            await self._count(self.names.shard_stream(shard), self.names.commands(shard))
            for shard in range(self._shards)
        ]
        return Moment(ended, self.sent - ended, sum(commands), time.time())

    async def loaded(self, open_min: int, ended_min: int = 0) -> Moment:
        """Waits until so many runs are open, and have ended since `begin`; to be called right before a fault."""
        async with asyncio.timeout(LOADED_S):
            while True:
                with contextlib.suppress(DressageError):
                    moment = await self.moment()
                    if (
                        moment.ended >= ended_min
                        and moment.open_runs >= open_min
                        and moment.unacknowledged > 0
                    ):
                        return moment
                await asyncio.sleep(POLL_S)


def hits(moments: Sequence[Moment], open_min: int) -> None:
    """Requires that every fault hit a system under load. Raises `AssertionError`."""
    assert moments
    assert min(moment.open_runs for moment in moments) >= open_min
    assert min(moment.unacknowledged for moment in moments) > 0
