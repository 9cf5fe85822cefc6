"""Moments, as people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import click

_AGO: Final = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Moment(click.ParamType[datetime]):
    """A moment with a time zone, in RFC 3339; with `ago` also how long before now. `more` is what else may be said."""

    name = "moment"

    def __init__(self, *, ago: bool = False, more: str = "") -> None:
        self._ago = ago
        self._more = more

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        how = (
            "write 2027-01-31T08:00:00Z"
            + (", or 30s, 10m, 2h, 1d for so long ago" if self._ago else "")
            + self._more
        )
        try:
            ago = _AGO.fullmatch(value) if self._ago else None
            if ago is not None:
                return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            moment = datetime.fromisoformat(value)
        except (ValueError, OverflowError) as error:
            self.fail(f"{error}: {how}", param, ctx)
        if moment.utcoffset() is None:
            self.fail(f"{value} has no time zone: write {value}Z, or {value}+01:00", param, ctx)
        return moment


MOMENT: Final = Moment()
SINCE: Final = Moment(ago=True)
SINCE_OR_ALL: Final = Moment(ago=True, more=", or all")
