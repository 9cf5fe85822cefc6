"""Spans of OpenTelemetry, where it is: who starts a run passes its trace on, and a handler goes on in it.

Nothing here imports OpenTelemetry but `tracing_from_environment`: in a process that has not, there is no span to be in.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from dressage.protocol.commands import TaskMessage
from dressage.protocol.errors import BadInput
from dressage.protocol.traces import Trace, read_trace

Attributes = Mapping[str, str | int | bool]

SCOPE: Final = "dressage"
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def current_traceparent() -> str:
    """The W3C trace context of the span that the caller is in; empty without one."""
    api = _api()
    if api is None:
        return ""
    found = api.get_current_span().get_span_context()
    if not found.is_valid:
        return ""
    return str(Trace(f"{found.trace_id:032x}", f"{found.span_id:016x}", bool(found.trace_flags.sampled)))


class AttemptSpan:
    """The span of an attempt; without OpenTelemetry, or outside of any trace, it is none."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def end(self, outcome: str, message: str) -> None:
        """Says how the attempt ended: `completed`, or what else, and why."""
        if self._span is None:
            return
        self._span.set_attribute("dressage.outcome", outcome)
        if outcome != "completed":
            api = _api()
            assert api is not None, "it has made the span"
            self._span.set_status(api.Status(api.StatusCode.ERROR, message))


@contextlib.contextmanager
def attempt_span(message: TaskMessage, worker: str) -> Iterator[AttemptSpan]:
    """What is done in it is in the run's trace. The spans go where the process's tracer provider takes them."""
    api, run = _api(), read_trace(message.traceparent)
    if api is None or run is None:
        yield AttemptSpan()
        return
    attributes: Attributes = {
        "dressage.run_id": message.run_id,
        "dressage.workflow": message.workflow,
        "dressage.version": message.version,
        "dressage.task": message.task,
        "dressage.task_id": message.task_id,
        "dressage.attempt": message.attempt,
        "dressage.worker": worker,
    }
    parent = api.set_span_in_context(api.NonRecordingSpan(_context(api, run, remote=True)))
    with api.get_tracer(SCOPE).start_as_current_span(
        f"task {message.task}",
        parent,
        kind=api.SpanKind.CONSUMER,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield AttemptSpan(span)


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
    """Sends spans where the environment says, by OpenTelemetry's variables; None where it says nothing.

    `service` is what the process is called where `OTEL_SERVICE_NAME` does not say. Other spans of the process go there,
    too, unless it has a tracer provider already. Raises `BadInput` (EXTRA_MISSING).
    """
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or not any(os.environ.get(each) for each in _ENDPOINTS):
        return None
    try:
        return _OpenTelemetry(service)
    except ImportError as error:
        raise BadInput(
            f"{' or '.join(_ENDPOINTS)} is set, which needs OpenTelemetry: pip install 'dressage[tracing]', or unset "
            "it",
            code="EXTRA_MISSING",
        ) from error


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
        provider = TracerProvider(resource=self._resource)
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
        self._processor.shutdown()


def _api() -> Any:
    """OpenTelemetry's, if this process has it: then somebody may be in a span."""
    return sys.modules.get("opentelemetry.trace")


def _context(api: Any, span: Trace, *, remote: bool) -> Any:
    flags = api.TraceFlags(api.TraceFlags.SAMPLED if span.sampled else api.TraceFlags.DEFAULT)
    return api.SpanContext(int(span.trace_id, 16), int(span.span_id, 16), is_remote=remote, trace_flags=flags)
