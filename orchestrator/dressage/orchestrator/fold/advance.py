"""One fold in progress: the working copy of a run's state, and what nodes may do to it."""

from __future__ import annotations

from typing import Any

import msgspec

from dressage.expressions.errors import ExpressionFailed
from dressage.expressions.frame import OPERATION_WORK, WORK_MAX, Frame
from dressage.expressions.limits import parts_of_value
from dressage.expressions.masked import HIDDEN, encode_hidden, has_masked
from dressage.expressions.values import Record, decode_stored, encode_stored
from dressage.orchestrator.fold.definition import STEP_WORK, Definition, ReadyNode
from dressage.orchestrator.fold.effects import CancelTimer, Effect
from dressage.orchestrator.fold.limits import (
    bounded,
    fitting,
    limit_state,
    stored_bytes,
    too_large,
    variables_too_large,
)
from dressage.orchestrator.fold.outcome import Stamp
from dressage.orchestrator.fold.state import RunState, RunThread, TaskWait
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import BadValue
from dressage.protocol.events import (
    EventData,
    FailureCaught,
    RunCancelled,
    RunCompleted,
    RunFailed,
    VariableChanged,
)
from dressage.protocol.spec import catches_named

EVENT_WORK = 300
"""Units of work of an output event, beside the bytes of the value in it."""

SMALL_BYTES = 1024
"""A value of so many bytes is stored, and told, for the work of its event."""


class Scope(Frame):
    """The run's variables as values: decoded when first read, remembered for this fold only. Pays for its work."""

    __slots__ = ("_stored", "_types", "_values")

    def __init__(self, stored: dict[str, msgspec.Raw], definition: Definition) -> None:
        self.left = WORK_MAX
        self._stored = stored
        self._types = definition.types
        self._values: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            value = self._values[name] = decode_stored(self._stored[name], self._types)
            return value

    def remember(self, name: str, value: Any) -> None:
        self._values[name] = value


