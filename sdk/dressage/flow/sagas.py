"""Undoing what was done when a later step fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, ParamSpec, Self

from dressage.flow.tasks import Task
from dressage.protocol.spec import SAGA_TEXT

P = ParamSpec("P")


class Saga:
    """Steps that are undone, in reverse, when a later one fails::

        async with Saga() as saga:
            flight = await book_flight(trip)
            saga.undo(cancel_flight, flight)
            hotel = await book_hotel(trip)
            saga.undo(cancel_hotel, hotel)
            await charge(trip, flight, hotel)

    Whatever is raised in the block, a business failure or a technical error, the tasks that were registered are called
    with the arguments that they were registered with, the last one first, and then it is raised again. An undo that
    fails does not keep the others from being called; then all that was raised, the first failure in front, is raised as
    an `ExceptionGroup`. A branch that loses a race, and a run that is cancelled, undo their steps, too, and to the end
    if they were about it already.
    Leaving the block in another way, by `return` too, undoes nothing.

    In a run the list is part of the run's state, as durable as the rest. (A pattern of Garcia-Molina and Salem,
    "Sagas", 1987.)
    """

    def __init__(self) -> None:
        self._undone_by: list[Callable[[], Coroutine[Any, Any, Any]]] = []

    def undo(self, task: Task[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """From here on a failure in the block calls `task` with these arguments."""
        self._undone_by.append(lambda: task(*args, **kwargs))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception | asyncio.CancelledError):
            return
        failures: list[Exception] = []
        cancelled = isinstance(error, asyncio.CancelledError)
        while self._undone_by:
            failure, again = await self._undisturbed(self._undone_by.pop()())
            cancelled |= again
            failures += [] if failure is None else [failure]
        if failures:
            first = [error] if isinstance(error, Exception) and not cancelled else []
            raise ExceptionGroup(SAGA_TEXT, [*first, *failures])
        if cancelled and isinstance(error, Exception):
            # It was cancelled while it undid its steps: that waited until they were undone.
            raise asyncio.CancelledError from error

    async def _undisturbed(self, step: Coroutine[Any, Any, Any]) -> tuple[Exception | None, bool]:
        """Lets a step come to its end: what it failed with, and whether it was to be cancelled meanwhile."""
        undoing, cancelled = asyncio.ensure_future(step), False
        while not undoing.done():
            try:
                await asyncio.wait([undoing])
            except asyncio.CancelledError:
                cancelled = True
        try:
            undoing.result()
        except Exception as failure:
            return failure, cancelled
        return None, cancelled
