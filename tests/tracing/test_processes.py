"""A trace from who starts a run to what is done for it, through processes as users have them, as collectors see it."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from opentelemetry.sdk.trace import TracerProvider
from tests.acceptance.conftest import until  # pyright: ignore[reportMissingImports]

from dressage import outbox
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import StreamConfig
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client, RunCancelled
from dressage.outbox import schema
from dressage.protocol.errors import NotFound

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]
    from tests.tracing.conftest import Collector, Span  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

SHOP: Final = """
import asyncio
from datetime import timedelta
from opentelemetry import trace
from dressage.flow import App, Exponential, publish, workflow
from dressage.worker import current_task

app = App("shop")


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=20)))
async def charge(order: str) -> str:
    if current_task().attempt == 1:
        raise RuntimeError("the terminal is asleep")
    with trace.get_tracer("shop").start_as_current_span("bank"):
        await asyncio.sleep(0.01)
    return "paid " + order


@app.task(timeout=timedelta(seconds=30))
def pack(order: str) -> str:
    with trace.get_tracer("shop").start_as_current_span("shelf"):
        return "packed " + order


@workflow(name="ship")
async def ship(order: str) -> str:
    return await pack(order)


@workflow(name="sell")
async def sell(order: str) -> str:
    paid = await charge(order)
    packed = await ship(order)
    await publish("shop.sold", order)
    return paid + ", " + packed


@workflow(name="thank")
async def thank(order: str) -> str:
    return "thanks for " + order
"""
TRIGGERS: Final = """
[[trigger]]
name = "sold"
source = { stream = "shop", subject = "shop.sold" }
workflow = "thank"
run_id = "'thanks-' + event"

