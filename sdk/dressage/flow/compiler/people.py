"""`await approve_order.assign(group="billing")`."""

from __future__ import annotations

import ast
from typing import Any

from dressage.expressions.spelling import text_of
from dressage.flow.compiler.context import Context
from dressage.flow.people import UserTask
from dressage.protocol.expressions import Expr
from dressage.protocol.spec import USER_TASK_ARGS


def user_task_of(context: Context, call: ast.Call) -> UserTask[Any] | None:
    """The user task that is given to somebody; None if the call is none of that."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return None
    found = context.names.object(function.value)
    if not isinstance(found, UserTask):
        return None
    if function.attr != "assign":
        raise context.refusal(
            function,
            f"a user task cannot do {function.attr}() here",
            f'write `{text_of(function.value)}.assign(group="billing")`',
        )
    return found


def assign_of(context: Context, node: ast.expr) -> str | None:
    """How a user task is given to somebody that stands where a call should; None for what is no user task."""
    if not isinstance(context.names.object(node), UserTask):
        return None
    return f'{text_of(node)}.assign(group="billing")'


def assign_args(context: Context, call: ast.Call) -> dict[str, Expr]:
    """What a user task is given, in the order in which it is written; what is written as None is not given."""
    names = [each.arg for each in call.keywords]
    odd = [*call.args, *(each for each in call.keywords if each.arg not in USER_TASK_ARGS)]
    if odd or len(set(names)) < len(names):
        raise context.refusal(
            odd[0] if odd else call,
            "assign() takes what it takes by name, each once",
            f"write `assign(group=...)`; there are {', '.join(USER_TASK_ARGS)}",
        )
    said = {each.arg: each.value for each in call.keywords if each.arg and not _is_none(each.value)}
    if not ({"user", "group"} & said.keys()):
        raise context.refusal(
            call,
            "a user task is for somebody",
            'write `assign(group="billing")`, or `assign(user=order.owner)`',
        )
    if "escalate_to" in said and "escalate_after" not in said:
        raise context.refusal(
            call, "nothing says when it goes to escalate_to", "add `escalate_after=timedelta(days=1)`"
        )
    if "escalate_after" in said and not ({"group", "escalate_to"} & said.keys()):
        raise context.refusal(
            call, "a user task that escalates goes to a group", 'add `escalate_to="team-leads"`'
        )
    return {name: context.translate(value) for name, value in said.items()}


def _is_none(node: ast.expr) -> bool:
    """As in Python: nothing at all, if it is written so."""
    return isinstance(node, ast.Constant) and node.value is None
