"""The traces that runs of the simulation are started in."""

from __future__ import annotations

import hashlib

from dressage.protocol.names import root_of
from dressage.protocol.traces import read_trace, trace_of_run


def traceparent_of(run_id: str) -> str:
    """What the run is started with, the same by whomever; of every second one it is nothing."""
    digest = hashlib.sha256(run_id.encode()).hexdigest()
    return f"00-{digest[:32]}-{digest[32:48]}-01" if int(digest[-1], 16) % 2 else ""


class Traces:
    """What is seen of them, by run."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str]] = {}
        self.started: set[str] = set()
        """Runs that nobody but the simulation's clients has started, each with its `traceparent_of`."""

    def wrong_with(self, run_id: str, life: int, traceparent: str, born: int | None = None) -> str:
        """What is wrong with the trace that an event of a run tells, in that life of its id; empty if nothing is. The
        event is that of its begin, by the command `born`, if that is given."""
        before = self._seen.get(run_id)
        if before is not None and before[0] == life and before[1] != traceparent:
            return f"run {run_id} is in {traceparent or 'no trace'}, and was in {before[1] or 'none'}"
        self._seen[run_id] = life, traceparent
        if born is not None and run_id in self.started:
            own = trace_of_run(traceparent_of(run_id), run_id, born)
            if traceparent != own:
                return f"run {run_id} is in {traceparent or 'no trace'}, and not in {own or 'none'}"
        root, found = root_of(run_id), read_trace(traceparent)
        wanted = read_trace(traceparent_of(root))
        if found is not None and (wanted is None or found.trace_id != wanted.trace_id):
            return f"run {run_id} is in a trace that nobody has started it in"
        if root != run_id and root in self._seen and bool(self._seen[root][1]) != bool(traceparent):
            return f"child run {run_id} is {'' if traceparent else 'not '}in a trace, other than {root}"
        return ""
