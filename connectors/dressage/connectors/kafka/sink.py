"""A sink: output events become records of Kafka, each once for whoever reads committed records.

The events of a batch and the position behind them are one Kafka transaction. After any doubt, and at each start, all
that is in memory is thrown away: the transactional id is taken over first, which ends a transaction that is open and
shuts out whoever had it before; only then the position is read, and the stream from behind it.

One process of a sink is active, the others stand by: it is the one that has the one partition of the position topic.
That only decides who tries; the transactional id decides who may.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from dressage.brokers.event_feed import BatchLimits, EventFeed, stream_info
from dressage.brokers.interface import Delivery
from dressage.client import Client
from dressage.connectors.connect.metrics import ConnectorMetrics
from dressage.connectors.connect.options import ConnectorFailed, ConnectorOptions
from dressage.connectors.gate import Faults
from dressage.connectors.kafka import position
from dressage.connectors.kafka.causes import Causes
from dressage.connectors.kafka.clients import (
    admin_config,
    position_topic,
    producer_config,
    reader_config,
    standby_config,
)
from dressage.connectors.kafka.config import SinkConnector
from dressage.connectors.kafka.event_mapping import JSON_HEADERS, EventRecords, Headers, Produced, Told
from dressage.connectors.kafka.position import Position
from dressage.connectors.mapping import Unmappable
from dressage.connectors.secrets import settings_revealed
from dressage.connectors.waiting import pause
from dressage.protocol.errors import DressageError, NotFound
from dressage.protocol.events import KIND, RunDeleted

_log = logging.getLogger("dressage.connectors.kafka")

RETRY_S: Final = 0.5
RETRY_MAX_S: Final = 10.0
TAKE_OVER_S: Final = 60.0
COMMIT_S: Final = 60.0
STANDBY_POLL_S: Final = 0.1
STATES_AT_ONCE: Final = 100

_DELETED: Final = KIND[RunDeleted]


class SinkTask:
    """One process's part of a sink."""

    def __init__(
        self, config: SinkConnector, client: Client, options: ConnectorOptions, metrics: ConnectorMetrics
    ) -> None:
        """Raises `BadInput` for a secret that is not there."""
        self._config = config
        self._client = client
        self._options = options
        self._metrics = metrics
        self._settings = settings_revealed(config.kafka)
        self._output = EventRecords(config)
        self._causes = Causes(self._settings)
        self._faults = Faults(config.name, metrics.faulty, "connector")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kafka-{config.name}")
        self._topic = position_topic(client.names, config.name)
        self._producer: Producer | None = None
        self._reached = 0
        self._created = ""
        self._lag_at = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`. Raises `ConnectorFailed` for an event that cannot be written as the file says."""
        pause_s = RETRY_S
        try:
            while not stop.is_set():
                try:
                    await self._stand_by(stop)
                    pause_s = RETRY_S
                except KafkaException as error:
                    self._fault(error.args[0])
                except DressageError as error:
                    if isinstance(error, ConnectorFailed):
                        raise
                    self._faults.begin("stream", error.code, error.message)
                await pause(stop, pause_s)
                pause_s = min(RETRY_MAX_S, 2 * pause_s)
        finally:
            self._thread.shutdown(wait=False)

    async def _stand_by(self, stop: asyncio.Event) -> None:
        """Waits to be the active one, and is it for as long as it may. Returns after `stop`."""
        await self._in_thread(self._prepare)
        async with _Turn(self._standby_config(), self._topic) as turn:
            while not stop.is_set():
                if not turn.mine.is_set():
                    self._metrics.active.set(0)
                    await _first(stop.wait(), turn.asked.wait())
                    if not stop.is_set() and not turn.mine.is_set():
                        self._works()  # It stands by: Kafka is there, and another process is the active one.
                        await _first(stop.wait(), turn.mine.wait())
                    continue
                self._metrics.active.set(1)
                try:
                    await self._write_on(stop, turn)
                finally:
                    self._metrics.active.set(0)
                    self._producer = None

    def _standby_config(self) -> dict[str, Any]:
        return standby_config(self._settings, self._client.names, self._config, self._on_error)

    # -- the active one ----------------------------------------------------------------------------
    async def _write_on(self, stop: asyncio.Event, turn: _Turn) -> None:
        """Returns after `stop`, or when it is the turn of another process. Raises at the first doubt."""
        found = await self._in_thread(self._take_over)
        self._works()
        info = await stream_info(self._client.connection, self._client.names.events_stream)
        self._created = info.created
        self._reached = self._first(found, info.created, info.state.last_seq)
        if found is not None and info.created == found.created and info.state.first_seq > self._reached + 1:
            _log.warning(
                "connector %r: events up to %d may be lost to it: the stream begins with %d, and it had come to %d",
                *(self._config.name, info.state.first_seq - 1, info.state.first_seq, self._reached),
            )
        limits = BatchLimits(events_max=self._options.batch_max, pause_s=0.0, idle_s=0.2)
        feed = await EventFeed.open(
            self._client.connection,
            self._client.names.events_stream,
            [self._client.names.all_events()],
            self._reached + 1,
            limits,
            f"sink_{self._config.name}",
        )
        self._faults.end("stream")
        writing: asyncio.Task[None] | None = None
        try:
            while not stop.is_set() and turn.mine.is_set():
                messages = await feed.take(0.0)
                told = self._told(messages)
                states = await self._states(told) if self._config.state_topic else []
                if writing is not None:
                    await writing
                    writing = None
                if messages:
                    # While one transaction is committed, the next batch is read and made ready.
                    writing = asyncio.create_task(self._write(told, states, messages[-1].stream_seq))
                await self._watch_lag()
            if writing is not None:
                await writing
        finally:
            if writing is not None and not writing.done():
                with contextlib.suppress(Exception):
                    await writing
            await feed.close()

    def _first(self, found: Position | None, created: str, last_seq: int) -> int:
        """The sequence behind which it begins."""
        stream = self._client.names.events_stream
        if found is not None and (found.stream, found.created) == (stream, created):
            return found.seq
        return last_seq if found is None and self._config.start == "new" else 0

    def _told(self, messages: Sequence[Delivery]) -> list[Told]:
        told: list[Told] = []
        for message in messages:
            try:
                told.append(self._output.told(message.data))
            except Unmappable as error:
                raise ConnectorFailed(
                    f"connector {self._config.name!r} stops at event {message.stream_seq} of the stream: {error.code}: "
                    f"{error.message}. Filter such events out, or mend the transform, and start it again"
                ) from error
            except msgspec.MsgspecError as error:
                _log.warning(
                    "connector %r passes over message %d: %s", self._config.name, message.stream_seq, error
                )
        return told

    async def _states(self, told: Iterable[Told]) -> list[tuple[bytes, bytes | None]]:
        """The runs as they stand now, which is behind these events; nothing of one that was deleted."""
        last = {each.run_id: each.kind for each in told if each.record is not None}
        gate = asyncio.Semaphore(STATES_AT_ONCE)

        async def state(run_id: str, kind: str) -> tuple[bytes, bytes | None] | None:
            async with gate:
                try:
                    return run_id.encode(), msgspec.json.encode(await self._client.get(run_id))
                except NotFound:
                    # Without a word of its deletion it has only left the engine's memory, and its state stays.
                    return (run_id.encode(), None) if kind == _DELETED else None

        found = await asyncio.gather(*(state(run_id, kind) for run_id, kind in last.items()))
        return [each for each in found if each is not None]

    async def _write(self, told: list[Told], states: list[tuple[bytes, bytes | None]], seq: int) -> None:
        records = [each.record for each in told if each.record is not None]
        await self._in_thread(self._commit, records, states, seq)
        self._reached = seq
        self._works()
        self._metrics.transactions.inc()
        self._metrics.records.inc(len(records))
        self._metrics.skipped.inc(len(told) - len(records))

    async def _watch_lag(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._lag_at:
            self._lag_at = now + self._options.lag_every_s
            connection, names = self._client.connection, self._client.names
            # The stream also holds positions of shards, which are no events.
            last = await connection.last_message(names.events_stream, names.all_events())
            self._metrics.lag.set(max(0, (last.seq if last else 0) - self._reached))

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    # -- in the thread -----------------------------------------------------------------------------
    def _prepare(self) -> None:
        admin = AdminClient(admin_config(self._settings, self._on_error))
        position.ensure_topic(admin, self._topic, self._causes)

    def _take_over(self) -> Position | None:
        names, name = self._client.names, self._config.name
        producer = Producer(producer_config(self._settings, names, name, self._on_error, transactional=True))
        producer.init_transactions(TAKE_OVER_S)
        self._producer = producer
        return position.read_position(reader_config(self._settings, names, name, self._on_error), self._topic)

    def _commit(self, records: list[Produced], states: list[tuple[bytes, bytes | None]], seq: int) -> None:
        producer = self._producer
        assert producer is not None
        producer.begin_transaction()
        for record in records:
            _produce(producer, record.topic, record.key, record.value, record.headers)
        for run_id, state in states:
            _produce(producer, self._config.state_topic, run_id, state, JSON_HEADERS)
        reached = Position(self._client.names.events_stream, self._created, seq)
        _produce(producer, self._topic, position.KEY, position.encode(reached), [])
        while True:
            try:
                producer.commit_transaction(COMMIT_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise
            else:
                return

    def _on_error(self, error: KafkaError) -> None:
        self._causes.note(error)
        _log.debug("connector %r: %s", self._config.name, error)

    def _fault(self, error: KafkaError) -> None:
        away = self._causes.explained(error)
        self._causes.clear()  # the next try is told anew
        self._metrics.retry(away.code)
        self._faults.begin("kafka", away.code, away.message)

    def _works(self) -> None:
        self._causes.clear()
        self._faults.end("kafka")


def _produce(producer: Producer, topic: str, key: bytes, value: bytes | None, headers: Headers) -> None:
    while True:
        try:
            producer.produce(topic, value, key, headers=headers)
        except BufferError:
            producer.poll(0.05)
        else:
            return


class _Turn:
    """Whether it is this process's turn, as the consumer group of the position topic has it."""

    def __init__(self, config: dict[str, Any], topic: str) -> None:
        self._config = config
        self._topic = topic
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka-standby")
        self._watching: asyncio.Future[None] | None = None
        self.mine = asyncio.Event()
        self.asked = asyncio.Event()
        """It has been told whose turn it is."""

    async def __aenter__(self) -> _Turn:
        self._watching = self._loop.run_in_executor(self._thread, self._watch)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ended = True
        if self._watching is not None:
            await asyncio.wait({self._watching})
        self._thread.shutdown(wait=False)

    def _watch(self) -> None:
        consumer = Consumer(self._config)
        try:
            consumer.subscribe(
                [self._topic], on_assign=self._gained, on_revoke=self._lost, on_lost=self._lost
            )
            while not self._ended:
                consumer.poll(STANDBY_POLL_S)
        finally:
            consumer.close()

    def _gained(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if partitions:
            # Nothing of the topic is read by it: what matters is who has it.
            consumer.incremental_assign(partitions)
            consumer.pause(partitions)
            self._loop.call_soon_threadsafe(self.mine.set)
        self._loop.call_soon_threadsafe(self.asked.set)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.mine.clear)


async def _first(*waiting: Any) -> None:
    """Returns when the first has ended, and cancels the others."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
