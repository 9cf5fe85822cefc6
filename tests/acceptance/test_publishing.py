"""What workflows publish, as other services get it: by plain NATS, from streams that Dressage knows nothing of."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from nats.aio.client import Client as Nats
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.client import Client, RunFailed
from dressage.flow import App, TaskError, gather, publish, workflow
from dressage.protocol.errors import NotFound
from dressage.protocol.events import ReceivedEvent

if TYPE_CHECKING:
    from tests.acceptance.conftest import Scraped  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

app = App("publishing")
PATIENCE_S: Final = 1.0


@dataclass
class Order:
    id: str
    region: str = "eu"
    count: int = 1


@app.task
async def pack(order: Order, number: int) -> str:
    if order.region == "nowhere":
        raise OSError("no truck goes there")
    return f"{order.id}-{number}"


@workflow
async def ship_order(order: Order, shop: str) -> list[str]:
    await publish(f"{shop}.{order.region}.received", order)
    parcels: list[str] = []
    for number in range(order.count):
        try:
            parcel = await pack(order, number)
        except TaskError:
            await publish(f"{shop}.{order.region}.lost", {"order": order.id, "number": number})
            continue
        parcels = [*parcels, parcel]
        await publish(f"{shop}.{order.region}.packed", {"order": order.id, "parcel": parcel})
    await gather(publish(f"{shop}.{order.region}.left", order.id), publish(f"{shop}.bill", order.id))
    return parcels


@workflow
async def say(subject: str, what: str) -> str:
    await publish(subject, what)
    return what


@workflow
async def say_or_not(subject: str) -> str:
    try:
        await publish(subject, 1)
    except ValueError as error:
        return f"{error}"
    return "said"


@workflow
async def count_orders(told: dict[str, str]) -> str:
    return f"counted {told['id']} of {told['region']}"


@dataclass
class Shop:
    """A stream of another service, for subjects that no other test has."""

    nats: Nats
    name: str

    async def open(self, *tails: str) -> None:
        subjects = [f"{self.name}.{tail}" for tail in tails or (">",)]
        await self.nats.jetstream().add_stream(name=self.name, subjects=subjects)

    async def messages(self) -> list[tuple[str, dict[str, Any], dict[str, str]]]:
        """Subject, CloudEvent and headers of all that is stored, in its order."""
        js = self.nats.jetstream()
        info = await js.stream_info(self.name)
        found = [await js.get_msg(self.name, seq) for seq in range(1, info.state.last_seq + 1)]
        return [(str(each.subject), json.loads(each.data or b""), dict(each.headers or {})) for each in found]

    async def count(self) -> int:
        return (await self.nats.jetstream().stream_info(self.name)).state.messages

    async def until_has(self, count: int) -> None:
        async def fact() -> bool:
            return await self.count() >= count

        await until(fact, f"{count} messages in {self.name}", 30)
        assert await self.count() == count


async def whole_history(client: Client, run_id: str) -> list[ReceivedEvent]:
    """The output events of a run that has ended; they are stored behind its end."""
    found: list[ReceivedEvent] = []

    async def ended() -> bool:
        found[:] = [event async for event in client.history(run_id)]
        return bool(found) and found[-1].kind == "run-completed"

    await until(ended, f"the end of {run_id}")
    return found


async def shop_of(engine: Engine) -> Shop:
    return Shop(await engine.nats(), f"shop-{uuid.uuid4().hex[:8]}")


@pytest.fixture(params=[1, 3], ids=["1-shard", "3-shards"])
async def hasty(server: EmbeddedServer, request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """An engine that soon gives up what no stream takes."""
    made = Engine(server.url, request.param, patience_s=PATIENCE_S)
    await made.up()
    yield made
    await made.close()


def expected(order: Order, shop: str) -> list[tuple[str, Any]]:
    """What the run of an order says, but for its last two, whose order is not the author's."""
    place = f"{shop}.{order.region}"
    given = {"id": order.id, "region": order.region, "count": order.count}
    told: list[tuple[str, Any]] = [(f"{place}.received", given)]
    for number in range(order.count):
        if order.region == "nowhere":
            told.append((f"{place}.lost", {"order": order.id, "number": number}))
        else:
            told.append((f"{place}.packed", {"order": order.id, "parcel": f"{order.id}-{number}"}))
    return told


async def test_others_get_what_runs_publish_once_and_in_order(sharded: Engine) -> None:
    shop = await shop_of(sharded)
    await shop.open()
    client = await sharded.registered(ship_order)
    await sharded.worker(app)
    orders = [Order(f"o {n}", ("eu", "us", "nowhere")[n % 3], n % 4) for n in range(12)]
    handles = [
        await client.start(ship_order, {"order": order, "shop": shop.name}, run_id=f"ship {order.id}")
        for order in orders
    ]
    for handle in handles:
        await handle.result(20)
    await shop.until_has(sum(3 + order.count for order in orders))
    messages = await shop.messages()
    for order in orders:
        run_id = f"ship {order.id}"
        told = [(subject, event) for subject, event, _ in messages if event["subject"] == run_id]
        assert [(subject, event["data"]) for subject, event in told[:-2]] == expected(order, shop.name)
        assert {subject for subject, _ in told[-2:]} == {
            f"{shop.name}.{order.region}.left",
            f"{shop.name}.bill",
        }
        published = [event for event in await whole_history(client, run_id) if event.kind == "published"]
        assert [event.id for event in published] == [event["id"] for _, event in told]
        for subject, event in told:
            assert datetime.fromisoformat(event.pop("time")).tzinfo is not None
            assert event == {
                "id": event["id"],
                "source": f"/dressage/{sharded.namespace}/workflow/ship-order",
                "type": subject,
                "subject": run_id,
                "workflow": "ship-order",
                "version": 1,
                "data": event["data"],
                "specversion": "1.0",
                "datacontenttype": "application/json",
            }
    ids = [headers["Nats-Msg-Id"] for _, _, headers in messages]
    assert len(set(ids)) == len(ids)
    assert {headers["content-type"] for _, _, headers in messages} == {"application/cloudevents+json"}


