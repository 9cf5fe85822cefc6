"""The inbox: a task's own effect in a database happens once, however often the task is executed.

A task is executed at least once. What it writes to a database, and the fact that it has, are one transaction here.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable
from typing import Any, Final, overload

import msgspec

from dressage.client.values import as_raw
from dressage.outbox.connections import (
    AsyncConnection,
    Bound,
    CursorConnection,
    Rows,
    Script,
    Statement,
    SyncConnection,
    bind,
)
from dressage.outbox.names import INBOX_TABLE
from dressage.protocol.errors import BadInput
from dressage.worker import current_task

MESSAGE_ID_BYTES_MAX: Final = 400
RESULT_BYTES_MAX: Final = 256 * 1024

_INSERT: Final = {
    "postgresql": f"INSERT INTO {INBOX_TABLE} (id, token) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
    "sqlite": f"INSERT INTO {INBOX_TABLE} (id, token) VALUES (?, ?) ON CONFLICT (id) DO NOTHING",
    "mysql": f"INSERT INTO {INBOX_TABLE} (id, token) VALUES (?, ?) ON DUPLICATE KEY UPDATE id = id",
}
_SELECT: Final = {
    "postgresql": f"SELECT token, result FROM {INBOX_TABLE} WHERE id = ?",
    "sqlite": f"SELECT token, result FROM {INBOX_TABLE} WHERE id = ?",
    # A plain read may show a time before the other transaction's commit.
    "mysql": f"SELECT token, result FROM {INBOX_TABLE} WHERE id = ? FOR UPDATE",
}
_KEEP: Final = f"UPDATE {INBOX_TABLE} SET result = ? WHERE id = ?"


class _Once:
    """True the first time; a repeat is false, and has the `result` that was kept then, None without one."""

    def __init__(self, message_id: str, bound: Bound, *, first: bool, result: Any) -> None:
        self.message_id = message_id
        self.result = result
        self._first = first
        self._bound = bound

    def __bool__(self) -> bool:
        return self._first

    def _keep(self, result: Any) -> Script[None]:
        raw = bytes(as_raw(result, "RESULT_INVALID"))
        if len(raw) > RESULT_BYTES_MAX:
            raise BadInput(
                f"a result takes {len(raw)} bytes of {RESULT_BYTES_MAX} allowed: keep it in a table of yours "
                "(limit inbox-result-size)",
                code="INBOX_RESULT_TOO_LARGE",
            )
        yield Statement(_KEEP, (raw.decode(), self.message_id))
        self.result = msgspec.json.decode(raw)


class Once(_Once):
    """What `once` gives for a connection that blocks."""

    def keep(self, result: Any) -> None:
        """Stores a result, anything that JSON can carry, for repeats, in the same transaction."""
        self._bound.run(self._keep(result))


class AsyncOnce(_Once):
    """What `once` gives for a connection that is awaited."""

    async def keep(self, result: Any) -> None:
        """Stores a result, anything that JSON can carry, for repeats, in the same transaction."""
        kept = self._bound.run(self._keep(result))
        assert isinstance(kept, Awaitable), "the connection is awaited"
        await kept


@overload
def once(  # pyright: ignore[reportOverlappingOverload]  # who is awaited is the narrower one
    connection: AsyncConnection, message_id: str | None = None
) -> Awaitable[AsyncOnce]: ...
@overload
def once(connection: SyncConnection | CursorConnection, message_id: str | None = None) -> Once: ...
def once(
    connection: AsyncConnection | SyncConnection | CursorConnection, message_id: str | None = None
) -> Once | Awaitable[AsyncOnce]:
    """Whether this is the first time, in the transaction of `connection`; true again if that is rolled back::

        with Session(engine) as session, session.begin():
            if inbox.once(session):
                session.add(booking)

    Without a `message_id` it is that of the task that runs here, the same in all of its attempts. Two that come at the
    same time wait for each other: the second one is a repeat if the first one commits. Raises `BadInput`: NO_TASK
    outside of a task without a message id, INBOX_ID_INVALID, OUTBOX_CONNECTION_UNKNOWN, OUTBOX_NO_TRANSACTION.
    """
    chosen = _checked(current_task().idempotency_key if message_id is None else message_id)
    bound = bind(connection)
    made: Any = bound.run(_asked(bound, chosen))
    return made  # type: ignore[no-any-return]


def _asked(bound: Bound, message_id: str) -> Script[_Once]:
    token = uuid.uuid4().hex
    yield Statement(_INSERT[bound.dialect], (message_id, token))
    rows: Rows = yield Statement(_SELECT[bound.dialect], (message_id,), gives_rows=True)
    known, result = rows[0]
    kept = None if result is None else msgspec.json.decode(result)
    made = AsyncOnce if bound.is_async else Once
    return made(message_id, bound, first=known == token, result=kept)


def _checked(message_id: str) -> str:
    try:
        size = len(message_id.encode())
    except UnicodeEncodeError:
        size = 0
    if not 0 < size <= MESSAGE_ID_BYTES_MAX or "\0" in message_id:
        raise BadInput(
            f"a message id is text of 1 to {MESSAGE_ID_BYTES_MAX} bytes without NUL: this one has {size} "
            "(limit inbox-id-size)",
            code="INBOX_ID_INVALID",
        )
    return message_id
