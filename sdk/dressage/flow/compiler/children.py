"""`await ship_order(order)`, where that is a workflow: a child run; `ship_order.start(order)` does not wait for it."""

from __future__ import annotations

import ast
import inspect
from typing import Any, Final, NamedTuple, cast, get_args

from dressage.expressions.spelling import text_of
from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Context
from dressage.flow.runnable import Runnable
from dressage.protocol.expressions import Expr
from dressage.protocol.spec import ParentClose
from dressage.protocol.spec_sizes import CHILD_ID

_OPTIONS: Final = ("run_id", "parent_close")


class ChildCall(NamedTuple):
    """A run of `workflow` that is started, with an id of the author's if there is one."""

    workflow: Runnable
    run_id: ast.expr | None
    detached: bool
    close: ParentClose

    def fields(self, args: dict[str, Expr]) -> dict[str, Any]:
        """Those of its node, with what it is given."""
        given = dict(args)
        return {
            "workflow": self.workflow.spec.name,
            "run_id": given.pop(CHILD_ID, None),
            "args": given,
            "detached": self.detached,
            "close": self.close,
        }


def child_of(context: Context, call: ast.Call) -> ChildCall | None:
    """The workflow that is called, with its options; None if the call is of something else."""
    function, detached = call.func, False
    if isinstance(function, ast.Attribute) and _is_child(context, function.value):
        if function.attr != "start":
            written = text_of(function.value)
            raise context.refusal(
                function,
                f"a workflow cannot do {function.attr}() here",
                f"write `await {written}(...)`, or `await {written}.start(...)`",
            )
        function, detached = function.value, True
    if not _is_child(context, function):
        return None
    options = function if isinstance(function, ast.Call) else None
    found = context.names.object(function if options is None else _owner(options))
    run_id, close = _options(context, options, detached=detached)
    return ChildCall(found, run_id, detached, close)


def child_args(context: Context, call: ast.Call, child: ChildCall) -> dict[str, Expr]:
    """The arguments of a child run by name, behind its id. Refuses what does not fit the workflow's parameters."""
    chosen = {} if child.run_id is None else {CHILD_ID: context.translate(child.run_id)}
    parameters = inspect.signature(child.workflow.function).parameters
    places = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    name, params = text_of(call.func), child.workflow.spec.params
    return chosen | calls.bound(call, name, params, places, context.scope, handed_on(call, child))


def handed_on(call: ast.Call, child: ChildCall) -> list[str]:
    """The parameters that are inherited, as the call does not give them."""
    parameters = inspect.signature(child.workflow.function).parameters
    given = {*[*parameters][: len(call.args)], *(each.arg for each in call.keywords)}
    return [name for name in child.workflow.signature.inherited if name not in given]


def _is_child(context: Context, node: ast.expr) -> bool:
    """Whether this is a workflow, or one with options."""
    if isinstance(node, ast.Call):
        function = node.func
        return (
            isinstance(function, ast.Attribute)
            and function.attr == "options"
            and isinstance(context.names.object(function.value), Runnable)
        )
    return isinstance(context.names.object(node), Runnable)


def _owner(options: ast.Call) -> ast.expr:
    assert isinstance(options.func, ast.Attribute)
    return options.func.value


def _options(
    context: Context, call: ast.Call | None, *, detached: bool
) -> tuple[ast.expr | None, ParentClose]:
    run_id: ast.expr | None = None
    close: ParentClose = "abandon"
    if call is None:
        return run_id, close
    if call.args:
        advice = 'write `.options(run_id=f"ship-{order.id}")`'
        raise context.refusal(call.args[0], "options are given by name", advice)
    for keyword in call.keywords:
        if keyword.arg not in _OPTIONS:
            known = " and ".join(_OPTIONS)
            raise context.refusal(keyword, f"there is no option {keyword.arg}", f"the options are {known}")
        if keyword.arg == "run_id":
            run_id = keyword.value
            continue
        if not detached:
            what = "a child run that is awaited is cancelled with its parent"
            raise context.refusal(keyword, what, "leave parent_close out, or `start` it")
        written = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
        if written not in get_args(ParentClose):
            known = ", ".join(f'"{each}"' for each in get_args(ParentClose))
            raise context.refusal(keyword.value, "this is no policy", f"write one of {known}")
        close = cast("ParentClose", written)
    return run_id, close
