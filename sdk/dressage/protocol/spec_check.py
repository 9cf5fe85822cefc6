"""Whether a spec makes sense in itself, before anything is compiled from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from dressage.protocol.errors import BadSpec
from dressage.protocol.expressions import Bind, Expr, expressions_in
from dressage.protocol.names import check_name
from dressage.protocol.permits import CONCURRENCY_MAX, PRIORITY_MAX, RATE_MAX, RATE_S_MAX, RATE_S_MIN
from dressage.protocol.spec import (
    USER_TASK_ARGS,
    AssignNode,
    Branch,
    BranchNode,
    ChildDef,
    ChildNode,
    ConditionNode,
    Each,
    EventNode,
    GatherNode,
    Node,
    PublishNode,
    RaiseNode,
    RetryOptions,
    ReturnNode,
    SleepNode,
    SleepUntilNode,
    TaskDef,
    TaskNode,
    TaskTimes,
    TurnNode,
    UserTaskNode,
    WorkflowSpec,
)
from dressage.protocol.spec_sizes import (
    LINE_MAX,
    SCOPE_DEPTH_MAX,
    check_identifier,
    check_limits,
    check_sizes,
    shown_figure,
)
from dressage.protocol.types import Named, RecordType

RETRIES_MAX: Final = 10_000
NEVER_MAX: Final = 32
BACKOFF_S_MAX: Final = 366 * 86_400.0
EXPIRES_S_MAX: Final = 100 * 365 * 86_400
BACKOFF_FACTOR_MAX: Final = 1_000.0
TASK_TIME_S_MIN: Final = 0.001
TASK_TIME_S_MAX: Final = 10 * 366 * 86_400

_ERROR_CLASS: Final = re.compile(r"[A-Z][A-Za-z]{0,62}")
"""How a handler names technical errors: by Python's class. No business failure has a capital letter."""


def check_spec(spec: WorkflowSpec) -> None:
    """Raises `BadSpec` or `BadName` for a spec that contradicts itself, or holds more than an engine takes.

    No compiler of ours writes one, but a spec may come from elsewhere.
    """
    check_sizes(spec)
    check_limits(spec.limits)
    _check_names(spec)
    nodes, scopes = len(spec.nodes), len(spec.scopes)
    tasks = {task.name: _Callee(task) for task in spec.tasks}
    children = {child.workflow: _Callee(child) for child in spec.children}
    events = {event.name for event in spec.events}
    user_tasks = {each.name for each in spec.user_tasks}
    for number, node in enumerate(spec.nodes):
        for target in _targets(node):
            if not 0 <= target < nodes:
                raise BadSpec(
                    f"node {number} leads to node {target}, but the spec has nodes 0 to {nodes - 1}"
                )
        if node.scope is not None and not 0 <= node.scope < scopes:
            raise BadSpec(f"node {number} names scope {node.scope}, but the spec has {scopes} scopes")
        _check_node(number, node)
        if isinstance(node, TaskNode):
            _check_call(number, f"task {node.task!r}", node.args, tasks.get(node.task))
            _check_retry(f"node {number}", node.retry)
            _check_times(f"node {number}", node.times)
            if not (node.key is node.priority is None or tasks[node.task].limited):
                raise BadSpec(f"node {number} has a key or a priority, and task {node.task!r} no limit")
        if isinstance(node, ChildNode):
            _check_call(number, f"workflow {node.workflow!r}", node.args, children.get(node.workflow))
            if node.close != "abandon" and not node.detached:
                raise BadSpec(
                    f"node {number} waits for its child run, which is cancelled with it: close says nothing"
                )
        if isinstance(node, EventNode) and node.event not in events:
            raise BadSpec(f"node {number} waits for event {node.event!r}, which the spec does not define")
        if isinstance(node, UserTaskNode):
            _check_user_task(number, node, user_tasks)
    if not 0 <= spec.entry < nodes:
        raise BadSpec(f"entry is node {spec.entry}, but the spec has {nodes} nodes")
    _check_scopes(spec)
    _check_views(spec)
    _check_failures(spec)


