"""`await publish(...)`."""

from __future__ import annotations

import ast
from typing import Any, Final

from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Context
from dressage.flow.publishing import publish
from dressage.protocol.names import wrong_with_subject
from dressage.protocol.types import ANY, Field, Scalar

_FIELDS: Final = (Field("subject", Scalar("str")), Field("data", ANY))
_PLACES: Final = tuple(field.name for field in _FIELDS)


def is_publish(context: Context, call: ast.Call) -> bool:
    return context.names.object(call.func) is publish


def given_to(context: Context, call: ast.Call) -> dict[str, Any]:
    """Subject and data, as they are written."""
    given = calls.bound(call, "publish", _FIELDS, _PLACES, context.scope)
    if tuple(given) != _PLACES:
        raise context.refusal(call, "the subject is looked at before the data", "write it first")
    subject = call.args[0] if call.args else call.keywords[0].value
    if isinstance(subject, ast.Constant) and isinstance(subject.value, str):
        wrong = wrong_with_subject(subject.value)
        if wrong:
            raise context.refusal(subject, wrong, "write one such as `orders.accepted`")
    return given
