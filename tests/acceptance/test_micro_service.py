"""The operations for any language: plain nats-py, plain JSON, nothing of Dressage but the subjects."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from nats.errors import NoRespondersError

from dressage.flow import App, workflow
from dressage.orchestrator import operations
from dressage.protocol.names import shard_of

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

app = App("service")


@app.task
async def add(n: int) -> int:
    return n + 1


@workflow
async def served_sum(n: int) -> int:
    return await add(n)


SPEC: dict[str, Any] = json.loads(served_sum.spec.encode())
OPERATIONS = ["start", "get", "wait", "history", "result", "put-workflow", "get-workflow", "list-workflows"]


async def gather(engine: Engine, subject: str) -> list[dict[str, Any]]:
    """All answers to a discovery request within a moment."""
    connection = await engine.nats()
    inbox = connection.new_inbox()
    answers = await connection.subscribe(inbox)
    await connection.publish(subject, b"", reply=inbox)
    found: list[dict[str, Any]] = []
    try:
        while True:
            answer = await answers.next_msg(0.4)
            if (answer.headers or {}).get("Status") == "503":
                raise NoRespondersError
            found.append(json.loads(answer.data))
    except TimeoutError:
        return found


async def test_a_ping_of_all_services_finds_it(shared: Engine) -> None:
    found = await gather(shared, "$SRV.PING")
    assert any("dressage" in answer["name"] for answer in found)
    assert {answer["type"] for answer in found} == {"io.nats.micro.v1.ping_response"}
    assert all(answer["id"] and answer["version"] for answer in found)


async def test_a_ping_by_name_finds_it(shared: Engine) -> None:
    name = (await gather(shared, "$SRV.PING"))[0]["name"]
    assert await gather(shared, f"$SRV.PING.{name}")


async def test_its_info_lists_every_operation_of_this_namespace(shared: Engine) -> None:
    found = await gather(shared, "$SRV.INFO")
    subjects = {endpoint["subject"] for answer in found for endpoint in answer["endpoints"]}
    assert {f"dressage.{shared.namespace}.api.{operation}" for operation in OPERATIONS} <= subjects


async def test_its_stats_count_requests_and_errors(shared: Engine) -> None:
    async def stats(operation: str) -> tuple[int, int]:
        subject = f"dressage.{shared.namespace}.api.{operation}"
        all_of = [e for answer in await gather(shared, "$SRV.STATS") for e in answer["endpoints"]]
        mine = [endpoint for endpoint in all_of if endpoint["subject"] == subject]
        return sum(e["num_requests"] for e in mine), sum(e["num_errors"] for e in mine)

    requests, errors = await stats("get")
    await shared.call("get", {"run_id": "nobody"})
    after = await stats("get")
    assert after[0] == requests + 1
    assert after[1] == errors + 1


async def test_a_definition_is_put_and_read_back(shared: Engine) -> None:
    put = await shared.call("put-workflow", {"spec": {**SPEC, "name": "put-and-got"}, "actor": "node"})
    assert (put["ok"], put["created"], put["workflow"]["version"]) == (True, True, 1)
    got = await shared.call("get-workflow", {"name": "put-and-got"})
    assert got["workflow"]["spec"]["nodes"] == SPEC["nodes"]
    assert got["workflow"]["actor"] == "node"
    assert "put-and-got" in (await shared.call("list-workflows", {}))["workflows"]


async def test_the_same_definition_again_is_no_new_version(shared: Engine) -> None:
    request = {"spec": {**SPEC, "name": "put-twice"}}
    await shared.call("put-workflow", request)
    again = await shared.call("put-workflow", request)
    assert (again["created"], again["workflow"]["version"]) == (False, 1)


async def test_a_run_is_started_waited_for_and_read(shared: Engine) -> None:
    await shared.registered(served_sum)
    await shared.worker(app)
    started = await shared.call(
        "start", {"workflow": "served-sum", "input": {"n": 1}, "run_id": "api-1", "actor": "node"}
    )
    assert (started["ok"], started["run_id"], started["existing"]) == (True, "api-1", False)
    waited = await shared.call("wait", {"run_id": "api-1", "timeout_s": 5})
    assert (waited["run"]["status"], waited["run"]["output"]) == ("completed", 2)
    got = await shared.call("get", {"run_id": "api-1"})
    assert got["run"]["actor"] == "node"
    history = await shared.call("history", {"run_id": "api-1"})
    assert [event["index"] for event in history["events"]] == list(range(got["run"]["events"]))
    assert history["more"] is False


@pytest.mark.limit("orchestrator.operations.HISTORY_MAX")
async def test_a_page_of_a_history_has_no_more_events_than_the_limit(
    shared: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit at the events of a run, and one below."""
    await shared.registered(served_sum)
    await shared.worker(app)
    await shared.call("start", {"workflow": "served-sum", "input": {"n": 1}, "run_id": "api-page"})
    events = (await shared.call("wait", {"run_id": "api-page", "timeout_s": 5}))["run"]["events"]
    for limit, more in ((events, False), (events - 1, True)):
        monkeypatch.setattr(operations, "HISTORY_MAX", limit)
        page = await shared.call("history", {"run_id": "api-page", "limit": 10**9})
        assert (len(page["events"]), page["more"]) == (limit, more)