def _check_scopes(spec: WorkflowSpec) -> None:
    depths: list[int] = []
    for number, scope in enumerate(spec.scopes):
        if scope.parent is not None and not 0 <= scope.parent < number:
            raise BadSpec(f"scope {number} has parent {scope.parent}: a parent comes before its children")
        depths.append(1 if scope.parent is None else depths[scope.parent] + 1)
        if depths[number] > SCOPE_DEPTH_MAX:
            raise BadSpec(
                f"scopes nest too deep: at most {SCOPE_DEPTH_MAX} levels are allowed (limit scope-depth)"
            )
        for handler in scope.handlers:
            if not 0 <= handler.node < len(spec.nodes):
                raise BadSpec(
                    f"a handler of scope {number} leads to node {handler.node}, which does not exist"
                )
            for name in handler.names:
                if not _ERROR_CLASS.fullmatch(name):
                    check_name(name, f"failure of a handler of scope {number}:")
            if handler.bind is not None:
                check_identifier(handler.bind, "a variable")


def _check_views(spec: WorkflowSpec) -> None:
    """The view is a record: what changes in it is told field by field."""
    records = _records(spec)
    for variable in spec.variables:
        if variable.view and not (isinstance(variable.type, Named) and variable.type.name in records):
            raise BadSpec(f"variable {variable.name!r} is a view, so its type must be a record of this spec")


def _records(spec: WorkflowSpec) -> set[str]:
    return {each.name for each in spec.types if isinstance(each, RecordType) and each.form == "object"}


def _forms(spec: WorkflowSpec) -> set[str]:
    return {each.name for each in spec.types if isinstance(each, RecordType) and each.form != "tuple"}


def _check_failures(spec: WorkflowSpec) -> None:
    """What a failure tells is a record, given wherever it is raised."""
    records, told = _records(spec), {each.name: each.record for each in spec.failures}
    for name, record in told.items():
        if record is not None and record not in records:
            raise BadSpec(f"failure {name!r} has the record {record!r}, which the spec does not define")
    for number, node in enumerate(spec.nodes):
        if isinstance(node, RaiseNode) and node.details is None and told.get(node.failure or ""):
            raise BadSpec(f"node {number} raises failure {node.failure!r} without its fields")


def _check_node(number: int, node: Node) -> None:
    if not 0 <= node.line <= LINE_MAX:
        raise BadSpec(
            f"node {number} stands in line {shown_figure(node.line)}, which no file has: give 0 to {LINE_MAX} "
            "(limit line-number)"
        )
    match node:
        case TaskNode() | AssignNode() | EventNode() | ChildNode() | UserTaskNode():
            if node.target is not None:
                check_identifier(node.target, f"the variable of node {number}")
        case RaiseNode():
            if node.failure is not None:
                check_name(node.failure, f"failure of node {number}:")
            if node.reraise is not None:
                check_identifier(node.reraise, f"the variable of node {number}")
        case GatherNode():
            if node.target is not None:
                check_identifier(node.target, f"the variable of node {number}")
            if node.until != "all" and not node.branches:
                raise BadSpec(f"node {number} is a race without branches: nobody would ever win it")
            if node.until == "interrupted" and node.each is not None:
                raise BadSpec(f"node {number} is interrupted: its branches are known one by one")
            for branch in node.branches:
                _check_branch(number, branch)
            if node.each is not None:
                _check_each(number, node, node.each)
        case SleepUntilNode() if node.watched:
            _check_watched(number, node.moment)
        case ConditionNode():
            _check_watched(number, node.condition)
        case BranchNode() | SleepNode() | PublishNode() | SleepUntilNode() | TurnNode() | ReturnNode():
            pass


def _check_watched(number: int, expr: Expr) -> None:
    """What is looked at again and again, nobody knows how often, changes nothing."""
    if any(isinstance(each, Bind) for each in expressions_in(expr)):
        raise BadSpec(f"node {number} waits for what it sets itself: nothing is set where a run looks again")


