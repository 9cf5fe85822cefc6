"""Dead letters of sinks are delivered once more, by the sink as it is now, each under the id that it had at first."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from click.testing import CliRunner
from fastapi import Response
from tests.connecting import put_back, run_orders  # pyright: ignore[reportMissingImports]
from tests.events_out.conftest import (  # pyright: ignore[reportMissingImports]
    ONLY_ENDED,
    SECRET,
    SUBJECT_SINK,
    WEBHOOK_SINK,
    free_port,
)

from dressage.brokers.interface import Message, StoredMessage
from dressage.cli.main import main
from dressage.client import Client
from dressage.connectors.connect.deployed import Deployed
from dressage.connectors.events_out.outgoing import dead_event, received
from dressage.connectors.kafka.records import Record, dead_record

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import Receiver, StartConnector  # pyright: ignore[reportMissingImports]

Shop = Callable[[], Awaitable[list[StoredMessage]]]

DRESSAGE = (sys.executable, "-m", "dressage.cli.main")


class Connect:
    """`dressage connect`, with a file of its own."""

    def __init__(self, place: Place, file: Path) -> None:
        self._place = place
        self._file = file

    async def __call__(self, *words: str, config: str = "") -> tuple[int, str]:
        """With `config` it is what `--file` declares."""
        more = ("--file", str(self._file)) if config else ()
        if config:
            await asyncio.to_thread(self._file.write_text, config)
        command = ["connect", *words, *more, "--server", self._place.server.url]
        done = await asyncio.to_thread(CliRunner().invoke, main, command)
        return done.exit_code, done.output

    async def deploy(self, config: str) -> None:
        await asyncio.to_thread(self._file.write_text, config)
        assert (await self("deploy", str(self._file)))[0] == 0


@pytest.fixture
def connect(place: Place, tmp_path: Path) -> Connect:
    return Connect(place, tmp_path / "connectors.toml")


def tolerant(config: str) -> str:
    return config.replace('type = "sink"\n', 'type = "sink"\nerrors.tolerance = "all"\n')


def mended_subject(config: str) -> str:
    return config.replace('f"shop.{key}.{kind}"', '"shop." + key.replace(" ", "-") + "." + kind')


async def refused(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector, config: str, count: int = 2
) -> list[StoredMessage]:
    """The dead letters of the ends of so many runs; the sink goes on."""
    receiver.answer = lambda got, count: Response("no such order", 400)
    await run_orders(client, count)
    running = connector(config)
    await running.reaches("dead_letters_total", count, code="HTTP_400")
    letters = await place.dead_letters(running.name)
    assert len(letters) == count
    return letters


async def test_an_event_is_posted_again_under_its_id_and_is_a_dead_letter_no_more(
    place: Place,
    client: Client,
    receiver: Receiver,
    connector: StartConnector,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)
    # One at a time: so letters come in the order of the events.
    of_crm = 'secret = "${env:CRM_SECRET}"\nrequests.max = 1\n'
    config = WEBHOOK_SINK.format(name="crm", url=receiver.url) + of_crm + ONLY_ENDED
    first, second = await refused(place, client, receiver, connector, config)
    await connect.deploy(config)
    code, shown = await connect("dead", "crm")
    assert code == 0
    head, *rows = shown.splitlines()
    assert head.split() == ["seq", "code", "what", "time", "reason"]
    assert rows[0].split()[:3] == [str(first.seq), "HTTP_400", "run-0/1"]
    assert rows[0].endswith("the receiver answers 400: no such order")
    stays = "stays: HTTP_400: the receiver answers 400: no such order"
    assert await connect("replay", "crm", "--all") == (
        *(1, f"{first.seq}: {stays}\n{second.seq}: {stays}\n"),
    )
    receiver.answer = lambda got, count: None
    assert await connect("replay", "crm", "--seq", str(second.seq)) == (0, f"{second.seq}: accepted\n")
    assert [each.seq for each in await place.dead_letters("crm")] == [first.seq]
    assert await connect("replay", "crm", "--all") == (0, f"{first.seq}: accepted\n")
    assert await place.dead_letters("crm") == []
    assert [each.run for each in receiver.taken] == ["run-1", "run-0"]
    # Each has come three times, always with its one id and a signature of its time.
    assert [receiver.times(each.id) for each in receiver.taken] == [3, 3]
    assert len({each.id for each in receiver.got}) == 2
    assert all(each.headers["webhook-signature"].startswith("v1,") for each in receiver.taken)


async def test_who_died_before_the_letter_was_removed_delivers_it_again_under_the_same_id(
    place: Place, client: Client, shop: Shop, connector: StartConnector, connect: Connect
) -> None:
    await (await client.start("take-order", {"order": {"id": 1}}, run_id="no subject")).result()
    config = SUBJECT_SINK.format(name="out") + ONLY_ENDED
    running = connector(tolerant(config))
    await running.reaches("dead_letters_total", 1, code="SUBJECT_INVALID")
    (letter,) = await place.dead_letters("out")
    mended = mended_subject(config)
    assert await connect("replay", "out", "--all", config=mended) == (0, f"{letter.seq}: accepted\n")
    (stored,) = await shop()
    event = received(place.names, "out", 0, letter.data)
    assert (stored.subject, stored.data) == ("shop.no-subject.run-completed", letter.data)
    assert (stored.headers or {})["Nats-Msg-Id"] == event.id
    await put_back(client, letter)
    (again,) = await place.dead_letters("out")
    assert await connect("replay", "out", "--all", config=mended) == (0, f"{again.seq}: accepted\n")
    assert len(await shop()) == 1
    assert await place.dead_letters("out") == []


async def test_replays_beside_each_other_lose_nothing_and_deliver_under_one_id(
    place: Place, client: Client, shop: Shop, connector: StartConnector, tmp_path: Path
) -> None:
    await client.connection.publish(Message(place.names.dead_connector("another"), b""))
    for number in range(20):
        await (await client.start("take-order", {"order": {"id": number}}, run_id=f"run {number}")).result()
    config = SUBJECT_SINK.format(name="out") + ONLY_ENDED
    running = connector(tolerant(config))
    await running.reaches("dead_letters_total", 20, code="SUBJECT_INVALID")
    file = tmp_path / "mended.toml"
    file.write_text(mended_subject(config))
    words = ("connect", "replay", "out", "--all", "--file", str(file), "--server", place.server.url)
    processes = [await asyncio.create_subprocess_exec(*DRESSAGE, *words) for _ in range(3)]
    async with asyncio.timeout(60):
        assert [await each.wait() for each in processes] == [0, 0, 0]
    assert await place.dead_letters("out") == []
    assert sorted(each.subject for each in await shop()) == sorted(
        f"shop.run-{number}.run-completed" for number in range(20)
    )


async def test_a_receiver_that_is_away_is_asked_once(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector, connect: Connect
) -> None:
    config = WEBHOOK_SINK.format(name="away", url=receiver.url) + ONLY_ENDED
    letters = await refused(place, client, receiver, connector, config, 3)
    nobody = config.replace(receiver.url, f"http://127.0.0.1:{free_port()}/")
    code, said = await connect("replay", "away", "--all", config=nobody)
    first, *others = said.splitlines()
    assert (code, len(others)) == (1, 2)
    assert first.startswith(f"{letters[0].seq}: stays: WEBHOOK_UNREACHABLE: the receiver cannot be asked: ")
    assert all("WEBHOOK_UNREACHABLE: the receiver is not asked again" in each for each in others)
    receiver.answer = lambda got, count: Response(status_code=429, headers={"retry-after": "3600"})
    asked = len(receiver.got)
    code, said = await connect("replay", "away", "--all", config=config)
    assert (code, said.count("stays: HTTP_429"), len(receiver.got)) == (1, 3, asked + 1)
    receiver.answer = lambda got, count: Response(status_code=410)
    code, said = await connect("replay", "away", "--seq", str(letters[0].seq), config=config)
    assert (code, "Nobody wants these events any more" in said) == (1, True)
    assert len(await place.dead_letters("away")) == 3


async def test_what_a_filter_leaves_out_now_stays(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector, connect: Connect
) -> None:
    config = WEBHOOK_SINK.format(name="fewer", url=receiver.url) + ONLY_ENDED
    (letter,) = await refused(place, client, receiver, connector, config, 1)
    nothing = config.replace("run-completed", "run-failed")
    code, said = await connect("replay", "fewer", "--all", config=nothing)
    assert (code, said) == (1, f"{letter.seq}: stays: `when` or a filter leaves it out\n")
    assert len(await place.dead_letters("fewer")) == 1


async def test_the_letters_of_a_connector_that_was_removed_are_kept_and_a_file_replays_them(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector, connect: Connect
) -> None:
    config = WEBHOOK_SINK.format(name="gone", url=receiver.url) + ONLY_ENDED
    (letter,) = await refused(place, client, receiver, connector, config, 1)
    await connect.deploy(config)
    assert (await connect("delete", "gone"))[0] == 0
    code, said = await connect("dead", "gone", "--json")
    (shown,) = msgspec.json.decode(said)
    assert (code, shown["seq"], shown["event"], shown["code"]) == (0, letter.seq, "run-0/1", "HTTP_400")
    code, said = await connect("replay", "gone", "--all")
    assert (code, said.startswith("CONNECTOR_UNKNOWN: ")) == (1, True)
    code, said = await connect("replay", "gone", "--all", config=config.replace('"gone"', '"other"'))
    assert (code, said.startswith("CONNECTOR_UNKNOWN: connectors.toml declares no connector")) == (1, True)
    receiver.answer = lambda got, count: None
    assert (await connect("replay", "gone", "--all", config=config)) == (0, f"{letter.seq}: accepted\n")


async def test_one_that_is_removed_while_it_is_replayed_has_an_end_as_it_was(
    place: Place, client: Client, receiver: Receiver, connector: StartConnector, connect: Connect
) -> None:
    config = WEBHOOK_SINK.format(name="meanwhile", url=receiver.url) + ONLY_ENDED
    await refused(place, client, receiver, connector, config, 3)
    await connect.deploy(config)
    receiver.answer, receiver.delay_s = lambda got, count: None, 0.3
    replaying = asyncio.create_task(connect("replay", "meanwhile", "--all"))
    await receiver.has_taken(1)
    await Deployed(client.connection, client.names).delete("meanwhile")
    code, said = await replaying
    assert (code, said.count(": accepted")) == (0, 3)


async def test_what_no_sink_can_deliver_stays_and_says_why(
    place: Place, client: Client, receiver: Receiver, connect: Connect
) -> None:
    """A letter that was cut, one of a Kafka record, and what somebody else has written."""
    await (await client.start("take-order", {"order": {"id": 1, "note": "x" * 9_000}}, run_id="r")).result()
    events = await place.events(1)
    event = received(place.names, "mixed", events[0].seq, events[0].data)
    cut = dead_event(place.names, "mixed", event, "HTTP_400", "why", 4_000)
    record = Record("orders", 0, 1, None, b"{}", (), 0)
    of_record = dead_record(place.names, "mixed", record, "EVENT_NOT_JSON", "why", 1_000_000)
    headers: dict[str, Any] = {"Dressage-Event": "r/0"}
    seqs = [
        (await client.connection.publish(each)).seq
        for each in (cut, of_record, Message(cut.subject, b"none", headers))
    ]
    config = WEBHOOK_SINK.format(name="mixed", url=receiver.url)
    code, said = await connect("replay", "mixed", "--all", config=config)
    assert code == 1
    for line, seq, why in zip(
        said.splitlines(),
        seqs,
        (
            "PAYLOAD_TOO_LARGE: only a part of its payload is kept",
            "LETTER_UNUSABLE: it is no output event",
            "LETTER_UNUSABLE: it is no output event: ",
        ),
        strict=True,
    ):
        assert line.startswith(f"{seq}: stays: {why}"), line
    assert receiver.got == []
    assert len(await place.dead_letters("mixed")) == 3


async def test_a_replay_that_cannot_begin_says_why(client: Client, connect: Connect) -> None:
    assert (await connect("replay", "crm"))[0] == 2
    assert (await connect("replay", "crm", "--all", "--seq", "1"))[0] == 2
    secret = WEBHOOK_SINK.format(name="crm", url="http://127.0.0.1:1/") + 'secret = "${env:NO_SUCH_SECRET}"\n'
    code, said = await connect("replay", "crm", "--all", config=secret)
    assert (code, said.startswith("SECRET_MISSING: ")) == (1, True)
    to_kafka = """
[[connector]]
name = "crm"
type = "sink"
topics = ["events"]
kafka = { "bootstrap.servers" = "127.0.0.1:1" }
"""
    code, said = await connect("replay", "crm", "--all", config=to_kafka)
    assert (code, said.startswith("CONNECTOR_UNSUITABLE: ")) == (1, True)
    good = WEBHOOK_SINK.format(name="crm", url="http://127.0.0.1:1/")
    assert await connect("replay", "crm", "--all", config=good) == (0, "")
    assert await connect("replay", "crm", "--seq", "9", config=good) == (
        *(1, "9: there is no such dead letter\n"),
    )