[trigger.input]
order = "event"
"""
ENDED: Final = {"run sell", "run ship", "run thank"}


@dataclass
class Place:
    client: Client
    url: str


@pytest.fixture
async def place(
    start: Start, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    """A server, and an orchestrator, a worker and a trigger in processes of their own."""
    (tmp_path / "traced_shop.py").write_text(SHOP)
    (tmp_path / "triggers.toml").write_text(TRIGGERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "traced_shop", raising=False)
    async with EmbeddedServer(tmp_path / "nats") as server:
        connection = await JetStreamBroker(server.url).connect("shop")
        await connection.ensure_stream(StreamConfig("shop", ["shop.>"]))
        await connection.close()
        start("orchestrator", "--server", server.url, env=collector.env).says("serving namespace")
        start("worker", "traced_shop:app", "--server", server.url, env=collector.env).says("executing")
        start("deploy", "traced_shop", "--server", server.url).ended()
        start("trigger", "run", "triggers.toml", "--server", server.url).says("serving namespace")
        async with Client(server.url) as client:
            yield Place(client, server.url)


def tree(spans: list[Span], parent_id: str) -> dict[str, object]:
    """Names of spans by the names of those that they are in, but for turns."""
    children = [span for span in spans if span.parent_id == parent_id and not span.name.startswith("turn ")]
    return {span.name: tree(spans, span.span_id) for span in sorted(children, key=lambda span: span.began_ns)}


async def test_a_trace_goes_through_turns_tasks_child_runs_and_events(
    place: Place, collector: Collector
) -> None:
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("order") as span:
        order = span.get_span_context()
        run = await place.client.start("sell", {"order": "o-1"}, run_id="s-1")
    assert await run.result(30) == "paid o-1, packed o-1"
    await until(lambda: {span.name for span in collector.spans} >= ENDED, "every run is told of", 30)
    # What follows in other processes is sent a moment later.
    await until(lambda: len(collector.named("task pack")) == 1, "and the tasks", 30)
    spans = list(collector.spans)
    assert {each.trace_id for each in spans} == {f"{order.trace_id:032x}"}
    assert len({each.span_id for each in spans}) == len(spans)
    (sell,) = collector.named("run sell")
    assert sell.parent_id == f"{order.span_id:016x}"
    tried, charged = sorted(collector.named("task charge"), key=lambda each: each.began_ns)
    assert tree(spans, tried.span_id) == {}
    assert tree(spans, charged.span_id) == {"bank": {}}
    assert tree(spans, sell.parent_id) == {
        "run sell": {"task charge": {"bank": {}}, "run ship": {"task pack": {"shelf": {}}}, "run thank": {}}
    }
    assert (tried.failed, tried.attributes["dressage.attempt"]) == ("RuntimeError: the terminal is asleep", 1)
    assert (charged.failed, charged.attributes["dressage.attempt"]) == ("", 2)
    assert {each.service for each in spans} == {"dressage-orchestrator", "dressage-worker-shop"}
    of_sell = [span for span in spans if span.parent_id == sell.span_id and span.name.startswith("turn ")]
    assert sorted(span.name for span in of_sell) == [
        "turn child-ended",
        "turn start-run",
        "turn task-result",
        "turn task-result",
    ]
    assert all(span.began_ns <= span.ended_ns for span in spans)
    assert all(sell.began_ns <= span.ended_ns <= sell.ended_ns + 10**9 for span in of_sell)
    assert sell.attributes == {
        "dressage.run_id": "s-1",
        "dressage.workflow": "sell",
        "dressage.version": 1,
        "dressage.status": "completed",
    }
    # Everybody else finds it in the output events.
    told = [event async for event in place.client.history("s-1")]
    assert {event.traceparent for event in told} == {f"00-{sell.trace_id}-{sell.span_id}-01"}


async def test_a_run_that_fails_is_a_span_that_has_failed(place: Place, collector: Collector) -> None:
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("order"):
        run = await place.client.start("sell", {"order": "o-2"}, run_id="s-2")
    await run.cancel("changed their mind", at_once=True)
    with pytest.raises(RunCancelled):
        await run.result(30)
    await until(lambda: len(collector.named("run sell")) == 1, "the run is told of", 30)
    (sell,) = collector.named("run sell")
    assert (sell.failed, sell.attributes["dressage.status"]) == ("cancelled", "cancelled")


async def test_nothing_is_told_of_a_run_in_no_trace_nor_in_one_that_is_not_sampled(
    place: Place, collector: Collector
) -> None:
    unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    await (await place.client.start("sell", {"order": "o-3"}, run_id="s-3")).result(30)
    await (await place.client.start("sell", {"order": "o-4"}, run_id="s-4", traceparent=unsampled)).result(30)
    with TracerProvider().get_tracer("test").start_as_current_span("order"):
        await (await place.client.start("thank", {"order": "o-5"}, run_id="s-5")).result(30)
    await until(lambda: len(collector.named("run thank")) == 1, "the traced one is told of", 30)
    ours = [each for each in collector.spans if each.name not in ("bank", "shelf")]
    assert {each.attributes["dressage.run_id"] for each in ours} == {"s-5"}
    first = [event.traceparent async for event in place.client.history("s-3")]
    assert set(first) == {""}
    # Its context goes on all the same: somebody else may decide otherwise.
    second = {event.traceparent async for event in place.client.history("s-4")}
    assert {each[:35] for each in second} == {unsampled[:35]}
    assert {each[-3:] for each in second} == {"-00"}


async def test_the_outbox_carries_a_trace(place: Place, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    connection = sqlite3.connect(path)
    for statement in schema.statements("sqlite"):
        connection.execute(statement)
    with TracerProvider().get_tracer("test").start_as_current_span("order") as span, connection:
        outbox.start(connection, "thank", {"order": "o-6"}, run_id="s-6")
        trace_id = f"{span.get_span_context().trace_id:032x}"
    connection.close()
    start("outbox", "relay", "--dsn", f"sqlite:///{path}", "--server", place.url)

    async def is_sent() -> bool:
        try:
            return (await place.client.get("s-6")).status == "completed"
        except NotFound:
            return False

    await until(is_sent, "the relay has sent it", 30)
    traces = {event.traceparent[3:35] async for event in place.client.history("s-6")}
    assert traces == {trace_id}
