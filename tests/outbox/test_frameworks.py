"""Django's connection, and Alembic's migrations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import create_engine

from dressage.outbox import schema

DJANGO = """
import sys
import django
from django.conf import settings

settings.configure(DATABASES={"default": {"ENGINE": sys.argv[1], "NAME": sys.argv[2], **eval(sys.argv[3])}})
django.setup()
from django.db import connection, transaction
from dressage import outbox
from dressage.flow import workflow
from dressage.outbox import inbox
from dressage.protocol.errors import BadInput

with transaction.atomic():
    sent = outbox.start(connection, "greet", {"name": "Ada%?"}, run_id="ada")
    once = inbox.once(connection, "m1")
    assert once
    once.keep("kept")
try:
    with transaction.atomic():
        outbox.start(connection, "greet", {"name": "x"}, run_id="ghost")
        raise ValueError
except ValueError:
    pass
with transaction.atomic():
    assert not inbox.once(connection, "m1")
    assert inbox.once(connection, "m1").result == "kept"
try:
    outbox.start(connection, "greet", {})
except BadInput as error:
    assert error.code == "OUTBOX_NO_TRANSACTION", error
else:
    raise AssertionError("it commits each statement")
with connection.cursor() as cursor:
    cursor.execute("SELECT id, message FROM dressage_outbox")
    ((message_id, message),) = cursor.fetchall()
assert message_id == sent.id and "Ada%?" in message
print("all as it should be")
"""


def run_django(tmp_path: Path, engine: str, name: str, more: dict[str, object]) -> None:
    script = tmp_path / "uses_django.py"
    script.write_text(DJANGO)
    command = [sys.executable, str(script), engine, name, repr(more)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "all as it should be", found.stderr


def test_django_on_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "django.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        schema.upgrade(Operations(MigrationContext.configure(connection)))
    engine.dispose()
    run_django(tmp_path, "django.db.backends.sqlite3", str(path), {})


def test_django_on_postgresql(tmp_path: Path, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        info = connection.info
        more: dict[str, object] = {"HOST": info.host, "PORT": info.port, "USER": info.user}
        name = info.dbname
    run_django(tmp_path, "django.db.backends.postgresql", name, more)


def test_alembic_makes_and_drops_the_tables(empty_dsn: str) -> None:
    engine = create_engine(empty_dsn.replace("postgresql://", "postgresql+psycopg://"))
    count = "SELECT count(*) FROM pg_class WHERE relname IN ('dressage_outbox', 'dressage_inbox')"
    with engine.begin() as connection:
        operations = Operations(MigrationContext.configure(connection))
        schema.upgrade(operations)
        assert connection.exec_driver_sql(count).scalar() == 2
        schema.downgrade(operations)
        assert connection.exec_driver_sql(count).scalar() == 0
        schema.upgrade(operations)
    engine.dispose()
