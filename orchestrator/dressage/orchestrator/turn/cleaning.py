"""What a deletion leaves to be done outside of the run's own state: output events and objects go, and in the end what
was kept to know of it.

A command that has deleted a run is covered, and so removed from its shard's stream, only when all of that is done. So
whoever takes the shard over finds it again, and does it again: each part of it may be done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, ConsumerConfig, Delivery
from dressage.brokers.objects import delete_objects_of, has_objects
from dressage.orchestrator.fold.state import Gone
from dressage.orchestrator.turn.behind import Gate
from dressage.orchestrator.turn.descendants import Descendants
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.lingering import Lingering
from dressage.orchestrator.turn.removing import Floor
from dressage.orchestrator.turn.turn import Cleanup, Frozen, Turn
from dressage.protocol.errors import BrokerError, DressageError
from dressage.protocol.events import KIND, RUN_HEADER, RunDeleted, decode_event
from dressage.protocol.names import Names, root_of, root_token, run_id_of

_log = logging.getLogger("dressage.orchestrator")

AGAIN_S: Final = 1.0
"""After a failure it is tried again so often, for as long as the tenure lasts."""

WAIT_S: Final = 0.05

FORGETTING_S: Final = 0.2
WINDOW: Final = 500
SILENCE_S: Final = 5.0
DELETES_AT_A_TIME: Final = 8
"""Each is a write of its own, and what others write must not wait for long behind them."""


class Cleaner:
    """Works for one tenure: on one deletion at a time, so that it never takes more than a part of what the broker
    can do."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        shard: int,
        floor: Floor,
        forget: Callable[[Frozen], None],
    ) -> None:
        """`forget` lets the states' bucket have nothing more of a run."""
        self._connection = connection
        self._names = names
        self._shard = shard
        self._floor = floor
        self._forget = forget
        self._cleanups: deque[Cleanup] = deque()
        self._forgotten: deque[Frozen] = deque()
        self._cleaning, self._forgetting = Gate(), Gate()
        self.lingering = Lingering()

    def add(self, turn: Turn) -> None:
        """Takes a turn whose events are stored."""
        self._cleanups.extend(turn.cleanups)
        if turn.cleanups:
            self._cleaning.open()
        forgotten = [each for each in turn.frozen if isinstance(each.state, Gone) and each.state.forgotten]
        self._forgotten.extend(forgotten)
        if forgotten:
            self._forgetting.open()

    @property
    def waiting(self) -> int:
        """Deletions that leave something to do."""
        return len(self._cleanups)

    @property
    def idle(self) -> bool:
        """What is to be forgotten is no reason to wait: the next owner does it as well."""
        return not self._cleanups

    def forget(self) -> None:
        """Drops what was not done."""
        self._cleanups.clear()
        self._forgotten.clear()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._clean())
            group.create_task(self._forget_all())

    # -- what a run has left -----------------------------------------------------------------------
    async def _clean(self) -> None:
        while True:
            await self._cleaning.wait()
            while self._cleanups:
                cleanup = self._cleanups[0]
                # Who looks for what is left of a family of runs finds in the bucket that this one is deleted.
                while cleanup.run.covered < cleanup.seq:
                    await asyncio.sleep(WAIT_S)
                await self._patiently(cleanup)
                self._floor.covered(cleanup.seq)
                self._cleanups.popleft()

    async def _patiently(self, cleanup: Cleanup) -> None:
        told = False
        while True:
            try:
                if cleanup.events:
                    await self._delete_events(cleanup)
                await self._delete_objects(cleanup)
                return
            except DressageError as error:
                if self._connection.lost.is_set():
                    raise Doubt(f"deleting what a run has left: {error.message}") from error
                if not told:
                    _log.warning("shard %d: deleting run %s: %s", self._shard, cleanup.run.token, error)
                told = True
            await asyncio.sleep(AGAIN_S)

    async def _delete_objects(self, cleanup: Cleanup) -> None:
        """Removes what the run, and the child runs that have their ids from it, have in the object store.

        They stay if another run of the same id has begun meanwhile, and go with that one: the same bytes are stored
        once. They stay for good where child runs live on that may use them, and for as long as one is held or still
        tidies up: its own deletion, which comes later, removes them."""
        run_id, state = run_id_of(cleanup.run.token), cleanup.run.state
        if not isinstance(state, Gone) or state.deletions[-1].seq != cleanup.seq:
            return
        is_root = root_of(run_id) == run_id
        if not is_root and not state.late:
            return  # Its root's deletion has told it to go, and looks whether it has.
        root, root_id = root_token(run_id), root_of(run_id)
        if not await has_objects(self._connection, self._names, root):
            return
        family = Descendants(self._connection, self._names, self._shard, root_id)
        if await family.are_gone(state if is_root else await family.state_of(root_id)):
            await delete_objects_of(self._connection, self._names, root)

    async def _delete_events(self, cleanup: Cleanup) -> None:
        """Removes the run's output events from the stream, but for that of its deletion."""
        found = await self._events_of(cleanup)
        for place in range(0, len(found), DELETES_AT_A_TIME):
            some = found[place : place + DELETES_AT_A_TIME]
            await asyncio.gather(
                *(self._connection.delete_message(self._names.events_stream, seq) for seq in some)
            )

    async def _events_of(self, cleanup: Cleanup) -> list[int]:
        """Raises `BrokerError` where not all could be looked at."""
        stream, token = self._names.events_stream, cleanup.run.token
        subjects = self._names.events_of_run(self._shard, run_id_of(token), cleanup.workflow)
        last = await self._connection.last_message(stream, subjects)
        if last is None:
            return []
        consumer = f"delete_{uuid.uuid4().hex}"
        config = ConsumerConfig(
            consumer, [subjects], durable=False, explicit_ack=False, memory=True, inactive_s=30.0
        )
        await self._connection.create_consumer(stream, config)
        try:
            return await self._read(stream, consumer, last.seq, token, cleanup.seq)
        finally:
            with contextlib.suppress(DressageError):
                await self._connection.delete_consumer(stream, consumer)

    async def _read(self, stream: str, consumer: str, last: int, token: str, deletion: int) -> list[int]:
        arrived: asyncio.Queue[Delivery | str] = asyncio.Queue()
        pull = await self._connection.pull(stream, consumer, WINDOW, arrived.put_nowait, arrived.put_nowait)
        found: list[int] = []
        expected = 1
        try:
            while True:
                async with asyncio.timeout(SILENCE_S):
                    delivery = await arrived.get()
                if isinstance(delivery, str) or delivery.consumer_seq != expected:
                    raise BrokerError("reading its output events: a delivery was lost")
                expected += 1
                if _is_of(delivery, token, deletion):
                    found.append(delivery.stream_seq)
                await pull.taken()
                if delivery.stream_seq >= last:
                    return found
        except TimeoutError as silence:
            raise BrokerError("reading its output events: nothing came for too long") from silence
        finally:
            await pull.close()

    # -- what is known of a deletion ---------------------------------------------------------------
    async def _forget_all(self) -> None:
        """Only when no command of the run from before is in the stream does nobody need to know of the deletion: by
        one that is folded again there would be another run."""
        while True:
            await self._forgetting.wait()
            while self._forgotten:
                frozen = self._forgotten[0]
                if await self._is_first(frozen):
                    self._forget(self._forgotten.popleft())
                else:
                    await self.lingering.wait(FORGETTING_S)

    async def _is_first(self, frozen: Frozen) -> bool:
        subject = self._names.command(self._shard, frozen.run.token)
        try:
            found = await self._connection.next_message(self._names.shard_stream(self._shard), 1, subject)
        except DressageError as error:
            if self._connection.lost.is_set():
                raise Doubt(f"forgetting a deleted run: {error.message}") from error
            return False
        return found is None or found.seq >= frozen.state.seq


def _is_of(delivery: Delivery, token: str, deletion: int) -> bool:
    """Whether this is an event of the deleted run: another one of the same id has later commands."""
    if not delivery.headers or delivery.headers.get(RUN_HEADER) != token:
        return False
    try:
        event = decode_event(delivery.data)
        return event.kind != KIND[RunDeleted] and int(event.command) <= deletion
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False  # Nothing that an engine has written.
