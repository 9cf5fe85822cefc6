"""`dressage shards limit`, against a real engine."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Engine  # pyright: ignore[reportMissingImports]

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "limits.md").read_text()


def test_the_documented_command_sets_the_limit(engine: Engine) -> None:
    (command,) = re.findall(r"^dressage (shards limit .*)$", PAGE, re.MULTILINE)
    assert engine.invoke(*command.split(), "--json").exit_code == 0
    done = engine.invoke("shards", "limit", "--open-runs", "7", "--json")
    assert json.loads(done.stdout)["open_runs_max"] == 7
    assert engine.invoke("shards", "limit", "--open-runs", "7").stdout == "at most 7 open runs\n"
    assert engine.invoke("shards", "limit", "--open-runs", "0").stdout == "any number of open runs\n"


def test_a_figure_that_is_none_is_a_usage_error(engine: Engine) -> None:
    for figure in ("-1", "x", str(10**30)):
        assert engine.invoke("shards", "limit", "--open-runs", figure).exit_code == 2


def test_a_namespace_that_nobody_served_is_told(engine: Engine) -> None:
    done = engine.invoke("shards", "limit", "--open-runs", "7", "--namespace", "nobody")
    assert done.exit_code == 1
    assert done.stderr.startswith("NAMESPACE_UNKNOWN: ")
