"""The examples of docs/retention.md run, its commands are there, and its figures are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, get_args

import pytest
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import EVENTS_AGE_S
from dressage.client import Client
from dressage.client.client import RETENTION_S
from dressage.flow import workflow
from dressage.orchestrator.fold.retention import FORGET_MS, REVIEW_MS
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.commands import RefusalCode
from dressage.protocol.errors import NotFound, Refused
from dressage.simulation.programs import define

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "retention.md").read_text()


@workflow(name="process-order")
async def process_order(n: int) -> int:
    return n


@pytest.mark.anyio
async def test_the_example_does_what_the_page_says(tmp_path: Path) -> None:
    (text,) = re.findall(r"(?s)```python\n(.*?)```", PAGE)
    async with EmbeddedServer(tmp_path / "nats") as server:
        broker = JetStreamBroker(server.url)
        orchestrator, task = await run_beside(broker, OrchestratorConfig())
        async with Client(server.url) as client:
            await client.register(process_order)
            for number in (16, 17):
                await (await client.start(process_order, {"n": number}, run_id=f"order-{number}")).result(10)
            await define(text).clean_up(client)
            with pytest.raises(NotFound):
                await client.get("order-16")
            with pytest.raises(Refused):
                await client.delete("order-17")
            assert (await client.registry.versions("process-order")).retention is not None
        orchestrator.stop()
        await task


def test_the_commands_of_the_page_are_there() -> None:
    lines = commands_of(PAGE)
    assert lines
    for line in lines:
        check_command(line)


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    assert FORGET_MS == 10 * 60_000
    assert "for ten minutes" in PAGE
    assert REVIEW_MS == 86_400_000
    assert "or each day" in PAGE
    assert RETENTION_S == 10.0
    assert "some ten seconds later" in PAGE
    assert f"after {EVENTS_AGE_S / 86_400:g} days" in PAGE


def test_the_codes_of_the_page_are_there() -> None:
    codes = set(re.findall(r"`(RUN_[A-Z]+)`", PAGE))
    assert codes <= set(get_args(RefusalCode))
