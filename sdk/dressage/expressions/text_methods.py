"""The methods of texts and bytes, each with its size limited before it begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dressage.expressions.callables import Builtin, Function, method
from dressage.expressions.frame import SMALL_TEXT, Frame
from dressage.expressions.iteration import iterate
from dressage.expressions.limits import ITEM_WEIGHT, TEXT_MAX_CHARS, VALUE_MAX_WEIGHT, limit_text, weigh

_PIECES_MAX = VALUE_MAX_WEIGHT // ITEM_WEIGHT


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 0


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _spend_on_text(frame: Frame, receiver: str | bytes, *args: Any) -> None:
    """For what goes through the text once, and may look up each character in all of an argument, as strip() does."""
    if len(receiver) > SMALL_TEXT or args:
        given = weigh(args[0]) if args else 0
        frame.spend(2 * len(receiver) + (given * (512 + len(receiver)) >> 9))


def _spend_on_search(frame: Frame, receiver: str, wanted: Any) -> None:
    """A search from the left is quick for long texts; one from the right may compare all with all."""
    frame.spend(2 * len(receiver) + (len(receiver) * _size(wanted) >> 4))


def _once(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(str, name)

    def call(frame: Frame, receiver: str, *args: Any) -> Any:
        _spend_on_text(frame, receiver, *args)
        result = call_method(receiver, *args)
        if isinstance(result, str):
            # Some letters become three in the other case.
            limit_text(len(result))
        return result

    return call


def _searching(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(str, name)

    def call(frame: Frame, receiver: str, *args: Any) -> Any:
        _spend_on_search(frame, receiver, args[0])
        return call_method(receiver, *args)

    return call


def _padding(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(str, name)

    def call(frame: Frame, receiver: str, width: Any, *fill: Any) -> Any:
        limit_text(_number(width))
        frame.spend(max(_number(width), len(receiver)))
        return call_method(receiver, width, *fill)

    return call


def _splitting(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(str, name)

    def call(frame: Frame, receiver: str, sep: Any = None, maxsplit: Any = -1) -> Any:
        _spend_on_search(frame, receiver, sep)
        if isinstance(maxsplit, int) and not 0 <= maxsplit <= _PIECES_MAX:
            # One piece more than any list may have, so that a list that is too long is seen to be.
            maxsplit = _PIECES_MAX
        pieces = call_method(receiver, sep, maxsplit)
        frame.spend(weigh(pieces))
        return pieces

    return call


def _splitlines(frame: Frame, receiver: str, keepends: Any = False) -> list[str]:
    frame.spend(ITEM_WEIGHT * len(receiver))
    lines = receiver.splitlines(keepends)
    weigh(lines)
    return lines


def _replace(frame: Frame, receiver: str, old: Any, new: Any, count: Any = -1) -> str:
    _spend_on_search(frame, receiver, old)
    if isinstance(old, str) and isinstance(new, str) and len(new) > len(old):
        found = receiver.count(old)
        if _number(count) >= 0:
            found = min(found, _number(count))
        limit_text(len(receiver) + found * (len(new) - len(old)))
        frame.spend(len(receiver) + found * len(new))
    return receiver.replace(old, new, count)


def _expandtabs(frame: Frame, receiver: str, tabsize: Any = 8) -> str:
    size = len(receiver) + receiver.count("\t") * max(0, _number(tabsize))
    limit_text(size)
    frame.spend(2 * size)
    return receiver.expandtabs(tabsize)


def _join(frame: Frame, receiver: str, items: Any) -> str:
    if isinstance(items, set):
        iterate(frame, items)
    try:
        source = iterate(frame, items)
    except TypeError:
        raise TypeError("can only join an iterable") from None
    pieces: list[Any] = []
    size = 0
    for item in source:
        pieces.append(item)
        size += _size(item) + len(receiver)
        # Checked on the way: a generator may make one text after the other.
        if size - len(receiver) > TEXT_MAX_CHARS:
            limit_text(size - len(receiver))
    frame.spend(size)
    return receiver.join(pieces)


# -- texts and bytes -------------------------------------------------------------------------------
_ENCODINGS: Final = frozenset({"utf-8", "ascii", "latin-1"})
_ERRORS: Final = frozenset({"strict", "ignore", "replace"})


def _check_encoding(encoding: Any, errors: Any) -> None:
    if isinstance(encoding, str) and encoding not in _ENCODINGS:
        raise LookupError(
            f"encoding {encoding[:40]} is not part of the language: use utf-8, ascii or latin-1"
        )
    if isinstance(errors, str) and errors not in _ERRORS:
        raise LookupError(
            f"error handler {errors[:40]} is not part of the language: use strict, ignore or replace"
        )


def _encode(frame: Frame, receiver: str, encoding: Any = "utf-8", errors: Any = "strict") -> bytes:
    _check_encoding(encoding, errors)
    frame.spend(4 * len(receiver))
    encoded = receiver.encode(encoding, errors)
    limit_text(len(encoded))
    return encoded


def _decode(frame: Frame, receiver: bytes, encoding: Any = "utf-8", errors: Any = "strict") -> str:
    _check_encoding(encoding, errors)
    frame.spend(4 * len(receiver))
    return receiver.decode(encoding, errors)


def _hex(frame: Frame, receiver: bytes, *args: Any) -> str:
    size = (3 if args else 2) * len(receiver)
    limit_text(size)
    frame.spend(size)
    return receiver.hex(*args)


def _of_bytes(name: str) -> Function:
    call_method: Callable[..., Any] = getattr(bytes, name)

    def call(frame: Frame, receiver: bytes, *args: Any) -> Any:
        _spend_on_text(frame, receiver, *args)
        return call_method(receiver, *args)

    return call


_TESTS = "isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isspace istitle isupper"
_PLACES = 2
"""Arguments that say where a search begins and ends."""

TEXT_METHODS: dict[str, Builtin] = {
    **{f".{name}": method({str: _once(name)}) for name in _TESTS.split()},
    **{
        f".{name}": method({str: _once(name)})
        for name in ("lower", "upper", "title", "capitalize", "swapcase", "casefold")
    },
    **{f".{name}": method({str: _once(name)}, 0, 1) for name in ("strip", "lstrip", "rstrip")},
    **{f".{name}": method({str: _once(name)}, 1, 1) for name in ("removeprefix", "removesuffix")},
    **{
        f".{name}": method({str: _once(name), bytes: _of_bytes(name)}, 1, 1 + _PLACES)
        for name in ("startswith", "endswith")
    },
    **{f".{name}": method({str: _searching(name)}, 1, 1 + _PLACES) for name in ("find", "rfind", "rindex")},
    **{f".{name}": method({str: _searching(name)}, 1, 1) for name in ("partition", "rpartition")},
    **{f".{name}": method({str: _padding(name)}, 1, 2) for name in ("ljust", "rjust", "center")},
    ".zfill": method({str: _padding("zfill")}, 1, 1),
    **{
        f".{name}": method({str: _splitting(name)}, 0, 2, frozenset({"sep", "maxsplit"}))
        for name in ("split", "rsplit")
    },
    ".splitlines": method({str: _splitlines}, 0, 1, frozenset({"keepends"})),
    ".expandtabs": method({str: _expandtabs}, 0, 1, frozenset({"tabsize"})),
    ".join": method({str: _join}, 1, 1, consumes=frozenset({1})),
    ".encode": method({str: _encode}, 0, 2, frozenset({"encoding", "errors"})),
    ".decode": method({bytes: _decode}, 0, 2, frozenset({"encoding", "errors"})),
    ".hex": method({bytes: _hex}, 0, 1),
}

text_index: Final = _searching("index")
text_count: Final = _searching("count")
text_replace: Final = _replace
