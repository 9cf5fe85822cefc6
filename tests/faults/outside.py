"""What must hold, checked from the outside: by raw reads of the streams, with nothing of the engine in between.

The invariants are those of the simulation: every run ends as it must, its events stand once and in order, its stored
state is that of its last event, nothing is left in the shards' streams, and a replaced owner committed nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import itertools
import uuid
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from dressage.brokers.interface import Connection, ConsumerConfig, Delivery, Pull
from dressage.protocol.errors import DressageError
from dressage.protocol.events import ReceivedEvent, decode_event
from dressage.protocol.names import Names, run_token, shard_of

T = TypeVar("T")

TERMINAL: Final = ("run-completed", "run-failed", "run-faulted")
REQUEST_S: Final = 2.0
LANES: Final = 16
WINDOW: Final = 500
POLL_S: Final = 0.1
NO_MESSAGE: Final = 10037
SHOWN_MAX: Final = 12
"""So many violations are shown; the rest is counted."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A stored message. `time_s` is when the stream's leader stored it, in seconds since 1970."""

    seq: int
    subject: str
    time_s: float
    data: bytes


class _Message(msgspec.Struct):
    subject: str
    seq: int
    time: str
    data: str = ""


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Got(msgspec.Struct):
    message: _Message | None = None
    error: _Error | None = None


class _State(msgspec.Struct):
    """Of a run's stored state, as much as is compared."""

    status: str = "running"
    events: int = 0
    output: Any = None


class _Epoch(msgspec.Struct):
    """Of a cursor, a position and a fence, as much as is compared."""

    epoch: int = 0
    fence: bool = False


_got: Final = msgspec.json.Decoder(_Got)


async def persistently(ask: Callable[[], Awaitable[T]], seconds: float = 30.0) -> T:
    """Repeats a read until it is answered: servers may be electing a leader."""
    async with asyncio.timeout(seconds):
        while True:
            with contextlib.suppress(DressageError):
                return await ask()
            await asyncio.sleep(POLL_S)


async def get_raw(connection: Connection, stream: str, request: Mapping[str, object]) -> Raw | None:
    """`STREAM.MSG.GET`, which the stream's leader answers."""
    body = msgspec.json.encode(request)
    subject = f"$JS.API.STREAM.MSG.GET.{stream}"
    while True:
        got = _got.decode(await persistently(lambda: connection.request(subject, body, REQUEST_S)))
        if got.message is not None:
            found = got.message
            stored_at = datetime.fromisoformat(found.time).timestamp()
            return Raw(found.seq, found.subject, stored_at, base64.b64decode(found.data))
        if got.error is not None and got.error.err_code == NO_MESSAGE:
            return None
        await asyncio.sleep(POLL_S)


