"""`await ship_order(order)`, where that is a workflow: a child run."""

from __future__ import annotations

import ast
import inspect

from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Context
from dressage.flow.runnable import Runnable
from dressage.protocol.expressions import Expr


def child_of(context: Context, call: ast.Call) -> Runnable | None:
    """The workflow that is called; None if the call is of something else."""
    found = context.names.object(call.func)
    return found if isinstance(found, Runnable) else None


def child_args(context: Context, call: ast.Call, child: Runnable) -> dict[str, Expr]:
    """The arguments of a child run by name. Refuses what does not fit the workflow's parameters."""
    parameters = inspect.signature(child.function).parameters
    places = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    return calls.bound(call, ast.unparse(call.func), child.spec.params, places, context.scope)
