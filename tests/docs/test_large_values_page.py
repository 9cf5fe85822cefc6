"""The examples of docs/large-values.md run, and its names are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.protocol.large import LARGE_VALUE_BYTES_MAX
from dressage.protocol.names import Names
from dressage.simulation.programs import define
from dressage.worker.calls import too_large, without_arguments

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "large-values.md").read_text()


def test_the_examples_of_the_page_run() -> None:
    define("\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE)))


def test_the_names_on_the_page_are_those_of_the_code() -> None:
    for ended in (too_large(""), without_arguments("")):
        assert ended.error is not None
        assert f"`{ended.error.name}`" in PAGE
    assert f"`{Names('n').objects_bucket.replace('_n_', '_<namespace>_')}`" in PAGE
    assert f"{LARGE_VALUE_BYTES_MAX // 1024**2} MiB" in PAGE


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)
