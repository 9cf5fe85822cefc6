from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = """
import sys
sys.path.insert(0, {root!r})
from tests.scheduling import FileScheduling

def pytest_xdist_make_scheduler(config, log):
    return FileScheduling(config, log)
"""
GIVES_LATE = """
import time
from xdist.workermanage import WorkerController
given = WorkerController.send_runtest_some

def gives_late(controller, indices):
    time.sleep(0.5)
    given(controller, indices)

WorkerController.send_runtest_some = gives_late
"""
PASSES = "def test_passes(): pass\n"
DIES = "import os\ndef test_dies(): os._exit(1)\n"


def outcome(folder: Path, processes: int, files: list[str], conftest: str = CONFTEST) -> str:
    folder.joinpath("conftest.py").write_text(conftest.format(root=str(Path(__file__).parents[1])))
    for number, text in enumerate(files):
        folder.joinpath(f"test_{number:03}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:anyio", "-n", str(processes)]
    ended = subprocess.run(
        [*command, "--dist", "loadfile", "--no-loadscope-reorder", "--max-worker-restart", "2"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    return ended.stdout.strip().splitlines()[-1]


def test_the_test_that_a_process_dies_in_is_not_tried_again_and_all_others_are_run(tmp_path: Path) -> None:
    assert outcome(tmp_path, 1, [PASSES, PASSES, DIES + PASSES, PASSES]).startswith("1 failed, 4 passed in")


def test_what_a_process_is_given_after_it_died_is_run(tmp_path: Path) -> None:
    files = [PASSES, PASSES, DIES + PASSES, PASSES]
    assert outcome(tmp_path, 1, files, CONFTEST + GIVES_LATE).startswith("1 failed, 4 passed in")


def test_a_single_test_that_is_left_is_run(tmp_path: Path) -> None:
    files = [PASSES + DIES + PASSES.replace("passes", "is_last")]
    assert outcome(tmp_path, 1, files).startswith("1 failed, 2 passed in")


def test_what_a_process_did_before_it_died_is_not_given_out_again(tmp_path: Path) -> None:
    files = [PASSES] * 12 + [DIES] + [PASSES] * 3
    assert outcome(tmp_path, 2, files).startswith("1 failed, 15 passed in")
