"""For how long runs are kept, and how many child runs one remembers: exactly, and one beyond."""

from __future__ import annotations

import msgspec
import pytest

from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.outcome import Stamp
from dressage.orchestrator.fold.retention import OWNED_BYTES_MAX, Keeping, change, own
from dressage.orchestrator.fold.state import STATE_FORMAT, RunState
from dressage.protocol.commands import DeleteRun
from dressage.protocol.errors import BadInput
from dressage.protocol.events import RunDeleted
from dressage.protocol.names import child_id
from dressage.protocol.retention import KEEP_S_MAX, Retention, check_retention


@pytest.mark.limit("protocol.retention.KEEP_S_MAX")
def test_a_run_is_kept_for_a_century_at_most() -> None:
    for allowed in (Retention(KEEP_S_MAX), Retention(0.0), Retention()):
        assert check_retention(allowed) is allowed
    for wrong in (KEEP_S_MAX + 1, -1.0, float("nan")):
        with pytest.raises(BadInput, match="limit keep-time"):
            check_retention(Retention(wrong))


@pytest.mark.limit("orchestrator.fold.retention.OWNED_BYTES_MAX")
def test_a_run_remembers_so_many_child_runs_and_counts_the_others() -> None:
    state = RunState(STATE_FORMAT, "r", "w", 1, 1, 1, 1, "c", msgspec.Raw(b"{}"))
    ids = [f"{number:08}" for number in range(OWNED_BYTES_MAX // 8)]
    for wait_id in ids:
        own(state, child_id("r", wait_id), wait_id)
    assert (state.owned, state.disowned) == (ids, 0)
    own(state, "chosen", "w")
    assert state.owned == [*ids[1:], "w chosen"]
    assert state.disowned == 1
    state.status = "completed"
    deleted = change(state, DeleteRun("d"), "r", Stamp(2, 2), Keeping())
    assert len([each for each in deleted.effects if isinstance(each, SendCommand)]) == len(ids)
    (told,) = deleted.events
    assert isinstance(told, RunDeleted)
    assert told.children_left == 1
