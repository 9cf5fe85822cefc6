"""TCP links that can be cut, frozen, delayed and throttled. They need no privileges, as network namespaces would."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeVar

T = TypeVar("T")

CHUNK_BYTES: Final = 64 * 1024
HELD_BYTES_MAX: Final = 4 * 1024 * 1024
"""What one direction holds before the sender's own window fills."""

CONTROL_S: Final = 10.0


@dataclass(frozen=True)
class Behaviour:
    """`delay_s` is added to each direction; `bytes_per_s` bounds each direction, 0 for no bound."""

    delay_s: float = 0.0
    bytes_per_s: float = 0.0
    frozen: bool = False
    refusing: bool = False


Spoilt = Literal["cut", "frozen", "slow"]
BEHAVIOURS: Final[dict[Spoilt, Behaviour]] = {
    "cut": Behaviour(refusing=True),
    "frozen": Behaviour(frozen=True),
    "slow": Behaviour(delay_s=0.03, bytes_per_s=1_000_000.0),
}


class Links:
    """Links in a thread of their own, so that whatever else this process does holds nothing up."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._links: list[Link] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CONTROL_S)
        self._loop.close()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs something in the links' own loop, and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CONTROL_S)

    def link(self, name: str, port: int) -> Link:
        """A new link to a port of this machine."""
        made = Link(self, name, port)
        self._links.append(made)
        self.call(made.open())
        return made

    async def _close(self) -> None:
        for link in self._links:
            await link.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Link:
    """Listens on a port of its own, and passes on what comes in either direction."""

    def __init__(self, links: Links, name: str, target: int) -> None:
        self.name = name
        self.port = 0
        self._links = links
        self._target = target
        self._behaviour = Behaviour()
        self._changed = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self.passed_bytes = 0

    # -- from any thread ---------------------------------------------------------------------------
    def spoil(self, how: Spoilt) -> None:
        """Cut resets every connection, and refuses new ones. Slow delays and throttles each direction.

        Frozen passes nothing on and tells nobody, as a network that is lost; what was sent arrives when it heals.
        """
        self._links.call(self._become(BEHAVIOURS[how]))

    def heal(self) -> None:
        self._links.call(self._become(Behaviour()))

    @property
    def connections(self) -> int:
        return len(self._open) // 2

    # -- in the links' loop ------------------------------------------------------------------------
    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self._reset()

    async def _become(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._changed.set()
        self._changed = asyncio.Event()
        if behaviour.refusing:
            self._reset()

    def _reset(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._behaviour.refusing:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._carry(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, onward_writer}
        self._open |= both
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_Direction(self, reader, onward_writer).run())
                group.create_task(_Direction(self, onward_reader, writer).run())
        except* (OSError, _Ended):
            pass
        finally:
            self._open -= both
            for each in both:
                each.transport.abort()

    async def passage(self, size: int) -> None:
        """Waits until so many bytes may go on."""
        while self._behaviour.frozen:
            await self._changed.wait()
        if self._behaviour.bytes_per_s:
            await asyncio.sleep(size / self._behaviour.bytes_per_s)
        self.passed_bytes += size

    @property
    def delay_s(self) -> float:
        return self._behaviour.delay_s


class _Ended(Exception):
    """One side has closed."""


class _Direction:
    """Reads at one end while it waits at the other, so that a delay costs no throughput."""

    def __init__(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._link = link
        self._reader = reader
        self._writer = writer
        self._held: deque[tuple[float, bytes]] = deque()
        self._held_bytes = 0
        self._moved = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._give())

    async def _take(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while self._held_bytes > HELD_BYTES_MAX:
                await self._next_move()
            data = await self._reader.read(CHUNK_BYTES)
            self._held.append((loop.time() + self._link.delay_s, data))
            self._held_bytes += len(data)
            self._moved.set()
            if not data:
                return

    async def _give(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._held:
                await self._next_move()
            due, data = self._held.popleft()
            self._held_bytes -= len(data)
            self._moved.set()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._link.passage(len(data))
            if not data:
                raise _Ended
            if self._writer.transport.is_closing():
                raise _Ended
            self._writer.write(data)
            with contextlib.suppress(ConnectionError):
                await self._writer.drain()

    async def _next_move(self) -> None:
        self._moved.clear()
        await self._moved.wait()
