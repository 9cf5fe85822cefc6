"""A real nats-server as a child process, for development, demos and tests.

It listens on loopback only, writes to disk before it acknowledges, keeps its data and its port between
starts, and never outlives the process that started it. The layout of its data folder::

    jetstream/          the streams themselves
    nats-server.conf    written anew at each start
    nats-server.log     of this start; nats-server.log.1 is of the one before
    server.lock         held by whoever may write here: the owner, the supervisor and the server together
    server.port         where it listened last, so that clients find it again
    ports/              where the running server says which port it got
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

import anyio
import anyio.to_thread
import nats.errors

from dressage.brokers.connect import connect
from dressage.brokers.server_binary import find_server_binary, version_of
from dressage.brokers.server_check import (
    MINIMUM_VERSION,
    PING_SUBJECT,
    ServerFacts,
    check_server,
    parse_version,
    too_old,
)
from dressage.protocol.errors import BrokerError, DressageError, EmbeddedServerError

_log = logging.getLogger("dressage.brokers")

START_TIMEOUT_S: Final = 30.0
"""Starting takes 20 ms."""

RECOVERY_S: Final = 900.0
"""So long a server may take that has data: after a crash it reads much of it again before it answers, some hundred
thousand messages in ten seconds."""

TELL_S: Final = 10.0
"""Between two words about a recovery that takes its time."""

STOP_TIMEOUT_S: Final = 15.0
"""Longer than the supervisor's own patience with the server, which ends first."""

LOCK_PATIENCE_S: Final = 3.0
"""A server whose owner was killed needs a moment to stop; a start right after that waits for it."""

PORT_PATIENCE_S: Final = 2.0
"""For how long a start insists on the port that clients know before it takes another one."""

POLL_S: Final = 0.01
LOG_TAIL_LINES: Final = 12

ANY_PORT: Final = -1
"""The server's own word for "bind a free port": only the one who binds can choose without a race."""

_SUPERVISOR: Final = Path(__file__).with_name("_supervisor.py")

# Clients need no password on loopback: they are the user `dressage`. That the account imports one service
# from the system account is what lets `check_server` see the sync policy from any client's connection.
_CONFIG: Final = """\
server_name: "dressage-embedded"
host: "{host}"
port: {port}
ports_file_dir: {ports_dir}
jetstream {{
  store_dir: {store_dir}
  sync_interval: {sync_interval}
}}
system_account: SYS
accounts {{
  SYS {{
    exports: [{{ service: "{ping}", response_type: stream }}]
  }}
  DRESSAGE {{
    jetstream: enabled
    users: [{{ user: dressage }}]
    imports: [{{ service: {{ account: SYS, subject: "{ping}" }} }}]
  }}
}}
no_auth_user: dressage
"""

_SYNC_INTERVALS: Final = {"always": "always", "lazy": "2m"}


