"""A worker in plain JavaScript executes tasks of workflows in Python; it runs where there are Node and npm."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import RunCancelled, RunFailed, RunHandle
from dressage.flow import Workflow, workflow

EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "node_worker"
sys.path.insert(0, str(EXAMPLE.parent))

from node_worker.workflow import node_import, node_order, node_shipment, ship  # noqa: E402

FETCH_S: Final = 60.0
SAID_S: Final = 30.0

Until = Callable[..., Awaitable[None]]


def modules() -> Path | str:
    """The folder of the packages of the example, fetched when they are first asked for; or why there are none."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "there is no Node, or no npm"
    wanted = (EXAMPLE / "package.json").read_bytes()
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dressage-tests" / "node-worker"
    )
    complete = cache / "complete"
    if complete.exists() and complete.read_bytes() == wanted:
        return cache / "node_modules"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir(parents=True)
    (cache / "package.json").write_bytes(wanted)
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock"]
    try:
        subprocess.run(install, cwd=cache, check=True, capture_output=True, timeout=FETCH_S)
    except (OSError, subprocess.SubprocessError) as error:
        return f"npm cannot fetch the client of NATS ({type(error).__name__})"
    complete.write_bytes(wanted)
    return cache / "node_modules"


class NodeWorker:
    """One process; `said` is what it has written."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self._log = folder / "worker.log"
        command = ["node", str(folder / "worker.mjs"), engine.url, engine.namespace, "shop-node"]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)

    @property
    def said(self) -> str:
        return self._log.read_text()

    def says(self, text: str) -> None:
        deadline = time.monotonic() + SAID_S
        while text not in self.said:
            assert self.process.poll() is None, f"it ended without saying {text!r}: {self.said}"
            assert time.monotonic() < deadline, f"it did not say {text!r} in time: {self.said}"
            time.sleep(0.02)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(SAID_S)


StartNode = Callable[[Engine], Awaitable[NodeWorker]]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StartNode]:
    found = modules()
    if isinstance(found, str):
        pytest.skip(f"the worker in JavaScript cannot run: {found}")
    started: list[NodeWorker] = []

    async def start(engine: Engine) -> NodeWorker:
        folder = tmp_path / f"node-{len(started)}"
        folder.mkdir()
        shutil.copy(EXAMPLE / "worker.mjs", folder)
        (folder / "node_modules").symlink_to(found)
        started.append(NodeWorker(folder, engine))
        await asyncio.to_thread(started[-1].says, "serves queue shop-node")
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


async def begin(engine: Engine, flow: Workflow[..., Any], given: dict[str, Any]) -> RunHandle[Any]:
    client = await engine.client()
    return await client.start(flow.name, given)


async def test_it_returns_results_and_fails_by_names_that_are_caught(
    sharded: Engine, node: StartNode
) -> None:
    await sharded.registered(node_order)
    await node(sharded)
    runs = [await begin(sharded, node_order, {"item": item}) for item in 8 * ["tea"]]
    assert {await run.result(20) for run in runs} == {"paid 300"}
    dear = await begin(sharded, node_order, {"item": "a very dear item"})
    assert await dear.result(20) == "declined: not covered, above 1000"
    completed = [each async for each in dear.history() if each.kind in ("task-completed", "task-failed")]
    assert all(b'"worker":"node-' in bytes(each.data) for each in completed)
    assert len(completed) == 2


async def test_an_error_is_retried_and_goes_on_from_what_was_kept(engine: Engine, node: StartNode) -> None:
    await engine.registered(node_import)
    await node(engine)
    await node(engine)
    run = await begin(engine, node_import, {"rows": 6})
    assert await run.result(20) == "from 3 to 6"
    failed = [bytes(each.data) async for each in run.history() if each.kind == "task-failed"]
    assert len(failed) == 1
    assert b"row 3 cannot be read" in failed[0]


async def test_what_nobody_waits_for_is_ended(engine: Engine, node: StartNode, until: Until) -> None:
    client = await engine.registered(node_shipment)
    worker = await node(engine)
    run = await begin(engine, node_shipment, {"ms": 25_000})

    async def begun() -> bool:
        view = await client.waits(run.run_id)
        return any(queue.under_way for queue in view.queues)

    await until(begun, "the worker has it")
    await run.cancel("not needed")
    with pytest.raises(RunCancelled):
        await run.result(10)
    began = time.monotonic()
    assert await asyncio.to_thread(worker.end, signal.SIGTERM) == 0
    assert time.monotonic() - began < 20, "it has waited for a handler that nobody waits for"


@workflow
async def node_hurry(ms: int) -> str:
    return await ship.options(timeout=timedelta(milliseconds=200))(ms)


async def test_it_ends_what_takes_too_long(engine: Engine, node: StartNode) -> None:
    await engine.registered(node_hurry)
    await node(engine)
    run = await begin(engine, node_hurry, {"ms": 20_000})
    with pytest.raises(RunFailed, match=r"within 0\.2 s"):
        await run.result(10)


async def test_it_finishes_what_it_has_begun_and_leaves_the_rest_to_others(
    engine: Engine, node: StartNode, until: Until
) -> None:
    client = await engine.registered(node_shipment)
    first = await node(engine)
    run = await begin(engine, node_shipment, {"ms": 2_000})

    async def begun() -> bool:
        view = await client.waits(run.run_id)
        return any(queue.under_way for queue in view.queues)

    await until(begun, "the worker has it")
    ending = asyncio.create_task(asyncio.to_thread(first.end, signal.SIGTERM))
    second = await node(engine)
    later = await begin(engine, node_shipment, {"ms": 10})
    assert await later.result(10) == "shipped within 10 ms"
    assert await run.result(10) == "shipped within 2000 ms"
    assert await ending == 0
    assert "has ended what it had begun" in first.said
    attempts = [each async for each in run.history() if each.kind == "task-completed"]
    assert f"node-{first.process.pid}".encode() in bytes(attempts[0].data)
    assert second.process.poll() is None
