"""Values that expressions hand on without looking: masked ones, and large ones."""

from __future__ import annotations

from typing import Any, ClassVar


class OpaqueValue:
    """A value that can be compared with None, which it never is, and nothing else.

    It is no struct, so an encoder that was not told what to do with one raises instead of showing it.
    """

    __slots__ = ("inside",)

    said: ClassVar[str] = "a value"
    """What it is, for messages."""

    def __init__(self, inside: Any) -> None:
        self.inside = inside

    def __eq__(self, other: object) -> bool:
        if other is None:
            return False
        raise TypeError(self._opaque())

    def __hash__(self) -> int:
        raise TypeError(self._opaque())

    def __bool__(self) -> bool:
        raise TypeError(self._opaque())

    def _opaque(self) -> str:
        return f"{self.said} is passed on unseen: it can only be compared with None"
