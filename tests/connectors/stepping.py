"""A service that publishes steps, and runs that are given them: what the tests of orders have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from tests.connectors.conftest import eventually  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import Event, workflow
from dressage.protocol.events import KIND, RUN_HEADER, EventPosted
from dressage.protocol.names import run_id_of

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]


@dataclass
class Step:
    run: str
    number: int


step = Event("step", of=Step)


@workflow(name="steps")
async def steps(count: int) -> int:
    last = 0
    while last < count:
        got = await step.wait()
        last = got.number
    return last


async def started(client: Client, runs: int, count: int) -> None:
    await client.register(steps)
    for run in range(runs):
        await client.start(steps, {"count": count}, run_id=f"r{run}")


async def publish(shop: Shop, runs: int, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        for run in range(runs):
            await shop.publish({"run": f"r{run}", "number": number})


async def posted(shop: Shop) -> dict[str, list[int]]:
    """The numbers that each run was given, in the order of its output events."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    subject = f"{shop.names.root}.events.*.*.{KIND[EventPosted]}.*"
    for message in await shop.stored(shop.names.events_stream, subject):
        payload = msgspec.json.decode(message.data)["data"]["payload"]
        found[run_id_of((message.headers or {})[RUN_HEADER])].append(payload["number"])
    return dict(found)


async def were_posted(shop: Shop, runs: int, numbers: Iterable[int]) -> None:
    """Each run was given these, in order, and nothing else was posted."""
    wanted = {f"r{run}": list(numbers) for run in range(runs)}

    async def all_posted() -> bool:
        return sum(map(len, (await posted(shop)).values())) >= sum(map(len, wanted.values()))

    await eventually(all_posted, "all events are posted")
    assert await posted(shop) == wanted
