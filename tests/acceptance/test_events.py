"""EVENTS as any NATS user sees them: valid CloudEvents 1.0, contiguous for each run."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from dressage.flow import App, WorkflowFailure, sleep, workflow

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

app = App("events")


class Unlucky(WorkflowFailure): ...


@app.task(retries=1)
async def draw(n: int) -> int:
    if n % 3 == 0:
        raise Unlucky(f"{n}")
    return n


@workflow
async def lottery(n: int) -> int:
    if n % 2:
        await sleep(0.05)
    try:
        drawn = await draw(n)
    except Unlucky:
        if n % 6 == 0:
            raise
        drawn = -1
    return drawn // (n % 5)


async def played(engine: Engine, count: int) -> list[Msg]:
    """Runs of all kinds, then every message of EVENTS, by a consumer of plain nats-py."""
    client = await engine.registered(lottery)
    await engine.worker(app)
    await asyncio.gather(*(client.start(lottery, {"n": n}, run_id=f"n.{n}") for n in range(count)))
    await asyncio.gather(*(client.wait(f"n.{n}", timeout_s=8) for n in range(count)))
    for n in range(count):
        _ = [event async for event in client.history(f"n.{n}")]
    stream = (await engine.nats()).jetstream()
    pull = await stream.pull_subscribe(f"dressage.{engine.namespace}.events.>")
    total = (await pull.consumer_info()).num_pending
    found: list[Msg] = []
    while total and len(found) < total:
        found += await pull.fetch(min(500, total - len(found)), timeout=5)
    return found


async def test_the_events_of_each_run_are_contiguous_and_end_once(sharded: Engine) -> None:
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in await played(sharded, 30):
        event = json.loads(message.data)
        runs[event["subject"]].append(event)
    assert len(runs) == 30
    for run, events in runs.items():
        assert [event["index"] for event in events] == list(range(len(events))), run
        assert events[0]["type"] == "dressage.run-started"
        ends = [
            event["type"]
            for event in events
            if event["type"] in {"dressage.run-completed", "dressage.run-failed"}
        ]
        assert ends == [events[-1]["type"]], run


async def test_every_event_is_a_valid_cloud_event(engine: Engine) -> None:
    messages = await played(engine, 12)
    ids: set[tuple[str, str]] = set()
    for message in messages:
        headers = {name.lower(): value for name, value in (message.headers or {}).items()}
        assert headers["content-type"].startswith("application/cloudevents+json")
        event = json.loads(message.data)
        assert event["specversion"] == "1.0"
        for attribute in ("id", "source", "type"):
            assert isinstance(event[attribute], str)
            assert event[attribute]
        assert datetime.fromisoformat(event["time"]).utcoffset() is not None
        assert event["datacontenttype"] == "application/json"
        for name, value in event.items():
            assert name == "data" or (name.isalnum() and name == name.lower()), name
            assert name == "data" or isinstance(value, (str, int, bool)), name
        ids.add((event["source"], event["id"]))
    assert len(ids) == len(messages)


async def test_every_event_names_its_run_in_a_header_and_its_actor(engine: Engine) -> None:
    for message in await played(engine, 6):
        event = json.loads(message.data)
        assert (message.headers or {})["Dressage-Run"].replace("=2E", ".") == event["subject"]
        assert event["actor"]


async def test_a_live_subscriber_of_one_kind_sees_each_end_once(engine: Engine) -> None:
    """A service that wants to know of ends subscribes to two subjects, and knows nothing of Dressage."""
    live = await engine.nats()
    completed = await live.subscribe(f"dressage.{engine.namespace}.events.*.lottery.run-completed.*")
    failed = await live.subscribe(f"dressage.{engine.namespace}.events.*.lottery.run-failed.*")
    await live.flush()
    await played(engine, 12)
    assert completed.pending_msgs + failed.pending_msgs == 12
    assert completed.pending_msgs
    assert failed.pending_msgs


async def test_no_event_is_early_for_the_one_before_it(engine: Engine) -> None:
    last: dict[str, str] = {}
    for message in await played(engine, 12):
        event = json.loads(message.data)
        assert event["time"] >= last.get(event["subject"], "")
        last[event["subject"]] = event["time"]
