"""The examples of docs/versions.md run, what it says of changes is so, and its commands are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, get_args

import click
import pytest
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.registry import Allow
from dressage.cli.main import main
from dressage.client import Client
from dressage.expressions.compatibility import breaks
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.spec import WorkflowSpec
from dressage.protocol.versions import ALIASES_MAX, Versions, parse_target
from dressage.simulation.programs import define

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "versions.md").read_text()


def examples() -> Any:
    return define("\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE)))


def test_the_examples_of_the_page_run() -> None:
    examples()


@pytest.mark.anyio
async def test_a_version_of_a_build_has_its_workers(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        orchestrator, running = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        assert await examples().deploy_as("3f2a91c", server.url) == "7 costs 27"
        async with Client(server.url) as client:
            assert await client.registry.queues() == ["shop_3f2a91c"]
        orchestrator.stop()
        await running


@pytest.mark.anyio
async def test_what_is_deployed_is_started_by_its_alias_and_by_its_label(tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path) as server:
        orchestrator, running = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        async with Client(server.url) as client:
            await examples().deploy_and_start(client)
            versions = await client.registry.view("process-order")
            assert (versions.latest, versions.versions[0].label) == (1, "1.0")
            assert versions.aliases["stable"].version == 1
        orchestrator.stop()
        await running


def spec(params: str, output: str = "str", view: str = "", body: str = "return ''") -> WorkflowSpec:
    declared = f"@dataclass\nclass View:\n    {view}\n" if view else ""
    first = "view = View()\n    " if view else ""
    text = (
        "from dataclasses import dataclass\nfrom enum import Enum\n"
        "from dressage.flow import Large, Masked, Searchable, workflow\n"
        "@dataclass\nclass Line:\n    sku: str\n    count: int = 1\n"
        "@dataclass\nclass Bare:\n    sku: str\n"
        f"{declared}@workflow\nasync def order({params}) -> {output}:\n    {first}{body}\n"
    )
    found: Any = define(text).order
    made: WorkflowSpec = found.spec
    return made


SEARCHED = "b: Searchable[str] = ''\n"
LINE, BARE = "return Line('x')", "return Bare('x')"


@pytest.mark.parametrize(
    ("before", "after", "is_broken"),
    [
        (("",), ("a: int = 1",), False),
        (("a: int = 1",), ("a: int = 2",), False),
        (("",), ("a: int",), True),
        (("a: int = 1",), ("a: int",), True),
        (("a: int",), ("",), True),
        (("a: int",), ("a: float",), False),
        (("a: str",), ("a: str | None",), False),
        (("a: Bare",), ("a: Line",), False),
        (("a: str | None",), ("a: str",), True),
        (("", "str | None"), ("", "str"), False),
        (("", "Bare", "", BARE), ("", "Line", "", LINE), False),
        (("", "str"), ("", "str | None"), True),
        (("", "Line", "", LINE), ("", "Bare", "", BARE), True),
        (("a: str",), ("a: Large[str]",), False),
        (("a: Large[str]",), ("a: str",), True),
        (("", "str"), ("", "Large[str]"), True),
        (("", "Large[str]"), ("", "str"), False),
        (("", "str", f"{SEARCHED}    a: str = ''"), ("", "str", f"{SEARCHED}    a: Masked[str] = ''"), True),
        (("", "str", f"{SEARCHED}    a: str = ''"), ("", "str", SEARCHED), True),
        (("", "str", SEARCHED), ("", "str", f"{SEARCHED}    a: str = ''"), False),
        (("", "str", "a: Searchable[str] = ''"), ("", "str", "a: str = ''"), True),
        (("", "str", "a: str = ''"), ("", "str", "a: Searchable[str] = ''"), False),
    ],
)
def test_the_table_of_changes_is_so(before: tuple[str, ...], after: tuple[str, ...], is_broken: bool) -> None:
    assert bool(breaks(spec(*before), spec(*after))) == is_broken


def test_every_way_to_name_a_version_is_one() -> None:
    versions = Versions(3, "d")
    for target in re.findall(r"`process-order(?:@([a-z0-9.]+))?`", PAGE.partition("## Which version")[2]):
        name, ref = parse_target(f"process-order@{target}" if target else "process-order")
        assert name == "process-order"
        if ref not in ("stable", "1.2"):
            assert versions.resolve(name, ref) == 3
    assert f"up to {ALIASES_MAX} of them" in PAGE
    assert [each for each in get_args(Allow) if f"`{each}`" not in PAGE] == []


def test_the_commands_of_the_page_are_there() -> None:
    lines = commands_of(PAGE)
    assert lines
    for line in lines:
        check_command(line)
    group = main.get_command(click.Context(main), "workflow")
    assert isinstance(group, click.Group)
    assert [name for name in group.commands if name not in ("list", "show") and name not in PAGE] == []