class EmbeddedServer:
    """A nats-server of our own, as an async context manager or by `start()` and `stop()`.

    `port` None means: the port of the last start in this data folder, or a free one. `sync` "lazy" is NATS's
    own default (fsync every two minutes) and exists to measure what the safe setting costs. `binary`
    overrides the search, which is `NATS_SERVER_BIN`, then the scripts of the running interpreter, then PATH.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int | None = None,
        host: str = "127.0.0.1",
        sync: Literal["always", "lazy"] = "always",
        binary: Path | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.host = _loopback(host)
        self.facts: ServerFacts | None = None
        self._fixed_port = port
        self._sync = sync
        self._binary = binary
        self._port: int | None = None
        self._child: _Child | None = None
        self._patience_s = START_TIMEOUT_S
        self._lock_fd: int | None = None

    @property
    def port(self) -> int:
        """The port of the server, kept after it ended. Raises `RuntimeError` before the first start."""
        if self._port is None:
            raise RuntimeError("the embedded server has not been started")
        return self._port

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nats://{host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of nats-server itself. Raises `RuntimeError` when none was started."""
        if self._child is None or self._child.server_pid is None:
            raise RuntimeError("the embedded server is not running")
        return self._child.server_pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.alive

    async def start(self) -> None:
        """Start the server and wait until JetStream answers.

        May be called again after `kill()` or a crash, and then takes the same port and the same data.

        Raises `EmbeddedServerError` (see its codes) and, for a binary that is too old, `ServerUnsuitable`.
        """
        if self.running:
            raise RuntimeError(f"the embedded server is already running at {self.url}")
        binary = find_server_binary(self._binary)
        try:
            await self._end_child()
            await anyio.to_thread.run_sync(self._prepare_folder)
            await self._lock_folder()
            self._patience_s = RECOVERY_S if self._has_data() else START_TIMEOUT_S
            await self._launch(binary)
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server in good order, or hard after `STOP_TIMEOUT_S`. Harmless when it is not running."""
        await self._end_child()
        self._unlock_folder()

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would. For tests."""
        os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> None:
        """Return when the server has ended, for whatever reason."""
        while self.running:
            await anyio.sleep(5 * POLL_S)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- the data folder ---------------------------------------------------------------------------------

    @property
    def _log_path(self) -> Path:
        return self.data_dir / "nats-server.log"

    @property
    def _ports_dir(self) -> Path:
        return self.data_dir / "ports"

    @property
    def _port_path(self) -> Path:
        return self.data_dir / "server.port"

    def _has_data(self) -> bool:
        return (self.data_dir / "jetstream").is_dir()

    def _prepare_folder(self) -> None:
        try:
            self._ports_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedServerError(
                f"the data folder {self.data_dir} cannot be used: {error.strerror}. Choose another one."
            ) from error

    async def _lock_folder(self) -> None:
        if self._lock_fd is not None:
            return
        path = self.data_dir / "server.lock"
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while (lock_fd := _try_lock(path)) is None:
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the data folder {self.data_dir} is in use by another embedded server, started by "
                    f"process {_first_line(path) or '?'}. Stop that one, connect to it with --server "
                    f"nats://{self.host}:{_first_line(self._port_path) or 'PORT'}, or choose another folder.",
                    code="EMBEDDED_DATA_IN_USE",
                )
            await anyio.sleep(5 * POLL_S)
        self._lock_fd = lock_fd

    def _unlock_folder(self) -> None:
        if self._lock_fd is None:
            return
        # Unlocking, and not merely closing, also frees the folder of copies that forked processes hold.
        fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        os.close(self._lock_fd)
        self._lock_fd = None

    def _known_port(self) -> int | None:
        remembered = _first_line(self._port_path)
        return self._fixed_port or self._port or (int(remembered) if remembered.isdecimal() else None)

    # --- the process -------------------------------------------------------------------------------------

    async def _launch(self, binary: str) -> None:
        """Start on the port that clients know, if any; on a free one when somebody else has taken it."""
        _keep_previous(self._log_path)
        port = self._known_port()
        if port is not None and await self._insist_on(port, binary):
            return
        if self._fixed_port is not None:
            raise EmbeddedServerError(
                f"port {port} of {self.host} is in use by another program. Choose another port, or leave it "
                "out to get a free one.",
                code="EMBEDDED_PORT_IN_USE",
            )
        await self._launch_on(ANY_PORT, binary)

    async def _insist_on(self, port: int, binary: str) -> bool:
        """Start on this very port; False when it stays taken.

        A client that tries to reconnect can hold the port for a moment: on loopback, its own end of the
        connection may be given just that number.
        """
        deadline = time.monotonic() + PORT_PATIENCE_S
        while True:
            try:
                await self._launch_on(port, binary)
            except _PortTaken:
                if time.monotonic() > deadline:
                    return False
                await anyio.sleep(10 * POLL_S)
            else:
                return True

    async def _launch_on(self, port: int, binary: str) -> None:
        log_start = _size(self._log_path)
        # Without an await in between, so that a cancelled start always knows the child it has to end.
        self._child = self._spawn(port, binary)
        try:
            await self._child.read_pid()
            await self._await_ready(self._child)
        except _NotReady as reason:
            tail = _tail(self._log_path, log_start)
            await self._end_child()
            if "address already in use" in tail:
                raise _PortTaken from reason
            raise await anyio.to_thread.run_sync(_start_failure, binary, str(reason), tail) from None
        self._port_path.write_text(f"{self._port}\n")

    def _spawn(self, port: int, binary: str) -> _Child:
        assert self._lock_fd is not None, "only the holder of the lock may start a server"
        config = self.data_dir / "nats-server.conf"
        config.write_text(self._config(port))
        supervisor = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(self._lock_fd)]
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(
                [*supervisor, binary, "-c", str(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(self._lock_fd,),
                # Ctrl-C goes to every process of the terminal's group. The server has to outlive the orderly
                # stop of its owner, so it is not in that group.
                start_new_session=True,
            )
        return _Child(process)

    def _config(self, port: int) -> str:
        return _CONFIG.format(
            host=self.host,
            port=port,
            ports_dir=json.dumps(str(self._ports_dir), ensure_ascii=False),
            store_dir=json.dumps(str(self.data_dir), ensure_ascii=False),
            sync_interval=_SYNC_INTERVALS[self._sync],
            ping=PING_SUBJECT,
        )

    async def _await_ready(self, child: _Child) -> None:
        """Ready means that a client gets an answer from JetStream, not that some time has passed."""
        began = time.monotonic()
        tell_at = began + TELL_S
        while child.alive:
            now = time.monotonic()
            if now > began + self._patience_s:
                raise _NotReady(f"it was not ready after {self._patience_s:g} s")
            if now > tell_at:
                tell_at = now + TELL_S
                last = _tail(self._log_path, 0).rstrip().rpartition("\n")[2]
                _log.warning("nats-server reads its data since %.0f s: %s", now - began, last)
            port = child.announced_port(self._ports_dir)
            if port is not None:
                self._port = port
                self.facts = await self._ask()
                if self.facts is not None:
                    return
            await anyio.sleep(POLL_S)
        raise _NotReady("it ended at once")

    async def _ask(self) -> ServerFacts | None:
        """What the server says of itself; None while it is not ready to say anything."""
        facts = None
        # nats-py loses its socket when it is cancelled while it connects, so a cancellation waits for the few
        # milliseconds that this takes.
        with anyio.CancelScope(shield=True):
            try:
                client = await connect(self.url, timeout_s=1.0)
                try:
                    facts = await check_server(client)
                finally:
                    await client.close()
            except nats.errors.Error:
                pass
            except BrokerError as error:
                if not error.retryable:
                    raise
        return facts

    async def _end_child(self) -> None:
        if self._child is None:
            return
        # A cancelled caller must not leave a process behind.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._child.end)
        self._child = None


class _NotReady(Exception):
    """The server did not become ready; says how."""


class _PortTaken(Exception):
    """Somebody else listens on the port we wanted."""


class _Child:
    """The supervisor process, and through it the server. See `_supervisor.py` for why there are two."""

    def __init__(self, supervisor: subprocess.Popen[bytes]) -> None:
        assert supervisor.stdin is not None
        assert supervisor.stdout is not None
        self.server_pid: int | None = None
        self._supervisor = supervisor
        self._lifeline = supervisor.stdin
        self._report = supervisor.stdout

    @property
    def alive(self) -> bool:
        return self._supervisor.poll() is None

    async def read_pid(self) -> None:
        line = await anyio.to_thread.run_sync(self._report.readline, abandon_on_cancel=True)
        if not line:
            raise _NotReady("it could not be executed")
        self.server_pid = int(line)

    def announced_port(self, ports_dir: Path) -> int | None:
        """Where the server says it listens: `{"nats": ["nats://127.0.0.1:4222"]}` in a file of its pid."""
        for path in ports_dir.glob(f"*_{self.server_pid}.ports"):
            with contextlib.suppress(ValueError, LookupError):  # the file is being written
                return int(json.loads(path.read_text())["nats"][0].rpartition(":")[2])
        return None

    def end(self) -> None:
        """Closing the lifeline makes the supervisor stop the server, and exit."""
        self._lifeline.close()
        try:
            status = self._supervisor.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            status = self._supervisor.wait()
        # A supervisor that was killed has left the server behind, and nobody else will end it.
        if status < 0 and self.server_pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.server_pid, signal.SIGKILL)
        self._report.close()


def _start_failure(binary: str, reason: str, log_tail: str) -> DressageError:
    """Old servers end with a puzzling complaint about our configuration: name the true cause instead."""
    version = version_of(binary)
    numbers = parse_version(version)
    if numbers is not None and numbers < MINIMUM_VERSION:
        return too_old(binary, version)
    return EmbeddedServerError(
        f"{binary} {version} did not start: {reason}. The end of its log:\n{log_tail or '(nothing logged)'}"
    )


def _loopback(host: str) -> str:
    """The embedded server asks nobody for a password, so nobody but this machine may reach it."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return host
    raise EmbeddedServerError(
        f"the embedded server has no passwords and listens on loopback only, not on {host}. Use 127.0.0.1 or "
        "::1 here; for other machines run a nats-server with users, and connect with --server.",
        code="EMBEDDED_HOST_REFUSED",
    )


def _try_lock(path: Path) -> int | None:
    """Take the lock and write our process id into it, for the message to whoever comes second."""
    lock_fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock_fd)
        return None
    os.ftruncate(lock_fd, 0)
    os.write(lock_fd, f"{os.getpid()}\n".encode())
    return lock_fd


def _first_line(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def _keep_previous(log: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        log.replace(log.with_name(log.name + ".1"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(log: Path, start: int) -> str:
    """The last lines that were logged after byte `start`."""
    lines = log.read_bytes()[start:].decode(errors="replace").splitlines()
    return "\n".join(lines[-LOG_TAIL_LINES:])
