"""What a workflow catches: business failures, which its author names and raises, and technical errors.

::

    Exception                       whatever can be caught
    |- WorkflowFailure              a business outcome; never retried
    |  '- CardDeclined ...          subclasses of the author's
    |- TaskError                    a task failed technically, after its retries
    |- ExceptionGroup               what branches of a `gather` failed with
    '- ArithmeticError, LookupError, TypeError, ValueError ...   an expression failed, as it does in Python

That a run passed one of its limits ends it: no handler could go on as if there were room.
"""

from __future__ import annotations

import builtins
import decimal
import re
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import msgspec

from dressage.expressions.checks import not_json
from dressage.protocol.commands import FailureInfo
from dressage.protocol.names import check_name
from dressage.protocol.spec import ANY_FAILURE

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def wire_name(identifier: str) -> str:
    """A Python name as one of ours: `CardDeclined` and `card_declined` both become `card-declined`."""
    return _WORD_STARTS.sub("-", identifier).lower().strip("_").replace("_", "-")


class WorkflowFailure(Exception):
    """Base of all business failures. Subclass it once for each outcome that a workflow tells apart::

        class CardDeclined(WorkflowFailure): ...          # wire name "card-declined"
        class CardStolen(CardDeclined): ...               # also caught by `except CardDeclined`

    A class attribute `name` gives another wire name. `details` are JSON values, for whoever catches it.
    """

    name: ClassVar[str] = ANY_FAILURE
    family: ClassVar[tuple[str, ...]] = ()
    """The wire names of the ancestors, nearest first."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in cls.__dict__:
            cls.name = wire_name(cls.__name__)
        check_name(cls.name, "failure")
        ancestors = [base for base in cls.__mro__[1:] if issubclass(base, WorkflowFailure)]
        cls.family = tuple(base.name for base in ancestors if base is not WorkflowFailure)

    def __init__(self, message: str = "", **details: Any) -> None:
        if type(message) is not str:
            raise TypeError(f"a failure's message is a str, not {type(message).__name__}: use an f-string")
        wrong = not_json(details)
        if wrong is not None:
            raise TypeError(f"the details of a failure are JSON values{wrong}")
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def __str__(self) -> str:
        return self.message

    def info(self) -> FailureInfo:
        """The failure as it travels in a task's result."""
        details = msgspec.Raw(msgspec.json.encode(self.details)) if self.details else msgspec.UNSET
        return FailureInfo(name=self.name, message=self.message, details=details, family=self.family)


class TaskError(Exception):
    """A task failed technically, and its retries are used up: a worker raised what is no `WorkflowFailure`, or gave
    back what is not of the task's type. Its text is that of the last attempt's error.

    Where a workflow's function runs as plain Python, a task's exception becomes a `TaskError`, too, with the exception
    as its cause.
    """


def _errors_of_python() -> Iterator[type[Exception]]:
    """The classes of the errors that an expression can end with, and those that they derive from."""
    leaves = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    for kind in [*vars(builtins).values(), *vars(decimal).values()]:
        if isinstance(kind, type) and issubclass(kind, leaves):
            yield kind


CATCHABLE: Final[frozenset[type[BaseException]]] = frozenset(
    {Exception, TaskError, ExceptionGroup, *_errors_of_python()}
)
"""What an `except` clause can name beside subclasses of `WorkflowFailure`."""
