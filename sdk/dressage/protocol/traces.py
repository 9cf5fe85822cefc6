"""The W3C trace context of a run: whose trace it is in, and which span it is there.

A trace goes from the command that starts a run to its attempts, its child runs, and what it publishes. Nothing is kept
for it but what the starter has sent: the run's span has an id that follows from the run, so whoever folds a command
again, on whichever shard, names the same. See https://www.w3.org/TR/trace-context/, of which `tracestate` is left out.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"
"""The name of the header, and of the attribute of a CloudEvent (its extension for distributed tracing)."""

_VALID: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)
_SAMPLED: Final = 1


class Trace(NamedTuple):
    """A span's place: `trace_id` of 32 and `span_id` of 16 hexadecimal digits. Spans are kept if it is `sampled`."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{_SAMPLED if self.sampled else 0:02x}"


def read_trace(traceparent: str) -> Trace | None:
    """None for what is no trace context: as the standard wants it, that is as if there were none."""
    found = _VALID.fullmatch(traceparent)
    if found is None or (
        traceparent.startswith("00") and len(traceparent) != len(str(Trace("0" * 32, "0" * 16, True)))
    ):
        return None
    return Trace(found[1], found[2], bool(int(found[3], 16) & _SAMPLED))


def usable_trace(traceparent: str) -> str:
    """What a run keeps of it: in the form of this version, or empty."""
    found = read_trace(traceparent)
    return "" if found is None else str(found)


def span_of_run(traceparent: str, run_id: str, born: int) -> Trace | None:
    """The span of the run that command `born` has begun, in the trace of who has started it; None without one."""
    found = read_trace(traceparent)
    if found is None:
        return None
    span_id = hashlib.sha256(f"{found.span_id} {run_id} {born}".encode()).hexdigest()[:16]
    return found._replace(span_id=span_id)


def trace_of_run(traceparent: str, run_id: str, born: int) -> str:
    """The same as what the run passes on; empty without one."""
    found = span_of_run(traceparent, run_id, born) if traceparent else None
    return "" if found is None else str(found)
