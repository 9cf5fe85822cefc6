"""Connections that break: what was in flight has no known outcome, and what stood stands again if it was asked to."""

from __future__ import annotations

import asyncio

import pytest
from tests.contract.world import (  # pyright: ignore[reportMissingImports]
    DEADLINE_S,
    Place,
    Taken,
    Weak,
    World,
    eventually,
    eventually_is,
)

from dressage.brokers.interface import Connection, Message
from dressage.brokers.jetstream import connection as real
from dressage.brokers.memory import connection as memory
from dressage.protocol.errors import NoAnswer, OutcomeUnknown, ServerUnreachable

pytestmark = pytest.mark.anyio

PATIENCE_S = 0.6


async def unknown(publishing: object) -> str:
    with pytest.raises(OutcomeUnknown) as raised:
        await publishing  # type: ignore[misc]
    return raised.value.code


async def ask(connection: Connection, place: Place) -> bool:
    """Whether the connection works."""
    try:
        return await connection.stream_state(place.stream) is not None
    except OutcomeUnknown:
        return False


async def test_what_is_in_flight_when_the_link_breaks_has_no_outcome(world: World, place: Place) -> None:
    async with world.weak(reconnect=False) as weak:
        await weak.connection.publish(place.message("cmd.a"))
        weak.stall()
        single = weak.connection.send(place.message("cmd.b"))
        reading = weak.connection.request_last(place.stream, place.at("cmd.a"))
        batch = asyncio.ensure_future(
            weak.connection.publish_batch([place.message("cmd.c"), place.message("cmd.d")])
        )
        await asyncio.sleep(0)
        await weak.cut()
        for publishing in (single, reading, batch):
            assert await unknown(publishing) == "OUTCOME_UNKNOWN"
    assert await place.tails() == ["cmd.a"]


async def test_an_owners_connection_is_lost_for_good(world: World, place: Place) -> None:
    async with world.weak(reconnect=False) as weak:
        assert not weak.connection.lost.is_set()
        await weak.cut()
        async with asyncio.timeout(DEADLINE_S):
            await weak.connection.lost.wait()
        with pytest.raises(OutcomeUnknown):
            _ = weak.connection.send(place.message("cmd.a"))
        with pytest.raises(OutcomeUnknown):
            await weak.connection.tell("x", b"")
        with pytest.raises(NoAnswer):
            await weak.connection.request("x", b"", 0.5)
    assert await place.contents() == []


async def test_a_workers_connection_comes_back(world: World, place: Place) -> None:
    async with world.weak(reconnect=True) as weak:
        await weak.connection.publish(place.message("cmd.a"))
        await weak.cut()
        await eventually_is(lambda: ask(weak.connection, place), True)
        assert not weak.connection.lost.is_set()
        await weak.connection.publish(place.message("cmd.b"))
    assert await place.tails() == ["cmd.a", "cmd.b"]


async def test_nothing_is_kept_for_later_while_there_is_no_link(world: World, place: Place) -> None:
    """What came out of a buffer after the reconnect could come out after another owner has gone on."""
    async with world.weak(reconnect=True) as weak:
        await weak.connection.publish(place.message("cmd.a"))
        await weak.cut()
        await eventually(lambda: not _sends(weak, place))
        await eventually_is(lambda: ask(weak.connection, place), True)
        tails = await place.tails()
    assert "cmd.late" not in tails


def _sends(weak: Weak, place: Place) -> bool:
    try:
        _ = weak.connection.send(place.message("cmd.early"))
    except OutcomeUnknown:
        with pytest.raises(OutcomeUnknown):
            _ = weak.connection.send(place.message("cmd.late"))
        return False
    return True


async def test_a_standing_pull_stands_again(world: World, place: Place) -> None:
    async with world.weak(reconnect=True) as weak:
        consumer = await place.consumer("c")
        taken = await place.pull(consumer, connection=weak.connection)
        await place.put("cmd.a", b"1")
        await taken.count(1)
        await weak.cut()
        await eventually_is(lambda: ask(weak.connection, place), True)
        await place.put("cmd.a", b"2")
        await taken.count(2)
        assert taken.data == [b"1", b"2"]
        assert taken.ends == []


async def test_a_subscription_stands_again(world: World, place: Place) -> None:
    async with world.weak(reconnect=True) as weak:
        heard: list[bytes] = []

        async def on_message(_: str, data: bytes, __: str) -> None:
            heard.append(data)

        inbox = weak.connection.new_inbox()
        await weak.connection.serve(f"{inbox}.*", on_message)
        await ask(weak.connection, place)
        await place.connection.tell(f"{inbox}.1", b"1")
        await eventually(lambda: heard == [b"1"])
        await weak.cut()
        await eventually_is(lambda: ask(weak.connection, place), True)
        await place.connection.tell(f"{inbox}.2", b"2")
        await eventually(lambda: heard == [b"1", b"2"])


