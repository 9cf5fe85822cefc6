"""The import contracts of pyproject.toml catch what they are there to catch.

Each test builds a miniature of the namespace with one forbidden import in it, and runs the real contracts on
that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).resolve().parent.parent
PYPROJECT: Final = REPOSITORY / "pyproject.toml"


@pytest.fixture
def miniature(tmp_path: Path) -> Path:
    """Every package of the namespace, empty, below one root."""
    root_packages = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["root_packages"]
    for name in [*root_packages, "dressage.orchestrator.fold"]:
        folder = tmp_path.joinpath(*name.split("."))
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.read_text())
    return tmp_path


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=root,
        # Comes before the installed package, whose modules of the same names are thereby not looked at.
        env=os.environ | {"PYTHONPATH": str(root), "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_empty_miniature_keeps_every_contract(miniature: Path) -> None:
    done = lint(miniature)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("importer", "imported", "contract"),
    [
        ("dressage.protocol", "dressage.expressions", "one way down"),
        ("dressage.flow", "dressage.client", "one way down"),
        ("dressage.client", "dressage.orchestrator", "one way down"),
        ("dressage.connectors", "dressage.analytics", "one way down"),
        ("dressage.brokers", "dressage.cli", "one way down"),
        ("dressage.flow", "dressage.brokers", "what authors import knows no broker"),
        ("dressage.flow", "nats", "what authors import knows no broker"),
        ("dressage.orchestrator.fold", "time", "the fold and the evaluator are pure"),
        ("dressage.orchestrator.fold", "dressage.brokers", "the fold and the evaluator are pure"),
        ("dressage.expressions", "random", "the fold and the evaluator are pure"),
        ("dressage.protocol", "asyncio", "the shared words import only msgspec and the standard library"),
        ("dressage.protocol", "nats", "the shared words import only msgspec and the standard library"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(
    miniature: Path, importer: str, imported: str, contract: str
) -> None:
    miniature.joinpath(*importer.split("."), "culprit.py").write_text(f"import {imported}\n")
    done = lint(miniature)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"{contract} BROKEN" in done.stdout
    assert "culprit" in done.stdout


def test_a_forbidden_import_is_found_through_another_module(miniature: Path) -> None:
    (miniature / "dressage/protocol/helper.py").write_text("import time\n")
    (miniature / "dressage/orchestrator/fold/culprit.py").write_text("import dressage.protocol.helper\n")
    done = lint(miniature)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the fold and the evaluator are pure BROKEN" in done.stdout
