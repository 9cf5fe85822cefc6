"""The examples of docs/migration.md run, its plan is that of the example, and its commands are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Final

import click
import pytest
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli.main import main
from dressage.client import Client
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.alignment import propose
from dressage.protocol.spec import RegisteredWorkflow
from dressage.simulation.programs import define

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "migration.md").read_text()
SOURCE: Final = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS: Final = re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE)

sys.path.insert(0, str(ROOT / "examples"))

import live_migration.after as later  # noqa: E402
import live_migration.before as first  # noqa: E402


@pytest.mark.parametrize("name", TESTS)
def test_an_example_of_the_page_passes(name: str) -> None:
    getattr(define(SOURCE), name)()


def test_the_plan_on_the_page_is_that_of_the_example() -> None:
    old, new = first.membership.spec, later.membership.spec
    steps: Any = propose(RegisteredWorkflow(old, 1, ""), RegisteredWorkflow(new, 2, "")).steps
    for step in steps:
        said = f"begin there, and give up what they wait for: {step.why}" if step.begins else "and wait on"
        line = rf"^{step.line} +{step.what} +{step.line_after} +{re.escape(said)}$"
        assert re.search(line, PAGE, re.MULTILINE), line


@pytest.mark.anyio
async def test_the_client_of_the_page_moves_what_can_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with EmbeddedServer(tmp_path) as server:
        orchestrator, running = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        async with Client(server.url) as client:
            await client.register(first.membership)
            await client.start(first.membership, {"member": "ann"}, run_id="ann")
            await client.start(first.membership, {"member": "bob"}, run_id="bob")
            await client.cancel("bob")
            await client.wait("bob", timeout_s=20)
            await client.register(later.membership)
            await define(SOURCE).move(client, ["ann", "bob"])
            assert [(await client.get(each)).version for each in ("ann", "bob")] == [2, 1]
        orchestrator.stop()
        await running
    assert capsys.readouterr().out.startswith("bob ")


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)


def test_its_options_are_there() -> None:
    migrate = main.get_command(click.Context(main), "migrate")
    assert isinstance(migrate, click.Group)
    known = {name for each in migrate.commands["apply"].params for name in each.opts}
    assert {"--map", "--rename", "--set", "--all"} <= known
