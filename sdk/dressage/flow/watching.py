"""Plain Python's side of waits for what other branches change: who waits is looked at when no branch can go on. So does
a branch that starts a run go on when no other one can.

A run knows when all of its branches wait: when a command is folded. Here branches are tasks of an event loop, and each
of them tells when it has made a step. What follows from a step (a gather or a race that is over, another branch that
begins) comes within a few turns of the loop; when more than that have passed without a step, all of them wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, TypeVar

R = TypeVar("R")

_TURNS: Final = 10
"""After so many turns of the event loop without a step of a branch none can go on; two or three are enough."""


class Hold:
    """What `interruptible` runs goes on only while no handler has its turn, which one at a time has."""

    def __init__(self) -> None:
        self.held = False
        self._over = False
        self._waiting: list[tuple[asyncio.Future[None], bool]] = []
        self._turns: deque[asyncio.Future[None]] = deque()

    async def of(self, body: Awaitable[R]) -> R:
        """The same, held by this, and so is all that it starts. It has a task of its own."""
        _holds.set((*_holds.get(), self))
        while self.held:
            await self._wait()
        return await body

    async def take(self) -> None:
        """Takes the turn, behind those who have waited for it longer."""
        if self._over:
            return
        if self.held:
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            await turn
        self.held = True

    def give(self) -> None:
        """Gives the turn to the next. Who has failed keeps it: nothing goes on before the failure is dealt with."""
        if self._over:
            return
        while self._turns:
            turn = self._turns.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._release()

    def end(self) -> None:
        """Nothing is held any more. What was cancelled while it was held tidies up; the others are about to be
        cancelled, and those inside of them hear of it some turns of the loop later."""
        self._over = True
        for waiting, cancelled in self._waiting:
            if cancelled and not waiting.done():
                waiting.set_result(None)
        self._release()

    def _release(self) -> None:
        """What is held goes on one after the other, each when nobody else can."""
        self.held = False
        waiting = [each for each, _ in self._waiting if not each.done()]
        self._waiting = []
        if not waiting:
            _moved()
            return
        loop = asyncio.get_running_loop()
        watch = _watches.setdefault(loop, _Watch())
        watch.last += waiting
        for each in waiting:
            each.add_done_callback(partial(_gone_on, watch, loop))
        watch.moved(loop)

    def wait(self, *, cancelled: bool) -> Any:
        """What the step of a task gives that is to wait, as `await` does."""
        return next(self._wait(cancelled=cancelled).__await__())

    def _wait(self, *, cancelled: bool = False) -> asyncio.Future[None]:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append((waiting, cancelled))
        return waiting


_holds: ContextVar[tuple[Hold, ...]] = ContextVar("holds", default=())
"""By what the branch is held that runs now."""


def _holding(holds: tuple[Hold, ...]) -> bool:
    return any(each.held for each in holds)


async def apart(run: Coroutine[Any, Any, R]) -> R:
    """Awaits what no hold of the caller holds, as a child run is none of its branches."""
    return await (end_of(free(branch_of(run))) if holding() else run)


async def end_of(task: asyncio.Future[R]) -> R:
    """The end of what goes on `apart`, which is cancelled with this."""
    try:
        return await task
    except asyncio.CancelledError:
        if task.done():
            raise
        task.cancel()  # It was not awaited when this was cancelled, but the end of a hold.
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error from None
        raise


def holding() -> bool:
    """Whether the branch that runs now may be held."""
    return bool(_holds.get())


def free(run: Awaitable[R]) -> asyncio.Future[R]:
    """A task that no hold of the caller holds."""
    before = _holds.set(())
    try:
        return asyncio.ensure_future(run)
    finally:
        _holds.reset(before)


class _Wait:
    """One that waits until `test` is true."""

    def __init__(self, test: Callable[[], object]) -> None:
        self.test = test
        self.judged: Callable[[], bool] | None = None
        """What its test came to when its time was over, if it was held then: whatever holds by now counts no more."""

        self._holds = _holds.get()
        self._woken: asyncio.Future[None] | None = None
        self._over = False

    async def change(self) -> bool:
        """Waits until it is to look itself; False if its time is over."""
        if not self._over:
            self._woken = asyncio.get_running_loop().create_future()
            await self._woken
        return not self._over

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def end(self) -> None:
        """Its time is over."""
        self._over = True
        if _holding(self._holds):
            self.judged = _judged(self.test)
        self.wake()

    def may_go_on(self) -> bool:
        if self._woken is None or self._woken.done() or _holding(self._holds):
            return False
        try:
            return bool(self.test())
        except Exception:
            return True  # It is raised where it waits, when that looks itself.


class _Watch:
    """Those of one event loop that wait, in the order in which they began to."""

    def __init__(self) -> None:
        self.waits: list[_Wait] = []
        self.last: list[asyncio.Future[None]] = []
        """Those that go on, one after the other, when nobody else can."""

        self._quiet = 0
        self._turning = False

    def moved(self, loop: asyncio.AbstractEventLoop) -> None:
        """A branch has made a step."""
        self._quiet = 0
        if not self._turning:
            self._turning = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._quiet += 1
        if self._quiet < _TURNS:
            loop.call_soon(self._turn, loop)
            return
        self._turning = False
        found = next((wait for wait in self.waits if wait.may_go_on()), None)
        after = next((each for each in self.last if not each.done()), None)
        if found is not None:
            found.wake()
        elif after is not None:
            after.set_result(None)
        else:
            return
        # The next one is looked at when this one, and what follows from it, has come to rest.
        self.moved(loop)


_watches: dict[asyncio.AbstractEventLoop, _Watch] = {}
"""By the loops in which something waits."""


async def held(test: Callable[[], object], within_s: float | None) -> bool:
    """Waits until `test` is true when no branch can go on, and so it is on return; False if it is not in time.

    Raises what `test` raises.
    """
    loop = asyncio.get_running_loop()
    watch, wait = _watches.setdefault(loop, _Watch()), _Wait(test)
    watch.waits.append(wait)
    timer = None if within_s is None else loop.call_later(within_s, wait.end)
    try:
        while await wait.change():
            if test():
                return True
        return bool(test()) if wait.judged is None else wait.judged()
    finally:
        watch.waits.remove(wait)
        if timer is not None:
            timer.cancel()
        _leave(watch, loop)


def _judged(test: Callable[[], object]) -> Callable[[], bool]:
    """What a test gives now, or raises, for later."""
    try:
        found = bool(test())
    except Exception as error:
        return partial(_raise, error)
    return lambda: found


def _raise(error: Exception) -> bool:
    raise error


async def settled() -> None:
    """Waits until no other branch can go on without time passing, also none that waits for what has changed."""
    loop = asyncio.get_running_loop()
    watch, turn = _watches.setdefault(loop, _Watch()), loop.create_future()
    watch.last.append(turn)
    watch.moved(loop)
    try:
        await turn
    finally:
        watch.last.remove(turn)
        _leave(watch, loop)


def _gone_on(watch: _Watch, loop: asyncio.AbstractEventLoop, turn: asyncio.Future[None]) -> None:
    watch.last.remove(turn)
    _leave(watch, loop)


def _leave(watch: _Watch, loop: asyncio.AbstractEventLoop) -> None:
    if not watch.waits and not watch.last and _watches.get(loop) is watch:
        del _watches[loop]


class _Branch(Coroutine[Any, Any, R]):
    """A coroutine that tells after each of its steps that it has moved, and makes none while it is held."""

    def __init__(self, steps: Coroutine[Any, Any, R]) -> None:
        self._steps = steps
        self._cancels = 0
        self._thrown: tuple[Any, ...] = ()
        """What it waited for has failed with while it is held: who cancels it ends the hold before, and what came to it
        is of no more interest."""

    def send(self, value: Any, /) -> Any:
        for hold in _holds.get():
            if hold.held:
                return hold.wait(cancelled=self._is_cancelled())
        thrown, self._thrown = self._thrown, ()
        if thrown:
            return self.throw(*thrown)
        try:
            return self._steps.send(value)
        finally:
            self._cancels = _cancels()
            _moved()

    def throw(self, *error: Any) -> Any:
        for hold in _holds.get():
            if hold.held:
                self._thrown = self._thrown or error
                return hold.wait(cancelled=self._is_cancelled())
        self._thrown = ()
        try:
            return self._steps.throw(*error)
        finally:
            self._cancels = _cancels()
            _moved()

    def _is_cancelled(self) -> bool:
        """Whether its own task was, since its last step; what it waits for may also have been."""
        return bool(self._thrown) and _cancels() > self._cancels

    def close(self) -> None:
        self._steps.close()

    def __await__(self) -> Generator[Any, Any, R]:
        return self._steps.__await__()


def _cancels() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def branch_of(awaited: Awaitable[R]) -> Awaitable[R]:
    """The same, so that those who wait hear of each step of it."""
    return _Branch(awaited) if isinstance(awaited, Coroutine) else awaited


def _moved() -> None:
    if _watches and (watch := _watches.get(asyncio.get_running_loop())) is not None:
        watch.moved(asyncio.get_running_loop())
