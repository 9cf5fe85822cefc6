"""What one evaluation reads, and how much work it may still do.

Work is counted in units of about ten nanoseconds on the machine of docs/benchmark.md: what an operation looks at or
makes, counted from sizes alone. No clock is asked, so that folding a command again comes to the same end. What is
small is paid for beforehand, with the number of an expression's parts; an operation pays itself what grows with its
operands.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.expressions.limits import SMALL_BITS, SMALL_DECIMAL_BYTES, weigh, weigh_decimal, weigh_int

WORK_MAX = 20_000_000
"""Units of work of one command of a run, or of one evaluation outside of a run."""

OPERATION_WORK = 16
"""Units of one operation on small values."""

SMALL_TEXT = 64
"""A text of so many characters costs no more than any other value."""

SMALL_WEIGHT = 256
"""A record of so much weight costs no more than its parts do."""

_CHEAP = frozenset({float, bool, type(None)})


class Frame:
    """The variables of an evaluation and its budget, which several evaluations may share."""

    __slots__ = ("_variables", "left", "locals")

    def __init__(self, variables: Mapping[str, Any], work: int = WORK_MAX) -> None:
        self._variables = variables
        self.left = work
        self.locals: dict[int, Any] = {}
        """The variables of comprehensions and lambdas, by their slot in the expression that is evaluated."""

    def __getitem__(self, name: str) -> Any:
        """The value of a variable. Raises `KeyError`."""
        return self._variables[name]

    def bind(self, name: str, value: Any) -> None:
        """Sets a variable, as `(name := value)` does. Raises `ExpressionFailed` where no variable can be set."""
        raise ExpressionFailed(
            f"TypeError: variable {name} cannot be set here: there is no run that it belongs to"
        )

    def spend(self, units: int) -> None:
        """Takes `units` from the budget. Raises `LimitExceeded` when it is exhausted."""
        self.left -= units
        if self.left < 0:
            raise LimitExceeded(
                "work-per-command",
                f"more than {WORK_MAX} units of work without waiting: let a task do it, or sleep in between",
            )

    def spend_on(self, value: Any) -> None:
        """Takes what looking at all of `value` costs, if that is more than for a small value."""
        kind = type(value)
        if kind is int:
            if value.bit_length() > SMALL_BITS:
                self.spend(weigh_int(value))
        elif kind is Decimal:
            if value.__sizeof__() > SMALL_DECIMAL_BYTES:
                self.spend(weigh_decimal(value))
        elif kind is str or kind is bytes:
            if len(value) > SMALL_TEXT:
                self.spend(len(value) >> 3)
        elif kind not in _CHEAP:
            self.spend(weigh(value))
