"""W3C trace contexts: which are taken, and what a run makes of one."""

from __future__ import annotations

import sys

import msgspec
import pytest

from dressage.brokers.interface import Delivery
from dressage.connectors.config import parse_triggers
from dressage.connectors.mapping import EventMapping, Start
from dressage.protocol.errors import BadInput
from dressage.protocol.traces import read_trace, trace_of_run, usable_trace
from dressage.telemetry.tracing import current_traceparent, tracing_from_environment

STARTER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_one_is_read_into_its_parts() -> None:
    found = read_trace(STARTER)
    assert found == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
    assert str(found) == STARTER


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("03", True), ("ff", True)]
)
def test_the_flag_of_sampling_is_kept_and_no_other(flags: str, sampled: bool) -> None:
    found = read_trace(STARTER[:-2] + flags)
    assert found is not None
    assert found.sampled == sampled
    assert usable_trace(STARTER[:-2] + flags) == STARTER[:-2] + ("01" if sampled else "00")


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00",
        STARTER.upper(),
        STARTER[:-1],
        STARTER + "-more",
        STARTER + "\n",
        "ff" + STARTER[2:],
        STARTER.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        STARTER.replace("b7ad6b7169203331", "0" * 16),
        STARTER.replace("b7ad6b7169203331", "b7ad6b716920333g"),
        "größe",
    ],
)
def test_what_is_none_is_as_if_there_were_none(given: str) -> None:
    assert read_trace(given) is None
    assert usable_trace(given) == ""
    assert trace_of_run(given, "r", 1) == ""


def test_one_of_a_later_version_may_have_more() -> None:
    assert usable_trace("01" + STARTER[2:] + "-more") == STARTER


def test_a_run_has_a_span_of_its_own_in_the_trace_whoever_asks() -> None:
    of_run = trace_of_run(STARTER, "order-1", 7)
    found, starter = read_trace(of_run), read_trace(STARTER)
    assert found is not None
    assert starter is not None
    assert (found.trace_id, found.sampled) == (starter.trace_id, True)
    others = {trace_of_run(STARTER, "order-2", 7), trace_of_run(STARTER, "order-1", 8), STARTER}
    assert trace_of_run(STARTER, "order-1", 7) == of_run not in others
    assert len(others) == 3


# -- what an event says ----------------------------------------------------------------------------
TRIGGER = """
[[trigger]]
name = "orders"
source = { stream = "shop", subject = "shop.>" }
workflow = "take-order"
run_id = "'o-' + subject"

[trigger.input]
order = "event"
"""
BINARY = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
CLOUD = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {}}


@pytest.mark.parametrize(
    ("headers", "body", "wanted"),
    [
        ({}, {}, ""),
        ({"traceparent": STARTER}, {}, STARTER),
        ({"Traceparent": STARTER}, {}, STARTER),
        ({"traceparent": "rubbish"}, {}, ""),
        ({"content-type": "application/cloudevents+json"}, CLOUD | {"traceparent": STARTER}, STARTER),
        ({"content-type": "application/cloudevents+json"}, CLOUD | {"traceparent": 7}, ""),
        (BINARY | {"ce-traceparent": STARTER}, {}, STARTER),
    ],
)
def test_a_trigger_takes_that_of_its_event(headers: dict[str, str], body: object, wanted: str) -> None:
    (config,) = parse_triggers(TRIGGER)
    event = Delivery("shop.new", msgspec.json.encode(body), headers, 1, 1, 1, 0, "")
    asked = EventMapping(config).asked_by(event, "id")
    assert isinstance(asked, Start)
    assert asked.traceparent == wanted


# -- what a process does with them -----------------------------------------------------------------
def test_there_is_no_span_where_nobody_has_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    assert current_traceparent() == ""


def test_nothing_is_traced_unless_the_environment_says_where_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert tracing_from_environment("x") is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing_from_environment("x") is None


def test_where_opentelemetry_is_missing_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(BadInput, match=r"pip install 'dressage\[tracing\]'") as refused:
        tracing_from_environment("x")
    assert refused.value.code == "EXTRA_MISSING"
