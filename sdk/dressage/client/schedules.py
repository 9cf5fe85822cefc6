"""Schedules: when runs are started by themselves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final, Protocol

from dressage.expressions.calendar import Calendar, ms_of
from dressage.protocol.commands import (
    Command,
    DeleteSchedule,
    FireSchedule,
    PauseSchedule,
)
from dressage.protocol.errors import BadInput
from dressage.protocol.names import check_actor
from dressage.protocol.schedules import Overlap, ScheduleSpec, ScheduleView, Timing


@dataclass(frozen=True, slots=True)
class Cron:
    """The moments of a cron expression, or of several, in a time zone: `Cron("30 8 * * MON-FRI", zone="Asia/Tokyo")`.

    Five fields (minute, hour, day of the month, month, day of the week), or six with seconds in front; with `L` for the
    last day, `LW` for the last workday, and `MON#2` for the second Monday.
    """

    expressions: tuple[str, ...]
    zone: str = "UTC"
    begins: datetime | None = None
    until: datetime | None = None

    def __init__(
        self,
        *expressions: str,
        zone: str = "UTC",
        begins: datetime | None = None,
        until: datetime | None = None,
    ) -> None:
        object.__setattr__(self, "expressions", expressions)
        object.__setattr__(self, "zone", zone)
        object.__setattr__(self, "begins", begins)
        object.__setattr__(self, "until", until)


@dataclass(frozen=True, slots=True)
class Every:
    """A moment every so often, from `begins` on, or from when the schedule is made."""

    interval: timedelta
    begins: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class At:
    """One moment."""

    moment: datetime


When = Cron | Every | At


def timing_of(when: When) -> Timing:
    """Raises `BadInput` (SCHEDULE_INVALID) for moments without a time zone."""
    match when:
        case Cron():
            return Timing(
                cron=when.expressions, zone=when.zone, begins=_text(when.begins), until=_text(when.until)
            )
        case Every():
            return Timing(
                every_s=when.interval.total_seconds(), begins=_text(when.begins), until=_text(when.until)
            )
        case At():
            return Timing(at=_text(when.moment))


def _text(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat()


def upcoming(when: When, after: datetime) -> Iterator[datetime]:
    """The moments behind this one, as the engine finds them, without jitter. Raises `BadInput` (SCHEDULE_INVALID)."""
    behind = moment_ms(after)
    calendar = Calendar(timing_of(when), behind)
    moment = calendar.after(behind)
    while moment is not None:
        yield datetime.fromtimestamp(moment // 1000, UTC) + timedelta(milliseconds=moment % 1000)
        moment = calendar.after(moment)


def moment_ms(moment: datetime) -> int:
    """Milliseconds since 1970. Raises `BadInput` (SCHEDULE_INVALID) for one without a time zone."""
    if moment.utcoffset() is None:
        raise BadInput(f"{moment} has no time zone: it would depend on the machine", code="SCHEDULE_INVALID")
    return ms_of(moment)


class Tells(Protocol):
    """What a client does for a schedule."""

    async def tell_schedule(self, name: str, command: Command) -> int: ...

    async def get_schedule(self, name: str) -> ScheduleView: ...


class ScheduleHandle:
    """A schedule by its name.

    Each method gives the sequence of its command, and raises `Refused` (SCHEDULE_UNKNOWN) where there is no such
    schedule. With a `command_id` of the caller's the same call again changes nothing.
    """

    def __init__(self, client: Tells, name: str, actor: str) -> None:
        self._client: Final = client
        self.name: Final = name
        self.actor: Final = actor

    async def view(self) -> ScheduleView:
        """As it stands. Raises `NotFound` (SCHEDULE_UNKNOWN), or `NoAnswer`."""
        return await self._client.get_schedule(self.name)

    async def pause(self, reason: str = "", *, command_id: str | None = None) -> int:
        """It fires no more until it is resumed. Its runs go on."""
        return await self._tell(PauseSchedule(command_id_of(command_id), True, reason, self.actor))

    async def resume(self, *, command_id: str | None = None) -> int:
        """It fires again, from the next moment on; those that have passed meanwhile can be made up for (`backfill`)."""
        return await self._tell(PauseSchedule(command_id_of(command_id), paused=False, actor=self.actor))

    async def fire(self, *, command_id: str | None = None) -> int:
        """Fires it now, also if it is paused; what its overlap policy says holds."""
        return await self._tell(FireSchedule(command_id_of(command_id), actor=self.actor))

    async def backfill(
        self,
        first: datetime,
        last: datetime,
        *,
        overlap: Overlap | None = None,
        command_id: str | None = None,
    ) -> int:
        """Fires it for all its moments from `first` to `last`, at most a thousand that have passed. A moment for which
        there was a run starts none again.

        What its overlap policy says holds, unless another `overlap` is given: with "skip" it starts a run for the first
        of the moments, and none for the others while that is open; "queue" takes up to a hundred, one after the other,
        and "allow" starts them all at once.

        Raises `Refused` (SCHEDULE_INVALID) for more, `BadInput` for moments without a time zone.
        """
        first_ms, last_ms = moment_ms(first), moment_ms(last)
        if not 0 < first_ms <= last_ms:
            raise BadInput(f"{first} is not before {last}", code="SCHEDULE_INVALID")
        return await self._tell(
            FireSchedule(command_id_of(command_id), first_ms, last_ms, overlap, self.actor)
        )

    async def delete(self, *, command_id: str | None = None) -> int:
        """It is no more. Its runs go on."""
        return await self._tell(DeleteSchedule(command_id_of(command_id), self.actor))

    async def upcoming(self, count: int = 5) -> list[datetime]:
        """Its next moments, if nobody changes it."""
        view = await self.view()
        made_ms = ms_of(datetime.fromisoformat(view.made_at))
        calendar = Calendar(view.spec.timing, made_ms)
        moments: list[int] = []
        moment = None if not view.next else ms_of(datetime.fromisoformat(view.next))
        while moment is not None and len(moments) < count:
            moments.append(moment)
            moment = calendar.after(moment)
        return [datetime.fromtimestamp(each / 1000, UTC) for each in islice(moments, count)]

    async def _tell(self, command: Command) -> int:
        return await self._client.tell_schedule(self.name, command)

    def __repr__(self) -> str:
        return f"<schedule {self.name}>"


def command_id_of(given: str | None) -> str:
    """The caller's, or a new one where that is empty: all that have none would be one. Raises `BadInput`."""
    return check_actor(given, "command id") if given else uuid.uuid4().hex


__all__ = ["At", "Cron", "Every", "ScheduleHandle", "ScheduleSpec", "When", "upcoming"]
