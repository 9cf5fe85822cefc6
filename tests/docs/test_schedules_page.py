"""The examples of docs/schedules.md run, and what it says of limits is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, get_args

from dressage.client import ScheduleHandle
from dressage.protocol.schedules import BACKFILL_MAX, FIRES_KEPT, OPEN_MAX, QUEUED_MAX, Overlap
from dressage.simulation.programs import define

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "schedules.md").read_text()


def test_the_examples_of_the_page_run() -> None:
    define("\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE)))


def test_everything_that_can_be_said_and_done_is_on_the_page() -> None:
    assert [policy for policy in get_args(Overlap) if f"`{policy}`" not in PAGE] == []
    methods = [name for name in vars(ScheduleHandle) if not name.startswith("_")]
    assert [name for name in methods if f".{name}(" not in PAGE] == []
    for figure in (
        f"at most {QUEUED_MAX} wait",
        f"up to {OPEN_MAX:,}",
        f"the last {FIRES_KEPT} fires",
        f"at most {BACKFILL_MAX:,}",
    ):
        assert figure in PAGE
