"""The spans of an orchestrator: a turn for each command of a run that is in a trace, and the run itself when it ends.

They are told when the turn is committed, once: what a take-over folds again is told by nobody, and what was committed
by an owner that died at that moment is missing. A trace is for looking at; what counts are the output events.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from dressage.orchestrator.fold.state import RunState
from dressage.protocol.traces import read_trace, span_of_run
from dressage.telemetry.tracing import Attributes, Tracing, inner_span

_log = logging.getLogger("dressage.orchestrator")


class Traced(NamedTuple):
    """A command that was folded. `state` is what became of its run, which it has `ended`; `what` its type."""

    state: RunState
    what: str
    seq: int
    stored_ns: int
    code: str
    ended: bool


def is_traced(state: RunState) -> bool:
    """Whether spans of it are to be kept."""
    found = read_trace(state.trace) if state.trace else None
    return found is not None and found.sampled


def tell(tracing: Tracing, shard: int, traced: Sequence[Traced]) -> None:
    """Of a turn that is committed now. Whatever is wrong with who takes spans, the shard goes on."""
    try:
        _tell(tracing, shard, traced)
    except Exception:
        _log.exception("shard %d: spans could not be told", shard)


def _tell(tracing: Tracing, shard: int, traced: Sequence[Traced]) -> None:
    now_ns = time.time_ns()
    for each in traced:
        state = each.state
        starter, run = read_trace(state.trace), span_of_run(state.trace, state.run_id, state.born)
        if starter is None or run is None:
            continue
        of_run: Attributes = {
            "dressage.run_id": state.run_id,
            "dressage.workflow": state.workflow,
            "dressage.version": state.version,
        }
        of_turn: Attributes = {
            "dressage.shard": shard,
            "dressage.command": each.seq,
            "dressage.outcome": each.code or "accepted",
        }
        tracing.tell(
            f"turn {each.what}", inner_span(run), run.span_id, each.stored_ns, now_ns, {**of_run, **of_turn}
        )
        if each.ended:
            error = "" if state.failure is None else f"{state.failure.name}: {state.failure.message}"
            if state.status in ("cancelled", "engine-fault"):
                error = error or state.status
            told: Attributes = {**of_run, "dressage.status": state.status}
            began_ns, ended_ns = state.started_ms * 1_000_000, state.ended_ms * 1_000_000
            tracing.tell(f"run {state.workflow}", run, starter.span_id, began_ns, ended_ns, told, error)
