"""What is masked is `***` in whatever goes out, in every format, and also where a transform asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.connecting import CARD, paying  # pyright: ignore[reportMissingImports]
from tests.events_out.conftest import (  # pyright: ignore[reportMissingImports]
    SUBJECT_SINK,
    WEBHOOK_SINK,
    make_stream,
)

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import Receiver, StartConnector  # pyright: ignore[reportMissingImports]

STEPS = """
[[connector.transforms]]
name = "started"
type = "filter"
condition = 'kind == "run-started"'
[[connector.transforms]]
name = "card"
type = "expression"
field = "stolen"
expression = 'value["input"]["card"]'
"""


@pytest.mark.parametrize("value_format", ["cloudevents", "cloudevents-binary", "json"])
async def test_no_sink_tells_what_is_masked(
    place: Place, receiver: Receiver, connector: StartConnector, value_format: str
) -> None:
    await make_stream(place.server)
    more = f'value.format = "{value_format}"\n'
    async with place.engine(paying()) as client:
        run = await client.start("pay", {"card": CARD, "item": "plain-item"}, run_id="p-1")
        assert await run.result() == CARD
        count = len(await place.events(1))
        await connector(SUBJECT_SINK.format(name="all") + more).reaches("records_total", count)
        await connector(WEBHOOK_SINK.format(name="hook", url=receiver.url) + more).reaches(
            "records_total", count
        )
        if value_format != "json":
            picked = SUBJECT_SINK.format(name="picked").replace("shop.", "shop.picked.") + more + STEPS
            await connector(picked).reaches("records_total", 1)
    told = [each.data for each in await place.stored("SHOP", "shop.>")] + [each.body for each in receiver.got]
    whole = b"".join(told)
    assert b"plain-item" in whole
    assert b"***" in whole
    assert CARD.encode() not in whole
    if value_format != "json":
        (one,) = await place.stored("SHOP", "shop.picked.>")
        assert b'"stolen":"***"' in one.data