async def read_stream(connection: Connection, stream: str, subjects: str, first: int = 1) -> list[Raw]:
    """Every message on matching subjects from sequence `first` on, in order; a few ranges at a time."""
    state = await persistently(lambda: connection.stream_state(stream))
    last = state.last_seq if state is not None else 0

    async def read(start: int, end: int) -> list[Raw]:
        found: list[Raw] = []
        while start <= end:
            raw = await get_raw(connection, stream, {"seq": start, "next_by_subj": subjects})
            if raw is None or raw.seq > end:
                break
            found.append(raw)
            start = raw.seq + 1
        return found

    step = max(1, -(-(last - first + 1) // LANES))
    parts = await asyncio.gather(
        *(read(start, min(last, start + step - 1)) for start in range(first, last + 1, step))
    )
    return [raw for part in parts for raw in part]


def by_run(events: Iterable[Raw]) -> dict[str, list[ReceivedEvent]]:
    """The output events of each run, in the order of the stream."""
    runs: dict[str, list[ReceivedEvent]] = defaultdict(list)
    for raw in events:
        event = decode_event(raw.data)
        runs[event.subject].append(event)
    return runs


def keys_of(events: Iterable[Raw]) -> set[tuple[str, int, str]]:
    """Run id, index and kind of each event."""
    decoded = (decode_event(raw.data) for raw in events)
    return {(event.subject, event.index, event.kind) for event in decoded}


def wrong_events(
    runs: Mapping[str, Sequence[ReceivedEvent]],
    started: Mapping[str, int],
    expected: Callable[[int], object],
    unsure: Iterable[str] = (),
) -> list[str]:
    """What is wrong with the events of these runs; `expected` None is a run that must fail.

    `started` are the runs whose start was acknowledged. The `unsure` were sent without an acknowledgement, so they
    may be there or not.
    """
    wrong = [f"{run}: its start was acknowledged, and it is not there" for run in started if run not in runs]
    known = set(unsure)
    for run, events in runs.items():
        if run not in started and run not in known:
            wrong.append(f"{run}: nobody started it")
            continue
        indexes = [event.index for event in events]
        if indexes != list(range(len(events))):
            wrong.append(f"{run}: event indexes {indexes}")
        ends = [event for event in events if event.kind in TERMINAL]
        if len(ends) != 1 or ends[0] is not events[-1]:
            wrong.append(f"{run}: ends {[event.kind for event in ends]}, last event {events[-1].kind}")
            continue
        if run in started:
            wrong += _wrong_end(run, ends[0], expected(started[run]))
    return wrong


def _wrong_end(run: str, end: ReceivedEvent, expected: object) -> list[str]:
    kind = "run-failed" if expected is None else "run-completed"
    if end.kind != kind:
        return [f"{run}: ended with {end.kind}, must be {kind}: {bytes(end.data)!r}"]
    output = msgspec.json.decode(end.data).get("output")
    return [f"{run}: gave {output}, must be {expected}"] if output != expected else []


def longest_gap_s(events: Iterable[Raw], since_s: float, until_s: float) -> float:
    """The longest time without an event between two moments; the moments themselves count as events."""
    times = sorted(raw.time_s for raw in events if since_s <= raw.time_s <= until_s)
    moments = [since_s, *times, until_s]
    return max(after - before for before, after in itertools.pairwise(moments))


def shard_of_event(raw: Raw) -> int:
    return int(raw.subject.split(".")[3])


@dataclass
class Found:
    """What a check saw: every violation, and the events that it read."""

    wrong: list[str]
    events: list[Raw] = field(default_factory=list)

    def require(self) -> None:
        """Raises `AssertionError` that shows the violations."""
        shown = "\n".join(self.wrong[:SHOWN_MAX])
        assert not self.wrong, f"{len(self.wrong)} violations:\n{shown}"


class Outside:
    """The checker of one namespace."""

    def __init__(
        self, connection: Connection, names: Names, shards: int, expected: Callable[[int], object]
    ) -> None:
        self._connection = connection
        self._names = names
        self._shards = shards
        self._expected = expected

    async def events_so_far(self) -> int:
        state = await persistently(lambda: self._connection.stream_state(self._names.events_stream))
        return state.last_seq if state is not None else 0

    async def check(
        self, started: Mapping[str, int], settle_s: float, *, first: int = 1, unsure: Iterable[str] = ()
    ) -> Found:
        """Waits until nothing is left to do, at most `settle_s`; then reads everything from sequence `first` on."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settle_s
        left = await self._settled(started, first, deadline)
        events = await read_stream(
            self._connection, self._names.events_stream, self._names.all_events(), first
        )
        runs = by_run(events)
        wrong = wrong_events(runs, started, self._expected, unsure)
        wrong += left
        wrong_states = await self._wrong_states(runs)
        # A server that has lost its copy of a shard's stream may have said for a moment that nothing was left.
        while wrong_states and loop.time() < deadline:
            await asyncio.sleep(5 * POLL_S)
            wrong_states = await self._wrong_states(runs)
        wrong += wrong_states
        wrong += await self._dead_letters()
        return Found(wrong, events)

    async def left(self, allowed: Iterable[str], settle_s: float) -> list[str]:
        """What is wrong with the shards' streams and owners after so long, beside messages on allowed subjects."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + settle_s
        known = frozenset(allowed)
        while True:
            wrong = await self._left_in_shards(known) or await self._wrong_owners()
            if not wrong or loop.time() > deadline:
                return wrong + await self._dead_letters()
            await asyncio.sleep(5 * POLL_S)

    # -- waiting -----------------------------------------------------------------------------------
    async def _settled(self, started: Mapping[str, int], first: int, deadline: float) -> list[str]:
        """What is still left when the time is over."""
        loop = asyncio.get_running_loop()
        ended: set[str] = set()
        while True:
            first = await self._note_ends(first, ended)
            left = [f"{run}: has not ended in time" for run in started if run not in ended]
            left = left or await self._left_in_shards() or await self._wrong_owners()
            if not left or loop.time() > deadline:
                return left
            await asyncio.sleep(5 * POLL_S)

    async def _note_ends(self, first: int, ended: set[str]) -> int:
        """Adds the runs whose end stands at or behind sequence `first`; returns where to go on."""
        last = await self.events_so_far()
        for kind in TERMINAL:
            subjects = f"{self._names.root}.events.*.*.{kind}.*"
            for raw in await read_stream(self._connection, self._names.events_stream, subjects, first):
                ended.add(decode_event(raw.data).subject)
        return last + 1

    async def _left_in_shards(self, allowed: frozenset[str] = frozenset()) -> list[str]:
        """Subjects in the shards' streams that are neither the cursor nor allowed."""
        left: list[str] = []
        for shard in range(self._shards):
            stream = self._names.shard_stream(shard)
            state = await persistently(functools.partial(self._connection.stream_state, stream, ">"))
            left += [
                f"{stream}: {count} on {subject}"
                for subject, count in (state.subjects if state is not None else {}).items()
                if subject != self._names.cursor(shard) and subject not in allowed
            ]
        return left

    # -- states, owners, dead letters --------------------------------------------------------------
    async def _wrong_states(self, runs: Mapping[str, Sequence[ReceivedEvent]]) -> list[str]:
        """Runs whose stored state is not that of their last event."""
        lanes = asyncio.Semaphore(LANES)

        async def compare(run: str, events: Sequence[ReceivedEvent]) -> str | None:
            key = self._names.run_key(shard_of(run, self._shards), run_token(run))
            async with lanes:
                raw = await get_raw(self._connection, self._names.runs_stream(), {"last_by_subj": key})
            return wrong_state(run, raw, events)

        compared = await asyncio.gather(*(compare(run, events) for run, events in runs.items()))
        return [wrong for wrong in compared if wrong is not None]

    async def _wrong_owners(self) -> list[str]:
        """Shards on which more than the newest epoch stands."""
        wrong: list[str] = []
        for shard in range(self._shards):
            wrong += await self._wrong_owner(shard)
        return wrong

    async def _wrong_owner(self, shard: int) -> list[str]:
        names = self._names
        stream = names.shard_stream(shard)
        consumers = await persistently(lambda: self._connection.consumers(stream))
        epochs = Counter(epoch for name in consumers if (epoch := names.consumer_epoch(name)) is not None)
        cursor = await self._last(stream, names.cursor(shard))
        position = await self._last(names.events_stream, names.position(shard))
        fence = await self._last(names.runs_stream(), names.fence_key(shard))
        written = {"cursor": _epoch_of_cursor(cursor), "position": _epoch(position), "fence": _epoch(fence)}
        newest = max(epochs, default=0)
        wrong = [
            f"shard {shard}: {kind} is of epoch {epoch}, not {newest}"
            for kind, epoch in written.items()
            if epoch != newest
        ]
        if set(epochs) != {newest} or epochs[newest] != 2:
            wrong.append(f"shard {shard}: consumers of owners {sorted(consumers)}")
        return wrong

    async def _last(self, stream: str, subject: str) -> Raw | None:
        return await get_raw(self._connection, stream, {"last_by_subj": subject})

    async def _dead_letters(self) -> list[str]:
        dead = await read_stream(self._connection, self._names.dead_stream, ">")
        return [f"dead letter on {raw.subject}: {raw.data[:200]!r}" for raw in dead]


def wrong_state(run: str, raw: Raw | None, events: Sequence[ReceivedEvent]) -> str | None:
    if raw is None:
        return f"{run}: has events and no state"
    state = msgspec.json.decode(raw.data, type=_State)
    last = events[-1]
    status = {"run-completed": "completed", "run-failed": "failed", "run-faulted": "engine-fault"}.get(
        last.kind, "running"
    )
    if (state.status, state.events) != (status, len(events)):
        stands = f"{state.status} with {state.events} events"
        return f"{run}: its state is {stands}, the stream says {status} with {len(events)}"
    if status == "completed" and state.output != msgspec.json.decode(last.data)["output"]:
        return f"{run}: its state has another output than its last event"
    return None


def _epoch(raw: Raw | None) -> int:
    return msgspec.json.decode(raw.data, type=_Epoch).epoch if raw is not None else 0


def _epoch_of_cursor(raw: Raw | None) -> int:
    """A take-over rewrites the cursor as it was; its own sequence is then the new epoch."""
    if raw is None:
        return 0
    cursor = msgspec.json.decode(raw.data, type=_Epoch)
    return raw.seq if cursor.fence else cursor.epoch


class Watch:
    """Follows messages of a stream as they are stored, also those that a later one replaces.

    Its consumer lives on one server, and is made again when that one is lost. What was stored and replaced meanwhile
    is not seen, so this sees too little at times, and never too much.
    """

    def __init__(
        self, connection: Connection, stream: str, subjects: Sequence[str], see: Callable[[Delivery], None]
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._subjects = subjects
        self._see = see
        self._task: asyncio.Task[None] | None = None
        self._pull: Pull | None = None
        self._ended = asyncio.Event()
        self._consumer_seq = 0
        self._next = 0

    async def begin(self) -> None:
        """Returns once everything that is stored from now on will be seen."""
        state = await persistently(lambda: self._connection.stream_state(self._stream))
        self._next = state.last_seq + 1 if state is not None else 1
        self._task = asyncio.create_task(self._follow())

    async def end(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            self._ended.clear()
            self._consumer_seq = 0
            with contextlib.suppress(DressageError):
                await self._pull_until_it_ends(f"watch_{uuid.uuid4().hex}")
            await asyncio.sleep(POLL_S)

    async def _pull_until_it_ends(self, name: str) -> None:
        config = ConsumerConfig(
            name,
            self._subjects,
            durable=False,
            explicit_ack=False,
            start_seq=self._next,
            memory=True,
            inactive_s=30.0,
        )
        await self._connection.create_consumer(self._stream, config)
        self._pull = await self._connection.pull(
            self._stream, name, WINDOW, self._on_delivery, lambda _: self._ended.set()
        )
        try:
            await self._ended.wait()
        finally:
            await self._pull.close()

    async def _on_delivery(self, delivery: Delivery) -> None:
        self._consumer_seq += 1
        if delivery.consumer_seq != self._consumer_seq:
            self._ended.set()  # One was lost on its way: a new consumer begins behind the last that was seen.
        elif not self._ended.is_set():
            self._next = delivery.stream_seq + 1
            self._see(delivery)
        if self._pull is not None:
            await self._pull.taken()


class Commits:
    """Watches who commits. A replaced owner that commits is what the whole protocol is there to prevent."""

    def __init__(self, connection: Connection, names: Names, shards: int) -> None:
        self._cursors: list[list[Delivery]] = [[] for _ in range(shards)]
        self._positions: list[Delivery] = []
        self._watches = [
            Watch(connection, names.shard_stream(shard), [names.cursor(shard)], seen.append)
            for shard, seen in enumerate(self._cursors)
        ]
        positions = [f"{names.root}.position.*"]
        self._watches.append(Watch(connection, names.events_stream, positions, self._positions.append))

    async def begin(self) -> None:
        for watch in self._watches:
            await watch.begin()

    async def end(self) -> None:
        for watch in self._watches:
            await watch.end()

    @property
    def seen(self) -> int:
        """How many commits and fences were seen."""
        return sum(map(len, (*self._cursors, self._positions)))

    @property
    def takeovers(self) -> int:
        return sum(len(_fences(seen)) for seen in self._cursors)

    def wrong(self) -> list[str]:
        wrong: list[str] = []
        for shard, seen in enumerate(self._cursors):
            wrong += [f"shard {shard}: {each}" for each in late_turns(seen)]
        by_subject: dict[str, list[Delivery]] = defaultdict(list)
        for delivery in self._positions:
            by_subject[delivery.subject].append(delivery)
        for subject, deliveries in by_subject.items():
            wrong += [f"{subject}: {each}" for each in late_positions(deliveries)]
        return wrong


def _fences(cursors: Iterable[Delivery]) -> list[int]:
    return [each.stream_seq for each in cursors if msgspec.json.decode(each.data, type=_Epoch).fence]


def late_turns(cursors: Iterable[Delivery]) -> list[str]:
    """Turns that stand behind the fence of a later owner than their own."""
    wrong: list[str] = []
    fenced = 0
    for delivery in cursors:
        cursor = msgspec.json.decode(delivery.data, type=_Epoch)
        if cursor.fence:
            fenced = delivery.stream_seq
        elif cursor.epoch < fenced:
            wrong.append(
                f"a turn of epoch {cursor.epoch} stands at {delivery.stream_seq}, behind the fence at {fenced}"
            )
    return wrong


def late_positions(positions: Iterable[Delivery]) -> list[str]:
    wrong: list[str] = []
    highest = 0
    for delivery in positions:
        epoch = msgspec.json.decode(delivery.data, type=_Epoch).epoch
        if epoch < highest:
            wrong.append(
                f"events of epoch {epoch} stand at {delivery.stream_seq}, behind those of epoch {highest}"
            )
        highest = max(highest, epoch)
    return wrong
