"""The table in SQL: the same statements for each database, but for how it spells a lock, a list and the time.

How rows are taken, so that the order of a key holds whatever other relays do:

1. Lock the oldest rows that are due, and skip what others have locked.
2. *Then* look for rows of the same keys that wait, are older, and are not among them: somebody else has those, or they
   are not due. What is behind one is left.

A row is pending until whoever holds it commits that it is settled. So at the time of the second look a row of a key
that comes before one of ours is seen, or is settled; it cannot be under way unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from dressage.outbox.connections import Dialect
from dressage.outbox.names import INBOX_TABLE, TABLE
from dressage.outbox.relay.store import Batch, Dead, Depth, Outcome, Row, Verdict

INLINE_BYTES: Final = 16 * 1024
"""A larger message is read by itself, so that a batch of them does not fill the memory."""

BATCH_BYTES_MAX: Final = 16 * 1024 * 1024
KEY_ROWS: Final = 50
"""So many rows of a key are in a batch, as they are sent one after the other, and the batch lasts as long."""

LOOKS: Final = 20
"""So often a taker looks behind rows of keys that have to wait, as there may be hundreds of those in front."""

REASON_CHARS: Final = 1_000
"""So much is kept of why a message is dead."""


class Db(Protocol):
    """One connection to a database. Everything of it raises `StoreFault`, or `SchemaMissing`."""

    async def execute(self, sql: str, values: Sequence[Any] = ()) -> Sequence[Sequence[Any]]:
        """Rows, if there are any; SQL with a `?` for each value."""
        ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True, frozen=True)
class Spelling:
    """What differs between databases."""

    now_ms: str
    bytes_of: str
    lock: str = "FOR UPDATE SKIP LOCKED"
    begin: str = ""
    ignore: str = "ON CONFLICT (id) DO NOTHING"
    arrays: bool = False

    def among(self, column: str, values: Sequence[Any]) -> tuple[str, list[Any]]:
        """`column` is one of these values, of which there is one at least."""
        if self.arrays:
            return f"{column} = ANY(?)", [list(values)]
        return f"{column} IN ({', '.join('?' * len(values))})", list(values)


SPELLINGS: Final[dict[Dialect, Spelling]] = {
    "postgresql": Spelling(
        now_ms="(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
        bytes_of="octet_length(message)",
        arrays=True,
    ),
    "mysql": Spelling(
        now_ms="CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS signed)",
        bytes_of="octet_length(message)",
        begin="START TRANSACTION",
        ignore="ON DUPLICATE KEY UPDATE id = id",
    ),
    "sqlite": Spelling(
        now_ms="CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        bytes_of="length(CAST(message AS BLOB))",
        lock="",
    ),
}


@dataclass(slots=True)
class Taken:
    """Rows, and keys of which there were some that cannot be sent now; `full` if there may be more behind them."""

    rows: list[Row]
    blocked: set[str]
    full: bool


class Table:
    """The statements, each as a method; who calls them commits."""

    def __init__(self, dialect: Dialect) -> None:
        self._say = SPELLINGS[dialect]

    async def take(self, db: Db, limit: int, without: Sequence[str] = ()) -> Taken:
        """Rows to send, in order, locked until the transaction ends; none of the keys `without`."""
        say = self._say
        if say.begin:
            await db.execute(say.begin)
        among, values = say.among("ordering_key", without) if without else ("1 = 0", [])
        found = await db.execute(
            f"SELECT seq, id, ordering_key, created_ms, attempts, {say.bytes_of}, "
            f"CASE WHEN {say.bytes_of} <= {INLINE_BYTES} THEN message END FROM {TABLE} "
            f"WHERE state = 'pending' AND due_ms <= {say.now_ms} AND NOT {among} "
            f"ORDER BY seq LIMIT {limit} {say.lock}",
            values,
        )
        if not found:
            return Taken([], set(), full=False)
        oldest = await self._oldest_elsewhere(db, found)
        taken = Taken([], set(), full=len(found) == limit)
        counts: Counter[str] = Counter()
        left = BATCH_BYTES_MAX
        for seq, message_id, key, created_ms, attempts, size, message in found:
            counts[key] += 1
            if key in taken.blocked or seq > oldest.get(key, seq) or counts[key] > KEY_ROWS:
                taken.blocked.add(key)
                continue
            if message is None:
                left -= size
                if left < 0 and taken.rows:
                    taken.full = False
                    break
                ((message,),) = await db.execute(f"SELECT message FROM {TABLE} WHERE seq = ?", (seq,))
            taken.rows.append(Row(seq, message_id, key, message, created_ms, attempts))
        return taken

    async def _oldest_elsewhere(self, db: Db, found: Sequence[Sequence[Any]]) -> dict[str, int]:
        """Of each key of what was found the oldest row that waits and was not, if it is older than the last of it."""
        mine = {row[0] for row in found}
        condition, values = self._say.among("ordering_key", sorted({row[2] for row in found}))
        others = await db.execute(
            f"SELECT ordering_key, seq FROM {TABLE} WHERE state = 'pending' AND {condition} AND seq < ?",
            (*values, max(mine)),
        )
        oldest: dict[str, int] = {}
        for key, seq in others:
            if seq not in mine:
                oldest[key] = min(seq, oldest.get(key, seq))
        return oldest

    async def settle(self, db: Db, outcome: Outcome) -> None:
        now = self._say.now_ms
        if outcome.sent:
            condition, values = self._say.among("seq", [row.seq for row in outcome.sent])
            await db.execute(
                f"UPDATE {TABLE} SET state = 'sent', settled_ms = {now}, code = '', reason = '' "
                f"WHERE state = 'pending' AND {condition}",
                values,
            )
        for row, verdict in outcome.dead:
            await db.execute(
                f"UPDATE {TABLE} SET state = 'dead', settled_ms = {now}, code = ?, reason = ? "
                "WHERE state = 'pending' AND seq = ?",
                (verdict.code, _short(verdict.reason), row.seq),
            )
        for row, verdict in outcome.later:
            await db.execute(
                f"UPDATE {TABLE} SET attempts = attempts + 1, due_ms = {now} + ?, code = ?, reason = ? "
                "WHERE state = 'pending' AND seq = ?",
                (verdict.later_ms, verdict.code, _short(verdict.reason), row.seq),
            )

    async def depth(self, db: Db) -> Depth:
        ((pending, oldest_ms, now_ms),) = await db.execute(
            f"SELECT count(*), min(created_ms), {self._say.now_ms} FROM {TABLE} WHERE state = 'pending'"
        )
        ((dead,),) = await db.execute(f"SELECT count(*) FROM {TABLE} WHERE state = 'dead'")
        return Depth(pending, 0.0 if oldest_ms is None else max(0.0, (now_ms - oldest_ms) / 1000), dead)

    async def clean(self, db: Db, kept_s: float, limit: int) -> int:
        """Rows that were sent so long ago, so many at most; those that are locked are for the next time."""
        found = await db.execute(
            f"SELECT seq FROM {TABLE} WHERE state = 'sent' AND settled_ms < {self._say.now_ms} - ? "
            f"ORDER BY settled_ms LIMIT {limit} {self._say.lock}",
            (round(kept_s * 1000),),
        )
        if found:
            condition, values = self._say.among("seq", [seq for (seq,) in found])
            await db.execute(f"DELETE FROM {TABLE} WHERE {condition}", values)
        return len(found)

    async def clean_inbox(self, db: Db, kept_s: float, limit: int) -> int:
        """Message ids that came so long ago, so many at most."""
        found = await db.execute(
            f"SELECT id FROM {INBOX_TABLE} WHERE taken_ms < {self._say.now_ms} - ? ORDER BY taken_ms "
            f"LIMIT {limit} {self._say.lock}",
            (round(kept_s * 1000),),
        )
        if found:
            condition, values = self._say.among("id", [each for (each,) in found])
            await db.execute(f"DELETE FROM {INBOX_TABLE} WHERE {condition}", values)
        return len(found)

    async def put(self, db: Db, row: Row, verdict: Verdict, *, dead: bool) -> None:
        """A message that did not come by the table, and cannot go out, now or ever. The same again is the same."""
        state, due = ("dead", "0") if dead else ("pending", f"{self._say.now_ms} + {verdict.later_ms:d}")
        settled = self._say.now_ms if dead else "0"
        await db.execute(
            f"INSERT INTO {TABLE} (id, ordering_key, message, state, due_ms, settled_ms, attempts, code, reason) "
            f"VALUES (?, ?, ?, '{state}', {due}, {settled}, 1, ?, ?) {self._say.ignore}",
            (row.id, row.ordering_key, row.message, verdict.code, _short(verdict.reason)),
        )

    async def waiting_keys(self, db: Db) -> set[str]:
        found = await db.execute(f"SELECT DISTINCT ordering_key FROM {TABLE} WHERE state = 'pending'")
        return {key for (key,) in found}

    async def dead(self, db: Db, limit: int) -> list[Dead]:
        found = await db.execute(
            f"SELECT id, ordering_key, code, reason, message, settled_ms FROM {TABLE} WHERE state = 'dead' "
            f"ORDER BY seq LIMIT {limit}"
        )
        return [Dead(*row) for row in found]

    async def retry(self, db: Db, message_ids: Sequence[str] | None) -> int:
        """Lets dead messages wait again, where they stood among those of their key; all of them, or these."""
        condition, values = (
            ("1 = 1", list[Any]()) if message_ids is None else self._say.among("id", message_ids)
        )
        found = await db.execute(f"SELECT seq FROM {TABLE} WHERE state = 'dead' AND {condition}", values)
        if found:
            these, seqs = self._say.among("seq", [seq for (seq,) in found])
            await db.execute(
                f"UPDATE {TABLE} SET state = 'pending', due_ms = 0, settled_ms = 0, attempts = 0 WHERE {these}",
                seqs,
            )
        return len(found)


class SqlTaker:
    """Takes rows through one connection."""

    def __init__(self, table: Table, db: Db) -> None:
        self._table = table
        self._db = db

    async def take(self, limit: int) -> Batch:
        return SqlBatch(self._table, self._db, await take_behind(self._table, self._db, limit))

    async def close(self) -> None:
        await self._db.close()


async def take_behind(table: Table, db: Db, limit: int) -> list[Row]:
    """Rows to send. If most that come first belong to keys that have to wait, those behind them are looked for."""
    without: set[str] = set()
    for look in range(LOOKS):
        taken = await table.take(db, limit, sorted(without))
        if not taken.full or not taken.blocked or 2 * len(taken.rows) >= limit or look == LOOKS - 1:
            return taken.rows
        blocked = taken.blocked - {row.ordering_key for row in taken.rows}
        if not blocked:
            return taken.rows
        await db.rollback()
        without |= blocked
    return []


class SqlBatch:
    """Rows that are locked by a transaction."""

    def __init__(self, table: Table, db: Db, rows: list[Row]) -> None:
        self._table = table
        self._db = db
        self.rows: Sequence[Row] = rows
        self._open = True

    async def settle(self, outcome: Outcome) -> None:
        await self._table.settle(self._db, outcome)
        await self._db.commit()
        self._open = False

    async def close(self) -> None:
        if self._open:
            self._open = False
            await self._db.rollback()


def _short(reason: str) -> str:
    """Fits into a column of every database."""
    return reason.replace("\0", "?")[:REASON_CHARS]
