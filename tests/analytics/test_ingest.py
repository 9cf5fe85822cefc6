"""EVENTS in the file: each event once, in order, whatever happens to either side."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pytest

from dressage.analytics.batch import REJECT_PAYLOAD_BYTES_MAX
from dressage.analytics.errors import AnalyticsError
from dressage.analytics.metrics import NoMetrics
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.event_feed import BatchLimits
from dressage.brokers.interface import Message
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.protocol.names import Names

if TYPE_CHECKING:
    from tests.analytics.conftest import (  # pyright: ignore[reportMissingImports]
        EventsStream,
        Eventually,
        MakeStream,
        Start,
    )

SMALL = BatchLimits(events_max=25, pause_s=0.0, idle_s=0.05)
KEYS = "SELECT stream_seq, run_id, idx FROM events ORDER BY stream_seq"


class Counted(NoMetrics):
    """Metrics that remember."""

    def __init__(self) -> None:
        self.events = 0
        self.rejects = 0
        self.last_lag = -1

    def ingested(self, events: int) -> None:
        self.events += events

    def rejected(self, events: int) -> None:
        self.rejects += events

    def lag(self, sequences: int) -> None:
        self.last_lag = sequences


def with_data(message: Message, text: str) -> Message:
    """The same event with other JSON as its data, put there character by character."""
    head, _, rest = message.data.partition(b'"data":')
    tail = rest[rest.index(b',"actor"') :]
    return Message(message.subject, head + b'"data":' + text.encode() + tail, message.headers)


async def test_the_file_holds_every_event_of_the_stream(events: EventsStream, start: Start) -> None:
    last = await events.publish_orders(50)
    process = start()
    await process.until(last)
    assert process.rows(KEYS) == [(seq, run, index) for seq, run, index, _ in await events.in_stream()]


async def test_events_come_while_it_runs(events: EventsStream, start: Start) -> None:
    process = start()
    for first in (0, 10, 20):
        await process.until(await events.publish_orders(10, first))
    assert process.rows(KEYS) == [(seq, run, index) for seq, run, index, _ in await events.in_stream()]


async def test_the_data_of_an_event_is_kept_character_by_character(
    events: EventsStream, start: Start
) -> None:
    text = '{"input": {"a":0.12345678901234567890123, "b" : 1.10, "c":"\\u00e9\\u0000\\/"}}'
    process = start()
    await process.until(await events.publish([with_data(events.order("order-1")[0], text)]))
    assert process.rows("SELECT data::VARCHAR FROM events") == [(text,)]


async def test_the_envelope_is_in_columns(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish(events.order("order-1")[:1]))
    assert process.rows(
        "SELECT stream_seq, shard, id, run_id, workflow, version, idx, kind, time::VARCHAR, actor, command"
        " FROM events"
    ) == [
        (
            *(1, 1, "order-1/0", "order-1", "process-order", 1, 0, "run-started"),
            *("2026-01-02 03:04:00+00", "tests", "1"),
        )
    ]


async def test_a_run_id_of_any_characters_is_stored_as_it_is(events: EventsStream, start: Start) -> None:
    run_id = "Bestellung 7/ü\x1e\x00\n'\""
    process = start()
    await process.until(await events.publish(events.order(run_id)))
    assert process.rows("SELECT DISTINCT run_id FROM events") == [(run_id,)]


async def test_a_variable_may_become_none(events: EventsStream, start: Start) -> None:
    message = with_data(events.order("order-1")[1], '{"name":"price","value":null}')
    process = start()
    await process.until(await events.publish([message]))
    assert process.rows("SELECT value::VARCHAR FROM variable_changes") == [("null",)]


async def test_positions_of_owners_are_no_events(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish_orders(3))
    assert process.rows("SELECT count(*) FROM rejects") == [(0,)]


async def test_the_position_moves_on_behind_the_last_event(events: EventsStream, start: Start) -> None:
    last = await events.publish_orders(3)
    process = start()
    await process.until(last)
    assert process.rows("SELECT position, event_seq FROM positions") == [(last, last - 1)]


async def test_it_waits_for_a_stream_that_does_not_exist_yet(make_stream: MakeStream, start: Start) -> None:
    process = start()
    assert not await process.ingest.reached(1, 0.3)
    stream = await make_stream()
    await process.until(await stream.publish_orders(2))
    assert process.rows("SELECT count(DISTINCT run_id) FROM events") == [(2,)]


# -- once and only once -----------------------------------------------------------------------------
async def test_a_second_process_goes_on_where_the_first_ended(events: EventsStream, start: Start) -> None:
    first = start()
    await first.until(await events.publish_orders(10))
    await first.stop()
    second = start()
    await second.until(await events.publish_orders(10, 10))
    assert second.rows(KEYS) == [(seq, run, index) for seq, run, index, _ in await events.in_stream()]


async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    events: EventsStream, start: Start, server: EmbeddedServer, eventually: Eventually
) -> None:
    async def connected() -> bool:
        return events.connection.nats.is_connected

    process = start(limits=SMALL)
    for first in range(0, 60, 20):
        last = await events.publish_orders(20, first)
        assert await process.ingest.reached(last // 2, 20)
        server.kill()
        await server.wait()
        await server.start()
        await eventually(connected, "the client is connected again")
    await process.until(await events.publish_orders(1, 60))
    assert process.rows(KEYS) == [(seq, run, index) for seq, run, index, _ in await events.in_stream()]


async def test_a_consumer_that_was_deleted_is_replaced(
    events: EventsStream, start: Start, connection: JetStreamConnection, names: Names
) -> None:
    process = start()
    await process.until(await events.publish_orders(3))
    for consumer in await connection.consumers(names.events_stream):
        await connection.delete_consumer(names.events_stream, consumer)
    await process.until(await events.publish_orders(3, 3))
    assert process.rows(KEYS) == [(seq, run, index) for seq, run, index, _ in await events.in_stream()]


async def test_a_stopped_process_leaves_no_consumer(
    events: EventsStream, start: Start, connection: JetStreamConnection, names: Names
) -> None:
    process = start()
    await process.until(await events.publish_orders(1))
    await process.stop()
    assert await connection.consumers(names.events_stream) == []


async def test_rows_and_position_are_one_transaction(
    events: EventsStream, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the position cannot be written, neither are the rows, and both come once it can be."""
    process = start()
    await process.until(await events.publish_orders(1))
    genuine = process.store._transaction
    failures = 0

    def failing(*args: object) -> None:
        nonlocal failures
        if failures < 3:
            failures += 1
            monkeypatch.setattr("dressage.analytics.store.FORMAT", "not a number")
        else:
            monkeypatch.undo()
        try:
            genuine(*args)  # type: ignore[arg-type]
        except duckdb.ConversionException as error:
            raise duckdb.OperationalError("the disk is full") from error

    monkeypatch.setattr(process.store, "_transaction", failing)
    await process.until(await events.publish_orders(2, 1))
    assert process.rows(KEYS) == [(seq, run, index) for seq, run, index, _ in await events.in_stream()]


