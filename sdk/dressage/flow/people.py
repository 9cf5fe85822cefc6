"""User tasks: what a workflow asks a person, or a group of people, to do."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Generic, TypedDict, TypeVar, Unpack, cast

from dressage.expressions.large import LargePlaces
from dressage.flow.describe import TypeBook
from dressage.flow.members import Unsupported
from dressage.flow.wire import Wire
from dressage.protocol.errors import DefinitionError
from dressage.protocol.names import check_name
from dressage.protocol.spec import UserTaskDef
from dressage.protocol.types import Named, RecordType
from dressage.protocol.user_tasks import wrong_with_assignment

T = TypeVar("T")
Duration = timedelta | float


class Options(TypedDict, total=False):
    """What `assign` takes, all of it by name."""

    user: str | None
    group: str | None
    notes: str | None
    due: timedelta | float | datetime | None
    remind: Duration | None
    escalate_after: Duration | None
    escalate_to: str | None
    timeout: Duration | None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a user task was given in plain Python: a fake decides by it."""

    user: str | None = None
    group: str | None = None
    notes: str | None = None
    due: timedelta | float | datetime | None = None
    remind: Duration | None = None
    escalate_after: Duration | None = None
    escalate_to: str | None = None
    timeout: Duration | None = None


Person = Callable[[Assignment], Any]
_people: dict[str, Person] = {}
"""Process-wide, as the fakes of tasks are."""


class UserTask(Generic[T]):
    """Work for people, by its name, with the class that its form is filled into::

        @dataclass
        class Approval:
            ok: bool
            reason: str = ""

        approve_order = UserTask("approve-order", form=Approval)

    In a workflow `approval = await approve_order.assign(group="billing", due=timedelta(days=2))` gives it to a group,
    to a user, or to a user of a group, and waits until it is done. Who users and groups are is known to the application
    in front of the people; to a run they are texts.

    The form is a dataclass, a Struct, a pydantic model or a TypedDict: whatever a record of a workflow can be, with
    texts, numbers, dates, choices (an Enum or a Literal), records and lists in it.

    Raises `DefinitionError` for a form that is no such class, `BadName` for the name.
    """

    def __init__(self, name: str, *, form: type[T]) -> None:
        check_name(name, "user task")
        around = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        self.book = TypeBook(around.f_locals if around.f_code.co_name != "<module>" else None)
        self.form = form
        try:
            ref = self.book.ref(form)
        except Unsupported as error:
            raise DefinitionError(f"user task {name}: {error.what}\n{error.advice}") from error
        record = self.book.definitions.get(ref.name) if isinstance(ref, Named) else None
        if not isinstance(record, RecordType) or record.form == "tuple":
            shown = getattr(form, "__name__", form)
            raise DefinitionError(
                f"user task {name}: its form is {shown}, which has no fields by name\nwrite a dataclass with a field "
                "for each thing that is to be filled in"
            )
        if LargePlaces(self.book.definitions.values()).has(ref):
            raise DefinitionError(
                f"user task {name}: its form has a large field, which nobody could fill in\nleave it out, and let "
                "people name what a task then looks into"
            )
        self.type = ref
        self.definition = UserTaskDef(name, record.name)

    @property
    def name(self) -> str:
        return self.definition.name

    async def assign(self, **options: Unpack[Options]) -> T:
        """The filled form, in a workflow, once somebody has completed it.

        It is for a `user`, a `group`, or both: then for this user, who can release it to the group. `notes` are for
        whoever does it. When it is not done by `due`, a moment or so long after it was given, that is told by an output
        event. When it has been with the same people for `remind`, so is that, and again after as long. When it has been
        with them for `escalate_after` it is taken from them, once, and given to the group `escalate_to`, or without one
        to its own group. Durations are timedeltas or seconds.

        Raises `TimeoutError` if it is not done within `timeout`, `UserTaskCancelled` if somebody cancels it, and
        `ValueError` where it is for nobody, or would escalate to nobody. Where a workflow's function runs as plain
        Python, it is done by what a test says (`faked`).
        """
        given = Assignment(**options)
        wrong = wrong_with_assignment(
            given.user or "",
            given.group or "",
            given.escalate_to or "",
            given.notes or "",
            escalates=given.escalate_after is not None,
        )
        if wrong:
            raise ValueError(wrong)
        if isinstance(given.due, datetime) and given.due.utcoffset() is None:
            raise ValueError("due of a datetime without a time zone depends on the machine: give it one")
        person = _people.get(self.name)
        if person is None:
            raise NotImplementedError(
                f"nobody does it in plain Python: say who does, by `{self.name}.faked(...)`"
            )
        filled = person(given)
        return cast("T", await filled if inspect.isawaitable(filled) else filled)

    @contextmanager
    def faked(self, person: Callable[[Assignment], T | Awaitable[T]]) -> Iterator[None]:
        """Inside the `with` block it is done as `person` says of what it was given, in the whole process; that may
        raise `TimeoutError` or `UserTaskCancelled`. For unit tests."""
        before = _people.get(self.name)
        _people[self.name] = person
        try:
            yield
        finally:
            if before is None:
                del _people[self.name]
            else:
                _people[self.name] = before

    # -- on the wire -------------------------------------------------------------------------------
    @cached_property
    def _filled(self) -> Wire:
        masked = self.book.table().codec(self.type).mask is not None
        return Wire(self.form, f"the form of user task {self.name}", masked=masked)

    def encode(self, filled: T) -> bytes:
        """A filled form as JSON. Raises `BadValue` for what is none."""
        return self._filled.encode(filled)

    def __repr__(self) -> str:
        return f"<user task {self.name}>"
