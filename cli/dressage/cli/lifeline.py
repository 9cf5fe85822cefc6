"""Ends a process in good order when the process that started it is gone.

Whoever is killed with SIGKILL cannot stop its children. So the demo gives each of them, as standard input, a
pipe whose other end only the demo holds: the kernel closes that end however the demo dies.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Final

LIFELINE: Final = "DRESSAGE_LIFELINE"
"""Environment variable that makes end of file on standard input mean "stop"."""

GRACE_S: Final = 10.0
"""For how long such a process may drain. Its broker is probably gone too, and then a drain has no end."""


def hold_lifeline() -> None:
    """Begins to watch standard input, if the parent asked for that."""
    if os.environ.get(LIFELINE) == "stdin":
        threading.Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)
