"""NATS without streams: subscriptions with wildcards and queue groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from dressage.brokers.memory.subjects import has_wildcard, within

_FOUND_MAX: Final = 20_000

Deliver = Callable[[str, bytes, str, bytes], None]
"""Gets subject, data, the subject to answer on (empty if nobody waits), and the block of headers."""


class Subscribed:
    """One subscription of one connection."""

    __slots__ = ("deliver", "prefix", "queue", "subject")

    def __init__(self, subject: str, queue: str, deliver: Deliver) -> None:
        self.subject = subject
        self.queue = queue
        self.deliver = deliver
        self.prefix = _literal_prefix(subject)


def _literal_prefix(subject: str) -> str:
    """What stands before the first wildcard; the whole subject when it has none."""
    if not has_wildcard(subject):
        return subject
    literal: list[str] = []
    for token in subject.split("."):
        if token in ("*", ">"):
            break
        literal.append(token)
    return ".".join(literal)


class Subscriptions:
    """Who listens to what. Members of a queue group take turns, where the real server draws lots."""

    def __init__(self) -> None:
        self._plain: dict[str, dict[Subscribed, None]] = {}
        self._patterns: dict[str, dict[Subscribed, None]] = {}
        self._depths: Counter[int] = Counter()
        self._turns: Counter[tuple[str, str]] = Counter()
        self._found: dict[str, list[Subscribed]] = {}

    def add(self, subscribed: Subscribed) -> None:
        self._found.clear()
        if has_wildcard(subscribed.subject):
            self._depths[_depth(subscribed.prefix)] += 1
            self._patterns.setdefault(subscribed.prefix, {})[subscribed] = None
        else:
            self._plain.setdefault(subscribed.subject, {})[subscribed] = None

    def remove(self, subscribed: Subscribed) -> None:
        self._found.clear()
        wild = has_wildcard(subscribed.subject)
        group = (self._patterns if wild else self._plain).get(subscribed.prefix, {})
        if subscribed not in group:
            return
        del group[subscribed]
        if wild:
            self._depths[_depth(subscribed.prefix)] -= 1
            self._depths += Counter()
        if not group:
            del (self._patterns if wild else self._plain)[subscribed.prefix]

    def route(self, subject: str, data: bytes, reply: str = "", block: bytes = b"") -> int:
        """Gives it to everybody who listens, and to one of each queue group; returns to how many."""
        found = self._found.get(subject)
        if found is None:
            found = self._matching(subject)
            if not subject.startswith("_INBOX."):
                if len(self._found) >= _FOUND_MAX:
                    self._found.clear()
                self._found[subject] = found
        if not found:
            return 0
        groups: dict[tuple[str, str], list[Subscribed]] = {}
        chosen: list[Subscribed] = []
        for subscribed in found:
            if subscribed.queue:
                groups.setdefault((subscribed.subject, subscribed.queue), []).append(subscribed)
            else:
                chosen.append(subscribed)
        for key, members in groups.items():
            chosen.append(members[self._turns[key] % len(members)])
            self._turns[key] += 1
        for subscribed in chosen:
            subscribed.deliver(subject, data, reply, block)
        return len(chosen)

    def _matching(self, subject: str) -> list[Subscribed]:
        found = list(self._plain.get(subject, ()))
        if self._depths:
            tokens = subject.split(".")
            for depth in list(self._depths):
                prefix = ".".join(tokens[:depth])
                found += [each for each in self._patterns.get(prefix, ()) if within(subject, each.subject)]
        return found


def _depth(prefix: str) -> int:
    return prefix.count(".") + 1 if prefix else 0
