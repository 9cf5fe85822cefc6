"""`await gather(...)` and races: branches side by side, each compiled as a run thread of its own."""

from __future__ import annotations

import ast
from typing import Any, Final, Literal

from dressage.expressions.parse import Scope, translate_each
from dressage.expressions.spelling import text_of
from dressage.flow.branches import first_completed, first_successful, gather
from dressage.flow.compiler import calls, functions
from dressage.flow.compiler.children import child_args, child_of, handed_on
from dressage.flow.compiler.choices import choice_of, ways
from dressage.flow.compiler.conditions import condition_of, is_wait_until
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.graph import BranchDraft, Label
from dressage.flow.compiler.names import MISSING
from dressage.flow.compiler.people import assign_args, assign_of, user_task_of
from dressage.flow.compiler.publishes import given_to, is_publish
from dressage.flow.compiler.scope import FlowScope
from dressage.flow.compiler.sleeps import duration_of, is_sleep, is_sleep_until, moment_of
from dressage.flow.compiler.waits import event_of, wait_of, wait_options
from dressage.flow.interrupts import interruptible
from dressage.protocol.expressions import Expr, Name, TupleOfExpr
from dressage.protocol.spec import (
    ChildNode,
    ConditionNode,
    Each,
    EventNode,
    GatherNode,
    PublishNode,
    ReturnNode,
    SleepNode,
    SleepUntilNode,
    TaskNode,
    UserTaskNode,
)
from dressage.protocol.spec_sizes import BRANCHES_MAX

Until = Literal["all", "completed", "successful"]
_UNTIL: Final[dict[object, Until]] = {
    gather: "all",
    first_completed: "completed",
    first_successful: "successful",
}


def until_of(context: Context, call: ast.Call) -> Until | None:
    """When the branches of this call are over; None if it is no call that starts branches."""
    found = context.names.object(call.func)
    return next((until for function, until in _UNTIL.items() if function is found), None)


def results_of(context: Context, call: ast.Call) -> int | None:
    """How many items `await call` gives: one for each branch, and of a race the winner's place and its result."""
    until = until_of(context, call)
    if until is None or until != "all":
        return None if until is None else 2
    return None if _items_of(call) is not None else len(call.args)


def emit_gather(context: Context, node: ast.Await, call: ast.Call, target: str | None, until: Until) -> None:
    """The node that starts the branches, and behind it the nodes of each; what they are given is computed first."""
    name = text_of(call.func)
    advice = f"write `{name}(ship(order), bill(order))`"
    items = _items_of(call)
    keywords = [each for each in call.keywords if items is None or until != "all" or each.arg != "limit"]
    if keywords:
        what = f"{name}() takes branches only"
        if until == "all" and keywords[0].arg == "limit":
            what = "a limit is for branches whose number is not known here"
        raise context.refusal(keywords[0], what, advice)
    if len(call.args) > BRANCHES_MAX:
        raise context.refusal(
            call,
            f"{name}() takes at most {BRANCHES_MAX} branches (limit spec-size)",
            f"write `{name}(*(ship(order) for order in orders))`, or nest them",
        )
    if until != "all" and not call.args:
        raise context.refusal(call, "nobody would ever win this race", advice)
    graph, after = context.graph, Label()
    each: Each | None = None
    if items is None:
        branches = [CalledBranch(context, each_call, name) for each_call in call.args]
    else:
        branch, each = _each_of(context, items, call)
        branches = [branch]
    drafts = [branch.draft for branch in branches]
    graph.emit(GatherNode, node, {"next": after}, branches=drafts, target=target, each=each, until=until)
    scope = graph.scope
    graph.scope = None
    for branch in branches:
        branch.compile()
    graph.scope = scope
    graph.mark(after)


def _items_of(call: ast.Call) -> ast.ListComp | ast.GeneratorExp | None:
    """What says for which items there are branches: `gather(*(ship(order) for order in orders))`."""
    only = call.args[0] if len(call.args) == 1 else None
    items = only.value if isinstance(only, ast.Starred) else None
    return items if isinstance(items, ast.ListComp | ast.GeneratorExp) else None


def _each_of(
    context: Context, items: ast.ListComp | ast.GeneratorExp, call: ast.Call
) -> tuple[CalledBranch, Each]:
    """The branch that there is for each item, and what it is given of the item."""
    awaits = next((each for each in ast.walk(items) if isinstance(each, ast.Await)), None)
    if awaits is not None:
        advice = "await it in a statement before, or in an async function that is the branch"
        raise context.refusal(
            awaits, "the branches of a gather begin together, behind all that is awaited", advice
        )
    made: list[CalledBranch] = []

    def given(inner: Scope) -> Expr:
        around, names = context.scope, context.names
        assert isinstance(inner, FlowScope)
        context.scope, context.names = inner, inner.names
        try:
            made.append(CalledBranch(context, items.elt, text_of(call.func)))
        finally:
            context.scope, context.names = around, names
        return TupleOfExpr(tuple(made[0].draft.args.values()))

    listed = translate_each(items, context.scope, given)
    branch = made[0]
    names, branch.draft.args = tuple(branch.draft.args), {}
    limit = _limit(context, call.keywords[0].value) if call.keywords else None
    if limit is not None:
        _check_order(context, items, call.keywords[0].value)
    return branch, Each(listed, names, limit)


