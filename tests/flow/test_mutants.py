"""The comparison with Python can fail: whatever is wrong with compiler or fold, some random program shows it."""

from __future__ import annotations

from typing import Final

import pytest
from tests.flow.mutants import MUTANTS, first_shown  # pyright: ignore[reportMissingImports]

SEARCHED: Final = 60
"""Programs that are tried from the one on that is known to show a mutant: the generator changes now and then."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_noticed(name: str) -> None:
    known = MUTANTS[name].first
    found = first_shown(name, known, SEARCHED)
    assert found is not None, (
        f"{MUTANTS[name].what}: none of {SEARCHED} programs from number {known} on shows it; look for another one with "
        f"`first_shown({name!r}, 0, 1000)` of tests/flow/mutants.py, and write it down as `first` there"
    )
    print(f"{MUTANTS[name].what}: shown by program {found}")


def test_there_are_mutants_enough() -> None:
    assert len(MUTANTS) >= 15
