"""An orchestrator is killed while schedules fire, people work, and events interrupt: nothing is lost, nothing twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.acceptance.conftest import Scraped, until  # pyright: ignore[reportMissingImports]

from dressage.client import Client, Every
from dressage.flow import App, Event, UserTask, interruptible, sleep, workflow
from dressage.protocol.user_tasks import Claim, Complete

pytestmark = pytest.mark.anyio

app = App("killed-owners")
moved = Event("moved", of=str)


@dataclass
class Verdict:
    fine: bool


judge = UserTask("judge", form=Verdict)
begun = Counter[str]()
go_on = asyncio.Event()


@app.task
async def confirm(city: str) -> str:
    begun[city] += 1
    await go_on.wait()
    return city


@workflow(name="killed-tick")
async def tick(number: int) -> int:
    return number


@workflow(name="killed-judged")
async def judged(thing: str) -> bool:
    return (await judge.assign(group="judges", notes=thing)).fine


@workflow(name="killed-carried")
async def carried(city: str) -> str:
    async def carry() -> str:
        await sleep(1.0)
        return f"arrived from {city}"

    async def follow(new: str) -> None:
        await confirm(new)

    return await interruptible(carry(), moved.interrupts(follow))


async def kinds(client: Client, run_id: str) -> Counter[str]:
    return Counter([event.kind async for event in client.history(run_id)])


async def test_an_owner_is_killed_in_the_middle_of_it_all(scraped: Scraped) -> None:
    engine = scraped.engine
    go_on.clear()
    begun.clear()
    client = await engine.registered(tick, judged, carried)
    await engine.worker(app)
    ends = datetime.now(UTC) + timedelta(seconds=8)
    schedule = await client.set_schedule(
        "ticks", tick, {"number": 1}, when=Every(timedelta(seconds=1), until=ends), overlap="allow"
    )
    await client.start(judged, {"thing": "lamp"}, run_id="judged")
    await client.start(carried, {"city": "Ulm"}, run_id="carried")
    await client.post("carried", moved, "Bonn", event_id="moved")
    await until(lambda: begun["Bonn"] == 1, "the handler runs")
    (view,) = await client.user_tasks("judged")
    await client.act("judged", view.id, Claim("ann"), action_id="claim")

    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    go_on.set()
    done = Complete("ann", values=msgspec.Raw(b'{"fine":true}'))
    acting = [
        asyncio.create_task(client.act("judged", view.id, done, action_id="done", timeout_s=20))
        for _ in range(2)
    ]
    await asyncio.sleep(2.0)
    await engine.up()
    await asyncio.gather(*acting)

    assert await client.handle("judged").result(20) is True
    assert await client.handle("carried").result(20) == "arrived from Ulm"
    told = await kinds(client, "judged")
    assert (told["user-task-completed"], told["user-task-assigned"]) == (1, 1)
    told = await kinds(client, "carried")
    assert (told["interrupt-started"], told["interrupt-ended"], told["sleep-ended"]) == (1, 1, 1)

    async def all_fired() -> bool:
        known = await schedule.view()
        return not known.next and not known.open

    await until(all_fired, "the schedule has fired for the last time", 20)
    known = await schedule.view()
    moments = [fire.moment for fire in known.fires]
    assert len(moments) == len(set(moments)) == known.fired >= 6
    assert {fire.outcome for fire in known.fires} == {"completed"}
    first, *_, last = map(datetime.fromisoformat, moments)
    assert len(moments) == (last - first).total_seconds() + 1
