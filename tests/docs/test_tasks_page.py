"""The examples of docs/tasks.md are tests, and pass; what it says of workers holds on a real one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from tests.acceptance.conftest import until  # pyright: ignore[reportMissingImports]
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import TASK_ACK_WAIT_S
from dressage.client import Client
from dressage.flow.retries import Exponential, TaskOptions
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.commands import PROGRESS_BYTES_MAX
from dressage.simulation.programs import define
from dressage.testing import FakeTask, WorkflowTest
from dressage.worker import Worker, WorkerConfig
from dressage.worker.attempt import GRACE_S, LOG_CHARS_MAX
from dressage.worker.context import TaskContext
from dressage.worker.worker import LOOK_S_MAX, SIGN_OF_LIFE_S

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "tasks.md").read_text()
SOURCE: Final = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS: Final = re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE)


@pytest.fixture(scope="module")
def examples() -> Any:
    return define(SOURCE)


@pytest.mark.parametrize("name", TESTS)
def test_an_example_of_the_page_passes(examples: Any, name: str) -> None:
    getattr(examples, name)()


@pytest.mark.anyio
async def test_handlers_end_and_attempts_say_who_it_was(examples: Any, tmp_path: Path) -> None:
    async with EmbeddedServer(tmp_path / "nats") as server:
        orchestrator, task = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
        async with (
            Client(server.url) as client,
            Worker(server.url, examples.app, WorkerConfig(identity="ann")),
        ):
            await client.register(examples.back_up)
            await client.register(examples.inspected)
            for plain, begun, ended in (
                (False, "copies disk", "deletes the half of disk"),
                (True, "compresses disk", "leaves disk"),
            ):
                run = await client.start(examples.back_up, {"file": "disk", "plain": plain})
                await until(lambda said=begun: said in examples.floor, "the handler has begun")
                await run.cancel()
                await until(lambda said=ended: said in examples.floor, "the handler has heard of it")
            inspected = await client.start(examples.inspected, {"item": "lamp"})
            assert await inspected.result(20) == "lamp is fine"
            attempts: list[dict[str, Any]] = [
                msgspec.json.decode(event.data)
                async for event in inspected.history()
                if event.kind in ("task-failed", "task-completed")
            ]
        orchestrator.stop()
        await task
    assert [(each["worker"], each["build"]) for each in attempts] == [("ann", "1.4.0")] * 2
    assert {each["log"] for each in attempts} == {"inspecting lamp\nasked the store"}
    assert all(each["waited_ms"] >= each["duration_ms"] > 0 for each in attempts)


def test_a_retry_of_a_dead_task_goes_on_from_what_was_kept() -> None:
    kept: Any = define(
        "from dressage.flow import App, workflow\n"
        "from dressage.worker import current_task\n"
        "app = App('kept')\n"
        "@app.task(exhausted='wait')\n"
        "async def copy(file: str) -> int:\n"
        "    here = current_task()\n"
        "    if here.attempt == 1:\n"
        "        await here.checkpoint(7)\n"
        "        raise OSError('down')\n"
        "    return here.resumed(int) or 0\n"
        "@workflow\n"
        "async def copying(file: str) -> int:\n"
        "    return await copy(file)\n"
    )
    test: WorkflowTest[..., Any] = WorkflowTest(kept.copying, kept.app)
    run = test.start("disk").finish()
    assert run.retry_task(kept.copy).finish().result == 7


def test_dead_is_also_what_is_wrong_every_time(examples: Any) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(examples.refund_order, examples.app)
    refund: FakeTask[..., Any] = test.task(examples.refund)
    refund.does(lambda order: 5)
    run = test.start("o-1").finish()
    assert [dead.failure.kind for dead in run.dead_tasks] == ["type-error"]
    assert len(run.calls) == 1


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)


def test_everything_that_can_be_said_of_a_task_is_on_the_page() -> None:
    missing = {name for name in TaskOptions.__annotations__ if f"`{name}`" not in PAGE}
    assert missing == {"concurrency", "rate", "priority"}  # They are on docs/task-limits.md.
    known = [name for name in dir(TaskContext) if not name.startswith("_") and name != "progress"]
    assert [name for name in known if f"`{name}" not in PAGE] == []


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    default = Exponential()
    assert (default.base.total_seconds(), default.factor, default.limit.total_seconds()) == (1, 2, 60)
    assert f"from 1 second, by 2, up to a minute, spread by {default.jitter}" in PAGE
    assert f"of up to {PROGRESS_BYTES_MAX // 1024} KiB" in PAGE
    assert f"some {LOG_CHARS_MAX:,} characters" in PAGE
    assert f"{TASK_ACK_WAIT_S:g} seconds\nafter its last sign of life" in PAGE
    assert (SIGN_OF_LIFE_S, LOOK_S_MAX, GRACE_S) == (10, 300, 1)
    assert "after ten seconds, after twenty, and at last every five minutes" in PAGE
    assert f"lets those that run end, {WorkerConfig().drain_s:g} seconds long" in PAGE
