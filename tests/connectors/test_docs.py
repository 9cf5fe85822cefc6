"""The example of docs/triggers.md is loaded and run as it stands there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner
from tests.connectors.conftest import eventually, order  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.flow import Event, workflow
from dressage.protocol.errors import NoAnswer
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


def block(kind: str, number: int = 0) -> str:
    """A block of the page, by what it is written in."""
    found: list[str] = re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return found[number]


@pytest.fixture
def example() -> str:
    return block("toml")


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


@dataclass
class Paid:
    cents: int
    by: str


arrived = Event("payment-arrived", of=Paid)


@workflow(name="await-payment")
async def await_payment(order: str) -> str:
    paid = await arrived.wait(key=order)
    return f"{paid.cents} by {paid.by}"


async def test_the_example_posts_events(shop: Shop, trigger: StartTrigger) -> None:
    await shop.create_stream("PAYMENTS", ["payments.>"])
    async with shop.engine() as client:
        await client.register(await_payment)
        run = await client.start(await_payment, {"order": "o-1"})
        trigger(block("toml", 1))
        await shop.publish({"order": "o-1", "cents": 990}, subject="payments.card")
        assert await run.result(20) == "990 by card"


def test_the_dry_run_of_the_page_says_what_the_page_says(tmp_path: Path, example: str) -> None:
    (tmp_path / "triggers.toml").write_text(example)
    (tmp_path / "events.jsonl").write_text(block("json"))
    names = [str(tmp_path / name) for name in ("triggers.toml", "events.jsonl")]
    done = CliRunner().invoke(main, ["trigger", "test", *names])
    (said,) = re.findall(r"\$ dressage trigger test .*?\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert (done.exit_code, done.output) == (1, said)


def test_every_code_of_the_page_is_one_that_the_code_has() -> None:
    (told,) = re.findall(r"The codes are (.*?)\. A repeat", PAGE.read_text(), re.DOTALL)
    roots = [PAGE.parents[1] / root for root in ("connectors", "sdk", "orchestrator")]
    code = "\n".join(path.read_text() for root in roots for path in root.rglob("*.py"))
    missing = [each for each in re.findall(r"`([A-Z_]+)`", told) if f'"{each}"' not in code]
    assert not missing


async def test_the_example_of_a_subject_without_a_stream_answers_as_the_page_says(
    shop: Shop, trigger: StartTrigger
) -> None:
    quote = WorkflowSpec(
        1, "quote", (Field("wanted", ANY),), ANY, (ReturnNode(),), variables=(Variable("wanted"),)
    )
    text = PAGE.read_text().split("## A subject without a stream")[1]
    said = re.findall(r"\$ nats request (\S+) '(.*?)'\n(.*)", text)
    async with shop.engine(quote):
        trigger(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
        for subject, data, answer in said:

            async def asked(subject: str = subject, data: str = data, answer: str = answer) -> bool:
                try:
                    return (await shop.connection.request(subject, data.encode(), 20)).decode() == answer
                except NoAnswer:
                    return False

            await eventually(asked, f"it answers {answer}")
    assert len(said) == 2


invoice_of = WorkflowSpec(
    1,
    "invoice",
    (Field("orders", ANY), Field("total", ANY)),
    ANY,
    (ReturnNode(),),
    variables=(Variable("orders"), Variable("total")),
)


async def test_the_example_of_batches_starts_one_run(shop: Shop, trigger: StartTrigger) -> None:
    text = PAGE.read_text().split("## Batches")[1]
    async with shop.engine(invoice_of) as client:
        for number in range(3):
            await shop.publish(order(number, total=2.5), subject="orders.ulm.paid")
        trigger(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0].replace('"5s"', '"0.5s"'))

        async def is_started() -> bool:
            return len(await shop.starts()) == 1

        await eventually(is_started, "one run is started")
        (run_id,) = await shop.starts()
        assert run_id.startswith("invoice-ORDERS-1-")
        assert (await client.get(run_id)).input == {"orders": [0, 1, 2], "total": 7.5}


moved = Event("stock-moved", of=dict[str, Any])


@workflow(name="stock")
async def stock(item: str) -> list[int]:
    seen: list[int] = []
    while len(seen) < 3:
        came = await moved.wait(key=item)
        seen = [*seen, came["by"]]
    return seen


async def test_the_example_of_an_order_posts_in_order(shop: Shop, trigger: StartTrigger) -> None:
    text = PAGE.read_text().split("### Order")[1]
    async with shop.engine() as client:
        await client.register(stock)
        runs = [await client.start(stock, {"item": item}) for item in ("a", "b")]
        trigger(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
        for by in range(3):
            for item in ("a", "b"):
                await shop.publish({"item": item, "by": by})
        assert [await run.result(20) for run in runs] == [[0, 1, 2]] * 2
