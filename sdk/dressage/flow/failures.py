"""What a workflow catches: business failures, which its author names and raises, and technical errors.

::

    Exception                       whatever can be caught
    |- WorkflowFailure              a business outcome; never retried
    |  '- CardDeclined ...          subclasses of the author's
    |- TaskError                    a task failed technically, after its retries
    |  '- TaskTimeout               it was not done in its time; a TimeoutError, too
    |- ChildError                   a child run was not started, was cancelled, or passed a limit
    |- UserTaskCancelled            somebody cancelled a user task
    |- BranchCancelled              somebody cancelled a branch
    |- ExceptionGroup               what branches of a `gather` failed with
    |- TimeoutError                 what was waited for did not come in time; an OSError, as in Python
    '- ArithmeticError, LookupError, TypeError, ValueError ...   an expression failed, as it does in Python

That a run passed one of its limits ends it: no handler could go on as if there were room.
"""

from __future__ import annotations

import builtins
import copy
import dataclasses
import decimal
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, dataclass_transform

import msgspec

from dressage.expressions.types import RecordCodec
from dressage.flow.describe import TypeBook
from dressage.flow.members import Default, Unsupported
from dressage.flow.source import locals_around
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import BadValue, DefinitionError
from dressage.protocol.names import check_name
from dressage.protocol.spec import ANY_FAILURE
from dressage.protocol.types import Named

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def wire_name(identifier: str) -> str:
    """A Python name as one of ours: `CardDeclined` and `card_declined` both become `card-declined`."""
    return _WORD_STARTS.sub("-", identifier).lower().strip("_").replace("_", "-")


class FailureFields:
    """The fields that a failure class declares: a record type, by the name of the class. Raises `DefinitionError`."""

    def __init__(self, kind: type[WorkflowFailure], namespace: Mapping[str, Any]) -> None:
        self.book = TypeBook(namespace)
        try:
            self.record = self.book.failure(kind)
        except Unsupported as error:
            raise DefinitionError(f"failure {kind.__qualname__}: {error.what}\n{error.advice}") from error
        self._codec: RecordCodec = self.book.table().record(self.record)
        self.fields = tuple(self._codec.fields.values())
        self._wire = self.book.table().codec(Named(self.record))

    def encode(self, failure: WorkflowFailure) -> bytes:
        """The values of the fields as JSON. Raises `BadValue` for one that is not of its field's type."""
        values = {name: self._value(name, getattr(failure, name)) for name in self._codec.fields}
        return self._wire.encode(self._codec.make(values))

    def _value(self, name: str, value: Any) -> Any:
        try:
            return self.book.value(value)
        except Unsupported as error:
            raise BadValue(f"{self.record}.{name}: {error.what}") from error


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class _Declaring(Exception):
    """Tells type checkers that subclasses of `WorkflowFailure` are constructed with the fields that they declare."""


class WorkflowFailure(_Declaring):
    """Base of all business failures. Subclass it once for each outcome that a workflow tells apart::

        class CardDeclined(WorkflowFailure):              # wire name "card-declined"
            code: str
            retry_after: timedelta | None = None

        class CardStolen(CardDeclined): ...               # also caught by `except CardDeclined`

        raise CardDeclined("the bank said no", code="51")

    What it declares is given by name, checked as it is raised and again where it is received, and read by who
    catches it: `error.code`. The types are those of records. A class attribute `name` gives another wire name.

    Raises `TypeError` for a message that is no str, a field that is missing, unknown, or not of its type.
    """

    name: ClassVar[str] = ANY_FAILURE
    family: ClassVar[tuple[str, ...]] = ()
    """The wire names of the ancestors, nearest first."""

    _namespace: ClassVar[Mapping[str, Any]] = {}
    _declared: ClassVar[FailureFields | None] = None

    if TYPE_CHECKING:
        message: str = dataclasses.field(default="", kw_only=False)

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in cls.__dict__:
            cls.name = wire_name(cls.__name__)
        check_name(cls.name, "failure")
        ancestors = [base for base in cls.__mro__[1:] if issubclass(base, WorkflowFailure)]
        cls.family = tuple(base.name for base in ancestors if base is not WorkflowFailure)
        dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)(cls)
        for field in _fields(cls):
            if field.name in _TAKEN or field.name.startswith("_"):
                raise DefinitionError(
                    f"failure {cls.__qualname__} cannot have a field {field.name}\n"
                    "that name is taken, or begins with an underscore: give it another one"
                )
        cls._declared = None
        cls._namespace = locals_around(cls.__qualname__)

    def __init__(self, /, message: str = "", **fields: Any) -> None:
        if type(message) is not str:
            raise TypeError(f"a failure's message is a str, not {type(message).__name__}: use an f-string")
        super().__init__(message)
        self.message = message
        declared = self.declared()
        for name, value in _given(type(self), fields).items():
            setattr(self, name, value)
        if declared is not None:
            try:
                declared.encode(self)
            except BadValue as error:
                raise TypeError(error.message) from None

    @classmethod
    def declared(cls) -> FailureFields | None:
        """The fields that the class declares, those of its ancestors included; None if there are none."""
        if not _fields(cls):
            return None
        if cls._declared is None:
            cls._declared = FailureFields(cls, cls._namespace)
        return cls._declared

    @property
    def details(self) -> dict[str, Any]:
        """The fields as the JSON that other languages and readers see, by name."""
        details = self.info().details
        return msgspec.json.decode(details) if isinstance(details, msgspec.Raw) else {}

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Callable[..., WorkflowFailure], tuple[()], dict[str, Any]]:
        # That of exceptions gives the message alone, from which no failure with fields can be made.
        fields = {field.name: getattr(self, field.name) for field in _fields(type(self))}
        return partial(type(self), self.message, **fields), (), self.__dict__

    def info(self) -> FailureInfo:
        """The failure as it travels in a task's result. Raises `BadValue` if a field was set to another type."""
        declared = self.declared()
        details = msgspec.Raw(declared.encode(self)) if declared is not None else msgspec.UNSET
        return FailureInfo(name=self.name, message=self.message, details=details, family=self.family)