def _check_branch(number: int, branch: Branch) -> None:
    for name in branch.variables:
        check_identifier(name, f"a variable of a branch of node {number}")
    _refuse_twice(f"variable of a branch of node {number}", branch.variables)
    for name in branch.args:
        if name not in branch.variables:
            raise BadSpec(f"argument {name!r} of a branch of node {number} is none of its variables")


def _check_each(number: int, node: GatherNode, each: Each) -> None:
    if len(node.branches) != 1 or node.branches[0].args:
        raise BadSpec(
            f"node {number} has branches for the items of a list: it has one branch, without arguments"
        )
    _refuse_twice(f"variable of the items of node {number}", each.names)
    for name in each.names:
        if name not in node.branches[0].variables:
            raise BadSpec(
                f"{name!r}, which the items of node {number} give, is none of its branch's variables"
            )


def _targets(node: Node) -> tuple[int, ...]:
    match node:
        case (
            TaskNode()
            | AssignNode()
            | SleepNode()
            | PublishNode()
            | SleepUntilNode()
            | ConditionNode()
            | EventNode()
            | ChildNode()
            | UserTaskNode()
            | TurnNode()
        ):
            return (node.next,)
        case BranchNode():
            return (node.then, node.otherwise)
        case GatherNode():
            return (*(branch.entry for branch in node.branches), node.next)
        case RaiseNode() | ReturnNode():
            return ()


class _Callee:
    """What a call has to give."""

    def __init__(self, called: TaskDef | ChildDef) -> None:
        self.params = frozenset(param.name for param in called.params)
        self.required = tuple(param.name for param in called.params if param.required)
        self.limited = isinstance(called, TaskDef) and called.limit is not None


def _check_call(number: int, what: str, args: Mapping[str, Expr], callee: _Callee | None) -> None:
    if callee is None:
        raise BadSpec(f"node {number} calls {what}, which the spec does not define")
    for name in args:
        if name not in callee.params:
            raise BadSpec(f"node {number} gives {what} an argument {name!r}, which it does not have")
    for name in callee.required:
        if name not in args:
            raise BadSpec(f"node {number} calls {what} without its argument {name!r}")


def _check_user_task(number: int, node: UserTaskNode, known: set[str]) -> None:
    if node.user_task not in known:
        raise BadSpec(
            f"node {number} gives user task {node.user_task!r} to somebody, which the spec does not define"
        )
    for name in node.args:
        if name not in USER_TASK_ARGS:
            raise BadSpec(
                f"node {number} gives user task {node.user_task!r} an argument {name!r}, which none has"
            )


def _check_retry(where: str, options: RetryOptions | None) -> None:
    if options is None:
        return
    if options.retries is not None and not 0 <= options.retries <= RETRIES_MAX:
        raise BadSpec(
            f"{where}: retries is {shown_figure(options.retries)}: give 0 to {RETRIES_MAX} (limit retries)"
        )
    if len(options.never or ()) > NEVER_MAX:
        raise BadSpec(
            f"{where}: {len(options.never or ())} classes of errors are not retried: name at most {NEVER_MAX}, or what "
            "they derive from (limit retries)"
        )
    for name in options.never or ():
        check_identifier(name, f"{where}: a class of errors that are not retried")
    backoff = options.backoff
    if backoff is None:
        return
    for name, value, low, high in (
        ("base_s", backoff.base_s, 0.0, BACKOFF_S_MAX),
        ("factor", backoff.factor, 1.0, BACKOFF_FACTOR_MAX),
        ("limit_s", backoff.limit_s, 0.0, BACKOFF_S_MAX),
        ("jitter", backoff.jitter, 0.0, 1.0),
    ):
        if not low <= value <= high:
            raise BadSpec(
                f"{where}: {name} of its backoff is {value}: give {low:.0f} to {high:.0f} (limit backoff)"
            )


def _check_times(where: str, times: TaskTimes | None) -> None:
    for name in TaskTimes.__struct_fields__:
        seconds = None if times is None else getattr(times, name)
        if seconds is not None and not TASK_TIME_S_MIN <= seconds <= TASK_TIME_S_MAX:
            raise BadSpec(
                f"{where}: {name} of its times is {seconds:g}: give {TASK_TIME_S_MIN:g} to {TASK_TIME_S_MAX} "
                "(limit task-time)"
            )


