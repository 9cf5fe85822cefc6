"""The NATS server dies while sinks deliver: they wait for it, and go on."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from tests.connecting import eventually, run_orders, workflow  # pyright: ignore[reportMissingImports]
from tests.events_out.conftest import (  # pyright: ignore[reportMissingImports]
    SHOP,
    SUBJECT_SINK,
    WEBHOOK_SINK,
    make_stream,
)

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import Receiver, StartConnector  # pyright: ignore[reportMissingImports]


async def test_a_server_that_is_killed_and_comes_back_loses_nothing(
    place: Place, receiver: Receiver, connector: StartConnector
) -> None:
    await make_stream(place.server)
    async with place.engine(workflow()) as client:
        await asyncio.gather(*(run_orders(client, 15, first=15 * number) for number in range(4)))
        events = [each.data for each in await place.events(60)]
    receiver.delay_s = 0.3
    hook = WEBHOOK_SINK.format(name="hook", url=receiver.url) + "requests.max = 5\n"
    running = connector(SUBJECT_SINK.format(name="out") + hook)
    webhook = connector(hook)  # stands by
    await receiver.has_taken(10)
    place.server.kill()
    await place.server.wait()
    await place.server.start()

    async def told() -> bool:
        stored = [each.data for each in await place.stored(SHOP, "shop.>")]
        return set(stored) == set(events) and {each.body for each in receiver.taken} == set(events)

    await eventually(told, "everything is told")
    assert Counter(each.data for each in await place.stored(SHOP, "shop.>")) == Counter(events)
    assert not running.task.done()
    assert not webhook.task.done()
