"""From an event to a start, and what of an event is kept when there can be none. No server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from dressage.brokers.interface import Delivery
from dressage.connectors.config import parse_triggers
from dressage.connectors.dead_letter import HEADERS_BYTES_MAX, dead_letter
from dressage.connectors.mapping import EventMapping, Post, Unmappable
from dressage.protocol.names import Names

CONFIG = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS" }
workflow = "process-order"
"""
BY_ID = """run_id = 'event["id"]'\n"""
MEBIBYTE = 1024 * 1024


def event(
    payload: object,
    *,
    subject: str = "orders.new",
    headers: Mapping[str, str] | None = None,
    time_ns: int = 0,
) -> Delivery:
    data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    return Delivery(subject, data, headers, 7, 1, 1, time_ns, "reply")


def mapping(text: str) -> EventMapping:
    (trigger,) = parse_triggers(CONFIG + text)
    return EventMapping(trigger)


def mapped(text: str, given: Delivery) -> tuple[str, Any] | None:
    start = mapping(text).asked_by(given, "id")
    assert not isinstance(start, Post)
    return (start.run_id, msgspec.json.decode(start.input)) if start else None


def refused(text: str, given: Delivery) -> tuple[str, str]:
    with pytest.raises(Unmappable) as caught:
        mapping(text).asked_by(given, "id")
    return caught.value.code, caught.value.message


def test_expressions_see_payload_subject_and_headers() -> None:
    text = """run_id = '''f"{subject}-{event}-{headers.get('Shop')}"'''\n[trigger.input]\norder = "event"\n"""
    assert mapped(text, event(5, headers={"Shop": "Ulm"})) == ("orders.new-5-Ulm", {"order": 5})


def test_an_event_without_headers_has_an_empty_dict_of_them() -> None:
    assert mapped("run_id = 'str(len(headers)) + subject'", event({})) == ("0orders.new", {})


def test_an_event_that_is_not_meant_asks_for_nothing() -> None:
    assert mapped(BY_ID + "when = 'event[\"total\"] > 0'", event({"id": "a", "total": 0})) is None


def test_the_rest_of_an_event_that_is_not_meant_is_not_looked_at() -> None:
    assert mapped(BY_ID + "when = 'event.get(\"id\")'", event({})) is None


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 5000, b"NaN"])
def test_a_payload_that_is_no_json_is_told(payload: bytes) -> None:
    assert refused(BY_ID, event(payload))[0] == "EVENT_NOT_JSON"


def test_an_expression_that_fails_is_told_with_its_key() -> None:
    text = BY_ID + "[trigger.input]\namount = 'event[\"total\"]'"
    assert refused(text, event({"id": "a"})) == ("EXPRESSION_FAILED", "input.amount: KeyError: 'total'")


@pytest.mark.parametrize("run_id", [5, None, "", "x" * 129])
def test_a_run_id_must_be_a_usable_text(run_id: object) -> None:
    assert refused(BY_ID, event({"id": run_id}))[0] == "RUN_ID_INVALID"


def test_the_same_event_asks_for_the_same_start() -> None:
    text = BY_ID + "[trigger.input]\norder = 'event'\nwhere = 'subject'"
    given = event({"id": "a", "lines": [{"b": 1, "a": 2}]})
    assert mapping(text).asked_by(given, "id") == mapping(text).asked_by(given, "id")


# -- dead letters ----------------------------------------------------------------------------------
def letter(given: Delivery, reason: str = "because", payload_bytes_max: int = MEBIBYTE) -> Any:
    return dead_letter(
        Names(), "orders", "ORDERS", given, "EVENT_NOT_JSON", reason, payload_bytes_max=payload_bytes_max
    )


def size(message: Any) -> int:
    """What the server counts: headers and payload."""
    return len(message.data) + sum(
        len(f"{name}: {value}\r\n".encode()) for name, value in message.headers.items()
    )


def test_a_dead_letter_says_which_event_it_was_and_why() -> None:
    message = letter(event(b"{", time_ns=1_700_000_000_123_000_000))
    assert (message.subject, message.data) == ("dressage.default.dead.trigger.orders", b"{")
    assert message.headers == {
        "Dressage-Code": "EVENT_NOT_JSON",
        "Dressage-Reason": "because",
        "Dressage-Trigger": "orders",
        "Dressage-Stream": "ORDERS",
        "Dressage-Sequence": "7",
        "Dressage-Subject": "orders.new",
        "Dressage-Time": "2023-11-14T22:13:20.123Z",
    }


def test_a_dead_letter_has_the_same_id_each_time() -> None:
    assert letter(event(b"{")).msg_id == letter(event(b"{"), "told in other words").msg_id


def test_an_event_of_a_stream_that_was_made_anew_has_another_id() -> None:
    assert letter(event(b"{", time_ns=1)).msg_id != letter(event(b"{", time_ns=2)).msg_id


def test_headers_of_the_event_mean_nothing_to_the_server_any_more() -> None:
    headers = letter(event(b"{", headers={"Nats-Msg-Id": "1", "Nats-Rollup": "all"})).headers
    assert not any(name.startswith("Nats-") for name in headers)
    assert headers["Dressage-Original-Nats-Rollup"] == "all"


def test_a_reason_cannot_break_out_of_its_header() -> None:
    headers = letter(event(b"{"), "one\r\nNats-Rollup: all\x00\ud800 end").headers
    assert headers["Dressage-Reason"] == "one Nats-Rollup: all ? end"


def test_a_long_reason_is_cut() -> None:
    assert len(letter(event(b"{"), "x" * 100_000).headers["Dressage-Reason"]) == 1_000


def test_a_header_name_that_no_client_accepts_is_changed() -> None:
    assert letter(event(b"{", headers={"Größe": "5"})).headers["Dressage-Original-Gr__e"] == "5"


def test_headers_that_do_not_fit_are_counted() -> None:
    headers = letter(event(b"{", headers={"A": "x" * HEADERS_BYTES_MAX, "B": "kept"})).headers
    assert (headers["Dressage-Headers-Dropped"], headers["Dressage-Original-B"]) == ("1", "kept")


def test_the_largest_event_still_makes_a_message_that_the_server_takes() -> None:
    message = letter(event(b"x" * MEBIBYTE, headers={"A": "x" * 5000}), "x" * 5000)
    assert size(message) < MEBIBYTE
    assert message.headers["Dressage-Payload-Bytes"] == str(MEBIBYTE)
