"""A registered workflow made ready to be folded: expressions compiled, types looked up, once per version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from dressage.expressions.codecs import Codec
from dressage.expressions.compilation import Evaluate
from dressage.expressions.evaluate import compile_for_frames
from dressage.expressions.masked import encode_hidden
from dressage.expressions.searching import searchable_paths
from dressage.expressions.types import ParamsCodec, TypeTable
from dressage.orchestrator.fold.limits import STATE_BYTES_MAX
from dressage.protocol.commands import PROGRESS_BYTES_MAX
from dressage.protocol.errors import BadSpec, BadValue
from dressage.protocol.expressions import Expr, variables_in
from dressage.protocol.names import build_queue
from dressage.protocol.positions import Positions
from dressage.protocol.spec import (
    CANCELLED_ERROR,
    ChildNode,
    ConditionNode,
    EventNode,
    GatherNode,
    Limits,
    Node,
    RegisteredEvent,
    RegisteredWorkflow,
    SleepUntilNode,
    TaskDef,
    TaskNode,
    UserTaskNode,
    WorkflowSpec,
)
from dressage.protocol.spec_check import check_spec
from dressage.protocol.spec_sizes import FIELDS_MAX, expressions_of
from dressage.protocol.types import Named, RecordType, TypeRef

STEP_WORK = 200
"""Units of work of passing one node with small expressions."""


STEPS_UNSEEN = 32
"""So many steps are passed before the limits are looked at again, where none is near."""

EVENTS_UNSEEN = STEPS_UNSEEN * (FIELDS_MAX + 2)
"""So many output events they may make: setting a view makes one for each of its fields."""


@dataclass(slots=True, frozen=True)
class ReadyNode:
    """A node with its expressions compiled, by the name of the field they stand in.

    `work` is what passing it costs beyond `STEP_WORK`.
    """

    node: Node
    expressions: Mapping[str, Evaluate]
    work: int


class Definition:
    """An immutable version of a workflow. Raises `BadSpec` for a spec that contradicts itself."""

    def __init__(self, registered: RegisteredWorkflow) -> None:
        spec = registered.spec
        check_spec(spec)
        self.spec = spec
        self.version = registered.version
        self.types = TypeTable(spec.types, {each.name: each.record for each in spec.failures if each.record})
        self.params = ParamsCodec(spec.params, self.types)
        self.output = self.types.codec(spec.output)
        self.tasks = {task.name: task for task in spec.tasks}
        self.families = {failure.name: failure.family for failure in spec.failures}
        self.events = {event.name: self.types.codec(event.type) for event in spec.events}
        self.expiries = {
            event.name: int(event.expires_s * 1000) for event in spec.events if event.expires_s is not None
        }
        """How many milliseconds an unclaimed event is kept, by its name."""

        self.task_params = {task.name: ParamsCodec(task.params, self.types) for task in spec.tasks}
        self.task_outputs = {task.name: self.types.codec(task.output) for task in spec.tasks}
        self.queues = {task.name: build_queue(task.queue, registered.build) for task in spec.tasks}
        """Where attempts go, by the task's name."""

        self.limited = any(task.limit is not None for task in spec.tasks)
        """Whether a task of it has a limit."""

        self.registered_at = registered.registered_at
        self.user_tasks = {each.name: Form(each.form, self.types) for each in spec.user_tasks}
        self.child_params = {child.workflow: ParamsCodec(child.params, self.types) for child in spec.children}
        self.child_outputs = {child.workflow: self.types.codec(child.output) for child in spec.children}
        self.children = registered.children
        """The versions of the workflows that it starts runs of."""

        self.views = {variable.name for variable in spec.variables if variable.view}
        self.temporaries = {variable.name for variable in spec.variables if variable.temporary}
        self.searchable = _searchable(spec, self.types)
        """The paths of the run's view that can be searched for, by the field that they begin with."""
        self.tidies = bool(spec.children) or any(
            CANCELLED_ERROR in handler.names for scope in spec.scopes for handler in scope.handlers
        )
        """Whether anything in it takes `CancelledError`: a `finally`, a saga, or perhaps a child run."""

        self.declared = {
            each.name: self.types.codec(each.type) for each in spec.variables if each.declared and each.type
        }
        self.limits = spec.limits or Limits()
        keeps = any(isinstance(node, ChildNode) and node.close != "abandon" for node in spec.nodes)
        self.state_fits = (
            not (spec.events or spec.user_tasks or keeps) and _largest_state(self.limits) <= STATE_BYTES_MAX
        )
        """Whether the limits of its parts already keep the state of a run with one thread within its own."""
        self.events_near = (
            self.limits.history_events - EVENTS_UNSEEN
            if self.limits.steps_per_command >= STEPS_UNSEEN
            else -1
        )
        """With fewer output events a run's limits are far enough to pass `STEPS_UNSEEN` steps."""
        self.nodes = [self._ready(node) for node in spec.nodes]
        self.branch_variables = {
            (number, place): frozenset(branch.variables)
            for number, node in enumerate(spec.nodes)
            if isinstance(node, GatherNode)
            for place, branch in enumerate(node.branches)
        }
        """Which variables are a branch's own, by the node of its gather and its place there. Those that there are for
        the items of a list have what the first one has."""

        self.interruptible = any(
            isinstance(node, GatherNode) and node.until == "interrupted" for node in spec.nodes
        )
        """Whether anything in a run of it may be interrupted."""

        self.watched = {
            number: frozenset(variables_in(expr))
            for number, node in enumerate(spec.nodes)
            if (expr := _watched(node)) is not None
        }
        """The variables that are read by what a thread looks at while it waits, by the node."""

        self.watched_variables = frozenset[str]().union(*self.watched.values())

    @cached_property
    def positions(self) -> Positions:
        """Where its runs can stand; only migrations ask."""
        return Positions(self.spec)

    def _ready(self, node: Node) -> ReadyNode:
        compiled = {name: compile_for_frames(expr, self.types) for name, expr in expressions_of(node).items()}
        work = sum(work for _, work in compiled.values())
        expressions = {name: evaluate for name, (evaluate, _) in compiled.items()}
        return ReadyNode(node, expressions, max(0, work - STEP_WORK))

    @cached_property
    def variable_types(self) -> Mapping[str, TypeRef | None]:
        """Of the variables that the author knows, those of branches among them; None where it was not derived."""
        declared: dict[str, TypeRef | None] = {
            each.name: each.type for each in self.spec.variables if not each.temporary
        }
        return declared | {field.name: field.type for field in self.spec.params}

    def reader(self, declared: TypeRef | None) -> Codec | None:
        """None where the type is not known, or is one that was derived, and that no JSON tells from others."""
        if declared is None:
            return None
        try:
            return self.types.codec(declared)
        except BadSpec:
            return None

    def read(self, declared: TypeRef | None, data: bytes) -> Any:
        """A value of this type, or any JSON where that is not known. Raises `BadValue`."""
        codec = self.reader(declared)
        if codec is not None:
            return codec.decode(data)
        try:
            return msgspec.json.decode(data)
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise BadValue(f"this is no JSON: {error}") from error

    def comes_to(self, node: Node) -> TypeRef | None:
        """The type of what comes to who waits at a node; None where that has none of its own."""
        match node:
            case TaskNode():
                return self.task_outputs[node.task].type
            case EventNode():
                return self.events[node.event].type
            case UserTaskNode():
                return Named(self.user_tasks[node.user_task].record)
            case ChildNode(detached=False):
                return self.child_outputs[node.workflow].type
            case _:
                return None

    def task(self, name: str) -> TaskDef:
        return self.tasks[name]


