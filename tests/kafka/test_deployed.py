"""Connectors that are deployed: every process runs them, and they can be paused, resumed, restarted and deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tests.connecting import QUICK, eventually  # pyright: ignore[reportMissingImports]
from tests.kafka.conftest import SOURCE, needs_eviction  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.client import Client
from dressage.connectors.connect.runner import ConnectorRunner

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.kafka.conftest import Kafka  # pyright: ignore[reportMissingImports]


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
    result = await asyncio.to_thread(
        CliRunner().invoke, main, ["connect", *arguments, "--server", place.server.url]
    )
    assert result.exit_code == 0, result.output
    return result.output


async def test_what_is_deployed_runs_until_it_is_paused_and_goes_on_when_it_is_resumed(
    kafka: Kafka, place: Place, following: None, tmp_path: Path
) -> None:
    needs_eviction(kafka)
    topic = await kafka.topic()
    file = tmp_path / "connectors.toml"
    file.write_text(SOURCE.format(name=topic, topic=topic, **kafka.client))
    assert await connect(place, "deploy", str(file)) == f"{topic}: deployed\n"
    assert await connect(place, "deploy", str(file)) == f"{topic}: as it was\n"
    await kafka.produce(topic, {"id": 0})
    await place.has_started(f"{topic}/{topic}/0/0")
    await connect(place, "pause", topic)
    assert await connect(place, "status") == f"{topic}: paused\n"

    async def nobody_is_left() -> bool:
        return await kafka.members(f"dressage.default.{topic}") == 0

    await eventually(nobody_is_left, "both processes have left the group")
    await kafka.produce(topic, {"id": 1})
    assert await kafka.committed(f"dressage.default.{topic}", topic) == 1
    await connect(place, "resume", topic)
    await place.has_started(f"{topic}/{topic}/0/0", f"{topic}/{topic}/0/1")
    await connect(place, "delete", topic)
    await eventually(nobody_is_left, "both processes have left the group")
    assert await connect(place, "status") == ""


async def test_what_has_failed_is_told_and_begins_anew_when_it_is_restarted(
    kafka: Kafka, place: Place, following: None, tmp_path: Path
) -> None:
    needs_eviction(kafka)
    topic = await kafka.topic()
    file = tmp_path / "connectors.toml"
    config = SOURCE.format(name=topic, topic=topic, **kafka.client)
    file.write_text(config.replace('"all"', '"none"'))
    await kafka.produce(topic, b"no json")
    await connect(place, "deploy", str(file))

    async def failed() -> bool:
        return f"{topic}: failed: CONNECTOR_FAILED" in await connect(place, "status")

    await eventually(failed, "the failure is told")
    await connect(place, "restart", topic)
    await eventually(failed, "it has failed again")
    file.write_text(config)
    await connect(place, "deploy", str(file))

    async def buried() -> bool:
        return len(await place.dead_letters(topic)) == 1

    await eventually(buried, "the record is a dead letter")


async def test_a_connector_that_is_not_there_is_an_error(place: Place, client: Client) -> None:
    arguments = ["connect", "pause", "nothing", "--server", place.server.url]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 1
    assert "CONNECTOR_UNKNOWN" in result.output
