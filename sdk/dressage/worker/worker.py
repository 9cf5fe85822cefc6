"""A worker: one standing pull for each (shard, queue), handlers run concurrently, results published, then acked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from dressage.brokers.interface import Broker, Connection, Delivery, Message, Pull
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.objects import ObjectDamaged, RunObjects
from dressage.brokers.provision import TASK_ACK_WAIT_S, ensure_queue, read_namespace
from dressage.brokers.publisher import GroupPublisher
from dressage.client.answers import Answers
from dressage.client.large import LargeValues
from dressage.flow import App, Handler
from dressage.protocol.commands import (
    REPLY_HEADER,
    Answer,
    Ask,
    AskAnswer,
    AttemptProgress,
    AttemptStopped,
    AttemptView,
    FailureInfo,
    Json,
    TaskMessage,
    TaskResult,
    WorkerInfo,
    encoder,
)
from dressage.protocol.errors import BadInput, BadValue, BrokerError, DressageError, OutcomeUnknown
from dressage.protocol.names import Names, build_queue, check_actor, run_token
from dressage.telemetry import Meters, NoMeters
from dressage.telemetry.tracing import attempt_span
from dressage.worker.attempt import Attempt
from dressage.worker.calls import Ended, too_large, without_arguments

_log = logging.getLogger("dressage.worker")

SIGN_OF_LIFE_S: Final = TASK_ACK_WAIT_S / 3
PUT_BACK_S: Final = 5.0
"""After so long an attempt comes again that could not be begun here."""

TELL_PATIENCE_S: Final = 30.0
TELL_PAUSE_S: Final = 0.5
"""For how long progress, or a large result, goes to a server again that has refused it, and after what pause each
time."""

LOOK_S_MAX: Final = 300.0
"""An attempt is asked about after ten seconds, and again after as long as it has taken so far, or after so long."""

CONFIRM_S: Final = 5.0
"""How long a worker waits for what the owner says of an attempt."""

NAMESPACE_POLL_S: Final = 0.5
GROWTH_POLL_S: Final = 2.0
"""How often it looks whether there are more shards to take tasks from."""


@dataclass(slots=True, frozen=True)
class WorkerConfig:
    """`concurrency` is how many handlers run at a time; `drain_s` how long a stop waits for those that run. `identity`
    is this worker's alone: by it the engine tells who has begun an attempt last.

    With a `build`, a name, the worker takes tasks of versions of that build, too, and attempts say that they are of it.
    """

    namespace: str = "default"
    concurrency: int = 100
    drain_s: float = 30.0
    identity: str = ""
    build: str = ""


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
        build = self._config.build
        self._queues = tuple(
            dict.fromkeys(build_queue(each, of) for of in ("", build) for each in app.queues)
        )
        """Those of its build beside the plain ones, which have the tasks of versions without a build."""

        self._identity = check_actor(
            self._config.identity or f"{app.name}@{socket.gethostname()}:{os.getpid()}", "worker identity"
        )
        self._threads = ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="dressage-task")
        self._slots = asyncio.Semaphore(self._config.concurrency)
        self._held: dict[str, _Held] = {}
        self._at_work: dict[tuple[str, str], _Held] = {}
        """By run and attempt."""

        self._running: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._connection: Connection | None = None
        self._pulling: set[tuple[int, str]] = set()
        """Shards and queues that tasks are taken from."""

        self._beside: asyncio.Task[None] | None = None
        self._answers = Answers()
        self._looking: set[asyncio.Task[None]] = set()
        meters = meters or NoMeters()
        self._handled = meters.counter("worker_attempts_total", "Attempts handled", ["task", "outcome"])
        self._seconds = meters.histogram("worker_attempt_seconds", "Time inside the handler", ["task"])

    # -- life --------------------------------------------------------------------------------------
    def stop(self) -> None:
        """Asks for a drain: finish what runs, take no more."""
        self._stop.set()

    def unready(self) -> str:
        """Why no tasks are taken now; empty if they are."""
        if self._stop.is_set():
            return "it is ending"
        taking = self._pulling and self._connection is not None and self._connection.linked
        return "" if taking else "it takes no tasks: it waits for the server, or for the namespace"

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
        self._connection = connection
        publisher = GroupPublisher(connection, patience_s=None)
        beat = asyncio.create_task(self._show_life(connection))
        asking = asyncio.create_task(self._look_after(connection, publisher))
        try:
            await self._answers.open(connection)
            for queue in self._queues:
                await connection.serve(self._names.stop(queue), partial(self._on_stopped, publisher))
            shards = await self._await_namespace(connection)
            pulls: list[asyncio.Task[None]] = []
            while not self._stop.is_set():
                pulls += [
                    asyncio.create_task(self._keep_pulling(connection, publisher, shards, shard, queue))
                    for shard in range(len(pulls) // max(1, len(self._queues)), shards)
                    for queue in self._queues
                ]
                shards = await self._await_growth(connection, shards)
            for pull in pulls:
                pull.cancel()
            await asyncio.gather(*pulls, return_exceptions=True)
            await self._drain(connection)
        finally:
            for task in (beat, asking, *self._looking):
                task.cancel()
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
        consumer = self._names.task_consumer(queue)
        while True:
            ended = asyncio.Event()

            def on_end(reason: str, ended: asyncio.Event = ended) -> None:
                _log.info("shard %d, queue %s: pulling again: %s", shard, queue, reason)
                ended.set()

            pull: Pull | None = None
            taking = _Taking(shard, self._names.shard_stream(shard))
            try:
                await ensure_queue(connection, self._names, shards, queue)

                def on_delivery(delivery: Delivery, taking: _Taking = taking) -> None:
                    self._take(connection, publisher, delivery, taking)

                pull = taking.pull = await connection.pull(
                    taking.stream, consumer, self._config.concurrency, on_delivery, on_end
                )
                self._pulling.add((shard, queue))
                self._ready.set()
                await ended.wait()
            except DressageError as error:
                _log.warning("shard %d, queue %s: %s", shard, queue, error)
            finally:
                self._pulling.discard((shard, queue))
                if pull is not None:
                    await pull.close()
            await asyncio.sleep(0.2)

    def _take(
        self,
        connection: Connection,
        publisher: GroupPublisher,
        delivery: Delivery,
        taking: _Taking,
    ) -> None:
        if delivery.reply in self._held:  # The very same delivery once more.
            if taking.pull is not None:
                self._beside_it(taking.pull.taken())
            return
        held = self._held[delivery.reply] = _Held(delivery, taking, asyncio.get_running_loop().time())
        task = asyncio.create_task(self._attempt(connection, publisher, held))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _attempt(self, connection: Connection, publisher: GroupPublisher, held: _Held) -> None:
        try:
            async with self._slots:
                if not self._stop.is_set():
                    await self._handle(connection, publisher, held)
        except DressageError as error:
            _log.warning("an attempt could not be settled with the broker: %s", error)
            if not held.reported:
                self._held.pop(held.delivery.reply, None)  # Unacknowledged, it is delivered again.
        except Exception:
            # A bug of ours. Held on, the attempt would be shown alive for ever and never be executed again.
            _log.exception("an attempt could not be handled")
            self._held.pop(held.delivery.reply, None)
        finally:
            if self._at_work.get(held.key) is held:
                del self._at_work[held.key]
            if held.taking.pull is not None:
                await held.taking.pull.taken()

    async def _handle(self, connection: Connection, publisher: GroupPublisher, held: _Held) -> None:
        delivery = held.delivery
        try:
            message = _tasks.decode(delivery.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _log.error("a task message does not decode (%s): %s", delivery.subject, error)
            self._handled.labels("unknown", "malformed").inc()
            await self._put_back(connection, held)
            return
        handler = self._app.handlers.get(message.task)
        if handler is None:
            _log.warning("no handler for task %r of queue %s: put back", message.task, delivery.subject)
            self._handled.labels("unknown", "no-handler").inc()
            await self._put_back(connection, held)
            return
        held.key = message.run_id, message.task_id
        before = self._at_work.get(held.key)
        self._at_work[held.key] = held
        # A consumer that was lost and made anew counts its deliveries from one.
        again = delivery.attempts > 1 or before is not None
        if message.tells_start or again:
            begun = await self._begun(connection, publisher, held, message, again=again)
            if begun is None:
                return
            message = begun
            if before is not None and before.attempt is not None:
                # The same attempt, from before the server thought this worker lost, makes room for it.
                self._let_go(before, before.attempt, "it has come again")
        attempt = held.attempt = Attempt(message, partial(self._tell, publisher, held))
        large = LargeValues(RunObjects(connection, self._names, patience_s=None))
        try:
            result = await self._run(handler, attempt, large)
        except BrokerError as error:
            _log.warning("task %s: its large values cannot be fetched, or stored: %s", message.task, error)
            await self._put_back(connection, held)
            return
        try:
            await self._settle(connection, publisher, held, attempt, result)
        except DressageError:
            await attempt.leave()
            raise
        await attempt.leave()

    async def _settle(
        self,
        connection: Connection,
        publisher: GroupPublisher,
        held: _Held,
        attempt: Attempt,
        result: TaskResult | None,
    ) -> None:
        """Reports and acknowledges an attempt; one that another worker has begun anew is that one's to acknowledge."""
        if result is not None and result.error is not None and not held.taken:
            await self._flush(attempt)  # The next attempt goes on from there.
        if held.taken:
            return
        if result is not None:
            await self._report(publisher, held.taking.stream, attempt.message, result)
        held.reported = True
        await self._acknowledge(connection, held)

    async def _flush(self, attempt: Attempt) -> None:
        try:
            await attempt.flush()
        except DressageError as error:
            _log.info("progress of task %s could not be told: %s", attempt.message.task, error)

    async def _begun(
        self,
        connection: Connection,
        publisher: GroupPublisher,
        held: _Held,
        message: TaskMessage,
        *,
        again: bool,
    ) -> TaskMessage | None:
        """Tells that an attempt is here, before its handler begins; None if it is not to.

        One that comes again may be of a run that waits for it no more, or have come some way with another worker: what
        that has told last comes with the message that this gives.
        """
        answer = await self._said(publisher, held.taking, message, begins=True)
        if answer is not None and answer.code in _OVER:
            self._handled.labels(message.task, "stale").inc()
            held.reported = True
            await self._acknowledge(connection, held)
            return None
        if not again or (answer is not None and answer.code == "COMMAND_MALFORMED"):
            # It comes for the first time, or an older engine knows nothing of progress.
            return message
        view = None if answer is None else await self._view(connection, answer.shard, message, answer.seq)
        if view is None or not view.awaited:
            # Nobody serves the shard. Its run could not go on, and where the attempt had come to is not known.
            await self._put_back(connection, held)
            return None
        return msgspec.structs.replace(message, progress=view.progress)

    def _let_go(self, held: _Held, attempt: Attempt, why: str) -> None:
        """Somebody else has the attempt: here nothing is shown of it any more, and it is not given back."""
        held.taken = True
        self._held.pop(held.delivery.reply, None)
        attempt.stop(why)

    async def _acknowledge(self, connection: Connection, held: _Held) -> None:
        """Without a connection it stays held, and is tried again: else the attempt would be executed twice."""
        await connection.ack(held.delivery)
        self._held.pop(held.delivery.reply, None)

    async def _put_back(self, connection: Connection, held: _Held) -> None:
        await connection.nak(held.delivery, PUT_BACK_S)
        self._held.pop(held.delivery.reply, None)

    # -- whether anybody waits for them ------------------------------------------------------------
    async def _tell(
        self, publisher: GroupPublisher, held: _Held, attempt: Attempt, progress: msgspec.Raw, sure: bool
    ) -> None:
        """Stores progress. Who has to be `sure` of it waits for what the owner says, however long: it may be refused.

        Raises `BadValue` for what the run has no room for, and `DressageError` where a server refuses it for long: then
        it is the handler's to go on.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TELL_PATIENCE_S
        answer: Answer | None = None
        while answer is None and not attempt.stopped:
            try:
                answer = await self._said(publisher, held.taking, attempt.message, progress)
                deadline = loop.time() + TELL_PATIENCE_S
            except DressageError:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(TELL_PAUSE_S)
                continue
            if not sure:
                break
        if answer is None or answer.accepted:
            return
        if answer.code == "PROGRESS_INVALID":
            raise BadValue(answer.message)
        self._hear(held, attempt, answer)

    async def _said(
        self,
        publisher: GroupPublisher,
        taking: _Taking,
        message: TaskMessage,
        progress: Json = msgspec.UNSET,
        *,
        begins: bool = False,
    ) -> Answer | None:
        """What the owner says of an attempt that this worker has; None if nobody says anything in time.

        It is a command, which is folded behind the one that has made the attempt: an owner that lags, or was replaced,
        could say of an attempt that it does not know yet that nobody waits for it.
        """
        with self._answers.one() as (reply, future):
            data = encoder.encode(AttemptProgress(message.task_id, self._identity, progress, begins))
            await publisher.publish(taking.stream, Message(message.reply, data, {REPLY_HEADER: reply}))
            await asyncio.wait({future}, timeout=CONFIRM_S)
            return future.result() if future.done() else None

    def _hear(self, held: _Held, attempt: Attempt, answer: Answer) -> None:
        """What was said of an attempt may end its handler."""
        if held.reported or attempt.stopped:
            return
        if answer.code == "ATTEMPT_TAKEN":
            self._let_go(held, attempt, "another worker has begun it anew")
        elif answer.code in _OVER:
            self._handled.labels(attempt.message.task, "stopped").inc()
            attempt.stop(f"run {attempt.message.run_id} does not wait for it any more")

    async def _view(
        self, connection: Connection, shard: int, message: TaskMessage, not_before: int = 0
    ) -> AttemptView | None:
        """The attempt as its run knows it; None if nobody tells."""
        ask = Ask("attempt", message.run_id, not_before, hold_s=CONFIRM_S, task_id=message.task_id)
        try:
            data = await connection.request(self._names.ask(shard), encoder.encode(ask), CONFIRM_S + 1.0)
            answer = _ask_answers.decode(data)
            return AttemptView(awaited=False) if answer.code == "NOT_FOUND" else answer.attempt
        except (DressageError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            _log.info("task %s of run %s: %s", message.task, message.run_id, error)
            return None

    async def _on_stopped(self, publisher: GroupPublisher, _: str, data: bytes, __: str) -> None:
        """Somebody says that a run waits for an attempt no more."""
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            told = _stopped.decode(data)
            held = self._at_work.get((told.run_id, told.task_id))
            if held is not None and held.attempt is not None:
                self._beside_it(self._ask_of(publisher, held, held.attempt))

    async def _look_after(self, connection: Connection, publisher: GroupPublisher) -> None:
        """Asks now and then about the attempts that take long: what is told of their end may get lost."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SIGN_OF_LIFE_S / 2)
            now = loop.time()
            due = [held for held in self._held.values() if held.attempt and now >= held.look_at]
            for held in due:
                held.look_at = now + min(now - held.taken_at, LOOK_S_MAX)
            await asyncio.gather(*(self._look_at(connection, publisher, held) for held in due))

    async def _look_at(self, connection: Connection, publisher: GroupPublisher, held: _Held) -> None:
        attempt = held.attempt
        if attempt is None or attempt.stopped or held.reported:
            return
        view = await self._view(connection, held.taking.shard, attempt.message)
        if view is not None and not (view.awaited and view.worker in ("", self._identity)):
            await self._ask_of(publisher, held, attempt)

    async def _ask_of(self, publisher: GroupPublisher, held: _Held, attempt: Attempt) -> None:
        """Stops an attempt if its owner says so, whatever somebody else has said."""
        if held.asking or held.reported or attempt.stopped:
            return
        held.asking = True
        try:
            answer = await self._said(publisher, held.taking, attempt.message)
        except DressageError as error:
            _log.info("whether task %s is still awaited: %s", attempt.message.task, error)
        else:
            if answer is not None and not answer.accepted:
                self._hear(held, attempt, answer)
        finally:
            held.asking = False

    def _beside_it(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    # -- running and reporting ---------------------------------------------------------------------
    async def _run(self, handler: Handler, attempt: Attempt, large: LargeValues) -> TaskResult | None:
        """None if nobody waits for the result. Raises `BrokerError` where large values cannot be fetched or stored."""
        loop, message = asyncio.get_running_loop(), attempt.message
        given = await _given(large, handler, message)
        began = loop.time()
        with attempt_span(message, self._identity) as span:
            ended = (
                given if isinstance(given, Ended) else await attempt.execute(handler, given, self._threads)
            )
            seconds = loop.time() - began
            if ended is not None:
                ended = await _stored(large, handler, message, ended)
                failure = ended.failure or ended.error
                span.ended(ended.outcome, "" if failure is None else f"{failure.name}: {failure.message}")
        self._seconds.labels(message.task).observe(seconds)
        if ended is None:
            return None
        self._handled.labels(message.task, ended.outcome).inc()
        build = self._config.build or self._app.version
        by = WorkerInfo(self._identity, seconds * 1000, build, attempt.log)
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
    taking: _Taking
    taken_at: float
    shown_at: float = field(init=False)
    look_at: float = field(init=False)
    """When it is to be asked whether anybody waits for it."""

    reported: bool = False
    taken: bool = False
    """Another worker has begun it anew."""

    asking: bool = False
    key: tuple[str, str] = ("", "")
    """Its run and its attempt, once they were read."""

    attempt: Attempt | None = None
    """Once its handler has begun."""

    def __post_init__(self) -> None:
        self.shown_at, self.look_at = self.taken_at, self.taken_at + SIGN_OF_LIFE_S


class _Taking:
    """Where deliveries come from. The pull is known only after the first of them may have come."""

    def __init__(self, shard: int, stream: str) -> None:
        self.shard = shard
        self.stream = stream
        self.pull: Pull | None = None


async def _given(large: LargeValues, handler: Handler, message: TaskMessage) -> msgspec.Raw | Ended:
    """The arguments of an attempt with what is large of them. Raises `BrokerError` where they cannot be fetched now."""
    try:
        raw = await large.fetched(
            message.run_id, handler.definition.params, handler.types, bytes(message.args)
        )
    except (BadValue, ObjectDamaged) as error:
        return without_arguments(f"arguments of task {message.task!r}: {error.message}")
    return msgspec.Raw(raw)


async def _stored(large: LargeValues, handler: Handler, message: TaskMessage, ended: Ended) -> Ended:
    """How an attempt ended, with what is large of its result stored: before anybody is told of it.

    Raises `BrokerError` where a server refuses it for long. Then the attempt is executed again.
    """
    if not isinstance(ended.output, msgspec.Raw):
        return ended
    loop, output = asyncio.get_running_loop(), bytes(ended.output)
    deadline = loop.time() + TELL_PATIENCE_S
    while True:
        try:
            raw = await large.stored(message.run_id, handler.definition.output, handler.types, output)
            return Ended(output=msgspec.Raw(raw))
        except BadInput as error:
            return too_large(f"result of task {message.task!r}: {error.message}")
        except BrokerError as error:
            if loop.time() >= deadline:
                raise
            _log.warning("the result of task %s cannot be stored: %s", message.task, error)
        await asyncio.sleep(TELL_PAUSE_S)


_OVER: Final = frozenset({"RESULT_STALE", "RUN_FINISHED", "RUN_UNKNOWN"})
"""How the engine refuses what is told of an attempt that nobody waits for."""

_tasks = msgspec.json.Decoder(TaskMessage)
_stopped = msgspec.json.Decoder(AttemptStopped)
_ask_answers = msgspec.json.Decoder(AskAnswer)