class Form:
    """What people fill in."""

    def __init__(self, record: str, types: TypeTable) -> None:
        self.record = record
        self._codec = types.codec(Named(record))
        definition = types.definitions[record]
        assert isinstance(definition, RecordType)
        self._fields = {each.name: types.codec(each.type) for each in definition.fields}
        self._masked = [name for name, codec in self._fields.items() if codec.mask]
        self._kind = types.python_type(Named(record))

    @cached_property
    def schema(self) -> dict[str, Any]:
        """Its JSON Schema, for who draws it. What is masked is written, and never read."""
        made = msgspec.json.schema(self._kind)
        record = made["$defs"][made["$ref"].rpartition("/")[2]] if "$ref" in made else made
        for name in self._masked:
            record["properties"][name] = {**record["properties"][name], "writeOnly": True}
        return made

    def read(self, data: bytes) -> tuple[Any, bytes]:
        """The whole of it, and as readers see it. Raises `BadValue`, also for fields that it does not have."""
        self._given(data)
        value = self._codec.decode(data)
        return value, _shown(self._codec, value)

    def read_some(self, data: bytes) -> bytes:
        """Some of the fields, as readers see them. Raises `BadValue`."""
        shown: dict[str, msgspec.Raw] = {}
        for name, raw in self._given(data).items():
            try:
                shown[name] = msgspec.Raw(_shown(self._fields[name], self._fields[name].decode(raw)))
            except BadValue as error:
                raise BadValue(f"{name}: {error.message}") from error
        return msgspec.json.encode(shown)

    def readable(self, data: bytes) -> bytes:
        """The same without the masked ones: who draws the form again would give what hides them for their values."""
        shown = _some.decode(self.read_some(data))
        return msgspec.json.encode({name: raw for name, raw in shown.items() if name not in self._masked})

    def with_masked(self, data: bytes, before: bytes) -> bytes:
        """What is given, with the masked fields of before that are not. Raises `BadValue`."""
        given, kept = self._given(data), _some.decode(before)
        kept = {name: kept[name] for name in self._masked if name in kept and name not in given}
        return msgspec.json.encode({**given, **kept})

    def _given(self, data: bytes) -> dict[str, msgspec.Raw]:
        try:
            given = _some.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadValue(f"what is filled in is a JSON object: {error}") from error
        for name in given:
            if name not in self._fields:
                raise BadValue(f"there is no field {name[:80]!r}: there are {', '.join(self._fields)}")
        return given


