"""The memory broker and the newest server, side by side: random operations get the same answers and deliveries.

The short form runs a few seeds. DRESSAGE_SEEDS="100..300" runs others; a seed that fails prints what led to it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from tests.contract.world import (  # pyright: ignore[reportMissingImports]
    MemoryWorld,
    Place,
    RealWorld,
    Taken,
    World,
    moment,
    new_place,
)

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection, ConsumerConfig, Delivery, Message, Schedule
from dressage.protocol.errors import BrokerError, DressageError, OutcomeUnknown, PublishRefused

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

OPERATIONS: Final = 150
SETTLE_S: Final = 10.0
"""How long the two may take to agree; they do within milliseconds unless they never will."""

TAILS: Final = ("cmd.a", "cmd.b", "cmd.c", "task.q", "task.p", "cursor", "send.1.a")
TIMERS: Final = ("timer.r.1", "timer.r.2", "timer.s.1")
FAMILIES: Final = ("cmd.*", "task.q", "task.*", "timer.>", "send.*.*", ">", "cursor", "cmd.a")
CONSUMERS: Final = ("one", "two", "three")
LATER_S: Final = 3600.0


def _seeds() -> range:
    first, _, last = os.environ.get("DRESSAGE_SEEDS", "1..12").partition("..")
    return range(int(first), int(last or first) + 1)


@dataclass
class Side:
    """One of the two brokers, with everything that was opened on it."""

    place: Place
    pulls: dict[int, Taken] = field(default_factory=dict[int, Taken])
    ids: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def connection(self) -> Connection:
        return self.place.connection

    def came(self) -> dict[int, list[tuple[object, ...]]]:
        """What the pulls got, in the form in which the two are compared."""
        return {number: [_shape(each) for each in taken.deliveries] for number, taken in self.pulls.items()}

    def ended(self) -> dict[int, bool]:
        return {number: bool(taken.ends) for number, taken in self.pulls.items()}


def _shape(delivery: Delivery) -> tuple[object, ...]:
    return (
        delivery.subject,
        delivery.stream_seq,
        delivery.consumer_seq,
        delivery.attempts,
        delivery.data,
        _plain(delivery.headers),
    )


def _plain(headers: Any) -> dict[str, str]:
    """Batch ids are each broker's own."""
    return {name: value for name, value in (headers or {}).items() if name != "Nats-Batch-Id"}


Operation = Callable[[Side], Awaitable[object]]


