"""What passing faults do to a connector: they are told once, and it goes on with one event at a time until they end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from dressage.protocol.errors import BadInput, DressageError, Refused
from dressage.telemetry import Gauge

_log = logging.getLogger("dressage.connectors")

T = TypeVar("T")

PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0


class Faults:
    """The faults of one connector that are expected to pass, at most one for each part of it (source, engine, ...)."""

    def __init__(self, name: str, faulty: Gauge, kind: str = "trigger") -> None:
        self._whose = f"{kind} {name!r}"
        self._faulty = faulty
        self._last: dict[str, str] = {}

    def __getitem__(self, part: str) -> str:
        """The code of the part's fault; empty while all is well."""
        return self._last.get(part, "")

    def begin(self, part: str, code: str, message: str) -> None:
        """Logged once for each change, however often it is told."""
        if self[part] != code:
            _log.warning("%s waits: %s: %s", self._whose, code, message)
        self._last[part] = code
        self._faulty.set(1)

    def end(self, part: str) -> None:
        code = self._last.pop(part, None)
        if code is not None:
            _log.info("%s goes on: %s is over", self._whose, code)
        self._faulty.set(1 if self._last else 0)


class Gate:
    """Open while all is well. While a fault lasts, one event at a time passes, after a pause that grows.

    Without it every event in flight would be tried again and again, and each try leaves a command in a stream
    that nobody empties while there is no orchestrator.
    """

    def __init__(self, faults: Faults, part: str) -> None:
        self._faults = faults
        self._part = part
        self._pause_s = PAUSE_MIN_S
        self._one_at_a_time = asyncio.Lock()

    @asynccontextmanager
    async def passage(self) -> AsyncIterator[None]:
        """Waits for its turn while there is a fault; the body tells by `works` or `fails` how it went."""
        if self._faults[self._part]:
            async with self._one_at_a_time:
                if self._faults[self._part]:
                    await asyncio.sleep(self._pause_s)
                    self._pause_s = min(PAUSE_MAX_S, 2 * self._pause_s)
                    yield
                    return
        yield

    async def through(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Asks the engine when its turn has come, and notes how that went. Raises `BadInput` or `Refused` for what it
        will never take, which says that it works, and other errors for what may pass."""
        async with self.passage():
            try:
                answer = await ask()
            except (BadInput, Refused):
                self.works()
                raise
            except DressageError as error:
                self.fails(error.code, error.message)
                raise
            self.works()
            return answer

    def works(self) -> None:
        """An event came through."""
        if self._faults[self._part]:
            self._faults.end(self._part)
            self._pause_s = PAUSE_MIN_S

    def fails(self, code: str, message: str) -> None:
        """An event did not come through, for a reason that is expected to pass."""
        self._faults.begin(self._part, code, message)
