"""How much a spec may hold: enough for what people write, and little enough to be compiled within a moment.

An owner compiles a spec when a run first needs it, and folds nothing meanwhile; whoever may register a workflow must
not be able to make that long. The names in the errors are those of docs/limits.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dressage.protocol.errors import BadSpec
from dressage.protocol.expressions import Bind, Call, Comprehension, Expr, Lambda, parts_of, targets_in
from dressage.protocol.spec import (
    LIMITS_MAX,
    AssignNode,
    BranchNode,
    ChildNode,
    ConditionNode,
    EventNode,
    GatherNode,
    Limits,
    Node,
    PublishNode,
    RaiseNode,
    ReturnNode,
    SleepNode,
    SleepUntilNode,
    TaskNode,
    TurnNode,
    UserTaskNode,
    WorkflowSpec,
)
from dressage.protocol.types import (
    DictOf,
    EnumType,
    LargeOf,
    ListOf,
    LiteralOf,
    MaskedOf,
    Named,
    RecordType,
    Scalar,
    SetOf,
    TupleOf,
    TypeDef,
    TypeRef,
    UnionOf,
)

SPEC_BYTES_MAX: Final = 900_000
"""Bytes of a spec with its source, in JSON. A version is one message, of at most 1 MiB by default."""

NODES_MAX: Final = 10_000
SCOPES_MAX: Final = 1_000
SCOPE_DEPTH_MAX: Final = 100
HANDLERS_MAX: Final = 100
"""Handlers of one scope, and names of one handler."""

TASKS_MAX: Final = 500
FAILURES_MAX: Final = 1_000
EVENTS_MAX: Final = 300
USER_TASKS_MAX: Final = 100
CHILDREN_MAX: Final = 100
"""Other workflows that one starts runs of."""

TYPES_MAX: Final = 300
FIELDS_MAX: Final = 255
"""Fields of a record, parameters of a task or of the workflow, and keywords of a call."""

FIELDS_TOTAL_MAX: Final = 3_000
MEMBERS_MAX: Final = 1_000
"""Members of an enum, and values of a Literal."""

OPTIONS_MAX: Final = 32
"""Options of a union."""

BRANCHES_MAX: Final = 255
"""Branches of one gather."""

VARIABLES_MAX: Final = 10_000
TYPE_DEPTH_MAX: Final = 32
EXPRESSION_PARTS_MAX: Final = 30_000
"""Parts of all expressions together."""

IDENTIFIER_CHARS_MAX: Final = 128
"""Characters of the name of a variable, parameter, field, type or enum member."""

CONDITION_CHARS_MAX: Final = 200
"""Characters of the text of a condition."""

LINE_MAX: Final = 10_000_000


def check_sizes(spec: WorkflowSpec) -> None:
    """Raises `BadSpec` for a spec that holds more than an engine compiles at a time."""
    _limit("nodes", len(spec.nodes), NODES_MAX)
    _limit("scopes", len(spec.scopes), SCOPES_MAX)
    _limit("tasks", len(spec.tasks), TASKS_MAX)
    _limit("failures", len(spec.failures), FAILURES_MAX)
    _limit("events", len(spec.events), EVENTS_MAX)
    _limit("user tasks", len(spec.user_tasks), USER_TASKS_MAX)
    _limit("children", len(spec.children), CHILDREN_MAX)
    _limit("types", len(spec.types), TYPES_MAX)
    _limit("variables", len(spec.variables), VARIABLES_MAX)
    _limit("parameters", len(spec.params), FIELDS_MAX)
    for scope in spec.scopes:
        _limit("handlers of a scope", len(scope.handlers), HANDLERS_MAX)
        for handler in scope.handlers:
            _limit("names of a handler", len(handler.names), HANDLERS_MAX)
    for node in spec.nodes:
        if isinstance(node, GatherNode):
            _limit("branches of a gather", len(node.branches), BRANCHES_MAX)
        if isinstance(node, ConditionNode):
            _limit("characters of a condition's text", len(node.text), CONDITION_CHARS_MAX)
    for task in spec.tasks:
        _limit(f"parameters of task {task.name[:63]!r}", len(task.params), FIELDS_MAX)
    for definition in spec.types:
        _check_type_definition(definition)
    for child in spec.children:
        _limit(f"parameters of workflow {child.workflow[:63]!r}", len(child.params), FIELDS_MAX)
    fields = sum(len(task.params) for task in spec.tasks) + sum(len(each.params) for each in spec.children)
    fields += sum(len(each.fields) for each in spec.types if isinstance(each, RecordType))
    _limit("fields and parameters together", fields, FIELDS_TOTAL_MAX)
    for ref in types_in(spec):
        _check_type(ref, TYPE_DEPTH_MAX)
    _check_expressions(spec)


def check_limits(limits: Limits | None) -> None:
    """Raises `BadSpec` for limits that no engine grants, or that no run could keep."""
    if limits is None:
        return
    for name in Limits.__struct_fields__:
        given, most = getattr(limits, name), getattr(LIMITS_MAX, name)
        if not 1 <= given <= most:
            raise BadSpec(f"limit {name} is {shown_figure(given)}: give 1 to {most}")


def check_identifier(name: str, what: str) -> None:
    """Raises `BadSpec` unless `name` is one that Python allows; a variable of the compiler's begins with `$`.

    A variable of a function that the workflow awaits has the function's name and a dot in front of its own.
    """
    plain = name[1:] if name.startswith("$") else name
    if len(name) > IDENTIFIER_CHARS_MAX:
        raise BadSpec(
            f"the name of {what} has {len(name)} characters: at most {IDENTIFIER_CHARS_MAX} are allowed "
            "(limit identifier)"
        )
    ours = name != plain and plain.isalnum() and plain.isascii()
    if not (ours or all(part.isidentifier() for part in plain.split("."))):
        raise BadSpec(f"{name!r} is no name for {what}: use letters, digits and `_`")


def types_in(spec: WorkflowSpec) -> Iterator[TypeRef]:
    """Every type that the spec declares somewhere, outermost ones only."""
    yield spec.output
    for field in spec.params:
        yield field.type
    for task in spec.tasks:
        yield task.output
        yield from (field.type for field in task.params)
    for event in spec.events:
        yield event.type
    for child in spec.children:
        yield child.output
        yield from (field.type for field in child.params)
    for definition in spec.types:
        if isinstance(definition, RecordType):
            yield from (field.type for field in definition.fields)
    yield from (variable.type for variable in spec.variables if variable.type is not None)


CHILD_ID = ""
"""The name of the expression that a child run's id comes of: no parameter has it."""


