"""House rules of the layout, which no other tool would notice being broken.

The reasons are in docs/decisions/0001-layout-and-packaging.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

REPOSITORY: Final = Path(__file__).resolve().parent.parent
NAMESPACE: Final = "dressage"
NO_ROOTS: Final = {"tests", "examples"}
"""Folders that the type checkers look at, though they hold nothing of the namespace."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def source_roots() -> set[str]:
    """The folders that really hold a part of the namespace."""
    return {folder.parent.name for folder in REPOSITORY.glob(f"*/{NAMESPACE}") if folder.is_dir()}


def packages() -> Iterator[Path]:
    """The folders directly below the namespace, one for each package."""
    for folder in REPOSITORY.glob(f"*/{NAMESPACE}/*"):
        if folder.is_dir() and folder.name != "__pycache__":
            yield folder


def test_the_namespace_itself_has_no_init() -> None:
    """One such file would hide every other root, and mypy would not say so."""
    assert list(REPOSITORY.glob(f"*/{NAMESPACE}/__init__.py")) == []


def test_every_tool_knows_every_root(project: dict[str, Any]) -> None:
    tool = project["tool"]
    lists: dict[str, list[str]] = {
        "hatch dev-mode-dirs": tool["hatch"]["build"]["dev-mode-dirs"],
        "hatch packages": [
            path.removesuffix(f"/{NAMESPACE}")
            for path in tool["hatch"]["build"]["targets"]["wheel"]["packages"]
        ],
        "ruff src": tool["ruff"]["src"],
        "mypy mypy_path": tool["mypy"]["mypy_path"],
        "mypy files": tool["mypy"]["files"],
        "basedpyright extraPaths": tool["basedpyright"]["extraPaths"],
        "basedpyright include": tool["basedpyright"]["include"],
        "basedpyright extraPaths of tests": tool["basedpyright"]["executionEnvironments"][0]["extraPaths"],
    }
    differences = {name: set(listed) - NO_ROOTS ^ source_roots() for name, listed in lists.items()}
    assert {name: these for name, these in differences.items() if these} == {}


def test_every_package_is_watched_by_the_import_contracts(project: dict[str, Any]) -> None:
    names = {f"{NAMESPACE}.{folder.name}" for folder in packages()}
    contracts = project["tool"]["importlinter"]
    (layers,) = (contract["layers"] for contract in contracts["contracts"] if contract["type"] == "layers")
    layered = {name.strip() for layer in layers for name in layer.replace("|", ":").split(":")}
    assert set(contracts["root_packages"]) == names
    assert layered == names


def test_every_package_is_typed_and_says_so() -> None:
    assert [str(folder) for folder in packages() if not (folder / "py.typed").exists()] == []
