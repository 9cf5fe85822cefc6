"""Output events of a real engine come to subjects of users, each once, those of a run in their order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

import msgspec
import pytest
from tests.connecting import eventually, run_orders  # pyright: ignore[reportMissingImports]
from tests.events_out.conftest import (  # pyright: ignore[reportMissingImports]
    ONLY_ENDED,
    SUBJECT_SINK,
    make_stream,
)

from dressage.brokers.interface import StoredMessage
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.connectors.connect.options import ConnectorFailed
from dressage.connectors.place import read_place

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import StartConnector  # pyright: ignore[reportMissingImports]

Shop = Callable[[], Awaitable[list[StoredMessage]]]


async def test_every_event_is_published_as_it_is_in_order_of_its_run(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    await run_orders(client, 20)
    events = await place.events(20)
    running = connector(SUBJECT_SINK.format(name="out"))
    await running.reaches("records_total", len(events))
    found = await shop()
    assert Counter(each.data for each in found) == Counter(each.data for each in events)
    of_run: dict[str, list[int]] = defaultdict(list)
    for each in found:
        event = msgspec.json.decode(each.data)
        assert each.subject == f"shop.{event['subject']}.{event['type'].removeprefix('dressage.')}"
        assert (each.headers or {})["content-type"].startswith("application/cloudevents+json")
        of_run[event["subject"]].append(event["index"])
    assert all(indexes == sorted(indexes) for indexes in of_run.values())


async def test_what_is_published_again_is_dropped_by_its_id(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    """As after a death between publish and place: its place is set back, and everything comes a second time."""
    await run_orders(client, 3)
    events = await place.events(3)
    first = connector(SUBJECT_SINK.format(name="again"))
    await first.reaches("records_total", len(events))
    await first.stop()
    last = await client.connection.last_message(
        place.names.definitions_stream(), place.names.connector_place_key("again")
    )
    assert last is not None
    await client.connection.delete_message(place.names.definitions_stream(), last.seq)
    second = connector(SUBJECT_SINK.format(name="again"))
    await second.reaches("records_total", len(events))
    assert len(await shop()) == len(events)
    ids = [(each.headers or {})["Nats-Msg-Id"] for each in await shop()]
    assert any(each.startswith("default/again/run-0/0/") for each in ids)


async def test_who_is_started_again_goes_on_where_it_was(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    config = SUBJECT_SINK.format(name="on")
    first = connector(config)
    await run_orders(client, 3)
    await first.reaches("records_total", len(await place.events(3)))
    await first.stop()
    await run_orders(client, 3, first=3)
    second = connector(config)
    await second.reaches("records_total", len(await place.events(6)) // 2)
    await second.stop()
    assert len(await shop()) == len(await place.events(6))
    assert second.metric("records_total") == len(await place.events(6)) // 2


async def test_two_runs_of_one_id_are_told_of_both(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    """Their events have the same ids; the message ids have not, or the second run's would be dropped."""
    running = connector(SUBJECT_SINK.format(name="twice") + ONLY_ENDED)
    await run_orders(client, 1)
    await running.reaches("records_total", 1)
    await client.delete("run-0")
    await run_orders(client, 1)
    await running.reaches("records_total", 2)
    assert len(await shop()) == 2


