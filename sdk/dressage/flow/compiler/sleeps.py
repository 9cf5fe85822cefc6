"""`await sleep(...)` and `await sleep_until(...)`."""

from __future__ import annotations

import ast
from typing import NamedTuple

from dressage.flow.compiler.context import Context
from dressage.flow.compiler.watched import watched
from dressage.flow.sleeping import sleep, sleep_until
from dressage.protocol.expressions import Expr


def is_sleep(context: Context, call: ast.Call) -> bool:
    return context.names.object(call.func) is sleep


def is_sleep_until(context: Context, call: ast.Call) -> bool:
    return context.names.object(call.func) is sleep_until


def duration_of(context: Context, call: ast.Call) -> Expr:
    """How long it sleeps, as it is written."""
    given = _only(call, "duration")
    if given is None:
        raise context.refusal(call, "sleep() takes one duration", "write `await sleep(timedelta(hours=1))`")
    return context.translate(given)


class Moment(NamedTuple):
    """Until when it sleeps; a `watched` one is computed again when variables change."""

    expr: Expr
    watched: bool


def moment_of(context: Context, call: ast.Call) -> Moment:
    """Until when it sleeps, as it is written."""
    given = _only(call, "when")
    if given is None:
        raise context.refusal(call, "sleep_until() takes one moment", "write `await sleep_until(order.due)`")
    if isinstance(given, ast.Lambda):
        advice = "write `sleep_until(lambda: view.due)`"
        return Moment(watched(context, given, "a moment that may change", advice), True)
    return Moment(context.translate(given), False)


def _only(call: ast.Call, name: str) -> ast.expr | None:
    """The one argument of a call, by place or by this name."""
    keywords = [each.value for each in call.keywords if each.arg == name]
    given = [*call.args, *keywords]
    return given[0] if len(given) == 1 and len(keywords) == len(call.keywords) else None