async def test_a_stream_that_was_created_anew_is_refused(events: EventsStream, start: Start) -> None:
    process = start()
    await process.until(await events.publish_orders(1))
    await process.stop()
    await events.delete()
    await events.create()
    await events.publish_orders(5)
    process = start()
    with pytest.raises(AnalyticsError, match="STREAM_REPLACED"):
        await process.until(1000)


async def test_a_file_has_one_writer(events: EventsStream, start: Start, db_path: Path) -> None:
    process = start()
    await process.until(await events.publish_orders(1))
    program = (
        "import sys; from pathlib import Path; from dressage.analytics.store import Store;"
        "Store.open(Path(sys.argv[1]), 's', 'p')"
    )
    done = subprocess.run(  # noqa: ASYNC221 - the process at hand has nothing to do meanwhile
        [sys.executable, "-c", program, str(db_path)], capture_output=True, text=True, check=False
    )
    assert "FILE_BUSY" in done.stderr


# -- what cannot be read ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"not json", "malformed"),
        (b'{"id":"x"}', "missing required field"),
        (b"\xff\xfe", "malformed"),
        (b"", "truncated"),
    ],
)
async def test_a_message_that_is_no_event_is_set_aside(
    events: EventsStream, start: Start, payload: bytes, reason: str
) -> None:
    whole = events.order("order-1")
    metrics = Counted()
    process = start(metrics=metrics)
    await process.until(await events.publish([*whole[:2], Message(whole[2].subject, payload), *whole[2:]]))
    assert [(seq, data) for seq, data in process.rows("SELECT stream_seq, payload FROM rejects")] == [
        (3, payload)
    ]
    assert reason in process.rows("SELECT reason FROM rejects")[0][0]
    assert (metrics.events, metrics.rejects) == (len(whole), 1)


