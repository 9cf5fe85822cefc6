"""W3C trace contexts: which are taken, and what a run makes of one."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import types
from importlib.machinery import ModuleSpec

import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.util._once import Once

from dressage.brokers.interface import Delivery
from dressage.connectors.config import parse_triggers
from dressage.connectors.mapping import EventMapping, Start
from dressage.protocol.commands import TaskMessage
from dressage.protocol.traces import read_trace, trace_of_run, usable_trace
from dressage.telemetry.tracing import attempt_span, current_traceparent, traced, tracing_from_environment

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
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert tracing_from_environment("x") is None


def test_where_opentelemetry_is_missing_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert tracing_from_environment("x") is None
    assert "pip install 'dressage[tracing]'" in caplog.text


MESSAGE = TaskMessage("t", "0-1-1-1", "0-1-1", "r", "w", 1, 1, msgspec.Raw(b"{}"), "reply")
TRACED = msgspec.structs.replace(MESSAGE, traceparent=STARTER)


def test_a_handler_is_in_the_trace_of_its_run_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    with attempt_span(TRACED, "w"):
        assert current_traceparent() == STARTER
        with attempt_span(MESSAGE, "w"):
            assert current_traceparent() == ""
        assert current_traceparent() == STARTER
    assert current_traceparent() == ""


def test_a_module_that_is_being_imported_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    half = types.ModuleType("opentelemetry.trace")
    half.__spec__ = ModuleSpec("opentelemetry.trace", None)
    half.__spec__._initializing = True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", half)
    assert current_traceparent() == ""
    with attempt_span(TRACED, "w") as span:
        span.ended("completed", "")


def test_a_handler_of_a_run_in_no_trace_is_in_none_wherever_the_worker_was_started() -> None:
    with TracerProvider().get_tracer("lifespan").start_as_current_span("startup"):
        assert current_traceparent()
        with attempt_span(MESSAGE, "w"):
            assert current_traceparent() == ""
        with attempt_span(TRACED, "w"):
            assert current_traceparent()[3:35] == STARTER[3:35]
        assert current_traceparent()


class Broken(SpanProcessor):
    """What somebody's program has put into its provider."""

    def __init__(self, *where: str) -> None:
        self.where = where

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if "start" in self.where:
            raise RuntimeError("a processor is broken")

    def on_end(self, span: ReadableSpan) -> None:
        if "end" in self.where:
            raise RuntimeError("a processor is broken")


@pytest.mark.parametrize("where", ["start", "end"])
def test_a_processor_that_fails_costs_a_span_and_nothing_else(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    provider = TracerProvider()
    provider.add_span_processor(Broken(where))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    done = False
    with attempt_span(TRACED, "w") as span:
        assert current_traceparent()[3:35] == STARTER[3:35]
        span.ended("completed", "")
        done = True
    assert done
    assert "a span is missing" in caplog.text
    assert current_traceparent() == ""


def test_an_attempt_that_is_cut_off_is_a_span_that_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    with pytest.raises(asyncio.CancelledError), attempt_span(TRACED, "w"):
        raise asyncio.CancelledError
    with attempt_span(TRACED, "w") as span:
        span.ended("errored", "os-error: the disk is full")
    stopped, errored = kept.get_finished_spans()
    told = [(each.attributes or {})["dressage.outcome"] for each in (stopped, errored)]
    assert told == ["stopped", "errored"]
    assert [each.status.is_ok for each in (stopped, errored)] == [False, False]
    assert errored.status.description == "os-error: the disk is full"


def test_a_collector_that_is_away_does_not_hold_up_who_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # It takes connections, and never answers.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        span = read_trace(STARTER)
        assert span is not None
        monkeypatch.setattr("dressage.telemetry.tracing.CLOSE_S", 0.2)
        closing = threading.Event()
        with traced("x") as tracing:
            assert tracing is not None
            for _ in range(10):
                tracing.tell("run w", span, span.span_id, 1, 2, {})
            monkeypatch.setattr(tracing, "_processor", Slow(closing))
    assert closing.wait(30)
    trace._TRACER_PROVIDER_SET_ONCE = Once()  # pyright: ignore[reportPrivateUsage]
    trace._TRACER_PROVIDER = None  # pyright: ignore[reportPrivateUsage]


class Slow:
    """A processor whose shutdown does not end."""

    def __init__(self, begun: threading.Event) -> None:
        self._begun = begun

    def shutdown(self) -> None:
        self._begun.set()
        threading.Event().wait(600)
