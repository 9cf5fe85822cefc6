"""What an external event does to a part of a workflow while that is on its way: `interruptible`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from dressage.flow.branches import forget, race
from dressage.flow.watching import Hold

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Interrupt:
    """An event with what it does: `Event.interrupts` makes it, `interruptible` takes it.

    In plain Python `wait` gives what `handler` is called with.
    """

    wait: Callable[[], Awaitable[tuple[Any, ...]]]
    handler: Callable[..., Awaitable[object]]


async def interruptible(body: Awaitable[R], *interrupts: Interrupt) -> R:
    """Runs `body`, and whenever one of the events comes, its handler, for which the body pauses::

        tracking = await interruptible(
            ship(order),
            address_changed.interrupts(readdress),
            order_cancelled.interrupts(give_up),
        )

    The body is what a branch of `gather` is; what it gives is given here. From the moment that an event comes nothing
    of it goes on: attempts that are on their way are executed, timers run, and what they come to counts when the
    handler has ended. Events that come meanwhile wait their turn, those of one name in the order in which they came.
    A handler is an async function or a task, called with the event's payload, if it has one.

    A handler that fails ends the whole: the body is cancelled, as a branch that has lost a race, and tidies up; then
    the failure is raised here. If the body fails to tidy up, too, an `ExceptionGroup` has both. What the body fails
    with is raised here as it is. When the body has ended no event interrupts any more: those that come stay with the
    run.

    (LittleHorse's interrupts, whose failing handler no other handler can catch; Temporal's signal handlers, which run
    beside the workflow and do not pause it.)
    """
    hold = Hold()
    listeners = [_listen(each, hold) for each in interrupts]
    try:
        _, value = await race([*listeners, hold.of(body)], lambda _: True, hold.end)
    finally:
        forget(body)
    return cast("R", value)


async def _listen(interrupt: Interrupt, hold: Hold) -> Any:
    while True:
        given = await interrupt.wait()
        async with hold:
            await interrupt.handler(*given)
