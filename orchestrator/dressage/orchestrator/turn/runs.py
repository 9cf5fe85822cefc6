"""The runs in memory: loaded from the states' bucket on demand, evicted only when the bucket has them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec

from dressage.brokers.interface import Connection, StoredMessage
from dressage.orchestrator.fold.state import RunState, decode_state
from dressage.orchestrator.turn.doubt import Doubt
from dressage.protocol.names import Names


@dataclass(slots=True)
class Run:
    """A run in memory.

    `state` is what has been folded, perhaps ahead of the cursor; `committed` is what readers may see; `covered` is
    the sequence of the newest state whose put is acknowledged. `uncovered` are its commands that wait for that.
    """

    token: str
    state: RunState | None = None
    committed: RunState | None = None
    covered: int = 0
    uncovered: list[int] = field(default_factory=list[int])

    @property
    def clean(self) -> bool:
        """Nothing of it is only in memory: it may be evicted."""
        return (
            not self.uncovered
            and self.state is self.committed
            and (self.state is None or self.covered >= self.state.seq)
        )


class Runs:
    """All runs of one tenure, least recently used first."""

    def __init__(self, connection: Connection, names: Names, shard: int, limit: int) -> None:
        self._connection = connection
        self._names = names
        self._shard = shard
        self._limit = limit
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._loading: dict[str, asyncio.Future[StoredMessage | None]] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def peek(self, token: str) -> Run | None:
        return self._runs.get(token)

    def prefetch(self, token: str) -> None:
        """Asks for the state of a run whose command has just arrived, so that folding need not wait for it."""
        if token not in self._runs and token not in self._loading:
            self._loading[token] = self._connection.request_last(
                self._names.runs_stream(), self._names.run_key(self._shard, token)
            )

    async def get(self, token: str) -> Run:
        """The run, loaded if need be. A run that the bucket does not hold has no state."""
        run = self._runs.get(token)
        if run is not None:
            self._runs.move_to_end(token)
            return run
        self.prefetch(token)
        found = await self._loading[token]
        del self._loading[token]
        run = self._runs[token] = Run(token)
        if found is not None and found.data:
            run.state = run.committed = read_state(found)
            run.covered = run.state.seq
        return run

    def evict(self) -> None:
        """Drops clean runs, oldest first, until the limit holds; gives up after a look at as many as it must drop."""
        for _ in range(len(self._runs) - self._limit):
            token, run = next(iter(self._runs.items()))
            if run.clean:
                del self._runs[token]
            else:
                self._runs.move_to_end(token)


def read_state(found: StoredMessage) -> RunState:
    try:
        return decode_state(found.data)
    except msgspec.MsgspecError as error:
        raise Doubt(f"the state at {found.subject} does not decode: {error}") from error
