"""`await event.wait(...)`."""

from __future__ import annotations

import ast
from typing import Any

from dressage.expressions.spelling import text_of
from dressage.flow.compiler.context import Context
from dressage.flow.events import Event
from dressage.protocol.errors import BadInput
from dressage.protocol.expressions import Expr
from dressage.protocol.names import check_key


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
            f"write `{text_of(function.value)}.wait()`"
            + (", or give this to `interruptible()`" if function.attr == "interrupts" else ""),
        )
    return found


def wait_of(context: Context, node: ast.expr) -> str | None:
    """How the wait is written of an event that stands where a call should; None for what is no event."""
    if not isinstance(context.names.object(node), Event):
        return None
    return f"{text_of(node)}.wait()"


def wait_options(context: Context, call: ast.Call) -> dict[str, Any]:
    """What a wait is given, as it is written: a correlation `key`, and a `timeout`; without one it waits for ever."""
    odd = [*call.args, *(each for each in call.keywords if each.arg not in ("key", "timeout"))]
    names = [each.arg for each in call.keywords]
    if odd or len(set(names)) < len(names):
        raise context.refusal(
            odd[0] if odd else call,
            "wait() takes a key and a timeout by name",
            "write `wait(timeout=timedelta(days=7))`, or `wait(key=order.number)`",
        )
    if names == ["timeout", "key"]:
        raise context.refusal(
            call, "of a wait the key comes first", "write `wait(key=..., timeout=...)`, in this order"
        )
    options: dict[str, Any] = {}
    for each in call.keywords:
        if each.arg == "key":
            check_written_key(context, each.value)
            options["key"] = context.translate(each.value)
    timeout = written_timeout(context, call.keywords)
    if timeout is not None:
        options["timeout"] = timeout
    return options


def check_written_key(context: Context, node: ast.expr) -> None:
    """Refuses a constant that is no correlation key."""
    if not isinstance(node, ast.Constant):
        return
    try:
        check_key(node.value)
    except BadInput as wrong:
        raise context.refusal(
            node, wrong.message, "write what names the thing, such as `order.number`"
        ) from wrong


def written_timeout(context: Context, keywords: list[ast.keyword]) -> Expr | None:
    """The timeout among these arguments; None if there is none."""
    value = next((each.value for each in keywords if each.arg == "timeout"), None)
    if value is None:
        return None
    # As in Python: no timeout at all, if it is written so.
    return None if isinstance(value, ast.Constant) and value.value is None else context.translate(value)
