"""A run's output events, read from the stream: those so far, or each as it comes until the run has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final

import msgspec

from dressage.brokers.interface import Connection
from dressage.client.feed import RunFeed
from dressage.protocol.commands import RunView
from dressage.protocol.errors import DressageError, NotFound, OutcomeUnknown
from dressage.protocol.events import END_KINDS, KIND, ReceivedEvent, RunFailed, RunFaulted, RunRescued
from dressage.protocol.names import Names

LOOK_S: Final = 5.0
"""After this time without an event of the run its owner is asked whether there should be one."""

CLOCKS_S: Final = 60.0
"""So far may the clocks be apart by which the run's commands and its events were stamped. Where that is not enough, the
stream is read from its beginning, which only takes longer."""

_RESCUED: Final = KIND[RunRescued]
_RESCUABLE: Final = frozenset({KIND[RunFailed], KIND[RunFaulted]})
"""Behind an end of these kinds a run may go on."""

Look = Callable[[], Awaitable[RunView]]
"""How the run stands, by its owner. Raises `NotFound`, or `NoAnswer` for the asker's own reasons."""


class EventsGone(DressageError):
    """Events that were to be read are no longer in the stream, which keeps them for a limited time.

    `after` is the index of the last event before the gap, -1 if it begins with the first one; `next_index` is that of
    the first one behind the gap, None if there is none.
    """

    code = "EVENTS_GONE"

    def __init__(self, run_id: str, after: int, next_index: int | None) -> None:
        gap = f"from {after + 1} on" if next_index is None else f"{after + 1} to {next_index - 1}"
        rest = "" if next_index is None else f" Read on with after={next_index - 1}."
        super().__init__(
            f"output events {gap} of run {run_id!r} are no longer in the stream, which keeps them for a limited time; "
            f"analytics may have them.{rest}"
        )
        self.run_id = run_id
        self.after = after
        self.next_index = next_index


async def follow_events(
    connection: Connection, names: Names, look: Look, after: int, run: RunView | None = None
) -> AsyncGenerator[ReceivedEvent, None]:
    """Yields the run's events behind index `after`, each once and in order, until that which ends the run.

    `run` is what `look` gave before, if the caller has it. Raises what `look` raises, `EventsGone`, `OutcomeUnknown`
    once the connection is closed, and `BrokerError` for a server that goes on refusing to be read from.
    """
    run = run or await look()
    total = None if run.status == "running" else run.events
    reading = _Reading(connection, names, look, run, after, total)
    try:
        while (event := await reading.next()) is not None:
            yield event
    finally:
        await reading.close()


async def read_history(
    connection: Connection, names: Names, look: Look, after: int
) -> AsyncGenerator[ReceivedEvent, None]:
    """Yields the run's events so far behind index `after`, in order, without those that the stream has dropped.

    Raises as `follow_events` does, except `EventsGone`.
    """
    run = await look()
    reading = _Reading(connection, names, look, run, after, run.events, gaps=True)
    try:
        while (event := await reading.next()) is not None:
            yield event
    finally:
        await reading.close()


class _Position(msgspec.Struct):
    """As much of a shard's position as it takes to know whether a run's events are stored."""

    seq: int = 0


class _Reading:
    """What the owner counts, the stream must bring: whatever gets lost between them is looked for, or told."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        look: Look,
        run: RunView,
        after: int,
        total: int | None,
        *,
        gaps: bool = False,
    ) -> None:
        """`total` is how many events the run has, if no more are to be read; `gaps` passes over those that are gone."""
        self._connection = connection
        self._names = names
        self._look = look
        self._run_id = run.run_id
        self._born = run.born
        self._last = after
        self._total = total
        self._gaps = gaps
        self._over = False
        """Whether the last event was an end, and nobody knows whether it is the last one."""

        self._passed: list[ReceivedEvent] = []
        """What came behind it, and is told only if the run goes on."""

        self._ready = deque[ReceivedEvent]()

        # Whoever has all there is so far needs none of what was stored before the run's last command.
        moment = run.updated_at if after + 1 >= run.events else run.started_at
        since = (datetime.fromisoformat(moment) - timedelta(seconds=CLOCKS_S)).isoformat()
        self._feed = RunFeed(connection, names, run, since)

    async def next(self) -> ReceivedEvent | None:
        """None if there are no more."""
        while not self._ready and (self._total is None or self._last + 1 < self._total):
            before = self._feed.reached
            event = await self._feed.next(LOOK_S)
            if event is None:
                await self._look_for_more(moved=self._feed.reached > before)
            else:
                await self._follows(event)
        return self._ready.popleft() if self._ready else None

    async def close(self) -> None:
        await self._feed.close()

    async def _follows(self, event: ReceivedEvent) -> None:
        """Makes it ready if it is to be yielded. Raises `EventsGone`."""
        if int(event.command) < self._born:
            return  # It is of a run that had this id before, and was deleted.
        if event.index <= self._last:
            return  # It was yielded before, or is not wanted.
        if event.index > self._last + 1 and not await self._is_gone(event.index):
            return
        if self._over and event.kind != _RESCUED:
            # Who holds it, and no more: that is told if it was rescued behind that.
            self._last = event.index
            self._passed.append(event)
            if not await self._goes_on(event.index):
                self._total = event.index + 1
            return
        self._last, self._over = event.index, False
        self._ready += [*self._passed, event]
        self._passed.clear()
        if event.kind in END_KINDS and self._total is None:
            self._over = event.kind in _RESCUABLE
            if not self._over or not await self._goes_on(event.index):
                self._total = event.index + 1

    async def _goes_on(self, index: int) -> bool:
        """Whether a run that has ended with the event of this index was rescued since, or more is told of it."""
        try:
            run = await self._look()
        except NotFound:
            return False  # It was deleted since.
        return run.born == self._born and (run.status == "running" or run.events > index + 1)

    async def _look_for_more(self, *, moved: bool) -> None:
        """Nothing of the run came for a while. `moved` says that something else did. Raises `EventsGone`."""
        run = await self._look()
        if self._total is None and run.status != "running":
            self._total = run.events
        if self._last + 1 >= (run.events if self._total is None else self._total):
            return
        try:
            stored = await self._stored_until(run)
            if stored is None:
                return  # The owner has committed them, and is about to publish them.
            more = await self._feed.holds_more(stored)
        except OutcomeUnknown:
            return  # The server is away for a moment.
        if more and not moved:
            await self._feed.again()
        elif not more and await self._is_gone(None):
            self._total = self._last + 1

    async def _stored_until(self, run: RunView) -> int | None:
        """Up to which sequence the stream has all events that the owner counts; None if some are still to come."""
        found = await self._connection.last_message(
            self._names.events_stream, self._names.position(run.shard)
        )
        if found is None:
            return 0  # It is kept for as long as the newest event of its shard, at least.
        try:
            position = msgspec.json.decode(found.data, type=_Position)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None  # Nothing that an engine has written.
        return found.seq if position.seq >= run.seq else None

    async def _is_gone(self, next_index: int | None) -> bool:
        """Whether what is missing before this index is to be passed over. If the stream was read in part only, it is
        read from its beginning first. Raises `EventsGone`."""
        if self._feed.since is not None:
            await self._feed.again(from_start=True)
            return False
        if not self._gaps:
            raise EventsGone(self._run_id, self._last, next_index)
        return True
