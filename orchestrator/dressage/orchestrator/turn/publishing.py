"""Domain events on their way from the shard's stream to the subjects of users.

The commit has stored each as `send.out.<run>`; the owner publishes it under a message id that is the same whoever does
so and however often, awaits the acknowledgement of whichever stream captures the subject, and only then is it removed.
What a run publishes goes out in its order, one at a time; runs do not wait for each other. What no stream takes is
tried again for a while, and then goes to the dead letters, so that the run's later ones are not held up for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dressage.brokers.interface import Connection, Delivery, Message
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.reading import short, token_of
from dressage.orchestrator.turn.removing import Floor
from dressage.orchestrator.turn.targets import Targets
from dressage.protocol.errors import BrokerError, DressageError, OutcomeUnknown, PublishRefused, Unheard
from dressage.protocol.events import CONTENT_TYPE, ID_HEADER, SUBJECT_HEADER
from dressage.protocol.names import Names, wrong_with_subject
from dressage.protocol.traces import TRACEPARENT, usable_trace

_log = logging.getLogger("dressage.orchestrator")

PATIENCE_S: Final = 60.0
"""For so long a domain event is tried to be published."""

ELECTION_S: Final = 15.0
"""And for so long in any case where there is a stream: one that elects a leader takes nothing for 4 to 9 s."""

NO_STREAM: Final = "NO_STREAM"

PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 5.0

KEPT_MAX: Final = 10_000
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
"""So many that no stream takes are kept in memory, beside what may be on its way: others pass them by."""

OWNED_S: Final = 10.0
"""So long after the last look the owner looks whether it still is one. A process that stood still for longer than a
stream remembers message ids would publish again what its successor has published."""

GIVEN_UP_MAX: Final = 1_000
_HEADERS_BYTES: Final = 8 * 1024
_CONTENT_TYPE: Final = f"content-type: {CONTENT_TYPE}\r\n"


class _Failed(NamedTuple):
    """Why a domain event is not stored: a stable code, and the cause in words."""

    code: str
    reason: str


@dataclass(slots=True)
class _Waiting:
    """`doubtful` is one that may be stored although nobody here knows; `kept` one that counts as dealt with."""

    delivery: Delivery
    doubtful: bool
    kept: bool = False

    @property
    def headers(self) -> tuple[str, str]:
        """Subject and message id; empty in what the engine has not stored."""
        found = self.delivery.headers or {}
        return found.get(SUBJECT_HEADER, ""), found.get(ID_HEADER, "")

    @property
    def lines(self) -> str:
        """The headers that it has on its user's subject."""
        trace = usable_trace((self.delivery.headers or {}).get(TRACEPARENT, ""))
        return f"{_CONTENT_TYPE}{TRACEPARENT}: {trace}\r\n" if trace else _CONTENT_TYPE


@dataclass(slots=True)
class _Lane:
    """What one run publishes; `stuck` while its first one could not be stored so far."""

    waiting: deque[_Waiting] = field(default_factory=deque[_Waiting])
    stuck: bool = False