async def test_history_comes_in_pages(shared: Engine) -> None:
    await shared.registered(served_sum)
    await shared.worker(app)
    await shared.call("start", {"workflow": "served-sum", "input": {"n": 1}, "run_id": "api-pages"})
    run = (await shared.call("wait", {"run_id": "api-pages", "timeout_s": 5}))["run"]
    indexes: list[int] = []
    more = True
    while more:
        after = indexes[-1] if indexes else -1
        page = await shared.call("history", {"run_id": "api-pages", "after": after, "limit": 2})
        assert len(page["events"]) <= 2
        indexes += [event["index"] for event in page["events"]]
        more = page["more"]
    assert indexes == list(range(run["events"]))


async def test_the_same_id_again_is_existing_and_other_input_a_conflict(shared: Engine) -> None:
    await shared.registered(served_sum)
    request = {"workflow": "served-sum", "input": {"n": 1}, "run_id": "api-again"}
    await shared.call("start", request)
    assert (await shared.call("start", request))["existing"]
    conflict = await shared.call("start", {**request, "input": {"n": 2}})
    assert (conflict["ok"], conflict["code"], conflict["retryable"]) == (False, "RUN_ID_CONFLICT", False)


async def test_twenty_concurrent_starts_of_one_id_are_one_run(shared: Engine) -> None:
    await shared.registered(served_sum)
    request = {"workflow": "served-sum", "input": {"n": 1}, "run_id": "api-race"}
    answers = await asyncio.gather(*(shared.call("start", request) for _ in range(20)))
    assert sum(not answer["existing"] for answer in answers) == 1


async def test_a_wait_that_ends_before_the_run_says_so(shared: Engine) -> None:
    await shared.registered(served_sum)
    await shared.call("start", {"workflow": "served-sum", "input": {"n": 1}, "run_id": "api-idle"})
    answer = await shared.call("wait", {"run_id": "api-idle", "timeout_s": 0.3})
    assert not answer["ok"] or answer["run"]["status"] == "running"


async def test_a_task_is_executed_by_a_program_that_is_no_dressage_worker(shared: Engine) -> None:
    """The task's message says where its result goes."""
    spec = {**SPEC, "name": "foreign", "tasks": [{**SPEC["tasks"][0], "queue": "foreign"}]}
    assert (await shared.call("put-workflow", {"spec": spec}))["ok"]
    await shared.call("start", {"workflow": "foreign", "input": {"n": 1}, "run_id": "api-foreign"})
    shard = shard_of("api-foreign", shared.shards)
    stream = (await shared.nats()).jetstream()
    pull = await stream.pull_subscribe_bind("task_foreign", f"dressage_{shared.namespace}_{shard}")
    (message,) = await pull.fetch(1, timeout=5)
    work = json.loads(message.data)
    assert (work["task"], work["args"], work["attempt"], work["run_id"]) == (
        "add",
        {"n": 1},
        1,
        "api-foreign",
    )
    result = {"task_id": work["task_id"], "by": {"worker": "node", "duration_ms": 1.0}, "output": 77}
    answer = await shared.call("result", {"run_id": "api-foreign", "result": result})
    assert answer["ok"], answer
    await message.ack()
    assert (await shared.call("wait", {"run_id": "api-foreign", "timeout_s": 5}))["run"]["output"] == 77


