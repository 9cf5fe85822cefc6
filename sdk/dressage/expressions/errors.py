"""What can go wrong while an expression is evaluated.

::

    ExpressionFailed       EXPRESSION_FAILED, kind "expression-error"
    '- LimitExceeded       LIMIT_EXCEEDED, kind "limit": the operation was not begun, it would be too large
"""

from __future__ import annotations

from dressage.protocol.commands import FailureKind
from dressage.protocol.errors import DressageError


class ExpressionFailed(DressageError):
    """An expression has no value. The message begins with Python's own name of the error, where it has one."""

    code = "EXPRESSION_FAILED"
    kind: FailureKind = "expression-error"

    @property
    def name(self) -> str:
        """What the run's failure is called."""
        return self.kind


class LimitExceeded(ExpressionFailed):
    """A value or an operation is larger than the engine allows; `limit` is its name in docs/limits.md."""

    code = "LIMIT_EXCEEDED"
    kind: FailureKind = "limit"

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(f"{message} (limit {limit})")
        self.limit = limit

    @property
    def name(self) -> str:
        return self.limit
