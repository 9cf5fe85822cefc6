"""The whole expression language against Python: the same value, or the same error with the same words."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from tests.expressions.forms import (  # pyright: ignore[reportMissingImports]
    ALL,
    VARIABLES,
    expressions,
)

from dressage.expressions import ExpressionFailed, LimitExceeded, TypeTable
from dressage.expressions.builtins import BUILTINS, INTERNAL
from dressage.expressions.configuration import TextScope
from dressage.expressions.evaluate import compile_for_frames
from dressage.expressions.formatting import text_of
from dressage.expressions.frame import Frame
from dressage.expressions.parse import translate
from dressage.protocol.errors import DefinitionError
from dressage.simulation.programs.forms import FORMS

EXAMPLES_PER_FORM = 10
NAMES: dict[str, Any] = {
    "Decimal": Decimal,
    "timedelta": timedelta,
    "datetime": datetime,
    "date": date,
    "timezone": timezone,
    "UUID": UUID,
}


class Variables(Frame):
    """The variables of a run that lasts for one expression."""

    def __init__(self) -> None:
        super().__init__(VARIABLES)
        self.set: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        return self.set[name] if name in self.set else VARIABLES[name]

    def bind(self, name: str, value: Any) -> None:
        self.set[name] = value


class RunScope(TextScope):
    """The names of a workflow, where `w` can be set."""

    inside = False

    def bound(self, node: ast.NamedExpr) -> str:
        return super().bound(node) if self.inside else node.target.id

    def locally(self, names: Collection[str]) -> TextScope:
        inner = RunScope(self.text, {*self.names, *names})
        inner.inside = True
        return inner


def ours(text: str) -> Any:
    tree = translate(ast.parse(text, mode="eval").body, RunScope(text, {*VARIABLES, "w", "nowhere"}))
    evaluate, _ = compile_for_frames(tree, TypeTable())
    frame = Variables()
    try:
        return described(evaluate(frame)), described(frame.set)
    except LimitExceeded:
        raise
    except ExpressionFailed as error:
        return error.message


def pythons(text: str) -> Any:
    names = {**NAMES, **VARIABLES}
    try:
        value = eval(text, names)
    except Exception as error:
        said = str(error)
        return f"{type(error).__name__}: {said}" if said else type(error).__name__
    return described(value), described({"w": names["w"]} if "w" in names else {})


def described(value: Any) -> Any:
    """A value with the types of all that it holds, nan and -0.0 included; a set without an order."""
    if isinstance(value, list | tuple):
        return type(value).__name__, [described(item) for item in value]
    if isinstance(value, set):
        return "set", sorted(map(repr, value))
    if isinstance(value, dict):
        return "dict", [(described(key), described(item)) for key, item in value.items()]
    return type(value).__name__, repr(value)


def compare(roots: Sequence[str]) -> Counter[str]:
    """Compares expressions with these outermost forms; how often each form was compared. Raises `AssertionError`."""
    seen: Counter[str] = Counter()
    for root in roots:
        _compare_form(root, seen)
    return seen


def _compare_form(root: str, seen: Counter[str]) -> None:
    @seed(1)
    @settings(
        max_examples=EXAMPLES_PER_FORM,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(expressions(root))
    def compared(drawn: tuple[str, tuple[str, ...]]) -> None:
        text, forms = drawn
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            try:
                got = ours(text)
            except (LimitExceeded, DefinitionError, SyntaxError):
                # What is refused means nothing else; tests of their own look at refusals and limits.
                return
            expected = pythons(text)
        seen.update(forms)
        assert got == expected or refused_on_purpose(got, expected), (text, got, expected)

    compared()


REFUSED = (
    "TypeError: a set has no order",
    "TypeError: a set with nan",
    "TypeError: with a key, the order of a set",
    "TypeError: set has no text",
    "TypeError: bytes has no text",
    "TypeError: sum() cannot start",
    "TypeError: % does not format text",
    "TypeError: pow() with a modulus takes ints",
    "ValueError: a negative number to a fractional power",
)
"""What is an error here and another one, or a value, in Python, as documented."""


def refused_on_purpose(got: Any, expected: Any) -> bool:
    if not isinstance(got, str):
        return False
    if "no attribute" in got and "<built-in method" in repr(expected):
        # A method without its call is no value here.
        return True
    if got.startswith("NameError: variable ") and isinstance(expected, str):
        return expected.startswith("NameError: ")
    return got.startswith(REFUSED) or "is not part of the language" in got


@pytest.mark.parametrize("group", FORMS)
def test_what_an_expression_gives_is_what_python_gives(group: str) -> None:
    seen = compare(FORMS[group])
    assert [form for form in FORMS[group] if not seen[form]] == []


def test_every_builtin_occurs_in_the_forms() -> None:
    texts = " ".join(form for group in FORMS.values() for form in group)
    assert [name for name in BUILTINS if f"{name}(" not in texts and name not in _ELSEWHERE] == []


_ELSEWHERE = {"timezone.utc", "bool", "float", "int", "all", "len", "isinstance", *INTERNAL}
"""Those that are no call, or that tests/expressions/test_evaluate.py or tests/flow/test_statements.py compares."""


# -- the test itself -------------------------------------------------------------------------------
def swapped(name: str, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[[Any], None]:
    """A mutant of one builtin."""

    def apply(patch: Any) -> None:
        builtin = BUILTINS[name]
        if builtin.receivers is None:
            changed = builtin._replace(function=change(builtin.function))
        else:
            changed = builtin._replace(
                receivers={kind: change(each) for kind, each in builtin.receivers.items()}
            )
        patch.setitem(BUILTINS, name, changed)

    return apply


def patched(target: str, value: Any) -> Callable[[Any], None]:
    return lambda patch: patch.setattr(target, value)


def _last_of_equal(pick: Callable[..., Any]) -> Callable[..., Any]:
    def picked(frame: Frame, first: Any, *others: Any, **words: Any) -> Any:
        args = [first, *others][::-1] if others else [list(first)[::-1]]
        return pick(frame, *args, **words)

    return picked


MUTANTS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "sorted() forgets reverse": (
        "sorted(",
        swapped("sorted", lambda sort: lambda frame, items, key=None, reverse=False: sort(frame, items, key)),
    ),
    "sorted() forgets its key": (
        "sorted(",
        swapped(
            "sorted",
            lambda sort: lambda frame, items, key=None, reverse=False: sort(frame, items, None, reverse),
        ),
    ),
    "any() asks every item": ("any(", swapped("any", lambda found: lambda frame, items: any(list(items)))),
    "max() takes the last of equal ones": ("max(", swapped("max", _last_of_equal)),
    "a range ends one later": (
        "range(",
        swapped("range", lambda make: lambda frame, first, *more: make(frame, first + 1, *more)),
    ),
    "zip() is never strict": (
        "zip(",
        swapped("zip", lambda make: lambda frame, *args, **words: make(frame, *args)),
    ),
    "enumerate() begins at nought": (
        "enumerate(",
        swapped("enumerate", lambda make: lambda frame, items, start=0: make(frame, items)),
    ),
    "split() ignores its limit": (
        "split(",
        swapped(".split", lambda cut: lambda frame, text, sep=None, maxsplit=-1: cut(frame, text, sep)),
    ),
    "replace() replaces once": (
        ".replace(",
        swapped(".replace", lambda change: lambda frame, *args, **more: change(frame, *args[:3], 1, **more)),
    ),
    "get() has no default": (
        ".get(",
        swapped(".get", lambda get: lambda frame, owner, key, default=None: get(frame, owner, key)),
    ),
    "quantize() cuts": (
        ".quantize(",
        swapped(
            ".quantize",
            lambda cut: lambda frame, value, exp, rounding=None: cut(frame, value, exp, "ROUND_DOWN"),
        ),
    ),
    "a datetime is written as its date": (
        ".isoformat(",
        swapped(".isoformat", lambda text: lambda frame, *args, **more: text(frame, *args, **more)[:10]),
    ),
    "unpacking does not count": (
        "for a, ",
        patched(
            "dressage.expressions.comprehensions.unpack",
            lambda frame, value, count, star=None: (list(value) + [None] * count)[:count],
        ),
    ),
    "a format does nothing": ("f'", patched("dressage.expressions.evaluate.formatter", lambda spec: text_of)),
    "the first of equal keys wins": (
        "**<D>",
        patched("dressage.expressions.displays.dict_of", lambda frame, pairs: dict(reversed(pairs))),
    ),
    "a set of a list keeps no star": (
        "*<L>",
        patched("dressage.expressions.displays.iterate_any", lambda frame, value: iter(())),
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_comparison_finds_what_is_wrong(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    part, apply = MUTANTS[mutant]
    apply(monkeypatch)
    with pytest.raises(AssertionError):
        compare([form for form in ALL if part in form])
