"""The replication slot: what keeps PostgreSQL's log until the relay has read it."""

from __future__ import annotations

from dataclasses import dataclass

from dressage.outbox.names import PUBLICATION, SLOT
from dressage.outbox.relay.faults import SchemaMissing
from dressage.outbox.relay.sql import Db


@dataclass(slots=True, frozen=True)
class Slot:
    """`lag_bytes` of the log are kept for it; `is_lost` says that the server has given up keeping what was not read."""

    name: str
    lag_bytes: int
    is_active: bool
    is_lost: bool


async def create(db: Db) -> bool:
    """Makes slot and publication where they are missing; false if both were there.

    What is written to the log before that is never sent, so an application that finds no slot writes nothing.
    """
    found = await db.execute("SELECT 1 FROM pg_publication WHERE pubname = ?", (PUBLICATION,))
    if not found:
        await db.execute(f"CREATE PUBLICATION {PUBLICATION}")
    # The slot sees the catalogue as it was when it was made, and a slot is no part of a transaction.
    await db.commit()
    if await look(db) is not None:
        return False
    await db.execute(
        "SELECT pg_create_logical_replication_slot(CAST(? AS text) || oid, 'pgoutput') FROM pg_database "
        "WHERE datname = current_database()",
        (SLOT,),
    )
    await db.commit()
    return True


async def drop(db: Db) -> bool:
    """Removes both: from then on applications cannot write to the log. What was not sent yet is lost."""
    slot = await look(db)
    if slot is None:
        return False
    await db.execute("SELECT pg_drop_replication_slot(?)", (slot.name,))
    await db.execute(f"DROP PUBLICATION IF EXISTS {PUBLICATION}")
    await db.commit()
    return True


async def look(db: Db) -> Slot | None:
    found = await db.execute(
        "SELECT slot_name, CAST(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) AS bigint), active, "
        "wal_status FROM pg_replication_slots WHERE starts_with(CAST(slot_name AS text), CAST(? AS text)) "
        "AND database = current_database()",
        (SLOT,),
    )
    if not found:
        return None
    name, lag, is_active, status = found[0]
    return Slot(name, lag or 0, bool(is_active), status == "lost")


async def require(db: Db) -> Slot:
    """Raises `SchemaMissing` (OUTBOX_SLOT_MISSING, OUTBOX_SLOT_LOST)."""
    slot = await look(db)
    if slot is None:
        raise SchemaMissing(
            f"this database has no replication slot {SLOT}*: run `dressage outbox slot create`",
            code="OUTBOX_SLOT_MISSING",
        )
    if slot.is_lost:
        raise SchemaMissing(
            f"the server has removed log that slot {slot.name} had not read (max_slot_wal_keep_size): what was in it "
            "is not sent. Find out from your own tables what that was, then run `dressage outbox slot drop` and "
            "`create`",
            code="OUTBOX_SLOT_LOST",
        )
    return slot
