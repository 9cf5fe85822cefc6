"""Collections that a state shares with the states before it, so that a command costs as little among ten thousand
entries as among ten. To whoever holds one it never changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar, overload

T = TypeVar("T")


class Growing(Mapping[int, T]):
    """The first `length` entries of a dict that later ones have in common with this one, and may add to."""

    __slots__ = ("_entries", "_length")

    def __init__(self, entries: dict[int, tuple[int, T]], length: int) -> None:
        """Each value stands beside its place in the order in which they came."""
        self._entries = entries
        self._length = length

    def with_entry(self, key: int, value: T) -> Growing[T]:
        """What this one would be with one more; `key` is none that it has."""
        entries = self._entries
        if len(entries) != self._length:
            # Another one has grown from here: the same state folded twice.
            entries = dict(islice(entries.items(), self._length))
        entries[key] = (self._length, value)
        return Growing(entries, self._length + 1)

    def __getitem__(self, key: int) -> T:
        place, value = self._entries[key]
        if place >= self._length:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[int]:
        return islice(self._entries, self._length)

    def __len__(self) -> int:
        return self._length


def grown(entries: Mapping[int, T], key: int, value: T) -> Growing[T]:
    """`entries` with one more."""
    if not isinstance(entries, Growing):
        entries = Growing(
            {key: (place, each) for place, (key, each) in enumerate(entries.items())}, len(entries)
        )
    return entries.with_entry(key, value)


class Shrinking(Sequence[T]):
    """What is left of a list from `first` on."""

    __slots__ = ("_first", "_items")

    def __init__(self, items: Sequence[T], first: int) -> None:
        self._items = items
        self._first = first

    @property
    def rest(self) -> Shrinking[T]:
        """All but the first."""
        items, first = self._items, self._first + 1
        if 2 * first > len(items):
            items, first = items[first:], 0  # So what is gone is not kept for long.
        return Shrinking(items, first)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice) or index < 0:
            return list(self)[index]
        return self._items[self._first + index]

    def __iter__(self) -> Iterator[T]:
        return islice(self._items, self._first, None)

    def __len__(self) -> int:
        return len(self._items) - self._first

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def first_and_rest(items: Sequence[T]) -> tuple[T, Sequence[T]]:
    """The first of `items`, and those behind it."""
    if len(items) == 1:
        return items[0], []
    left = items if isinstance(items, Shrinking) else Shrinking(items, 0)
    return left[0], left.rest


def as_stored(shared: object) -> object:
    """For an encoder: what is stored of such a collection."""
    if isinstance(shared, Growing):
        return dict(shared)
    if isinstance(shared, Shrinking):
        return list(shared)
    raise NotImplementedError(f"a state holds no {type(shared).__name__}")