def _check_limit(task: TaskDef) -> None:
    """Raises `BadSpec` for figures that no limiter keeps."""
    limit = task.limit
    if limit is None:
        if task.priority:
            raise BadSpec(f"task {task.name!r} has a priority, and no limit")
        return
    if limit.concurrency is None and limit.rate is None:
        raise BadSpec(f"task {task.name!r} has a limit of nothing: give concurrency, rate, or both")
    for name, figure, low, high in (
        ("concurrency", limit.concurrency, 1, CONCURRENCY_MAX),
        ("rate", limit.rate, 1, RATE_MAX),
        ("per_s", limit.per_s, RATE_S_MIN, RATE_S_MAX),
        ("priority", task.priority, -PRIORITY_MAX, PRIORITY_MAX),
    ):
        if figure is not None and not low <= figure <= high:
            raise BadSpec(
                f"task {task.name!r}: {name} of its limit is {_shown(figure)}: give {low:g} to {high} "
                "(limit task-limit)"
            )


def _shown(figure: float) -> str:
    return shown_figure(figure) if isinstance(figure, int) else f"{figure:g}"


def _check_names(spec: WorkflowSpec) -> None:
    check_name(spec.name, "workflow")
    for task in spec.tasks:
        check_name(task.name, "task")
        check_name(task.queue, f"queue of task {task.name}:")
        _check_retry(f"task {task.name!r}", task.retry)
        _check_times(f"task {task.name!r}", task.times)
        _check_limit(task)
        for param in task.params:
            check_identifier(param.name, f"a parameter of task {task.name}")
        for failure in task.failures:
            check_name(failure, f"failure of task {task.name}:")
        _refuse_twice(f"parameter of task {task.name}", (param.name for param in task.params))
    _check_retry("the workflow", spec.retry)
    for failure_def in spec.failures:
        check_name(failure_def.name, "failure")
        for name in failure_def.family:
            check_name(name, f"family of failure {failure_def.name}:")
    for child in spec.children:
        check_name(child.workflow, "workflow")
        for param in child.params:
            check_identifier(param.name, f"a parameter of workflow {child.workflow}")
        _refuse_twice(f"parameter of workflow {child.workflow}", (param.name for param in child.params))
    for event in spec.events:
        check_name(event.name, "event")
        if event.expires_s is not None and not 0 < event.expires_s <= EXPIRES_S_MAX:
            raise BadSpec(
                f"event {event.name!r} expires after {event.expires_s:g} s: give more than 0 and at most "
                f"{EXPIRES_S_MAX} (limit event-expiry)"
            )
        if event.lasting and event.expires_s is None:
            raise BadSpec(f"event {event.name!r} is lasting and never expires: it would be kept for ever")
    for user_task in spec.user_tasks:
        check_name(user_task.name, "user task")
        if user_task.form not in _forms(spec):
            raise BadSpec(
                f"user task {user_task.name!r} has the form {user_task.form!r}, which is no record of this spec"
            )
    for variable in spec.variables:
        check_identifier(variable.name, "a variable")
    for param in spec.params:
        check_identifier(param.name, "a parameter")
    if not spec.nodes:
        raise BadSpec("a spec has at least one node")
    if not 0 <= spec.first_line <= LINE_MAX:
        raise BadSpec(
            f"the definition begins in line {shown_figure(spec.first_line)}, which no file has: give 0 to {LINE_MAX} "
            "(limit line-number)"
        )
    _refuse_twice("task", (task.name for task in spec.tasks))
    _refuse_twice("failure", (failure_def.name for failure_def in spec.failures))
    _refuse_twice("event", (event.name for event in spec.events))
    _refuse_twice("user task", (each.name for each in spec.user_tasks))
    _refuse_twice("child workflow", (child.workflow for child in spec.children))
    _refuse_twice("parameter", (param.name for param in spec.params))
    _refuse_twice("variable", (variable.name for variable in spec.variables))


def _refuse_twice(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise BadSpec(f"{what} {name!r} is defined twice")
        seen.add(name)
