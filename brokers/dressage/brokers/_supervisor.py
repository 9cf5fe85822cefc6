"""Runs one nats-server for a parent process, and ends it when that parent is gone.

A parent that is killed with SIGKILL cannot clean up after itself, so somebody else has to. Linux offers
PR_SET_PDEATHSIG, which is tied to the *thread* that forked rather than to its process, has to be set
between fork and exec (unsafe where threads run), and does not exist on macOS. This small process needs none
of that: its standard input is a pipe whose other end only the parent holds, and the kernel closes that end
however the parent dies. End of file therefore means "stop the server", whether asked for or not.

It is started by path with `python -I -S`, so it imports only the standard library and is up in some 15 ms::

    python -I -S _supervisor.py LOCK_FD SERVER_BINARY ARGUMENT...

It writes the server's process id as one line, and exits with the server's exit status.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from types import FrameType

STOP_GRACE_S = 10.0
"""How long the server may take to stop in good order before it is killed. Its data survives either way."""

PARENT_CHECK_S = 0.5
"""The pipe reports the parent's end at once, unless a process forked from the parent holds a copy of it.
Looking at our parent's process id as well bounds that case."""

STDIN = 0


def main(arguments: list[str]) -> int:
    lock_fd, command = int(arguments[0]), arguments[1:]
    parent_pid = os.getppid()
    woken = _wake_on_signals()
    # The server inherits the lock on its data folder: it lasts exactly as long as anybody can write there.
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=(lock_fd,))
    try:
        sys.stdout.write(f"{server.pid}\n")
        sys.stdout.flush()
        while server.poll() is None and not _stop_is_due(parent_pid, woken):
            pass
    finally:
        _end(server)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def _wake_on_signals() -> int:
    """Return a descriptor that becomes readable when the server exits; make SIGTERM an orderly stop."""
    woken, wake = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _ignore)
    signal.signal(signal.SIGTERM, _leave)
    return woken


def _stop_is_due(parent_pid: int, woken: int) -> bool:
    """Wait a while for news; say whether the news is that the parent is gone or wants the server stopped."""
    readable, _, _ = select.select([STDIN, woken], [], [], PARENT_CHECK_S)
    if woken in readable:
        os.read(woken, 512)
    return STDIN in readable or os.getppid() != parent_pid


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _ignore(_signal: int, _frame: FrameType | None) -> None:
    """A handler must exist for a signal to reach the wake-up descriptor."""


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
