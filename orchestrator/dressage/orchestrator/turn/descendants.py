"""Whether anybody is left who may use what is stored for a run that was deleted: a child run of it, or of those.

A child run has the shard of its parent, so all of them are here. Those that have been told to go are deleted in an
instant, unless one is held or still tidies up: then it stays, and so does what it may use.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from dressage.brokers.interface import Connection
from dressage.orchestrator.fold.state import Gone, RunState, State, decode_state
from dressage.protocol.errors import BadRunId
from dressage.protocol.names import Names, child_id, root_token, run_id_of, run_token

_log = logging.getLogger("dressage.orchestrator")

WAIT_S: Final = 0.05
LOOKS: Final = 200
"""So often child runs that are told to go are looked at, for ten seconds at least; beyond that what is stored stays,
until somebody sweeps. It is not the time that counts: a process that stood still for long has not looked meanwhile."""


class Descendants:
    """The child runs of the run `root_id`, and theirs."""

    def __init__(self, connection: Connection, names: Names, shard: int, root_id: str) -> None:
        self._connection = connection
        self._names = names
        self._shard = shard
        self._root = root_token(root_id)
        self._looks = LOOKS

    async def state_of(self, run_id: str) -> State | None:
        """As it is stored; None also for what is forgotten."""
        key = self._names.run_key(self._shard, run_token(run_id))
        found = await self._connection.last_message(self._names.runs_stream(), key)
        return None if found is None or not found.data else decode_state(found.data)

    async def are_gone(self, root: State | None) -> bool:
        """Whether the run itself, which stands as `root`, and all of them are deleted. False also if that does not
        come out in time. Raises a `DressageError` when the broker does not answer."""
        unseen = [root]
        while unseen:
            gone = unseen.pop()
            if isinstance(gone, RunState):
                return False
            if not isinstance(gone, Gone) or gone.forgotten or gone.disowned:
                return await self._are_nowhere()
            if gone.abandons:
                return False
            unseen += [await self._settled(child_id(gone.run_id, wait_id)) for wait_id in gone.owned]
        return True

    async def _settled(self, run_id: str) -> State | None:
        """A child run that was told to go, once it has heard of it."""
        while True:
            found = await self.state_of(run_id)
            if isinstance(found, Gone) or (isinstance(found, RunState) and found.doomed is not None):
                return found
            if found is None and not await self._is_on_its_way(run_id):
                return None
            self._looks -= 1
            if self._looks <= 0:
                _log.warning("shard %d: run %s is not deleted: its large values stay", self._shard, run_id)
                return found
            await asyncio.sleep(WAIT_S)

    async def _is_on_its_way(self, run_id: str) -> bool:
        """A command is in the stream until the state that it makes is stored."""
        subject = self._names.command(self._shard, run_token(run_id))
        return (
            await self._connection.next_message(self._names.shard_stream(self._shard), 1, subject) is not None
        )

    async def _are_nowhere(self) -> bool:
        """Looks at everything that is there: rarely, where what is known of deletions is forgotten already."""
        coming = await self._under_root(
            self._names.shard_stream(self._shard), self._names.commands(self._shard)
        )
        there = await self._under_root(self._names.runs_stream(), self._names.run_keys(self._shard))
        for run_id in there:
            found = await self.state_of(run_id)
            if isinstance(found, RunState) or (isinstance(found, Gone) and found.abandons):
                return False
        return not coming - there

    async def _under_root(self, stream: str, subjects: str) -> set[str]:
        """The ids of the runs that have something on these subjects."""
        state = await self._connection.stream_state(stream, subjects)
        tokens = (subject.rpartition(".")[2] for subject in (state.subjects if state is not None else ()))
        return set(self._of_root(tokens))

    def _of_root(self, tokens: Iterable[str]) -> Iterable[str]:
        for token in tokens:
            try:
                run_id = run_id_of(token)
                if root_token(run_id) == self._root:
                    yield run_id
            except BadRunId:
                continue  # A correlation key, a schedule, a limiter.
