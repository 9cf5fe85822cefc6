"""Real worker processes: drained, killed, ended by a task, and busy for longer than the broker waits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]
    from tests.conftest import Program, Start  # pyright: ignore[reportMissingImports]

    from dressage.client import Client

MODULE = """
import asyncio, os, sys, time
from datetime import timedelta
from pathlib import Path
from dressage.flow import App, Exponential, workflow
from dressage.worker import current_task

app = App("process-tasks")

def note(line):
    with Path("calls").open("a") as calls:
        calls.write(f"{line} {os.getpid()} {current_task().attempt}\\n")

@app.task
async def long_async(seconds: float) -> int:
    note("begin")
    await asyncio.sleep(seconds)
    note("end")
    return os.getpid()

@app.task
def long_sync(seconds: float) -> int:
    note("begin")
    time.sleep(seconds)
    note("end")
    return os.getpid()

@app.task(retries=1, backoff=Exponential(base=timedelta(milliseconds=10)))
def leaving(code: int) -> int:
    note("begin")
    sys.exit(code)

@app.task(retries=1, backoff=Exponential(base=timedelta(milliseconds=10)))
async def leaving_async(code: int) -> int:
    note("begin")
    sys.exit(code)

@workflow
async def slow_async(seconds: float) -> int:
    return await long_async(seconds)

@workflow
async def slow_sync(seconds: float) -> int:
    return await long_sync(seconds)

@workflow
async def left(code: int) -> int:
    return await leaving(code)

@workflow
async def left_async(code: int) -> int:
    return await leaving_async(code)
"""


class Shop:
    """The module above in a folder of its own, registered, and worker processes of it."""

    def __init__(self, engine: Engine, client: Client, folder: Path, start: Start) -> None:
        self.engine = engine
        self.client = client
        self.folder = folder
        self._start = start

    def worker(self, *options: str) -> Program:
        target = ("--server", self.engine.url, "--namespace", self.engine.namespace)
        return self._start("-v", "worker", "process_tasks:app", *target, *options, cwd=self.folder)

    @property
    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def begun(self) -> int:
        return sum(call.startswith("begin") for call in self.calls)

    def ended(self) -> int:
        return sum(call.startswith("end") for call in self.calls)


@pytest.fixture
async def shop(engine: Engine, start: Start, tmp_path: Path) -> Shop:
    (tmp_path / "process_tasks.py").write_text(MODULE)
    deployed = start(
        *("deploy", "process_tasks", "--server", engine.url, "--namespace", engine.namespace),
        cwd=tmp_path,
    )
    assert deployed.ended() == 0, deployed.said
    return Shop(engine, await engine.client(), tmp_path, start)


@pytest.mark.parametrize("workflow", ["slow-async", "slow-sync"])
async def test_sigterm_lets_a_worker_finish_what_runs(
    shop: Shop, until: Callable[..., Awaitable[None]], workflow: str
) -> None:
    worker = shop.worker()
    handle = await shop.client.start(workflow, {"seconds": 1.0})
    await until(lambda: shop.begun() == 1, "the task runs")
    worker.process.send_signal(signal.SIGTERM)
    assert await handle.result(5) == worker.pid
    await until(lambda: worker.process.poll() is not None, "the worker ends")
    assert worker.process.returncode == 0
    assert (shop.begun(), shop.ended()) == (1, 1)


async def test_sigterm_makes_a_worker_take_no_more(shop: Shop, until: Callable[..., Awaitable[None]]) -> None:
    worker = shop.worker("--concurrency", "1")
    first = await shop.client.start("slow-async", {"seconds": 1.0})
    await until(lambda: shop.begun() == 1, "the task runs")
    worker.process.send_signal(signal.SIGTERM)
    second = await shop.client.start("slow-async", {"seconds": 0.0})
    await first.result(5)
    await until(lambda: worker.process.poll() is not None, "the worker ends")
    assert shop.begun() == 1
    other = shop.worker()
    assert await second.result(8) == other.pid
    assert shop.begun() == 2


async def test_a_worker_on_sigterm_with_nothing_to_do_ends_at_once(
    shop: Shop, until: Callable[..., Awaitable[None]]
) -> None:
    worker = shop.worker()
    await (await shop.client.start("slow-async", {"seconds": 0.0})).result(8)
    began = time.monotonic()
    worker.process.send_signal(signal.SIGTERM)
    await until(lambda: worker.process.poll() is not None, "the worker ends")
    assert time.monotonic() - began < 3
    assert worker.process.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(110)
async def test_a_task_of_a_killed_worker_is_executed_again_by_another(
    shop: Shop, until: Callable[..., Awaitable[None]]
) -> None:
    """At least once: the broker hands the task out again when it hears no sign of life for its ack wait of 30 s."""
    worker = shop.worker()
    handle = await shop.client.start("slow-async", {"seconds": 3.0}, run_id="killed")
    await until(lambda: shop.begun() == 1, "the task runs")
    os.kill(worker.pid, signal.SIGKILL)
    other = shop.worker()
    assert await handle.result(60) == other.pid
    assert (shop.begun(), shop.ended()) == (2, 1)
    kinds = [event.kind async for event in shop.client.history("killed")]
    assert kinds.count("task-completed") == 1


@pytest.mark.slow
@pytest.mark.timeout(110)
async def test_tasks_longer_than_the_brokers_ack_wait_are_executed_once(shop: Shop) -> None:
    shop.worker()
    shop.worker()
    handles = [await shop.client.start(each, {"seconds": 35.0}) for each in ("slow-async", "slow-sync")]
    for handle in handles:
        await handle.result(60)
    assert (shop.begun(), shop.ended()) == (2, 2)


@pytest.mark.parametrize("workflow", ["left", "left-async"])
async def test_a_task_that_calls_sys_exit_is_a_technical_error_and_its_worker_goes_on(
    shop: Shop, until: Callable[..., Awaitable[None]], workflow: str
) -> None:
    worker = shop.worker()
    await shop.client.start(workflow, {"code": 3}, run_id="left")
    view = await shop.client.wait("left", timeout_s=4)
    assert view.failure is not None
    assert view.failure.name == "SystemExit"
    assert shop.begun() == 2
    assert worker.process.poll() is None
