"""The benchmark of several orchestrators runs, shares the shards, and tells what it measured; no figure is asserted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]


@pytest.mark.timeout(120)
def test_it_compares_two_orchestrators_with_one(start: Start) -> None:
    program = start("bench", "--orchestrators", "2", "--runs", "50", "--json")
    assert program.process.wait(100) == 0, program.said
    report = json.loads(program.said.splitlines()[-1])
    assert report["orchestrators"] == 2
    assert report["shards"] >= 2
    assert report["ratio"] > 0
    assert {"orchestrator-0", "orchestrator-1"} <= report["cpu_us_per_task_together"].keys()
