"""What only the memory broker has: a network that can be told what to do, hooks for checkers, and any clock."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.contract.world import eventually  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import (
    WRONG_LAST_SEQUENCE,
    ConsumerConfig,
    ConsumerState,
    Delivery,
    Expect,
    Message,
    Schedule,
    Stored,
    StreamConfig,
)
from dressage.brokers.memory import (
    AT_ONCE,
    Fate,
    MemoryBroker,
    MemoryConnection,
    MemoryServer,
    Network,
    Record,
)
from dressage.brokers.memory.records import Publish
from dressage.brokers.memory.refusals import NobodyListens, Refusal
from dressage.protocol.errors import NoAnswer, OutcomeUnknown, PublishRefused, ServerUnreachable

pytestmark = pytest.mark.anyio

SECOND = 1_000_000_000
FULL = 10077


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now

    def at(self, in_s: int) -> str:
        seconds = self.now // SECOND - 1_700_000_000 + in_s
        return f"2023-11-14T22:{13 + (20 + seconds) // 60:02d}:{(20 + seconds) % 60:02d}Z"


@dataclass
class Script(Network):
    """What becomes of the next messages of a kind: one fate each, and after that they arrive at once."""

    out: dict[str, list[Fate]] = field(default_factory=dict[str, list[Fate]])
    into: dict[str, list[Fate]] = field(default_factory=dict[str, list[Fate]])
    twice: int = 0
    survivors: int = 0
    reaches: bool = True
    kinds: list[str] = field(default_factory=list[str])

    def outgoing(self, connection: MemoryConnection, kind: str) -> Fate:
        self.kinds.append(kind)
        fates = self.out.get(kind)
        return fates.pop(0) if fates else AT_ONCE

    def incoming(self, connection: MemoryConnection, kind: str) -> Fate:
        self.kinds.append(kind)
        fates = self.into.get(kind)
        return fates.pop(0) if fates else AT_ONCE

    def duplicate_delivery(self, connection: MemoryConnection) -> bool:
        self.twice -= 1
        return self.twice >= 0

    def survives(self, connection: MemoryConnection) -> bool:
        self.survivors -= 1
        return self.survivors >= 0

    def reachable(self, connection: MemoryConnection) -> bool:
        return self.reaches


LOST = Fate(lost=True)
CONFIG = StreamConfig("S", ["s.cmd.*", "s.task.*", "s.timer.*", "s.cursor"], schedules=True, message_ttl=True)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> MemoryServer:
    server = MemoryServer(clock)
    server.ensure_stream(CONFIG)
    return server


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def connection(server: MemoryServer, script: Script) -> AsyncIterator[MemoryConnection]:
    opened = await MemoryBroker(server, script, "process").connect("mine")
    script.kinds.clear()
    yield opened
    await opened.close()


def publish(server: MemoryServer, subject: str, data: bytes = b"", **fields: Any) -> int:
    answer = server.publish(Publish(subject, data, b"headers" if fields else b"", **fields), None)
    assert answer is not None
    return answer[0]


def contents(server: MemoryServer) -> list[tuple[int, str, bytes]]:
    return [(each.seq, each.subject, each.data) for each in server.streams["S"].messages.values()]


async def settle() -> None:
    """Everything that arrives at once has arrived."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- the server alone, without any event loop ----------------------------------------------------------------------
def test_the_server_needs_no_event_loop_and_does_nothing_by_itself(
    server: MemoryServer, clock: Clock
) -> None:
    assert server.next_due_ns() is None
    publish(server, "s.timer.1", b"due", schedule_at=clock.at(5), schedule_target="s.cmd.a")
    due = clock.now + 5 * SECOND
    assert server.next_due_ns() == due
    clock.now = due - 1
    server.advance()
    assert [subject for _, subject, _ in contents(server)] == ["s.timer.1"]
    clock.now = due
    server.advance()
    assert contents(server) == [(2, "s.cmd.a", b"due")]
    assert server.next_due_ns() is None


def test_messages_carry_the_clocks_time_even_when_it_jumps_back(server: MemoryServer, clock: Clock) -> None:
    before = clock.now
    publish(server, "s.cmd.a")
    clock.now -= 3600 * SECOND
    publish(server, "s.cmd.a")
    assert [record.time_ns for record in server.ledger] == [before, before - 3600 * SECOND]


