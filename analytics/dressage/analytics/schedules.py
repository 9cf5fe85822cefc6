"""All schedules, as the events tell of them."""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.analytics.query import query
from dressage.brokers.interface import Connection
from dressage.protocol.names import Names

LIMIT: Final = 1_000


class FoundSchedule(msgspec.Struct, frozen=True):
    """A schedule, with how often it fired and what came of that."""

    schedule: str
    workflow: str
    next: str | None
    paused: bool
    fired: int
    skipped: int
    missed: int
    completed: int
    failed: int
    changed_at: str


async def schedules(
    connection: Connection, names: Names, *, workflow: str = "", limit: int = LIMIT, timeout_s: float = 10.0
) -> list[FoundSchedule]:
    """Those that there are, the next one to fire first. What was told when this is asked is reflected.

    Raises as `query` does.
    """
    columns = ", ".join(FoundSchedule.__struct_fields__)
    sql = f"SELECT {columns} FROM schedules WHERE $workflow IN ('', workflow) ORDER BY next NULLS LAST, schedule"
    told = await connection.stream_state(names.events_stream)
    result = await query(
        connection,
        names,
        sql,
        {"workflow": workflow},
        limit_rows=limit,
        not_before={} if told is None else {names.events_stream: told.last_seq},
        timeout_s=timeout_s,
    )
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    return msgspec.convert(rows, list[FoundSchedule])
