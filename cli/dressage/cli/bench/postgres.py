"""A PostgreSQL server for benchmarks and tests: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

NOBODY: Final = 65534
DEADLINE_S: Final = 30.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def postgres_binaries() -> Path | None:
    """The folder with `initdb` and `postgres`; None where they are not installed."""
    config = shutil.which("pg_config")
    folders = (
        [
            Path(
                subprocess.run(
                    [config, "--bindir"], check=False, capture_output=True, text=True
                ).stdout.strip()
            )
        ]
        if config
        else []
    )
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    folders += [Path(found).parent] if found else []
    return next(
        (each for each in folders if (each / "initdb").exists() and (each / "postgres").exists()), None
    )


def plain_user() -> dict[str, Any]:
    """A database server will not run as root."""
    if os.geteuid() != 0:
        return {}
    return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


class Postgres:
    """A server that can be killed and started again."""

    def __init__(self, binaries: Path, folder: Path, *, fsync: bool) -> None:
        self._binaries = binaries
        self._folder = folder
        self._fsync = fsync
        self.port = free_port()
        self._process: subprocess.Popen[Any] | None = None

    def create(self) -> None:
        if os.geteuid() == 0:
            os.chown(self._folder, NOBODY, NOBODY)
        command = [
            str(self._binaries / "initdb"),
            "-D",
            str(self._folder / "data"),
            "-U",
            "postgres",
            "-A",
            "trust",
        ]
        subprocess.run(
            [*command, "-E", "UTF8", "--no-sync"], check=True, capture_output=True, cwd="/", **plain_user()
        )

    def start(self) -> None:
        settings = {
            "wal_level": "logical",
            "max_replication_slots": "60",
            "max_wal_senders": "60",
            "fsync": "on" if self._fsync else "off",
            "shared_buffers": "64MB",
        }
        command = [str(self._binaries / "postgres"), "-D", str(self._folder / "data"), "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", ""]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd="/", start_new_session=True, **plain_user()
            )
        self._await()

    def _await(self) -> None:
        import psycopg

        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                psycopg.connect(self.dsn("postgres"), connect_timeout=2).close()
                return
            except psycopg.Error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL for the server and all its processes, as a machine dies."""
        assert self._process is not None
        os.killpg(self._process.pid, 9)
        self._process.wait()
        # Its children have groups of their own, and end when they see that it is gone; a new one waits for that.

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(2)
            self._process.wait(DEADLINE_S)
            self._process = None

    def dsn(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        import psycopg

        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.dsn(name)


@contextmanager
def postgres(*, fsync: bool = False) -> Iterator[Postgres]:
    """A server of its own. There must be `postgres_binaries`."""
    binaries = postgres_binaries()
    assert binaries is not None, "PostgreSQL is not installed"
    folder = Path(tempfile.mkdtemp(prefix="dressage-postgres-"))
    server = Postgres(binaries, folder, fsync=fsync)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
