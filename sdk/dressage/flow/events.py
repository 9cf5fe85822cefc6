"""External events: what other services and people tell a run."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from types import NoneType
from typing import Any, Generic, TypeVar, cast, overload

from dressage.flow.describe import TypeBook
from dressage.flow.members import Unsupported
from dressage.flow.wire import Wire
from dressage.protocol.errors import DefinitionError
from dressage.protocol.names import check_name
from dressage.protocol.spec import EventDef
from dressage.protocol.spec_check import EXPIRES_S_MAX

T = TypeVar("T")
Timeout = timedelta | float | None

_sources: dict[str, Callable[[Timeout], Any]] = {}
"""Process-wide, as the fakes of tasks are."""


class Event(Generic[T]):
    """An external event by its name, with a payload of one type::

        item_arrived = Event("item-arrived", of=bool)

    In a workflow `await item_arrived.wait(timeout=timedelta(days=7))` takes the earliest one that was posted to the run
    and that no other wait has claimed, or waits for one. Without a payload leave `of` out.

    One that nothing has claimed after `expires` is dropped; without it, it is kept as long as the run goes on.

    Raises `DefinitionError` for a type that JSON cannot carry, `BadName` for the name.
    """

    @overload
    def __init__(self: Event[None], name: str, *, expires: timedelta | None = None) -> None: ...
    @overload
    def __init__(self, name: str, *, of: type[T], expires: timedelta | None = None) -> None: ...
    def __init__(self, name: str, *, of: type[Any] = NoneType, expires: timedelta | None = None) -> None:
        check_name(name, "event")
        around = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        self.book = TypeBook(around.f_locals if around.f_code.co_name != "<module>" else None)
        self.of = of
        expires_s = None if expires is None else expires.total_seconds()
        if expires_s is not None and not 0 < expires_s <= EXPIRES_S_MAX:
            raise DefinitionError(
                f"event {name}: expires is {expires}\ngive a timedelta of more than nothing and at most a century"
            )
        try:
            self.definition = EventDef(name, self.book.ref(of), expires_s)
        except Unsupported as error:
            raise DefinitionError(f"event {name}: {error.what}\n{error.advice}") from error

    @property
    def name(self) -> str:
        return self.definition.name

    async def wait(self, *, timeout: Timeout = None) -> T:
        """The payload of the event, in a workflow.

        Raises `TimeoutError` if none comes within `timeout`, a timedelta or seconds. Where a workflow's function runs
        as plain Python, it is what a test says (`faked`).
        """
        source = _sources.get(self.name)
        if source is None:
            raise NotImplementedError(
                f"nothing comes in plain Python: say what does, by `{self.name}.faked(...)`"
            )
        payload = source(timeout)
        return cast("T", await payload if inspect.isawaitable(payload) else payload)

    @contextmanager
    def faked(self, source: Callable[[Timeout], T | Awaitable[T]]) -> Iterator[None]:
        """Inside the `with` block waits get what `source` gives for their timeout, in the whole process; it may raise
        `TimeoutError`. For unit tests."""
        before = _sources.get(self.name)
        _sources[self.name] = source
        try:
            yield
        finally:
            if before is None:
                del _sources[self.name]
            else:
                _sources[self.name] = before

    # -- on the wire -------------------------------------------------------------------------------
    @cached_property
    def _payload(self) -> Wire:
        masked = self.book.table().codec(self.definition.type).mask is not None
        return Wire(self.of, f"the payload of event {self.name}", masked=masked)

    def encode(self, payload: T) -> bytes:
        """A payload as JSON. Raises `BadValue` for what is not of the event's type."""
        return self._payload.encode(payload)

    def __repr__(self) -> str:
        return f"<event {self.name}>"
