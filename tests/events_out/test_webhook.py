"""Output events of a real engine are posted to a real HTTP server, signed, until they are taken."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections import defaultdict
from email.utils import formatdate
from typing import TYPE_CHECKING

import msgspec
import pytest
from fastapi import Response
from tests.connecting import eventually, run_orders  # pyright: ignore[reportMissingImports]
from tests.events_out.conftest import (  # pyright: ignore[reportMissingImports]
    ONLY_ENDED,
    SECRET,
    WEBHOOK_SINK,
    Got,
)

from dressage.client import Client
from dressage.connectors.connect.options import ConnectorFailed
from dressage.protocol.errors import BadInput

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import Receiver, StartConnector  # pyright: ignore[reportMissingImports]


def expected(secret: bytes, got: Got) -> str:
    """The signature, computed by the words of the convention and not by ours."""
    content = (
        got.headers["webhook-id"].encode()
        + b"."
        + got.headers["webhook-timestamp"].encode()
        + b"."
        + got.body
    )
    return "v1," + base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()


async def test_every_event_is_posted_once_and_signed_in_order_of_its_run(
    place: Place,
    client: Client,
    receiver: Receiver,
    connector: StartConnector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    monkeypatch.setenv("CRM_OLD", "any text")
    monkeypatch.setenv("CRM_TOKEN", "t0ken")
    await run_orders(client, 10)
    events = await place.events(10)
    running = connector(
        WEBHOOK_SINK.format(name="crm", url=receiver.url)
        + 'secret = ["${env:CRM_SECRET}", "${env:CRM_OLD}"]\n'
        + 'headers = { Authorization = "Bearer ${env:CRM_TOKEN}" }\n'
    )
    await running.reaches("records_total", len(events))
    assert sorted(each.body for each in receiver.got) == sorted(each.data for each in events)
    assert len({each.id for each in receiver.got}) == len(events)
    of_run: dict[str, list[int]] = defaultdict(list)
    for got in receiver.got:
        of_run[got.run].append(got.event["index"])
        assert got.id == f"default/crm/{got.event['id']}/{got.event['command']}"
        assert got.headers["content-type"].startswith("application/cloudevents+json")
        assert got.headers["authorization"] == "Bearer t0ken"
        assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60
        keys = base64.b64decode(SECRET.removeprefix("whsec_")), b"any text"
        assert got.headers["webhook-signature"].split(" ") == [expected(key, got) for key in keys]
    assert all(indexes == sorted(indexes) for indexes in of_run.values())


def test_the_signature_is_that_of_the_convention() -> None:
    """The example that the Standard Webhooks libraries are tested with."""
    from dressage.connectors.signing import key_of, signature

    body = b'{"test": 2432232314}'
    found = signature(key_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    with pytest.raises(BadInput, match="goes on in base64"):
        key_of("whsec_no base64!")
    with pytest.raises(BadInput, match="is empty"):
        key_of("")


async def test_what_passes_is_tried_again_with_the_same_id(
    client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    receiver.answer = lambda got, count: Response(status_code=500) if count < 3 else None
    running = connector(WEBHOOK_SINK.format(name="again", url=receiver.url) + ONLY_ENDED)
    await run_orders(client, 2)
    await receiver.has_taken(2)
    await running.reaches("records_total", 2)
    assert {receiver.times(each.id) for each in receiver.got} == {3}
    assert running.metric("retries_total", code="HTTP_500") == 4
    assert running.metric("faulty") == 0


@pytest.mark.parametrize("status", [408, 425, 429, 502, 503, 504])
async def test_these_answers_pass(
    client: Client, receiver: Receiver, connector: StartConnector, status: int
) -> None:
    receiver.answer = lambda got, count: Response(status_code=status) if count == 1 else None
    running = connector(WEBHOOK_SINK.format(name="passing", url=receiver.url) + ONLY_ENDED)
    await run_orders(client, 1)
    await running.reaches("records_total", 1)
    assert [each.id for each in receiver.got] == [receiver.got[0].id] * 2


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_receiver_that_says_when_is_not_asked_before(
    client: Client, receiver: Receiver, connector: StartConnector, as_date: bool
) -> None:
    def later(got: Got, count: int) -> Response | None:
        if len(receiver.got) > 1:
            return None
        # A date has whole seconds.
        after = formatdate(time.time() + 3, usegmt=True) if as_date else "2"
        return Response(status_code=429, headers={"retry-after": after})

    receiver.answer = later
    await run_orders(client, 5)
    running = connector(
        WEBHOOK_SINK.format(name="slowly", url=receiver.url) + "requests.max = 1\n" + ONLY_ENDED
    )
    await running.reaches("records_total", 5)
    first, *others = receiver.got
    assert min(each.at for each in others) - first.at > 1.9
    assert len(receiver.got) == 6


@pytest.mark.parametrize(
    ("status", "headers"), [(400, {}), (404, {}), (302, {"location": "/elsewhere"}), (304, {})]
)
async def test_what_does_not_pass_is_a_dead_letter_at_once(
    place: Place,
    client: Client,
    receiver: Receiver,
    connector: StartConnector,
    status: int,
    headers: dict[str, str],
) -> None:
    def answer(got: Got, count: int) -> Response | None:
        return Response("no\nsuch order", status, headers) if got.run == "run-0" else None

    receiver.answer = answer
    await run_orders(client, 2)
    events = {msgspec.json.decode(each.data)["id"]: each for each in await place.events(2)}
    running = connector(WEBHOOK_SINK.format(name="refused", url=receiver.url) + ONLY_ENDED)
    await running.reaches("records_total", 1)
    await running.reaches("dead_letters_total", 1, code=f"HTTP_{status}")
    (letter,) = await place.dead_letters("refused")
    found = letter.headers or {}
    assert letter.data == events[found["Dressage-Event"]].data
    assert found["Dressage-Code"] == f"HTTP_{status}"
    assert found["Dressage-Connector"] == "refused"
    assert found["Dressage-Reason"].startswith(f"the receiver answers {status}")
    assert ("no such order" in found["Dressage-Reason"]) == (status != 304)
    assert found["Dressage-Sequence"] == str(events[found["Dressage-Event"]].seq)
    assert len(receiver.got) == 2


async def test_what_is_not_taken_until_the_deadline_is_a_dead_letter_and_what_follows_it_goes_on(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    receiver.answer = lambda got, count: Response(status_code=500) if got.event["index"] == 0 else None
    await run_orders(client, 1)
    events = await place.events(1)
    running = connector(WEBHOOK_SINK.format(name="late", url=receiver.url) + "retry.deadline = 1\n")
    await running.reaches("records_total", len(events) - 1)
    (letter,) = await place.dead_letters("late")
    assert (letter.headers or {})["Dressage-Code"] == "HTTP_500"
    assert receiver.times(receiver.got[0].id) > 1
    assert [each.event["index"] for each in receiver.taken] == list(range(1, len(events)))


async def test_a_run_that_is_not_taken_holds_up_no_other(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    wanted = asyncio.Event()
    receiver.answer = lambda got, count: (
        None if got.run != "run-0" or wanted.is_set() else Response(status_code=500)
    )
    running = connector(WEBHOOK_SINK.format(name="beside", url=receiver.url))
    await run_orders(client, 5)
    each_run = len(await place.events(5)) // 5
    await running.reaches("records_total", 4 * each_run)
    assert {each.run for each in receiver.taken} == {f"run-{number}" for number in range(1, 5)}
    assert {each.event["index"] for each in receiver.got if each.run == "run-0"} == {0}
    wanted.set()
    await running.reaches("records_total", 5 * each_run)
    assert [each.event["index"] for each in receiver.taken if each.run == "run-0"] == list(range(each_run))


async def test_who_does_not_want_them_any_more_stops_the_connector(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    receiver.answer = lambda got, count: Response(status_code=410)
    await run_orders(client, 1)
    running = connector(WEBHOOK_SINK.format(name="gone", url=receiver.url) + ONLY_ENDED)
    with pytest.raises(ConnectorFailed, match="answers 410"):
        await running.task
    assert running.metric("failed") == 1
    assert await place.dead_letters("gone") == []
    # Its place is before that event, so who is started again tries it again.
    receiver.answer = lambda got, count: None
    await connector(WEBHOOK_SINK.format(name="gone", url=receiver.url) + ONLY_ENDED).reaches(
        "records_total", 1
    )


async def test_a_receiver_that_is_not_there_is_waited_for(
    client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    await run_orders(client, 3)
    url = "http://127.0.0.1:9/hooks"
    running = connector(WEBHOOK_SINK.format(name="away", url=url) + ONLY_ENDED)
    await running.reaches("retries_total", 2, code="WEBHOOK_UNREACHABLE")
    assert (running.metric("faulty"), running.metric("active")) == (1, 1)
    await running.stop()
    again = connector(WEBHOOK_SINK.format(name="away", url=receiver.url) + ONLY_ENDED)
    await again.reaches("records_total", 3)


async def test_a_receiver_that_does_not_answer_in_time_is_asked_again(
    client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    """Each piece of the answer comes in time, and the whole does not."""
    asked: list[bytes] = []

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        try:
            while True:
                writer.write(b"H")
                await writer.drain()
                await asyncio.sleep(0.1)
        except ConnectionError:
            writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as slow:
        port = slow.sockets[0].getsockname()[1]
        config = WEBHOOK_SINK.format(name="slow", url=f"http://127.0.0.1:{port}/") + 'timeout = "0.4s"\n'
        running = connector(config + ONLY_ENDED)
        await run_orders(client, 1)
        await running.reaches("retries_total", 2, code="WEBHOOK_TIMEOUT")
        await running.stop()
        assert len(asked) >= 2


async def test_an_answer_that_is_lost_brings_the_event_again_under_its_id(
    client: Client, connector: StartConnector
) -> None:
    """The receiver has done it, and the connection is cut before it can say so."""
    done: list[str] = []

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:] if line)
        await reader.readexactly(int(fields["content-length"]))
        done.append(fields["webhook-id"])
        if len(done) > 1:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(cut, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        running = connector(WEBHOOK_SINK.format(name="lost", url=f"http://127.0.0.1:{port}/") + ONLY_ENDED)
        await run_orders(client, 1)
        await running.reaches("records_total", 1)
        await running.stop()
    assert len(done) == 2
    assert done[0] == done[1]


async def test_a_certificate_that_nobody_vouches_for_is_not_accepted(
    client: Client, connector: StartConnector, tmp_path: object
) -> None:
    import ssl
    import subprocess
    from pathlib import Path

    folder = Path(str(tmp_path))
    key, certificate = folder / "key.pem", folder / "cert.pem"
    made = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)),
        stderr=subprocess.DEVNULL,
    )
    assert await made.wait() == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked: list[int] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(1)
        writer.close()

    async with await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        running = connector(WEBHOOK_SINK.format(name="tls", url=f"https://127.0.0.1:{port}/") + ONLY_ENDED)
        await run_orders(client, 1)
        await running.reaches("retries_total", 1, code="WEBHOOK_UNREACHABLE")
        await running.stop()
    assert asked == []


async def test_no_message_tells_a_secret(
    place: Place,
    client: Client,
    receiver: Receiver,
    connector: StartConnector,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("CRM_TOKEN", "t0ken")

    def echo(got: Got, count: int) -> Response:
        return Response(f"not with {got.headers['authorization']}", 403)

    receiver.answer = echo
    url = receiver.url + "?key=${env:CRM_TOKEN}"
    config = (
        WEBHOOK_SINK.format(name="quiet", url=url) + 'headers.Authorization = "Bearer ${env:CRM_TOKEN}"\n'
    )
    running = connector(config + ONLY_ENDED)
    await run_orders(client, 1)
    await running.reaches("dead_letters_total", 1, code="HTTP_403")
    (letter,) = await place.dead_letters("quiet")
    assert (letter.headers or {})["Dressage-Reason"] == "the receiver answers 403: not with Bearer ***"
    assert "is a dead letter" in caplog.text
    assert "t0ken" not in caplog.text


async def test_binary_mode_is_that_of_http(
    client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    await run_orders(client, 1)
    config = WEBHOOK_SINK.format(name="binary", url=receiver.url) + 'value.format = "cloudevents-binary"\n'
    running = connector(config + ONLY_ENDED)
    await running.reaches("records_total", 1)
    (got,) = receiver.got
    assert msgspec.json.decode(got.body)["output"] == 0
    assert (got.headers["ce-type"], got.headers["ce-subject"]) == ("dressage.run-completed", "run-0")
    assert got.headers["content-type"] == "application/json"


async def test_no_more_requests_are_under_way_than_the_file_says(
    client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    most = now = 0

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, now
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                now += 1
                most = max(most, now)
                await asyncio.sleep(0.02)
                now -= 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                await writer.drain()
                break
        finally:
            writer.close()

    await run_orders(client, 40)
    async with await asyncio.start_server(hold, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        config = WEBHOOK_SINK.format(name="few", url=f"http://127.0.0.1:{port}/") + "requests.max = 3\n"
        running = connector(config + ONLY_ENDED)
        await running.reaches("records_total", 40)
        await running.stop()
    assert most == 3


async def test_an_orderly_stop_waits_for_what_is_under_way(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector
) -> None:
    await run_orders(client, 20)
    await place.events(20)
    running = connector(WEBHOOK_SINK.format(name="stop", url=receiver.url) + ONLY_ENDED)

    async def begun() -> bool:
        return len(receiver.got) > 0

    await eventually(begun, "something is under way")
    await running.stop()
    again = connector(WEBHOOK_SINK.format(name="stop", url=receiver.url) + ONLY_ENDED)
    await receiver.has_taken(20)
    await again.stop()
    assert len(receiver.got) == 20
