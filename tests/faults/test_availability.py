"""How long a lost worker's attempts waited for another one, told from output events that are made up."""

from __future__ import annotations

import msgspec
import pytest
from tests.faults.availability import last_begun_s  # pyright: ignore[reportMissingImports]
from tests.faults.outside import Raw  # pyright: ignore[reportMissingImports]

from dressage.protocol.events import (
    KIND,
    TYPE_PREFIX,
    EventData,
    OutputEvent,
    TaskCompleted,
    TaskScheduled,
    encoder,
)

KILLED_S = 100.0


def stored(at_s: float, data: EventData) -> Raw:
    kind = KIND[type(data)]
    event = OutputEvent("r/0", "s", f"{TYPE_PREFIX}{kind}", "", "r", "w", 1, 0, "1", data)
    return Raw(1, "", at_s, encoder.encode(event))


def scheduled(at_s: float, task_id: str) -> Raw:
    return stored(at_s, TaskScheduled("first", task_id, 0, 1, "kills"))


def completed(at_s: float, task_id: str, took_s: float) -> Raw:
    done = TaskCompleted("first", task_id, 0, 1, "worker", took_s * 1000, 0.0, msgspec.Raw(b"1"))
    return stored(at_s, done)


def test_an_attempt_is_handed_on_when_it_is_begun_and_not_when_it_is_done() -> None:
    events = [scheduled(99, "held"), completed(131.5, "held", took_s=2)]
    assert last_begun_s(events, KILLED_S) == pytest.approx(29.5)


def test_the_last_attempt_counts() -> None:
    events = [
        scheduled(98, "one"),
        scheduled(99, "other"),
        completed(103, "one", took_s=2),
        completed(110, "other", took_s=1),
    ]
    assert last_begun_s(events, KILLED_S) == pytest.approx(9)


def test_what_came_later_or_was_running_elsewhere_does_not_count() -> None:
    events = [
        scheduled(99, "elsewhere"),
        scheduled(101, "later"),
        completed(100.5, "elsewhere", took_s=1),
        completed(150, "later", took_s=2),
    ]
    assert last_begun_s(events, KILLED_S) == 0
