"""docs/semantics.md names a test for every answer, and each of them exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "semantics.md").read_text()
NAMED: Final = re.findall(r"\]\(\.\./(tests/[\w/]+\.py)#(test_\w+)\)", PAGE)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions


def test_every_answer_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert rows
    assert [row for row in rows if "](../tests/" not in row and "the same test" not in row] == []