def _shown(codec: Codec, value: Any) -> bytes:
    """As everybody can read it: a number that only Decimal knows is written as one."""
    return encode_hidden(codec.mask(value) if codec.mask else value)


_some = msgspec.json.Decoder(dict[str, msgspec.Raw])


class EventDefinition:
    """An immutable version of an external event. Raises `BadSpec` for one that contradicts itself."""

    def __init__(self, registered: RegisteredEvent) -> None:
        event = registered.event
        self.name = event.name
        self.version = registered.version
        self.codec = TypeTable(registered.types, {}).codec(event.type)
        self.keep_ms = None if event.expires_s is None else int(event.expires_s * 1000)
        """How many milliseconds an unclaimed one is kept; None for ever."""

        self.lasting = event.lasting


def _watched(node: Node) -> Expr | None:
    """What a thread that waits at this node looks at again when variables have changed."""
    match node:
        case ConditionNode():
            return node.condition
        case SleepUntilNode(watched=True):
            return node.moment
        case _:
            return None


def _largest_state(limits: Limits) -> int:
    """Of a run with one thread: input and variables, and arguments, with what a task tells of itself, or an output."""
    return 2 * limits.value_bytes + limits.variables_bytes + PROGRESS_BYTES_MAX


def _searchable(spec: WorkflowSpec, types: TypeTable) -> dict[str, tuple[str, ...]]:
    """What of the run's view can be searched for. Raises `BadSpec`."""
    found: dict[str, tuple[str, ...]] = {}
    for variable in spec.variables:
        if variable.view and isinstance(variable.type, Named):
            found |= searchable_paths(types.definitions, variable.type.name)
    return found
