"""Every kind of node as people read it: its text, its shape in a graph, and the ways that lead on from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

from dressage.flow.drawing.expressions import expression_text
from dressage.protocol.expressions import Expr, Make
from dressage.protocol.permits import TaskLimit
from dressage.protocol.spec import (
    ANY_FAILURE,
    AssignNode,
    Backoff,
    Branch,
    BranchNode,
    ChildNode,
    ConditionNode,
    EventNode,
    GatherNode,
    Handler,
    Node,
    PublishNode,
    RaiseNode,
    ReturnNode,
    SleepNode,
    SleepUntilNode,
    TaskNode,
    TaskTimes,
    TurnNode,
    UserTaskNode,
    WorkflowSpec,
    effective_retry,
    effective_times,
)

Shape = Literal["work", "choice", "wait", "step", "end", "fork"]


class Way(NamedTuple):
    """Where control goes on, and when: "yes", "no", or always.

    At a way that `begins`, something of its own begins, side by side with others; the node itself goes on elsewhere.
    """

    to: int
    label: str = ""
    begins: bool = False


class Drawn(NamedTuple):
    """How one kind of node is shown. The text of a choice is its question alone."""

    text: Callable[[WorkflowSpec, Any], str]
    ways: Callable[[Any], tuple[Way, ...]]
    shape: Shape


def node_text(spec: WorkflowSpec, node: Node) -> str:
    """What a node does, in one line."""
    return NODES[type(node)].text(spec, node)


def ways_of(node: Node) -> tuple[Way, ...]:
    return NODES[type(node)].ways(node)


def handler_text(handler: Handler) -> str:
    """An except clause: what it takes, and the variable that holds it. A `finally` takes all, and raises it again."""
    if handler.passing:
        return "finally, behind a failure"
    names = ", ".join("WorkflowFailure" if name == ANY_FAILURE else name for name in handler.names)
    bind = handler.bind if handler.bind and not handler.bind.startswith("$") else ""
    return f"except {f'({names})' if len(handler.names) > 1 else names}" + (f" as {bind}" if bind else "")


def backoff_text(backoff: Backoff) -> str:
    """How long it is waited between attempts."""
    return (
        f"{backoff.base_s:g} s, times {backoff.factor:g} up to {backoff.limit_s:g} s, "
        f"spread by {backoff.jitter:.0%}"
    )


def times_text(times: TaskTimes) -> dict[str, str]:
    """How long a task may take: each of its times that is set, by its name."""
    texts = {
        "attempt_s": "an attempt within {:g} s",
        "heartbeat_s": "silent for {:g} s at most",
        "start_s": "taken within {:g} s",
        "call_s": "done within {:g} s",
    }
    said = {name: getattr(times, name) for name in texts}
    return {name: texts[name].format(seconds) for name, seconds in said.items() if seconds is not None}


def limit_text(limit: TaskLimit) -> str:
    """How many attempts of a task may be at a time, and in a time."""
    said = [] if limit.concurrency is None else [f"{limit.concurrency} at a time"]
    said += [] if limit.rate is None else [f"{limit.rate} in {limit.per_s:g} s"]
    return f"at most {' and '.join(said)}"


# -- one function for each kind --------------------------------------------------------------------
def _task(spec: WorkflowSpec, node: TaskNode) -> str:
    args = ", ".join(f"{name}={expression_text(value)}" for name, value in node.args.items())
    target = f"{node.target} = " if node.target else ""
    retry = effective_retry(spec, node)
    said = [f"up to {retry.retries + 1} attempts"] if retry.retries else []
    if node.retry is not None and node.retry.backoff is not None:
        said.append(f"after {backoff_text(node.retry.backoff)}")
    if retry.exhausted == "wait":
        said.append("then it waits for somebody")
    task = next((each for each in spec.tasks if each.name == node.task), None)
    said += times_text(effective_times(node.times, task.times if task else None)).values()
    if task is not None and task.limit is not None:
        said.append(limit_text(task.limit))
    named = {"key": node.key, "priority": node.priority}
    options = ", ".join(f"{name}={expression_text(expr)}" for name, expr in named.items() if expr is not None)
    called = f"{node.task}.options({options})" if options else node.task
    return f"{target}await {called}({args})" + (f"  # {', '.join(said)}" if said else "")


def _child(_: WorkflowSpec, node: ChildNode) -> str:
    args = ", ".join(f"{name}={expression_text(value)}" for name, value in node.args.items())
    target = f"{node.target} = " if node.target else ""
    options = "" if node.run_id is None else f".options(run_id={expression_text(node.run_id)})"
    said = ["a run of its own", *(["which goes on alone"] if node.detached else [])]
    said += {
        "abandon": [],
        "request": ["and is cancelled with this one"],
        "cancel": ["and ends with this one"],
    }[node.close]
    start = ".start" if node.detached else ""
    return f"{target}await {node.workflow}{options}{start}({args})  # {', '.join(said)}"


def _wait(_: WorkflowSpec, node: EventNode) -> str:
    target = f"{node.target} = " if node.target else ""
    given = {"key": node.key, "timeout": node.timeout}
    said = [f"{name}={expression_text(expr)}" for name, expr in given.items() if expr is not None]
    return f"{target}await {node.event}.wait({', '.join(said)})"


def _user_task(_: WorkflowSpec, node: UserTaskNode) -> str:
    target = f"{node.target} = " if node.target else ""
    said = [f"{name}={expression_text(expr)}" for name, expr in node.args.items()]
    return f"{target}await {node.user_task}.assign({', '.join(said)})"


def _sleep_until(_: WorkflowSpec, node: SleepUntilNode) -> str:
    return f"await sleep_until({'lambda: ' if node.watched else ''}{expression_text(node.moment)})"


def _condition(_: WorkflowSpec, node: ConditionNode) -> str:
    timeout = "" if node.timeout is None else f", timeout={expression_text(node.timeout)}"
    return f"await wait_until(lambda: {expression_text(node.condition)}{timeout})"


def _assign(_: WorkflowSpec, node: AssignNode) -> str:
    attribute = f".{node.attribute}" if node.attribute else ""
    return f"{node.target}{attribute} = {expression_text(node.value)}"


def _raise(_: WorkflowSpec, node: RaiseNode) -> str:
    if node.failure is None:
        named = node.reraise and not node.reraise.startswith("$")
        return f"raise {node.reraise}" if named else "raise"
    given = [] if node.message is None else [expression_text(node.message)]
    given += _details(node.details)
    return f"raise {node.failure}({', '.join(given)})"


def _details(details: Expr | None) -> list[str]:
    if details is None:
        return []
    if not isinstance(details, Make):
        return [f"**{expression_text(details)}"]
    return [f"{name}={expression_text(value)}" for name, value in details.fields.items()]


def _return(_: WorkflowSpec, node: ReturnNode) -> str:
    return "return" if node.value is None else f"return {expression_text(node.value)}"


def _gather(_: WorkflowSpec, node: GatherNode) -> str:
    target = f"{node.target} = " if node.target else ""
    count = f"{len(node.branches)} branch" + "es" * (len(node.branches) != 1)
    if node.each is not None:
        limit = "" if node.each.limit is None else f", limit={expression_text(node.each.limit)}"
        count = f"one branch for each of {expression_text(node.each.items)}{limit}"
    return f"{target}await {_OF_BRANCHES[node.until]}({count})"


_OF_BRANCHES: Final = {
    "all": "gather",
    "completed": "first_completed",
    "successful": "first_successful",
    "interrupted": "interruptible",
}


def _branches(node: GatherNode) -> tuple[Way, ...]:
    """The start of each branch, and behind the last of them the gather's own way."""
    starts = tuple(
        Way(branch.entry, f"branch {place}{_given(branch)}", begins=True)
        for place, branch in enumerate(node.branches, 1)
    )
    if node.each is not None:
        names = ", ".join(node.each.names)
        starts = (
            Way(node.branches[0].entry, "each branch" + (f" with {names}" if names else ""), begins=True),
        )
    return (*starts, Way(node.next, "all ended" if node.branches else ""))


