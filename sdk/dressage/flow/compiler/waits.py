"""`await event.wait(...)`."""

from __future__ import annotations

import ast
from typing import Any

from dressage.flow.compiler.context import Context
from dressage.flow.events import Event
from dressage.protocol.expressions import Expr


def event_of(context: Context, call: ast.Call) -> Event[Any] | None:
    """The event that is waited for; None if the call is no wait."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return None
    found = context.names.object(function.value)
    if not isinstance(found, Event):
        return None
    if function.attr != "wait":
        raise context.refusal(
            function,
            f"an event cannot do {function.attr}() here",
            f"write `{ast.unparse(function.value)}.wait()`",
        )
    return found


def timeout_of(context: Context, call: ast.Call) -> Expr | None:
    """How long a wait for an event waits, as it is written; None for ever."""
    odd = [*call.args, *(each for each in call.keywords if each.arg != "timeout")]
    if odd or len(call.keywords) > 1:
        raise context.refusal(
            odd[0] if odd else call,
            "wait() takes a timeout by name",
            "write `wait(timeout=timedelta(days=7))`",
        )
    return written_timeout(context, call.keywords)


def written_timeout(context: Context, keywords: list[ast.keyword]) -> Expr | None:
    """The timeout among these arguments; None if there is none."""
    value = next((each.value for each in keywords if each.arg == "timeout"), None)
    if value is None:
        return None
    # As in Python: no timeout at all, if it is written so.
    return None if isinstance(value, ast.Constant) and value.value is None else context.translate(value)
