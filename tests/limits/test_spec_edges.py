"""Each limit of a spec at its edge: exactly as much is taken, one more is refused by the name of the limit."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from tests.limits.trees import (  # pyright: ignore[reportMissingImports]
    INT,
    ONE,
    RETURN,
    Tree,
    assign,
    call,
    deep,
    fields,
    list_of,
    negated,
    nested_records,
    nested_scopes,
    records,
    spec,
    stored,
    task,
    wide,
)

from dressage.expressions import parse_expression
from dressage.expressions.limits import EXPRESSION_MAX_DEPTH
from dressage.orchestrator.api_messages import PutWorkflowRequest
from dressage.orchestrator.operations import read_request
from dressage.orchestrator.turn.definitions import load_definition
from dressage.protocol.errors import BadInput, BadSpec, DefinitionError
from dressage.protocol.nesting import SPEC_DEPTH_MAX
from dressage.protocol.permits import CONCURRENCY_MAX, PRIORITY_MAX, RATE_MAX, RATE_S_MAX, RATE_S_MIN
from dressage.protocol.spec import LIMITS_MAX, WorkflowSpec
from dressage.protocol.spec_check import (
    BACKOFF_FACTOR_MAX,
    BACKOFF_S_MAX,
    EXPIRES_S_MAX,
    NEVER_MAX,
    RETRIES_MAX,
    TASK_TIME_S_MAX,
    TASK_TIME_S_MIN,
)
from dressage.protocol.spec_reading import check_spec_size, read_spec
from dressage.protocol.spec_sizes import (
    BRANCHES_MAX,
    CHILDREN_MAX,
    CONDITION_CHARS_MAX,
    EVENTS_MAX,
    EXPRESSION_PARTS_MAX,
    FAILURES_MAX,
    FIELDS_MAX,
    FIELDS_TOTAL_MAX,
    HANDLERS_MAX,
    IDENTIFIER_CHARS_MAX,
    LINE_MAX,
    MEMBERS_MAX,
    NODES_MAX,
    OPTIONS_MAX,
    SCOPE_DEPTH_MAX,
    SCOPES_MAX,
    SPEC_BYTES_MAX,
    TASKS_MAX,
    TYPE_DEPTH_MAX,
    TYPES_MAX,
    USER_TASKS_MAX,
    VARIABLES_MAX,
)

SIZES: Final = "protocol.spec_sizes."
CHECKS: Final = "protocol.spec_check."


def edge(case: str, constant: str, limit: str, fits: Tree, beyond: Tree) -> Any:
    """A spec that has exactly as much as the constant allows, one with one more, and the name in the error."""
    return pytest.param(fits, beyond, limit, id=case, marks=pytest.mark.limit(constant))


def of_scope(handlers: int, names: int) -> Tree:
    return spec(scopes=[{"handlers": [{"names": ["f"] * names, "node": 0}] * handlers}])


def of_branches(count: int) -> Tree:
    return spec(nodes=[{"kind": "gather", "branches": [{"entry": 1}] * count, "next": 1}, RETURN])


def of_variables(count: int) -> Tree:
    return spec(variables=[{"name": f"v{number}"} for number in range(count)])


def of_failures(count: int) -> Tree:
    return spec(failures=[{"name": f"f{number}"} for number in range(count)])


def of_tasks(count: int) -> Tree:
    return spec(tasks=[task(name=f"t{number}") for number in range(count)])


def of_events(count: int, **more: Any) -> Tree:
    kind = {"kind": "scalar", "name": "any"}
    return spec(events=[{"name": f"e{number}", "type": kind, **more} for number in range(count)])


def of_user_tasks(count: int) -> Tree:
    form = {"kind": "record", "name": "F", "fields": []}
    return spec(types=[form], user_tasks=[{"name": f"u{number}", "form": "F"} for number in range(count)])


def of_children(count: int) -> Tree:
    kind = {"kind": "scalar", "name": "any"}
    return spec(
        children=[{"workflow": f"w{number}", "params": [], "output": kind} for number in range(count)]
    )


def of_members(count: int) -> Tree:
    members = [{"name": f"M{number}", "value": number} for number in range(count)]
    return spec(types=[{"kind": "enum", "name": "E", "members": members}])


def of_values(count: int) -> Tree:
    return spec(output={"kind": "literal", "values": list(range(count))})


def of_options(count: int) -> Tree:
    options = [{"kind": "literal", "values": [number]} for number in range(count)]
    return spec(output={"kind": "union", "options": options})


def of_condition(count: int) -> Tree:
    return spec(nodes=[{"kind": "condition", "condition": ONE, "next": 1, "text": "x" * count}, RETURN])


def of_places(count: int) -> Tree:
    return spec(output={"kind": "tuple", "items": [INT] * count})


def of_fields_together(count: int) -> Tree:
    """Half of them in records, the others as parameters of tasks."""
    each = 100
    half = count // 2 // each
    named = [task(name=f"t{number}", params=fields(each)) for number in range(half)]
    rest = count - each * half
    types = records(rest // each, each)
    types[0]["fields"] = fields(each + rest % each)
    return spec(tasks=named, types=types)


def of_parts(count: int) -> Tree:
    """In two expressions, so that it is their sum that counts."""
    return spec(nodes=[assign(wide(count // 2)), assign(wide(count - count // 2), 2), RETURN])


def of_depth(levels: int) -> Tree:
    return spec(nodes=[assign(deep(levels - 1, ONE, negated)), RETURN])


def of_type_depth(levels: int) -> Tree:
    return spec(output=deep(levels - 1, INT, list_of))


def of_backoff(**figures: float) -> Tree:
    return spec(retry={"backoff": figures})


NAMES: Final[dict[str, Any]] = {
    "a variable": lambda name: spec(variables=[{"name": name}]),
    "a parameter": lambda name: spec(params=[{"name": name, "type": INT}]),
    "a parameter of a task": lambda name: spec(tasks=[task(params=[{"name": name, "type": INT}])]),
    "a target": lambda name: spec(nodes=[assign(ONE, target=name), RETURN]),
    "a member": lambda name: spec(
        types=[{"kind": "enum", "name": "E", "members": [{"name": name, "value": 1}]}]
    ),
}

EDGES: Final = [
    edge(
        "nodes",
        SIZES + "NODES_MAX",
        "spec-size",
        spec(nodes=[RETURN] * NODES_MAX),
        spec(nodes=[RETURN] * (NODES_MAX + 1)),
    ),
    edge(
        "parts of expressions",
        SIZES + "EXPRESSION_PARTS_MAX",
        "spec-size",
        of_parts(EXPRESSION_PARTS_MAX),
        of_parts(EXPRESSION_PARTS_MAX + 1),
    ),
    edge(
        "variables",
        SIZES + "VARIABLES_MAX",
        "spec-size",
        of_variables(VARIABLES_MAX),
        of_variables(VARIABLES_MAX + 1),
    ),
    edge(
        "scopes",
        SIZES + "SCOPES_MAX",
        "spec-size",
        spec(scopes=[{"handlers": []}] * SCOPES_MAX),
        spec(scopes=[{"handlers": []}] * (SCOPES_MAX + 1)),
    ),
    edge(
        "nested scopes",
        SIZES + "SCOPE_DEPTH_MAX",
        "scope-depth",
        spec(scopes=nested_scopes(SCOPE_DEPTH_MAX)),
        spec(scopes=nested_scopes(SCOPE_DEPTH_MAX + 1)),
    ),
    edge(
        "handlers",
        SIZES + "HANDLERS_MAX",
        "spec-size",
        of_scope(HANDLERS_MAX, 1),
        of_scope(HANDLERS_MAX + 1, 1),
    ),
    edge(
        "names of a handler",
        SIZES + "HANDLERS_MAX",
        "spec-size",
        of_scope(HANDLERS_MAX, HANDLERS_MAX),
        of_scope(1, HANDLERS_MAX + 1),
    ),
    edge(
        "branches of a gather",
        SIZES + "BRANCHES_MAX",
        "spec-size",
        of_branches(BRANCHES_MAX),
        of_branches(BRANCHES_MAX + 1),
    ),
    edge(
        "children",
        SIZES + "CHILDREN_MAX",
        "spec-size",
        of_children(CHILDREN_MAX),
        of_children(CHILDREN_MAX + 1),
    ),
    edge(
        "user tasks",
        SIZES + "USER_TASKS_MAX",
        "spec-size",
        of_user_tasks(USER_TASKS_MAX),
        of_user_tasks(USER_TASKS_MAX + 1),
    ),
    edge("events", SIZES + "EVENTS_MAX", "spec-size", of_events(EVENTS_MAX), of_events(EVENTS_MAX + 1)),
    edge(
        "text of a condition",
        SIZES + "CONDITION_CHARS_MAX",
        "spec-size",
        of_condition(CONDITION_CHARS_MAX),
        of_condition(CONDITION_CHARS_MAX + 1),
    ),
    edge(
        "expiry of an event",
        CHECKS + "EXPIRES_S_MAX",
        "event-expiry",
        of_events(1, expires_s=EXPIRES_S_MAX),
        of_events(1, expires_s=EXPIRES_S_MAX + 1),
    ),
    edge("tasks", SIZES + "TASKS_MAX", "spec-size", of_tasks(TASKS_MAX), of_tasks(TASKS_MAX + 1)),
    edge(
        "failures",
        SIZES + "FAILURES_MAX",
        "spec-size",
        of_failures(FAILURES_MAX),
        of_failures(FAILURES_MAX + 1),
    ),
    edge(
        "types",
        SIZES + "TYPES_MAX",
        "spec-size",
        spec(types=records(TYPES_MAX, 1)),
        spec(types=records(TYPES_MAX + 1, 1)),
    ),
    edge(
        "fields of a record",
        SIZES + "FIELDS_MAX",
        "spec-size",
        spec(types=records(1, FIELDS_MAX)),
        spec(types=records(1, FIELDS_MAX + 1)),
    ),
    edge(
        "parameters of a workflow",
        SIZES + "FIELDS_MAX",
        "spec-size",
        spec(params=fields(FIELDS_MAX)),
        spec(params=fields(FIELDS_MAX + 1)),
    ),
    edge(
        "parameters of a task",
        SIZES + "FIELDS_MAX",
        "spec-size",
        spec(tasks=[task(params=fields(FIELDS_MAX))]),
        spec(tasks=[task(params=fields(FIELDS_MAX + 1))]),
    ),
    edge(
        "places of a tuple",
        SIZES + "FIELDS_MAX",
        "spec-size",
        of_places(FIELDS_MAX),
        of_places(FIELDS_MAX + 1),
    ),
    edge(
        "fields together",
        SIZES + "FIELDS_TOTAL_MAX",
        "spec-size",
        of_fields_together(FIELDS_TOTAL_MAX),
        of_fields_together(FIELDS_TOTAL_MAX + 1),
    ),
    edge("members", SIZES + "MEMBERS_MAX", "spec-size", of_members(MEMBERS_MAX), of_members(MEMBERS_MAX + 1)),
    edge("values", SIZES + "MEMBERS_MAX", "spec-size", of_values(MEMBERS_MAX), of_values(MEMBERS_MAX + 1)),
    edge("options", SIZES + "OPTIONS_MAX", "spec-size", of_options(OPTIONS_MAX), of_options(OPTIONS_MAX + 1)),
    edge(
        "a deep type",
        SIZES + "TYPE_DEPTH_MAX",
        "type-depth",
        of_type_depth(TYPE_DEPTH_MAX),
        of_type_depth(TYPE_DEPTH_MAX + 1),
    ),
    edge(
        "deep records",
        SIZES + "TYPE_DEPTH_MAX",
        "type-depth",
        spec(types=nested_records(TYPE_DEPTH_MAX)),
        spec(types=nested_records(TYPE_DEPTH_MAX + 1)),
    ),
    edge(
        "a deep expression",
        "expressions.limits.EXPRESSION_MAX_DEPTH",
        "expression-depth",
        of_depth(EXPRESSION_MAX_DEPTH),
        of_depth(EXPRESSION_MAX_DEPTH + 1),
    ),
    *(
        edge(
            f"the name of {what}",
            SIZES + "IDENTIFIER_CHARS_MAX",
            "identifier",
            make("a" * IDENTIFIER_CHARS_MAX),
            make("a" * (IDENTIFIER_CHARS_MAX + 1)),
        )
        for what, make in NAMES.items()
    ),
    edge(
        "the line of a node",
        SIZES + "LINE_MAX",
        "line-number",
        spec(nodes=[{"kind": "return", "line": LINE_MAX}]),
        spec(nodes=[{"kind": "return", "line": LINE_MAX + 1}]),
    ),
    edge(
        "the first line",
        SIZES + "LINE_MAX",
        "line-number",
        spec(first_line=LINE_MAX),
        spec(first_line=LINE_MAX + 1),
    ),
    edge(
        "retries of a workflow",
        CHECKS + "RETRIES_MAX",
        "retries",
        spec(retry={"retries": RETRIES_MAX}),
        spec(retry={"retries": RETRIES_MAX + 1}),
    ),
    edge(
        "retries of a task",
        CHECKS + "RETRIES_MAX",
        "retries",
        spec(tasks=[task(retry={"retries": RETRIES_MAX})]),
        spec(tasks=[task(retry={"retries": RETRIES_MAX + 1})]),
    ),
    edge(
        "retries of a call",
        CHECKS + "RETRIES_MAX",
        "retries",
        spec(nodes=[call(retry={"retries": RETRIES_MAX}), RETURN], tasks=[task()]),
        spec(nodes=[call(retry={"retries": RETRIES_MAX + 1}), RETURN], tasks=[task()]),
    ),
    edge(
        "errors that are not retried",
        CHECKS + "NEVER_MAX",
        "retries",
        spec(retry={"never": [f"E{n}" for n in range(NEVER_MAX)]}),
        spec(retry={"never": [f"E{n}" for n in range(NEVER_MAX + 1)]}),
    ),
    edge(
        "the longest time of a task",
        CHECKS + "TASK_TIME_S_MAX",
        "task-time",
        spec(tasks=[task(times={"call_s": TASK_TIME_S_MAX})]),
        spec(tasks=[task(times={"call_s": TASK_TIME_S_MAX + 1})]),
    ),
    edge(
        "the shortest time of a call",
        CHECKS + "TASK_TIME_S_MIN",
        "task-time",
        spec(nodes=[call(times={"start_s": TASK_TIME_S_MIN}), RETURN], tasks=[task()]),
        spec(nodes=[call(times={"start_s": TASK_TIME_S_MIN - 0.0001}), RETURN], tasks=[task()]),
    ),
    edge(
        "attempts at a time",
        "protocol.permits.CONCURRENCY_MAX",
        "task-limit",
        spec(tasks=[task(limit={"concurrency": CONCURRENCY_MAX})]),
        spec(tasks=[task(limit={"concurrency": CONCURRENCY_MAX + 1})]),
    ),
    edge(
        "attempts in a time",
        "protocol.permits.RATE_MAX",
        "task-limit",
        spec(tasks=[task(limit={"rate": RATE_MAX})]),
        spec(tasks=[task(limit={"rate": RATE_MAX + 1})]),
    ),
    edge(
        "the shortest time of a rate",
        "protocol.permits.RATE_S_MIN",
        "task-limit",
        spec(tasks=[task(limit={"rate": 1, "per_s": RATE_S_MIN})]),
        spec(tasks=[task(limit={"rate": 1, "per_s": RATE_S_MIN - 0.0001})]),
    ),
    edge(
        "the longest time of a rate",
        "protocol.permits.RATE_S_MAX",
        "task-limit",
        spec(tasks=[task(limit={"rate": 1, "per_s": RATE_S_MAX})]),
        spec(tasks=[task(limit={"rate": 1, "per_s": RATE_S_MAX + 1})]),
    ),
    edge(
        "the highest priority of a task",
        "protocol.permits.PRIORITY_MAX",
        "task-limit",
        spec(tasks=[task(limit={"rate": 1}, priority=PRIORITY_MAX)]),
        spec(tasks=[task(limit={"rate": 1}, priority=PRIORITY_MAX + 1)]),
    ),
    edge(
        "the lowest priority of a task",
        "protocol.permits.PRIORITY_MAX",
        "task-limit",
        spec(tasks=[task(limit={"rate": 1}, priority=-PRIORITY_MAX)]),
        spec(tasks=[task(limit={"rate": 1}, priority=-PRIORITY_MAX - 1)]),
    ),
    edge(
        "the base of a backoff",
        CHECKS + "BACKOFF_S_MAX",
        "backoff",
        of_backoff(base_s=BACKOFF_S_MAX),
        of_backoff(base_s=BACKOFF_S_MAX + 1),
    ),
    edge(
        "the limit of a backoff",
        CHECKS + "BACKOFF_S_MAX",
        "backoff",
        of_backoff(limit_s=BACKOFF_S_MAX),
        of_backoff(limit_s=BACKOFF_S_MAX + 1),
    ),
    edge(
        "the factor of a backoff",
        CHECKS + "BACKOFF_FACTOR_MAX",
        "backoff",
        of_backoff(factor=BACKOFF_FACTOR_MAX),
        of_backoff(factor=BACKOFF_FACTOR_MAX + 1),
    ),
]


@pytest.mark.parametrize(("fits", "beyond", "limit"), EDGES)
def test_a_spec_at_its_limit_is_taken_and_beyond_it_refused_by_name(
    fits: Tree, beyond: Tree, limit: str
) -> None:
    assert load_definition("w", 1, stored(msgspec.json.encode(fits))).spec.name == "w"
    with pytest.raises(BadSpec, match=rf"\(limit {limit}\)$"):
        load_definition("w", 1, stored(msgspec.json.encode(beyond)))


def test_the_largest_limits_of_a_run_are_taken() -> None:
    text = msgspec.json.encode(spec(limits=msgspec.to_builtins(LIMITS_MAX)))
    assert load_definition("w", 1, stored(text)).spec.limits == LIMITS_MAX


@pytest.mark.limit("protocol.spec_sizes.SPEC_BYTES_MAX")
def test_a_spec_of_exactly_the_size_is_taken() -> None:
    room = SPEC_BYTES_MAX - len(read_spec(msgspec.json.encode(spec(description="x"))).encode()) + 1
    fits = msgspec.convert(spec(description="x" * room), WorkflowSpec)
    assert len(fits.encode()) == SPEC_BYTES_MAX
    check_spec_size(fits)
    assert read_spec(fits.encode()) == fits
    larger = msgspec.structs.replace(fits, description=fits.description + "x")
    with pytest.raises(BadSpec, match="limit spec-size"):
        check_spec_size(larger)
    with pytest.raises(BadSpec, match="limit spec-size"):
        read_spec(larger.encode())


def nesting(levels: int) -> bytes:
    """A spec in JSON of so many levels, the object around it included. What nests is no description, of course."""
    return msgspec.json.encode(spec(description="x")).replace(
        b'"x"', b"[" * (levels - 1) + b"]" * (levels - 1)
    )


@pytest.mark.limit("protocol.nesting.SPEC_DEPTH_MAX")
def test_json_nests_up_to_the_limit() -> None:
    with pytest.raises(BadSpec, match="does not decode"):
        read_spec(nesting(SPEC_DEPTH_MAX))
    with pytest.raises(BadSpec, match=rf"deeper than {SPEC_DEPTH_MAX} levels.*\(limit spec-size\)$"):
        read_spec(nesting(SPEC_DEPTH_MAX + 1))
    request = b'{"spec":%b}'
    read_request("put-workflow", PutWorkflowRequest, request % nesting(SPEC_DEPTH_MAX - 1))
    with pytest.raises(BadInput, match=r"\(limit spec-size\)$") as refused:
        read_request("put-workflow", PutWorkflowRequest, request % nesting(SPEC_DEPTH_MAX))
    assert refused.value.code == "SPEC_INVALID"


@pytest.mark.limit("expressions.limits.EXPRESSION_MAX_DEPTH")
def test_an_authors_expression_nests_up_to_the_limit() -> None:
    parse_expression("-" * (EXPRESSION_MAX_DEPTH - 1) + "a", ["a"])
    with pytest.raises(DefinitionError, match=r"deeper than 100 levels \(limit expression-depth\)"):
        parse_expression("-" * EXPRESSION_MAX_DEPTH + "a", ["a"])
