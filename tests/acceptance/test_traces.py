"""What an orchestrator tells of traced runs when it is not alone, and what the edges make of a run's context."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]
from tests.tracing.test_context import STARTER  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client, RunFailed
from dressage.connectors.connect.config import parse_connectors
from dressage.connectors.connect.event_mapping import EventOutput, headers_of
from dressage.connectors.http.app import HttpApp
from dressage.connectors.kafka.config import SinkConnector, SourceConnector
from dressage.connectors.kafka.event_mapping import EventRecords
from dressage.connectors.kafka.record_mapping import RecordMapping
from dressage.connectors.kafka.records import Record
from dressage.connectors.mapping import Start
from dressage.flow import App, Event, workflow
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.events import decode_event
from dressage.protocol.traces import Trace, trace_of_run
from dressage.telemetry.tracing import Attributes

pytestmark = pytest.mark.anyio

called = Event("called-again")


@workflow(name="waits-for-a-call")
async def waiting() -> int:
    await called.wait()
    return 1


class Told:
    """Counts spans by their names."""

    def __init__(self) -> None:
        self.spans = Counter[str]()

    def tell(
        self,
        name: str,
        span: Trace,
        parent_id: str,
        began_ns: int,
        ended_ns: int,
        attributes: Attributes,
        error: str = "",
    ) -> None:
        self.spans[name] += 1

    def close(self) -> None:
        pass


async def test_what_a_take_over_folds_again_is_told_once(server: EmbeddedServer) -> None:
    engine = Engine(server.url, 1)
    told = Told()
    config = OrchestratorConfig(engine.namespace, states_linger_s=3600.0)
    _, first = await run_beside(JetStreamBroker(server.url), config, told)
    async with Client(server.url, namespace=engine.namespace) as client:
        await client.register(waiting)
        run = await client.start(waiting, {}, run_id="r", traceparent=STARTER)
        await until(lambda: told.spans["turn start-run"] == 1, "the start is told of", 30)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        heir, second = await run_beside(JetStreamBroker(server.url), config, told)
        await run.post("called-again", None)
        assert await run.result(20) == 1
        await until(lambda: told.spans["run waits-for-a-call"] == 1, "the end is told of", 30)
        heir.stop()
        await second
    assert told.spans == {"turn start-run": 1, "turn post-event": 1, "run waits-for-a-call": 1}


async def test_the_same_start_in_another_trace_is_the_same_run(engine: Engine) -> None:
    client = await engine.registered(waiting)
    await client.start(waiting, {}, run_id="r", traceparent=STARTER)
    again = await client.start(waiting, {}, run_id="r", traceparent=STARTER.replace("b7ad", "b7ae"))
    assert again.existing
    await client.start(waiting, {}, run_id="rubbish", traceparent="rubbish")
    own = {event.traceparent async for event in client.handle("rubbish").history()}
    assert own == {""}


async def test_by_the_api_and_by_http_a_start_is_in_the_trace_it_names(engine: Engine) -> None:
    client = await engine.registered(waiting)
    given = {"workflow": "waits-for-a-call", "run_id": "by-api", "traceparent": STARTER}
    assert (await engine.call("start", given))["ok"]
    app = HttpApp(engine.url, namespace=engine.namespace)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as http:
        body = {"workflow": "waits-for-a-call", "run_id": "by-http"}
        answer = await http.post("/runs", json=body, headers={"traceparent": STARTER})
        assert answer.status_code == 201, answer.text
        body["run_id"] = "by-rubbish"
        answer = await http.post("/runs", json=body, headers={"traceparent": "rubbish"})
        assert answer.status_code == 201, answer.text
    await app.close()
    traces = {
        run_id: {event.traceparent[:35] async for event in client.history(run_id)}
        for run_id in ("by-api", "by-http", "by-rubbish")
    }
    assert traces == {"by-api": {STARTER[:35]}, "by-http": {STARTER[:35]}, "by-rubbish": {""}}


# -- Kafka -----------------------------------------------------------------------------------------
SOURCE = """
[[connector]]
name = "in"
type = "source"
topics = ["orders"]
workflow = "take-order"

[connector.input]
order = "value"

[connector.kafka]
"bootstrap.servers" = "127.0.0.1:1"
"""
SINK = """
[[connector]]
name = "out"
type = "sink"
topics = ["events"]
value.format = "{form}"