def _given(branch: Branch) -> str:
    given = [f"{name} = {expression_text(value)}" for name, value in branch.args.items()]
    return f" with {', '.join(given)}" if given else ""


def _publish(_: WorkflowSpec, node: PublishNode) -> str:
    return f"await publish({expression_text(node.subject)}, {expression_text(node.data)})"


def _next(
    node: TaskNode
    | AssignNode
    | SleepNode
    | PublishNode
    | SleepUntilNode
    | ConditionNode
    | EventNode
    | ChildNode
    | UserTaskNode
    | TurnNode,
) -> tuple[Way, ...]:
    return (Way(node.next),)


def _ends(_: RaiseNode | ReturnNode) -> tuple[Way, ...]:
    return ()


NODES: Final[dict[type[Node], Drawn]] = {
    TaskNode: Drawn(_task, _next, "work"),
    AssignNode: Drawn(_assign, _next, "step"),
    BranchNode: Drawn(
        lambda _, node: expression_text(node.test),
        lambda node: (Way(node.then, "yes"), Way(node.otherwise, "no")),
        "choice",
    ),
    SleepNode: Drawn(lambda _, node: f"await sleep({expression_text(node.duration)})", _next, "wait"),
    PublishNode: Drawn(_publish, _next, "step"),
    SleepUntilNode: Drawn(_sleep_until, _next, "wait"),
    ConditionNode: Drawn(_condition, _next, "wait"),
    EventNode: Drawn(_wait, _next, "wait"),
    UserTaskNode: Drawn(_user_task, _next, "wait"),
    ChildNode: Drawn(_child, _next, "work"),
    RaiseNode: Drawn(_raise, _ends, "end"),
    ReturnNode: Drawn(_return, _ends, "end"),
    GatherNode: Drawn(_gather, _branches, "fork"),
    TurnNode: Drawn(
        lambda _, node: "interrupt" if node.begins else "go on behind the interrupt", _next, "step"
    ),
}
"""Every kind of node. A new one gets its entry here."""
