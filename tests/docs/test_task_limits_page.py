"""The examples of docs/task-limits.md run, and what it says of figures is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.docs.commands import check_command  # pyright: ignore[reportMissingImports]

from dressage.orchestrator.fold.limits import LIMITER_WAITS_MAX
from dressage.protocol.permits import PRIORITY_MAX
from dressage.simulation.programs import define

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "task-limits.md").read_text()


def test_the_examples_of_the_page_run() -> None:
    module = define("\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE)))
    tests = [name for name in vars(module) if name.startswith("test_")]
    assert tests
    for name in tests:
        getattr(module, name)()


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    assert f"At most {LIMITER_WAITS_MAX:,} attempts wait" in PAGE
    assert f"an int from -{PRIORITY_MAX:,} to {PRIORITY_MAX:,}" in PAGE


def test_the_commands_of_the_page_are_there() -> None:
    lines = re.findall(r"(?m)^\$ (.*)$", PAGE)
    assert lines
    for line in lines:
        check_command(line)
