"""The user tasks of all runs, by who is to do them, how they stand, and when they are due."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal

import msgspec

from dressage.analytics.query import QueryResult, query
from dressage.brokers.interface import Connection
from dressage.protocol.errors import BadInput
from dressage.protocol.names import Names

State = Literal["open", "unassigned", "assigned", "done", "cancelled", "timed-out", "withdrawn"]
"""How a user task stands; "open" is unassigned or assigned."""

LIMIT: Final = 100


class FoundUserTask(msgspec.Struct, frozen=True):
    """A user task of some run, as the events tell of it. Empty texts: nobody, nothing said."""

    run_id: str
    user_task_id: str
    user_task: str
    workflow: str
    version: int
    state: State
    user_id: str
    group_id: str
    notes: str
    opened_at: str
    due_at: str | None
    overdue: bool
    closed_at: str | None
    epoch: int
    reminders: int
    comments: int


_COLUMNS: Final = ", ".join(FoundUserTask.__struct_fields__)


async def user_tasks(
    connection: Connection,
    names: Names,
    *,
    user: str = "",
    group: str = "",
    state: State = "open",
    user_task: str = "",
    workflow: str = "",
    due_before: datetime | None = None,
    limit: int = LIMIT,
    timeout_s: float = 10.0,
) -> list[FoundUserTask]:
    """Those that fit all that is said, the most urgent first: by when they are due, then by when they were given.

    What was told when this is asked is reflected. Raises as `query` does.
    """
    said: dict[str, Any] = {"user": user, "group": group, "name": user_task, "workflow": workflow}
    columns = {"user": "user_id", "group": "group_id", "name": "user_task", "workflow": "workflow"}
    asked = {key: value for key, value in said.items() if value}
    conditions = [f"{columns[key]} = ${key}" for key in asked]
    if state == "open":
        conditions.append("state IN ('unassigned', 'assigned')")
    else:
        conditions.append("state = $state")
        asked["state"] = state
    if due_before is not None and due_before.utcoffset() is None:
        raise BadInput("due_before has a time zone: without one it depends on the machine")
    if due_before is not None:
        conditions.append("due_at < $due::TIMESTAMPTZ")
        asked["due"] = due_before.isoformat()
    sql = (
        f"SELECT {_COLUMNS} FROM user_tasks WHERE {' AND '.join(conditions)} "
        "ORDER BY due_at NULLS LAST, opened_at, run_id, user_task_id"
    )
    told = await connection.stream_state(names.events_stream)
    result = await query(
        connection,
        names,
        sql,
        asked or None,
        limit_rows=limit,
        not_before={} if told is None else {names.events_stream: told.last_seq},
        timeout_s=timeout_s,
    )
    return _found(result)


def _found(result: QueryResult) -> list[FoundUserTask]:
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    return msgspec.convert(rows, list[FoundUserTask])
