"""The variables of a run as its expressions see them, those of branches in front of those around them."""

from __future__ import annotations

from typing import Any

import msgspec

from dressage.expressions.frame import Frame
from dressage.expressions.values import decode_stored
from dressage.orchestrator.fold.definition import Definition


class Scope(Frame):
    """The run's variables as values: decoded when first read, remembered for this fold only. Pays for its work."""

    __slots__ = ("_stored", "_types", "_values", "bound")

    def __init__(self, stored: dict[str, msgspec.Raw], definition: Definition) -> None:
        self.locals = {}
        self._stored = stored
        self._types = definition.types
        self._values: dict[str, Any] = {}
        self.bound: list[tuple[str, Any]] = []
        """The variables that `:=` has set in the expression under evaluation, not stored yet."""

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[name]
        except KeyError:
            value = self._values[name] = decode_stored(self._stored[name], self._types)
            return value

    def bind(self, name: str, value: Any) -> None:
        self.remember(name, value)
        self.bound.append((name, value))

    def remember(self, name: str, value: Any) -> None:
        self._values[name] = value


class BranchScope(Scope):
    """The variables of a branch: its own, and behind them those around it, where the budget is, too."""

    __slots__ = ("_around",)

    def __init__(self, stored: dict[str, msgspec.Raw], definition: Definition, around: Scope) -> None:
        self._around = around
        super().__init__(stored, definition)

    def __getitem__(self, name: str) -> Any:
        own = name in self._values or name in self._stored
        return super().__getitem__(name) if own else self._around[name]

    @property
    def left(self) -> int:
        return self._around.left

    @left.setter
    def left(self, units: int) -> None:
        self._around.left = units
