"""Spans of OpenTelemetry, where it is: who starts a run passes its trace on, and a handler goes on in it.

Nothing here imports OpenTelemetry but `tracing_from_environment`: in a process that has not, there is no span to be in.
What others have put into it, as processors and samplers, may fail: then there is no span, and all else goes on.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, TypeVar

from dressage.protocol.commands import TaskMessage
from dressage.protocol.traces import Trace, read_trace

_log = logging.getLogger("dressage.telemetry")

T = TypeVar("T")
Attributes = Mapping[str, str | int | bool]

SCOPE: Final = "dressage"
CLOSE_S: Final = 3.0
"""So long a process that ends waits for what is left to be sent."""

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_of_attempt: contextvars.ContextVar[str] = contextvars.ContextVar("traceparent", default="")
"""The trace of the run whose attempt is executed, for processes without OpenTelemetry."""


def current_traceparent() -> str:
    """The W3C trace context of the span that the caller is in, or else of the run whose handler it is; empty without
    one."""
    api = _api()
    found = None if api is None else _safely(lambda: api.get_current_span().get_span_context())
    if found is None or not found.is_valid:
        return _of_attempt.get()
    return str(Trace(f"{found.trace_id:032x}", f"{found.span_id:016x}", bool(found.trace_flags.sampled)))


class AttemptSpan:
    """The span of an attempt; without OpenTelemetry, or outside of any trace, it is none."""

    def __init__(self, api: Any = None, span: Any = None) -> None:
        self._api, self._span = api, span
        self._outcome, self._message = "stopped", ""

    def ended(self, outcome: str, message: str) -> None:
        """Says how the attempt ended: `completed`, or what else, and why. One of which nobody says it was stopped."""
        self._outcome, self._message = outcome, message

    def close(self) -> None:
        if self._span is not None:
            _safely(self._close)

    def _close(self) -> None:
        self._span.set_attribute("dressage.outcome", self._outcome)
        if self._outcome != "completed":
            self._span.set_status(self._api.Status(self._api.StatusCode.ERROR, self._message))
        self._span.end()


@contextlib.contextmanager
def attempt_span(message: TaskMessage, worker: str) -> Iterator[AttemptSpan]:
    """What is done in it is in the run's trace, or in none, whichever span the worker was started in. Spans go where
    the process's tracer provider takes them."""
    api, run = _api(), read_trace(message.traceparent)
    carried = _of_attempt.set("" if run is None else str(run))
    span, token = AttemptSpan(), None
    if api is not None:
        span, token = _safely(lambda: _begun(api, run, message, worker)) or (span, None)
    try:
        yield span
    finally:
        span.close()
        if token is not None:
            _safely(lambda: _detached(token))
        _of_attempt.reset(carried)


def _begun(api: Any, run: Trace | None, message: TaskMessage, worker: str) -> tuple[AttemptSpan, Any]:
    """The span of an attempt, and what its context is left by."""
    from opentelemetry import context

    if run is None:
        return AttemptSpan(), context.attach(api.set_span_in_context(api.INVALID_SPAN, context.Context()))
    attributes: Attributes = {
        "dressage.run_id": message.run_id,
        "dressage.workflow": message.workflow,
        "dressage.version": message.version,
        "dressage.task": message.task,
        "dressage.task_id": message.task_id,
        "dressage.attempt": message.attempt,
        "dressage.worker": worker,
    }
    parent = api.set_span_in_context(api.NonRecordingSpan(_context(api, run, remote=True)), context.Context())
    span = api.get_tracer(SCOPE).start_span(
        f"task {message.task}", parent, kind=api.SpanKind.CONSUMER, attributes=attributes
    )
    return AttemptSpan(api, span), context.attach(api.set_span_in_context(span, parent))


def _detached(token: Any) -> None:
    from opentelemetry import context

    context.detach(token)


