"""What an external event does to a part of a workflow while that is on its way: `interruptible`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from dressage.flow.branches import forget, race
from dressage.flow.watching import Hold, settled

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Interrupt:
    """An event with what it does: `Event.interrupts` makes it, `interruptible` takes it.

    In plain Python `wait` gives what `handler` is called with, and `give_back` takes it when that is not to be; one
    that is `keyed` waits at a correlation key.
    """

    wait: Callable[[], Awaitable[tuple[Any, ...]]]
    give_back: Callable[[tuple[Any, ...]], None]
    handler: Callable[..., Awaitable[object]]
    keyed: bool = False


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
    With a `key` the run waits at that correlation key, and asks for the next event there when a handler has ended:
    until that has come the body goes on, and what came meanwhile another run may have taken, unless the event is
    `lasting`. A handler is an async function or a task, called with the event's payload, if it has one.

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
        if interrupt.keyed:
            # As a run does, who asks its key for the next one when it has gone on.
            await settled()
        given = await interrupt.wait()
        try:
            await hold.take()
        except asyncio.CancelledError:
            interrupt.give_back(given)
            raise
        await interrupt.handler(*given)
        hold.give()
