"""A task on a real engine whose worker dies between its effect and its report: the effect is there once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.outbox.conftest import eventually  # pyright: ignore[reportMissingImports]

from dressage.flow import App, workflow
from dressage.outbox import schema

if TYPE_CHECKING:
    from tests.outbox.conftest import Shop  # pyright: ignore[reportMissingImports]

APP = """
import os, signal, sqlite3
from dressage.flow import App, workflow
from dressage.outbox import inbox

app = App("bookings")
PATH = os.environ["BOOKINGS"]

@app.task(retries=5)
def book(room: str) -> int:
    connection = sqlite3.connect(PATH)
    with connection:
        once = inbox.once(connection)
        if once:
            cursor = connection.execute("INSERT INTO bookings (room) VALUES (?)", (room,))
            once.keep(cursor.lastrowid)
        number = once.result
    connection.close()
    if os.environ.get("DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    return number

@workflow
async def stay(room: str) -> int:
    return await book(room)
"""


async def test_the_effect_of_a_task_whose_report_is_lost_happens_once(shop: Shop, tmp_path: Path) -> None:
    path = tmp_path / "bookings.db"
    connection = sqlite3.connect(path)
    connection.executescript(schema.schema_sql("sqlite"))
    connection.execute("CREATE TABLE bookings (id INTEGER PRIMARY KEY, room TEXT)")
    connection.execute("INSERT INTO bookings (room) VALUES ('another one')")
    connection.commit()
    (tmp_path / "bookings.py").write_text(APP)
    command = [sys.executable, "-m", "dressage.cli.main", "worker", "bookings:app", "--server", shop.nats.url]
    env = {**os.environ, "BOOKINGS": str(path), "PYTHONPATH": str(tmp_path)}

    app = App("bookings")

    @app.task(retries=5)
    def book(room: str) -> int:
        return 0

    @workflow
    async def stay(room: str) -> int:
        return await book(room)

    await shop.client.register(stay)
    run = await shop.client.start(stay, {"room": "7"}, run_id="stay")
    dying = await asyncio.create_subprocess_exec(
        *command, env={**env, "DIES": "1"}, cwd=tmp_path, stderr=asyncio.subprocess.DEVNULL
    )
    assert await asyncio.wait_for(dying.wait(), 60) == -9

    async def booked() -> bool:
        return bool(connection.execute("SELECT count(*) FROM bookings").fetchone() == (2,))

    await eventually(booked, "the room is booked")
    worker = await asyncio.create_subprocess_exec(
        *command, env=env, cwd=tmp_path, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        assert await run.result(90) == 2
    finally:
        worker.kill()
        await worker.wait()
    assert connection.execute("SELECT id, room FROM bookings").fetchall() == [(1, "another one"), (2, "7")]
    connection.close()