@pytest.mark.parametrize("operation", OPERATIONS[:-1])
@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"nothing": 1}', b'"text"', b"{" * 5000]
)
async def test_a_malformed_request_gets_a_code(shared: Engine, operation: str, payload: bytes) -> None:
    answer = await shared.call(operation, payload, 5)
    assert not answer["ok"]
    assert answer["code"] == ("SPEC_INVALID" if operation == "put-workflow" else "REQUEST_MALFORMED")
    assert answer["message"]


REFUSED: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "unknown-run": ("get", {"run_id": "nobody"}, {"RUN_UNKNOWN", "NOT_FOUND"}),
    "unknown-run-wait": ("wait", {"run_id": "nobody"}, {"RUN_UNKNOWN", "NOT_FOUND"}),
    "unknown-run-history": ("history", {"run_id": "nobody"}, {"RUN_UNKNOWN", "NOT_FOUND"}),
    "unknown-workflow": ("start", {"workflow": "nobody"}, {"WORKFLOW_UNKNOWN", "NOT_FOUND"}),
    "unknown-definition": ("get-workflow", {"name": "nobody"}, {"WORKFLOW_UNKNOWN", "NOT_FOUND"}),
    "workflow-name": ("start", {"workflow": "a.*"}, {"NAME_INVALID"}),
    "definition-name": ("get-workflow", {"name": "a.>"}, {"NAME_INVALID"}),
    "run-id-empty": ("get", {"run_id": ""}, {"RUN_ID_INVALID"}),
    "run-id-long": ("get", {"run_id": "x" * 129}, {"RUN_ID_INVALID"}),
    "start-run-id-long": (
        "start",
        {"workflow": "served-sum", "run_id": "x" * 129, "input": {"n": 1}},
        {"RUN_ID_INVALID"},
    ),
    "start-run-id-empty": (
        "start",
        {"workflow": "served-sum", "run_id": "", "input": {"n": 1}},
        {"RUN_ID_INVALID"},
    ),
    "input-type": ("start", {"workflow": "served-sum", "input": {"n": "x"}}, {"INPUT_INVALID"}),
    "input-list": ("start", {"workflow": "served-sum", "input": [1]}, {"INPUT_INVALID", "REQUEST_MALFORMED"}),
    "input-missing": ("start", {"workflow": "served-sum"}, {"INPUT_INVALID"}),
    "version": (
        "start",
        {"workflow": "served-sum", "version": 99, "input": {"n": 1}},
        {"WORKFLOW_UNKNOWN", "NOT_FOUND"},
    ),
    "version-0": ("get-workflow", {"name": "served-sum", "version": 0}, {"WORKFLOW_UNKNOWN", "NOT_FOUND"}),
    "result-unknown-run": (
        "result",
        {
            "run_id": "nobody",
            "result": {"task_id": "1-1", "by": {"worker": "w", "duration_ms": 1}, "output": 1},
        },
        {"RUN_UNKNOWN"},
    ),
    "negative-limit": (
        "history",
        {"run_id": "nobody", "limit": -1},
        {"REQUEST_MALFORMED", "RUN_UNKNOWN", "NOT_FOUND"},
    ),
    "spec-empty": ("put-workflow", {"spec": {}}, {"SPEC_INVALID", "REQUEST_MALFORMED"}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_wrong_request_gets_the_code_that_says_why(shared: Engine, case: str) -> None:
    await shared.registered(served_sum)
    operation, request, codes = REFUSED[case]
    answer = await shared.call(operation, request, 5)
    assert not answer["ok"]
    assert answer["code"] in codes, answer
    assert answer["message"]


async def test_an_unknown_operation_gets_a_code(shared: Engine) -> None:
    """`OPERATION_UNKNOWN` is one of the codes."""
    answer = await shared.call("no-such-operation", {}, 2)
    assert (answer["ok"], answer["code"]) == (False, "OPERATION_UNKNOWN")


@pytest.mark.parametrize("timeout", [-1, 1e300, float("nan")])
async def test_an_odd_timeout_is_refused_or_answered_at_once(shared: Engine, timeout: float) -> None:
    await shared.registered(served_sum)
    await shared.worker(app)
    await shared.call("start", {"workflow": "served-sum", "input": {"n": 1}, "run_id": "api-timeout"})
    answer = await shared.call("wait", {"run_id": "api-timeout", "timeout_s": timeout}, 5)
    assert "ok" in answer
