"""The owner of a shard dies at every single write it makes, before it and after it; another one takes over.

Whatever the point, every run must finish, its events stand exactly once and in order, what it publishes as well, and
the stream must be left empty. A death cuts the process off its broker at that instant and never resumes its tasks.

The short form, in every suite, takes every third write, beginning at another one in each of the forms of death; the
long one, with FAULTS_LONG set as by `make faults LONG=1`, takes every write in each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest

from dressage.brokers.interface import Connection, Message, Stored, StreamConfig
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.flow import App, Exponential, WorkflowFailure, publish, sleep, workflow
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig
from dressage.protocol.commands import CancelRun, StartRun
from dressage.protocol.errors import DressageError
from dressage.protocol.events import DomainEvent
from dressage.protocol.names import Names
from dressage.worker import Worker, WorkerConfig, current_task

pytestmark = pytest.mark.anyio

EVERY = 1 if os.environ.get("FAULTS_LONG") else 3
"""The distance between the writes at which the owner dies."""

WRITES_MIN = 20
EMPTY = 1
"""Only the cursor stays in a shard's stream when everything is done."""

AT_ONCE = 5
"""Scenarios that run beside each other, each in a namespace of its own."""

app = App("crash")


class Declined(WorkflowFailure): ...


@app.task(retries=2, backoff=Exponential(base=timedelta(milliseconds=20)))
async def shaky(n: int) -> int:
    if current_task().attempt == 1:
        raise RuntimeError("the first attempt fails")
    return n + 1


@app.task
async def decline(n: int) -> int:
    raise Declined(f"declined {n}")


@workflow(name="crashing")
async def crashing(n: int) -> int:
    a = await shaky(n)
    await sleep(0.03)
    try:
        a = await decline(a)
    except Declined:
        a = a + 100
    for step in range(2):
        await publish(f"crashing.{step}", [n, step])
    return a


@app.task(retries=1, backoff=Exponential(base=timedelta(hours=1), limit=timedelta(hours=1)))
async def hopeless(n: int) -> int:
    raise RuntimeError("every attempt fails")


@workflow(name="dozing")
async def dozing(n: int) -> int:
    await sleep(3600)
    return n


@workflow(name="backing-off")
async def backing_off(n: int) -> int:
    return await hopeless(n)


CANCELLED = {
    "cancelled-at-once": ["run-started", "sleep-started", "run-cancelled"],
    "cancelled-asleep": ["run-started", "sleep-started", "run-cancelled"],
    "cancelled-backing-off": [
        "run-started",
        "task-scheduled",
        "task-failed",
        "task-scheduled",
        "run-cancelled",
    ],
}
"""The histories of runs that are cancelled while a timer of theirs is pending."""

EXPECTED = [
    "run-started",
    "task-scheduled",
    "task-failed",
    "task-scheduled",
    "task-completed",
    "variable-changed",
    "sleep-started",
    "sleep-ended",
    "task-scheduled",
    "task-failed",
    "failure-caught",
    "variable-changed",
    "variable-changed",
    "published",
    "variable-changed",
    "published",
    "run-completed",
]


@dataclass
class Fate:
    """When the process dies: at its `at`th write, and whether that write still has its effect."""

    at: int
    effective: bool
    writes: int = 0
    dead: bool = False
    died: asyncio.Event = field(default_factory=asyncio.Event)

    def strikes(self) -> bool:
        if self.dead:
            return True
        self.writes += 1
        if self.writes == self.at:
            self.dead = True
            self.died.set()
            return True
        return False


class MortalConnection:
    """A connection of a process that dies: from then on nothing it does has an effect, and nothing answers it."""

    def __init__(self, inner: Connection, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._inner, name)
        if not asyncio.iscoroutinefunction(attribute):
            return attribute

        async def cut(*args: Any, **kwargs: Any) -> Any:
            if self._fate.dead and name != "close":
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise asyncio.CancelledError  # What tidies up dies as well: no second cancelling would reach it.
                await asyncio.Future()
            return await attribute(*args, **kwargs)

        return cut

    def send(self, message: Message) -> asyncio.Future[Stored]:
        already = self._fate.dead
        if self._fate.strikes():
            if self._fate.effective and not already:
                _ = self._inner.send(message)
            return asyncio.get_running_loop().create_future()
        return self._inner.send(message)

    async def publish(self, message: Message) -> Stored:
        return cast("Stored", await self._mortal(lambda: self._inner.publish(message)))

    async def publish_elsewhere(self, message: Message) -> Stored:
        return cast("Stored", await self._mortal(lambda: self._inner.publish_elsewhere(message)))

    async def publish_batch(self, messages: Sequence[Message]) -> Stored:
        return cast("Stored", await self._mortal(lambda: self._inner.publish_batch(messages)))

    async def purge(self, stream: str, subjects: str, below: int) -> None:
        await self._mortal(lambda: self._inner.purge(stream, subjects, below))

    async def delete_message(self, stream: str, seq: int) -> None:
        await self._mortal(lambda: self._inner.delete_message(stream, seq))

    async def tell(self, subject: str, data: bytes) -> None:
        await self._mortal(lambda: self._inner.tell(subject, data))

    async def _mortal(self, write: Callable[[], Awaitable[Any]]) -> Any:
        already = self._fate.dead
        if self._fate.strikes():
            if self._fate.effective and not already:
                await asyncio.gather(asyncio.shield(asyncio.ensure_future(_quietly(write))))
            await asyncio.Future()
        return await write()


async def _quietly(write: Callable[[], Awaitable[Any]]) -> None:
    """The last write of a dead process: nobody is left to be told what became of it."""
    with contextlib.suppress(DressageError):
        await write()