class Tracing(Protocol):
    """Takes spans that have ended."""

    def tell(
        self,
        name: str,
        span: Trace,
        parent_id: str,
        began_ns: int,
        ended_ns: int,
        attributes: Attributes,
        error: str = "",
    ) -> None:
        """`span` says whose trace it is in, and which id it has; one with an `error` has failed."""
        ...

    def close(self) -> None:
        """Sends what is left."""
        ...


def inner_span(of: Trace) -> Trace:
    """A new span in the same trace."""
    return of._replace(span_id=secrets.token_hex(8))


def tracing_from_environment(service: str) -> Tracing | None:
    """Sends spans where the environment says, by OpenTelemetry's variables; None where it says nothing, or says that
    there are to be none.

    `service` is what the process is called where `OTEL_SERVICE_NAME` does not say. Other spans of the process go there,
    too, unless it has a tracer provider already. That OpenTelemetry is missing is only told: the variables may be there
    for somebody else.
    """
    off = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    off = off or os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none"
    if off or not any(os.environ.get(each) for each in _ENDPOINTS):
        return None
    try:
        return _OpenTelemetry(service)
    except ImportError:
        _log.warning(
            "%s is set, but no spans are sent without OpenTelemetry: pip install 'dressage[tracing]', or set "
            "OTEL_TRACES_EXPORTER=none",
            next(each for each in _ENDPOINTS if os.environ.get(each)),
        )
        return None


@contextlib.contextmanager
def traced(service: str) -> Iterator[Tracing | None]:
    """`tracing_from_environment`, which sends what is left in the end."""
    tracing = tracing_from_environment(service)
    try:
        yield tracing
    finally:
        if tracing is not None:
            tracing.close()


class _OpenTelemetry:
    """Makes spans with ids of their own, which the SDK's tracers do not, and hands them to its processor."""

    def __init__(self, service: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        named = os.environ.get("OTEL_SERVICE_NAME") or service
        self._resource = Resource.create({SERVICE_NAME: named})
        self._processor: Any = BatchSpanProcessor(OTLPSpanExporter())
        self._api = trace
        self._span = ReadableSpan
        self._scope = InstrumentationScope(SCOPE)
        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(provider)

    def tell(
        self,
        name: str,
        span: Trace,
        parent_id: str,
        began_ns: int,
        ended_ns: int,
        attributes: Attributes,
        error: str = "",
    ) -> None:
        api = self._api
        code = api.StatusCode.ERROR if error else api.StatusCode.UNSET
        self._processor.on_end(
            self._span(
                name,
                context=_context(api, span, remote=False),
                parent=_context(api, span._replace(span_id=parent_id), remote=True),
                resource=self._resource,
                attributes=dict(attributes),
                kind=api.SpanKind.INTERNAL,
                status=api.Status(code, error or None),
                start_time=began_ns,
                end_time=max(began_ns, ended_ns),
                instrumentation_scope=self._scope,
            )
        )

    def close(self) -> None:
        # Who takes spans may be away: a process that is told to end must not wait for minutes.
        closing = threading.Thread(target=lambda: _safely(self._processor.shutdown), daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def _api() -> Any:
    """OpenTelemetry's, if this process has it: then somebody may be in a span."""
    api = sys.modules.get("opentelemetry.trace")
    # It stands there before it is whole, while another thread imports it.
    return None if api is None or getattr(api.__spec__, "_initializing", False) else api


def _safely(what: Callable[[], T]) -> T | None:
    """None, and a line in the log, where that fails."""
    try:
        return what()
    except Exception:
        _log.warning("a span is missing", exc_info=True)
        return None


def _context(api: Any, span: Trace, *, remote: bool) -> Any:
    flags = api.TraceFlags(api.TraceFlags.SAMPLED if span.sampled else api.TraceFlags.DEFAULT)
    return api.SpanContext(int(span.trace_id, 16), int(span.span_id, 16), is_remote=remote, trace_flags=flags)
