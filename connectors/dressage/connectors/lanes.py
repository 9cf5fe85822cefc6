"""What the one active process of something has under way: the items of a stream, those of each key in their order.

An item that is not done holds up its own key, and no other, up to a bound of what is under way. What is stored as the
place lies below the oldest item that is not done.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from dressage.connectors.gate import Faults
from dressage.connectors.place import RENEW_S, Keeping, Lease
from dressage.connectors.progress import Progress
from dressage.protocol.errors import DressageError

AHEAD: Final = 10
"""How many windows it may get ahead of the oldest item that is not done: so many may come again."""

UNDER_WAY_BYTES_MAX: Final = 64 * 1024 * 1024

ROOM_S: Final = 0.2

_T = TypeVar("_T")


@dataclass(slots=True, frozen=True)
class _Item(Generic[_T]):
    seq: int
    size: int
    item: _T


class Lanes(Generic[_T]):
    """A lane for each key that has something under way.

    `work` does one item, and returns when it is done with, however long that takes; what it raises ends all of it.
    """

    def __init__(
        self,
        lease: Lease,
        reached: int,
        created: str,
        work: Callable[[int, _T], Awaitable[None]],
        faults: Faults,
        *,
        in_flight: int,
        store_every_s: float = RENEW_S,
    ) -> None:
        self._lease = lease
        self._created = created
        self._work = work
        self._in_flight = max(1, in_flight)
        self._progress = Progress(reached + 1)
        self._lanes: dict[str, deque[_Item[_T]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = self._bytes = 0
        self._less = asyncio.Event()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeping = Keeping(self._store, faults, store_every_s)

    async def end(self) -> None:
        """Throws away what is not done, and says how far it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failed.done():
            self._failed.exception()
        await self._keeping.end()
        with contextlib.suppress(DressageError):
            await self._store()

    def check(self) -> None:
        """Raises what has ended it: of `work`, or `LeaseLost`."""
        if self._failed.done():
            self._failed.result()
        self._keeping.check()

    # -- how far it is -----------------------------------------------------------------------------
    @property
    def reached(self) -> int:
        """Up to which sequence all is done."""
        return self._progress.watermark - 1

    @property
    def count(self) -> int:
        """How many are under way."""
        return self._count

    @property
    def heads(self) -> Iterable[int]:
        """The oldest of each lane, by its sequence."""
        return (lane[0].seq for lane in self._lanes.values())

    async def _store(self) -> None:
        await self._lease.store(self._created, self.reached)

    # -- taking items ------------------------------------------------------------------------------
    async def has_room(self, count: int) -> bool:
        """Waits a moment for it."""
        if self._full(count):
            await self._wait(ROOM_S)
        return not self._full(count)

    def _full(self, count: int) -> bool:
        return (
            self._count + count > self._in_flight
            or self._bytes >= UNDER_WAY_BYTES_MAX
            or self._progress.span >= AHEAD * self._in_flight
        )

    def pass_over(self, seq: int) -> None:
        """There is nothing to do."""
        self._progress.take(seq)
        self._progress.done(seq)

    def take(self, seq: int, key: str, size: int, item: _T) -> None:
        """They are taken in the order of the stream; `size` is in bytes."""
        self._progress.take(seq)
        self._count += 1
        self._bytes += size
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append(_Item(seq, size, item))
            return
        self._lanes[key] = deque([_Item(seq, size, item)])
        task = asyncio.create_task(self._work_off(key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work_off(self, key: str) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                await self._work(lane[0].seq, lane[0].item)
                done = lane.popleft()
                self._progress.done(done.seq)
                self._count -= 1
                self._bytes -= done.size
                self._less.set()
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)
            self._less.set()
        finally:
            del self._lanes[key]

    # -- waiting for what is under way -------------------------------------------------------------
    async def until(self, fact: Callable[[], bool], timeout_s: float) -> None:
        """Returns when `fact` holds, which is asked whenever something is done, or after so long. Raises as `check`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not fact() and loop.time() < deadline:
            self.check()
            await self._wait(min(ROOM_S, deadline - loop.time()))
        self.check()

    async def _wait(self, timeout_s: float) -> None:
        """Until something is done, or for so long."""
        self._less.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._less.wait()
