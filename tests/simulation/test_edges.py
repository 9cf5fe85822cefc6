"""Triggers and sinks among seeded faults, and without a safeguard each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from typing import Any, Final
from unittest import mock

import pytest
from msgspec import structs
from tests.simulation.small import DEAD_TASKS, shows  # pyright: ignore[reportMissingImports]

from dressage.connectors.batches import Batches
from dressage.connectors.in_turn import TurnTrigger
from dressage.connectors.mapping import EventMapping
from dressage.connectors.place import Lease
from dressage.connectors.progress import Progress
from dressage.protocol.names import Names
from dressage.simulation.edges import RUNS, STEPS, EdgesWorld
from dressage.simulation.small import run_small

SEEDS: Final = range(1, 41)

pytestmark = [
    pytest.mark.filterwarnings(DEAD_TASKS),
    pytest.mark.slow,
    pytest.mark.usefixtures("quiet"),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_event_counts_once_and_in_order(seed: int) -> None:
    world = run_small(EdgesWorld, seed)
    assert world.violations == []
    assert len(world.published) == RUNS * STEPS


def test_a_seed_is_the_same_each_time() -> None:
    one, two = run_small(EdgesWorld, 3), run_small(EdgesWorld, 3)
    assert [(each.subject, each.data) for each in one.server.ledger] == [
        (each.subject, each.data) for each in two.server.ledger
    ]


# -- mutants ---------------------------------------------------------------------------------------
@contextmanager
def order_of_nothing() -> Iterator[None]:
    """Each event is of a key of its own."""
    numbers = map(str, count())
    with mock.patch.object(EventMapping, "order_of", side_effect=numbers):
        yield


@contextmanager
def place_before_it_is_done() -> Iterator[None]:
    """The place is behind what was taken, and not below what is not done."""
    with mock.patch.object(Progress, "watermark", property(lambda self: self.position)):
        yield


@contextmanager
def end_of_a_batch_not_stored() -> Iterator[None]:
    """What is a batch is known to who has it alone."""
    store = Lease.store

    async def forgetful(self: Any, created: str, seq: int, batch: Any = None) -> None:
        await store(self, created, seq)

    with mock.patch.object(Lease, "store", forgetful):
        yield


@contextmanager
def batch_taken_over_as_it_comes() -> Iterator[None]:
    """Who takes over does not look where the batch ends."""
    taking = TurnTrigger._taking

    def carelessly(self: Any, begin: Any, found: Any) -> Any:
        return taking(self, begin, structs.replace(found, batch=None))

    with mock.patch.object(TurnTrigger, "_taking", carelessly):
        yield


@contextmanager
def time_closes_a_batch_that_has_an_end() -> Iterator[None]:
    """The time of a batch counts for who takes it over, too."""
    add = Batches._add

    def impatient(self: Any, *given: Any) -> None:
        add(self, *given)
        self._due = self._due if self._decided is None else 0.0

    with mock.patch.object(Batches, "_add", impatient):
        yield


@contextmanager
def told_under_another_id() -> Iterator[None]:
    """What is told of again is another message."""
    numbers = map(str, count())
    with mock.patch.object(Names, "output_id", side_effect=numbers):
        yield


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mutant", "rules"),
    [
        (order_of_nothing, {"order-of-a-key"}),
        (place_before_it_is_done, {"posted-once", "told-once"}),
        (end_of_a_batch_not_stored, {"one-batch-each"}),
        (batch_taken_over_as_it_comes, {"one-batch-each"}),
        (time_closes_a_batch_that_has_an_end, {"one-batch-each"}),
        (told_under_another_id, {"told-once"}),
    ],
)
def test_without_a_safeguard_a_rule_is_broken(
    mutant: Callable[[], AbstractContextManager[None]], rules: set[str]
) -> None:
    with mutant():
        shows(EdgesWorld, rules)
