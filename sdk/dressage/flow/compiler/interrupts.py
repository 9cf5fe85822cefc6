"""`await interruptible(...)`: the body is a branch, and so is each event that interrupts it: it waits, and calls its
handler, again and again."""

from __future__ import annotations

import ast
from types import NoneType
from typing import Any, Final

from dressage.expressions.spelling import text_of
from dressage.flow.compiler.children import child_of, handed_on
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.gathers import CalledBranch
from dressage.flow.compiler.graph import BranchDraft, Label
from dressage.flow.compiler.scope import Held
from dressage.flow.compiler.waits import check_written_key
from dressage.flow.events import Event
from dressage.flow.interrupts import interruptible
from dressage.protocol.expressions import Expr, Name
from dressage.protocol.spec import EventNode, GatherNode, TurnNode
from dressage.protocol.spec_sizes import BRANCHES_MAX

_ADVICE: Final = "write `interruptible(ship(order), order_cancelled.interrupts(give_up))`"


def is_interruptible(context: Context, call: ast.Call) -> bool:
    return context.names.object(call.func) is interruptible


def emit_interruptible(context: Context, node: ast.Await, call: ast.Call, target: str | None) -> None:
    """The node that starts the branches, and behind it the nodes of each; what they are given is computed first."""
    odd = [*call.keywords, *(each for each in call.args if isinstance(each, ast.Starred))]
    if odd or len(call.args) < 2:
        raise context.refusal(
            odd[0] if odd else call,
            "interruptible() takes a body, and what interrupts it, one by one",
            _ADVICE,
        )
    if len(call.args) > BRANCHES_MAX:
        raise context.refusal(
            call, f"interruptible() takes at most {BRANCHES_MAX} branches (limit spec-size)", "nest them"
        )
    graph, after = context.graph, Label()
    body = CalledBranch(context, call.args[0], text_of(call.func))
    listeners = [_Listener(context, each) for each in call.args[1:]]
    _refuse_twice(context, listeners)
    branches: list[_Listener | CalledBranch] = [*listeners]
    branches.append(body)
    drafts = [each.draft for each in branches]
    graph.emit(
        GatherNode, node, {"next": after}, branches=drafts, target=target, each=None, until="interrupted"
    )
    scope = graph.scope
    graph.scope = None
    for branch in branches:
        branch.compile()
    graph.scope = scope
    graph.mark(after)


def _refuse_twice(context: Context, listeners: list[_Listener]) -> None:
    """An event has one handler: two would have its events in turn."""
    known = set[str]()
    for each in listeners:
        if each.key is None and each.event.name in known:
            raise context.refusal(
                each.call,
                f"event {each.event.name} interrupts twice",
                "let one handler do what both of them do",
            )
        if each.key is None:
            known.add(each.event.name)


class _Listener:
    """An event that interrupts, and its handler."""

    def __init__(self, context: Context, node: ast.expr) -> None:
        function = node.func if isinstance(node, ast.Call) else None
        event = context.names.object(function.value) if isinstance(function, ast.Attribute) else None
        if (
            not isinstance(node, ast.Call)
            or not isinstance(event, Event)
            or not isinstance(function, ast.Attribute)
            or function.attr != "interrupts"
        ):
            raise context.refusal(node, "what interrupts is an event with its handler, seen here", _ADVICE)
        keys = [each for each in node.keywords if each.arg == "key"]
        if len(node.args) != 1 or len(keys) < len(node.keywords) or len(keys) > 1:
            raise context.refusal(
                node,
                "interrupts() takes a handler, and a key by name",
                f"write `{text_of(function)}(handler)`, or `{text_of(function)}(handler, key=order.number)`",
            )
        if isinstance(node.args[0], ast.Lambda | ast.Subscript):
            raise context.refusal(
                node.args[0],
                "a handler is an async function or a task, by its name",
                f"write `async def handler(...)` above, and `{text_of(function)}(handler)` here",
            )
        self.context = context
        self.call = node
        self.event: Event[Any] = event
        self.handler = node.args[0]
        given: dict[str, Expr] = {}
        if keys:
            check_written_key(context, keys[0].value)
            given = {context.temporary(): context.translate(keys[0].value)}
        self.key = next(iter(given), None)
        self.draft = BranchDraft(Label(), given, context.temporary())

    def compile(self) -> None:
        """A loop without an end: the wait, and the handler's call in its turn."""
        context, graph, payload = self.context, self.context.graph, self.draft.result
        first, scopes, again = len(graph.drafts), len(graph.scopes), Label()
        self.draft.label.used = True
        graph.mark(self.draft.label)
        graph.mark(again)
        takes = self.event.of is not NoneType
        context.use_event(self.call, self.event)
        key = None if self.key is None else Name(self.key)
        graph.emit(
            EventNode,
            self.call,
            event=self.event.name,
            target=payload if takes else None,
            key=key,
            timeout=None,
        )
        graph.emit(TurnNode, self.call, begins=True)
        called = ast.Call(self.handler, [Held.at(self.handler, Name(payload))] if takes else [], [])
        child = child_of(context, called)
        if child is not None and (names := handed_on(called, child)):
            raise context.refusal(
                self.handler,
                f"{text_of(self.handler)} inherits {', '.join(names)}, and nobody calls it where that is known",
                "write `async def handler(...)` above that awaits it",
            )
        awaited = ast.copy_location(ast.Await(ast.copy_location(called, self.handler)), self.handler)
        context.wait(context, awaited, None)
        if graph.live:
            graph.emit(TurnNode, self.call, begins=False)
            graph.jump(again)
        binds = (each.bind for scope in graph.scopes[scopes:] for each in scope.handlers if each.bind)
        own: dict[str, None] = dict.fromkeys([*self.draft.args, *graph.targets(first), *binds])
        self.draft.variables = tuple(own)
