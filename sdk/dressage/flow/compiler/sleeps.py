"""`await sleep(...)`."""

from __future__ import annotations

import ast

from dressage.flow.compiler.context import Context
from dressage.flow.sleeping import sleep
from dressage.protocol.expressions import Expr


def is_sleep(context: Context, call: ast.Call) -> bool:
    return context.names.object(call.func) is sleep


def duration_of(context: Context, call: ast.Call) -> Expr:
    """How long it sleeps, as it is written."""
    keywords = [each.value for each in call.keywords if each.arg == "duration"]
    given = [*call.args, *keywords]
    if len(given) != 1 or len(keywords) != len(call.keywords):
        raise context.refusal(call, "sleep() takes one duration", "write `await sleep(timedelta(hours=1))`")
    return context.translate(given[0])
