"""The methods of lists, tuples, dicts and sets that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dressage.expressions.callables import MANY, Builtin, Function, method
from dressage.expressions.frame import Frame
from dressage.expressions.iteration import iterate_any, view_of
from dressage.expressions.limits import limit_collisions, weigh
from dressage.expressions.operators import check_hashable
from dressage.expressions.text_methods import text_count, text_index, text_replace
from dressage.expressions.time_methods import REPLACE_DATE

_ITEMS: Final = frozenset[int | str](range(1, MANY + 1))


def _search(kind: type, name: str) -> Function:
    call_method: Callable[..., Any] = getattr(kind, name)

    def call(frame: Frame, receiver: Any, *args: Any) -> Any:
        # Twice, because each item is weighed and compared.
        frame.spend(2 * weigh(receiver))
        frame.spend_on(args[0])
        return call_method(receiver, *args)

    return call


def _same(frame: Frame, receiver: Any) -> Any:
    """A copy of a value that nothing can change is the value."""
    return receiver


def _get(frame: Frame, receiver: dict[Any, Any], key: Any, default: Any = None) -> Any:
    check_hashable(key)
    frame.spend_on(key)
    return receiver.get(key, default)


# -- sets ------------------------------------------------------------------------------------------
def _items_of(frame: Frame, value: Any) -> Any:
    """The items of a set's partner, which can all be hashed."""
    if isinstance(value, set):
        frame.spend(2 * weigh(value))
        return value
    items: list[Any] = []
    for item in iterate_any(frame, value):
        check_hashable(item)
        frame.spend_on(item)
        items.append(item)
    limit_collisions(items)
    return items


def _joining(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(set, name)

    def call(frame: Frame, receiver: set[Any], *others: Any) -> Any:
        frame.spend(2 * weigh(receiver))
        result = receiver
        # One after the other, as Python does: what is wrong with the first is said first.
        for each in others:
            items = _items_of(frame, each)
            if name in ("union", "symmetric_difference"):
                limit_collisions([*result, *items])
            result = call_method(result, items)
            frame.spend(weigh(result))
        return set(result) if result is receiver else result

    return call


def _comparing(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(set, name)

    def call(frame: Frame, receiver: set[Any], other: Any) -> Any:
        frame.spend(2 * weigh(receiver))
        return call_method(receiver, _items_of(frame, other))

    return call


COLLECTION_METHODS: dict[str, Builtin] = {
    ".index": method({str: text_index, list: _search(list, "index"), tuple: _search(tuple, "index")}, 1, 3),
    ".count": method({str: text_count, list: _search(list, "count"), tuple: _search(tuple, "count")}, 1, 3),
    ".copy": method({list: _same, dict: _same, set: _same}),
    ".get": method({dict: _get}, 1, 2),
    **{f".{name}": method({dict: view_of(name)}, transient=True) for name in ("keys", "values", "items")},
    **{
        f".{name}": method({set: _joining(name)}, 0, MANY - 1, consumes=_ITEMS)
        for name in ("union", "intersection", "difference")
    },
    ".symmetric_difference": method({set: _joining("symmetric_difference")}, 1, 1, consumes=_ITEMS),
    **{
        f".{name}": method({set: _comparing(name)}, 1, 1, consumes=_ITEMS)
        for name in ("issubset", "issuperset", "isdisjoint")
    },
    ".replace": method(
        {str: text_replace, **REPLACE_DATE},
        0,
        8,
        frozenset({"year", "month", "day", "hour", "minute", "second", "microsecond", "tzinfo", "fold"}),
        consumes=frozenset({"tzinfo"}),
    ),
}