def test_a_clock_that_jumps_back_puts_timers_off_and_loses_none(server: MemoryServer, clock: Clock) -> None:
    publish(server, "s.timer.1", b"", schedule_at=clock.at(5), schedule_target="s.cmd.a")
    due = server.next_due_ns()
    assert due is not None
    clock.now -= 3600 * SECOND
    server.advance()
    assert server.next_due_ns() == due
    clock.now = due + 7200 * SECOND
    server.advance()
    assert [subject for _, subject, _ in contents(server)] == ["s.cmd.a"]


def test_the_ledger_keeps_what_the_stream_has_lost(server: MemoryServer) -> None:
    for data in (b"1", b"2"):
        publish(server, "s.cursor", data, rollup=True)
    publish(server, "s.cmd.a", b"3")
    server.purge("S", "s.cmd.*", 99, None)
    assert contents(server) == [(2, "s.cursor", b"2")]
    assert [(record.seq, record.subject, record.data) for record in server.ledger] == [
        (1, "s.cursor", b"1"),
        (2, "s.cursor", b"2"),
        (3, "s.cmd.a", b"3"),
    ]


def test_a_server_for_the_long_run_keeps_no_ledger(clock: Clock) -> None:
    server = MemoryServer(clock, keep_ledger=False)
    server.ensure_stream(CONFIG)
    publish(server, "s.cmd.a")
    assert server.ledger == []


def test_hooks_tell_what_is_stored_removed_and_told(server: MemoryServer, clock: Clock) -> None:
    stored: list[Record] = []
    removed: list[tuple[str, list[int], object]] = []
    told: list[tuple[str, bytes, object]] = []
    server.on_stored.append(stored.append)
    server.on_removed.append(
        lambda stream, gone, by: removed.append((stream, [each.seq for each in gone], by))
    )
    server.on_tell.append(lambda *what: told.append(what))
    server.publish_batch([Publish("s.cmd.a"), Publish("s.cmd.b")], "me")
    publish(server, "s.timer.1", schedule_at=clock.at(0), schedule_target="s.task.q")
    server.advance()
    server.purge("S", "s.cmd.*", 2, "me")
    server.purge("S", "s.cmd.*", 2, "me")
    server.tell("somewhere", b"x", "me")
    assert [(record.subject, record.writer) for record in stored] == [
        ("s.cmd.a", "me"),
        ("s.cmd.b", "me"),
        ("s.timer.1", None),
        ("s.task.q", None),
    ]
    assert removed == [("S", [1], "me")]
    assert told == [("somewhere", b"x", "me")]


def test_a_full_stream_refuses_and_goes_on_when_there_is_room(server: MemoryServer, clock: Clock) -> None:
    publish(server, "s.timer.1", b"due", schedule_at=clock.at(0), schedule_target="s.cmd.a")
    server.streams["S"].full = True
    with pytest.raises(Refusal) as refused:
        publish(server, "s.cmd.a")
    assert refused.value.err_code == FULL
    with pytest.raises(Refusal):
        server.publish_batch([Publish("s.cmd.a"), Publish("s.cmd.b")], None)
    server.advance()
    assert server.next_due_ns() is None
    server.streams["S"].full = False
    server.advance()
    assert contents(server) == [(2, "s.cmd.a", b"due")]


def test_a_checker_may_have_writes_refused(server: MemoryServer) -> None:
    """Such as 10164, which a server of several answers to fenced writes in flight together."""
    codes = [10164, None]
    server.refusing = lambda stream, batch: codes.pop(0) if batch[0].subject == "s.cursor" else None
    publish(server, "s.cmd.a")
    with pytest.raises(Refusal) as refused:
        publish(server, "s.cursor")
    assert refused.value.err_code == 10164
    assert publish(server, "s.cursor") == 2


def test_a_batch_over_two_streams_is_refused(server: MemoryServer) -> None:
    server.ensure_stream(StreamConfig("T", ["t"]))
    with pytest.raises(Refusal, match="incomplete"):
        server.publish_batch([Publish("s.cmd.a"), Publish("t")], None)
    with pytest.raises(NobodyListens):
        server.publish(Publish("u"), None)
    assert contents(server) == []


def test_a_batch_too_large_is_refused_by_the_server_too(server: MemoryServer) -> None:
    with pytest.raises(Refusal) as refused:
        server.publish_batch([Publish("s.cmd.a")] * 1001, None)
    assert refused.value.err_code == 10199