def expressions_of(node: Node) -> dict[str, Expr]:
    """The expressions of a node by the name of what they give, in the order of their evaluation."""
    match node:
        case TaskNode() | UserTaskNode():
            return node.args
        case ChildNode():
            return node.args if node.run_id is None else {CHILD_ID: node.run_id, **node.args}
        case AssignNode():
            return {"value": node.value}
        case BranchNode():
            return {"test": node.test}
        case SleepNode():
            return {"duration": node.duration}
        case PublishNode():
            return {"subject": node.subject, "data": node.data}
        case SleepUntilNode():
            return {"moment": node.moment}
        case ConditionNode():
            return _given({"timeout": node.timeout, "condition": node.condition})
        case EventNode():
            return _given({"key": node.key, "timeout": node.timeout})
        case RaiseNode():
            return _given({"message": node.message, "details": node.details, "group": node.group})
        case ReturnNode():
            return _given({"value": node.value})
        case TurnNode():
            return {}
        case GatherNode():
            if node.each is not None:
                return _given({"items": node.each.items, "limit": node.each.limit})
            places = list(enumerate(node.branches))
            if node.until == "interrupted":
                places = [places[-1], *places[:-1]]  # As it is written.
            return {
                branch_argument(place, name): expr
                for place, branch in places
                for name, expr in branch.args.items()
            }


def branch_argument(branch: int, name: str) -> str:
    """What an argument of a branch is called among the expressions of its gather."""
    return f"{branch}.{name}"


def _given(expressions: dict[str, Expr | None]) -> dict[str, Expr]:
    return {name: expr for name, expr in expressions.items() if expr is not None}


def _check_expressions(spec: WorkflowSpec) -> None:
    waiting = [expr for node in spec.nodes for expr in expressions_of(node).values()]
    parts = 0
    while waiting:
        expr = waiting.pop()
        own = _check_own_names(expr)
        parts += 1 + own
        waiting.extend(parts_of(expr))
        if parts > EXPRESSION_PARTS_MAX:
            raise BadSpec(
                f"the expressions have more than {EXPRESSION_PARTS_MAX} parts: compute some of it in tasks "
                "(limit spec-size)"
            )


def _check_own_names(expr: Expr) -> int:
    """Checks the names that an expression gives to variables, and counts those of its own."""
    match expr:
        case Bind(name):
            check_identifier(name, "a variable")
            return 0
        case Comprehension():
            targets = [each for clause in expr.clauses for each in targets_in(clause.target)]
            for each in targets:
                # One without a name is one of several, which the expression's compilation looks at.
                if each.name or not each.items:
                    check_identifier(each.name, "a variable of a comprehension")
            return len(targets)
        case Call():
            for name, value in expr.keywords.items():
                check_identifier(name, f"a parameter of {expr.function[:80]}()")
                if isinstance(value, Lambda):
                    check_identifier(value.param, "the parameter of a lambda")
            return len(expr.keywords)
        case _:
            return 0


def _check_type_definition(definition: TypeDef) -> None:
    if isinstance(definition, EnumType):
        _limit(f"members of enum {definition.name[:80]}", len(definition.members), MEMBERS_MAX)
        for member in definition.members:
            check_identifier(member.name, f"a member of enum {definition.name[:80]}")
    else:
        _limit(f"fields of record {definition.name[:80]}", len(definition.fields), FIELDS_MAX)
    _limit("characters of a type's name", len(definition.name), IDENTIFIER_CHARS_MAX)


def _check_type(ref: TypeRef, depth: int) -> None:
    if depth <= 0:
        raise BadSpec(
            f"a type nests too deep: at most {TYPE_DEPTH_MAX} levels are allowed (limit type-depth)"
        )
    match ref:
        case Scalar() | Named():
            return
        case ListOf(item) | SetOf(item) | MaskedOf(item) | LargeOf(item):
            _check_type(item, depth - 1)
        case DictOf(key, value):
            _check_type(key, depth - 1)
            _check_type(value, depth - 1)
        case TupleOf(items):
            _limit("places of a tuple's type", len(items), FIELDS_MAX)
            for item in items:
                _check_type(item, depth - 1)
        case UnionOf(options):
            _limit("options of a union", len(options), OPTIONS_MAX)
            for option in options:
                _check_type(option, depth - 1)
        case LiteralOf(values):
            _limit("values of a Literal", len(values), MEMBERS_MAX)


def _limit(what: str, count: int, most: int) -> None:
    if count > most:
        raise BadSpec(f"the spec has {count} {what}: at most {most} are allowed (limit spec-size)")


def shown_figure(value: int) -> str:
    """A number as an error may say it: one without end stays outside of the message."""
    return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
