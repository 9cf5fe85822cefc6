"""Domain events on their way to users' subjects: once each, in the order of a run, whatever the user's stream does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import nats
import pytest
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy
from nats.js.api import StreamConfig as NatsStream

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection, Delivery, Message, StoredMessage, StreamConfig
from dressage.brokers.jetstream import JetStreamBroker
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig, run_beside
from dressage.orchestrator.sharing import weight
from dressage.orchestrator.turn import publishing, targets
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.publishing import Publisher
from dressage.orchestrator.turn.removing import Floor
from dressage.protocol.events import CONTENT_TYPE, ID_HEADER, SUBJECT_HEADER
from dressage.protocol.names import Names, run_token

pytestmark = pytest.mark.anyio

EVENTS = 120
PATIENCE_S = 1.5
DEADLINE_S = 20.0


@dataclass
class Shop:
    """A namespace, and the subjects that its runs publish on, which no other test has."""

    connection: Connection
    namespace: str
    names: Names = field(init=False)

    def __post_init__(self) -> None:
        self.names = Names(self.namespace)

    @property
    def stream(self) -> str:
        return f"shop_{self.namespace}"

    def subject(self, tail: str) -> str:
        return f"{self.namespace}.{tail}"

    async def open(self, *tails: str, **options: Any) -> None:
        """Makes the user's stream, or gives it more subjects."""
        subjects = [self.subject(tail) for tail in tails or (">",)]
        await self.connection.ensure_stream(StreamConfig(self.stream, subjects, **options))

    def waiting(self, run: str, index: int, tail: str, shard: int = 0) -> Message:
        """What a turn leaves in the shard's stream whose run publishes."""
        token = run_token(run)
        headers = {
            SUBJECT_HEADER: self.subject(tail),
            ID_HEADER: self.names.publish_id(token, 1_000, index),
        }
        return Message(self.names.publish(shard, token), f"{run}/{index}".encode(), headers)

    async def commit(self, *events: tuple[str, int, str]) -> None:
        messages = [self.waiting(*event) for event in events]
        if len(messages) == 1:
            await self.connection.publish(messages[0])
        else:
            await self.connection.publish_batch(messages)

    async def stored(self, stream: str = "", subject: str = ">") -> list[StoredMessage]:
        found: list[StoredMessage] = []
        seq = 1
        while (
            message := await self.connection.next_message(stream or self.stream, seq, subject)
        ) is not None:
            found.append(message)
            seq = message.seq + 1
        return found

    async def said(self) -> list[str]:
        return [message.data.decode() for message in await self.stored()]

    async def dead(self) -> list[StoredMessage]:
        return await self.stored(self.names.dead_stream, self.names.dead_publish(0))

    async def until(self, fact: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not await fact():
                await asyncio.sleep(0.02)

    async def until_said(self, wanted: Sequence[str]) -> None:
        async def fact() -> bool:
            return len(await self.said()) >= len(wanted)

        await self.until(fact)
        assert await self.said() == list(wanted)

    async def until_dead(self, count: int) -> list[StoredMessage]:
        async def fact() -> bool:
            return len(await self.dead()) >= count

        await self.until(fact)
        return await self.dead()

    async def until_emptied(self) -> None:
        async def fact() -> bool:
            names = self.names
            state = await self.connection.stream_state(names.shard_stream(0), subjects=names.sends(0))
            return state is not None and not state.subjects

        await self.until(fact)


@pytest.fixture
def shop(connection: Connection, namespace: str) -> Shop:
    return Shop(connection, namespace)


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[Nats]:
    """Somebody who knows nothing of Dressage."""
    opened = await nats.connect(server.url)
    yield opened
    await opened.close()


class Engine:
    """An orchestrator that is started and stopped."""

    def __init__(self, broker: JetStreamBroker, namespace: str, patience_s: float = PATIENCE_S) -> None:
        self._broker = broker
        self._config = OrchestratorConfig(namespace, publish_patience_s=patience_s)
        self._running: tuple[Orchestrator, asyncio.Task[None]] | None = None

    async def up(self) -> None:
        self._running = await run_beside(self._broker, self._config)

    async def down(self) -> None:
        if self._running is not None:
            orchestrator, task = self._running
            self._running = None
            orchestrator.stop()
            await asyncio.wait_for(task, DEADLINE_S)


@pytest.fixture
async def engine(broker: JetStreamBroker, namespace: str) -> AsyncIterator[Engine]:
    made = Engine(broker, namespace)
    await made.up()
    yield made
    await made.down()


# -- once, in order --------------------------------------------------------------------------------
async def test_what_a_run_publishes_is_stored_in_its_order_and_leaves_the_shard(
    engine: Engine, shop: Shop
) -> None:
    await shop.open()
    events = [("run a", index, f"orders.{index % 3}") for index in range(EVENTS)]
    await shop.commit(*events)
    await shop.until_said([f"run a/{index}" for index in range(EVENTS)])
    await shop.until_emptied()
    first = (await shop.stored())[0]
    assert first.subject == shop.subject("orders.0")
    assert first.headers == {
        "content-type": CONTENT_TYPE,
        "Nats-Msg-Id": f"{shop.namespace}.run=20a.1000.0",
    }


async def test_each_is_stored_once_in_the_order_of_its_run_when_the_owner_changes(
    broker: JetStreamBroker, shop: Shop
) -> None:
    await shop.open()
    giver = next(f"m{n}" for n in range(100) if weight(0, f"m{n}") < weight(1, f"m{n}"))
    first, first_task = await run_beside(broker, OrchestratorConfig(shop.namespace, shards=2, member=giver))
    await shop.commit(*((f"run-{index % 7}", index, "orders") for index in range(EVENTS)))
    second = Orchestrator(broker, OrchestratorConfig(shop.namespace))
    second_task = asyncio.create_task(second.run())
    for batch in range(1, 6):
        await shop.commit(
            *((f"run-{index % 7}", index + batch * EVENTS, "orders") for index in range(EVENTS))
        )
        await asyncio.sleep(0.2)

    async def all_there() -> bool:
        return len(await shop.said()) >= 6 * EVENTS

    await shop.until(all_there)
    await shop.until_emptied()
    for orchestrator, task in ((first, first_task), (second, second_task)):
        orchestrator.stop()
        await task
    said = await shop.said()
    assert len(set(said)) == len(said) == 6 * EVENTS
    for run in range(7):
        indexes = [int(each.partition("/")[2]) for each in said if each.startswith(f"run-{run}/")]
        assert indexes == sorted(indexes)


async def test_what_an_earlier_owner_has_published_already_is_not_stored_again(
    engine: Engine, shop: Shop
) -> None:
    await shop.open()
    await engine.down()
    await shop.commit(*(("a", index, "orders") for index in range(4)))
    waiting = shop.waiting("a", 0, "orders")
    msg_id = (waiting.headers or {})[ID_HEADER]
    await shop.connection.publish(Message(shop.subject("orders"), b"a/0", msg_id=msg_id))
    await engine.up()
    await shop.until_said(["a/0", "a/1", "a/2", "a/3"])
    await shop.until_emptied()
    assert await shop.said() == ["a/0", "a/1", "a/2", "a/3"]


async def test_it_is_not_stored_again_either_when_its_stream_has_forgotten_the_message_ids(
    engine: Engine, shop: Shop
) -> None:
    """Orchestrators that were away for longer than the duplicate window look through the stream's last messages."""
    await shop.open(duplicate_window_s=0.3)
    await engine.down()
    await shop.commit(*((run, index, "orders") for index in range(4) for run in "ab"))
    for run, index in (("a", 0), ("b", 0), ("a", 1)):
        msg_id = (shop.waiting(run, index, "orders").headers or {})[ID_HEADER]
        await shop.connection.publish(
            Message(shop.subject("orders"), f"{run}/{index}".encode(), msg_id=msg_id)
        )
    await shop.connection.publish(Message(shop.subject("orders"), b"of somebody else"))
    await asyncio.sleep(0.6)
    known = await shop.connection.publish(
        Message(
            shop.subject("others"), b"x", msg_id=(shop.waiting("a", 0, "orders").headers or {})[ID_HEADER]
        )
    )
    assert not known.duplicate
    await engine.up()
    await shop.until_emptied()
    said = [each for each in await shop.said() if "/" in each]
    assert sorted(said) == sorted(f"{run}/{index}" for run in "ab" for index in range(4))
    assert [each for each in said if each.startswith("a")] == ["a/0", "a/1", "a/2", "a/3"]


async def test_only_the_last_messages_of_a_stream_are_looked_through(
    engine: Engine, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the repeat is stored, and consumers tell it by the event's id."""
    monkeypatch.setattr(targets, "SEARCHED_MAX", 5)
    await shop.open(duplicate_window_s=0.2)
    await engine.down()
    await shop.commit(("a", 0, "orders"), ("b", 0, "orders"))
    for run, others in (("a", 3), ("b", 3)):
        msg_id = (shop.waiting(run, 0, "orders").headers or {})[ID_HEADER]
        await shop.connection.publish(Message(shop.subject("orders"), f"{run}/0".encode(), msg_id=msg_id))
        for _ in range(others):
            await shop.connection.publish(Message(shop.subject("others"), b"x"))
    await asyncio.sleep(0.5)
    await engine.up()
    await shop.until_emptied()
    said = [each for each in await shop.said() if "/" in each]
    assert sorted(said) == ["a/0", "a/0", "b/0"]


# -- what no stream takes --------------------------------------------------------------------------
async def test_what_no_stream_captures_goes_to_the_dead_letters_and_holds_up_no_other_run(
    engine: Engine, shop: Shop
) -> None:
    await shop.open("orders")
    await shop.commit(("a", 0, "nowhere"), ("a", 1, "orders"), ("b", 0, "orders"), ("b", 1, "orders"))
    await shop.until_said(["b/0", "b/1"])
    assert await shop.dead() == []
    (letter,) = await shop.until_dead(1)
    await shop.until_said(["b/0", "b/1", "a/1"])
    await shop.until_emptied()
    assert letter.data == b"a/0"
    headers = dict(letter.headers or {})
    assert headers.pop("Dressage-Sequence").isdigit()
    nowhere = shop.subject("nowhere")
    assert headers == {
        "content-type": CONTENT_TYPE,
        "Dressage-Code": "NO_STREAM",
        "Dressage-Reason": f"no stream captures {nowhere}, or it has no leader",
        "Dressage-Subject": nowhere,
        "Nats-Msg-Id": f"publish-{shop.namespace}.a.1000.0",
    }


async def test_what_waits_is_stored_as_soon_as_a_stream_captures_it(engine: Engine, shop: Shop) -> None:
    await shop.commit(("a", 0, "orders"), ("a", 1, "orders"))
    await asyncio.sleep(0.5)
    await shop.open()
    await shop.until_said(["a/0", "a/1"])
    await shop.until_emptied()
    assert await shop.dead() == []


async def test_behind_a_dead_letter_its_subject_is_tried_once_until_one_is_stored(
    engine: Engine, shop: Shop
) -> None:
    loop = asyncio.get_running_loop()
    await shop.commit(("a", 0, "nowhere"))
    await shop.until_dead(1)
    began = loop.time()
    await shop.commit(*((f"run-{number}", 0, "nowhere") for number in range(20)))
    await shop.until_dead(21)
    assert loop.time() - began < PATIENCE_S
    await shop.open()
    await shop.commit(("b", 0, "nowhere"))
    await shop.until_said(["b/0"])
    assert len(await shop.dead()) == 21


async def test_what_a_stream_refuses_for_good_goes_to_the_dead_letters(
    engine: Engine, shop: Shop, client: Nats
) -> None:
    config = NatsStream(shop.stream, subjects=[shop.subject(">")], max_msg_size=100)
    await client.jetstream().add_stream(config)
    long = shop.waiting("a", 0, "orders")
    long.data = b"x" * 200
    await shop.connection.publish(long)
    await shop.commit(("b", 0, "orders"))
    await shop.until_said(["b/0"])
    (letter,) = await shop.until_dead(1)
    assert letter.data == long.data
    headers = letter.headers or {}
    assert headers["Dressage-Code"] == "PUBLISH_REFUSED"
    assert "message size exceeds maximum allowed" in headers["Dressage-Reason"]


async def test_a_stream_that_is_full_for_a_moment_gets_all_in_order(
    engine: Engine, shop: Shop, client: Nats
) -> None:
    config = NatsStream(shop.stream, subjects=[shop.subject(">")], max_msgs=2, discard=DiscardPolicy.NEW)
    js = client.jetstream()
    await js.add_stream(config)
    await shop.commit(*(("a", index, "orders") for index in range(6)))
    await shop.until_said(["a/0", "a/1"])
    await asyncio.sleep(0.3)
    config.max_msgs = 100
    await js.update_stream(config)
    await shop.until_said([f"a/{index}" for index in range(6)])
    assert await shop.dead() == []


async def test_an_answer_of_anybody_but_a_stream_does_not_count(
    engine: Engine, shop: Shop, client: Nats
) -> None:
    async def answer(message: Msg) -> None:
        await message.respond(b'{"stream":"","seq":7}')

    await client.subscribe(shop.subject("orders"), cb=answer)
    await client.flush()
    await shop.open()
    await shop.commit(("a", 0, "orders"))
    await shop.until_said(["a/0"])
    await shop.until_emptied()
    assert await shop.dead() == []


async def test_what_the_engine_has_not_put_there_goes_to_the_dead_letters(engine: Engine, shop: Shop) -> None:
    await shop.open()
    names = shop.names
    stranger = Message(names.publish(0, "a"), b"what?", {SUBJECT_HEADER: names.cursor(0), ID_HEADER: "x"})
    await shop.connection.publish(stranger)
    most = shop.connection.payload_bytes_max
    await shop.connection.publish(Message(names.publish(0, "a"), b"x" * most))
    await shop.commit(("a", 0, "orders"))
    letters = await shop.until_dead(2)
    assert letters[0].data == b"what?"
    assert most - 10_000 < len(letters[1].data) < most
    assert {(letter.headers or {})["Dressage-Code"] for letter in letters} == {"PUBLISH_MALFORMED"}
    await shop.until_said(["a/0"])
    await shop.until_emptied()


async def test_an_orderly_stop_does_not_wait_for_what_is_stuck(engine: Engine, shop: Shop) -> None:
    await shop.open("orders")
    await shop.commit(("a", 0, "later"), ("b", 0, "orders"))
    await shop.until_said(["b/0"])
    began = asyncio.get_running_loop().time()
    await engine.down()
    assert asyncio.get_running_loop().time() - began < 5
    await shop.open("orders", "later")
    await engine.up()
    await shop.until_said(["b/0", "a/0"])
    assert await shop.dead() == []


async def test_more_than_may_be_on_the_way_can_be_stuck_without_holding_up_others(
    broker: JetStreamBroker, shop: Shop
) -> None:
    """What is stuck is kept aside: the owner asks the stream for more."""
    engine = Engine(broker, shop.namespace, patience_s=60)
    await engine.up()
    await shop.open("orders")
    for batch in range(3):
        await shop.commit(
            *((f"run-{batch}-{number}", 0, f"nowhere.{batch}.{number}") for number in range(900))
        )
    await shop.commit(("b", 0, "orders"))
    await shop.until_said(["b/0"])
    assert await shop.dead() == []
    await engine.down()


async def test_when_there_is_no_room_to_keep_more_aside_what_no_stream_captures_is_given_up_sooner(
    broker: JetStreamBroker, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "KEPT_MAX", 100)
    engine = Engine(broker, shop.namespace, patience_s=3_600)
    await engine.up()
    await shop.open("orders")
    for batch in range(3):
        await shop.commit(
            *((f"run-{batch}-{number}", 0, f"nowhere.{batch}.{number}") for number in range(900))
        )
    await shop.commit(("b", 0, "orders"))
    await shop.until_said(["b/0"])
    assert len(await shop.dead()) >= 500
    await engine.down()


# -- one owner -------------------------------------------------------------------------------------
async def test_an_owner_that_stood_still_looks_whether_it_still_is_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "OWNED_S", -1.0)
    await shop.open()

    async def connect() -> Connection:
        return shop.connection

    async def replaced() -> bool:
        return False

    publisher = Publisher(connect, shop.names, 0, 1, Floor(), replaced, EngineMetrics())
    waiting = shop.waiting("a", 0, "orders")
    publisher.deliver(Delivery(waiting.subject, waiting.data, waiting.headers, 5, 1, 1, 0, ""))
    with pytest.raises(ExceptionGroup) as ended:
        await asyncio.wait_for(publisher.run(), DEADLINE_S)
    (doubt,) = ended.value.exceptions
    assert isinstance(doubt, Doubt)
    assert doubt.contested
    assert await shop.said() == []
