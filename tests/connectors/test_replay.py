"""Dead letters are replayed by the trigger as it is now, count once, and go only when they were taken."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import pytest
from tests.connectors.conftest import CONFIG, order  # pyright: ignore[reportMissingImports]
from tests.connectors.test_deployed import config  # pyright: ignore[reportMissingImports]
from tests.connectors.test_posting import BY_RUN, Payment, await_payments, paid  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import Message, StoredMessage
from dressage.client import Client
from dressage.connectors.config import TriggerConfig
from dressage.connectors.engine import engine_of
from dressage.connectors.mapping import EventMapping
from dressage.connectors.replay import Replayed, by_mapping, dead_letters, replay
from dressage.protocol.names import Names

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop, StartTrigger  # pyright: ignore[reportMissingImports]

SUBJECT = Names().dead_trigger("orders")
WRONG = CONFIG.replace("'order-' + str(event['id'])", "event['no such key']")


async def replayed(shop: Shop, client: Client, by: TriggerConfig, seqs: Sequence[int] = ()) -> list[Replayed]:
    engine = engine_of(by.target, client, actor="trigger/orders", answer_s=3.0)
    again = by_mapping(EventMapping(by), engine)
    letters = dead_letters(shop.connection, shop.names, SUBJECT, seqs)
    return [await replay(shop.connection, shop.names, each, again) async for each in letters]


async def put_back(shop: Shop, letter: StoredMessage) -> None:
    headers = {name: value for name, value in (letter.headers or {}).items() if name != "Nats-Msg-Id"}
    await shop.connection.publish(Message(letter.subject, letter.data, headers))


@pytest.fixture
def bury(shop: Shop, client: Client, trigger: StartTrigger) -> Callable[..., Awaitable[None]]:
    """Publishes events that become dead letters."""

    async def bury(*events: object, by: str = WRONG) -> None:
        process = trigger(by)
        for event in events:
            await shop.publish(event, headers={"Shop": "Ulm"})
        await shop.done()
        await process.stop()
        assert len(await shop.dead_letters()) == len(events)

    return bury


Bury = Callable[..., Awaitable[None]]


async def test_a_letter_says_what_was_lost_and_why(shop: Shop, bury: Bury) -> None:
    await bury(order(1))
    (letter,) = [each async for each in dead_letters(shop.connection, shop.names, SUBJECT)]
    (event,) = await shop.stored("ORDERS", "orders.>")
    assert (letter.code, letter.stream, letter.event.stream_seq) == ("EXPRESSION_FAILED", "ORDERS", event.seq)
    assert (letter.event.data, dict(letter.event.headers or {})) == (event.data, {"Shop": "Ulm"})
    assert letter.event.time_ns // 1_000_000 == event.time_ns // 1_000_000


async def test_what_is_taken_is_a_dead_letter_no_more(shop: Shop, client: Client, bury: Bury) -> None:
    await bury(order(1), order(2))
    assert [each.outcome for each in await replayed(shop, client, config())] == ["accepted"] * 2
    assert not await shop.dead_letters()
    await shop.has_started("order-1", "order-2")


async def test_only_those_that_are_named_are_replayed(shop: Shop, client: Client, bury: Bury) -> None:
    await bury(order(1), order(2))
    first, second = await shop.dead_letters()
    await replayed(shop, client, config(), [second.seq])
    assert [each.seq for each in await shop.dead_letters()] == [first.seq]
    await shop.has_started("order-2")


async def test_what_is_not_taken_stays(shop: Shop, client: Client, bury: Bury) -> None:
    await bury(order(1))
    (one,) = await replayed(shop, client, config(WRONG))
    assert (one.outcome, one.code) == ("kept", "EXPRESSION_FAILED")
    (unknown,) = await replayed(shop, client, config(CONFIG.replace("take-order", "unknown")))
    assert (unknown.outcome, unknown.code) == ("kept", "WORKFLOW_UNKNOWN")
    (left_out,) = await replayed(shop, client, config(CONFIG.replace(">= 0", "< 0")))
    assert left_out.outcome == "skipped"
    assert len(await shop.dead_letters()) == 1


async def test_a_letter_that_could_not_be_removed_counts_once(shop: Shop, client: Client, bury: Bury) -> None:
    """Somebody dies between the acceptance and the removal, and replays again."""
    await bury(order(1))
    (letter,) = await shop.dead_letters()
    await replayed(shop, client, config())
    await put_back(shop, letter)
    assert [each.outcome for each in await replayed(shop, client, config())] == ["existing"]
    assert not await shop.dead_letters()
    await shop.has_started("order-1")


async def test_an_external_event_has_the_id_that_it_had_at_its_source(
    shop: Shop, client: Client, bury: Bury, trigger: StartTrigger
) -> None:
    await client.register(await_payments)
    run = await client.start(await_payments, {"order": "o"}, run_id="o")
    await bury({"order": "o", "cents": 1}, by=BY_RUN.replace("event['order']", "event['x']"))
    (letter,) = await shop.dead_letters()
    assert [each.outcome for each in await replayed(shop, client, config(BY_RUN))] == ["accepted"]
    await put_back(shop, letter)
    assert [each.outcome for each in await replayed(shop, client, config(BY_RUN))] == ["existing"]
    # And so has the event itself, if a consumer that was lost begins with it again.
    await shop.connection.delete_consumer("ORDERS", "dressage_default_trigger_orders")
    process = trigger(BY_RUN)
    await process.reaches("existing_total", 1)
    for cents in (10, 100):
        await run.post(paid, Payment("o", cents))
    assert await run.result(20) == 111


async def test_what_was_cut_is_not_replayed(shop: Shop, client: Client, trigger: StartTrigger) -> None:
    process = trigger()
    await shop.publish(order(1, text="x" * (shop.connection.payload_bytes_max - 100)))
    await shop.done()
    await process.stop()
    (one,) = await replayed(shop, client, config())
    assert (one.outcome, one.code) == ("kept", "PAYLOAD_TOO_LARGE")
