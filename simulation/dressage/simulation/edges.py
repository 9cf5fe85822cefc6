"""Triggers and sinks among faults: real ones, and a real engine, between a stream of a service and one for others.

A service publishes steps of runs. One trigger posts them, in the order of each run; one starts a run for each batch of
them; both are deployed, and changed, paused and resumed under way. A sink tells others of what the runs do. Processes
die at any of their steps, and connections break. In the end each step was posted once and in order, each is in one
batch, and each output event was told of once, those of a run in order.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dressage.brokers.interface import Message, StreamConfig
from dressage.client import Client
from dressage.connectors import TriggerOptions, TriggerRunner, parse_triggers
from dressage.connectors.connect.config import parse_connectors
from dressage.connectors.connect.options import ConnectorOptions
from dressage.connectors.connect.runner import ConnectorRunner
from dressage.connectors.definitions import Definitions
from dressage.connectors.place import read_place
from dressage.flow import Event, workflow
from dressage.protocol.errors import DressageError
from dressage.protocol.events import KIND, ReceivedEvent, RunCompleted, RunStarted, decode_event
from dressage.protocol.names import Names
from dressage.simulation.processes import Life
from dressage.simulation.small import SECONDS, SmallWorld

RUNS, STEPS = 6, 5
STREAM: Final = "STEPS"
OUT: Final = "OUT"
TRIGGERS: Final = 2
SINKS: Final = 2
SIZE: Final = 4

stepped = Event("stepped", of=int)

CONFIG: Final = """
[[trigger]]
name = "by-run"
source = { stream = "STEPS" }
order_by = "event['run']"
event = "stepped"
run_id = "event['run']"
payload = "event['step']"

