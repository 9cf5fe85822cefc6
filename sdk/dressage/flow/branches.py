"""Doing several things side by side inside a workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Literal, TypeVar, overload

from dressage.flow.watching import branch_of
from dressage.protocol.spec import GROUP_TEXT

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
R = TypeVar("R")

Won0 = tuple[Literal[0], R]
Won1 = tuple[Literal[1], R]
Won2 = tuple[Literal[2], R]
Won3 = tuple[Literal[3], R]
"""What a race gives whose first, second, ... branch has won."""


@overload
async def gather(a: Awaitable[A], /) -> tuple[A]: ...
@overload
async def gather(a: Awaitable[A], b: Awaitable[B], /) -> tuple[A, B]: ...
@overload
async def gather(a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /) -> tuple[A, B, C]: ...
@overload
async def gather(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], /
) -> tuple[A, B, C, D]: ...
@overload
async def gather(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], e: Awaitable[E], /
) -> tuple[A, B, C, D, E]: ...
@overload
async def gather(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], e: Awaitable[E], f: Awaitable[F], /
) -> tuple[A, B, C, D, E, F]: ...
@overload
async def gather(*branches: Awaitable[R], limit: int | None = None) -> tuple[R, ...]: ...
async def gather(*branches: Awaitable[Any], limit: int | None = None) -> tuple[Any, ...]:
    """Runs branches side by side and gives their results, in the order in which they are written.

    A branch is a call of a task, of a sleep, of a wait, or of an async function, which runs as a run thread with
    variables of its own. All of them run to their end, also when some fail; then an `ExceptionGroup` of all
    failures is raised, in the order of the branches. (`asyncio.gather` would raise the first one and leave the others
    without anybody.)

    `gather(*(ship(order) for order in orders), limit=20)` has a branch for each order, of which at most `limit` run at
    a time; in a run it is 100 if nothing is said, and never more than the thousand run threads that a run may have.

    Raises `ValueError` for a limit below 1.
    """
    if limit is not None and limit < 1:
        for each in branches:
            forget(each)
        raise ValueError(f"a limit is a number of branches, 1 or more, and not {limit}")
    gate = None if limit is None else asyncio.Semaphore(limit)
    awaited = branches if gate is None else [_in_turn(each, gate) for each in branches]
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(branch_of(each)) for each in awaited]
    await _ended(tasks)
    failures = [error for each in tasks if (error := each.exception()) is not None]
    if failures:
        raise BaseExceptionGroup(GROUP_TEXT, failures)
    return tuple(each.result() for each in tasks)


@overload
async def first_completed(a: Awaitable[A], b: Awaitable[B], /) -> Won0[A] | Won1[B]: ...
@overload
async def first_completed(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /
) -> Won0[A] | Won1[B] | Won2[C]: ...
@overload
async def first_completed(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], /
) -> Won0[A] | Won1[B] | Won2[C] | Won3[D]: ...
@overload
async def first_completed(*branches: Awaitable[R]) -> tuple[int, R]: ...
async def first_completed(*branches: Awaitable[Any]) -> tuple[int, Any]:
    """Runs branches side by side until one of them has ended: its place, from 0, and its result. If it failed, so does
    the race, with that failure.

    The others are cancelled: `CancelledError` is raised where each of them waits, which no `except` clause of a
    workflow takes. Its `finally` clauses and the steps of its sagas run, and the race is over when they have; if some
    of that fails, all failures are raised, as an `ExceptionGroup` in the order of the branches. Of branches that could
    end at once, the first that is written wins, and those behind it do not begin.

    Branches are what `gather` takes. (The word is that of `asyncio.wait`, which would cancel none of them.)
    """
    return await race(branches, lambda _: True)


@overload
async def first_successful(a: Awaitable[A], b: Awaitable[B], /) -> Won0[A] | Won1[B]: ...
@overload
async def first_successful(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /
) -> Won0[A] | Won1[B] | Won2[C]: ...
@overload
async def first_successful(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], /
) -> Won0[A] | Won1[B] | Won2[C] | Won3[D]: ...
@overload
async def first_successful(*branches: Awaitable[R]) -> tuple[int, R]: ...
async def first_successful(*branches: Awaitable[Any]) -> tuple[int, Any]:
    """Runs branches side by side until one of them has ended without a failure: its place, from 0, and its result.

    If all of them fail, all failures are raised, as an `ExceptionGroup` in the order of the branches. What some failed
    with before another one won is in the run's history alone. The others are cancelled as `first_completed` says.
    (JavaScript's `Promise.any`, which cancels none of them.)
    """
    return await race(branches, lambda task: task.exception() is None)


async def race(
    branches: Sequence[Awaitable[Any]],
    wins: Callable[[asyncio.Future[Any]], bool],
    over: Callable[[], None] = lambda: None,
) -> tuple[int, Any]:
    """The first branch that `wins`: its place and its result. When that is decided, or the race cancelled, `over` is
    called, and then the others are cancelled."""
    tasks: list[asyncio.Future[Any]] = []
    won: asyncio.Future[Any] | None = None
    try:
        for branch in branches:
            tasks.append(asyncio.ensure_future(branch_of(branch)))
            # It goes as far as it can without waiting, before the next one begins.
            await asyncio.sleep(0)
            if (won := _winner(tasks, wins)) is not None:
                break
        while won is None and (running := [each for each in tasks if not each.done()]):
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            won = _winner(tasks, wins)
    except asyncio.CancelledError:
        over()
        await _cancelled(tasks)
        raise
    finally:
        for branch in branches[len(tasks) :]:
            forget(branch)
    if won is None:
        raise BaseExceptionGroup(GROUP_TEXT, [error for each in tasks if (error := each.exception())])
    over()
    await _cancelled(tasks, won)
    return tasks.index(won), won.result()


def _winner(
    tasks: Sequence[asyncio.Future[Any]], wins: Callable[[asyncio.Future[Any]], bool]
) -> asyncio.Future[Any] | None:
    return next((each for each in tasks if each.done() and wins(each)), None)


async def _in_turn(branch: Awaitable[Any], gate: asyncio.Semaphore) -> Any:
    begun = False
    try:
        async with gate:
            begun = True
            return await branch
    finally:
        if not begun:
            forget(branch)


def forget(branch: Awaitable[Any]) -> None:
    """A coroutine that is never to begin would be complained about."""
    if isinstance(branch, Coroutine):
        branch.close()


async def _ended(tasks: Sequence[asyncio.Future[Any]]) -> None:
    """Waits for all, whatever they come to; cancelled, it cancels those that still run."""
    try:
        if tasks:
            await asyncio.wait(tasks)
    except asyncio.CancelledError:
        await _cancelled(tasks)
        raise


async def _cancelled(tasks: Sequence[asyncio.Future[Any]], won: asyncio.Future[Any] | None = None) -> None:
    """Cancels those that run and waits for their ends. Raises what they failed with, and the winner."""
    running = [each for each in tasks if not each.done()]
    for each in tasks:
        if each in running:
            each.cancel()
        elif not each.cancelled():
            each.exception()  # Seen, as asyncio wants it, and of no more interest.
    left, again = set(running), False
    while left:
        try:
            _, left = await asyncio.wait(left)
        except asyncio.CancelledError:
            again = True
    failed = [each for each in running if not each.cancelled() and each.exception()]
    if failed:
        told = [each for each in tasks if each in failed or (each is won and not again)]
        raise BaseExceptionGroup(GROUP_TEXT, [error for each in told if (error := each.exception())])
    if again:
        raise asyncio.CancelledError
