"""One attempt while a worker has it: its handler under a watch for its times, and what the handler tells of itself."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec

from dressage.flow import Handler
from dressage.protocol.commands import FailureInfo, TaskMessage
from dressage.protocol.errors import BadInput, DressageError
from dressage.worker.calls import (
    Ended,
    arguments_of,
    called,
    cancelled_itself,
    ended_by,
    ended_with,
    sayable,
    took_too_long,
    was_silent,
)
from dressage.worker.context import enter_task

_log = logging.getLogger("dressage.worker")

TELL_S: Final = 1.0
"""Progress is told at most so often; of what comes in between only the last is."""

LOG_CHARS_MAX: Final = 8_000
"""Characters of its log that go with an attempt; the engine cuts behind somewhat more."""

GRACE_S: Final = 1.0
"""How long a handler that is cancelled may take to end before the worker tells of it."""


class Attempt:
    """Executes a handler, once. `tell` stores what it says of its progress."""

    def __init__(
        self, message: TaskMessage, tell: Callable[[Attempt, msgspec.Raw, bool], Awaitable[None]]
    ) -> None:
        self.message: Final = message
        self.stopped = False
        """Whether nobody waits for it any more."""

        self.ending = ""
        """Why its handler is to end; empty as long as it is not."""

        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._seen_at = self._loop.time()
        self._told_at = self._seen_at - TELL_S
        self._untold: msgspec.Raw | None = None
        self._telling: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._keeping = 0
        self._log = deque[str]()
        self._log_chars = 0
        self._over = False
        self._cancel: Callable[[], object] | None = None
        self._cancelled = False
        self._left: asyncio.Future[Any] | None = None

    # -- what the handler says, from whichever thread ----------------------------------------------
    def beat(self, progress: msgspec.Raw | None) -> None:
        """A sign of life of the handler."""
        self._seen_at = self._loop.time()
        if progress is None or self._over:
            return
        if self._in_loop():
            self._tell_soon(progress)
        else:
            self._loop.call_soon_threadsafe(self._tell_soon, progress)

    async def keep(self, progress: msgspec.Raw) -> None:
        """Returns when this progress is stored. Raises `BadValue` for what its run has no room for."""
        if not self._in_loop():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self.keep(progress), self._loop))
            return
        if self._over:
            raise asyncio.CancelledError(self.ending or "the attempt has ended")
        told_before, self._untold = self.stopped, progress
        self._keeping += 1
        try:
            await self.flush(sure=True)
        finally:
            self._keeping -= 1
            self._seen_at = self._loop.time()
        if self.stopped and not told_before:
            # It was refused. A cancellation that is on its way to the handler comes here, and not where it tidies up.
            await asyncio.sleep(0)
            raise asyncio.CancelledError(self.ending)

    def keep_from_thread(self, progress: msgspec.Raw) -> None:
        """`keep` for a handler that runs in a thread. Raises `BadInput` where it would wait for itself."""
        if self._in_loop():
            raise BadInput(
                "checkpoint_blocking() in an async handler would block its worker: write `await checkpoint(...)`",
                code="CHECKPOINT_BLOCKS",
            )
        asyncio.run_coroutine_threadsafe(self.keep(progress), self._loop).result()

    def note(self, text: object) -> None:
        """A line of its log, of which the last ones are kept."""
        line = sayable(text)
        self._log.append(line)
        self._log_chars += len(line) + 1
        while self._log_chars > LOG_CHARS_MAX and len(self._log) > 1:
            self._log_chars -= len(self._log.popleft()) + 1

    @property
    def log(self) -> str:
        """The lines that are kept."""
        return "\n".join(self._log)[-LOG_CHARS_MAX:]

    def _in_loop(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _tell_soon(self, progress: msgspec.Raw) -> None:
        self._untold = progress
        if self._telling is None and not self._over:
            self._telling = self._loop.create_task(self._tell_in_time())

    async def _tell_in_time(self) -> None:
        try:
            while self._untold is not None:
                await asyncio.sleep(self._told_at + TELL_S - self._loop.time())
                await self.flush()
        except DressageError as error:
            _log.info("progress of task %s could not be told: %s", self.message.task, error)
        finally:
            self._telling = None

    async def flush(self, *, sure: bool = False) -> None:
        """Tells of the progress that nobody was told of yet, one after the other: what is told last counts. Who has to
        be `sure` waits for the answer."""
        async with self._one_at_a_time:
            progress, self._untold = self._untold, None
            if progress is not None:
                self._told_at = self._loop.time()
                await self._tell(self, progress, sure)

    # -- executing ---------------------------------------------------------------------------------
    def stop(self, why: str) -> None:
        """Nobody waits for it any more: its handler is cancelled, a plain one finds out by what it tells or asks."""
        self.stopped = True
        self._end(why)

    def _end(self, why: str) -> None:
        """Cancels the handler, once: a second time would cut short what it tidies up."""
        self.ending = self.ending or why
        if self._cancel is not None and not self._cancelled:
            self._cancelled = True
            self._cancel()

    async def execute(self, handler: Handler, args: msgspec.Raw, threads: ThreadPoolExecutor) -> Ended | None:
        """How the handler ended that is given `args`; None if it was stopped. Never raises, but for a cancellation of
        the worker's.

        A handler that is not done in time, and does not end when it is cancelled, goes on: `leave` waits for it.
        """
        if self.stopped:
            return None
        arguments = arguments_of(handler, args)
        if isinstance(arguments, Ended):
            return arguments
        enter_task(self.message, self)
        try:
            if handler.is_async and not (self.message.timeout_s or self.message.heartbeat_s):
                value = await self._awaited(handler.function(**arguments))
            else:
                value = await self._watched(self._begun(handler, arguments, threads))
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.stopped:
                return None
            if task is not None and task.cancelling():
                raise
            return Ended(error=cancelled_itself())
        except _Late as late:
            return Ended(error=late.failure)
        except _Exited as exited:
            return ended_by(exited.error)
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            # Also what is no `Exception`, as panics of extensions are: else nobody would hear that it has ended.
            return None if self.stopped else ended_by(error)
        finally:
            self._over, self._cancel = True, None
            if self._telling is not None and not self._one_at_a_time.locked():
                self._telling.cancel()  # It waits for its time. Who reports the end tells what is left.
        return None if self.stopped else ended_with(handler, value)

    async def leave(self) -> None:
        """Returns when nothing of the handler goes on any more."""
        if self._left is not None:
            await asyncio.wait({self._left})
            if not self._left.cancelled():
                self._left.exception()  # It was reported as too late, whatever it came to.

    async def _awaited(self, handling: Awaitable[Any]) -> Any:
        """The value of a handler that may take as long as it wants."""
        task = asyncio.current_task()
        assert task is not None
        self._cancel = task.cancel
        try:
            return await handling
        except asyncio.CancelledError:
            if self.stopped:
                task.uncancel()
            raise

    def _begun(
        self, handler: Handler, arguments: dict[str, Any], threads: ThreadPoolExecutor
    ) -> asyncio.Future[Any]:
        """The handler, on its way. A plain one that has begun cannot be cancelled."""
        if handler.is_async:
            task = self._loop.create_task(_kept_in(handler.function(**arguments)))
            self._cancel = task.cancel
            return task
        context = contextvars.copy_context()
        begun = threads.submit(context.run, called, handler.function, arguments)
        self._cancel = begun.cancel
        return asyncio.wrap_future(begun)

    async def _watched(self, work: asyncio.Future[Any]) -> Any:
        """The value of a handler that has its times. Raises what it raises, or `_Late`."""
        message = self.message
        began = self._seen_at = self._loop.time()
        try:
            while not work.done():
                late = self._late(began)
                if late is not None:
                    return await self._ended_late(work, late)
                due = [message.timeout_s and began + message.timeout_s]
                # While it keeps something it is not silent: look again after as long.
                heard_at = self._loop.time() if self._keeping else self._seen_at
                due.append(message.heartbeat_s and heard_at + message.heartbeat_s)
                left = min(filter(None, due), default=None)
                await asyncio.wait({work}, timeout=None if left is None else left - self._loop.time())
        except asyncio.CancelledError:
            # It is the worker that ends, or another one that has begun it.
            self._end("the worker stops")
            await asyncio.wait({work}, timeout=GRACE_S)
            raise
        return work.result()

    def _late(self, began: float) -> _Late | None:
        message, now = self.message, self._loop.time()
        if message.timeout_s and now >= began + message.timeout_s:
            return _Late(took_too_long(message.timeout_s))
        silent = message.heartbeat_s and not self._keeping
        if silent and now >= self._seen_at + message.heartbeat_s:
            return _Late(was_silent(message.heartbeat_s))
        return None

    async def _ended_late(self, work: asyncio.Future[Any], late: _Late) -> Any:
        """Cancels it. A handler that ends with a value all the same, before anybody was told, has done its work."""
        self._end(late.failure.message)
        await asyncio.wait({work}, timeout=GRACE_S)
        if work.done() and not work.cancelled() and work.exception() is None:
            return work.result()
        if not work.done():
            self._left = work
        raise late


async def _kept_in(handling: Coroutine[Any, Any, Any]) -> Any:
    """An event loop ends with a task that raises SystemExit; a handler means its own end, and no other."""
    try:
        return await handling
    except SystemExit as error:
        raise _Exited(error) from error


class _Exited(Exception):
    def __init__(self, error: SystemExit) -> None:
        super().__init__()
        self.error = error


class _Late(Exception):
    """A handler was not done in its time."""

    def __init__(self, failure: FailureInfo) -> None:
        super().__init__(failure.message)
        self.failure = failure
