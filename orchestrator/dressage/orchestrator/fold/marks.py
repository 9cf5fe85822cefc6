"""What is remembered of ids that may be long: 96 bits of their hash, as 16 characters."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

MARK_CHARS: Final = 16


def mark_of_event(event: str, event_id: str) -> str:
    """What is remembered of an external event: one id may stand for one of each kind."""
    return mark_of(f"{event}\0{event_id}")


def mark_of(text: str) -> str:
    """What is remembered of a text, whatever its length."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()[:12]).decode()


def path_of(mark: str) -> str:
    """The hexadecimal digits of a mark; empty for what is none."""
    try:
        return base64.b64decode(mark, validate=True).hex() if len(mark) == MARK_CHARS else ""
    except ValueError:
        return ""


def mark_of_wait(run_id: str, wait_id: str) -> str:
    """What is remembered of a run's wait. A wait's id has no space."""
    return mark_of(f"{wait_id} {run_id}")


def mark_of_given(event_id: str, wait_id: str) -> str:
    """What a run remembers of an event that a correlation key gave to one of its waits: another may get it, too."""
    return mark_of(f"{wait_id}\0{event_id}")
