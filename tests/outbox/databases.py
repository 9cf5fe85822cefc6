"""A MariaDB server for the tests: a process of its own, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dressage.cli.bench.postgres import DEADLINE_S, NOBODY, free_port, plain_user


def mariadb_binaries() -> tuple[str, str] | None:
    """`mariadbd` and `mariadb-install-db`; None where they are not installed."""
    paths = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    server, install = shutil.which("mariadbd", path=paths), shutil.which("mariadb-install-db", path=paths)
    return (server, install) if server and install else None


@contextmanager
def mariadb() -> Iterator[str]:
    """The address of a database on a server of its own. There must be `mariadb_binaries`."""
    found = mariadb_binaries()
    assert found is not None, "MariaDB is not installed"
    server, install = found
    folder = Path(tempfile.mkdtemp(prefix="dressage-mariadb-"))
    port = free_port()
    process: subprocess.Popen[Any] | None = None
    try:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        common = ["--no-defaults", f"--datadir={folder / 'data'}"]
        more = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run([install, *common, *more], check=True, capture_output=True, cwd="/", **plain_user())
        command = [
            server,
            *common,
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={folder / 'socket'}",
        ]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **plain_user())
        _await(port, folder / "log")
        yield f"mysql://root@127.0.0.1:{port}/shop"
    finally:
        if process is not None:
            process.terminate()
            process.wait(DEADLINE_S)
        shutil.rmtree(folder, ignore_errors=True)


def _await(port: int, log: Path) -> None:
    """Returns when the server answers, with a database made."""
    import pymysql

    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with pymysql.connect(host="127.0.0.1", port=port, user="root", connect_timeout=2) as connection:
                with connection.cursor() as cursor:
                    cursor.execute("CREATE DATABASE shop CHARACTER SET utf8mb4")
            return
        except pymysql.Error:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
