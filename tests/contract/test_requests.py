"""Outside the streams: requests and their answers, subscriptions, queue groups."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable

import pytest
from tests.contract.world import (  # pyright: ignore[reportMissingImports]
    DEADLINE_S,
    QUIET_S,
    Place,
    eventually,
)

from dressage.brokers.interface import Connection, Delivery, Message
from dressage.protocol.errors import BadInput, NoAnswer

pytestmark = pytest.mark.anyio

Heard = list[tuple[str, bytes]]


@pytest.fixture
def subject() -> str:
    return f"r{uuid.uuid4().hex[:12]}"


def hearing(into: Heard) -> Callable[[str, bytes, str], Awaitable[None]]:
    async def on_message(subject: str, data: bytes, _: str) -> None:
        into.append((subject, data))

    return on_message


async def serve_until_known(connection: Connection, subject: str, into: Heard, queue: str = "") -> None:
    """A subscription stands once something that its connection asked for later is answered."""
    await connection.serve(subject, hearing(into), queue)
    await connection.stream_state("no-such-stream")


async def test_a_request_is_answered(connection: Connection, other: Connection, subject: str) -> None:
    async def on_request(_: str, data: bytes, reply: str) -> None:
        await other.tell(reply, data + b"!")

    await other.serve(subject, on_request)
    await other.stream_state("no-such-stream")
    asked = [connection.request(subject, b"%d" % n, DEADLINE_S) for n in range(10)]
    assert await asyncio.gather(*asked) == [b"%d!" % n for n in range(10)]


async def test_where_nobody_listens_the_answer_comes_at_once(connection: Connection, subject: str) -> None:
    with pytest.raises(NoAnswer, match="nobody listens"):
        await connection.request(subject, b"", DEADLINE_S)


async def test_where_nobody_answers_a_request_ends(
    connection: Connection, other: Connection, subject: str
) -> None:
    heard: Heard = []
    await serve_until_known(other, subject, heard)
    with pytest.raises(NoAnswer, match="no answer"):
        await connection.request(subject, b"x", QUIET_S)
    assert heard == [(subject, b"x")]


async def test_everybody_who_listens_hears_it(
    connection: Connection, other: Connection, subject: str
) -> None:
    heard: list[Heard] = [[], [], []]
    await serve_until_known(other, subject, heard[0])
    await serve_until_known(other, subject, heard[1])
    await serve_until_known(connection, f"{subject}.>", heard[2])
    await connection.tell(subject, b"1")
    await connection.tell(f"{subject}.a.b", b"2")
    await eventually(lambda: [len(each) for each in heard] == [1, 1, 1])
    assert heard == [[(subject, b"1")], [(subject, b"1")], [(f"{subject}.a.b", b"2")]]


async def test_one_of_a_queue_group_hears_it(connection: Connection, other: Connection, subject: str) -> None:
    heard: list[Heard] = [[], [], []]
    await serve_until_known(connection, subject, heard[0], "group")
    await serve_until_known(other, subject, heard[1], "group")
    await serve_until_known(other, subject, heard[2])
    for n in range(100):
        await connection.tell(subject, b"%d" % n)
    await eventually(lambda: len(heard[2]) == 100 and len(heard[0]) + len(heard[1]) == 100)
    assert heard[0]
    assert heard[1]


@pytest.mark.parametrize(
    ("pattern", "fits", "fits_not"),
    [
        ("*", "a", "a.b"),
        ("*.b", "a.b", "b"),
        ("a.>", "a.b.c", "a"),
        (">", "a.b", None),
        ("a.*.c", "a.b.c", "a.b.d"),
    ],
)
async def test_wildcards(
    connection: Connection, other: Connection, subject: str, pattern: str, fits: str, fits_not: str | None
) -> None:
    heard: Heard = []
    await serve_until_known(other, f"{subject}.{pattern}", heard)
    if fits_not is not None:
        await connection.tell(f"{subject}.{fits_not}", b"")
    await connection.tell(f"{subject}.{fits}", b"")
    await eventually(lambda: heard)
    assert heard == [(f"{subject}.{fits}", b"")]


async def test_messages_of_one_subscription_are_dealt_with_one_after_the_other(
    connection: Connection, other: Connection, subject: str
) -> None:
    seen: list[str] = []

    async def on_message(_: str, data: bytes, __: str) -> None:
        seen.append(f"begun {data.decode()}")
        await asyncio.sleep(0.01)
        seen.append(f"done {data.decode()}")

    await other.serve(subject, on_message)
    await other.stream_state("no-such-stream")
    for n in range(3):
        await connection.tell(subject, b"%d" % n)
    await eventually(lambda: len(seen) == 6)
    assert seen == [f"{what} {n}" for n in range(3) for what in ("begun", "done")]


async def test_a_callback_that_raises_does_not_end_its_subscription(
    connection: Connection, subject: str
) -> None:
    heard: Heard = []

    async def on_message(subject: str, data: bytes, _: str) -> None:
        heard.append((subject, data))
        raise ValueError("a bug")

    await connection.serve(subject, on_message)
    for n in range(2):
        await connection.tell(subject, b"%d" % n)
    await eventually(lambda: len(heard) == 2)


async def test_a_closed_subscription_hears_nothing(
    connection: Connection, other: Connection, subject: str
) -> None:
    heard: Heard = []
    served = await other.serve(subject, hearing(heard))
    await served.close()
    await other.stream_state("no-such-stream")
    with pytest.raises(NoAnswer, match="nobody listens"):
        await connection.request(subject, b"", DEADLINE_S)
    assert heard == []


async def test_inboxes_are_all_different(connection: Connection, other: Connection) -> None:
    inboxes = [each.new_inbox() for each in (connection, other) for _ in range(100)]
    assert len(set(inboxes)) == 200


async def test_an_inbox_hears_what_is_sent_to_it(connection: Connection, other: Connection) -> None:
    """As the client does for the answers of the engine."""
    heard: Heard = []
    inbox = connection.new_inbox()
    await serve_until_known(connection, f"{inbox}.*", heard)
    await other.tell(f"{inbox}.7", b"x")
    await eventually(lambda: heard)
    assert heard == [(f"{inbox}.7", b"x")]


async def test_telling_a_subject_of_a_stream_stores_it(place: Place) -> None:
    """A service that knows nothing of JetStream feeds a trigger."""
    await place.connection.tell(place.at("cmd.a"), b"x")
    taken = await place.pull(await place.consumer("c"))
    await taken.count(1)
    assert taken.data == [b"x"]


async def test_whoever_listens_to_a_subject_of_a_stream_hears_what_is_stored(
    place: Place, other: Connection
) -> None:
    heard: Heard = []
    await serve_until_known(other, place.at("cmd.*"), heard)
    await place.put("cmd.a", b"1")
    await place.batch(place.message("cmd.b", b"2"), place.message("cursor"))
    await eventually(lambda: len(heard) == 2)
    assert heard == [(place.at("cmd.a"), b"1"), (place.at("cmd.b"), b"2")]


async def test_a_request_to_a_stream_is_acknowledged_by_it(place: Place) -> None:
    answer = json.loads(await place.connection.request(place.at("cmd.a"), b"x", DEADLINE_S))
    assert (answer["stream"], answer["seq"]) == (place.stream, 1)


@pytest.mark.parametrize("subject", ["a b", "a\r\nPUB x 0\r\n"])
async def test_a_subject_that_would_end_its_line_is_not_told(connection: Connection, subject: str) -> None:
    with pytest.raises(BadInput):
        await connection.tell(subject, b"")


async def test_what_is_too_large_is_not_told(connection: Connection) -> None:
    with pytest.raises(BadInput) as refused:
        await connection.tell("x", b"x" * (connection.payload_bytes_max + 1))
    assert refused.value.code == "PAYLOAD_TOO_LARGE"


# -- what Dressage asks JetStream's API for by plain requests ------------------------------------------------------
async def test_the_api_tells_of_a_stream(place: Place) -> None:
    for tail in ("cmd.a", "cmd.b", "task.q"):
        await place.put(tail)
    await place.connection.purge(place.stream, place.at("cmd.a"), 2)
    info = json.loads(await place.connection.request(f"$JS.API.STREAM.INFO.{place.stream}", b"", DEADLINE_S))
    state = info["state"]
    assert (state["first_seq"], state["last_seq"], state["messages"]) == (2, 3, 2)
    assert info["config"]["max_age"] == 0
    assert info["created"] <= info["ts"]
    missing = json.loads(await place.connection.request("$JS.API.STREAM.INFO.nowhere", b"", DEADLINE_S))
    assert missing["error"]["err_code"] == 10059


async def test_the_api_finds_the_stream_of_a_subject(place: Place) -> None:
    async def streams(subject: str) -> list[str]:
        body = json.dumps({"subject": subject}).encode()
        answer = json.loads(await place.connection.request("$JS.API.STREAM.NAMES", body, DEADLINE_S))
        return answer["streams"] or []

    assert await streams(place.at("cmd.a")) == [place.stream]
    assert await streams(place.at("cmd.*")) == [place.stream]
    assert await streams(place.at("nothing")) == []


async def test_the_api_tells_of_a_consumer(place: Place) -> None:
    await place.consumer("c", "cmd.*", max_ack_pending=7, start_seq=1, ack_wait_s=11.0)
    for _ in range(5):
        await place.put("cmd.a")
    taken = await place.pull("c", window=3)
    await taken.count(3)
    await taken.ack(0)

    async def told() -> dict[str, object]:
        subject = f"$JS.API.CONSUMER.INFO.{place.stream}.c"
        return json.loads(await place.connection.request(subject, b"", DEADLINE_S))  # type: ignore[no-any-return]

    info = await told()
    assert info["num_pending"] == 2
    config = info["config"]
    assert isinstance(config, dict)
    filters = config.get("filter_subjects") or [config.get("filter_subject")]
    assert (filters, config["ack_wait"]) == ([place.at("cmd.*")], int(11e9))
    assert (config["max_ack_pending"], config["opt_start_seq"]) == (7, 1)

    subject = f"$JS.API.CONSUMER.INFO.{place.stream}.nobody"
    missing = json.loads(await place.connection.request(subject, b"", DEADLINE_S))
    assert missing["error"]["err_code"] == 10014


async def test_a_listener_hears_headers_and_who_waits_in_order(place: Place, other: Connection) -> None:
    heard: list[Delivery] = []
    await other.listen(place.at("cmd.*"), heard.append)
    await place.connection.publish(Message(place.at("cmd.a"), b"1", {"Shop": "ulm", "X": "a: b"}))
    await place.connection.request(place.at("cmd.b"), b"2", DEADLINE_S)
    await eventually(lambda: len(heard) == 2)
    first, second = heard
    assert (first.subject, first.data) == (place.at("cmd.a"), b"1")
    assert {name: (first.headers or {})[name] for name in ("Shop", "X")} == {"Shop": "ulm", "X": "a: b"}
    assert (second.data, second.headers, bool(second.reply)) == (b"2", None, True)
    assert {(each.stream_seq, each.time_ns, each.attempts) for each in heard} == {(0, 0, 1)}


async def test_one_listener_of_a_queue_group_hears_a_message(
    connection: Connection, other: Connection, subject: str
) -> None:
    heard: list[Delivery] = []
    for listener in (connection, other):
        await listener.listen(subject, heard.append, "group")
    await connection.stream_state("no-such-stream")
    await other.stream_state("no-such-stream")
    for n in range(10):
        await connection.tell(subject, b"%d" % n)
    await eventually(lambda: len(heard) >= 10)
    await connection.stream_state("no-such-stream")
    assert sorted(each.data for each in heard) == [b"%d" % n for n in range(10)]


async def test_a_listener_that_raises_goes_on_and_one_that_is_closed_hears_nothing(
    connection: Connection, other: Connection, subject: str
) -> None:
    heard: list[bytes] = []

    def on_message(delivery: Delivery) -> None:
        heard.append(delivery.data)
        raise ValueError("a bug")

    listening = await other.listen(subject, on_message)
    await other.stream_state("no-such-stream")
    for data in (b"1", b"2"):
        await connection.tell(subject, data)
    await eventually(lambda: heard == [b"1", b"2"])
    await listening.close()
    await other.stream_state("no-such-stream")
    with pytest.raises(NoAnswer, match="nobody listens"):
        await connection.request(subject, b"3", DEADLINE_S)
    assert heard == [b"1", b"2"]
