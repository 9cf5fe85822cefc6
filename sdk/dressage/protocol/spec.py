"""`WorkflowSpec`: a workflow as data. The compiler writes it, the fold follows it, any language can produce one.

Nodes are numbered by their place in `nodes`; control starts at `entry` and follows `next`. A node inside a
`try` names its `scope`; a failure at a node looks for a handler there and then in the enclosing scopes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from dressage.protocol.commands import FailureInfo
from dressage.protocol.expressions import Expr
from dressage.protocol.permits import TaskLimit
from dressage.protocol.types import Field, TypeDef, TypeRef

SPEC_FORMAT: Literal[1] = 1


ANY_FAILURE = "workflow-failure"
"""The family of every business failure: a handler of this name catches them all, also those no spec declares."""

ANY_ERROR = "Exception"
"""The family of all that can be caught, technical errors included."""

TASK_ERROR = "TaskError"
"""The class of what a task failed with technically, after its retries: a worker's exception, or no fitting result."""


CHILD_ERROR = "ChildError"
"""The class of what a child run did not do: it was not started, was cancelled, or passed one of its limits."""

TASK_TIMEOUT = "TaskTimeout"
"""The class of what a task did not do in its time: a `TaskError`, and a `TimeoutError`, too."""

USER_TASK_CANCELLED = "UserTaskCancelled"
"""The class of what a user task did not come to, as somebody cancelled it."""

BRANCH_CANCELLED = "BranchCancelled"
"""The class of what a branch did not come to, as somebody cancelled it."""

TIMEOUT_ERROR = "TimeoutError"
TASK_TIMEOUT_FAMILY = (TASK_TIMEOUT, TASK_ERROR, TIMEOUT_ERROR, "OSError", ANY_ERROR)
"""By what it can be caught that a task was not done in its time."""

CANCELLED_ERROR = "CancelledError"
"""The class of what is raised where a branch waits that has lost a race, and where a run does that is cancelled. Only a
`finally` and a saga take it."""

LEAVING_ERRORS = (ANY_ERROR, CANCELLED_ERROR)
"""What a `finally` and a saga take: all that can be raised."""

GROUP_ERROR = "ExceptionGroup"
GROUP_FAMILY = (GROUP_ERROR, ANY_ERROR)
"""By what the failures of branches, as one group, can be caught."""

GROUP_TEXT = "branches failed"
SAGA_TEXT = "compensation failed"


ParentClose = Literal["abandon", "request", "cancel"]
"""What becomes of a detached child run when its parent ends: nothing, or it is cancelled, gently or at once."""


