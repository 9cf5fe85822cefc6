"""The runs in memory: loaded from the states' bucket on demand, evicted only when the bucket has them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from dressage.brokers.interface import Connection, StoredMessage
from dressage.orchestrator.fold.state import Gone, State, decode_state
from dressage.orchestrator.turn.doubt import Doubt
from dressage.protocol.names import Names


@dataclass(slots=True)
class Run:
    """A run in memory, or a correlation key.

    `state` is what has been folded, perhaps ahead of the cursor; `committed` is what readers may see; `covered` is
    the sequence of the newest state whose put is acknowledged. `uncovered` are its commands that wait for that.
    """

    token: str
    state: State | None = None
    committed: State | None = None
    covered: int = 0
    uncovered: list[int] = field(default_factory=list[int])
    ended_at: int | None = None
    """The older place where the run has ended, if it is not this shard: its output events are there."""

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

    def __init__(
        self,
        connection: Connection,
        names: Names,
        shard: int,
        limit: int,
        older_places: Callable[[str], list[int]] = lambda _: [],
    ) -> None:
        """`older_places` tells for a token where else a run may have ended, before the shards grew."""
        self._connection = connection
        self._names = names
        self._shard = shard
        self._limit = limit
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._older_places = older_places
        self._loading: dict[str, list[asyncio.Future[StoredMessage | None]]] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def peek(self, token: str) -> Run | None:
        return self._runs.get(token)

    def clear(self) -> None:
        self._runs.clear()
        self._loading.clear()

    def prefetch(self, token: str) -> None:
        """Asks for the state of a run whose command has just arrived, so that folding need not wait for it."""
        if token not in self._runs and token not in self._loading:
            places = [self._shard, *self._older_places(token)]
            self._loading[token] = [
                self._connection.request_last(self._names.runs_stream(), self._names.run_key(place, token))
                for place in places
            ]

    async def get(self, token: str) -> Run:
        """The run, loaded if need be. A run that the bucket does not hold has no state."""
        run = self._runs.get(token)
        if run is not None:
            self._runs.move_to_end(token)
            return run
        self.prefetch(token)
        found, *elsewhere = await asyncio.gather(*self._loading[token])
        del self._loading[token]
        run = self._runs[token] = Run(token)
        if found is not None and found.data:
            run.state = run.committed = read_state(found)
            run.covered = run.state.seq
            return run
        for message in elsewhere:
            state = None if message is None or not message.data else ended_elsewhere(message)
            if message is not None and state is not None and not isinstance(state, Gone):
                run.ended_at = self._names.shard_of_run_key(message.subject)
                run.state = run.committed = state
                break
        return run

    def forget_absent(self) -> None:
        """The map has changed: what was not found may have to be looked for elsewhere now."""
        for token in [token for token, run in self._runs.items() if run.state is None and run.clean]:
            del self._runs[token]
        self._loading.clear()

    def evict(self) -> None:
        """Drops clean runs, oldest first, until the limit holds; gives up after a look at as many as it must drop."""
        for _ in range(len(self._runs) - self._limit):
            token, run = next(iter(self._runs.items()))
            if run.clean:
                del self._runs[token]
            else:
                self._runs.move_to_end(token)


def ended_elsewhere(found: StoredMessage) -> State:
    """A state of another shard, where nothing changes it any more; the sequence in it is of that shard's stream."""
    return msgspec.structs.replace(read_state(found), seq=0)


def read_state(found: StoredMessage) -> State:
    try:
        return decode_state(found.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Doubt(f"the state at {found.subject} does not decode: {error}") from error
