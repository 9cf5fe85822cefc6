"""One expression on its way to a function: how deep its parts are, what they cost, which variables are its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from dressage.expressions.builtins import BUILTINS
from dressage.expressions.frame import OPERATION_WORK, Frame
from dressage.expressions.limits import EXPRESSION_MAX_DEPTH
from dressage.expressions.types import TypeTable
from dressage.expressions.values import Value
from dressage.protocol.errors import BadSpec
from dressage.protocol.expressions import Call, Comprehension, Expr

Evaluate = Callable[[Frame], Value]


class Whole:
    """What the parts of one expression share."""

    def __init__(self, table: TypeTable, compilers: Mapping[type, Compiler]) -> None:
        self.table = table
        self.compilers = compilers
        self.work = 0
        """Units of evaluating every part once that was compiled so far."""
        self.slots = 0
        """Variables of its own so far."""


class Part:
    """Compiles what is directly inside one node of the tree: `part(inner)`."""

    __slots__ = ("depth", "locals", "whole")

    def __init__(self, whole: Whole, depth: int, local: Mapping[str, int]) -> None:
        self.whole = whole
        self.depth = depth
        self.locals = local
        """The variables of comprehensions and lambdas around this place, with their slots in a frame."""

    def __call__(self, expr: Expr) -> Evaluate:
        """The function of a part that must be a value. Raises `BadSpec`."""
        if is_transient(expr):
            raise BadSpec(
                "a generator, range or view stands where a value is needed: it can only be consumed at once, "
                "as in list(...)"
            )
        return self.consumed(expr)

    def consumed(self, expr: Expr) -> Evaluate:
        """The function of a part that whoever asks for it consumes at once, so that it may be lazy."""
        if self.depth <= 0:
            raise BadSpec(
                f"an expression nests too deep: at most {EXPRESSION_MAX_DEPTH} levels; use a variable "
                "(limit expression-depth)"
            )
        self.whole.work += OPERATION_WORK
        inner = Part(self.whole, self.depth - 1, self.locals)
        return self.whole.compilers[type(expr)](expr, inner, self.whole.table)

    def around(self, names: Iterable[str]) -> Part:
        """For parts that have more variables of their own."""
        slots: dict[str, int] = {}
        for name in names:
            slots[name] = self.whole.slots
            self.whole.slots += 1
        # One level more: their JSON nests deeper than that of other parts.
        return Part(self.whole, self.depth - 1, {**self.locals, **slots})


Compiler = Callable[[Any, Part, TypeTable], Evaluate]

UNSET: Final = object()
"""In a slot that has no value yet."""


def is_transient(expr: Expr) -> bool:
    """Whether an expression gives no value, but what is to be consumed at once."""
    if isinstance(expr, Call):
        builtin = BUILTINS.get(expr.function)
        return builtin is not None and builtin.transient
    return isinstance(expr, Comprehension) and expr.kind == "generator"
