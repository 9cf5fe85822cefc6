"""An event loop with virtual time, on which several processes live side by side under one seeded scheduler.

Each process has a lane: its ready callbacks run in their order, as on an event loop of its own, and the scheduler
picks by a seeded throw whose turn it is. A callback belongs to the process in whose context it was made, so
whatever a process starts is its own, and cutting a lane off is a crash: no task of it is ever resumed, and no
`finally` of it runs. When nobody is ready, time jumps to the next timer: a day of sleep costs nothing.
"""

# An event loop has to look into its handles.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
import itertools
import random
import weakref
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from typing import Any, Final, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_lane: contextvars.ContextVar[Lane] = contextvars.ContextVar("dressage_simulation_lane")

STEPS_MAX: Final = 300_000
"""A seed takes some ten thousand callbacks; one that takes so many goes in circles without time going on."""

SLICE_MAX: Final = 8
"""So many callbacks of one process run before the scheduler chooses again."""


class Hang(Exception):
    """Nothing is ready and no timer is set, or the seed ran past its time: somebody waits for what never comes."""


class SimTask(asyncio.Task[T]):
    """A task whose place in a set follows from the order in which sets of its loop met it.

    So a seed gives the same run again, whichever seeds the process has seen before.
    """

    _number = -1

    def __hash__(self) -> int:
        if self._number < 0:
            self._number = number_in(self.get_loop())
        return self._number


class SimFuture(asyncio.Future[T]):
    """As `SimTask` is among tasks."""

    _number = -1

    def __hash__(self) -> int:
        if self._number < 0:
            self._number = number_in(self.get_loop())
        return self._number


def number_in(loop: asyncio.AbstractEventLoop) -> int:
    """The next number of what this loop's sets hold."""
    assert isinstance(loop, SimLoop)
    return next(loop.hashes)