async def test_cloudevents_in_binary_mode_and_plain_json(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    run = await client.start("take-order", {"order": {"id": 7}}, run_id="ü 100%")
    await run.result()
    binary = (
        SUBJECT_SINK.format(name="binary").replace("{key}", "binary")
        + 'value.format = "cloudevents-binary"\n'
    )
    plain = SUBJECT_SINK.format(name="plain").replace("{key}", "plain") + 'value.format = "json"\n'
    steps = """
[[connector.transforms]]
name = "few"
type = "select"
fields = ["run_id", "data"]
"""
    await connector(binary + ONLY_ENDED).reaches("records_total", 1)
    skipping = connector(plain + ONLY_ENDED + steps)
    await skipping.reaches("records_total", 1)
    assert skipping.metric("skipped_total") == len(await place.events(1)) - 1
    found = {each.subject: each for each in await shop()}
    headers = found["shop.binary.run-completed"].headers or {}
    assert msgspec.json.decode(found["shop.binary.run-completed"].data)["output"] == 7
    assert (headers["ce-type"], headers["content-type"]) == ("dressage.run-completed", "application/json")
    assert headers["ce-subject"] == "%C3%BC%20100%25"
    assert unquote(headers["ce-id"]).startswith("ü 100%/")
    told = msgspec.json.decode(found["shop.plain.run-completed"].data)
    assert told["run_id"] == "ü 100%"
    assert sorted(told) == ["data", "run_id"]


async def test_a_subject_that_no_stream_captures_is_waited_for(
    place: Place, client: Client, connector: StartConnector
) -> None:
    await run_orders(client, 3)
    events = await place.events(3)
    running = connector(SUBJECT_SINK.format(name="early"))
    await running.reaches("retries_total", 3, code="NO_STREAM")
    assert (running.metric("faulty"), running.metric("records_total")) == (1, 0)
    await make_stream(place.server)
    await running.reaches("records_total", len(events))
    assert Counter(each.data for each in await place.stored("SHOP", "shop.>")) == Counter(
        each.data for each in events
    )

    async def well_again() -> bool:
        return running.metric("faulty") == 0

    await eventually(well_again, "the fault is over")


async def test_a_run_whose_subject_has_no_stream_holds_up_no_other(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    subject = '("nowhere." if key == "run-0" else "shop.") + key + "." + kind'
    config = f"[[connector]]\nname = 'beside'\ntype = 'sink'\nsubject = '{subject}'\n"
    running = connector(config)
    await run_orders(client, 5)
    each_run = len(await place.events(5)) // 5
    await running.reaches("records_total", 4 * each_run)
    assert running.metric("faulty") == 1
    found = {msgspec.json.decode(each.data)["subject"] for each in await shop()}
    assert found == {f"run-{number}" for number in range(1, 5)}
    await running.stop()
    # Its place is below what is not done, so another process tries all of that again.
    await make_stream(place.server, "NOWHERE", "nowhere.>")
    again = connector(config)
    await again.reaches("records_total", each_run)
    assert len(await place.stored("NOWHERE", "nowhere.>")) == each_run


@pytest.mark.parametrize(
    "subject",
    [
        '"dressage.default.0.cmd.run-0"',
        'f"$KV.{key}"',
        '"_INBOX.x"',
        'f"shop.{key} x"',
        '"shop.*"',
        "len(key)",
    ],
)
async def test_no_event_goes_where_only_the_engine_may_write(
    place: Place, shop: Shop, client: Client, connector: StartConnector, subject: str
) -> None:
    await run_orders(client, 1)
    # As it depends on the event, no reading of the file can tell.
    told = f"{subject} if key else {subject}"
    config = f'[[connector]]\nname = "bad"\ntype = "sink"\nsubject = \'{told}\'\n'
    running = connector(config)
    with pytest.raises(ConnectorFailed, match="stops at event"):
        await running.task
    assert await shop() == []


async def test_what_nothing_can_be_made_of_is_a_dead_letter_where_that_is_tolerated(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    await (await client.start("take-order", {"order": {"id": 1}}, run_id="no subject")).result()
    await run_orders(client, 1)
    events = await place.events(2)
    running = connector(SUBJECT_SINK.format(name="dead") + 'errors.tolerance = "all"\n')
    await running.reaches("records_total", len(events) // 2)
    await running.reaches("dead_letters_total", len(events) // 2, code="SUBJECT_INVALID")
    letters = await place.dead_letters("dead")
    assert {each.data for each in letters} == {
        each.data for each in events if msgspec.json.decode(each.data)["subject"] == "no subject"
    }
    headers = letters[0].headers or {}
    assert (headers["Dressage-Code"], headers["Dressage-Connector"]) == ("SUBJECT_INVALID", "dead")
    assert headers["Dressage-Event"] == "no subject/0"


async def test_a_transform_that_fails_stops_the_sink_behind_what_came_before(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    await run_orders(client, 2)
    step = """
[[connector.transforms]]
name = "wrong"
type = "filter"
condition = 'key == "run-0" or value["nothing"] == 1'
"""
    running = connector(SUBJECT_SINK.format(name="wrong") + step)
    with pytest.raises(ConnectorFailed, match="transform wrong"):
        await running.task
    told = {msgspec.json.decode(each.data)["subject"] for each in await shop()}
    assert told == {"run-0"}


async def test_start_new_tells_only_of_what_comes_later(
    place: Place, shop: Shop, client: Client, connector: StartConnector
) -> None:
    await run_orders(client, 2)
    await place.events(2)
    running = connector(SUBJECT_SINK.format(name="new") + 'start = "new"\n' + ONLY_ENDED)
    await running.reaches("active", 1)

    async def is_there() -> bool:
        return running.metric("lag") == 0

    await eventually(is_there, "it has looked where the stream ends")
    found, _ = await read_place(client.connection, place.names, place.names.connector_place_key("new"))
    assert found is not None
    assert (found.seq > 0, found.created != "") == (True, True), "where it begins is kept from the beginning"
    await run_orders(client, 1, first=2)
    await running.reaches("records_total", 1)
    assert [each.subject for each in await shop()] == ["shop.run-2.run-completed"]


async def odd_stream(place: Place, **config: object) -> None:
    """A stream of somebody else's, with limits of its own."""
    connection = await JetStreamBroker(place.server.url).connect("shop")
    try:
        wanted = {"name": "SHOP", "subjects": ["shop.>"], "storage": "file", **config}
        answer = await connection.request("$JS.API.STREAM.CREATE.SHOP", msgspec.json.encode(wanted), 5.0)
        assert b'"error"' not in answer, answer
    finally:
        await connection.close()


async def test_an_event_that_the_stream_never_takes_is_a_dead_letter_and_the_run_goes_on(
    place: Place, client: Client, connector: StartConnector
) -> None:
    await odd_stream(place, max_msg_size=2_000)
    run = await client.start("take-order", {"order": {"id": 1, "note": "x" * 2_000}}, run_id="large")
    await run.result()
    events = await place.events(1)
    running = connector(SUBJECT_SINK.format(name="large"))
    await running.reaches("records_total", len(events) - 1)
    await running.reaches("dead_letters_total", 1, code="PAYLOAD_TOO_LARGE")
    (letter,) = await place.dead_letters("large")
    assert letter.data == events[0].data
    assert [each.subject for each in await place.stored("SHOP", "shop.>")] == ["shop.large.run-completed"]


async def test_a_stream_that_is_full_is_waited_for(
    place: Place, client: Client, connector: StartConnector
) -> None:
    await odd_stream(place, max_msgs=1, discard="new")
    running = connector(SUBJECT_SINK.format(name="full") + ONLY_ENDED)
    await run_orders(client, 2)
    await running.reaches("retries_total", 1, code="PUBLISH_REFUSED")
    assert running.metric("records_total") == 1
    (first,) = await place.stored("SHOP", "shop.>")
    await client.connection.delete_message("SHOP", first.seq)
    await running.reaches("records_total", 2)
    assert running.metric("dead_letters_total", code="PUBLISH_REFUSED") == 0