def test_ids_are_forgotten_after_two_minutes(server: MemoryServer, clock: Clock) -> None:
    assert server.publish(Publish("s.cmd.a", b"", b"h", msg_id="m"), None) == (1, False)
    clock.now += 120 * SECOND - 1
    assert server.publish(Publish("s.cmd.a", b"", b"h", msg_id="m"), None) == (1, True)
    clock.now += 1
    assert server.publish(Publish("s.cmd.a", b"", b"h", msg_id="m"), None) == (2, False)


def test_a_deleted_stream_is_gone(server: MemoryServer) -> None:
    publish(server, "s.cmd.a")
    server.delete_stream("S")
    assert server.stream_state("S") is None
    with pytest.raises(NobodyListens):
        publish(server, "s.cmd.a")


# -- order and delay ---------------------------------------------------------------------------------------------
async def test_nothing_takes_effect_within_the_call(
    connection: MemoryConnection, server: MemoryServer
) -> None:
    sent = connection.send(Message("s.cmd.a", b""))
    assert contents(server) == []
    assert await sent == Stored(1)


async def test_the_writer_is_the_connection(connection: MemoryConnection, server: MemoryServer) -> None:
    await connection.publish(Message("s.cmd.a", b""))
    (record,) = server.ledger
    assert record.writer is connection
    assert (connection.name, connection.process) == ("mine", "process")
    later = await MemoryBroker(server).connect("later")
    assert later.serial > connection.serial
    await later.close()


async def test_a_delay_holds_up_what_is_behind_it(
    connection: MemoryConnection, server: MemoryServer, script: Script
) -> None:
    script.out["send"] = [Fate(0.05), AT_ONCE, Fate(0.01)]
    sent = [connection.send(Message("s.cmd.a", b"%d" % n)) for n in range(3)]
    assert [stored.seq for stored in await asyncio.gather(*sent)] == [1, 2, 3]
    assert [data for _, _, data in contents(server)] == [b"0", b"1", b"2"]


async def test_replies_and_deliveries_come_back_in_one_order(
    connection: MemoryConnection, server: MemoryServer, script: Script
) -> None:
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    came: list[str] = []
    await connection.pull("S", "c", 10, lambda delivery: came.append(delivery.subject), came.append)
    await settle()
    script.into = {"delivery": [Fate(0.05)]}
    sent = connection.send(Message("s.cmd.a", b""))
    sent.add_done_callback(lambda _: came.append("reply"))
    await sent
    await settle()
    assert came == ["s.cmd.a", "reply"]


async def test_one_connection_does_not_hold_up_another(
    connection: MemoryConnection, server: MemoryServer, script: Script
) -> None:
    other = await MemoryBroker(server).connect("other")
    script.out["send"] = [Fate(0.05)]
    slow = connection.send(Message("s.cmd.slow", b""))
    assert (await other.publish(Message("s.cmd.fast", b""))).seq == 1
    assert (await slow).seq == 2
    await other.close()


async def test_every_kind_of_operation_asks_the_network(
    connection: MemoryConnection, server: MemoryServer, script: Script
) -> None:
    message = Message("s.cmd.a", b"")
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    await connection.publish(message)
    await connection.publish_batch([message, message])
    await connection.last_message("S", "s.cmd.a")
    await connection.stream_state("S")
    taken: list[Delivery] = []
    await connection.pull("S", "c", 1, taken.append, lambda _: None)
    await settle()
    await connection.ack(taken[0])
    served = await connection.serve("heard", _ignore)
    await connection.tell("heard", b"")
    with pytest.raises(NoAnswer):
        await connection.request("unheard", b"", 1.0)
    await served.close()
    await settle()
    assert script.kinds == [
        *("send", "reply", "batch", "reply", "read", "reply", "api", "reply", "pull", "delivery", "ack"),
        *("subscribe", "tell", "request", "message", "message", "subscribe"),
    ]


async def _ignore(*_: object) -> None:
    return


# -- losses ------------------------------------------------------------------------------------------------------
@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dressage.brokers.memory.connection.ANSWER_S", 0.05)
    monkeypatch.setattr("dressage.brokers.memory.pulling.SILENCE_S", 0.05)


