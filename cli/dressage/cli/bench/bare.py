"""The ceiling: the same messages without an engine. `python -m dressage.cli.bench.bare PART URL SHAPE`.

Three processes again, as many messages of the same sizes on the same kinds of subjects and streams, batches in flight
one a connection as the engine does it, acknowledged and removed in the same way; but nothing is decoded, folded or
remembered.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, ConsumerConfig, Delivery, Message
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import provision
from dressage.cli.bench.engine import OPEN_MAX
from dressage.cli.bench.shape import Shape
from dressage.cli.running import run
from dressage.protocol.names import Names

NAMES: Final = Names("bare")
BATCH_MAX: Final = 900
QUEUE: Final = "bench"


class Sender:
    """Batches of whatever waits, one in flight; a lone message goes as itself."""

    def __init__(self, connection: Connection, last: Message | None = None) -> None:
        self._connection = connection
        self._last = last
        self._waiting: list[Message] = []
        self._wake = asyncio.Event()

    def add(self, message: Message) -> None:
        self._waiting.append(message)
        self._wake.set()

    async def work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
                await self._connection.publish_batch([*batch, self._last] if self._last else batch)


async def prepare(connection: Connection) -> None:
    await provision(connection, NAMES, shards=1, replicas=1)
    stream = NAMES.shard_stream(0)
    await connection.create_consumer(stream, ConsumerConfig("orch_1", [NAMES.commands(0)]))
    await connection.create_consumer(stream, ConsumerConfig("task_bench", [NAMES.task(0, QUEUE)]))


async def orchestrator(broker: JetStreamBroker, shape: Shape) -> None:
    """For a start: a task. For a result: the next task, or the end, told by the number in the subject."""
    intake, turns, events, states = [
        await broker.connect(f"bare-{part}") for part in ("in", "turns", "events", "states")
    ]
    await prepare(intake)
    cursor = Message(NAMES.cursor(0), b"c" * 80, rollup=True)
    position = Message(NAMES.position(0), b"p" * 60, rollup=True)
    turn, behind, snapshots = Sender(turns, cursor), Sender(events, position), Sender(states)
    task, state = b"t" * shape.task, b"s" * shape.state
    event = [b"e" * size for size in shape.events]
    floor = 0
    owed = 0.0

    def on_delivery(delivery: Delivery) -> None:
        nonlocal floor, owed
        run_number, _, step = delivery.subject.rsplit(".", 1)[1].partition("-")
        done = int(step)
        floor = delivery.stream_seq
        if done < 3:
            turn.add(Message(NAMES.task(0, QUEUE), task + b"%b-%d" % (run_number.encode(), done + 1)))
        else:
            answers.append(run_number)
        part = len(event) // 4 + (1 if done == 3 else 0)
        headers = {"Dressage-Run": "0" * 36, "content-type": "application/cloudevents+json"}
        for number in range(part):
            behind.add(
                Message(NAMES.event(0, "bench-order", "task-completed", number), event[number], headers)
            )
        owed += shape.states / 4
        if owed >= 1:
            owed -= 1
            snapshots.add(Message(NAMES.run_key(0, run_number), state))
        taken.append(1)

    answers: list[str] = []
    taken: list[int] = []

    async def tidy() -> None:
        removed = 0
        while True:
            await asyncio.sleep(0.2)
            await pull.taken(0)
            if floor > removed:
                await intake.purge(NAMES.shard_stream(0), NAMES.commands(0), floor + 1)
                removed = floor
            acked = (await intake.consumer_state(NAMES.shard_stream(0), "task_bench")).floor
            await intake.purge(NAMES.shard_stream(0), NAMES.task(0, QUEUE), acked + 1)

    async def credit() -> None:
        while True:
            await asyncio.sleep(0)
            if taken or answers:
                count, told = len(taken), list(answers)
                taken.clear()
                answers.clear()
                await pull.taken(count)
                for number in told:
                    await intake.tell("bare.done", number.encode())
            else:
                await asyncio.sleep(0.001)

    pull = await intake.pull(NAMES.shard_stream(0), "orch_1", 2000, on_delivery, _stop)
    print("ready", flush=True)
    await asyncio.gather(turn.work(), behind.work(), snapshots.work(), tidy(), credit())


async def worker(broker: JetStreamBroker, shape: Shape) -> None:
    connection = await broker.connect("bare-worker", reconnect=True)
    results = b"r" * shape.result
    waiting: list[Delivery] = []
    wake = asyncio.Event()

    def on_delivery(delivery: Delivery) -> None:
        waiting.append(delivery)
        wake.set()

    pull = await connection.pull(NAMES.shard_stream(0), "task_bench", 500, on_delivery, _stop)
    print("ready", flush=True)
    while True:
        await wake.wait()
        wake.clear()
        while waiting:
            taken, waiting[:] = waiting[:500], waiting[500:]
            await connection.publish_batch(
                [Message(NAMES.command(0, task.data[shape.task :].decode()), results) for task in taken]
            )
            for task in taken:
                await connection.ack(task)
            await pull.taken(len(taken))


def _stop(reason: str) -> None:
    raise SystemExit(reason)


async def drive(broker: JetStreamBroker, shape: Shape, runs: int) -> None:
    """The client: keeps `OPEN_MAX` workflows open until all are done."""
    connection = await broker.connect("bare-client", reconnect=True)
    start = b"i" * shape.start
    sender = Sender(connection)
    work = asyncio.create_task(sender.work())
    done = asyncio.Event()
    began = ended = 0

    def begin() -> None:
        nonlocal began
        sender.add(Message(NAMES.command(0, f"{began}-0"), start))
        began += 1

    async def on_done(_: str, __: bytes, ___: str) -> None:
        nonlocal ended
        ended += 1
        if ended >= runs:
            done.set()
        elif began < runs:
            begin()

    served = await connection.serve("bare.done", on_done)
    for _ in range(min(runs, OPEN_MAX)):
        begin()
    await done.wait()
    work.cancel()
    await served.close()
    await connection.close()


def main(part: str, url: str, shape_file: str) -> None:
    shape = msgspec.json.decode(Path(shape_file).read_bytes(), type=Shape)
    run({"orchestrator": orchestrator, "worker": worker}[part](JetStreamBroker(url), shape))


if __name__ == "__main__":
    main(*sys.argv[1:])