async def test_a_run_does_not_wait_for_its_events_to_be_stored(sharded: Engine) -> None:
    shop = await shop_of(sharded)
    client = await sharded.registered(say)
    for number in range(6):
        handle = await client.start(say, {"subject": f"{shop.name}.x", "what": "hello"}, run_id=f"r{number}")
        assert await handle.result(5) == "hello"
    await shop.open()
    await shop.until_has(6)


async def test_what_is_on_its_way_when_the_engine_stops_is_published_by_the_next(sharded: Engine) -> None:
    shop = await shop_of(sharded)
    await shop.open()
    client = await sharded.registered(say)
    runs = [f"r{number}" for number in range(60)]
    starts = [
        asyncio.create_task(client.start(say, {"subject": f"{shop.name}.x", "what": run}, run_id=run))
        for run in runs
    ]
    await asyncio.sleep(0.05)
    await sharded.down()
    await sharded.up()
    await asyncio.gather(*starts)
    await shop.until_has(len(runs))
    assert sorted(event["data"] for _, event, _ in await shop.messages()) == sorted(runs)


async def test_what_no_stream_captures_is_a_dead_letter_and_the_run_goes_on(hasty: Engine) -> None:
    shop = await shop_of(hasty)
    await shop.open("eu.*")
    client = await hasty.registered(ship_order)
    await hasty.worker(app)
    given = {"order": Order("o", "eu", 2), "shop": shop.name}
    assert await (await client.start(ship_order, given, run_id="lost")).result(10) == ["o-0", "o-1"]
    await shop.until_has(4)
    js = shop.nats.jetstream()

    async def buried() -> bool:
        return (await js.stream_info(hasty.names.dead_stream)).state.messages >= 1

    await until(buried, "a dead letter", 20)
    letter = await js.get_msg(hasty.names.dead_stream, 1)
    headers = letter.headers or {}
    assert str(letter.subject).startswith(f"dressage.{hasty.namespace}.dead.publish.")
    assert (headers["Dressage-Code"], headers["Dressage-Subject"]) == ("NO_STREAM", f"{shop.name}.bill")
    event = json.loads(letter.data or b"")
    assert (event["type"], event["subject"], event["data"]) == (f"{shop.name}.bill", "lost", "o")


@pytest.mark.parametrize("subject", ["a b", "orders.*", "$SYS.x", "dressage.default.0.cursor", "a..b", ""])
async def test_a_bad_subject_fails_the_run_and_nothing_else(subject: str, shared: Engine) -> None:
    client = await shared.registered(say, say_or_not)
    caught = await client.start(say_or_not, {"subject": subject})
    assert "subject" in await caught.result(10)
    with pytest.raises(RunFailed) as failed:
        await (await client.start(say, {"subject": subject, "what": "x"})).result(10)
    assert failed.value.failure.kind == "expression-error"
    assert "ValueError" in failed.value.failure.message
    assert failed.value.failure.family[0] == "ValueError"


async def test_a_published_event_starts_a_run_of_another_workflow(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    """Choreography: neither workflow knows of the other."""
    shop = await shop_of(engine)
    await shop.open()
    client = await engine.registered(ship_order, count_orders)
    await engine.worker(app)
    config = tmp_path / "triggers.toml"
    config.write_text(f"""
        [[trigger]]
        name = "count"
        source = {{ subject = "{shop.name}.*.received" }}
        workflow = "count-orders"
        run_id = '''"count " + event["id"]'''
        [trigger.input]
        told = '''{{"id": event["id"], "region": subject.split(".")[1]}}'''
    """)
    start("trigger", "run", str(config), "--server", engine.url, "--namespace", engine.namespace)
    for number in range(3):
        await client.start(ship_order, {"order": Order(f"o{number}"), "shop": shop.name})
    for number in range(3):

        async def counted(run_id: str = f"count o{number}") -> bool:
            with contextlib.suppress(NotFound):
                return (await client.get(run_id)).status == "completed"
            return False

        await until(counted, f"o{number} is counted", 30)
        assert await client.handle(f"count o{number}").result(5) == f"counted o{number} of eu"


async def test_metrics_count_what_is_published(scraped: Scraped) -> None:
    engine = scraped.engine
    shop = await shop_of(engine)
    client = await engine.registered(say)
    for number in range(4):
        await client.start(say, {"subject": f"{shop.name}.x", "what": "x"}, run_id=f"r{number}")

    def waiting() -> float:
        return sum(scraped.value(f'dressage_unpublished{{shard="{n}"}}') for n in range(engine.shards))

    await until(lambda: waiting() == 4, "four wait")
    await shop.open()
    await shop.until_has(4)
    await until(lambda: scraped.value("dressage_published_total") == 4, "four are counted")
    await until(lambda: waiting() == 0, "none waits")