class MortalBroker:
    def __init__(self, inner: JetStreamBroker, fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    async def connect(self, name: str, *, reconnect: bool = False) -> Any:
        connection = await self._inner.connect(name, reconnect=reconnect)
        return MortalConnection(connection, self._fate) if name.startswith("dressage-shard") else connection


async def run_once(broker: JetStreamBroker, config: OrchestratorConfig, fate: Fate, audit: Any) -> None:
    """Runs under an owner that meets its fate, and under a second one; then the audit."""
    names = Names(config.namespace)
    mortal = Orchestrator(MortalBroker(broker, fate), config)
    first = asyncio.create_task(mortal.run())
    ready = asyncio.create_task(mortal.ready())
    died = asyncio.create_task(fate.died.wait())
    await asyncio.wait({first, ready, died}, return_when=asyncio.FIRST_COMPLETED)
    heir = Orchestrator(broker, config)
    second: asyncio.Task[None] | None = None
    watch = await broker.connect("watch")
    await watch.ensure_stream(StreamConfig("crashing", ["crashing.>"]))
    try:
        async with Client(broker, namespace=config.namespace) as client:
            registered = await client.register(crashing)
            async with Worker(broker, app, WorkerConfig(config.namespace)):
                for n in range(3):
                    command = StartRun("crashing", registered.version, msgspec.Raw(b'{"n":%d}' % n), f"c{n}")
                    await client.send(f"run-{n}", command)
                all_done = asyncio.create_task(_all_finished(client, watch, names, audit))
                await asyncio.wait({all_done, died}, return_when=asyncio.FIRST_COMPLETED)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                second = asyncio.create_task(heir.run())
                await asyncio.wait_for(all_done, 30)
                await asyncio.wait_for(_holds(watch, names, EMPTY), 15)
                for n in range(3):
                    view = await client.get(f"run-{n}")
                    assert view.status == "completed", view.failure
                    assert view.output
                    assert msgspec.json.decode(view.output) == n + 101
        found = await audit(watch, names)
        assert found.wrong() == []
        for n in range(3):
            assert found.kinds(f"run-{n}") == EXPECTED
        for run, kinds in CANCELLED.items():
            assert found.kinds(run) == kinds
        told = await _told(watch, config.namespace)
        assert {run: told[run] for run in sorted(told)} == {f"run-{n}": [[n, 0], [n, 1]] for n in range(3)}
    finally:
        for task in (ready, died, first):
            task.cancel()
        heir.stop()
        if second is not None:
            await second
        await watch.close()


async def _all_finished(client: Client, connection: Connection, names: Names, audit: Any) -> None:
    """Also sees to it that runs are cancelled: one behind its start, the others once their timer is set."""
    for each in (dozing, backing_off):
        await client.register(each)
    for run in CANCELLED:
        what = "backing-off" if run.endswith("backing-off") else "dozing"
        await client.send(run, StartRun(what, 1, msgspec.Raw(b'{"n":0}'), f"c-{run}"))
    await client.send("cancelled-at-once", CancelRun("x"))
    waiting = dict(CANCELLED) | {"cancelled-at-once": []}
    while len((found := await audit(connection, names)).finished) < 3 + len(CANCELLED):
        for run, kinds in waiting.items():
            if kinds and found.kinds(run) == kinds[:-1]:
                await client.send(run, CancelRun("x"))
                waiting[run] = []
        await asyncio.sleep(0.05)


async def _told(connection: Connection, namespace: str) -> dict[str, list[Any]]:
    """What the user's stream has of a namespace, by run."""
    told: dict[str, list[Any]] = {}
    seq = 1
    while (message := await connection.next_message("crashing", seq, "crashing.>")) is not None:
        event = msgspec.json.decode(message.data, type=DomainEvent)
        if event.source.split("/")[2] == namespace:
            told.setdefault(event.subject, []).append(msgspec.json.decode(event.data))
        seq = message.seq + 1
    return told


async def _holds(connection: Connection, names: Names, messages: int) -> None:
    """Waits until so many messages stand in the shard's stream."""
    while True:
        state = await connection.stream_state(names.shard_stream(0))
        if state is not None and state.messages == messages:
            return
        await asyncio.sleep(0.05)


@pytest.mark.faults
@pytest.mark.timeout(1800 if EVERY == 1 else 240)
@pytest.mark.parametrize(
    ("singles_max", "effective", "form"),
    [(8, True, 0), (8, False, 1), (0, True, 2), (0, False, 3)],
    ids=["written-singles", "not-written-singles", "written-batches", "not-written-batches"],
)
async def test_death_at_every_write(
    broker: JetStreamBroker, namespace: str, audit: Any, singles_max: int, form: int, *, effective: bool
) -> None:
    async def die_at(at: int) -> bool:
        fate = Fate(at, effective)
        config = OrchestratorConfig(f"{namespace}-{at}", singles_max=singles_max, states_linger_s=0.01)
        try:
            await run_once(broker, config, fate, audit)
        except BaseException as error:
            error.add_note(f"the owner died at write {at}")
            raise
        return fate.dead

    points = itertools.count(1 + form % EVERY, EVERY)
    died: list[int] = []
    while True:
        chosen = list(itertools.islice(points, AT_ONCE))
        deaths = await asyncio.gather(*(die_at(at) for at in chosen))
        died += [at for at, dead in zip(chosen, deaths, strict=True) if dead]
        if not all(deaths):
            break
    assert max(died) > WRITES_MIN, (
        f"only {max(died)} writes were seen: the scenario does not exercise the turn"
    )
    print(f"died at {len(died)} of {max(died)} writes")