class Lane:
    """The callbacks of one process.

    `skew_s` is how far the clock is ahead of true time that it measures with, `calendar_s` how far its date is ahead
    of the broker's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: deque[events.Handle] = deque()
        self.alive = True
        self.paused = False
        self.skew_s = 0.0
        self.calendar_s = 0.0
        self.steps = 0
        self.dies_in: int | None = None
        self.on_death: Callable[[], None] | None = None
        self.tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()
        self.graves: list[asyncio.Task[Any]] = []
        self.context = contextvars.Context()
        self.context.run(_lane.set, self)


class SimLoop(asyncio.BaseEventLoop):
    """See the module. `random` decides whose turn it is, and nothing else in here is left to chance."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self._now = 0.0
        self.world = Lane("world")
        """Whatever belongs to no process: the broker, the network, and the hand that breaks things."""
        self._current = self.world
        self._lanes: list[Lane] = []
        self._dead: list[Lane] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Lane]] = []
        self._numbers = itertools.count()
        self.hashes = itertools.count()
        self.steps = 0
        self.ends_at = float("inf")
        self.unhandled: list[dict[str, Any]] = []
        self.set_task_factory(_make_task)
        self.set_exception_handler(lambda _, context: self.unhandled.append(context))

    def get_debug(self) -> bool:
        """Never: asked for with each callback."""
        return False

    # -- clock -------------------------------------------------------------------------------------
    def time(self) -> float:
        """The time as the running process sees it."""
        return self._now + self._current.skew_s

    @property
    def calendar_s(self) -> float:
        """How far the date is off as the running process sees it."""
        return self._current.calendar_s

    @property
    def true_time(self) -> float:
        return self._now

    # -- what asyncio asks of a loop ---------------------------------------------------------------
    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(loop=self)

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._enqueue(handle, self._lane_of(handle))
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._set_timer(self._now + max(0.0, delay), callback, args, context)

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._set_timer(when - self._current.skew_s, callback, args, context)

    def _set_timer(
        self, when: float, callback: Any, args: Any, context: contextvars.Context | None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle, self._lane_of(handle)))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """A cancelled timer is passed over when its time comes."""

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        """There are no threads here: a plain handler runs at once."""
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _write_to_self(self) -> None:
        """Nobody else could have to be woken."""

    def _process_events(self, event_list: Any) -> None:
        """There are no sockets here."""

    # -- scheduling --------------------------------------------------------------------------------
    def _lane_of(self, handle: events.Handle) -> Lane:
        context: contextvars.Context = getattr(handle, "_context")  # noqa: B009
        return context.get(_lane, self.world)

    def _enqueue(self, handle: events.Handle, lane: Lane) -> None:
        if not lane.alive:
            return
        if not lane.ready and not lane.paused:
            self._lanes.append(lane)
        lane.ready.append(handle)

    def _run_once(self) -> None:
        """One process runs a few callbacks; or, with nobody ready, time goes on."""
        lanes = self._lanes
        if self.steps > STEPS_MAX:
            raise Hang(f"{STEPS_MAX} steps, at {self._now:.3f} s")
        if not lanes:
            self._advance()
            return
        place = int(self._chance.random() * len(lanes)) if len(lanes) > 1 else 0
        lane = lanes[place]
        self._current = lane
        ready = lane.ready
        left = len(ready)
        for _ in range(left if left < SLICE_MAX else SLICE_MAX):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            if lane.dies_in is not None and not self._lives_on(lane):
                break
            lane.steps += 1
            self.steps += 1
            handle._run()
            if not lane.alive or lane.paused:
                break
        self._current = self.world
        if (not ready or lane.paused or not lane.alive) and lane in lanes:
            lanes.remove(lane)

    def _lives_on(self, lane: Lane) -> bool:
        assert lane.dies_in is not None
        lane.dies_in -= 1
        if lane.dies_in > 0:
            return True
        lane.dies_in = None
        self._current = self.world
        if lane.on_death is not None:
            lane.on_death()
        return False

    def _advance(self) -> None:
        """Time goes on to the next timer; everything due then becomes ready, in the order of its time."""
        while self._timers and self._timers[0][2]._cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            raise Hang("nothing is ready and no timer is set")
        if self._timers[0][0] > self.ends_at:
            raise Hang(f"the seed goes on after {self.ends_at:g} s")
        self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            _, _, handle, lane = heapq.heappop(self._timers)
            if not handle._cancelled:
                self._enqueue(handle, lane)

    # -- processes ---------------------------------------------------------------------------------
    def begin(self, lane: Lane, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Starts the main task of a process."""
        return lane.context.run(self.create_task, coroutine)

    def pause(self, lane: Lane) -> None:
        """Nothing of the process runs until `resume`; what falls due meanwhile waits for it."""
        lane.paused = True
        if lane in self._lanes:
            self._lanes.remove(lane)

    def resume(self, lane: Lane) -> None:
        lane.paused = False
        if lane.ready and lane.alive and lane not in self._lanes:
            self._lanes.append(lane)

    def kill(self, lane: Lane) -> None:
        """The process is gone. Its tasks are kept, unresumed, so that no garbage collection closes them."""
        lane.graves.extend(task for task in lane.tasks if not task.done())
        lane.alive = False
        lane.ready.clear()
        self._dead.append(lane)
        if lane in self._lanes:
            self._lanes.remove(lane)

    def bury(self) -> None:
        """After the seed: ends whatever is left, without a word, and closes the loop."""
        for task in asyncio.all_tasks(self):
            setattr(task, "_log_destroy_pending", False)  # noqa: B010
            with contextlib.suppress(BaseException):
                task.get_coro().close()
        self.close()


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
    **options: Any,
) -> asyncio.Task[T]:
    task: asyncio.Task[T] = SimTask(coroutine, loop=loop, **options)
    context = options.get("context")
    lane = _lane.get(None) if context is None else context.get(_lane)
    if lane is not None:
        lane.tasks.add(task)
    return task