async def test_of_a_lost_request_nothing_happens(
    connection: MemoryConnection, server: MemoryServer, script: Script, soon: None
) -> None:
    script.out["send"] = [LOST]
    with pytest.raises(OutcomeUnknown):
        await connection.publish(Message("s.cmd.a", b""))
    assert contents(server) == []


async def test_of_a_lost_reply_the_effect_has_happened(
    connection: MemoryConnection, server: MemoryServer, script: Script, soon: None
) -> None:
    script.into["reply"] = [LOST]
    with pytest.raises(OutcomeUnknown):
        await connection.publish(Message("s.cmd.a", b""))
    assert len(contents(server)) == 1


@pytest.mark.parametrize("way", ["out", "into"])
async def test_an_answer_that_comes_too_late_is_none(
    connection: MemoryConnection, server: MemoryServer, script: Script, soon: None, way: str
) -> None:
    if way == "out":
        script.out["send"] = [Fate(0.1)]
    else:
        script.into["reply"] = [Fate(0.1)]
    with pytest.raises(OutcomeUnknown):
        await connection.publish(Message("s.cmd.a", b""))
    await asyncio.sleep(0.1)
    assert len(contents(server)) == 1
    assert (await connection.publish(Message("s.cmd.a", b""))).seq == 2


async def test_a_batch_is_lost_as_a_whole(
    connection: MemoryConnection, server: MemoryServer, script: Script, soon: None
) -> None:
    script.out["batch"] = [LOST]
    with pytest.raises(OutcomeUnknown):
        await connection.publish_batch([Message("s.cmd.a", b""), Message("s.cmd.b", b"")])
    assert contents(server) == []


async def test_a_lost_delivery_is_a_gap_and_comes_again(
    connection: MemoryConnection, server: MemoryServer, clock: Clock, script: Script
) -> None:
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"], ack_wait_s=30.0))
    taken: list[Delivery] = []
    await connection.pull("S", "c", 10, taken.append, lambda _: None)
    script.into["delivery"] = [AT_ONCE, LOST]
    for n in range(3):
        await connection.publish(Message("s.cmd.a", b"%d" % n))
    await settle()
    assert [(each.data, each.consumer_seq) for each in taken] == [(b"0", 1), (b"2", 3)]
    clock.now += 30 * SECOND
    server.advance()
    await settle()
    assert [(each.data, each.consumer_seq, each.attempts) for each in taken[2:]] == [
        (b"0", 4, 2),
        (b"1", 5, 2),
        (b"2", 6, 2),
    ]


async def test_a_delivery_may_come_twice(
    connection: MemoryConnection, server: MemoryServer, script: Script
) -> None:
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    taken: list[Delivery] = []
    await connection.pull("S", "c", 10, taken.append, lambda _: None)
    script.twice = 1
    await connection.publish(Message("s.cmd.a", b""))
    await connection.publish(Message("s.cmd.b", b""))
    await settle()
    assert [(each.subject, each.consumer_seq, each.attempts) for each in taken] == [
        ("s.cmd.a", 1, 1),
        ("s.cmd.a", 2, 2),
        ("s.cmd.b", 3, 1),
    ]


@pytest.mark.parametrize("lost", ["what is asked", "all that comes", "that it ends"])
async def test_a_pull_that_gets_nothing_any_more_notices(
    connection: MemoryConnection, server: MemoryServer, script: Script, soon: None, lost: str
) -> None:
    """Heartbeats would be missing: nothing that it asked for stands with the server."""
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    ends: list[str] = []
    if lost == "what is asked":
        script.out["pull"] = [LOST]
    await connection.pull("S", "c", 2, lambda _: None, ends.append)
    await settle()
    if lost == "all that comes":
        script.into["delivery"] = [LOST, LOST]
        for n in range(2):
            publish(server, f"s.cmd.{n}")
    elif lost == "that it ends":
        script.into["message"] = [LOST]
        server.delete_consumer("S", "c")
    await eventually(lambda: ends)
    assert ends == ["no heartbeat from the server"]


async def test_a_pull_that_still_stands_says_nothing(
    connection: MemoryConnection, server: MemoryServer, script: Script, soon: None
) -> None:
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    ends: list[str] = []
    await connection.pull("S", "c", 2, lambda _: None, ends.append)
    script.into["delivery"] = [LOST]
    await connection.publish(Message("s.cmd.a", b""))
    await asyncio.sleep(0.2)
    assert ends == []


