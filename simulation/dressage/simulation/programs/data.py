"""The variables of data of a random workflow: what they begin with, the forms that change them, how they are shown."""

from __future__ import annotations

from typing import Final

from dressage.simulation.programs.forms import FORMS

FIRST: Final = {
    "i": "x",
    "j": "-3",
    "zero": "0",
    "got": "0",
    "w": "0",
    "f": "2.5",
    "text": "'ab'",
    "yes": "x > 0",
    "nums": "[3, 1, x, 1]",
    "none": "[]",
    "words": "['pear', 'fig', 'apple']",
    "pairs": "[('b', 2), ('a', 1)]",
    "grid": "[[1, 2], [x], []]",
    "table": "{'a': 1, 'b': x}",
    "kinds": "{1, 2, x}",
    "others": "{3, 4}",
    "tup": "(x, 'x')",
    "raw": "b'ab\\xc3\\xa9'",
    "m": "Decimal('10.505')",
    "n": "Decimal('-0.3')",
    "when": "datetime(2024, 2, 29, 23, 59, 30, 5, tzinfo=timezone.utc)",
    "naive": "datetime(2023, 12, 31, 1, 2, 3)",
    "day": "date(2024, 3, 1)",
    "span": "timedelta(days=1, hours=7, microseconds=3)",
    "uid": "UUID('12345678-1234-5678-1234-567812345678')",
    "item": "Item(x)",
    "tier": "Tier.BASIC",
    "shelf": "[Item(x), Item(2, Tier.GOLD, 'n')]",
}
"""What a variable of data begins with, in a program that has it."""

SHOWN: Final = {
    **{name: f"{{{name}}}" for name in ("got", "w", "f", "text", "yes", "m")},
    **{name: f"{{{name}!r}}" for name in ("nums", "words", "table", "tup")},
    "kinds": "{len(kinds)}",
    "raw": "{raw.hex()}",
    **{name: f"{{{name}.isoformat()}}" for name in ("when", "naive", "day")},
    "uid": "{uid.hex}",
    "span": "{span.total_seconds()}",
    "item": "{item.size}{item.tier.value}{item.note}{item.parts}",
    "tier": "{tier.name}",
    "shelf": "{[(each.size, each.tier.name) for each in shelf]}",
}

ATOMS: Final[dict[str, list[str]]] = {
    "I": ["i", "j", "zero", "yes", "0", "1", "2", "-1", "5"],
    "F": ["f", "0.1", "-2.0", "i / 2"],
    "S": ["s", "t", "text", "''", "'a'", "' x'", "','", "'12'"],
    "B": ["yes", "i > 2", "not words", "False"],
    "L": ["nums", "none", "[0, 5]", "[i, j]"],
    "W": ["words", "['b', 'a']", "t.split(',')"],
    "D": ["table", "{'z': i}"],
    "T": ["kinds", "others", "{1}"],
    "P": ["tup", "(i, j)"],
    "Y": ["raw", "b''", "b'xy'"],
    "M": ["m", "n", "Decimal('1.10')"],
    "A": ["when"],
    "N": ["naive", "datetime(2024, 1, 31)"],
    "E": ["day", "date(2023, 12, 31)"],
    "H": ["span", "timedelta(hours=-1)"],
    "U": ["uid"],
}

TARGETS: Final = {
    "I": ("got", ""),
    "F": ("f", ""),
    "S": ("text", "[:20]"),
    "B": ("yes", ""),
    "L": ("nums", "[:4]"),
    "W": ("words", "[:4]"),
    "D": ("table", ""),
    "T": ("kinds", ""),
    "P": ("tup", "[:3]"),
    "Y": ("raw", "[:9]"),
    "M": ("m", ""),
    "A": ("when", ""),
    "N": ("naive", ""),
    "E": ("day", ""),
    "H": ("span", ""),
    "U": ("uid", ""),
}
"""The variable that takes a type, and what cuts its value."""

NOT_HERE: Final = {
    "L: [*<L>, <I>, *<T>]",
    "I: <A>.strange",
    "S: f'{1 / zero:{nowhere}}'",
}
"""The forms that the compiler refuses where it knows the types."""

_GROUPS: Final = {form: name for name, forms in FORMS.items() for form in forms if form not in NOT_HERE}

FORMS_BY_TYPE: Final[dict[str, list[str]]] = {}
for _form in _GROUPS:
    FORMS_BY_TYPE.setdefault(_form[0], []).append(_form)


def group_of(form: str) -> str:
    """What a form is about."""
    return _GROUPS[form]
