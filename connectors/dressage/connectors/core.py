"""A trigger on what is published without a stream: a message is heard by one process of the trigger, once.

No stream has it, so what comes while no process listens is lost, and so is what a process holds when it is killed.
Who needs to know asks: a message with a subject to answer on is answered once the engine has accepted what it asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from typing import Final

import msgspec

from dressage.brokers.interface import Delivery
from dressage.connectors.config import TriggerConfig
from dressage.connectors.dealing import Dealing, Dealt
from dressage.connectors.mapping import Start
from dressage.connectors.metrics import TriggerMetrics
from dressage.connectors.rules import Rules
from dressage.connectors.setting import Setting, cancelled
from dressage.connectors.source import SourceProblem, consumer_name, streams_of
from dressage.connectors.waiting import RETRY_S, pause
from dressage.protocol.errors import DressageError
from dressage.protocol.names import is_reply_subject

_log = logging.getLogger("dressage.connectors")

CORE_HELD_MAX: Final = 10_000
"""Messages that one trigger holds in a process. What comes beyond them is refused, and lost where nobody waits."""

CORE_HELD_BYTES_MAX: Final = 64 * 1024 * 1024
"""The same, in bytes of their payloads."""

_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, omit_defaults=True):
    """What whoever waits is told: the run, or the event, that a message has become, or why it is none."""

    ok: bool
    run_id: str = ""
    event_id: str = ""
    existing: bool = False
    skipped: bool = False
    code: str = ""
    message: str = ""
    retryable: bool = False


class CoreTrigger:
    """One trigger of this process, on a subject."""

    def __init__(self, config: TriggerConfig, rules: Rules, setting: Setting, incarnation: int = 0) -> None:
        self._config = config
        self._rules = rules
        self._connection = setting.connection
        self._options = setting.options
        self._metrics = metrics = TriggerMetrics(setting.metrics, config.name)
        self._dealing = Dealing(config.name, setting, metrics)
        self._queue = consumer_name(setting.client.names.namespace, config.name, incarnation)
        self._slots = asyncio.Semaphore(setting.options.in_flight)
        self._held: dict[asyncio.Task[None], tuple[Delivery, str]] = {}
        self._held_bytes = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._is_full = False

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`, when what was heard is dealt with, or kept as dead letters."""
        subject = self._config.source.subject
        assert subject is not None, "the file has said it"
        while not stop.is_set():
            try:
                await self._check_source()
                listening = await self._connection.listen(subject, self._take, self._queue)
            except DressageError as error:
                self._dealing.faults.begin("source", error.code, error.message)
                await pause(stop, RETRY_S)
                continue
            self._dealing.faults.end("source")
            self._metrics.lag.set(len(self._held))
            await stop.wait()
            await listening.close()
        await self._drain()

    async def _check_source(self) -> None:
        """Where a stream stores the subject it is the source: its events come at least once, and who publishes them
        waits for its answer, not for ours. Raises `SourceProblem`."""
        subject = self._config.source.subject
        streams = await streams_of(self._connection, subject or "")
        if streams:
            raise SourceProblem(
                f"stream {streams[0]} stores subject {subject} (trigger {self._config.name!r}): take events from it, "
                "without core: they come at least once",
                code="SOURCE_REFUSED",
            )

    async def _drain(self) -> None:
        if self._held and not self._dealing.faults["engine"]:
            _log.info("trigger %r: finishing %d messages", self._config.name, len(self._held))
            await asyncio.wait(self._held, timeout=self._options.drain_s)
        left = list(self._held.values())
        await cancelled(self._held)
        for delivery, place in left:
            await self._give_up(delivery, place)

    async def _give_up(self, delivery: Delivery, place: str) -> None:
        """Who waits is told to ask again. What nobody waits for becomes a dead letter, which can be replayed."""
        reason = "the trigger was stopped before the engine had accepted the message"
        if is_reply_subject(delivery.reply):
            answer = Answer(False, code="TRIGGER_STOPPED", message=f"{reason}: send it again", retryable=True)
            await self._answer(delivery, answer)
            return
        try:
            await self._dealing.bury(
                delivery, place, DressageError(f"{reason}: replay it", code="TRIGGER_STOPPED")
            )
        except DressageError as failed:
            _log.error("trigger %r: a message on %r is lost: %s", self._config.name, delivery.subject, failed)

    # -- taking messages ---------------------------------------------------------------------------
    def _take(self, delivery: Delivery) -> None:
        self._metrics.events.inc()
        if len(self._held) >= CORE_HELD_MAX:
            self._refuse(
                delivery, f"{CORE_HELD_MAX:,} messages already: send it again later (limit core-held)"
            )
            return
        if self._held_bytes + len(delivery.data) > CORE_HELD_BYTES_MAX:
            held = f"messages of {self._held_bytes:,} bytes already"
            self._refuse(delivery, f"{held}: send it again later (limit core-held-bytes)")
            return
        self._is_full = False
        heard = msgspec.structs.replace(delivery, time_ns=time.time_ns())
        # Where a stream's name stands: so the event has an id of its own, also when its dead letter is replayed.
        place = f"core-{uuid.uuid4().hex}"
        task = asyncio.create_task(self._handle(heard, place))
        self._held[task] = heard, place
        self._held_bytes += len(heard.data)
        self._metrics.lag.set(len(self._held))
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        delivery, _ = self._held.pop(task)
        self._held_bytes -= len(delivery.data)
        self._metrics.lag.set(len(self._held))

    def _refuse(self, delivery: Delivery, why: str) -> None:
        reason = f"the trigger holds {why}"
        if not self._is_full:
            _log.error("trigger %r: messages are refused: %s", self._config.name, reason)
        self._is_full = True
        self._metrics.refused.inc()
        answer = Answer(False, code="TRIGGER_BUSY", message=reason, retryable=True)
        task = asyncio.create_task(self._answer(delivery, answer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    # -- one message -------------------------------------------------------------------------------
    async def _handle(self, delivery: Delivery, place: str) -> None:
        async with self._slots:
            dealt = await self._dealt_with(delivery, place)
        await self._answer(delivery, _answer(dealt))

    async def _dealt_with(self, delivery: Delivery, place: str) -> Dealt:
        async def once() -> Dealt:
            return await self._dealing.deal_with(delivery, place, await self._rules.of("", 0))

        return await self._dealing.persist(once, f"a message on {delivery.subject!r}")

    async def _answer(self, delivery: Delivery, answer: Answer) -> None:
        """An answer that does not arrive is no loss: whoever asks again is told the same."""
        if is_reply_subject(delivery.reply):
            with contextlib.suppress(DressageError):
                await self._connection.tell(delivery.reply, _encode(answer))


def _answer(dealt: Dealt) -> Answer:
    if dealt.error is not None:
        return Answer(False, code=dealt.error.code, message=dealt.error.message)
    match dealt.request:
        case None:
            return Answer(True, skipped=True)
        case Start(run_id=run_id):
            return Answer(True, run_id=run_id, existing=dealt.existing)
        case post:
            return Answer(True, run_id=post.run_id, event_id=post.event_id, existing=dealt.existing)