async def test_a_lost_acknowledgement_has_no_effect(
    connection: MemoryConnection, server: MemoryServer, script: Script
) -> None:
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    taken: list[Delivery] = []
    await connection.pull("S", "c", 10, taken.append, lambda _: None)
    await connection.publish(Message("s.cmd.a", b""))
    await settle()
    script.out["ack"] = [LOST]
    await connection.ack(taken[0])
    assert await connection.consumer_state("S", "c") == ConsumerState(floor=0, out=1, delivered=1)
    await connection.ack(taken[0])
    assert await connection.consumer_state("S", "c") == ConsumerState(floor=1, out=0, delivered=1)


async def test_no_link_no_connection(server: MemoryServer, script: Script) -> None:
    script.reaches = False
    with pytest.raises(ServerUnreachable):
        await MemoryBroker(server, script).connect("x")
    script.reaches = True
    script.out["connect"] = [LOST]
    broker = MemoryBroker(server, script)
    with pytest.raises(ServerUnreachable):
        await broker.connect("x")
    assert broker.connections == []


# -- cutting and killing -----------------------------------------------------------------------------------------
async def test_of_a_cut_link_nothing_arrives_in_either_direction(
    connection: MemoryConnection, server: MemoryServer, script: Script
) -> None:
    await connection.publish(Message("s.cmd.a", b"before"))
    script.into["reply"] = [Fate(0.05)]
    stored = connection.send(Message("s.cmd.a", b"arrived"))
    await settle()
    on_its_way = connection.send(Message("s.cmd.a", b"on its way"))
    connection.cut()
    for waiting in (stored, on_its_way):
        with pytest.raises(OutcomeUnknown):
            await waiting
    await asyncio.sleep(0.1)
    assert [data for _, _, data in contents(server)] == [b"before", b"arrived"]
    assert connection.lost.is_set()


async def test_a_link_is_made_again_once_the_server_can_be_reached(
    server: MemoryServer, script: Script
) -> None:
    connection = await MemoryBroker(server, script, reconnect_s=0.01).connect("x", reconnect=True)
    script.reaches = False
    connection.cut()
    await asyncio.sleep(0.05)
    with pytest.raises(OutcomeUnknown, match="no connection"):
        await connection.publish(Message("s.cmd.a", b""))
    script.reaches = True
    await eventually(lambda: connection.linked)
    assert (await connection.publish(Message("s.cmd.a", b""))).seq == 1
    await connection.close()


async def test_a_killed_process_hears_nothing_any_more(server: MemoryServer, script: Script) -> None:
    broker = MemoryBroker(server, script, "victim")
    connection = await broker.connect("x", reconnect=True)
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    heard: list[object] = []
    await connection.pull("S", "c", 10, heard.append, heard.append)
    await connection.serve("x", _hear(heard))
    await settle()
    waiting = connection.send(Message("s.cmd.a", b""))
    asking = asyncio.ensure_future(connection.request("x", b"", 60.0))
    await asyncio.sleep(0)
    connection.kill()
    publish(server, "s.cmd.b")
    server.tell("x", b"", None)
    await asyncio.sleep(0.05)
    assert heard == []
    assert not waiting.done()
    assert not asking.done()
    assert not connection.lost.is_set()
    assert broker.connections == []
    asking.cancel()


def _hear(into: list[object]) -> Callable[[str, bytes, str], Any]:
    async def on_message(*what: object) -> None:
        into.append(what)

    return on_message


@pytest.mark.parametrize("survivors", [0, 2, 5])
async def test_what_a_killed_process_had_sent_arrives_as_far_as_the_network_says(
    server: MemoryServer, script: Script, survivors: int
) -> None:
    connection = await MemoryBroker(server, script).connect("x")
    script.out["send"] = [Fate(0.01 * n) for n in range(1, 6)]
    for n in range(5):
        _ = connection.send(Message("s.cmd.a", b"%d" % n))
    script.survivors = survivors
    connection.kill()
    await asyncio.sleep(0.1)
    assert [data for _, _, data in contents(server)] == [b"%d" % n for n in range(survivors)]
    assert all(record.writer is connection for record in server.ledger)


async def test_nothing_can_be_sent_from_beyond_the_grave(server: MemoryServer, script: Script) -> None:
    connection = await MemoryBroker(server, script).connect("x")
    connection.kill()
    with pytest.raises(OutcomeUnknown):
        _ = connection.send(Message("s.cmd.a", b""))
    with pytest.raises(OutcomeUnknown):
        await connection.tell("x", b"")
    await connection.close()
    connection.cut()
    assert not connection.lost.is_set()


