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


class LimitExceeded(ExpressionFailed):
    """A value or an operation is larger than the engine allows (see `dressage.expressions.limits`)."""

    code = "LIMIT_EXCEEDED"
    kind: FailureKind = "limit"
