"""What the service keeps: accounts, in a database of its own."""

from __future__ import annotations

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from dressage.outbox import schema


class Base(DeclarativeBase): ...


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    status: Mapped[str] = mapped_column(default="new")
    credit: Mapped[int] = mapped_column(default=0)


sessions: sessionmaker[Session] = sessionmaker()


def open_database(url: str) -> Engine:
    """Makes the tables where they are missing; a real service has migrations for that."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA journal_mode = WAL"))
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        if not engine.dialect.has_table(connection, "dressage_outbox"):
            for statement in schema.statements("sqlite" if engine.dialect.name == "sqlite" else "postgresql"):
                connection.execute(text(statement))
    sessions.configure(bind=engine)
    return engine
