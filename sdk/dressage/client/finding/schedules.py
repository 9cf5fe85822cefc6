"""All schedules, as the events tell of them."""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.brokers.interface import Connection
from dressage.client.finding.query import query
from dressage.protocol.names import Names

SCHEDULES_LIMIT: Final = 1_000


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
    connection: Connection,
    names: Names,
    *,
    workflow: str = "",
    limit: int = SCHEDULES_LIMIT,
    timeout_s: float = 10.0,
) -> list[FoundSchedule]:
    """As `Client.find_schedules`, of any connection."""
    return (await schedules_page(connection, names, workflow, limit, timeout_s))[0]


async def schedules_page(
    connection: Connection, names: Names, workflow: str, limit: int, timeout_s: float
) -> tuple[list[FoundSchedule], bool]:
    """As `schedules`, and whether there are more than that."""
    columns = ", ".join(FoundSchedule.__struct_fields__)
    sql = f"SELECT {columns} FROM schedules WHERE $workflow IN ('', workflow) ORDER BY next NULLS LAST, schedule"
    result = await query(
        connection, names, sql, {"workflow": workflow}, limit_rows=limit, fresh=True, timeout_s=timeout_s
    )
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    return msgspec.convert(rows, list[FoundSchedule]), result.truncated
