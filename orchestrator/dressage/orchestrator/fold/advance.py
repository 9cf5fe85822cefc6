"""One fold in progress: the working copy of a run's state, and what nodes may do to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from dressage.expressions.values import decode_stored, encode_stored
from dressage.orchestrator.fold.definition import Definition, ReadyNode
from dressage.orchestrator.fold.effects import Effect
from dressage.orchestrator.fold.outcome import Stamp
from dressage.orchestrator.fold.state import RunState, RunThread
from dressage.protocol.commands import FailureInfo
from dressage.protocol.events import (
    EventData,
    FailureCaught,
    RunCompleted,
    RunFailed,
    VariableChanged,
)
from dressage.protocol.spec import catches

VALUE_BYTES_MAX = 256 * 1024
"""Bytes of one input, of the arguments of one call, of one result, and of a run's output. With the variables, which
have the same limit, a state stays below a server's default max_payload of 1 MiB."""


DETAILS_BYTES_MAX = 32 * 1024
MESSAGE_CHARS_MAX = 8192


class Scope(Mapping[str, Any]):
    """The run's variables as values: decoded when first read, remembered for this fold only."""

    def __init__(self, stored: dict[str, msgspec.Raw], definition: Definition) -> None:
        self._stored = stored
        self._types = definition.types
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            value = self._values[name] = decode_stored(self._stored[name], self._types)
            return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def remember(self, name: str, value: Any) -> None:
        self._values[name] = value


class Advance:
    """Holds the copy being changed, the events and effects so far, and the way failures take."""

    def __init__(self, state: RunState, definition: Definition, stamp: Stamp) -> None:
        self.state = state
        self.definition = definition
        self.stamp = stamp
        self.effects: list[Effect] = []
        self.events: list[EventData] = []
        self.scope = Scope(state.variables, definition)
        self.first_event = state.events
        self._stored = False

    # -- what nodes use ----------------------------------------------------------------------------
    def evaluate(self, ready: ReadyNode, expression: str) -> Any:
        """Raises `ExpressionFailed` or `LimitExceeded`."""
        return ready.expressions[expression](self.scope)

    def emit(self, event: EventData) -> None:
        self.events.append(event)
        self.state.events += 1

    def attempt_id(self, thread: RunThread, node: int, attempt: int) -> str:
        """Names one attempt for ever: a loop or a retry has another command sequence, a branch another thread."""
        return f"{thread.id}-{node}-{self.stamp.seq}-{attempt}"

    def begun_id(self, thread: RunThread, node: int) -> str:
        """Names what this fold begins at a node: a timer, or a call with all its attempts."""
        return f"{thread.id}-{node}-{self.stamp.seq}"

    def assign(self, name: str, value: Any) -> None:
        self._store(name, value)
        if name in self.definition.views:
            self._view_changed(name, value)
        elif name not in self.definition.temporaries:
            self.emit(VariableChanged(name=name, value=msgspec.Raw(wire(value))))

    def assign_quietly(self, name: str, value: Any) -> None:
        """For what the author did not write as a variable, such as the failure that a handler holds."""
        self._store(name, value)

    def assign_attribute(self, name: str, attribute: str, value: Any) -> None:
        """Replaces one field of a view; the record itself stays a value. Raises `BadValue` for a wrong type."""
        record = self.definition.types.with_field(self.scope[name], attribute, value)
        self._store(name, record)
        self._field_changed(attribute, value)

    def variable_bytes(self) -> int:
        """Stored size of all variables if this fold changed one, else 0."""
        if not self._stored:
            return 0
        return sum(memoryview(raw).nbytes for raw in self.state.variables.values())

    def _store(self, name: str, value: Any) -> None:
        self._stored = True
        self.state.variables[name] = msgspec.Raw(encode_stored(value))
        self.scope.remember(name, value)

    def _view_changed(self, name: str, record: Any) -> None:
        for field in record.__struct_fields__:
            self._field_changed(field, getattr(record, field))

    def _field_changed(self, field: str, value: Any) -> None:
        self.emit(VariableChanged(field, msgspec.Raw(wire(value)), field in self.definition.searchable))

    # -- ends --------------------------------------------------------------------------------------
    def complete(self, output: bytes) -> None:
        if len(output) > VALUE_BYTES_MAX:
            self.fail_run(too_large("output-size", "the run's output", output))
            return
        state = self.state
        state.output = result = msgspec.Raw(output)
        self._end("completed")
        self.emit(RunCompleted(result, state.ended_ms - state.started_ms))

    def fail(self, thread: RunThread, failure: FailureInfo, node: int) -> None:
        """The failure looks for a handler in the scopes around `node`, from the inside out."""
        spec = self.definition.spec
        scope = spec.nodes[node].scope
        while scope is not None:
            for handler in spec.scopes[scope].handlers:
                if catches(spec, handler, failure):
                    if handler.bind is not None:
                        self.assign_quietly(handler.bind, failure)
                    self.emit(FailureCaught(node, failure))
                    thread.node, thread.wait = handler.node, None
                    return
            scope = spec.scopes[scope].parent
        self.fail_run(failure)

    def fail_run(self, failure: FailureInfo) -> None:
        self.state.failure = failure
        self._end("failed")
        self.emit(RunFailed(failure, self.state.ended_ms - self.state.started_ms))

    def _end(self, status: Any) -> None:
        self.state.status = status
        self.state.ended_ms = self.state.time_ms
        self.state.threads = []


def too_large(name: str, what: str, data: bytes) -> FailureInfo:
    """The failure of a value beyond `VALUE_BYTES_MAX`."""
    message = f"{what} takes {len(data)} bytes of {VALUE_BYTES_MAX} allowed: pass a reference to it instead"
    return FailureInfo(name, message, "limit")


def bounded(failure: FailureInfo) -> FailureInfo:
    """A failure as its author wrote it, cut to what a state and an event may hold."""
    details = failure.details
    if details and len(bytes(details)) > DETAILS_BYTES_MAX:
        details = msgspec.Raw(b'{"dropped":"details above %d bytes"}' % DETAILS_BYTES_MAX)
    return msgspec.structs.replace(failure, message=failure.message[:MESSAGE_CHARS_MAX], details=details)


def wire(value: Any) -> bytes:
    """A value as readers of events and workers see it: plain JSON."""
    return msgspec.json.encode(value)