[connector.kafka]
"bootstrap.servers" = "127.0.0.1:1"
"""


async def test_a_record_starts_a_run_in_its_trace() -> None:
    (config,) = parse_connectors(SOURCE)
    assert isinstance(config, SourceConnector)
    mapping = RecordMapping(config)
    for headers, wanted in (
        ((("traceparent", STARTER.encode()),), STARTER),
        ((), ""),
        ((("traceparent", None),), ""),
    ):
        asked = await mapping.asked(Record("orders", 0, 1, None, b"{}", headers, 0))
        assert isinstance(asked, Start)
        assert asked.traceparent == wanted


@pytest.mark.parametrize("form", ["cloudevents", "cloudevents-binary", "json"])
async def test_records_messages_and_requests_tell_of_the_trace(engine: Engine, form: str) -> None:
    client = await engine.registered(waiting)
    run = await client.start(waiting, {}, run_id="r", traceparent=STARTER)
    await until(lambda: _history(client, 1), "the start is told of", 30)
    stream = client.names.events_stream
    message = await client.connection.next_message(stream, 1, client.names.all_events())
    assert message is not None
    event = decode_event(message.data)
    assert event.traceparent == trace_of_run(STARTER, "r", run.seq)
    (config,) = parse_connectors(SINK.format(form=form))
    assert isinstance(config, SinkConnector)
    record = EventRecords(config).told(message.data).record
    assert record is not None
    headers = dict(record.headers)
    assert headers["traceparent"] == event.traceparent.encode()
    output = EventOutput(config.transforms, config.value_format).of(event, message.data)
    assert output is not None
    assert headers_of(output)["traceparent"] == event.traceparent
    if form == "cloudevents-binary":
        assert headers["ce_traceparent"] == event.traceparent.encode()
        assert headers_of(output)["ce-traceparent"] == event.traceparent
    if form == "cloudevents":
        assert msgspec.json.decode(record.value)["traceparent"] == event.traceparent


async def _history(client: Client, count: int) -> bool:
    return len([event async for event in client.history("r")]) >= count


# -- what runs come to -----------------------------------------------------------------------------
app = App("lately")


@app.task
async def refuse() -> int:
    raise RuntimeError("no")


@workflow(name="refused-at-last")
async def refused_at_last() -> int:
    return await refuse()


async def test_a_rescued_run_is_told_of_again_when_it_ends_again(server: EmbeddedServer) -> None:
    engine = Engine(server.url, 1)
    told = Told()
    orchestrator, task = await run_beside(
        JetStreamBroker(server.url), OrchestratorConfig(engine.namespace), told
    )
    await engine.worker(app)
    async with Client(server.url, namespace=engine.namespace) as client:
        await client.register(refused_at_last)
        run = await client.start(refused_at_last, {}, run_id="r", traceparent=STARTER)
        with pytest.raises(RunFailed):
            await run.result(20)
        await until(lambda: told.spans["run refused-at-last"] == 1, "its failure is told of", 30)
        await client.hold("r", "a lawsuit")
        await client.rescue("r", skip=True, value=7)
        assert await run.result(20) == 7
        await until(lambda: told.spans["run refused-at-last"] == 2, "and its end", 30)
    orchestrator.stop()
    await task
    await engine.close()
    assert told.spans == {
        "turn start-run": 1,
        "turn task-result": 1,
        "turn rescue-run": 1,
        "run refused-at-last": 2,
    }


async def test_who_takes_spans_and_fails_holds_up_no_shard(server: EmbeddedServer) -> None:
    class Broken(Told):
        def tell(self, *given: Any, **named: Any) -> None:
            raise RuntimeError("no spans today")

    engine = Engine(server.url, 1)
    orchestrator, task = await run_beside(
        JetStreamBroker(server.url), OrchestratorConfig(engine.namespace), Broken()
    )
    async with Client(server.url, namespace=engine.namespace) as client:
        await client.register(waiting)
        run = await client.start(waiting, {}, run_id="r", traceparent=STARTER)
        await run.post("called-again", None)
        assert await run.result(20) == 1
        assert [event.kind async for event in run.history()][-1] == "run-completed"
    orchestrator.stop()
    await task
    await engine.close()


clients: list[Client] = []


@app.task
async def start_another() -> str:
    return (await clients[0].start(waiting, {}, run_id="another")).run_id


@workflow(name="starts-another")
async def starts_another() -> str:
    return await start_another()


async def test_a_run_that_a_handler_starts_is_in_the_trace_of_its_run(engine: Engine) -> None:
    client = await engine.registered(waiting, starts_another)
    clients[:] = [client]
    await engine.worker(app)
    run = await client.start(starts_another, {}, run_id="one", traceparent=STARTER)
    assert await run.result(20) == "another"
    own = {event.traceparent[:35] async for event in client.history("another")}
    assert own == {STARTER[:35]}
