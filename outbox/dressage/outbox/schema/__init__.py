"""The tables, as SQL that ships with the package, and the same for Alembic.

In a migration of Alembic::

    from dressage.outbox import schema

    def upgrade() -> None:
        schema.upgrade(op)

    def downgrade() -> None:
        schema.downgrade(op)
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any, Protocol

from dressage.outbox.connections import DIALECTS, Dialect, dialect_of
from dressage.outbox.names import INBOX_TABLE, TABLE

__all__ = ["DIALECTS", "downgrade", "drop_statements", "schema_sql", "statements", "upgrade"]


class Operations(Protocol):
    """Alembic's `op`."""

    def execute(self, sqltext: str) -> Any: ...

    def get_bind(self) -> Any: ...


def schema_sql(dialect: Dialect) -> str:
    """The script that makes both tables, for `psql` or its like."""
    return (files(__name__) / f"{dialect}.sql").read_text()


def statements(dialect: Dialect) -> list[str]:
    """The same, one by one."""
    return [each.rstrip(";") for each in schema_sql(dialect).strip().split(";\n\n")]


def drop_statements(dialect: Dialect) -> list[str]:
    """What undoes it. Messages that are not sent yet are lost."""
    drops = [f"DROP TABLE {INBOX_TABLE}", f"DROP TABLE {TABLE}"]
    return [*drops, "DROP FUNCTION dressage_outbox_notify()"] if dialect == "postgresql" else drops


def upgrade(op: Operations) -> None:
    """Makes the tables, in a migration of Alembic."""
    for statement in statements(_dialect(op)):
        op.execute(statement)


def downgrade(op: Operations) -> None:
    """Drops the tables, in a migration of Alembic."""
    for statement in drop_statements(_dialect(op)):
        op.execute(statement)


def _dialect(op: Operations) -> Dialect:
    return dialect_of(op.get_bind().dialect.name)