class Publisher:
    """Gets the deliveries that are for users' subjects; each is done with once a stream or the dead letters have it."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        names: Names,
        shard: int,
        epoch: int,
        floor: Floor,
        still_owned: Callable[[], Awaitable[bool]],
        metrics: EngineMetrics,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`connect` opens a connection of its own: a stream of somebody else's may be slow, and is not to be waited for
        by anything else. What was stored below `epoch` may have been published by an earlier owner."""
        self._connect = connect
        self._names = names
        self._shard = shard
        self._epoch = epoch
        self._floor = floor
        self._still_owned = still_owned
        self._metrics = metrics
        self._patience_s = patience_s
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._owned_at = asyncio.get_running_loop().time()
        self._targets = Targets(names)
        self._lanes: dict[str, _Lane] = {}
        self._new: list[_Lane] = []
        self._begun = asyncio.Event()
        self._kept = self._kept_bytes = 0
        self._given_up: dict[str, None] = {}
        """Subjects of dead letters: what comes next is tried once, until one is stored."""
        self.on_done: Callable[[int], Awaitable[None]] | None = None
        """Told how many are dealt with, or kept aside, which makes room for others."""

    def deliver(self, delivery: Delivery) -> None:
        token = token_of(delivery)
        lane = self._lanes.get(token)
        if lane is None:
            lane = self._lanes[token] = _Lane()
            self._new.append(lane)
            self._begun.set()
        lane.waiting.append(_Waiting(delivery, doubtful=delivery.stream_seq < self._epoch))

    def forget(self) -> None:
        """Drops what was not published."""
        self._lanes.clear()

    @property
    def idle(self) -> bool:
        """What is stuck is no reason to wait: the next owner tries it as well."""
        return all(lane.stuck for lane in self._lanes.values())

    @property
    def waiting(self) -> int:
        return sum(len(lane.waiting) for lane in self._lanes.values())

    async def run(self) -> None:
        """Publishes for ever. Raises `Doubt` when the shard is lost, or the broker."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._begun.wait()
                self._begun.clear()
                new, self._new = self._new, []
                for lane in new:
                    group.create_task(self._work_off(lane))

    async def _work_off(self, lane: _Lane) -> None:
        while lane.waiting:
            first = lane.waiting[0]
            await self._publish(first, lane)
            lane.waiting.popleft()
            lane.stuck = False
            self._floor.covered(first.delivery.stream_seq)
            if not lane.waiting:
                del self._lanes[token_of(first.delivery)]
            await self._done(first)

    async def _publish(self, first: _Waiting, lane: _Lane) -> None:
        """Returns when it is stored, here or there."""
        subject, msg_id = first.headers
        wrong = wrong_with_subject(subject)
        if wrong or not msg_id:
            await self._bury(first, _Failed("PUBLISH_MALFORMED", wrong or "it has no message id"))
            return
        message = Message(subject, first.delivery.data, lines=first.lines, msg_id=msg_id)
        loop = asyncio.get_running_loop()
        began, pause_s = loop.time(), PAUSE_S_MIN
        while (failed := await self._try(first, message)) is not None:
            if await self._is_enough(subject, failed, loop.time() - began):
                await self._give_up(first, message, failed)
                return
            if not lane.stuck:
                _log.info("shard %d: publishing to %s waits: %s", self._shard, subject, failed.reason)
            lane.stuck = True
            await self._keep(lane)
            await asyncio.sleep(pause_s)
            pause_s = min(PAUSE_S_MAX, 2 * pause_s)
        self._given_up.pop(subject, None)
        self._metrics.published.inc()

    async def _try(self, first: _Waiting, message: Message) -> _Failed | None:
        """Why it is not known to be stored; None if it is."""
        await self._check_owned()
        connection = await self._connected()
        if first.doubtful and await self._targets.published(connection, message, first.delivery.time_ns):
            return None
        try:
            await connection.publish_elsewhere(message)
        except Unheard:
            return _Failed(NO_STREAM, f"no stream captures {message.subject}, or it has no leader")
        except PublishRefused as refused:
            return _Failed(refused.code, refused.message)
        except OutcomeUnknown as unknown:
            first.doubtful = True
            return _Failed(unknown.code, unknown.message)
        except DressageError as error:
            return _Failed(error.code, error.message)
        return None

    async def _is_enough(self, subject: str, failed: _Failed, tried_s: float) -> bool:
        """Whether it was tried for long enough: the less room there is to keep more aside, the sooner."""
        if subject in self._given_up or tried_s >= self._patience_s:
            return True
        if tried_s < self._patience_s * (1 - self._kept / KEPT_MAX):
            return False
        if tried_s >= ELECTION_S:
            return True
        return failed.code == NO_STREAM and await self._targets.none_captures(
            await self._connected(), subject
        )

    async def _check_owned(self) -> None:
        async with self._looking:
            now = asyncio.get_running_loop().time()
            if now - self._owned_at <= OWNED_S:
                return
            try:
                owned = await self._still_owned()
            except BrokerError as error:
                raise Doubt(f"publishing: {error.message}") from error
            if not owned:
                raise Doubt("somebody else has fenced the shard", contested=True)
            self._owned_at = now

    async def _connected(self) -> Connection:
        """The connection, opened when it is first needed, and anew when it was lost."""
        async with self._opening:
            if self._connection is None or self._connection.lost.is_set():
                try:
                    self._connection = await self._connect()
                except BrokerError as error:
                    raise Doubt(f"publishing: {error.message}") from error
            return self._connection

    # -- what no stream takes ----------------------------------------------------------------------
    async def _keep(self, lane: _Lane) -> None:
        """Keeps aside what is stuck, as far as there is room, so that it does not hold up what comes behind."""
        for each in lane.waiting:
            size = len(each.delivery.data)
            if not each.kept and self._kept < KEPT_MAX and self._kept_bytes + size <= KEPT_BYTES_MAX:
                each.kept = True
                self._kept += 1
                self._kept_bytes += size
                await self._tell_done()

    async def _done(self, first: _Waiting) -> None:
        if first.kept:
            self._kept -= 1
            self._kept_bytes -= len(first.delivery.data)
        else:
            await self._tell_done()

    async def _tell_done(self) -> None:
        if self.on_done is not None:
            await self.on_done(1)

    async def _give_up(self, first: _Waiting, message: Message, failed: _Failed) -> None:
        connection = await self._connected()
        if first.doubtful and await self._targets.published(connection, message):
            return
        while len(self._given_up) >= GIVEN_UP_MAX:
            del self._given_up[next(iter(self._given_up))]
        self._given_up[message.subject] = None
        _log.warning("shard %d: a dead letter for %s: %s", self._shard, message.subject, failed.reason)
        await self._bury(first, failed)

    async def _bury(self, first: _Waiting, failed: _Failed) -> None:
        """A repeat carries the same message id. What others wrote into the shard's stream may have to be cut."""
        connection = await self._connected()
        subject, msg_id = first.headers
        headers = {
            "content-type": CONTENT_TYPE,
            "Dressage-Code": failed.code,
            "Dressage-Reason": short(" ".join(failed.reason.split())),
            SUBJECT_HEADER: short(" ".join(subject.split())),
            "Dressage-Sequence": str(first.delivery.stream_seq),
        }
        again = f"{self._shard}-{first.delivery.stream_seq}"
        letter = Message(
            self._names.dead_publish(self._shard),
            first.delivery.data[: connection.payload_bytes_max - _HEADERS_BYTES],
            headers,
            msg_id=f"publish-{short(msg_id) or again}",
        )
        try:
            await connection.publish(letter)
        except DressageError as error:
            raise Doubt(f"a dead letter could not be stored: {error.message}") from error
        self._metrics.dead_letters.labels("publish").inc()
