"""The examples of docs/user-tasks.md run, its commands are there, and what it says of limits is so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Final, get_args

import pytest
from tests.acceptance.conftest import until  # pyright: ignore[reportMissingImports]
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.analytics import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.client.user_tasks import UserTaskHandle
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.names import ACTOR_CHARS_MAX
from dressage.protocol.spec import USER_TASK_ARGS
from dressage.protocol.user_tasks import (
    COMMENT_BYTES_MAX,
    COMMENTS_MAX,
    NOTES_BYTES_MAX,
    REMINDERS_MAX,
    Action,
)
from dressage.simulation.programs import define

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "user-tasks.md").read_text()
SOURCE: Final = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS: Final = re.findall(r"^(?:async )?def (test_\w+)", SOURCE, re.MULTILINE)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def examples() -> dict[str, Any]:
    module = define(SOURCE)
    return {name: getattr(module, name) for name in [*TESTS, "expense", "work", "inbox"]}


@pytest.mark.parametrize("name", TESTS)
async def test_an_example_of_the_page_passes(examples: dict[str, Any], name: str) -> None:
    done = examples[name]()
    if inspect.isawaitable(done):
        await done


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)


async def test_people_find_what_they_have_to_do_and_do_it_as_on_the_page(
    examples: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (waited,) = re.findall(r"(?s)```sql\n(.*?);\n```", PAGE)
    async with EmbeddedServer(tmp_path / "nats") as server:
        orchestrator, task = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        async with (
            Client(server.url) as client,
            AnalyticsService(server.url, "default", tmp_path / "a.duckdb"),
        ):
            await client.register(examples["expense"])
            for run_id in ("expense-7", "expense-8"):
                await client.start("expense", {"owner": "ann", "amount": 70, "manager": "mia"}, run_id=run_id)
                await client.wait_for_event(run_id, "user-task-opened", timeout_s=20)
            await examples["work"](client, "expense-7")
            assert capsys.readouterr().out == "approve-expense assigned mia ann wants 70\n"
            await client.wait_for_event("expense-7", "user-task-completed", timeout_s=20)

            async def one_is_left() -> bool:
                await examples["inbox"](client, "mia", "finance")
                lines = capsys.readouterr().out.splitlines()
                return len(lines) == 1 and lines[0].startswith("expense-8 ")

            await until(one_is_left, "the inbox has what is left")
            assert [row[:2] for row in (await client.query(waited)).rows] == [["eve", 1]]
        orchestrator.stop()
        await task


def test_everything_that_can_be_said_and_done_is_on_the_page() -> None:
    assert [name for name in USER_TASK_ARGS if f"`{name}`" not in PAGE] == []
    methods = [name for name in vars(UserTaskHandle) if not name.startswith("_") and name != "view"]
    assert len(methods) == len(get_args(Action))
    assert [name for name in methods if f"`{name}(" not in PAGE] == []
    for figure in (
        f"at most {NOTES_BYTES_MAX // 1024} KiB",
        f"at most {REMINDERS_MAX} times",
        f"above {COMMENT_BYTES_MAX // 1024} KiB, and above {COMMENTS_MAX} comments",
        f"more than {ACTOR_CHARS_MAX} characters",
    ):
        assert figure in PAGE
