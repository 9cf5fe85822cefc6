"""The user tasks of all runs, by who is to do them, how they stand, and when they are due."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, Literal, TypedDict, Unpack

import msgspec

from dressage.brokers.interface import Connection
from dressage.client.finding.query import QueryResult, query
from dressage.client.finding.runs import LIMIT
from dressage.protocol.errors import BadInput
from dressage.protocol.names import Names

UserTaskState = Literal["open", "unassigned", "assigned", "done", "cancelled", "timed-out", "withdrawn"]
"""How a user task stands; "open" is unassigned or assigned."""


class UserTasksAsked(TypedDict, total=False):
    """What can be said of user tasks."""

    user: str
    group: str
    state: UserTaskState
    user_task: str
    workflow: str
    due_before: datetime | None
    limit: int
    timeout_s: float


class FoundUserTask(msgspec.Struct, frozen=True):
    """A user task of some run, as the events tell of it. Empty texts: nobody, nothing said."""

    run_id: str
    user_task_id: str
    user_task: str
    workflow: str
    version: int
    state: UserTaskState
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


async def user_tasks_page(
    connection: Connection,
    names: Names,
    *,
    user: str = "",
    group: str = "",
    state: UserTaskState = "open",
    user_task: str = "",
    workflow: str = "",
    due_before: datetime | None = None,
    limit: int = LIMIT,
    timeout_s: float = 10.0,
) -> tuple[list[FoundUserTask], bool]:
    """As `user_tasks`, and whether there are more than that."""
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
    result = await query(
        connection,
        names,
        sql,
        asked or None,
        limit_rows=limit,
        fresh=True,
        timeout_s=timeout_s,
    )
    return _found(result), result.truncated


async def user_tasks(
    connection: Connection, names: Names, **asked: Unpack[UserTasksAsked]
) -> list[FoundUserTask]:
    """As `Client.find_user_tasks`, of any connection."""
    return (await user_tasks_page(connection, names, **asked))[0]


def _found(result: QueryResult) -> list[FoundUserTask]:
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    return msgspec.convert(rows, list[FoundUserTask])
