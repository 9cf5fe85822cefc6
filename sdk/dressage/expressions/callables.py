"""How a builtin function or method is described: `Builtin`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from dressage.expressions.frame import Frame
from dressage.expressions.values import Record, type_name
from dressage.protocol.commands import FailureInfo

Function = Callable[..., Any]
"""Gets the frame first, from which it spends what grows with the size of its arguments, then the arguments."""

ANY_KEYWORD: Final = frozenset({"**"})
"""For a function that takes whatever it is given by name."""

MANY: Final = 255
"""The most arguments by place of a function that takes as many as it is given."""


class Builtin(NamedTuple):
    """A callable of expressions: how many arguments by place it takes, which by name, and its function.

    A method counts its receiver as its first argument, and has a function for each type of receiver.
    """

    function: Function
    args_min: int
    args_max: int
    keywords: frozenset[str] = frozenset()
    consumes: frozenset[int | str] = frozenset()
    """The arguments, by place or name, that it is done with when it returns: they may be transient."""

    transient: bool = False
    """Whether it gives what is no value, such as a range: only to be consumed at once."""

    takes_key: bool = False
    """Whether its `key=` is a function."""

    receivers: Mapping[type, Function] | None = None


def takes_keyword(builtin: Builtin, name: str) -> bool:
    return name in builtin.keywords or builtin.keywords is ANY_KEYWORD


def plain(function: Function) -> Function:
    """For what costs the same whatever it is given."""
    return lambda frame, *args, **keywords: function(*args, **keywords)


def spending(function: Function) -> Function:
    """For what looks at its arguments once."""

    def call(frame: Frame, *args: Any, **keywords: Any) -> Any:
        for arg in (*args, *keywords.values()):
            frame.spend_on(arg)
        return function(*args, **keywords)

    return call


def method(
    receivers: Mapping[type, Function],
    args_min: int = 0,
    args_max: int = 0,
    keywords: frozenset[str] = frozenset(),
    consumes: frozenset[int | str] = frozenset(),
    transient: bool = False,
) -> Builtin:
    """A method of each of the `receivers`; the counts are those of the arguments behind it."""
    return Builtin(
        _no_function,
        args_min + 1,
        args_max + 1,
        keywords,
        consumes,
        transient=transient,
        receivers=receivers,
    )


def _no_function(frame: Frame, *args: Any) -> Any:
    raise AssertionError("a method is called through its receiver")


def method_of(receiver: Any, name: str, receivers: Mapping[type, Function]) -> Function:
    """The function of a method for this receiver. Raises `AttributeError` as Python does, or `TypeError` where Python
    has a method that the language lacks."""
    found = receivers.get(type(receiver))
    if found is not None:
        return found
    # Members of an enum of texts or ints are such.
    for kind, function in receivers.items():
        if isinstance(receiver, kind) and kind in (str, int):
            return function
    kind_name = type_name(receiver)
    if not isinstance(receiver, Record | Enum | FailureInfo) and hasattr(receiver, name):
        raise TypeError(f"method {name}() of a {kind_name} is not part of the language")
    raise AttributeError(f"'{kind_name}' object has no attribute '{name}'")