@pytest.mark.limit("analytics.batch.REJECT_PAYLOAD_BYTES_MAX")
async def test_of_a_message_that_is_no_event_the_beginning_is_kept(
    events: EventsStream, start: Start
) -> None:
    longest = b"x" * REJECT_PAYLOAD_BYTES_MAX
    subject = events.order("order-1")[0].subject
    process = start()
    await process.until(await events.publish([Message(subject, longest), Message(subject, longest + b"y")]))
    rejected = process.rows("SELECT payload FROM rejects ORDER BY stream_seq")
    assert rejected == [(longest,), (longest,)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('{"task":"charge-card"}', "missing required field"),
        ('{"name":"a","value":"\x1e"}', "malformed"),
        ('{"name":"a","value":"\\ud800"}', "malformed"),
    ],
)
async def test_an_event_whose_data_cannot_be_stored_is_set_aside(
    events: EventsStream, start: Start, data: str, reason: str
) -> None:
    whole = events.order("order-1")
    process = start()
    await process.until(await events.publish([whole[0], with_data(whole[1], data), *whole[2:]]))
    assert process.rows("SELECT stream_seq FROM rejects") == [(2,)]
    assert reason in process.rows("SELECT reason FROM rejects")[0][0]
    assert process.rows("SELECT count(*) FROM events") == [(len(whole) - 1,)]


@pytest.mark.parametrize(
    ("genuine", "other"),
    [
        (b'"time":"2026-01-02', b'"time":"2026-31-02'),
        (b'"version":1,', b'"version":99999999999999999999,'),
    ],
)
async def test_one_event_that_duckdb_refuses_does_not_take_its_batch_with_it(
    events: EventsStream, start: Start, genuine: bytes, other: bytes
) -> None:
    whole = events.order("order-1") + events.order("order-2")
    bad = whole[5]
    whole[5] = Message(bad.subject, bad.data.replace(genuine, other), bad.headers)
    last = await events.publish(whole)
    process = start()
    await process.until(last)
    assert process.rows("SELECT stream_seq FROM rejects") == [(6,)]
    assert process.rows("SELECT count(*) FROM events") == [(len(whole) - 1,)]


async def test_a_kind_of_a_later_release_is_an_event(events: EventsStream, start: Start) -> None:
    message = events.order("order-1")[0]
    later = Message(message.subject, message.data.replace(b"run-started", b"run-paused"), message.headers)
    process = start()
    await process.until(await events.publish([later]))
    assert process.rows("SELECT kind FROM events") == [("run-paused",)]


async def test_the_lag_is_nothing_once_all_is_read(events: EventsStream, start: Start) -> None:
    metrics = Counted()
    process = start(metrics=metrics)
    await process.until(await events.publish_orders(5))
    await process.stop()
    assert metrics.last_lag == 0