async def test_what_a_broken_link_had_taken_goes_to_others(world: World, place: Place) -> None:
    async with world.weak(reconnect=False) as weak:
        consumer = await place.consumer("c", ack_wait_s=0.5)
        taken = await place.pull(consumer, connection=weak.connection)
        await place.put("cmd.a", b"1")
        await taken.count(1)
        await weak.cut()
        other = await place.pull(consumer)
        await other.count(1)
        assert (other.data, other.deliveries[0].attempts) == ([b"1"], 2)
        await other.ack(0)


async def test_no_answer_for_long_is_no_outcome(
    world: World, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (real, memory):
        monkeypatch.setattr(module, "ANSWER_S", PATIENCE_S)
    async with world.weak(reconnect=True) as weak:
        await weak.connection.publish(place.message("cmd.a"))
        weak.stall()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await unknown(weak.connection.publish(place.message("cmd.b")))
        assert loop.time() - began >= PATIENCE_S * 0.99
        await unknown(weak.connection.stream_state(place.stream))
        await unknown(weak.connection.publish_batch([place.message("cmd.c"), place.message("cmd.c")]))
        with pytest.raises(NoAnswer):
            await weak.connection.request(place.at("ask"), b"", 0.2)


async def test_a_request_that_nobody_answers_is_given_up(world: World, place: Place) -> None:
    async with world.weak(reconnect=True) as weak:
        await ask(weak.connection, place)
        weak.stall()
        with pytest.raises(NoAnswer, match="no answer"):
            await weak.connection.request("$JS.API.STREAM.NAMES", b"", 0.2)


# -- closing ---------------------------------------------------------------------------------------------------
async def test_a_closed_connection_sends_nothing(world: World, place: Place) -> None:
    connection = await world.broker.connect("closing")
    await connection.publish(place.message("cmd.a"))
    await connection.close()
    assert connection.lost.is_set()
    with pytest.raises(OutcomeUnknown):
        await connection.publish(place.message("cmd.b"))
    with pytest.raises(OutcomeUnknown):
        await connection.stream_state(place.stream)
    await connection.close()
    assert await place.tails() == ["cmd.a"]


async def test_closing_fails_what_waits(world: World, place: Place) -> None:
    async with world.weak(reconnect=True) as weak:
        await weak.connection.publish(place.message("cmd.a"))
        weak.stall()
        waiting = weak.connection.send(place.message("cmd.b"))
        await weak.connection.close()
        await unknown(waiting)


async def test_a_closed_connection_takes_nothing_from_its_consumers(world: World, place: Place) -> None:
    """A worker that drains leaves its tasks to others at once, and not after an ack wait."""
    closing = await world.broker.connect("closing", reconnect=True)
    consumer = await place.consumer("c")
    gone = await place.pull(consumer, connection=closing)
    await ask(closing, place)
    await closing.close()
    open_ = await place.pull(consumer)
    for n in range(10):
        await place.put("cmd.a", b"%d" % n)
    await open_.count(10)
    assert gone.deliveries == []


async def test_acknowledgements_sent_before_the_end_arrive(world: World, place: Place) -> None:
    """A worker that drains acknowledges last of all."""
    closing = await world.broker.connect("closing", reconnect=True)
    consumer = await place.consumer("c")
    taken: Taken = await place.pull(consumer, connection=closing)
    await place.put("cmd.a")
    await taken.count(1)
    await taken.ack(0)
    await closing.close()
    await eventually_is(lambda: place.ack_floor(consumer), 1)


async def test_where_no_server_is_connecting_fails() -> None:
    with pytest.raises(ServerUnreachable):
        await real_nowhere()
    with pytest.raises(ServerUnreachable):
        await memory_nowhere()


async def real_nowhere() -> None:
    from dressage.brokers.jetstream import JetStreamBroker

    await JetStreamBroker("nats://127.0.0.1:1").connect("x")


async def memory_nowhere() -> None:
    from dressage.brokers.memory import MemoryBroker, MemoryServer, Network

    class Nowhere(Network):
        def reachable(self, connection: object) -> bool:
            return False

    await MemoryBroker(MemoryServer(lambda: 0), Nowhere()).connect("x")


async def test_messages_may_be_changed_once_they_are_sent(place: Place) -> None:
    message = Message(place.at("cmd.a"), b"1", {"A": "1"})
    sent = place.connection.send(message)
    message.data, message.headers = b"2", {"A": "2"}
    await sent
    found = await place.connection.last_message(place.stream, place.at("cmd.a"))
    assert found is not None
    assert (found.data, found.headers) == (b"1", {"A": "1"})
