"""The examples of docs/testing.md are tests, and pass."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dressage.simulation.programs import define
from dressage.testing import FakeTask, Run, TaskCall

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "testing.md").read_text()
SOURCE = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS = re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE)


@pytest.fixture(scope="module")
def examples() -> dict[str, Callable[[], None]]:
    module = define(SOURCE)
    return {name: getattr(module, name) for name in TESTS}


@pytest.mark.parametrize("name", TESTS)
def test_an_example_of_the_page_passes(examples: dict[str, Callable[[], None]], name: str) -> None:
    examples[name]()


UNSAID = ("handler", "declares", "begin", "tell", "duration", "answers", "taken")
"""What the parts of the harness say to each other."""


def test_the_page_names_what_there_is() -> None:
    shown = {each for line in re.findall(r"`([^`]*)`", PAGE) for each in re.findall(r"[a-z_]+", line)}
    kinds: list[type[Any]] = [FakeTask, Run]
    public = {
        name
        for kind in kinds
        for name in vars(kind)
        if not name.startswith("_")
        and name not in ("handler", "declares", "begin", "tell", "duration", "answers", "taken")
    }
    fields = {name for name in TaskCall.__dataclass_fields__ if name != "run_id"}
    missing = {name for name in public | fields if name not in shown and f".{name}" not in PAGE}
    assert missing - {"then_raises", "then_does"} == set()


@pytest.mark.slow
def test_the_examples_please_a_strict_type_checker(tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text(SOURCE)
    command = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml")]
    done = subprocess.run(
        [*command, str(tmp_path / "test_orders.py")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
