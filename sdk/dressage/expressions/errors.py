"""What can go wrong while an expression is evaluated.

::

    ExpressionFailed       EXPRESSION_FAILED, kind "expression-error"
    '- LimitExceeded       LIMIT_EXCEEDED, kind "limit": the operation was not begun, it would be too large
"""

from __future__ import annotations

import builtins
import decimal
import re
from functools import lru_cache

from dressage.protocol.commands import FailureInfo, FailureKind
from dressage.protocol.errors import DressageError


@lru_cache(maxsize=256)
def error_family(name: str) -> tuple[str, ...]:
    """The classes by which `except` takes Python's error of this name, the nearest first; an unknown one is any."""
    kind = getattr(builtins, name, None) or getattr(decimal, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return ("Exception",)
    return tuple(each.__name__ for each in kind.__mro__ if issubclass(each, Exception))


_BEFORE_TEXT = re.compile(r"(?:line \d+: )?\w+(?:: |$)")


def text_of_failure(failure: FailureInfo) -> str:
    """What `str()` gives of a caught failure: for an error of Python's own what Python says, without its name."""
    if failure.kind == "expression-error":
        return _BEFORE_TEXT.sub("", failure.message, count=1)
    return failure.message


class ExpressionFailed(DressageError):
    """An expression has no value. The message begins with Python's own name of the error, where it has one."""

    code = "EXPRESSION_FAILED"
    kind: FailureKind = "expression-error"

    @property
    def name(self) -> str:
        """What the run's failure is called."""
        return self.kind

    @property
    def family(self) -> tuple[str, ...]:
        """By what it can be caught."""
        return error_family(self.message.partition(":")[0])


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

    @property
    def family(self) -> tuple[str, ...]:
        """None: no handler may go on as if there were room."""
        return ()
