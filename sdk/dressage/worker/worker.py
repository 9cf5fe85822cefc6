"""A worker: one standing pull for each (shard, queue), handlers run concurrently, results published, then acked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import msgspec

from dressage.brokers.interface import Broker, Connection, Delivery, Message, Pull
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import TASK_ACK_WAIT_S, ensure_queue, read_namespace
from dressage.brokers.publisher import GroupPublisher
from dressage.flow import App, Handler
from dressage.protocol.commands import FailureInfo, TaskMessage, TaskResult, WorkerInfo, encoder
from dressage.protocol.errors import BadInput, DressageError, OutcomeUnknown
from dressage.protocol.names import Names, check_actor, run_token
from dressage.telemetry import Meters, NoMeters
from dressage.worker.calls import run_handler
from dressage.worker.context import enter_task

_log = logging.getLogger("dressage.worker")

SIGN_OF_LIFE_S: Final = TASK_ACK_WAIT_S / 3
UNKNOWN_TASK_DELAY_S: Final = 5.0
NAMESPACE_POLL_S: Final = 0.5
GROWTH_POLL_S: Final = 2.0
"""How often it looks whether there are more shards to take tasks from."""


@dataclass(slots=True, frozen=True)
class WorkerConfig:
    """`concurrency` is how many handlers run at a time; `drain_s` how long a stop waits for those that run."""

    namespace: str = "default"
    concurrency: int = 100
    drain_s: float = 30.0
    identity: str = ""


class Worker:
    """Runs an application's handlers until `stop`. Use `run`, or `async with` inside another process."""

    def __init__(
        self,
        server: str | Broker,
        app: App,
        config: WorkerConfig | None = None,
        meters: Meters | None = None,
    ) -> None:
        self._broker: Broker = JetStreamBroker(server) if isinstance(server, str) else server
        self._config = config or WorkerConfig()
        self._names = Names(self._config.namespace)
        self._app = app
        self._identity = check_actor(
            self._config.identity or f"{app.name}@{socket.gethostname()}:{os.getpid()}", "worker identity"
        )
        self._threads = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="dressage-task")
        self._slots = asyncio.Semaphore(self._config.concurrency)
        self._held: dict[str, _Held] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._beside: asyncio.Task[None] | None = None
        meters = meters or NoMeters()
        self._handled = meters.counter("worker_attempts_total", "Attempts handled", ["task", "outcome"])
        self._seconds = meters.histogram("worker_attempt_seconds", "Time inside the handler", ["task"])

    # -- life --------------------------------------------------------------------------------------
    def stop(self) -> None:
        """Asks for a drain: finish what runs, take no more."""
        self._stop.set()

    async def ready(self) -> None:
        """Returns once tasks are being taken."""
        await self._ready.wait()

    async def __aenter__(self) -> Self:
        self._beside = asyncio.create_task(self.run())
        ready = asyncio.create_task(self.ready())
        await asyncio.wait({self._beside, ready}, return_when=asyncio.FIRST_COMPLETED)
        if self._beside.done():
            ready.cancel()
            self._beside.result()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._beside is not None:
            await self._beside

    async def run(self) -> None:
        """Raises `ServerUnreachable`. Waits for a namespace that no orchestrator has served yet."""
        connection = await self._broker.connect(f"dressage-worker-{self._identity}", reconnect=True)
        publisher = GroupPublisher(connection, patience_s=None)
        beat = asyncio.create_task(self._show_life(connection))
        try:
            shards = await self._await_namespace(connection)
            pulls: list[asyncio.Task[None]] = []
            while not self._stop.is_set():
                pulls += [
                    asyncio.create_task(self._keep_pulling(connection, publisher, shards, shard, queue))
                    for shard in range(len(pulls) // max(1, len(self._app.queues)), shards)
                    for queue in self._app.queues
                ]
                shards = await self._await_growth(connection, shards)
            for pull in pulls:
                pull.cancel()
            await asyncio.gather(*pulls, return_exceptions=True)
            await self._drain(connection)
        finally:
            beat.cancel()
            publisher.close()
            await connection.close()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _await_namespace(self, connection: Connection) -> int:
        """The number of shards, once an orchestrator has made the namespace: processes start in any order."""
        said = False
        while not self._stop.is_set():
            namespace = None
            with contextlib.suppress(OutcomeUnknown):
                namespace = await read_namespace(connection, self._names)
            if namespace is not None:
                return namespace.shards
            if not said:
                _log.warning(
                    "namespace %r does not exist yet: waiting for an orchestrator to serve it",
                    self._names.namespace,
                )
                said = True
            await asyncio.sleep(NAMESPACE_POLL_S)
        return 0

    async def _await_growth(self, connection: Connection, shards: int) -> int:
        """The number of shards once it is another one, or when the worker is to stop."""
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GROWTH_POLL_S):
                    await self._stop.wait()
            namespace = None
            with contextlib.suppress(DressageError):
                namespace = await read_namespace(connection, self._names)
            if namespace is not None and namespace.shards > shards:
                _log.info("namespace %r has %d shards now", self._names.namespace, namespace.shards)
                return namespace.shards
        return shards

    async def _drain(self, connection: Connection) -> None:
        if self._running:
            _log.info("draining: %d attempts are running", len(self._running))
            _, late = await asyncio.wait(self._running, timeout=self._config.drain_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for held in list(self._held.values()):
            try:
                await (connection.ack(held.delivery) if held.reported else connection.nak(held.delivery))
            except DressageError as error:
                _log.info("an attempt could not be given back, and comes again in time: %s", error)

    async def _show_life(self, connection: Connection) -> None:
        """Tells the broker of every attempt held for long that its worker is alive."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_S / 2)
            due = loop.time() - SIGN_OF_LIFE_S
            for held in list(self._held.values()):
                try:
                    if held.reported:
                        await self._acknowledge(connection, held)
                    elif held.shown_at < due:
                        held.shown_at = loop.time()
                        await connection.in_progress(held.delivery)
                except DressageError as error:
                    _log.debug("sign of life: %s", error)

    # -- taking tasks ------------------------------------------------------------------------------
    async def _keep_pulling(
        self, connection: Connection, publisher: GroupPublisher, shards: int, shard: int, queue: str
    ) -> None:
        """A pull that ends (consumer lost, server restarted) is set up again, for as long as the worker lives."""
        stream, consumer = self._names.shard_stream(shard), self._names.task_consumer(queue)
        while True:
            ended = asyncio.Event()

            def on_end(reason: str, ended: asyncio.Event = ended) -> None:
                _log.info("shard %d, queue %s: pulling again: %s", shard, queue, reason)
                ended.set()

            pull: Pull | None = None
            taking = _Taking()
            try:
                await ensure_queue(connection, self._names, shards, queue)

                def on_delivery(delivery: Delivery, taking: _Taking = taking) -> None:
                    self._take(connection, publisher, stream, delivery, taking)

                pull = taking.pull = await connection.pull(
                    stream, consumer, self._config.concurrency, on_delivery, on_end
                )
                self._ready.set()
                await ended.wait()
            except DressageError as error:
                _log.warning("shard %d, queue %s: %s", shard, queue, error)
            finally:
                if pull is not None:
                    await pull.close()
            await asyncio.sleep(0.2)

    def _take(
        self,
        connection: Connection,
        publisher: GroupPublisher,
        stream: str,
        delivery: Delivery,
        taking: _Taking,
    ) -> None:
        self._held[delivery.reply] = _Held(delivery, asyncio.get_running_loop().time())
        task = asyncio.create_task(self._attempt(connection, publisher, stream, delivery, taking))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _attempt(
        self,
        connection: Connection,
        publisher: GroupPublisher,
        stream: str,
        delivery: Delivery,
        taking: _Taking,
    ) -> None:
        try:
            async with self._slots:
                if not self._stop.is_set():
                    await self._handle(connection, publisher, stream, delivery)
        except DressageError as error:
            _log.warning("an attempt could not be settled with the broker: %s", error)
            held = self._held.get(delivery.reply)
            if held is not None and not held.reported:
                del self._held[delivery.reply]  # Unacknowledged, it is delivered again.
        except Exception:
            # A bug of ours. Held on, the attempt would be shown alive for ever and never be executed again.
            _log.exception("an attempt could not be handled")
            self._held.pop(delivery.reply, None)
        finally:
            if taking.pull is not None:
                await taking.pull.taken()

    async def _handle(
        self, connection: Connection, publisher: GroupPublisher, stream: str, delivery: Delivery
    ) -> None:
        try:
            message = _tasks.decode(delivery.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _log.error("a task message does not decode (%s): %s", delivery.subject, error)
            self._handled.labels("unknown", "malformed").inc()
            await self._put_back(connection, delivery)
            return
        handler = self._app.handlers.get(message.task)
        if handler is None:
            _log.warning("no handler for task %r of queue %s: put back", message.task, delivery.subject)
            self._handled.labels("unknown", "no-handler").inc()
            await self._put_back(connection, delivery)
            return
        result = await self._run(handler, message)
        await self._report(publisher, stream, message, result)
        held = self._held[delivery.reply]
        held.reported = True
        await self._acknowledge(connection, held)

    async def _acknowledge(self, connection: Connection, held: _Held) -> None:
        """Without a connection it stays held, and is tried again: else the attempt would be executed twice."""
        await connection.ack(held.delivery)
        self._held.pop(held.delivery.reply, None)

    async def _put_back(self, connection: Connection, delivery: Delivery) -> None:
        await connection.nak(delivery, UNKNOWN_TASK_DELAY_S)
        self._held.pop(delivery.reply, None)

    # -- running and reporting ---------------------------------------------------------------------
    async def _run(self, handler: Handler, message: TaskMessage) -> TaskResult:
        enter_task(message)
        loop = asyncio.get_running_loop()
        began = loop.time()
        ended = await run_handler(handler, message.args, self._threads)
        seconds = loop.time() - began
        self._handled.labels(message.task, ended.outcome).inc()
        self._seconds.labels(message.task).observe(seconds)
        by = WorkerInfo(self._identity, seconds * 1000)
        return TaskResult(message.task_id, by, ended.output, ended.failure, ended.error)

    async def _report(
        self, publisher: GroupPublisher, stream: str, message: TaskMessage, result: TaskResult
    ) -> None:
        """Publishes the result under an id that is the same for a second execution of the same attempt."""
        msg_id = f"{run_token(message.run_id)}.{message.task_id}"
        try:
            await publisher.publish(stream, Message(message.reply, encoder.encode(result), msg_id=msg_id))
        except BadInput as error:
            too_large = FailureInfo(
                "result-size", f"result of task {message.task!r}: {error.message}", "limit"
            )
            smaller = TaskResult(result.task_id, result.by, error=too_large)
            await publisher.publish(stream, Message(message.reply, encoder.encode(smaller)))


@dataclass(slots=True)
class _Held:
    """An attempt that this worker has; `reported` once its result is safe, so that only the acknowledgement is left."""

    delivery: Delivery
    shown_at: float
    reported: bool = False


class _Taking:
    """The pull that deliveries came by; it is known only after the first of them may have come."""

    def __init__(self) -> None:
        self.pull: Pull | None = None


_tasks = msgspec.json.Decoder(TaskMessage)