class Twins:
    """Does everything twice, and compares."""

    def __init__(self, chance: random.Random, sides: tuple[Side, Side]) -> None:
        self._chance = chance
        self._sides = sides
        self._history: list[str] = []
        self._pulls = 0
        self._open: dict[int, str] = {}
        self._ids = 0
        self._families: dict[str, list[str]] = {}
        self._seqs: dict[str, int] = {}
        self._last_seq = 0

    async def both(self, what: str, operation: Operation) -> object:
        """Raises `AssertionError` with the history when the answers differ."""
        answers = [await _answer(operation(side)) for side in self._sides]
        self._history.append(f"{what} -> {answers[0]}")
        assert answers[0] == answers[1], self._trace(f"memory says {answers[0]}, the server {answers[1]}")
        await self._settle()
        return answers[0]

    async def _settle(self) -> None:
        memory, server = self._sides
        deadline = time.monotonic() + SETTLE_S
        while (memory.came(), memory.ended()) != (server.came(), server.ended()):
            if time.monotonic() > deadline:
                raise AssertionError(
                    self._trace(
                        f"memory delivered {memory.came()}, ended {memory.ended()};\n"
                        f"the server delivered {server.came()}, ended {server.ended()}"
                    )
                )
            await asyncio.sleep(0.002)

    async def agree(self, what: str, ask: Operation) -> None:
        """Like `both`, for what becomes true only after a moment, such as the effect of an acknowledgement."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            answers = [await _answer(ask(side)) for side in self._sides]
            if answers[0] == answers[1]:
                self._history.append(f"{what} -> {answers[0]}")
                return
            if time.monotonic() > deadline:
                raise AssertionError(
                    self._trace(f"{what}: memory says {answers[0]}, the server {answers[1]}")
                )
            await asyncio.sleep(0.01)

    def _trace(self, difference: str) -> str:
        return "\n".join([*self._history, difference])

    # -- what happens ------------------------------------------------------------------------------
    async def step(self) -> None:
        choices: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (30, self.single),
            (14, self.batch),
            (6, self.purge),
            (6, self.read),
            (3, self.state),
            (6, self.create_consumer),
            (2, self.delete_consumer),
            (8, self.pull),
            (2, self.close_pull),
            (14, self.acknowledge),
            (8, self.taken),
            (5, self.floor),
            (2, self.fire),
        ]
        weights = [weight for weight, _ in choices]
        (chosen,) = self._chance.choices([each for _, each in choices], weights)
        await chosen()

    def _message(self) -> dict[str, Any]:
        """The same message for both sides, as the arguments of `Place.message`."""
        chance = self._chance
        timer = chance.random() < 0.15
        tail = chance.choice(TIMERS if timer else TAILS)
        fields: dict[str, Any] = {"tail": tail, "data": b"%d" % chance.randrange(1000)}
        if timer and chance.random() < 0.95:
            fields["timer"] = chance.choice(("cmd.a", "task.q", "task.q", "cmd.*"))
        if chance.random() < 0.3:
            fields["expect"] = self._expectation(tail)
        if tail == "cursor" and chance.random() < 0.7:
            fields["rollup"] = True
        if chance.random() < 0.15:
            self._ids += chance.random() < 0.7
            fields["msg_id"] = f"id{self._ids}"
        if chance.random() < 0.12:
            fields["cancels"] = chance.choice((*TIMERS, *TIMERS, "cmd.a"))
        if chance.random() < 0.1:
            fields["headers"] = {"Some": "header"}
        if chance.random() < 0.05:
            fields["never_expires"] = True
        return fields

    def _expectation(self, tail: str) -> object:
        chance = self._chance
        on = tail if chance.random() < 0.5 else "cursor" if chance.random() < 0.7 else chance.choice(TAILS)
        right = self._seqs.get(on, 0)
        seq = right if chance.random() < 0.7 else max(0, right + chance.choice((-1, 1, 2)))
        return seq if on == tail and chance.random() < 0.5 else (seq, on)

    @staticmethod
    def _made(side: Side, fields: dict[str, Any]) -> Message:
        own = dict(fields)
        target = own.pop("timer", None)
        if target is not None:
            own["schedule"] = Schedule(_FAR, side.place.at(target))
        return side.place.message(**own)

    def _noted(self, fields: list[dict[str, Any]], answer: object) -> None:
        if isinstance(answer, tuple) and answer[0] == "stored" and not answer[2]:
            first = answer[1] - len(fields) + 1
            for offset, each in enumerate(fields):
                self._seqs[each["tail"]] = first + offset
            self._last_seq = answer[1]

    async def single(self) -> None:
        fields = self._message()
        answer = await self.both(
            f"publish {fields}", lambda side: side.connection.publish(self._made(side, fields))
        )
        self._noted([fields], answer)

    async def batch(self) -> None:
        fields = [self._message() for _ in range(self._chance.choice((1, 2, 2, 3, 3, 5, 8)))]
        if self._chance.random() < 0.5:
            for each in fields:
                each.pop("msg_id", None)
        set_here = {each["tail"] for each in fields}
        for each in fields:
            if each.get("cancels") in set_here:
                # A consumer of the server may see a message before the rest of its batch has removed it.
                del each["cancels"]
        answer = await self.both(
            f"batch {fields}",
            lambda side: side.connection.publish_batch([self._made(side, each) for each in fields]),
        )
        self._noted(fields, answer)

    async def purge(self) -> None:
        family = self._chance.choice(FAMILIES)
        below = self._chance.randrange(self._last_seq + 3)
        state = await self._sides[0].place.contents(family)
        if sum(seq < below for seq, _, _ in state) == 1:
            # The server closes a single message that is out beside the purge, and either may come first.
            return
        await self.both(
            f"purge {family} below {below}",
            lambda side: side.connection.purge(side.place.stream, side.place.at(family), below),
        )

    async def read(self) -> None:
        tail = self._chance.choice((*TAILS, *TIMERS, *FAMILIES))
        seq = self._chance.randrange(self._last_seq + 2)
        await self.both(
            f"last of {tail}",
            lambda side: side.connection.last_message(side.place.stream, side.place.at(tail)),
        )
        await self.both(
            f"next of {tail} from {seq}",
            lambda side: side.connection.next_message(side.place.stream, seq, side.place.at(tail)),
        )

    async def state(self) -> None:
        family = self._chance.choice(FAMILIES)
        await self.both(
            f"state of {family}",
            lambda side: side.connection.stream_state(side.place.stream, side.place.at(family)),
        )

    async def create_consumer(self) -> None:
        chance = self._chance
        name = chance.choice(CONSUMERS)
        # Where a consumer stands when its subjects change depends on how far it has looked ahead by then.
        families = self._families.get(name) or chance.choices(FAMILIES, k=chance.choice((1, 1, 1, 1, 2)))
        # Timers and cursors are removed one by one: see `purge`.
        single = not {">", "timer.>", "cursor"}.isdisjoint(families)
        limits = {
            "max_ack_pending": chance.choice((-1, -1, 2, 5)),
            "explicit_ack": not single and chance.random() < 0.8,
            "start_seq": chance.choice((None, None, None, chance.randrange(1, self._last_seq + 3))),
        }
        answer = await self.both(
            f"consumer {name} of {families} {limits}",
            lambda side: side.connection.create_consumer(
                side.place.stream,
                ConsumerConfig(name, [side.place.at(each) for each in families], ack_wait_s=3600.0, **limits),  # type: ignore[arg-type]
            ),
        )
        if answer is None:
            self._families[name] = families

    async def delete_consumer(self) -> None:
        name = self._chance.choice(CONSUMERS)
        self._families.pop(name, None)
        await self.both(
            f"delete consumer {name}",
            lambda side: side.connection.delete_consumer(side.place.stream, name),
        )

    async def pull(self) -> None:
        if len(self._open) >= 4:
            return
        self._pulls += 1
        number, name = self._pulls, self._chance.choice(CONSUMERS)
        window = self._chance.choice((1, 2, 4, 50))

        async def begin(side: Side) -> None:
            taken = side.pulls[number] = Taken(side.connection)
            taken.pull = await side.connection.pull(
                side.place.stream, name, window, taken.deliveries.append, taken.ends.append
            )
            await side.connection.stream_state(side.place.stream)

        await self.both(f"pull {number} from {name}, window {window}", begin)
        self._open[number] = name

    async def close_pull(self) -> None:
        if not self._open:
            return
        number = self._chance.choice(list(self._open))
        del self._open[number]

        async def close(side: Side) -> None:
            pull = side.pulls[number].pull
            assert pull is not None
            await pull.close()
            await side.connection.stream_state(side.place.stream)

        await self.both(f"close pull {number}", close)

    async def acknowledge(self) -> None:
        delivered = [
            (number, place)
            for number, taken in self._sides[0].pulls.items()
            for place in range(max(0, len(taken.deliveries) - 12), len(taken.deliveries))
        ]
        if not delivered:
            return
        number, place = self._chance.choice(delivered)
        kind = self._chance.choice(("ack", "ack", "ack", "nak", "in_progress"))

        async def tell(side: Side) -> None:
            delivery = side.pulls[number].deliveries[place]
            await getattr(side.connection, kind)(delivery)
            await side.connection.stream_state(side.place.stream)

        await self.both(f"{kind} of delivery {place} of pull {number}", tell)
        if kind == "nak":
            # The server looks at what was put back after 10 ms; until then nothing shows that it will.
            await asyncio.sleep(0.03)
            await self._settle()

    async def taken(self) -> None:
        numbers = [number for number in self._open if self._sides[0].pulls[number].deliveries]
        if not numbers:
            return
        number = self._chance.choice(numbers)
        count = self._chance.choice((1, 1, 2))

        async def tell(side: Side) -> None:
            pull = side.pulls[number].pull
            assert pull is not None
            await pull.taken(count)
            await side.connection.stream_state(side.place.stream)

        await self.both(f"taken {count} of pull {number}", tell)

    async def floor(self) -> None:
        for name in CONSUMERS:
            await self.agree(f"state of consumer {name}", lambda side, name=name: _consumer_state(side, name))  # type: ignore[misc]

    async def fire(self) -> None:
        """A timer that is due at once. Until it has fired on both sides, nothing else happens."""
        target = self._chance.choice(("cmd.a", "task.q"))
        at = moment(-1.0)
        answer = await self.both(
            f"timer for {target}, due",
            lambda side: side.connection.publish(
                Message(side.place.at("timer.t.1"), b"due", schedule=Schedule(at, side.place.at(target)))
            ),
        )
        assert isinstance(answer, tuple)
        fired_seq = answer[1] + 1

        async def fired(side: Side) -> object:
            found = await side.connection.next_message(side.place.stream, fired_seq, side.place.at(target))
            waiting = await side.connection.last_message(side.place.stream, side.place.at("timer.t.1"))
            return found is not None and waiting is None and found.data == b"due"

        async def has_fired(side: Side) -> object:
            while not await fired(side):
                await asyncio.sleep(0.01)
            return True

        await self.both("it fires", has_fired)
        self._seqs[target] = self._last_seq = fired_seq

    async def end(self) -> None:
        """Everything that is left is the same."""
        await self.floor()
        await self.both("consumers", lambda side: side.connection.consumers(side.place.stream))
        await self.both("contents", lambda side: side.place.contents())
        for family in FAMILIES:
            await self.both(
                f"state of {family}",
                lambda side, family=family: side.connection.stream_state(
                    side.place.stream, side.place.at(family)
                ),  # type: ignore[misc]
            )


_FAR: Final = moment(LATER_S)


async def _answer(waiting: Awaitable[object]) -> object:
    """An answer in a form that can be compared."""
    try:
        found: Any = await waiting
    except PublishRefused as refused:
        return "refused", refused.err_code
    except OutcomeUnknown:
        return "unknown"
    except BrokerError as error:
        return "error", error.message
    except DressageError as error:
        return "error", error.code
    if hasattr(found, "duplicate"):
        return "stored", found.seq, found.duplicate
    if hasattr(found, "headers"):
        return found.subject, found.seq, found.data, _plain(found.headers)
    if isinstance(found, list):
        return sorted(found)
    return found


async def _consumer_state(side: Side, name: str) -> object:
    subject = f"$JS.API.CONSUMER.INFO.{side.place.stream}.{name}"
    info = json.loads(await side.connection.request(subject, b"", SETTLE_S))
    if "error" in info:
        return info["error"]["err_code"]
    explicit = info["config"]["ack_policy"] == "explicit"
    return {
        # Without acknowledgements it is what was delivered, or how far the server has looked ahead.
        "floor": info["ack_floor"]["stream_seq"] if explicit else None,
        "delivered": info["delivered"]["consumer_seq"],
        "out": info["num_ack_pending"],
        # Not `num_pending`: the server's own count drifts when a purge of other subjects takes one message.
    }


async def _side(world: World, name: str) -> Side:
    connection = await world.broker.connect("twin", reconnect=True)
    return Side(await new_place(world, connection, name))


@pytest.mark.parametrize("seed", _seeds())
async def test_random_operations_have_the_same_answers(seed: int, newest_server: EmbeddedServer) -> None:
    name = f"d{uuid.uuid4().hex[:12]}"
    memory = await _side(MemoryWorld(), name)
    server = await _side(RealWorld("newest", newest_server.url), name)
    twins = Twins(random.Random(seed), (memory, server))
    try:
        for _ in range(OPERATIONS):
            await twins.step()
        await twins.end()
    finally:
        await memory.connection.close()
        await server.connection.close()
