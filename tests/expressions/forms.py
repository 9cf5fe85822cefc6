"""Random expressions over the whole language, as text: the forms, filled with values of their types and, now and then,
with one of another type, for the errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from hypothesis import strategies as st

from dressage.simulation.programs.forms import FORMS, HOLE

VARIABLES: Final[dict[str, Any]] = {
    "i": 7,
    "j": -3,
    "zero": 0,
    "f": 2.5,
    "s": "Straße 12",
    "t": "a,b,,c",
    "text": "ab",
    "x": "a variable of the run",
    "k": None,
    "yes": True,
    "nums": [3, 1, 2, 1],
    "none": [],
    "words": ["pear", "fig", "apple"],
    "pairs": [("b", 2), ("a", 1)],
    "grid": [[1, 2], [3], []],
    "table": {"a": 1, "b": 2},
    "kinds": {1, 2, 3},
    "others": {3, 4},
    "tup": (1, "x"),
    "raw": b"ab\xc3\xa9",
    "m": Decimal("10.505"),
    "n": Decimal("-0.3"),
    "nan": Decimal("NaN"),
    "when": datetime(2024, 2, 29, 23, 59, 30, 5, tzinfo=UTC),
    "naive": datetime(2023, 12, 31, 1, 2, 3, tzinfo=UTC).replace(tzinfo=None),
    "day": date(2024, 3, 1),
    "span": timedelta(days=1, hours=7, microseconds=3),
    "uid": UUID("12345678-1234-5678-1234-567812345678"),
}

ATOMS: Final[dict[str, list[str]]] = {
    "I": ["i", "j", "zero", "yes", "0", "1", "2", "-1", "5"],
    "F": ["f", "0.1", "-2.0", "i / 2"],
    "S": ["s", "t", "text", "''", "'a'", "' x\\t'", "','", "'12'"],
    "B": ["yes", "i > 2", "not words", "False"],
    "L": ["nums", "none", "[0, 5]", "[i, j]"],
    "W": ["words", "['b', 'a']", "t.split(',')"],
    "D": ["table", "{}", "{'z': i}"],
    "T": ["kinds", "others", "{1}", "set()"],
    "P": ["tup", "()", "(i, j)"],
    "Y": ["raw", "b''", "b'xy'"],
    "M": ["m", "n", "Decimal('1.10')", "nan"],
    "A": ["when"],
    "N": ["naive", "datetime(2024, 1, 31)"],
    "E": ["day", "date(2023, 12, 31)"],
    "H": ["span", "timedelta(hours=-1)"],
    "U": ["uid"],
}

ALL: Final = [form for group in FORMS.values() for form in group]
BY_TYPE: Final[dict[str, list[str]]] = {}
for each in ALL:
    # What sets a variable cannot stand in a comprehension, so it stands at the root alone.
    if ":=" not in each and "f'" not in each:
        BY_TYPE.setdefault(each[0], []).append(each)


@st.composite
def expressions(draw: st.DrawFn, root: str) -> tuple[str, tuple[str, ...]]:
    """The text of an expression whose outermost form is `root`, and all forms in it."""
    forms_within: list[str] = []

    def fill(form: str, depth: int, own: Mapping[str, str]) -> str:
        forms_within.append(form)

        def hole(found: re.Match[str]) -> str:
            kind, mark, name = str(found[1]), found[2], found[3]
            if mark == ".":
                return draw(st.sampled_from([atom for atom in ATOMS[kind] if atom.isidentifier()]))
            inner = {**own, name: "I"} if name else own
            if draw(st.integers(0, 14)) == 14:
                kind = draw(st.sampled_from(sorted(ATOMS)))
            return smaller(kind, depth - 1, inner)

        return HOLE.sub(hole, form[3:])

    def smaller(kind: str, depth: int, own: Mapping[str, str]) -> str:
        names = [name for name, its_kind in own.items() if its_kind == kind]
        local = draw(st.booleans())
        if names and local:
            return draw(st.sampled_from(names))
        forms = BY_TYPE.get(kind)
        one_in_three = draw(st.integers(0, 2)) == 0
        if depth <= 0 or not forms or not one_in_three:
            atom = draw(st.sampled_from(ATOMS[kind]))
            return atom if atom.isidentifier() else f"({atom})"
        return f"({fill(draw(st.sampled_from(forms)), depth, own)})"

    return fill(root, 2, {}), tuple(forms_within)