class Backoff(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How long to wait between attempts.

    The delay before attempt n+1 is `min(base_s * factor**(n-1), limit_s)`, spread by `jitter`: 0.1 means
    plus or minus ten percent.
    """

    base_s: float = 1.0
    factor: float = 2.0
    limit_s: float = 60.0
    jitter: float = 0.1


Exhausted = Literal["fail", "wait"]
"""What becomes of a call whose last attempt has failed: it fails, or waits for somebody who retries it."""


class RetryOptions(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one place says about retries; what it leaves at None is asked of the next place (`effective_retry`).

    `never` are the classes of errors, by their names, after which nothing is tried again.
    """

    retries: int | None = None
    backoff: Backoff | None = None
    never: tuple[str, ...] | None = None
    exhausted: Exhausted | None = None


class Retry(msgspec.Struct, frozen=True):
    """How technical errors of one call are retried, after all places were asked. Business failures never are."""

    retries: int = 0
    base_s: float = 1.0
    factor: float = 2.0
    limit_s: float = 60.0
    jitter: float = 0.1
    never: tuple[str, ...] = ()
    exhausted: Exhausted = "fail"


class TaskTimes(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How long a call of a task may take, in seconds; what one place leaves at None is asked of the next place
    (`effective_times`).

    `attempt_s` is for each attempt, from when its handler begins, and `heartbeat_s` for how long that may give no sign
    of progress; a worker watches over both. `start_s` is from when an attempt may begin until a worker says that it
    has, and `call_s` for the call with all its attempts; the engine watches over these.
    """

    attempt_s: float | None = None
    heartbeat_s: float | None = None
    start_s: float | None = None
    call_s: float | None = None


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """How much one run may use; what is not said is the default, and `LIMITS_MAX` is the most that may be said.

    A run that passes one of them fails by its name (docs/limits.md). They belong to the version of the workflow, so
    a run keeps those that it was started with.
    """

    steps_per_command: int = 10_000
    """Nodes that one command may pass before the run must wait for something: a guard against endless loops."""

    value_bytes: int = 256 * 1024
    """Bytes of an input, of the arguments of one call, of one result, and of a run's output, each in wire form."""

    variables_bytes: int = 256 * 1024
    """Bytes of all variables together, in stored form and with their names."""

    history_events: int = 50_000
    """Output events of one run."""


LIMITS_MAX = Limits(
    steps_per_command=50_000,
    value_bytes=448 * 1024,
    variables_bytes=640 * 1024,
    history_events=1_000_000,
)
"""What an engine allows. A value has to fit into an event, and a state, which holds an input twice, into a message."""


class TaskDef(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The contract of a task: what a workflow may call and what a worker must take and give back.

    Of its calls no more are with workers than its `limit` lets; those of a higher `priority` come first.
    """

    name: str
    params: tuple[Field, ...]
    output: TypeRef
    queue: str = "default"
    retry: RetryOptions | None = None
    failures: tuple[str, ...] = ()
    times: TaskTimes | None = None
    limit: TaskLimit | None = None
    priority: int = 0


class FailureDef(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A named business failure; `family` lists its ancestors, nearest first.

    `record` is the record type that its details are; without one they are any JSON.
    """

    name: str
    family: tuple[str, ...] = ()
    record: str | None = None


class EventDef(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An external event that the workflow waits for. An unclaimed one is kept for `expires_s`, or for ever.

    A `lasting` one that is posted to a correlation key is kept so long whether somebody has taken it or not.
    """

    name: str
    type: TypeRef
    expires_s: float | None = None
    lasting: bool = False


class UserTaskDef(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Work for a person or a group: the record that its form is filled with."""

    name: str
    form: str


class ChildDef(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Another workflow that this one starts runs of: what it takes and gives."""

    workflow: str
    params: tuple[Field, ...]
    output: TypeRef


class Handler(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An `except` clause: control goes on at `node` after a failure that `catches` says is one of `names`.

    The failure is stored in variable `bind`. Nodes of the clause are outside the scope that it belongs to. `passing`
    marks a `finally`: the failure is not caught, but raised again at its end.
    """

    names: tuple[str, ...]
    node: int
    bind: str | None = None
    passing: bool = False


class Scope(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The body of one `try`; `parent` is the enclosing scope."""

    handlers: tuple[Handler, ...]
    parent: int | None = None


class TaskNode(
    msgspec.Struct, tag="task", tag_field="kind", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Calls a task and waits for its result, which goes to `target`; `args` are evaluated in their order.

    `retry` and `times` are what the call itself says (see `effective_retry`, `effective_times`). A call that `undoes` a
    step of a saga is not cancelled with its branch: that waits until the saga is undone. Before `args`, `key` and
    `priority` are evaluated, where the task has a limit: that counts for each key, and this goes before the task's.
    """

    task: str
    args: dict[str, Expr]
    next: int
    target: str | None = None
    retry: RetryOptions | None = None
    times: TaskTimes | None = None
    undoes: bool = False
    key: Expr | None = None
    priority: Expr | None = None
    scope: int | None = None
    line: int = 0


class ChildNode(
    msgspec.Struct, tag="child", tag_field="kind", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Starts a run of another workflow and waits for its end; `target` takes its output.

    What it fails with is raised here. `run_id` is the id of the run, if it is to have one of the author's, and is
    evaluated before `args`, which are in their order. One that is `detached` is not waited for: `target` takes its id,
    once it has begun, and what becomes of it when this run ends is said by `close`.
    """

    workflow: str
    args: dict[str, Expr]
    next: int
    target: str | None = None
    scope: int | None = None
    line: int = 0
    run_id: Expr | None = None
    detached: bool = False
    close: ParentClose = "abandon"


class AssignNode(
    msgspec.Struct,
    tag="assign",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Sets variables; with `attribute`, one field of the record that is the run's view."""

    target: str
    value: Expr
    next: int
    attribute: str | None = None
    scope: int | None = None
    line: int = 0


class BranchNode(
    msgspec.Struct,
    tag="branch",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Follows `then` if `test` is true by Python's truth, else `otherwise`."""

    test: Expr
    then: int
    otherwise: int
    scope: int | None = None
    line: int = 0


class SleepNode(
    msgspec.Struct, tag="sleep", tag_field="kind", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Waits for `duration` (a timedelta, or seconds as a number)."""

    duration: Expr
    next: int
    scope: int | None = None
    line: int = 0


class PublishNode(
    msgspec.Struct,
    tag="publish",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Publishes `data` as a domain event to `subject`, a str, and goes on at once."""

    subject: Expr
    data: Expr
    next: int
    scope: int | None = None
    line: int = 0


class SleepUntilNode(
    msgspec.Struct,
    tag="sleep-until",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Waits until the run's time has reached `moment` (a datetime with a time zone), or goes on if it has.

    A `watched` moment is computed again whenever a variable has changed that it reads, and the newest one counts.
    """

    moment: Expr
    next: int
    watched: bool = False
    scope: int | None = None
    line: int = 0


class ConditionNode(
    msgspec.Struct,
    tag="condition",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Waits until `condition` is true by Python's truth, and looks again when a variable has changed that it reads.

    With `timeout` (a timedelta, or seconds) it waits no longer than that, and then raises `TimeoutError`. `text` is the
    condition as its author has written it, for people; it does not belong to the digest.
    """

    condition: Expr
    next: int
    timeout: Expr | None = None
    text: str = ""
    scope: int | None = None
    line: int = 0


class EventNode(
    msgspec.Struct, tag="event", tag_field="kind", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Takes the earliest unclaimed external event of this name, or waits for one; `target` takes its payload.

    With `timeout` (a timedelta, or seconds) it waits no longer than that, and then raises `TimeoutError`. With `key` it
    takes what is posted to this correlation key, and not what is posted to the run.
    """

    event: str
    next: int
    timeout: Expr | None = None
    target: str | None = None
    key: Expr | None = None
    scope: int | None = None
    line: int = 0


class UserTaskNode(
    msgspec.Struct,
    tag="user-task",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Gives work to a person or a group, and waits until it is done; `target` takes the record of its form.

    `args` are evaluated in their order, and have the names of `USER_TASK_ARGS`: whom it is for (`user`, `group`, of
    which one is not None) and `notes` are texts, `due` and the others are moments (a datetime with a time zone) or
    durations (a timedelta, or seconds). With `timeout` it waits no longer than that, and then raises `TimeoutError`.
    """

    user_task: str
    args: dict[str, Expr]
    next: int
    target: str | None = None
    scope: int | None = None
    line: int = 0


USER_TASK_TEXTS = ("user", "group", "notes", "escalate_to")
USER_TASK_TIMES = ("due", "remind", "escalate_after", "timeout")
USER_TASK_ARGS = USER_TASK_TEXTS + USER_TASK_TIMES
"""What a user task may be given; only `due` can be a moment."""


class RaiseNode(
    msgspec.Struct, tag="raise", tag_field="kind", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Raises the named failure, or, with no name, the failure that variable `reraise` holds, or a group.

    `message` is evaluated before `details`, which gives the record that the failure's definition names, or JSON.
    `group` gives a list of failures that were caught. `undone` marks the end of a saga's undoing: in a branch that has
    lost a race meanwhile, or in a run that was cancelled, it raises `CancelledError` instead, or of a group the
    failures behind the first one alone.
    """

    failure: str | None = None
    message: Expr | None = None
    details: Expr | None = None
    reraise: str | None = None
    group: Expr | None = None
    undone: bool = False
    scope: int | None = None
    line: int = 0


class ReturnNode(
    msgspec.Struct,
    tag="return",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Ends its run thread with `value`: the run with this output, or a branch with this result."""

    value: Expr | None = None
    scope: int | None = None
    line: int = 0


class Branch(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A run thread that a gather starts at `entry`, to end at a `ReturnNode`.

    `args` are evaluated where the gather stands, and are the first of the branch's own `variables`: those end with
    it, and no other branch sees them. Every other variable is that of the run thread around it.
    """

    entry: int
    args: dict[str, Expr] = {}
    variables: tuple[str, ...] = ()


class Each(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How many branches there are, and what each is given: one for each item of the list that `items` gives.

    An item is a tuple, with a value for each of `names`: variables that are the branch's own. At most `limit` branches
    run at a time (without it `EACH_LIMIT`); they begin in the order of the items.
    """

    items: Expr
    names: tuple[str, ...] = ()
    limit: Expr | None = None


EACH_LIMIT = 100
"""So many branches for the items of a list run at a time, if the workflow says nothing else."""


class GatherNode(
    msgspec.Struct,
    tag="gather",
    tag_field="kind",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Starts branches side by side and waits for all of them; `target` takes the tuple of their results, in order.

    If some failed, what they failed with is raised here as one group, when the last of all has ended.

    A race is won by the first branch that ends (`until` is "completed") or that ends with a result ("successful"; if
    none does, all have failed). The others are cancelled: `CancelledError` is raised where each of them waits. When the
    last one has ended, `target` takes the pair of the winner's place and its result; what the winner failed with
    is raised here, and what others failed with after they were cancelled, as one group.

    If it is "interrupted", the last branch is the one that is waited for, and `target` takes its result alone. The
    others begin before it, and interrupt it (`TurnNode`); none of them ends but by a failure, which is raised here when
    the others were cancelled.

    With `each` the one branch of `branches` is started for every item of a list; it has no `args`.
    """

    branches: tuple[Branch, ...]
    next: int
    target: str | None = None
    each: Each | None = None
    until: Literal["all", "completed", "successful", "interrupted"] = "all"
    scope: int | None = None
    line: int = 0


class TurnNode(
    msgspec.Struct, tag="turn", tag_field="kind", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """In a branch that interrupts another one (`GatherNode`): its handler `begins` here, or has ended.

    From its begin on nothing goes on of the branch that is interrupted. If another handler of the same gather runs,
    this one waits until all have ended that began to wait before it.
    """

    next: int
    begins: bool = False
    scope: int | None = None
    line: int = 0


Node = (
    TaskNode
    | AssignNode
    | BranchNode
    | SleepNode
    | PublishNode
    | SleepUntilNode
    | ConditionNode
    | EventNode
    | UserTaskNode
    | ChildNode
    | RaiseNode
    | ReturnNode
    | GatherNode
    | TurnNode
)


class Variable(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A local variable; `type` is known when it was declared or can be derived.

    A `declared` one takes values of its type alone: any other ends the run.

    `view` marks the one that search and readers see. A `temporary` one is the compiler's own (its name begins with
    `$`, which no Python name does): readers need not see it.
    """

    name: str
    type: TypeRef | None = None
    view: bool = False
    temporary: bool = False
    declared: bool = False


class WorkflowSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A complete definition. Equal specs have equal `digest`; the version is given at registration.

    `source` is the text of the definition, which begins at `first_line` of `module`; the nodes' lines count as
    that file's. None of these belongs to the digest.
    """

    format: Literal[1]
    name: str
    params: tuple[Field, ...]
    output: TypeRef
    nodes: tuple[Node, ...]
    entry: int = 0
    scopes: tuple[Scope, ...] = ()
    variables: tuple[Variable, ...] = ()
    tasks: tuple[TaskDef, ...] = ()
    failures: tuple[FailureDef, ...] = ()
    events: tuple[EventDef, ...] = ()
    children: tuple[ChildDef, ...] = ()
    user_tasks: tuple[UserTaskDef, ...] = ()
    types: tuple[TypeDef, ...] = ()
    retry: RetryOptions | None = None
    limits: Limits | None = None
    module: str = ""
    source: str = ""
    first_line: int = 1
    description: str = ""

    def encode(self) -> bytes:
        return _encoder.encode(self)

    def digest(self) -> str:
        """Identity of the definition, whatever its version: SHA-256 of its encoded form without its source.

        A program that has read it and wrote it again, with other space between its parts, has the same one.
        """
        nodes = tuple(_without_source(node) for node in self.nodes)
        plain = msgspec.structs.replace(self, module="", source="", first_line=1, nodes=nodes)
        return hashlib.sha256(msgspec.json.format(_encoder.encode(plain), indent=-1)).hexdigest()


def _without_source(node: Node) -> Node:
    if isinstance(node, ConditionNode):
        node = msgspec.structs.replace(node, text="")
    return msgspec.structs.replace(node, line=0)


def effective_retry(spec: WorkflowSpec, node: TaskNode, task: TaskDef | None = None) -> Retry:
    """How the call at `node` is retried: the call's options, else the task's definition, else the workflow's.

    `retries` and `backoff` are looked up apart, so that a call may change one and keep the other. `task` spares
    the search for the definition where the caller has it. Without a word anywhere there is no retry.
    """
    definition = task or next((each for each in spec.tasks if each.name == node.task), None)
    places = [node.retry, definition.retry if definition else None, spec.retry]
    said = [place for place in places if place is not None]
    retries = next((place.retries for place in said if place.retries is not None), 0)
    backoff = next((place.backoff for place in said if place.backoff is not None), Backoff())
    never = next((place.never for place in said if place.never is not None), ())
    exhausted: Exhausted = "fail"
    for place in reversed(said):
        exhausted = place.exhausted or exhausted
    return Retry(retries, backoff.base_s, backoff.factor, backoff.limit_s, backoff.jitter, never, exhausted)


def effective_times(call: TaskTimes | None, task: TaskTimes | None) -> TaskTimes:
    """How long a call may take: each time as its own options say, else the task's definition."""
    if call is None or task is None:
        return call or task or _NO_TIMES
    said = {name: getattr(call, name) for name in TaskTimes.__struct_fields__}
    return msgspec.structs.replace(task, **{name: s for name, s in said.items() if s is not None})


_NO_TIMES = TaskTimes()


def catches(spec: WorkflowSpec, handler: Handler, failure: FailureInfo) -> bool:
    """Whether an `except` clause takes this failure: by its name, by its family, or because it takes any.

    A worker may send a failure without its family; then the spec's definition of that name gives it. A technical
    error is known by the Python class that it has in the workflow; that a limit was passed cannot be caught.
    """
    family = failure.family
    if failure.kind == "failure" and not family:
        family = next((each.family for each in spec.failures if each.name == failure.name), ())
    return catches_named(handler, failure, family)


def catches_named(handler: Handler, failure: FailureInfo, family: tuple[str, ...]) -> bool:
    """`catches` for who knows the family already."""
    names = handler.names
    if failure.kind == "failure" and (failure.name in names or ANY_FAILURE in names or ANY_ERROR in names):
        return True
    return any(name in names for name in family)


class RegisteredEvent(msgspec.Struct, frozen=True):
    """The definition of an external event with the version that it was given; immutable once stored.

    `types` are the records and enums that it needs; `workflow` is the one that it was registered with.
    """

    event: EventDef
    types: tuple[TypeDef, ...]
    version: int
    digest: str
    workflow: str = ""


def event_digest(event: EventDef, types: tuple[TypeDef, ...]) -> str:
    """Identity of an event's definition, whatever its version."""
    return hashlib.sha256(_encoder.encode((event, types))).hexdigest()


class RegisteredWorkflow(msgspec.Struct, frozen=True):
    """A spec with the version it was given; immutable once stored.

    `children` are the versions of the workflows that it starts runs of: those that were the latest at registration.
    `label` is `major.minor`; `breaks` says why its major number is another one than that of the version before it.
    `build` is that of the workers that its tasks go to; empty where any worker of their queues does.
    """

    spec: WorkflowSpec
    version: int
    digest: str
    actor: str = ""
    registered_at: str = ""
    children: dict[str, int] = {}
    label: Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,8}\.(0|[1-9][0-9]{0,8})$")] = "1.0"
    breaks: tuple[str, ...] = ()
    build: str = ""


def registered_digest(spec: WorkflowSpec, children: Mapping[str, int], build: str = "") -> str:
    """Identity of a version: of the spec, of the versions of its children, and of its build."""
    if not children and not build:
        return spec.digest()
    covered = (spec.digest(), sorted(children.items()), *([build] if build else []))
    return hashlib.sha256(_encoder.encode(covered)).hexdigest()


# Objects keep their order: that of arguments and fields is the order of their evaluation.
_encoder = msgspec.json.Encoder()
