"""When a schedule fires: the moments of its timing, right across changes of the clocks.

Of a cron expression of five fields that names an hour, a moment that the clocks pass over comes when they have, and one
that comes twice fires once, as Debian's cron does it; what fires each hour or each minute follows real time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from dressage.protocol.errors import BadInput
from dressage.protocol.schedules import (
    CRON_CHARS_MAX,
    CRONS_MAX,
    EVERY_S_MIN,
    JITTER_S_MAX,
    ScheduleSpec,
    Timing,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
EVERY_S_MAX: Final = 100 * 366 * 86_400.0
CATCH_UP_S_MAX: Final = 10 * 366 * 86_400.0


class Calendar:
    """The moments of a timing, in milliseconds since 1970.

    Raises `BadInput` (SCHEDULE_INVALID) for one that is none.
    """

    def __init__(self, timing: Timing, made_ms: int) -> None:
        """`made_ms` is when the schedule was made."""
        kinds = [bool(timing.cron), timing.every_s != 0.0, bool(timing.at)]
        if sum(kinds) != 1:
            raise _wrong("say when: by cron expressions, by an interval, or at one moment")
        self._zone = _zone(timing.zone)
        self._begins = _moment(timing.begins, "begins") if timing.begins else None
        self._until = _moment(timing.until, "until") if timing.until else None
        self._at = _moment(timing.at, "at") if timing.at else None
        self._every = 0
        if timing.every_s:
            if not EVERY_S_MIN <= timing.every_s <= EVERY_S_MAX:
                raise _wrong(
                    f"an interval has {EVERY_S_MIN:g} to {EVERY_S_MAX:.0f} seconds, not {timing.every_s:g}"
                )
            self._every = round(timing.every_s * 1000)
        self._from = made_ms + self._every if self._begins is None else self._begins
        self._crons = timing.cron
        if len(self._crons) > CRONS_MAX:
            raise _wrong(
                f"{len(self._crons)} cron expressions: at most {CRONS_MAX} are allowed (limit schedule-crons)"
            )
        for cron in self._crons:
            self._next_of(cron, made_ms)

    def after(self, moment_ms: int) -> int | None:
        """The first moment behind this one; None if there is none."""
        behind = moment_ms if self._begins is None else max(moment_ms, self._begins - 1)
        found: int | None
        if self._at is not None:
            found = self._at if self._at > behind else None
        elif self._every:
            found = self._from + max(0, (behind - self._from) // self._every + 1) * self._every
        else:
            nexts = (self._next_of(cron, behind) for cron in self._crons)
            found = min((each for each in nexts if each is not None), default=None)
        return None if found is None or (self._until is not None and found > self._until) else found

    def between(self, first_ms: int, last_ms: int) -> Iterator[int]:
        """The moments from the first to the last, both included."""
        moment = self.after(first_ms - 1)
        while moment is not None and moment <= last_ms:
            yield moment
            moment = self.after(moment)

    def _next_of(self, cron: str, behind_ms: int) -> int | None:
        if len(cron) > CRON_CHARS_MAX:
            raise _wrong(f"a cron expression has at most {CRON_CHARS_MAX} characters (limit schedule-crons)")
        start = (_EPOCH + timedelta(milliseconds=behind_ms)).astimezone(self._zone)
        try:
            found = next(islice(CronSim(cron, start), 1), None)
        except (CronSimError, ValueError, OverflowError, IndexError, AssertionError) as error:
            raise _wrong(
                f"cron expression {cron[:80]!r} is not valid: {error}. Write five fields, as in '30 8 * * MON-FRI' for "
                "half past eight on workdays, or six with seconds in front"
            ) from error
        return None if found is None else ms_of(found)


def check_schedule(spec: ScheduleSpec, made_ms: int) -> Calendar:
    """The calendar of a schedule. Raises `BadInput` (SCHEDULE_INVALID)."""
    if not 0 <= spec.jitter_s <= JITTER_S_MAX:
        raise _wrong(
            f"a jitter has 0 to {JITTER_S_MAX:.0f} seconds, not {spec.jitter_s:g} (limit schedule-jitter)"
        )
    if not 0 <= spec.catch_up_s <= CATCH_UP_S_MAX:
        raise _wrong(f"the time to catch up is 0 to {CATCH_UP_S_MAX:.0f} seconds, not {spec.catch_up_s:g}")
    if spec.run_id and not spec.timing.at:
        raise _wrong("a schedule that fires more than once gives each run an id of its own: leave run_id out")
    return Calendar(spec.timing, made_ms)


def due_ms(name: str, spec: ScheduleSpec, moment_ms: int) -> int:
    """When the fire for a moment is due: spread by the jitter, always the same for the same moment."""
    if not spec.jitter_s:
        return moment_ms
    spread = round(spec.jitter_s * 1000)
    return moment_ms + zlib.crc32(f"{name} {moment_ms}".encode()) % (spread + 1)


def ms_of(moment: datetime) -> int:
    """Milliseconds since 1970, rounded up."""
    return -((_EPOCH - moment) // _MILLISECOND)


def _moment(text: str, what: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise _wrong(f"{what} is no moment: {error}") from error
    if moment.utcoffset() is None:
        raise _wrong(f"{what} is {text}: a moment without a time zone depends on the machine: give it one")
    return ms_of(moment)


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # Cron expressions need no care for clocks that change then.
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise _wrong(f"there is no time zone {name[:80]!r}: write one as 'Europe/Berlin'") from error


def _wrong(message: str) -> BadInput:
    return BadInput(message, code="SCHEDULE_INVALID")
