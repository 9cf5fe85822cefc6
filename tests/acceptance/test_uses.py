"""Which workflows use a task, an event, a queue, a user task or a workflow, asked in all three ways."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.client import Client
from dressage.flow import App, Event, UserTask, workflow
from dressage.protocol.uses import Used

pytestmark = pytest.mark.anyio

app = App("using")
mail = App("mail")
paid = Event("uses-paid", of=int)


@dataclass
class Form:
    ok: bool


approve = UserTask("uses-approve", form=Form)


@app.task
async def reserve(x: int) -> int:
    return x


@mail.task
async def tell(x: int) -> int:
    return x


@workflow(name="uses-child")
async def child(x: int) -> int:
    return await tell(x)


@workflow(name="uses-parent")
async def parent(x: int) -> int:
    y = await reserve(x)
    z = await reserve(y)
    w = await child(z)
    return w + await paid.wait()


@workflow(name="uses-people")
async def people(x: int) -> bool:
    return (await approve.assign(group="ops", notes=str(await tell(x)))).ok


@workflow(name="uses-parent")
async def parent_later(x: int) -> int:
    return await child(x)


def line_of(text: str) -> int:
    lines = Path(__file__).read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


async def used(client: Client, what: Used, name: str, *, all_versions: bool = False) -> list[tuple[str, int]]:
    found = await client.registry.uses(what, name, all_versions=all_versions)
    return [(each.workflow, each.version) for each in found]


async def test_workflows_say_what_they_use(engine: Engine) -> None:
    client = await engine.registered(child, parent, people)
    assert await used(client, "task", "tell") == [("uses-child", 1), ("uses-people", 1)]
    assert await used(client, "task", "reserve") == [("uses-parent", 1)]
    assert await used(client, "queue", "mail") == [("uses-child", 1), ("uses-people", 1)]
    assert await used(client, "queue", "using") == [("uses-parent", 1)]
    assert await used(client, "event", "uses-paid") == [("uses-parent", 1)]
    assert await used(client, "user-task", "uses-approve") == [("uses-people", 1)]
    assert await used(client, "workflow", "uses-child") == [("uses-parent", 1)]
    for what in get_args(Used):
        assert await used(client, what, "nobody") == []
    (use,) = await client.registry.uses("task", "reserve")
    assert use.lines == (line_of("y = await reserve(x)"), line_of("z = await reserve(y)"))
    assert use.label == "1.0"

    await client.registry.set_alias("uses-parent", "stable", 1)
    await client.register(parent_later)
    assert await used(client, "task", "reserve") == [("uses-parent", 1)], (
        "runs of it are started by its alias"
    )
    await client.registry.remove_alias("uses-parent", "stable")
    assert await used(client, "task", "reserve") == []
    assert await used(client, "task", "reserve", all_versions=True) == [("uses-parent", 1)]
    assert await used(client, "workflow", "uses-child") == [("uses-parent", 2)]
    await client.registry.archive("uses-people")
    assert await used(client, "task", "tell") == [("uses-child", 1)]
    assert await used(client, "task", "tell", all_versions=True) == [("uses-child", 1), ("uses-people", 1)]


async def test_the_command_and_the_micro_service_say_the_same(engine: Engine) -> None:
    client = await engine.registered(child, parent)
    where = ["--server", engine.url, "--namespace", engine.namespace]

    async def call(*words: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, main, ["workflow", "uses", *words, *where])
        assert done.exit_code == 0, done.output
        return done.output

    told = json.loads(await call("task", "reserve", "--json"))
    assert [each["workflow"] for each in told] == ["uses-parent"]
    assert f"{line_of('y = await reserve(x)')}, {line_of('z = await reserve(y)')}" in await call(
        "task", "reserve"
    )
    assert "no workflow uses event nobody" in await call("event", "nobody")
    request = json.dumps({"what": "task", "name": "reserve"}).encode()
    answer = json.loads(await client.connection.request(client.names.api("find-uses"), request, 10))
    assert (answer["ok"], answer["uses"]) == (True, told)
