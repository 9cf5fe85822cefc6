"""Sinks that are deployed to subjects and to webhooks: paused, resumed, failed, restarted, asked how far they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from fastapi import Response
from tests.connecting import QUICK, eventually, run_orders  # pyright: ignore[reportMissingImports]
from tests.events_out.conftest import (  # pyright: ignore[reportMissingImports]
    ONLY_ENDED,
    SUBJECT_SINK,
    WEBHOOK_SINK,
)

from dressage.brokers.interface import StoredMessage
from dressage.cli.main import main
from dressage.client import Client
from dressage.connectors.connect.runner import ConnectorRunner

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import Receiver  # pyright: ignore[reportMissingImports]

Shop = Callable[[], Awaitable[list[StoredMessage]]]


@pytest.fixture
async def following(place: Place, client: Client) -> AsyncIterator[None]:
    """Two processes that run what is deployed."""
    options = replace(QUICK, look_every_s=0.1)
    async with (
        ConnectorRunner(place.server.url, None, options),
        ConnectorRunner(place.server.url, None, options),
    ):
        yield


async def connect(place: Place, *arguments: str) -> str:
    command = ["connect", *arguments, "--server", place.server.url]
    result = await asyncio.to_thread(CliRunner().invoke, main, command)
    assert result.exit_code == 0, result.output
    return result.output


async def test_a_subject_sink_is_paused_and_resumed_and_tells_how_far_it_is(
    place: Place, shop: Shop, client: Client, following: None, tmp_path: Path
) -> None:
    file = tmp_path / "connectors.toml"
    file.write_text(SUBJECT_SINK.format(name="out") + ONLY_ENDED)
    assert "out dressage_default_events: - of 0, lag 0" in await connect(place, "offsets", str(file))
    assert await connect(place, "deploy", str(file)) == "out: deployed\n"
    await run_orders(client, 2)

    async def told(count: int) -> None:
        async def there() -> bool:
            return len(await shop()) >= count

        await eventually(there, f"{count} events are published")
        assert len(await shop()) == count

    await told(2)

    async def done() -> bool:
        return "lag 0" in await connect(place, "offsets", str(file))

    await eventually(done, "it says that nothing is left")
    await connect(place, "pause", "out")
    assert await connect(place, "status") == "out: paused\n"

    async def released() -> bool:
        key = place.names.connector_place_key("out")
        found = await client.connection.last_message(place.names.definitions_stream(), key)
        return found is not None and b"holder" not in found.data

    await eventually(released, "no process is active")
    await run_orders(client, 1, first=2)
    await place.events(3)
    assert "lag 0" not in await connect(place, "offsets", str(file))
    await told(2)
    await connect(place, "resume", "out")
    await told(3)
    await connect(place, "delete", "out")
    await eventually(released, "no process is active")
    # Its place is kept, under its name.
    await run_orders(client, 1, first=3)
    await connect(place, "deploy", str(file))
    await told(4)


async def test_a_webhook_that_nobody_wants_has_failed_until_it_is_restarted(
    place: Place, client: Client, receiver: Receiver, following: None, tmp_path: Path
) -> None:
    receiver.answer = lambda got, count: Response(status_code=410)
    file = tmp_path / "connectors.toml"
    file.write_text(WEBHOOK_SINK.format(name="crm", url=receiver.url) + ONLY_ENDED)
    await connect(place, "deploy", str(file))
    await run_orders(client, 1)

    async def failed() -> bool:
        return "crm: failed: CONNECTOR_FAILED" in await connect(place, "status")

    await eventually(failed, "the failure is told")
    receiver.answer = lambda got, count: None
    await connect(place, "restart", "crm")
    await receiver.has_taken(1)
    assert await connect(place, "status") == "crm: running\n"


async def test_a_secret_that_is_not_there_is_told(
    place: Place, client: Client, receiver: Receiver, following: None, tmp_path: Path
) -> None:
    file = tmp_path / "connectors.toml"
    file.write_text(WEBHOOK_SINK.format(name="crm", url=receiver.url) + 'secret = "${env:NO_SUCH_SECRET}"\n')
    await connect(place, "deploy", str(file))

    async def failed() -> bool:
        return "crm: failed: SECRET_MISSING" in await connect(place, "status")

    await eventually(failed, "the failure is told")