[[trigger]]
name = "batches"
source = { stream = "STEPS" }
batch = { size = 4, within = "0.3s" }
workflow = "gather"
run_id = "f'batch-{batch}'"
[trigger.input]
steps = "[f\\"{each['run']}/{each['step']}\\" for each in events]"
"""

SINK: Final = """
[[connector]]
name = "out"
type = "sink"
subject = "'out.' + key"
"""


@workflow
async def collect(count: int) -> list[int]:
    seen: list[int] = []
    while len(seen) < count:
        value = await stepped.wait()
        seen = [*seen, value]
    return seen


@workflow
async def gather(steps: list[str]) -> int:
    return len(steps)


@dataclass
class EdgesWorld(SmallWorld):
    """Everything of one seed."""

    name = "edges"

    published: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        super().__post_init__()
        for number in range(TRIGGERS):
            self.add(f"trigger-{number}", self._trigger)
        for number in range(SINKS):
            self.add(f"sink-{number}", self._sink)

    async def _trigger(self, life: Life) -> None:
        options = TriggerOptions(self.name, in_flight=6, answer_s=4.0, drain_s=2.0)
        await TriggerRunner(life.broker, None, options).run()

    async def _sink(self, life: Life) -> None:
        options = ConnectorOptions(self.name, in_flight=20, drain_s=2.0)
        await ConnectorRunner(life.broker, parse_connectors(SINK), options).run()

    async def prepare(self, client: Client) -> None:
        for name, subjects in ((STREAM, "steps.>"), (OUT, "out.>")):
            await client.connection.ensure_stream(StreamConfig(name, [subjects]))
        await client.register(collect)
        await client.register(gather)
        definitions = Definitions(client.connection, client.names)
        for config in parse_triggers(CONFIG):
            await definitions.deploy(config, "operator")

    # -- what services and operators do ------------------------------------------------------------
    async def work(self) -> None:
        async with self.client() as client:
            await asyncio.gather(self._operate(client), *(self._publish(client, run) for run in range(RUNS)))

    async def _publish(self, client: Client, number: int) -> None:
        """A run is started before its steps, between them, or behind them: events wait for their run."""
        run_id, start_at = f"run-{number}", self.chance.randint(0, STEPS)
        await asyncio.sleep(self.chance.random() * SECONDS / 3)
        for step in range(STEPS + 1):
            if step == start_at:
                await self._start(client, run_id)
            if step < STEPS:
                body = msgspec.json.encode({"run": run_id, "step": step})
                await client.connection.publish(Message(f"steps.{number}", body))
                self.published.append(f"{run_id}/{step}")
            if self.chance.random() < 0.5:
                await asyncio.sleep(self.chance.random() * SECONDS / 4)

    async def _start(self, client: Client, run_id: str) -> None:
        while True:
            try:
                await client.start("collect", {"count": STEPS}, run_id=run_id)
                return
            except DressageError:
                await asyncio.sleep(0.2)

    async def _operate(self, client: Client) -> None:
        definitions = Definitions(client.connection, client.names)
        await asyncio.sleep(self.chance.random() * SECONDS / 2)
        what = self.chance.choice(("change", "pause", "nothing"))
        if what == "change":
            changed = CONFIG.replace("size = 4", "size = 3").replace(
                "event['run']\"\nevent =", 'subject"\nevent ='
            )
            for config in parse_triggers(changed):
                await definitions.deploy(config, "operator")
        if what == "pause":
            await definitions.pause("by-run", "operator")
            await asyncio.sleep(self.chance.random() * 2)
            await definitions.resume("by-run", "operator")

    # -- the outcome -------------------------------------------------------------------------------
    async def is_settled(self) -> bool:
        """All of the stream was taken, all runs have ended, and all that was told of them is told of."""
        async with self.client() as client:
            steps = self.server.streams[STREAM].log.last_seq
            for name in ("by-run", "batches"):
                found = await Definitions(client.connection, client.names).get(name)
                key = client.names.trigger_place_key(name, found.entry.incarnation)
                place, _ = await read_place(client.connection, client.names, key)
                if place is None or place.seq < steps:
                    return False
            place, _ = await read_place(
                client.connection, client.names, client.names.connector_place_key("out")
            )
            last = await client.connection.last_message(client.names.events_stream, client.names.all_events())
            return place is not None and last is not None and place.seq >= last.seq and self._ended() >= RUNS

    def _events(self) -> list[ReceivedEvent]:
        """All output events, in the order of their stream."""
        root = f"{Names(self.name).root}.events."
        return [decode_event(each.data) for each in self.server.ledger if each.subject.startswith(root)]

    def _ended(self) -> int:
        return sum(
            event.workflow == "collect" and event.kind == KIND[RunCompleted] for event in self._events()
        )

    async def judge(self) -> None:
        await self._judge_order()
        self._judge_batches()
        self._judge_told()

    async def _judge_order(self) -> None:
        async with self.client() as client:
            for number in range(RUNS):
                try:
                    found = await client.handle(f"run-{number}").result(30.0)
                except DressageError as error:
                    self.violations.append(f"posted-once: run-{number}: {error}")
                    continue
                if found != list(range(STEPS)):
                    self.violations.append(f"order-of-a-key: run-{number} has {found}")

    def _judge_batches(self) -> None:
        """Batches are cut out of the stream, one behind the other."""
        given = [
            msgspec.json.decode(bytes(event.data))["input"]["steps"]
            for event in self._events()
            if event.workflow == "gather" and event.kind == KIND[RunStarted]
        ]
        stored = [
            "{run}/{step}".format(**msgspec.json.decode(each.data))
            for each in self.server.ledger
            if each.subject.startswith("steps.")
        ]
        at = {step: place for place, step in enumerate(stored)}
        batches = sorted(given, key=lambda batch: at[batch[0]])
        if [step for batch in batches for step in batch] != stored:
            self.violations.append(f"one-batch-each: {batches} are not {stored}")
        if any(len(batch) > SIZE for batch in batches):
            self.violations.append(f"one-batch-each: a batch is too large: {batches}")

    def _judge_told(self) -> None:
        wanted, told = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for event in self._events():
            wanted[event.subject].append(event.id)
        for each in self.server.ledger:
            if each.subject.startswith("out."):
                event = decode_event(each.data)
                told[event.subject].append(event.id)
        for run_id in wanted.keys() | told.keys():
            if wanted[run_id] != told[run_id]:
                self.violations.append(
                    f"told-once: of {run_id} {told[run_id]} was told, not {wanted[run_id]}"
                )
