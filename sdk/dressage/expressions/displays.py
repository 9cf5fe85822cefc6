"""Lists, tuples, sets and dicts that are written out, with `*` and `**` among their items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dressage.expressions.compilation import Evaluate, Part
from dressage.expressions.frame import Frame
from dressage.expressions.functions import dict_of, set_of
from dressage.expressions.iteration import iterate, iterate_any
from dressage.expressions.limits import ITEM_WEIGHT, weigh
from dressage.expressions.operators import check_hashable
from dressage.expressions.types import TypeTable
from dressage.expressions.values import Value, type_name
from dressage.protocol.errors import BadSpec
from dressage.protocol.expressions import DictOfExpr, Expr, ListOfExpr, SetOfExpr, Spread, TupleOfExpr


def list_of_items(expr: ListOfExpr, part: Part, table: TypeTable) -> Evaluate:
    collect = _sequence(expr.items, part)

    def evaluate(frame: Frame) -> Value:
        value = collect(frame)
        frame.spend(weigh(value))
        return value

    return evaluate


def tuple_of_items(expr: TupleOfExpr, part: Part, table: TypeTable) -> Evaluate:
    collect = _sequence(expr.items, part)

    def evaluate(frame: Frame) -> Value:
        value = tuple(collect(frame))
        frame.spend(weigh(value))
        return value

    return evaluate


def _sequence(items: tuple[Expr | Spread, ...], part: Part) -> Callable[[Frame], list[Value]]:
    if not any(isinstance(item, Spread) for item in items):
        plain = [part(item) for item in items if not isinstance(item, Spread)]
        return lambda frame: [item(frame) for item in plain]
    pieces = [_piece(item, part) for item in items]

    def collect(frame: Frame) -> list[Value]:
        found: list[Value] = []
        for spread, item in pieces:
            if spread:
                _extend(frame, found, item(frame))
            else:
                found.append(item(frame))
        return found

    return collect


def _piece(item: Expr | Spread, part: Part) -> tuple[bool, Evaluate]:
    if isinstance(item, Spread):
        return True, part.consumed(item.value)
    return False, part(item)


def _extend(frame: Frame, found: list[Value], value: Any) -> None:
    try:
        items = iterate(frame, value)
    except TypeError as error:
        if isinstance(value, set):
            raise
        raise TypeError(f"Value after * must be an iterable, not {type_name(value)}") from error
    found.extend(items)


def set_of_items(expr: SetOfExpr, part: Part, table: TypeTable) -> Evaluate:
    pieces = [_piece(item, part) for item in expr.items]

    def evaluate(frame: Frame) -> Value:
        found: list[Value] = []
        # Python hashes plain items when the last of them is there, or the first `*`.
        checked = False
        for spread, item in pieces:
            if spread and not checked:
                _check_all(found)
                checked = True
            value = item(frame)
            if spread:
                items = list(iterate_any(frame, value))
                _check_all(items)
                found += items
            else:
                if checked:
                    check_hashable(value)
                found.append(value)
        if not checked:
            _check_all(found)
        return set_of(frame, iter(found))

    return evaluate


def _check_all(values: list[Value]) -> None:
    for value in values:
        check_hashable(value)


def dict_of_items(expr: DictOfExpr, part: Part, table: TypeTable) -> Evaluate:
    if len(expr.keys) != len(expr.values):
        raise BadSpec("a dict needs a value for each key")
    pairs = [
        (None if key is None else part(key), part(value))
        for key, value in zip(expr.keys, expr.values, strict=True)
    ]

    def evaluate(frame: Frame) -> Value:
        found: list[tuple[Value, Value]] = []
        # Python hashes the keys up to the next `**` together, when the last of their values is there.
        unchecked = 0
        for key, item in pairs:
            if key is not None:
                name = key(frame)
                found.append((name, item(frame)))
                continue
            _check_all([name for name, _ in found[unchecked:]])
            found += _pairs_of(frame, item(frame))
            unchecked = len(found)
        _check_all([name for name, _ in found[unchecked:]])
        return dict_of(frame, found)

    return evaluate


def _pairs_of(frame: Frame, value: Any) -> list[tuple[Value, Value]]:
    if not isinstance(value, dict):
        raise TypeError(f"'{type_name(value)}' object is not a mapping")
    frame.spend(2 * ITEM_WEIGHT * len(value))
    return list(value.items())
