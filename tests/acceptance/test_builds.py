"""Builds on the real engine: tasks of a version go to workers of its build, and wait for them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import App, task, workflow
from dressage.orchestrator import doctor
from dressage.protocol.errors import BadName

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

ONE, TWO = "3f2a", "9c41"


@task(queue="shop", retries=1)
async def tell(order: str) -> str:
    raise NotImplementedError


@workflow
async def telling(order: str) -> str:
    return await tell(order)


@workflow
async def asking(order: str) -> str:
    return await telling(order)


def shop(says: str) -> App:
    """Each is the application as it is at another time."""
    made = App("shop", version="of no build")

    async def handle(order: str) -> str:
        return f"{order} by {says}"

    made.register(tell, handle)
    return made


async def deployed(engine: Engine) -> Client:
    """Version 1 is one of build `ONE`, version 2 of `TWO`, and version 3 of none."""
    client = await engine.client()
    for build in (ONE, TWO, ""):
        await client.register(telling, build=build)
    return client


async def told(client: Client, run_id: str, kind: str) -> list[dict[str, Any]]:
    return [json.loads(bytes(event.data)) async for event in client.history(run_id) if event.kind == kind]


async def waits(client: Client, run_id: str, what: str) -> bool:
    return (await client.get(run_id)).waiting_for == what


async def unserved(engine: Engine, client: Client) -> list[str]:
    """What `dressage doctor` says of queues without a worker."""
    facts = await doctor.gather(await engine.nats(), client.connection, engine.names)
    return [each.message for each in doctor.examine(facts).findings if each.code == "QUEUE_WITHOUT_WORKER"]


async def test_runs_of_all_versions_at_once_have_workers_of_their_builds(sharded: Engine) -> None:
    client = await deployed(sharded)
    for build in (ONE, TWO, ""):
        await sharded.worker(shop(build or "plain"), build=build)
    versions = [1 + number % 3 for number in range(30)]
    handles = await asyncio.gather(
        *(client.start("telling", {"order": "a"}, version=version) for version in versions)
    )
    for version, handle in zip(versions, handles, strict=True):
        said = await handle.result(15)
        (done,) = await told(client, handle.run_id, "task-completed")
        (scheduled,) = await told(client, handle.run_id, "task-scheduled")
        build = ("", ONE, TWO, "")[version]
        if build:
            assert (said, done["build"]) == (f"a by {build}", build)
        else:  # Any worker takes it, and says of which build that is.
            assert done["build"] in ("of no build", ONE, TWO)
        assert scheduled["queue"] == (f"shop_{build}" if build else "shop")


async def test_a_build_without_workers_waits_is_named_and_is_served_by_one_that_comes_later(
    sharded: Engine,
) -> None:
    client = await deployed(sharded)
    await sharded.worker(shop("plain"))
    await sharded.worker(shop(ONE), build=ONE)
    waiting = await client.start("telling", {"order": "a"}, version=2)
    others = [await client.start("telling", {"order": "b"}, version=version) for version in (1, 3)]
    assert await others[0].result(15) == f"b by {ONE}"
    await others[1].result(15)
    assert await waits(client, waiting.run_id, f"task tell (attempt 1) on queue shop of build {TWO}")

    async def named() -> bool:
        return await unserved(sharded, client) == [
            f"1 tasks wait on queue shop of build {TWO}, and nobody pulls from it: start a worker of the application "
            f"'shop', or one whose tasks name that queue with --build {TWO}."
        ]

    await until(named, "it is named")
    await sharded.worker(shop(TWO), build=TWO)
    assert await waiting.result(15) == f"a by {TWO}"
    assert await unserved(sharded, client) == []


async def test_a_worker_may_be_there_before_any_version_of_its_build(sharded: Engine) -> None:
    client = await sharded.client()
    await sharded.worker(shop(TWO), build=TWO)
    for build in (TWO, ""):  # The tasks of one without a build are for it, too.
        await client.register(telling, build=build)
        assert await (await client.start("telling", {"order": "a"})).result(15) == f"a by {TWO}"


async def test_consumers_that_were_removed_too_early_are_there_again_with_a_worker(sharded: Engine) -> None:
    client = await deployed(sharded)
    handle = await client.start("telling", {"order": "a"}, version=1)
    assert await waits(client, handle.run_id, f"task tell (attempt 1) on queue shop of build {ONE}")
    for shard in range(sharded.shards):
        await client.connection.delete_consumer(sharded.names.shard_stream(shard), f"task_shop_{ONE}")
    await sharded.worker(shop(ONE), build=ONE)
    assert await handle.result(15) == f"a by {ONE}"


async def test_children_are_of_the_build_of_their_parent(engine: Engine) -> None:
    client = await engine.registered(asking)
    registered = await client.register(asking, build=TWO)
    assert (registered.version, registered.label, registered.build) == (2, "1.1", TWO)
    await engine.worker(shop(TWO), build=TWO)
    assert await (await client.start(asking, {"order": "a"})).result(15) == f"a by {TWO}"
    assert registered.children == {"telling": 2}
    assert await client.registry.queues() == ["shop", f"shop_{TWO}"], "shards that are added have them"


async def test_the_same_spec_of_another_build_is_another_version_and_breaks_nobody(engine: Engine) -> None:
    client = await engine.client()
    spec = json.loads(telling.spec.encode())
    for build, version, created in ((ONE, 1, True), (ONE, 1, False), (TWO, 2, True), ("", 3, True)):
        checked = await engine.call("check-workflow", {"spec": spec, "build": build})
        answer = await engine.call("put-workflow", {"spec": spec, "build": build, "allow": "compatible"})
        assert (answer["workflow"]["version"], answer["created"]) == (version, created), answer
        assert answer["workflow"]["build"] == build
        assert checked["version"] == version
        assert checked["change"] == ("compatible" if version > 1 else "new" if created else "unchanged")
    view = await client.registry.view("telling")
    assert [(each.build, each.label) for each in view.versions] == [("", "1.2"), (TWO, "1.1"), (ONE, "1.0")]


async def test_what_is_no_build_is_refused(engine: Engine) -> None:
    client = await engine.client()
    spec = json.loads(telling.spec.encode())
    for build in ("2.4.1", "b" * 64, "a_b"):
        for operation in ("put-workflow", "check-workflow"):
            answer = await engine.call(operation, {"spec": spec, "build": build})
            assert (answer["code"], answer["message"][:10]) == ("NAME_INVALID", "build name")
        with pytest.raises(BadName, match="use 1 to 63 characters"):
            await client.register(telling, build=build)
        with pytest.raises(BadName, match="use 1 to 63 characters"):
            await engine.worker(shop("none"), build=build)
    assert await client.registry.names() == []


async def test_a_run_that_moves_has_its_next_attempt_with_the_other_build(sharded: Engine) -> None:
    taken, goes = asyncio.Event(), asyncio.Event()
    broken = App("shop")

    async def handle(order: str) -> str:
        taken.set()
        await goes.wait()
        raise OSError(order)

    broken.register(tell, handle)
    client = await deployed(sharded)
    await sharded.worker(broken, build=ONE)
    handle_of_run = await client.start("telling", {"order": "a"}, version=1)
    await asyncio.wait_for(taken.wait(), 15)
    await sharded.worker(shop(TWO), build=TWO)
    planned = await client.plan_migration("telling@1", "telling@2")
    await client.migrate(handle_of_run.run_id, planned.migration)
    assert await waits(client, handle_of_run.run_id, f"task tell (attempt 1) on queue shop of build {ONE}")
    goes.set()
    assert await handle_of_run.result(20) == f"a by {TWO}"
    (failed,) = await told(client, handle_of_run.run_id, "task-failed")
    (done,) = await told(client, handle_of_run.run_id, "task-completed")
    assert (failed["build"], done["build"]) == (ONE, TWO)


MODULE: Final = """
import asyncio
import os
from pathlib import Path

