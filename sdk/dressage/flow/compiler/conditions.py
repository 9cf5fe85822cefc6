"""`await wait_until(...)`."""

from __future__ import annotations

import ast
from typing import Final, NamedTuple

from dressage.expressions.spelling import text_of
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.helpers import helper_of
from dressage.flow.compiler.waits import written_timeout
from dressage.flow.compiler.watched import watched
from dressage.flow.conditions import wait_until
from dressage.protocol.expressions import Expr
from dressage.protocol.spec_sizes import CONDITION_CHARS_MAX

_ADVICE: Final = "write `wait_until(lambda: view.approvals >= 2)`"
_CUT: Final = " ..."


class Condition(NamedTuple):
    """What is waited for: the expression, as it is written, and how long at most (None: for ever)."""

    expr: Expr
    text: str
    timeout: Expr | None


def is_wait_until(context: Context, call: ast.Call) -> bool:
    return context.names.object(call.func) is wait_until


def condition_of(context: Context, call: ast.Call) -> Condition:
    """What it waits for, as it is written."""
    named = [each.value for each in call.keywords if each.arg == "condition"]
    given = [*call.args, *named]
    others = [each for each in call.keywords if each.arg not in ("condition", "timeout")]
    if len(given) != 1 or others:
        place = others[0] if others else given[1] if len(given) > 1 else call
        what = "wait_until() takes one condition, and a timeout by name"
        raise context.refusal(place, what, "write `wait_until(lambda: ..., timeout=timedelta(days=2))`")
    (condition,) = given
    if not isinstance(condition, ast.Lambda):
        what = "a condition is looked at again and again, and this is computed once"
        text = text_of(condition) + "()" * (helper_of(condition, context.scope) is not None)
        raise context.refusal(condition, what, f"write `wait_until(lambda: {text})`")
    timeout = written_timeout(context, call.keywords)
    text = context.scope.source.written(condition.body)
    return Condition(watched(context, condition, "a condition", _ADVICE), _shown(text), timeout)


def _shown(text: str) -> str:
    if len(text) <= CONDITION_CHARS_MAX:
        return text
    return text[: CONDITION_CHARS_MAX - len(_CUT)] + _CUT
