"""Definitions: the same is a no-op, a changed one a new version, a run stays on the version it began with."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dressage.flow import App, Workflow, workflow
from dressage.protocol.errors import BadInput, DressageError, NotFound
from dressage.protocol.spec import WorkflowSpec

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

app = App("defining")


@app.task
async def step(n: int) -> int:
    return n


def first() -> Workflow[..., int]:
    @workflow(name="changing")
    async def changing(n: int) -> int:
        return n + 1

    return changing


def plus(amount: int) -> Workflow[..., int]:
    @workflow(name="added")
    async def added(n: int) -> int:
        base = await step(n)
        return base + amount

    return added


async def test_the_same_workflow_again_is_a_no_op(engine: Engine) -> None:
    client = await engine.client()
    one, two = await client.register(plus(1)), await client.register(plus(1))
    assert (one.version, two.version) == (1, 1)
    assert one.digest == two.digest


async def test_a_changed_workflow_is_a_new_version(engine: Engine) -> None:
    client = await engine.client()
    assert [(await client.register(plus(n))).version for n in (1, 2, 3)] == [1, 2, 3]


async def test_forty_concurrent_registrations_of_one_spec_make_one_version(engine: Engine) -> None:
    clients = [await engine.client(f"c{n}") for n in range(4)]
    found = await asyncio.gather(*(clients[n % 4].register(plus(1)) for n in range(40)))
    assert {each.version for each in found} == {1}


async def test_concurrent_registrations_of_different_specs_get_versions_of_their_own(engine: Engine) -> None:
    clients = [await engine.client(f"c{n}") for n in range(4)]
    found = await asyncio.gather(*(clients[n].register(plus(n)) for n in range(4)))
    assert sorted(each.version for each in found) == [1, 2, 3, 4]


async def test_a_run_stays_on_the_version_it_began_with(sharded: Engine) -> None:
    client = await sharded.registered(plus(10))
    old = await client.start("added", {"n": 1}, run_id="old")
    await client.register(plus(20))
    new = await client.start("added", {"n": 1}, run_id="new")
    await sharded.down()
    await sharded.up()
    await sharded.worker(app)
    assert (await old.result(5), await new.result(5)) == (11, 21)
    assert ((await old.state()).version, (await new.state()).version) == (1, 2)


async def test_a_start_may_choose_an_older_version(engine: Engine) -> None:
    client = await engine.registered(plus(10), plus(20))
    await engine.worker(app)
    assert await (await client.start("added", {"n": 1}, version=1)).result(5) == 11


async def test_a_definition_is_read_back_equal(engine: Engine) -> None:
    client = await engine.registered(plus(10))
    found = await client.registry.get("added")
    assert found.spec.digest() == plus(10).spec.digest() == found.digest
    assert "base + amount" in found.spec.source


async def test_an_unknown_definition_is_not_found(engine: Engine) -> None:
    client = await engine.client()
    with pytest.raises(NotFound, match="no-such"):
        await client.registry.get("no-such")


async def test_all_definitions_are_listed(engine: Engine) -> None:
    client = await engine.registered(plus(10), first())
    assert sorted(await client.registry.names()) == ["added", "changing"]


def broken(**changes: Any) -> WorkflowSpec:
    return msgspec.structs.replace(plus(1).spec, **changes)


def mended(change: str) -> dict[str, Any]:
    """The spec as plain JSON with something wrong in it."""
    spec: dict[str, Any] = json.loads(plus(1).spec.encode())
    nodes, task = spec["nodes"], next(n for n in spec["nodes"] if "task" in n)
    match change:
        case "next-out-of-range":
            task["next"] = 99
        case "negative-next":
            task["next"] = -1
        case "entry-out-of-range":
            spec["entry"] = 99
        case "unknown-task":
            task["task"] = "nobody"
        case "unknown-scope":
            task["scope"] = 7
        case "unknown-parameter-of-task":
            task["args"] = {"other": task["args"]["n"]}
        case "missing-argument":
            task["args"] = {}
        case "no-nodes":
            spec["nodes"] = []
        case "bad-name":
            spec["name"] = "a.b"
        case "wildcard-name":
            spec["name"] = "a*"
        case "bad-queue":
            spec["tasks"][0]["queue"] = "a.>"
        case "bad-task-name":
            spec["tasks"][0]["name"] = task["task"] = "a b"
        case "duplicate-task":
            spec["tasks"].append(spec["tasks"][0])
        case "duplicate-parameter":
            spec["params"].append(spec["params"][0])
        case "unknown-type":
            spec["output"] = {"kind": "named", "name": "Nothing"}
        case "negative-retries":
            spec["retry"] = {"retries": -1}
        case "nan-backoff":
            spec["retry"] = {"retries": 1, "backoff": {"base_s": -5, "factor": 0, "limit_s": -1}}
        case "other-format":
            spec["format"] = 2
        case "unknown-node-kind":
            nodes[0] = {**nodes[0], **{k: "gather" for k in nodes[0] if k in ("kind", "type", "t", "node")}}
        case "endless-scope-parents":
            spec["scopes"] = [{"handlers": [], "parent": 0}]
            task["scope"] = 0
        case _:
            raise AssertionError(change)
    return spec


WRONG = [
    "next-out-of-range",
    "negative-next",
    "entry-out-of-range",
    "unknown-task",
    "unknown-scope",
    "unknown-parameter-of-task",
    "missing-argument",
    "no-nodes",
    "bad-name",
    "wildcard-name",
    "bad-queue",
    "bad-task-name",
    "duplicate-task",
    "duplicate-parameter",
    "unknown-type",
    "negative-retries",
    "nan-backoff",
    "other-format",
    "unknown-node-kind",
    "endless-scope-parents",
]


@pytest.mark.parametrize("change", WRONG)
async def test_a_spec_that_contradicts_itself_is_refused_by_the_micro_service(
    shared: Engine, change: str
) -> None:
    answer = await shared.call("put-workflow", {"spec": mended(change)})
    assert not answer["ok"]
    assert answer["code"] in {"SPEC_INVALID", "NAME_INVALID", "REQUEST_MALFORMED"}
    assert answer["message"]


async def test_the_spec_of_those_tests_is_fine_when_nothing_is_changed(shared: Engine) -> None:
    spec = json.loads(plus(1).spec.encode())
    assert (await shared.call("put-workflow", {"spec": spec}))["ok"]


@pytest.mark.parametrize(
    "changes",
    [{"entry": 99}, {"nodes": ()}, {"name": "A.B"}, {"tasks": ()}],
    ids=["entry", "no-nodes", "name", "no-tasks"],
)
async def test_a_spec_that_contradicts_itself_is_refused_by_the_client(
    shared: Engine, changes: dict[str, Any]
) -> None:
    client = await shared.client()
    with pytest.raises(BadInput) as caught:
        await client.register(broken(**changes))
    assert caught.value.code in {"SPEC_INVALID", "NAME_INVALID"}


async def test_a_spec_of_2_mb_is_refused_by_the_client(shared: Engine) -> None:
    client = await shared.client()
    with pytest.raises(DressageError) as caught:
        await asyncio.wait_for(client.register(broken(description="x" * 2_000_000)), 8)
    assert caught.value.code in {"PAYLOAD_TOO_LARGE", "SPEC_INVALID"}


@pytest.mark.parametrize("version", [0, -1, 2**40])
async def test_an_impossible_version_is_refused(shared: Engine, version: int) -> None:
    client = await shared.registered(plus(1))
    with pytest.raises(DressageError) as caught:
        await client.start("added", {"n": 1}, version=version, timeout_s=3)
    assert caught.value.code in {
        "NOT_FOUND",
        "WORKFLOW_UNKNOWN",
        "BAD_INPUT",
        "VALUE_INVALID",
        "INPUT_INVALID",
    }
