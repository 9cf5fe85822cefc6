"""The relay of the outbox among seeded faults, and without a safeguard each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final
from unittest import mock

import msgspec
import pytest
from tests.simulation.small import DEAD_TASKS, shows  # pyright: ignore[reportMissingImports]

from dressage.outbox.relay.engine import Engine
from dressage.outbox.relay.relay import Relay
from dressage.outbox.relay.store import Outcome
from dressage.simulation.outbox import Database, OutboxWorld
from dressage.simulation.small import run_small

SEEDS: Final = range(1, 21)

pytestmark = [
    pytest.mark.filterwarnings(DEAD_TASKS),
    pytest.mark.slow,
    pytest.mark.usefixtures("quiet"),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_each_committed_row_is_one_run_or_one_event_in_order(seed: int) -> None:
    world = run_small(OutboxWorld, seed)
    assert world.violations == []
    assert len(world.committed) == 12


def test_a_seed_is_the_same_each_time() -> None:
    one, two = run_small(OutboxWorld, 3), run_small(OutboxWorld, 3)
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
        shows(OutboxWorld, rules)
