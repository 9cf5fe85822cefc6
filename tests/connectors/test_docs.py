"""The example of docs/triggers.md is loaded and run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from tests.connectors.conftest import order  # pyright: ignore[reportMissingImports]

from dressage.protocol.spec import ReturnNode, Variable, WorkflowSpec
from dressage.protocol.types import ANY, Field, Scalar

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]

PAGE: Final = Path(__file__).resolve().parents[2] / "docs" / "triggers.md"

PROCESS_ORDER: Final = WorkflowSpec(
    format=1,
    name="process-order",
    params=(Field("order", ANY), Field("region", Scalar("str"))),
    output=ANY,
    nodes=(ReturnNode(),),
    variables=(Variable("order"), Variable("region")),
)


@pytest.fixture
def example() -> str:
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found
    return found[1]


async def test_the_example_starts_runs(shop: Shop, trigger: StartTrigger, example: str) -> None:
    async with shop.engine(PROCESS_ORDER) as client:
        process = trigger(example)
        await shop.publish(order(1), subject="orders.ulm.created")
        await shop.publish(order(2), subject="orders.ulm.created", headers={"Shop": "test"})
        await shop.publish(order(3), subject="orders.ulm.paid")
        await process.reaches("skipped_total", 1)
        await shop.has_started("order-1")
        assert (await client.get("order-1")).input == {"order": order(1), "region": "EU"}


def test_every_metric_of_the_page_exists(example: str) -> None:
    source = Path(__file__).resolve().parents[2] / "connectors/dressage/connectors/metrics.py"
    told = set(re.findall(r"`dressage_(trigger_\w+)` \|", PAGE.read_text()))
    assert told == set(re.findall(r'"(trigger_\w+)"', source.read_text()))