class Advance:
    """Holds the copy being changed, the events and effects so far, and the way failures take."""

    steps = 0
    """Nodes that this fold was allowed to pass so far."""

    stored = False
    """Whether this fold has set a variable."""

    _paid_events = 0
    _paid_steps = 0

    def __init__(self, state: RunState, definition: Definition, stamp: Stamp) -> None:
        self.state = state
        self.definition = definition
        self.stamp = stamp
        self.effects: list[Effect] = []
        self.events: list[EventData] = []
        self.scope = Scope(state.variables, definition)
        self.first_event = state.events

    # -- what nodes use ----------------------------------------------------------------------------
    def evaluate(self, ready: ReadyNode, expression: str) -> Any:
        """Raises `ExpressionFailed` or `LimitExceeded`."""
        return ready.expressions[expression](self.scope)

    def emit(self, event: EventData) -> None:
        self.events.append(event)
        self.state.events += 1

    @property
    def history_full(self) -> bool:
        """Whether the run has all the output events that it may have, its end apart."""
        return self.state.events >= self.definition.limits.history_events

    def attempt_id(self, thread: RunThread, node: int, attempt: int) -> str:
        """Names one attempt for ever: a loop or a retry has another command sequence, a branch another thread."""
        return f"{thread.id}-{node}-{self.stamp.seq}-{attempt}"

    def begun_id(self, thread: RunThread, node: int) -> str:
        """Names what this fold begins at a node: a timer, or a call with all its attempts."""
        return f"{thread.id}-{node}-{self.stamp.seq}"

    def assign(self, name: str, value: Any) -> None:
        """Raises `LimitExceeded`, or `BadValue` for what is not of the variable's declared type."""
        declared = self.definition.declared.get(name)
        if declared is not None:
            value = declared.admit(value, f"variable {name}")
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
        record = self.definition.types.with_field(self.variable(name), attribute, value, self.scope)
        self._store(name, record)
        self._field_changed(attribute, getattr(record, attribute))

    def variable(self, name: str) -> Any:
        """The value of a variable. Raises `ExpressionFailed` where it has none."""
        try:
            return self.scope[name]
        except KeyError:
            raise ExpressionFailed(f"NameError: variable {name} has no value") from None

    def check_sizes(self, output: bytes = b"") -> None:
        """Raises `LimitExceeded` for variables or a state that would not fit."""
        state, definition = self.state, self.definition
        variables = stored_bytes(state.variables)
        if variables > definition.limits.variables_bytes:
            raise variables_too_large(variables, definition.limits)
        if not definition.state_fits or len(state.threads) > 1:
            waits = [thread.wait.args for thread in state.threads if isinstance(thread.wait, TaskWait)]
            limit_state(variables + len(state.input) + sum(map(len, waits)) + len(output))

    def pay(self) -> None:
        """Takes the work of events and steps since the last time, and looks at what is stored.

        Raises `LimitExceeded`.
        """
        told, passed = len(self.events) - self._paid_events, self.steps - self._paid_steps
        self._paid_events, self._paid_steps = len(self.events), self.steps
        self.scope.spend(EVENT_WORK * told + STEP_WORK * passed)
        if self.stored:
            self.check_sizes()

    def _store(self, name: str, value: Any) -> None:
        """Raises `LimitExceeded`."""
        data = encode_stored(value)
        if len(data) > SMALL_BYTES:
            self._pay_for_storing(len(data))
        self.stored = True
        self.state.variables[name] = msgspec.Raw(data)
        self.scope.remember(name, value)

    def _pay_for_storing(self, size: int) -> None:
        limits = self.definition.limits
        if size > limits.variables_bytes:
            raise variables_too_large(size, limits)
        # Twice: once for the state, once for the events that tell of it, whose wire form is never longer.
        self.scope.spend(2 * size)

    def _view_changed(self, name: str, record: Any) -> None:
        """Raises `BadValue` for what is no record, which only a spec that no compiler wrote can assign."""
        if not isinstance(record, Record):
            raise BadValue(f"{name} is the run's view: it takes a record")
        for field in record.__struct_fields__:
            self._field_changed(field, getattr(record, field))

    def _field_changed(self, field: str, value: Any) -> None:
        paths = self.definition.searchable.get(field, ())
        inside = () if paths == (field,) else paths
        self.emit(VariableChanged(field, msgspec.Raw(wire(value)), paths == (field,), inside))

    # -- ends --------------------------------------------------------------------------------------
    def complete(self, output: bytes, shown: bytes) -> None:
        """`shown` is what readers see of the output. Raises `LimitExceeded`."""
        if len(output) > self.definition.limits.value_bytes:
            raise too_large("output-size", "the run's output", output, self.definition.limits)
        if self.stored or not self.definition.state_fits:
            self.check_sizes(output)
        self.scope.spend(len(output))
        state = self.state
        state.output = msgspec.Raw(output)
        self._end("completed")
        self.emit(RunCompleted(msgspec.Raw(shown), state.ended_ms - state.started_ms))

    def fail(self, thread: RunThread, failure: FailureInfo, node: int) -> None:
        """The failure looks for a handler in the scopes around `node`, from the inside out. Raises `LimitExceeded`."""
        thread.wait = None
        failure = bounded(failure)
        spec = self.definition.spec
        family = failure.family or self.definition.families.get(failure.name, ())
        scope = spec.nodes[node].scope
        while scope is not None:
            for handler in spec.scopes[scope].handlers:
                self.scope.spend(OPERATION_WORK * len(handler.names) * (1 + len(family)))
                if catches_named(handler, failure, family):
                    if handler.bind is not None:
                        self.assign_quietly(handler.bind, failure)
                    self.emit(FailureCaught(node, failure))
                    thread.node = handler.node
                    return
            scope = spec.scopes[scope].parent
        self.fail_run(failure)

    def fail_run(self, failure: FailureInfo) -> None:
        if self.stored or not self.definition.state_fits:
            self.state.variables = fitting(self.state, self.definition.limits)
        self.state.failure = failure = bounded(failure)
        self._end("failed")
        self.emit(RunFailed(failure, self.state.ended_ms - self.state.started_ms))

    def cancel_run(self, reason: str) -> None:
        """Ends the run where it stands. No handler of the workflow is asked."""
        self.state.reason = reason
        self._end("cancelled")
        self.emit(RunCancelled(self.state.ended_ms - self.state.started_ms, reason))

    def _end(self, status: Any) -> None:
        """The one way to end: the threads go, and with them the timers that they wait for."""
        timers = [thread.wait.timer_id for thread in self.state.threads if thread.wait is not None]
        self.effects += [CancelTimer(timer_id) for timer_id in timers if timer_id]
        self.state.status = status
        self.state.ended_ms = self.state.time_ms
        self.state.threads = []


def wire(value: Any) -> bytes:
    """A value as readers of events see it: plain JSON, or the stored form where JSON has no word for its keys.

    What is masked is hidden; in a value that JSON cannot say, all of it is.
    """
    try:
        return encode_hidden(value)
    except TypeError:
        return encode_hidden(HIDDEN) if has_masked(value, parts_of_value) else encode_stored(value)