_CALM: Final = (
    *(ast.Name, ast.Constant, ast.Attribute, ast.Tuple, ast.List, ast.Starred, ast.expr_context),
    *(ast.BinOp, ast.Add, ast.Sub, ast.Mult),
)
"""What is evaluated without any doubt, and without an effect, as is `len()` of such."""


def _check_order(context: Context, items: ast.ListComp | ast.GeneratorExp, limit: ast.expr) -> None:
    """Python looks at the limit before it goes through a generator, a run behind it. That makes a difference where both
    may fail, or set a variable."""
    if isinstance(items, ast.ListComp) or _is_calm(limit):
        return
    branch = items.elt
    assert isinstance(branch, ast.Call)
    given = [*branch.args, *(keyword.value for keyword in branch.keywords)]
    inside = [each.iter for each in items.generators[1:]]
    parts = [*given, *inside, *(part for each in items.generators for part in each.ifs)]
    sets = any(isinstance(each, ast.NamedExpr) for each in ast.walk(limit))
    if not sets and all(_is_calm(part) for part in parts):
        return
    raise context.refusal(
        limit,
        "Python computes this limit before the branches' arguments, a run behind them",
        f"compute it in a statement before: `limit = {text_of(limit)}`",
    )


def _is_calm(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
        return all(map(_is_calm, node.args)) and not node.keywords
    return isinstance(node, _CALM) and all(map(_is_calm, ast.iter_child_nodes(node)))


def _limit(context: Context, node: ast.expr) -> Expr:
    """How many branches run at a time. Refuses a number that lets none of them run."""
    written = context.translate(node)
    value = node.operand if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else node
    is_number = (
        isinstance(value, ast.Constant) and type(value.value) is int and value is node and value.value > 0
    )
    if isinstance(value, ast.Constant) and value.value is not None and not is_number:
        raise context.refusal(
            node, f"a limit is a number of branches, and not {text_of(node)}", "write 1 or more"
        )
    return written


_WHICH: Final = "which"


class CalledBranch:
    """One branch: the call that it is, and what it is given."""

    def __init__(self, context: Context, node: ast.expr, of: str) -> None:
        """`of` is what starts it, as it is written."""
        if isinstance(node, ast.Starred):
            what = "what the branches are must be seen here"
            advice = f"write `{of}(*(ship(order) for order in orders))` and nothing else, or the branches one by one"
            raise context.refusal(node, what, advice)
        if not isinstance(node, ast.Call):
            what = "a branch is a call that is not awaited yet"
            written = wait_of(context, node) or assign_of(context, node) or "ship(order)"
            raise context.refusal(node, what, f"write `{of}({written}, ...)`")
        if (until := until_of(context, node)) is not None:
            what = f"a {'gather' if until == 'all' else 'race'} is no branch by itself"
            raise context.refusal(node, what, "await it in an async function, and make that a branch")
        if context.names.object(node.func) is interruptible:
            what = f"{text_of(node.func)}() is no branch by itself"
            raise context.refusal(node, what, "await it in an async function, and make that a branch")
        self.context = context
        self.call = node
        self.choice = choice_of(context, node)
        calls_of = {} if self.choice is None else self.choice.calls
        self.ways = {name: CalledBranch(context, each, of) for name, each in calls_of.items()}
        self.task = calls.task_of(node, context.scope)
        self.event = None if self.task else event_of(context, node)
        self.user_task = user_task_of(context, node)
        self.moment = moment_of(context, node) if is_sleep_until(context, node) else None
        self.condition = condition_of(context, node) if is_wait_until(context, node) else None
        waits = is_sleep(context, node) or is_publish(context, node) or self.moment or self.condition
        self.child = child_of(context, node)
        self.handed_on = [] if self.child is None else handed_on(node, self.child)
        plain = self.task or self.event or self.user_task or self.child or waits
        self.callee = None if plain else functions.callee_of(context, node.func)
        self.draft = BranchDraft(Label(), self._given(), context.temporary())

    def _given(self) -> dict[str, Expr]:
        """Under names of the compiler's own: the branch's parameters may be read by what another one is given."""
        context, call = self.context, self.call
        if self.choice is not None:
            # All are given the same, each by names of its own, and some of them inherit more.
            first = next(iter(self.ways.values()))
            written = len(first.draft.args) - len(first.handed_on)
            places = {str(place): each for place, each in enumerate([*first.draft.args.values()][:written])}
            given: dict[str, Expr] = {_WHICH: self.choice.which, **places}
            for way in self.ways.values():
                more = [*way.draft.args.values()][written:]
                given |= {f"={name}": each for name, each in zip(way.handed_on, more, strict=True)}
        elif self.task is not None:
            given = calls.task_args(call, self.task, context.scope)
        elif self.event is not None:
            given = wait_options(context, call)
        elif self.user_task is not None:
            given = assign_args(context, call)
        elif self.child is not None:
            given = child_args(context, call, self.child)
        elif self.callee is not None:
            given = functions.arguments(context, call, self.callee)
        elif self.moment is not None:
            given = {} if self.moment.watched else {"moment": self.moment.expr}
        elif self.condition is not None:
            timeout = self.condition.timeout
            given = {} if timeout is None else {"timeout": timeout}
        elif is_sleep(context, call):
            given = {"duration": duration_of(context, call)}
        elif is_publish(context, call):
            given = given_to(context, call)
        else:
            name = text_of(call.func)
            if functions.is_itself(context, call.func):
                raise functions.refused_recursion(context, call)
            if isinstance(call.func, ast.Name) and (
                name in context.names.functions or context.names.object(call.func) is MISSING
            ):
                raise context.refusal(call, f"{name}() is not defined so far", "define it above")
            raise context.refusal(
                call,
                f"{name}() cannot be a branch",
                "write a task, a sleep, a wait, a user task, publish(), a workflow, or an async function that awaits "
                "the rest",
            )
        self.names = {name: context.temporary() for name in given}
        return {self.names[name]: value for name, value in given.items()}

    def compile(self) -> None:
        """The nodes of the branch, up to the one that ends it."""
        graph, result = self.context.graph, self.draft.result
        first, scopes = len(graph.drafts), len(graph.scopes)
        self.draft.label.used = True
        graph.mark(self.draft.label)
        gives = self._emit(result)
        if graph.live:
            graph.emit(ReturnNode, self.call, {}, value=Name(result) if gives else None)
        binds = (each.bind for scope in graph.scopes[scopes:] for each in scope.handlers if each.bind)
        own = dict.fromkeys([*self.names.values(), *graph.targets(first), *binds])
        self.draft.variables = tuple(own)

    def _emit(self, result: str) -> bool:
        """Its nodes without the last one; whether they give something to `result`."""
        context, graph = self.context, self.context.graph
        given: dict[str, Expr] = {name: Name(held) for name, held in self.names.items()}
        if self.choice is not None:
            places = [held for name, held in self.names.items() if name.isdecimal()]
            for name, _ in ways(context, self.call, Name(self.names[_WHICH]), self.choice):
                way = self.ways[name]
                held = [*places, *(self.names[f"={each}"] for each in way.handed_on)]
                way.names = dict(zip(way.names, held, strict=True))
                way._emit(result)
        elif self.task is not None:
            context.use_task(self.call, self.task)
            graph.emit(TaskNode, self.call, target=result, **calls.task_fields(self.task, given))
        elif self.event is not None:
            context.use_event(self.call, self.event)
            fields: dict[str, Any] = {"event": self.event.name, "target": result, **given}
            graph.emit(EventNode, self.call, **fields)
        elif self.user_task is not None:
            context.use_user_task(self.call, self.user_task)
            graph.emit(UserTaskNode, self.call, user_task=self.user_task.name, target=result, args=given)
        elif self.child is not None:
            context.use_child(self.call, self.child.workflow)
            graph.emit(ChildNode, self.call, target=result, **self.child.fields(given))
        elif self.callee is not None:
            inner = functions.enter(context, self.call, self.callee, result)
            functions.give(inner, self.call, given)
            functions.body(inner, self.callee)
        elif is_publish(context, self.call):
            graph.emit(PublishNode, self.call, subject=given["subject"], data=given["data"])
            return False
        else:
            self._emit_wait(given)
            return False
        return True

    def _emit_wait(self, given: dict[str, Expr]) -> None:
        graph, call = self.context.graph, self.call
        if self.moment is not None:
            moment = given.get("moment", self.moment.expr)
            graph.emit(SleepUntilNode, call, moment=moment, watched=self.moment.watched)
        elif self.condition is not None:
            condition, text, _ = self.condition
            timeout = given.get("timeout")
            graph.emit(ConditionNode, call, condition=condition, timeout=timeout, text=text)
        else:
            graph.emit(SleepNode, call, duration=given["duration"])
