"""The comparison of random workflows with Python, in its shortest form, and that it tells what it finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final
from unittest import mock

from tests.flow.equality import TROUBLE  # pyright: ignore[reportMissingImports]
from tests.fuzz import programs  # pyright: ignore[reportMissingImports]
from tests.fuzz.programs import MANY, RARE, Figures  # pyright: ignore[reportMissingImports]

from dressage.orchestrator.fold.nodes import ENTER
from dressage.protocol.spec import AssignNode
from dressage.simulation.programs import CONSTRUCTS, LEAVING, can_nest, holders

PROGRAMS: Final = Path(programs.__file__)


def compared(*arguments: str, found: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAMS), "--found", str(found), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_a_few_programs_are_compared_and_counted(tmp_path: Path) -> None:
    done = compared("--programs", "12", "--workers", "1", found=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "programs" / "figures.json").read_text())
    assert figures["programs"] == 12
    assert 0 < figures["compiled"] == 12 - figures["refused"]
    assert sum(figures["endings"].values()) == len(TROUBLE) * figures["compiled"]
    assert set(figures["constructs"]) & set(CONSTRUCTS)
    assert figures["found"] == []


def test_an_engine_that_differs_is_found_out() -> None:
    """Assignments that are passed over: the program's text is told with what was wrong."""

    def forgetful(advance: object, thread: object, ready: object) -> None:
        assert isinstance(ready.node, AssignNode)  # type: ignore[attr-defined]
        thread.node = ready.node.next  # type: ignore[attr-defined]

    with mock.patch.dict(ENTER, {AssignNode: forgetful}):
        figures = programs.compare_all(range(6))
    assert figures.found
    assert "AssertionError" in figures.found[0]
    assert "async def flow(x: int)" in figures.found[0]


def test_what_is_rare_is_named() -> None:
    single = [*CONSTRUCTS, *LEAVING]
    pairs = [f"{inner} in {outer}" for outer in holders() for inner in single if can_nest(outer, inner)]
    figures = Figures(compiled=MANY)
    enough = int(MANY * RARE)
    figures.constructs.update(dict.fromkeys(single, enough))
    figures.pairs.update(dict.fromkeys(pairs, enough))
    assert programs.rare(figures) == []
    figures.pairs["again in try-else"] -= 1
    del figures.constructs["saga"]
    assert programs.rare(figures) == ["saga", "again in try-else"]
