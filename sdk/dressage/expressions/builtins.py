"""The pure functions and methods that expressions may call. Nothing else can be called.

`docs/language.md` lists them, from `table()`. Each means what Python's means, or is an error that says why not:
`str()` of a record, an enum member, a set or bytes is refused, since its text would be another in Python.
"""

from __future__ import annotations

from typing import Final

from dressage.expressions import functions as of
from dressage.expressions.callables import ANY_KEYWORD, MANY, Builtin, plain, spending
from dressage.expressions.collection_methods import COLLECTION_METHODS
from dressage.expressions.groups import split_failures
from dressage.expressions.iteration import make_enumerate, make_range, make_reversed, make_zip, unpacked
from dressage.expressions.matching import is_instance, is_mapping, is_sequence, without
from dressage.expressions.text_methods import TEXT_METHODS
from dressage.expressions.time_methods import TIME_FUNCTIONS, TIME_METHODS

_FIRST: Final = frozenset[int | str]({0})
_ALL: Final = frozenset[int | str](range(MANY))
_EXTREME: Final = frozenset({"default", "key"})

INTERNAL: Final[dict[str, Builtin]] = {
    "unpack": Builtin(unpacked, 2, 3),
    "split_failures": Builtin(split_failures, 2, MANY),
    "is_sequence": Builtin(is_sequence, 1, 1),
    "is_mapping": Builtin(is_mapping, 1, 1),
    "without": Builtin(without, 1, MANY),
}
"""What statements are compiled to; no source can name these."""

BUILTINS: dict[str, Builtin] = {
    "len": Builtin(of.count_items, 1, 1, consumes=_FIRST),
    "bool": Builtin(plain(bool), 0, 1),
    "str": Builtin(of.make_str, 0, 1),
    "repr": Builtin(of.make_repr, 1, 1),
    "ord": Builtin(plain(ord), 1, 1),
    "chr": Builtin(plain(chr), 1, 1),
    "int": Builtin(of.make_int, 0, 2),
    "float": Builtin(of.make_float, 0, 1),
    "Decimal": Builtin(of.make_decimal, 0, 1),
    "abs": Builtin(spending(abs), 1, 1),
    "round": Builtin(of.round_number, 1, 2, frozenset({"ndigits"})),
    "divmod": Builtin(of.divide, 2, 2),
    "pow": Builtin(of.power, 2, 3),
    "min": Builtin(of.extreme(min), 1, MANY, _EXTREME, _FIRST, takes_key=True),
    "max": Builtin(of.extreme(max), 1, MANY, _EXTREME, _FIRST, takes_key=True),
    "sum": Builtin(of.add_up, 1, 2, frozenset({"start"}), _FIRST),
    "any": Builtin(of.truth(any), 1, 1, consumes=_FIRST),
    "all": Builtin(of.truth(all), 1, 1, consumes=_FIRST),
    "sorted": Builtin(of.sort, 1, 1, frozenset({"key", "reverse"}), _FIRST, takes_key=True),
    "list": Builtin(of.make_list, 0, 1, consumes=_FIRST),
    "tuple": Builtin(of.make_tuple, 0, 1, consumes=_FIRST),
    "set": Builtin(of.make_set, 0, 1, consumes=_FIRST),
    "dict": Builtin(of.make_dict, 0, 1, ANY_KEYWORD, _FIRST),
    "isinstance": Builtin(is_instance, 2, MANY),
    **INTERNAL,
    "range": Builtin(make_range, 1, 3, transient=True),
    "enumerate": Builtin(make_enumerate, 1, 2, frozenset({"start"}), _FIRST, transient=True),
    "zip": Builtin(make_zip, 0, MANY, frozenset({"strict"}), _ALL, transient=True),
    "reversed": Builtin(make_reversed, 1, 1, consumes=_FIRST, transient=True),
    **TIME_FUNCTIONS,
    **TEXT_METHODS,
    **COLLECTION_METHODS,
    **TIME_METHODS,
}
"""By the name in `Call.function`; the receiver of a method is its first argument."""


def table() -> str:
    """The builtins as a table in Markdown: functions, and methods by their receiver."""
    rows: dict[str, list[str]] = {"functions": []}
    for name, builtin in BUILTINS.items():
        if name in INTERNAL:
            continue
        if builtin.receivers is None:
            rows["functions"].append(name)
        for kind in builtin.receivers or ():
            rows.setdefault(kind.__name__, []).append(name.removeprefix("."))
    lines = ["| of | |", "| --- | --- |"]
    lines += [
        f"| {owner if owner == 'functions' else f'`{owner}`'} | {', '.join(f'`{name}`' for name in sorted(names))} |"
        for owner, names in rows.items()
    ]
    return "\n".join(lines)
