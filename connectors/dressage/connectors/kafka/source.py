"""One consumer of a source: records become runs, or external events.

A record is dealt with when the engine has accepted what it asks for, or when it is stored as a dead letter, or when a
filter says that it is not meant; and only what lies below the oldest record that is not dealt with is ever committed.
So a consumer that dies costs a redelivery, and since the record alone decides the id of its run, or of its event, that
starts nothing twice.

Records of one partition that have the same key are dealt with one after the other, all others beside each other. Who
has too much under way pauses its partitions, and goes on to poll, so that it stays a member of its group.

The client's calls block, and its callbacks come in the middle of them: all are made in one thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from confluent_kafka import (
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from dressage.client import Client
from dressage.connectors.connect.metrics import ConnectorMetrics
from dressage.connectors.connect.options import ConnectorFailed, ConnectorOptions
from dressage.connectors.engine import engine_of_source
from dressage.connectors.gate import Faults, Gate
from dressage.connectors.kafka.causes import Causes
from dressage.connectors.kafka.clients import consumer_config, producer_config
from dressage.connectors.kafka.config import SourceConnector
from dressage.connectors.kafka.record_mapping import RecordMapping
from dressage.connectors.kafka.records import KEY_HEADER, Place, Record, dead_record, explained
from dressage.connectors.progress import Progress
from dressage.connectors.secrets import scrubbed, settings_revealed
from dressage.protocol.errors import BadInput, BrokerError, DressageError, Refused

_log = logging.getLogger("dressage.connectors.kafka")

BACKOFF_MIN_S: Final = 0.5
BACKOFF_MAX_S: Final = 30.0

GATHER_MAX: Final = 500
"""Records that are taken from the client at once."""

POLL_S: Final = 0.05

STUCK_S: Final = 0.5
"""Who has no room for so long pauses."""

AHEAD: Final = 10
"""How many windows a partition may get ahead of its oldest record that is not dealt with."""

DELIVERY_S: Final = 30.0
"""How long a dead letter waits for Kafka before it is tried again."""

_RECORDLESS: Final = frozenset({KafkaError._PARTITION_EOF, KafkaError._MAX_POLL_EXCEEDED})


class SourceTask:
    """One consumer, of the `tasks.max` that a process has for a source."""

    def __init__(
        self, config: SourceConnector, client: Client, options: ConnectorOptions, metrics: ConnectorMetrics
    ) -> None:
        """Raises `BadInput` for settings that the Kafka client refuses, or a secret that is not there."""
        self._config = config
        self._client = client
        self._options = options
        self._metrics = metrics
        self._mapping = RecordMapping(config)
        self._settings = settings_revealed(config.kafka)
        self._engine = engine_of_source(config, client, answer_s=options.answer_s)
        self._causes = Causes(self._settings)
        self._faults = Faults(config.name, metrics.faulty, "connector")
        self._gate = Gate(self._faults, "engine")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kafka-{config.name}")
        self._consumer: Consumer | None = None
        self._producer: Producer | None = None
        self._gathered: list[Record] = []
        """Taken from the client, and not yet handed over; the consumer's thread alone touches it."""
        self._partitions: dict[Place, Progress] = {}
        self._paused: set[Place] = set()
        self._running: dict[Place, set[asyncio.Task[None]]] = {}
        self._last_of_key: dict[tuple[Place, bytes], asyncio.Task[None]] = {}
        self._under_way = 0
        self._less = asyncio.Event()
        self._stuck = False
        self._failed: asyncio.Future[None] | None = None
        self._told: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`, with what was under way committed. Raises `ConnectorFailed`, or `BadInput`."""
        self._loop = asyncio.get_running_loop()
        self._failed = self._loop.create_future()
        try:
            await self._in_thread(self._open)
            await self._work(stop)
        finally:
            await self._in_thread(self._close)
            self._thread.shutdown(wait=False)
            if self._failed.done() and not self._failed.cancelled():
                self._failed.exception()

    async def _work(self, stop: asyncio.Event) -> None:
        assert self._loop is not None
        assert self._failed is not None
        commit_at = lag_at = self._loop.time()
        while not stop.is_set():
            if self._failed.done():
                self._failed.result()
            room = self._options.in_flight - self._under_way
            for record in await self._in_thread(self._gather, self._wanted_pauses(), room):
                self._take(record)
            now = self._loop.time()
            if now >= commit_at:
                commit_at = now + self._options.commit_every_s
                await self._in_thread(self._commit, self._behind())
            if now >= lag_at:
                lag_at = now + self._options.lag_every_s
                self._metrics.lag.set(await self._in_thread(self._lag, self._watermarks()))
            self._stuck = not await self._has_room()

    async def _has_room(self) -> bool:
        """Waits a moment for it: a pause costs that all is fetched again, and is for who gets no room at all."""
        room = self._options.in_flight // 4
        try:
            async with asyncio.timeout(STUCK_S):
                while self._options.in_flight - self._under_way < room:
                    self._less.clear()
                    await self._less.wait()
        except TimeoutError:
            return False
        return True

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        assert self._loop is not None
        return await self._loop.run_in_executor(self._thread, call, *arguments)

    # -- in the consumer's thread ------------------------------------------------------------------
    def _open(self) -> None:
        config = consumer_config(self._settings, self._client.names, self._config, self._on_error)
        config["on_commit"] = self._on_commit
        try:
            self._consumer = Consumer(config)
            self._consumer.subscribe(
                list(self._config.topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )
        except (KafkaException, ValueError, TypeError) as error:
            text = scrubbed(str(error), self._settings)
            raise ConnectorFailed(f"connector {self._config.name!r} cannot consume: {text}") from error

    def _close(self) -> None:
        if self._consumer is not None:
            # Calls `_on_revoke`, which finishes and commits.
            self._consumer.close()
        if self._producer is not None:
            self._producer.flush(0)

    def _gather(self, pauses: set[Place], room: int) -> list[Record]:
        """The next records, none of a partition that was taken away meanwhile; it is called without room, too, as
        whoever does not poll is no member of the group for long."""
        consumer = self._consumer
        assert consumer is not None
        self._apply(consumer, pauses)
        self._gathered = []
        wait_s = POLL_S
        most = max(1, min(room, GATHER_MAX))
        while len(self._gathered) < most:
            message = consumer.poll(wait_s)
            if message is None:
                break
            wait_s = 0.0
            error = message.error()
            if error is not None:
                self._on_error(error)
                continue
            self._gathered.append(_record(message))
        return self._gathered

    def _apply(self, consumer: Consumer, pauses: set[Place]) -> None:
        assigned = (
            {(each.topic, each.partition) for each in consumer.assignment()}
            if pauses or self._paused
            else set()
        )
        pausing, resuming = (pauses - self._paused) & assigned, (self._paused - pauses) & assigned
        if pausing:
            consumer.pause([TopicPartition(*place) for place in pausing])
            self._metrics.paused.inc(len(pausing))
        if resuming:
            consumer.resume([TopicPartition(*place) for place in resuming])
        self._paused = (self._paused | pausing) - resuming & assigned if pauses or self._paused else set()

    def _commit(self, offsets: dict[Place, int]) -> None:
        if offsets and self._consumer is not None:
            with contextlib.suppress(KafkaException):  # it is tried again with the next
                self._consumer.commit(offsets=_as_offsets(offsets), asynchronous=True)

    def _lag(self, reached: dict[Place, int]) -> float:
        lag = 0.0
        for (topic, partition), offset in reached.items():
            assert self._consumer is not None
            with contextlib.suppress(KafkaException):
                _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), cached=True)
                lag += max(0, high - offset)
        return lag

    def _on_commit(self, error: KafkaError | None, offsets: list[TopicPartition]) -> None:
        if error is None and self._loop is not None:
            done = {(each.topic, each.partition): each.offset for each in offsets if each.error is None}
            self._loop.call_soon_threadsafe(self._confirm, done)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in _RECORDLESS or self._loop is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._fault, error)

    # -- rebalances, in the consumer's thread, within a poll ------------------------------------------
    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        _log.info("connector %r has %d more partitions", self._config.name, len(partitions))
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._works)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        offsets = self._let_go(partitions, self._options.drain_s)
        if offsets:
            try:
                consumer.commit(offsets=_as_offsets(offsets), asynchronous=False)
            except KafkaException as error:
                # Whoever has the partition now begins behind what was committed before: nothing is lost.
                _log.info("connector %r: the last offsets are not committed: %s", self._config.name, error)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._let_go(partitions, 0.0)

    def _let_go(self, partitions: list[TopicPartition], patience_s: float) -> dict[Place, int]:
        assert self._loop is not None
        places = {(each.topic, each.partition) for each in partitions}
        self._gathered[:] = [each for each in self._gathered if each.place not in places]
        self._paused -= places
        return asyncio.run_coroutine_threadsafe(self._finish(places, patience_s), self._loop).result()

    # -- in the loop -------------------------------------------------------------------------------
    async def _finish(self, places: set[Place], patience_s: float) -> dict[Place, int]:
        """Ends the work on partitions; what is committed of them is what came to its end in that time."""
        tasks = {task for place in places for task in self._running.get(place, ())}
        hopeless = self._faults["engine"] or (self._failed is not None and self._failed.done())
        if tasks and patience_s and not hopeless:
            await asyncio.wait(tasks, timeout=patience_s)
        offsets = {
            place: each.watermark
            for place in places
            if (each := self._partitions.get(place)) is not None and each.watermark != each.committed
        }
        for place in places:
            self._partitions.pop(place, None)
        for task in tasks:
            task.cancel()
        return offsets

    def _wanted_pauses(self) -> set[Place]:
        """All while nothing gets on, and those of which one record holds up so much that they are far ahead of it."""
        if self._stuck:
            return set(self._partitions)
        most = AHEAD * self._options.in_flight
        return {
            place
            for place, each in self._partitions.items()
            if each.span >= (most // 2 if place in self._paused else most)
        }

    def _watermarks(self) -> dict[Place, int]:
        return {place: each.watermark for place, each in self._partitions.items()}

    def _behind(self) -> dict[Place, int]:
        return {
            place: mark
            for place, mark in self._watermarks().items()
            if mark != self._partitions[place].committed
        }

    def _confirm(self, done: dict[Place, int]) -> None:
        self._works()
        for place, offset in done.items():
            if place in self._partitions:
                self._partitions[place].committed = offset

    def _fault(self, error: KafkaError) -> None:
        if error.fatal():
            self._fail(ConnectorFailed(f"connector {self._config.name!r}: Kafka: {error.str()}"))
        else:
            self._causes.note(error)
            away = self._causes.explained(error)
            self._faults.begin("kafka", away.code, away.message)

    def _works(self) -> None:
        self._causes.clear()
        self._faults.end("kafka")

    def _fail(self, error: DressageError) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _take(self, record: Record) -> None:
        place = record.place
        progress = self._partitions.get(place)
        if progress is None:
            progress = self._partitions[place] = Progress(record.offset, committed=record.offset)
        self._works()
        self._metrics.records.inc()
        self._under_way += 1
        progress.take(record.offset)
        chain = (place, record.key) if record.key is not None else None
        before = self._last_of_key.get(chain) if chain is not None else None
        task = asyncio.create_task(self._handle(record, progress, before))
        self._running.setdefault(place, set()).add(task)
        if chain is not None:
            self._last_of_key[chain] = task

        def ended(task: asyncio.Task[None]) -> None:
            self._under_way -= 1
            self._less.set()
            self._running[place].discard(task)
            if chain is not None and self._last_of_key.get(chain) is task:
                del self._last_of_key[chain]

        task.add_done_callback(ended)

    # -- one record --------------------------------------------------------------------------------
    async def _handle(self, record: Record, progress: Progress, before: asyncio.Task[None] | None) -> None:
        """Goes on until the record is dealt with, or its partition is somebody else's."""
        if before is not None and not before.done():
            await asyncio.wait({before})
        if before is not None and before.cancelled():
            return
        attempts = 0
        while True:
            try:
                await self._deal_with(record)
            except ConnectorFailed as error:
                self._fail(error)
                await asyncio.Event().wait()  # what comes behind it waits, until the consumer has ended
            except DressageError as error:
                self._metrics.retry(error.code)
                _log.debug("connector %r waits with %s: %s", self._config.name, record.id, error)
            except Exception:
                self._metrics.retry("INTERNAL")
                _log.exception("connector %r fails on %s", self._config.name, record.id)
            else:
                progress.done(record.offset)
                return
            attempts += 1
            await asyncio.sleep(min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(attempts - 1, 10)))

    async def _deal_with(self, record: Record) -> None:
        """Returns when the record may be committed. Raises a `DressageError` when it has to be tried again."""
        try:
            asked = await self._mapping.asked(record)
            if asked is None:
                self._metrics.skipped.inc()
                return
            existing = await self._gate.through(lambda: self._engine.ask(asked))
        except (BadInput, Refused) as error:
            await self._bury(record, error)
            return
        (self._metrics.existing if existing else self._metrics.done).inc()

    # -- dead letters ------------------------------------------------------------------------------
    async def _bury(self, record: Record, error: DressageError) -> None:
        if self._config.tolerance == "none":
            raise ConnectorFailed(
                f"connector {self._config.name!r} stops at {record.id}, as errors.tolerance is none: {error.code}: "
                f'{error.message}. With errors.tolerance = "all" such a record becomes a dead letter'
            )
        try:
            if self._config.dead_topic:
                await self._produce_dead(record, error)
            else:
                await self._client.connection.publish(
                    dead_record(
                        self._client.names,
                        self._config.name,
                        record,
                        error.code,
                        error.message,
                        self._client.connection.payload_bytes_max,
                    )
                )
        except DressageError as failed:
            self._faults.begin("dead letters", failed.code, failed.message)
            raise
        self._faults.end("dead letters")
        self._metrics.dead_letter(error.code)
        level = logging.INFO if error.code in self._told else logging.WARNING
        self._told.add(error.code)
        _log.log(level, "connector %r: %s is a dead letter: %s", self._config.name, record.id, error)

    async def _produce_dead(self, record: Record, error: DressageError) -> None:
        loop = asyncio.get_running_loop()
        delivered: asyncio.Future[None] = loop.create_future()

        def settle(error: KafkaError | None) -> None:
            if not delivered.done():
                if error is None:
                    delivered.set_result(None)
                else:
                    delivered.set_exception(BrokerError(error.str(), code="DEAD_LETTERS_REFUSED"))

        def on_delivery(error: KafkaError | None, message: Any) -> None:
            loop.call_soon_threadsafe(settle, error)

        headers = explained(self._config.name, record, error.code, error.message)
        headers.pop(KEY_HEADER, None)
        explaining = [(name, value.encode()) for name, value in headers.items()]
        all_headers: list[tuple[str, str | bytes | None]] = [*record.headers, *explaining]

        def produce() -> None:
            if self._producer is None:
                config = producer_config(
                    self._settings, self._client.names, self._config.name, self._on_error, transactional=False
                )
                self._producer = Producer(config)
            self._producer.produce(
                self._config.dead_topic,
                record.value,
                record.key,
                headers=all_headers,
                on_delivery=on_delivery,
            )
            self._producer.flush(1.0)

        try:
            await asyncio.to_thread(produce)
            async with asyncio.timeout(DELIVERY_S):
                while not delivered.done():
                    await asyncio.to_thread(self._flush)
            await delivered
        except (KafkaException, BufferError, TimeoutError) as failed:
            raise BrokerError(
                f"topic {self._config.dead_topic} takes no dead letters: {failed}",
                code="DEAD_LETTERS_REFUSED",
            ) from failed

    def _flush(self) -> None:
        if self._producer is not None:
            self._producer.flush(0.2)


def _record(message: Any) -> Record:
    kind, timestamp = message.timestamp()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
        -1 if kind == TIMESTAMP_NOT_AVAILABLE else timestamp,
    )


def _as_offsets(offsets: dict[Place, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
