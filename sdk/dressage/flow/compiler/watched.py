"""What a run looks at again and again while it waits: a `lambda` without parameters."""

from __future__ import annotations

import ast

from dressage.flow.compiler.context import Context
from dressage.protocol.expressions import Expr, variables_in


def watched(context: Context, node: ast.Lambda, what: str, advice: str) -> Expr:
    """The expression of the lambda, in the variables around it. Refuses one that takes parameters.

    A lambda sees variables as they are when it is called. Those of a comprehension are then at their last item: that
    is never meant, and refused.
    """
    given = node.args
    params = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    if any(params):
        raise context.refusal(node, f"{what} is a lambda without parameters", advice)
    scope = context.scope
    expr = scope.locally(()).translate(node.body)
    for name in sorted(variables_in(expr) & scope.comprehended):
        raise context.refusal(
            node,
            f"Python looks at {name} when the comprehension is over, and finds its last item",
            f"write an async function that takes {name} and awaits this, and make that the branch",
        )
    return expr