@pytest.mark.parametrize("end", ["kill", "cut", "close"])
async def test_what_a_gone_connection_asked_for_goes_to_others(
    server: MemoryServer, script: Script, end: str
) -> None:
    gone = await MemoryBroker(server, script).connect("gone")
    other = await MemoryBroker(server).connect("other")
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    lost: list[Delivery] = []
    taken: list[Delivery] = []
    await gone.pull("S", "c", 100, lost.append, lambda _: None)
    await other.pull("S", "c", 100, taken.append, lambda _: None)
    await settle()
    ending = getattr(gone, end)()
    if end == "close":
        await ending
        await settle()
    for n in range(10):
        publish(server, f"s.cmd.{n}")
    await settle()
    assert (len(lost), len(taken)) == (0, 10)
    await other.close()


async def test_a_pull_that_was_on_its_way_when_its_process_died_takes_nothing(
    server: MemoryServer, script: Script
) -> None:
    gone = await MemoryBroker(server, script).connect("gone")
    server.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))
    script.out = {"pull": [Fate(0.01)], "subscribe": [Fate(0.01)]}
    await gone.pull("S", "c", 100, lambda _: None, lambda _: None)
    await gone.serve("x", _ignore)
    script.survivors = 10
    gone.kill()
    await asyncio.sleep(0.05)
    assert server.streams["S"].consumers["c"].waiting == 0
    with pytest.raises(NobodyListens):
        server.request("x", b"", "reply", None)


async def test_two_owners_cannot_both_win(server: MemoryServer) -> None:
    one, two = await MemoryBroker(server).connect("1"), await MemoryBroker(server).connect("2")
    writes = [each.send(Message("s.cursor", b"", expect=Expect(0), rollup=True)) for each in (one, two)]
    ended = await asyncio.gather(*writes, return_exceptions=True)
    assert ended[0] == Stored(1)
    assert isinstance(ended[1], PublishRefused)
    assert ended[1].err_code == WRONG_LAST_SEQUENCE
    await one.close()
    await two.close()


# -- contexts ----------------------------------------------------------------------------------------------------
_process: contextvars.ContextVar[str] = contextvars.ContextVar("process", default="nobody")


async def test_the_server_runs_in_no_process_and_callbacks_in_their_own(server: MemoryServer) -> None:
    """A simulation tells processes apart by a context variable."""
    seen: list[tuple[str, str]] = []
    server.on_stored.append(lambda record: seen.append((f"stored {record.subject}", _process.get())))
    server.on_tell.append(lambda subject, *_: seen.append((f"told {subject}", _process.get())))

    async def life() -> MemoryConnection:
        connection = await MemoryBroker(server).connect("x")
        await connection.create_consumer("S", ConsumerConfig("c", ["s.cmd.*"]))

        async def on_delivery(delivery: Delivery) -> None:
            seen.append((f"delivered {delivery.subject}", _process.get()))

        async def on_message(subject: str, _: bytes, __: str) -> None:
            seen.append((f"heard {subject}", _process.get()))

        await connection.pull("S", "c", 10, on_delivery, lambda _: seen.append(("end", _process.get())))
        await connection.serve("x", on_message)
        await connection.publish(Message("s.cmd.a", b""))
        return connection

    async def as_process(name: str) -> MemoryConnection:
        _process.set(name)
        return await life()

    alpha = await asyncio.create_task(as_process("alpha"))
    await settle()
    seen.clear()
    _process.set("beta")
    beta = await MemoryBroker(server).connect("y")
    timer = Schedule("2000-01-01T00:00:00Z", "s.cmd.timer")
    await beta.publish(Message("s.timer.1", b"", schedule=timer))
    await beta.tell("x", b"")
    await eventually(lambda: len(seen) >= 5)
    await beta.delete_consumer("S", "c")
    await settle()
    assert sorted(seen) == [
        ("delivered s.cmd.timer", "alpha"),
        ("end", "alpha"),
        ("heard x", "alpha"),
        ("stored s.cmd.timer", "nobody"),
        ("stored s.timer.1", "nobody"),
        ("told x", "nobody"),
    ]
    await alpha.close()
    await beta.close()
