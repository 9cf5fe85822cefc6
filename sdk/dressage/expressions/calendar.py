"""When a schedule fires: the moments of its timing, right across changes of the clocks.

Of a cron expression of five fields whose minute and hour do not begin with `*`, a moment that the clocks pass over
comes when they have, and one that comes twice fires once, as Debian's cron does it; all others follow real time.

The rules of zones are those of the package `tzdata`, so that they are the same on every host.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from importlib import resources
from itertools import islice
from typing import Final
from zoneinfo import ZoneInfo

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
_SECOND: Final = timedelta(seconds=1)
_DAY: Final = timedelta(days=1)
MOMENT_MS_MAX: Final = 7_258_118_400_000
"""The year 2200: a server counts nanoseconds in 64 bits, which end in 2262, and fires at once what is later."""

MOMENT_CHARS_MAX: Final = 64
"""Characters of a moment: there may be digits behind the milliseconds."""

_TWICE_MAX: Final = 4_000
"""A cron expression has no more moments in an hour, which is what may come twice."""

EVERY_S_MAX: Final = 100 * 366 * 86_400.0
CATCH_UP_S_MAX: Final = 10 * 366 * 86_400.0


class Calendar:
    """The moments of a timing, in milliseconds since 1970, up to the year 2200.

    Raises `BadInput` (SCHEDULE_INVALID) for one that is none.
    """

    def __init__(self, timing: Timing, made_ms: int) -> None:
        """`made_ms` is when the schedule was made."""
        kinds = [bool(timing.cron), timing.every_s != 0.0, bool(timing.at)]
        if sum(kinds) != 1:
            raise _wrong("say when: by cron expressions, by an interval, or at one moment")
        if timing.at and (timing.begins or timing.until):
            raise _wrong("one moment has neither a begin nor an end: leave out begins and until")
        if timing.zone != "UTC" and not timing.cron:
            raise _wrong(f"zone {timing.zone[:80]!r} is for cron expressions: leave it out")
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
        self._known: dict[str, tuple[int, int | None]] = {}
        """Of each expression where was looked last, and what was found."""

        for cron in self._crons:
            if self._next_of(cron, made_ms) is None:
                raise _wrong(f"cron expression {cron[:80]!r} never fires: there is no such day")

    def after(self, moment_ms: int) -> int | None:
        """The first moment behind this one, and always behind it; None if there is none."""
        behind = moment_ms if self._begins is None else max(moment_ms, self._begins - 1)
        found: int | None
        if self._at is not None:
            found = self._at if self._at > behind else None
        elif self._every:
            found = self._from + max(0, (behind - self._from) // self._every + 1) * self._every
        else:
            nexts = (self._next_of(cron, behind) for cron in self._crons)
            found = min((each for each in nexts if each is not None), default=None)
        last = MOMENT_MS_MAX if self._until is None else self._until
        return None if found is None or found > last else found

    def between(self, first_ms: int, last_ms: int) -> Iterator[int]:
        """The moments from the first to the last, both included."""
        moment = self.after(first_ms - 1)
        while moment is not None and moment <= last_ms:
            yield moment
            moment = self.after(moment)

    def _next_of(self, cron: str, behind_ms: int) -> int | None:
        known = self._known.get(cron)
        if known is not None and known[0] <= behind_ms and (known[1] is None or behind_ms < known[1]):
            return known[1]
        found = self._search(cron, behind_ms)
        self._known[cron] = behind_ms, found
        return found

    def _search(self, cron: str, behind_ms: int) -> int | None:
        if len(cron) > CRON_CHARS_MAX:
            raise _wrong(f"a cron expression has at most {CRON_CHARS_MAX} characters (limit schedule-crons)")
        if behind_ms >= MOMENT_MS_MAX:
            return None
        start = _EPOCH + timedelta(milliseconds=behind_ms)
        try:
            if _follows_real_time(cron):
                return ms_of(self._next_in_real_time(cron, start))
            # In an hour that comes twice, what it finds may lie in its first pass.
            moments = map(ms_of, islice(CronSim(cron, start.astimezone(self._zone)), _TWICE_MAX))
            return next((each for each in moments if each > behind_ms), None)
        except (CronSimError, ValueError, OverflowError, IndexError, AssertionError) as error:
            raise _wrong(
                f"cron expression {cron[:80]!r} is not valid: {error}. Write five fields, as in '30 8 * * MON-FRI' for "
                "half past eight on workdays, or six with seconds in front"
            ) from error

    def _next_in_real_time(self, cron: str, start: datetime) -> datetime:
        """The first instant behind `start` at which the clocks show what fits, be it for the second time.

        cronsim knows changes of whole hours only, so it is asked for each time between two changes by itself."""
        since = after = start
        while True:
            offset = _offset(self._zone, since)
            found = next(CronSim(cron, (after + offset).replace(tzinfo=None))) - offset
            found = found.replace(tzinfo=UTC)
            change = _change_between(self._zone, since, found)
            if change is None:
                return found
            since, after = change, change - _SECOND


def _follows_real_time(cron: str) -> bool:
    fields = cron.split()
    return len(fields) != 5 or fields[0].startswith("*") or fields[1].startswith("*")


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _change_between(zone: tzinfo, since: datetime, until: datetime) -> datetime | None:
    """The first second behind `since`, up to `until`, at which the clocks are not as far from UTC as then."""
    before, low = _offset(zone, since), since
    while low < until:
        high = min(low + _DAY, until)
        if _offset(zone, high) == before:
            low = high
            continue
        low, high = low.replace(microsecond=0), high.replace(microsecond=0)
        while high - low > _SECOND:
            middle = (low + (high - low) / 2).replace(microsecond=0)
            low, high = (middle, high) if _offset(zone, middle) == before else (low, middle)
        return high
    return None


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
    if len(text) > MOMENT_CHARS_MAX:
        raise _wrong(
            f"{what} is no moment: it has more than {MOMENT_CHARS_MAX} characters (limit moment-size)"
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise _wrong(f"{what} is no moment: {error}") from error
    if moment.utcoffset() is None:
        raise _wrong(f"{what} is {text}: a moment without a time zone depends on the machine: give it one")
    found = ms_of(moment)
    if not 0 <= found <= MOMENT_MS_MAX:
        raise _wrong(f"{what} is {text}: moments lie between 1970 and the year 2200 (limit moment)")
    return found


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # Cron expressions need no care for clocks that change then.
    if name not in _zones():
        raise _wrong(f"there is no time zone {name[:80]!r}: write one as 'Europe/Berlin'")
    return _zone_of(name)


@lru_cache(1)
def _zones() -> frozenset[str]:
    return frozenset(resources.files("tzdata").joinpath("zones").read_text().split())


@lru_cache(1_024)
def _zone_of(name: str) -> ZoneInfo:
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as rules:
        return ZoneInfo.from_file(rules, name)


def _wrong(message: str) -> BadInput:
    return BadInput(message, code="SCHEDULE_INVALID")
