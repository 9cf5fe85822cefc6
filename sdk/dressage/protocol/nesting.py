"""How deep JSON nests, found without recursion and without reading it: before a decoder has to."""

from __future__ import annotations

from itertools import accumulate
from typing import Final

COMMAND_DEPTH_MAX: Final = 100
"""Levels of a command, a question or a request: those of a value, and some for what is around it."""

SPEC_DEPTH_MAX: Final = 400
"""Levels of a spec: an expression of 100 levels takes up to three of JSON for each of its own."""

_NO_BRACKET: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}.__getitem__


def nests_deeper(data: bytes, levels: int) -> bool:
    """Whether JSON has more than `levels` arrays and objects inside each other.

    What is no JSON may get either answer. It takes time in proportion to `len(data)`, and next to none for data
    that has not so many brackets.
    """
    if len(data) <= levels or data.count(b"[") + data.count(b"{") <= levels:
        return False
    brackets = _without_strings(data).translate(None, _NO_BRACKET)
    return max(accumulate(map(_STEP, brackets)), default=0) > levels


def _without_strings(data: bytes) -> bytes:
    """The text outside of strings. Splitting at quotes is enough once escapes are gone."""
    if b"\\" in data:
        data = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(data.split(b'"')[::2])
