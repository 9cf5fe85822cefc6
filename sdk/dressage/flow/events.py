"""External events: what other services and people tell a run."""

from __future__ import annotations

import inspect
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from types import NoneType
from typing import Any, Final, Generic, TypeVar, cast, overload

from dressage.flow.describe import TypeBook
from dressage.flow.interrupts import Interrupt
from dressage.flow.members import Unsupported
from dressage.flow.wire import Wire
from dressage.protocol.errors import BadInput, DefinitionError
from dressage.protocol.names import check_key, check_name
from dressage.protocol.spec import EventDef
from dressage.protocol.spec_check import EXPIRES_S_MAX

T = TypeVar("T")
Timeout = timedelta | float | None

Source = Callable[..., Any]
_sources: dict[str, Source] = {}
"""Process-wide, as the fakes of tasks are."""

_returned: dict[tuple[str, Any], deque[Any]] = {}
"""What waits took, by event and key, and gave back."""


_NO_KEY: Final = object()


class Event(Generic[T]):
    """An external event by its name, with a payload of one type::

        item_arrived = Event("item-arrived", of=bool)

    In a workflow `await item_arrived.wait(timeout=timedelta(days=7))` takes the earliest one that was posted to the run
    and that no other wait has claimed, or waits for one. Without a payload leave `of` out.

    `await paid.wait(key=order.number)` takes one that was posted to this correlation key, by somebody who knows the
    order's number and not the run: all that wait there take it, or else the first run that comes.

    One that nothing has claimed after `expires` is dropped; without it, it is kept as long as the run goes on, at a key
    for ever. A `lasting` one is kept at its key until it expires, also when it was taken, for runs that come later;
    each wait of a run takes one that this run has not had.

    Raises `DefinitionError` for a type that JSON cannot carry and for a lasting event that does not expire, `BadName`
    for the name.
    """

    @overload
    def __init__(
        self: Event[None], name: str, *, expires: timedelta | None = None, lasting: bool = False
    ) -> None: ...
    @overload
    def __init__(
        self, name: str, *, of: type[T], expires: timedelta | None = None, lasting: bool = False
    ) -> None: ...
    def __init__(
        self,
        name: str,
        *,
        of: type[Any] = NoneType,
        expires: timedelta | None = None,
        lasting: bool = False,
    ) -> None:
        check_name(name, "event")
        around = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        self.book = TypeBook(around.f_locals if around.f_code.co_name != "<module>" else None)
        self.of = of
        expires_s = None if expires is None else expires.total_seconds()
        if expires_s is not None and not 0 < expires_s <= EXPIRES_S_MAX:
            raise DefinitionError(
                f"event {name}: expires is {expires}\ngive a timedelta of more than nothing and at most a century"
            )
        if lasting and expires is None:
            raise DefinitionError(
                f"event {name}: a lasting event that never expires would be kept for ever\nsay when it expires"
            )
        try:
            self.definition = EventDef(name, self.book.ref(of), expires_s, lasting)
        except Unsupported as error:
            raise DefinitionError(f"event {name}: {error.what}\n{error.advice}") from error

    @property
    def name(self) -> str:
        return self.definition.name

    @overload
    async def wait(self, *, timeout: Timeout = None) -> T: ...
    @overload
    async def wait(self, *, key: str, timeout: Timeout = None) -> T: ...
    async def wait(self, *, key: Any = _NO_KEY, timeout: Timeout = None) -> T:
        """The payload of the event, in a workflow: of one that was posted to the run, or to a correlation `key`, a text
        of 1 to 128 bytes.

        Raises `TimeoutError` if none comes within `timeout`, a timedelta or seconds, and `TypeError` or `ValueError`
        for what is no key. Where a workflow's function runs as plain Python, it is what a test says (`faked`).
        """
        if key is not _NO_KEY:
            check_wait_key(key)
        source = _sources.get(self.name)
        if source is None:
            raise NotImplementedError(
                f"nothing comes in plain Python: say what does, by `{self.name}.faked(...)`"
            )
        returned = _returned.get((self.name, key))
        if returned:
            return cast("T", returned.popleft())
        payload = source(timeout) if key is _NO_KEY else source(timeout, key)
        return cast("T", await payload if inspect.isawaitable(payload) else payload)

    @overload
    def interrupts(
        self: Event[None], handler: Callable[[], Awaitable[object]], *, key: str = ...
    ) -> Interrupt: ...
    @overload
    def interrupts(self, handler: Callable[[T], Awaitable[object]], *, key: str = ...) -> Interrupt: ...
    def interrupts(self, handler: Callable[..., Awaitable[object]], *, key: Any = _NO_KEY) -> Interrupt:
        """For `interruptible`: whenever this event comes, to the run or to a correlation `key`, `handler` is called
        with its payload, if it has one, and what is interrupted pauses until that has ended."""

        async def wait() -> tuple[Any, ...]:
            payload = await self.wait(key=key)
            return () if self.of is NoneType else (payload,)

        def give_back(given: tuple[Any, ...]) -> None:
            _returned.setdefault((self.name, key), deque()).append(given[0] if given else None)

        return Interrupt(wait, give_back, handler, keyed=key is not _NO_KEY)

    @contextmanager
    def faked(
        self, source: Callable[[Timeout], T | Awaitable[T]] | Callable[[Timeout, str], T | Awaitable[T]]
    ) -> Iterator[None]:
        """Inside the `with` block waits get what `source` gives for their timeout, and for their key if they have one,
        in the whole process; it may raise `TimeoutError`. For unit tests."""
        before = _sources.get(self.name)
        _sources[self.name] = source
        try:
            yield
        finally:
            for each in [each for each in _returned if each[0] == self.name]:
                del _returned[each]
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


def check_wait_key(key: object, what: str = "correlation key") -> str:
    """A key as a wait, or a call, takes it. Raises `TypeError` or `ValueError`, as the engine does in the workflow."""
    try:
        return check_key(key, what)
    except BadInput as error:
        kind = ValueError if isinstance(key, str) else TypeError
        raise kind(error.message) from error