from dressage.flow import App, workflow

app = App("built")


@app.task
async def work(seconds: float) -> int:
    with Path("calls").open("a") as log:
        log.write(f"{os.getpid()} {seconds}\\n")
    await asyncio.sleep(seconds)
    return os.getpid()


@workflow
async def working(seconds: float) -> int:
    return await work(seconds)
"""


@pytest.mark.slow
@pytest.mark.timeout(150)
async def test_the_task_of_a_killed_worker_waits_for_another_one_of_its_build(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    target = ("--server", engine.url, "--namespace", engine.namespace)
    (tmp_path / "built.py").write_text(MODULE)
    for build in (ONE, TWO):
        said = start("deploy", "built", "--build", build, *target, cwd=tmp_path)
        assert said.ended() == 0, said.said
    client = await engine.client()
    killed = start("worker", "built:app", "--build", ONE, *target, cwd=tmp_path)
    handle = await client.start("working", {"seconds": 3.0}, version=1)
    await until((tmp_path / "calls").exists, "the task runs", 30)
    os.kill(killed.pid, signal.SIGKILL)
    other = start("worker", "built:app", "--build", TWO, *target, cwd=tmp_path)
    # By the end of this one the server has given the other up, and would have handed it to who is there.
    assert await (await client.start("working", {"seconds": 36.0}, version=2)).result(60) == other.pid
    assert len((tmp_path / "calls").read_text().splitlines()) == 2
    again = start("worker", "built:app", "--build", ONE, *target, cwd=tmp_path)
    assert await handle.result(40) == again.pid
    kinds = [event.kind async for event in client.history(handle.run_id)]
    assert kinds.count("task-completed") == 1