_TAKEN: Final = frozenset(dir(WorkflowFailure)) | {"message", "exceptions"}


def _fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:
    return () if kind is WorkflowFailure else dataclasses.fields(kind)


def _given(kind: type[WorkflowFailure], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every field that the class declares: what is given, or its default. Raises `TypeError`."""
    fields, names = _fields(kind), {field.name for field in _fields(kind)}
    for name in given:
        if name not in names:
            raise TypeError(f"{kind.__name__} has no field {name}: declare it in the class, as `{name}: str`")
    values: dict[str, Any] = {}
    for field in fields:
        default = Default(field.default, field.default_factory)
        if field.name in given:
            values[field.name] = given[field.name]
        elif default.required:
            raise TypeError(f"{kind.__name__} misses its field {field.name}")
        else:
            values[field.name] = copy.deepcopy(default.value())
    return values


class TaskError(Exception):
    """A task failed technically, and its retries are used up: a worker raised what is no `WorkflowFailure`, or gave
    back what is not of the task's type. Its text is that of the last attempt's error.

    Where a workflow's function runs as plain Python, a task's exception becomes a `TaskError`, too, with the exception
    as its cause.
    """


class TaskTimeout(TaskError, TimeoutError):
    """A task was not done in its time: its last attempt took longer than its `timeout`, or was silent for longer than
    its `heartbeat`; no worker took it within `start_timeout`; or its `deadline` has passed.
    """


class ChildError(Exception):
    """A child run did not do what it was to: it could not be started, was cancelled, or passed one of its limits.

    What its workflow fails with otherwise comes as that failure or error itself.
    """


class UserTaskCancelled(Exception):
    """Somebody cancelled a user task; the text is what they said."""


class BranchCancelled(Exception):
    """Somebody cancelled a branch of a `gather`, of a race or of an `interruptible`, and no more of the run; the text
    is what they said. The branch itself is cancelled as one is that loses a race.

    It is among the failures of a `gather` (`except* BranchCancelled`), and of a race if no branch is left that could
    win it. At an `interruptible` it comes by itself.
    """


def _errors_of_python() -> Iterator[type[Exception]]:
    """The classes of the errors that an expression can end with, and those that they derive from."""
    leaves = (ArithmeticError, AttributeError, LookupError, NameError, TypeError, ValueError)
    for kind in [*vars(builtins).values(), *vars(decimal).values()]:
        if isinstance(kind, type) and issubclass(kind, leaves):
            yield kind


CATCHABLE: Final[frozenset[type[BaseException]]] = frozenset(
    {
        Exception,
        TaskError,
        TaskTimeout,
        ChildError,
        UserTaskCancelled,
        BranchCancelled,
        ExceptionGroup,
        TimeoutError,
        OSError,
        *_errors_of_python(),
    }
)
"""What an `except` clause can name beside subclasses of `WorkflowFailure`."""
