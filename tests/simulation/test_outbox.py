"""The relay of the outbox among seeded faults, and without a safeguard each."""

from __future__ import annotations

import dataclasses
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final
from unittest import mock

import msgspec
import pytest

from dressage.outbox.relay.engine import Engine
from dressage.outbox.relay.relay import Relay
from dressage.outbox.relay.store import Outcome
from dressage.simulation.outbox import Database, run_outbox_seed

SEEDS: Final = range(1, 21)
MUTANT_SEEDS: Final = range(1, 61)

pytestmark = [
    # How the tasks of a dead process end is of no interest.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.slow,
]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What dead processes leave is collected between two tests, and not in the middle of a seed."""
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_committed_row_is_one_run_or_one_event_in_order(seed: int) -> None:
    world = run_outbox_seed(seed)
    assert world.violations == []
    assert len(world.committed) == 12


def test_a_seed_is_the_same_each_time() -> None:
    one, two = run_outbox_seed(3), run_outbox_seed(3)
    assert [(each.subject, each.data) for each in one.server.ledger] == [
        (each.subject, each.data) for each in two.server.ledger
    ]


# -- mutants ---------------------------------------------------------------------------------------
@contextmanager
def marked_before_acknowledged() -> Iterator[None]:
    """A row is written down as sent, and then sent."""

    async def turn(self: Any, taker: Any, sends: Any, bell: Any) -> bool:
        async with self.fault.passage(self.options.batch) as limit:
            batch = await taker.take(limit)
            rows = list(batch.rows)
            await batch.settle(Outcome(sent=rows))
        await self.deal(rows, sends)
        return bool(rows)

    with mock.patch.object(Relay, "_turn", turn):
        yield


@contextmanager
def another_id_each_time() -> Iterator[None]:
    """What is sent again is another event."""
    send, numbers = Engine._send, iter(range(1_000_000))

    async def renamed(self: Any, row: Any) -> None:
        message = msgspec.json.decode(row.message)
        message["id"] = f"{message['id']}-{next(numbers)}"
        await send(self, dataclasses.replace(row, message=msgspec.json.encode(message).decode()))

    with mock.patch.object(Engine, "_send", renamed):
        yield


@contextmanager
def no_second_look() -> Iterator[None]:
    """A row is sent though another relay has an older one of its key."""

    def all_of(self: Any, waiting: Any, mine: Any) -> list[Any]:
        return [kept.row for kept in mine]

    with mock.patch.object(Database, "in_order", all_of):
        yield


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("mutant", "rules"),
    [
        (marked_before_acknowledged, {"committed-is-sent", "one-run-each", "order-of-a-key"}),
        (another_id_each_time, {"order-of-a-key"}),
        (no_second_look, {"order-of-a-key"}),
    ],
)
def test_without_a_safeguard_a_rule_is_broken(
    mutant: Callable[[], AbstractContextManager[None]], rules: set[str]
) -> None:
    with mutant():
        for seed in MUTANT_SEEDS:
            broken = {violation.partition(":")[0] for violation in run_outbox_seed(seed).violations}
            if broken & rules:
                print(f"seed {seed} shows {sorted(broken)}")
                return
    raise AssertionError("no seed shows it")
