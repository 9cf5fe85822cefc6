"""The tables of docs/reliability.md are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from dressage.simulation.invariants import RULES
from dressage.simulation.mutants import MUTANTS

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


def table(heading: str) -> dict[str, str]:
    """The two columns of the table below a heading row."""
    _, _, rest = PAGE.read_text().partition(f"\n| {heading} |")
    rows = rest.partition("\n\n")[0].splitlines()[2:]
    found = [re.fullmatch(r"\| (\S+) \| (.+) \|", row) for row in rows]
    return {match[1]: match[2] for match in found if match is not None}


def test_the_rules_are_those_that_are_checked() -> None:
    assert table("rule") == RULES


def test_the_mutants_are_those_that_are_run() -> None:
    assert table("mutant") == {name: mutant.what for name, mutant in MUTANTS.items()}
