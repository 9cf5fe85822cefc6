"""Bad commands straight on a shard: an answer with a code, a counter, and the shard goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dressage.flow import App, workflow
from dressage.protocol.commands import StartRun, TaskResult, WorkerInfo, encoder
from dressage.protocol.names import run_token, shard_of

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine, Scraped  # pyright: ignore[reportMissingImports]

app = App("bad-commands")


@app.task
async def same(n: int) -> int:
    return n


@workflow
async def quick(n: int) -> int:
    return n


@workflow
async def tasked(n: int) -> int:
    return await same(n)


def ids_of_all_shards(shards: int) -> list[str]:
    """One run id for each shard."""
    found: dict[int, str] = {}
    n = 0
    while len(found) < shards:
        found.setdefault(shard_of(f"id-{n}", shards), f"id-{n}")
        n += 1
    return [found[shard] for shard in range(shards)]


def start(**changes: Any) -> bytes:
    """A good start of `quick`, with changes. The tag is what the protocol's own encoder writes."""
    good: dict[str, Any] = json.loads(
        encoder.encode(StartRun("quick", 1, msgspec.Raw(b'{"n":1}'), "c1", "me"))
    )
    return json.dumps({**good, **changes}).encode()


def result(task_id: str, **changes: Any) -> bytes:
    made = TaskResult(task_id, WorkerInfo("w", 1.0), msgspec.Raw(b"1"))
    return json.dumps({**json.loads(encoder.encode(made)), **changes}).encode()


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "not-json": b"hello",
    "half-json": start()[:-5],
    "no-tag": b'{"workflow": "quick"}',
    "unknown-tag": b'{"type": "format-disk", "kind": "format-disk"}',
    "array": b"[1,2,3]",
    "null": b"null",
    "not-utf-8": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
    "deep-object": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "version-as-text": start(version="1"),
    "nan": start(version=float("nan")),
    "no-command-id": json.dumps({k: v for k, v in json.loads(start()).items() if k != "command_id"}).encode(),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_command_is_answered_and_the_shard_goes_on(shared: Engine, case: str) -> None:
    client = await shared.registered(quick)
    answer = await shared.send_raw(f"malformed-{case}", MALFORMED[case])
    assert (answer["accepted"], answer["code"]) == (False, "COMMAND_MALFORMED")
    assert answer["message"]
    assert await (await client.start(quick, {"n": 1}, run_id=f"malformed-{case}")).result(5) == 1


WRONG: dict[str, tuple[bytes, set[str]]] = {
    "unknown-workflow": (start(workflow="nobody"), {"WORKFLOW_UNKNOWN"}),
    "wildcard-workflow": (start(workflow="*"), {"WORKFLOW_UNKNOWN", "NAME_INVALID"}),
    "dotted-workflow": (start(workflow="a.b"), {"WORKFLOW_UNKNOWN", "NAME_INVALID"}),
    "spaced-workflow": (start(workflow="a b\r\n"), {"WORKFLOW_UNKNOWN", "NAME_INVALID"}),
    "upper-workflow": (start(workflow="Quick"), {"WORKFLOW_UNKNOWN", "NAME_INVALID"}),
    "empty-workflow": (start(workflow=""), {"WORKFLOW_UNKNOWN", "NAME_INVALID"}),
    "unknown-version": (start(version=99), {"WORKFLOW_UNKNOWN"}),
    "version-0": (start(version=0), {"WORKFLOW_UNKNOWN", "COMMAND_MALFORMED"}),
    "negative-version": (start(version=-1), {"WORKFLOW_UNKNOWN", "COMMAND_MALFORMED"}),
    "huge-version": (start(version=2**70), {"WORKFLOW_UNKNOWN", "COMMAND_MALFORMED"}),
    "wrong-type": (start(input={"n": "x"}), {"INPUT_INVALID"}),
    "unknown-parameter": (start(input={"n": 1, "m": 1}), {"INPUT_INVALID"}),
    "missing-parameter": (start(input={}), {"INPUT_INVALID"}),
    "input-no-object": (start(input=[1]), {"INPUT_INVALID", "COMMAND_MALFORMED"}),
    "input-null": (start(input=None), {"INPUT_INVALID", "COMMAND_MALFORMED"}),
    "result-for-nobody": (result("1-1"), {"RUN_UNKNOWN"}),
    "result-empty-task-id": (result(""), {"RUN_UNKNOWN", "COMMAND_MALFORMED"}),
    "timer-for-nobody": (b'{"type":"timer-fired","timer_id":"1"}', {"RUN_UNKNOWN", "COMMAND_MALFORMED"}),
}


@pytest.mark.parametrize("case", WRONG)
async def test_a_wrong_command_is_refused_with_its_code_and_the_shard_goes_on(
    shared: Engine, case: str
) -> None:
    client = await shared.registered(quick)
    payload, codes = WRONG[case]
    answer = await shared.send_raw(f"wrong-{case}", payload)
    assert not answer["accepted"]
    assert answer["code"] in codes, answer
    assert answer["message"]
    assert await (await client.start(quick, {"n": 1}, run_id=f"wrong-{case}")).result(5) == 1


@pytest.mark.parametrize("token", ["=ZZ", "=", "a=", "=2f", "ä", "x" * 500, "=41"], ids=ascii)
async def test_a_subject_whose_token_is_no_run_id_is_refused_and_the_shard_goes_on(
    shared: Engine, token: str
) -> None:
    client = await shared.registered(quick)
    for shard in range(shared.shards):
        answer = await shared.send_to(shared.names.command(shard, token), start())
        assert not answer["accepted"]
        assert answer["code"] in {"RUN_ID_INVALID", "COMMAND_MALFORMED"}
    for run_id in ids_of_all_shards(shared.shards):
        assert await (await client.start(quick, {"n": 1}, run_id=run_id)).result(5) == 1


async def test_a_command_on_the_wrong_shard_never_makes_a_second_run(shared: Engine) -> None:
    client = await shared.registered(quick)
    right = shard_of("lost", shared.shards)
    wrong = (right + 1) % shared.shards
    answer = await shared.send_to(shared.names.command(wrong, run_token("lost")), start())
    handle = await client.start(quick, {"n": 1}, run_id="lost")
    assert not answer["accepted"] or handle.existing


async def test_a_result_for_a_finished_run_is_refused(shared: Engine) -> None:
    client = await shared.registered(tasked)
    await shared.worker(app)
    await (await client.start(tasked, {"n": 1}, run_id="over")).result(5)
    before = [event async for event in client.history("over")]
    answer = await shared.send_raw("over", result("1-1"))
    assert (answer["accepted"], answer["code"]) == (False, "RUN_FINISHED")
    assert len([event async for event in client.history("over")]) == len(before)


async def test_a_result_of_a_task_that_nobody_waits_for_is_stale(shared: Engine) -> None:
    client = await shared.registered(tasked)
    await client.start(tasked, {"n": 1}, run_id="stale")
    answer = await shared.send_raw("stale", result("99-99"))
    assert (answer["accepted"], answer["code"]) == (False, "RESULT_STALE")
    assert (await client.get("stale")).status == "running"
    await shared.worker(app)
    assert await client.handle("stale").result(5) == 1


async def open_task(engine: Engine, run_id: str) -> str:
    client = await engine.client()
    scheduled = [event async for event in client.history(run_id) if event.kind == "task-scheduled"]
    task_id: str = json.loads(bytes(scheduled[-1].data))["task_id"]
    return task_id


async def test_a_result_twice_is_applied_once(shared: Engine) -> None:
    client = await shared.registered(tasked)
    await client.start(tasked, {"n": 1}, run_id="twice")
    task_id = await open_task(shared, "twice")
    first = await shared.send_raw("twice", result(task_id, output=5))
    second = await shared.send_raw("twice", result(task_id, output=6))
    assert first["accepted"]
    assert second["code"] in {"RUN_FINISHED", "RESULT_STALE"}
    assert await client.handle("twice").result(5) == 5
    kinds = [event.kind async for event in client.history("twice")]
    assert kinds.count("task-completed") == 1


BAD_RESULTS: dict[str, dict[str, Any]] = {
    "wrong-type": {"output": "text"},
    "null-output": {"output": None},
    "output-and-failure": {"output": 1, "failure": {"name": "x"}},
    "failure-name": {"failure": {"name": "not a name.*"}},
    "empty-failure": {"failure": {"name": ""}},
}


@pytest.mark.parametrize("case", BAD_RESULTS)
async def test_a_result_that_makes_no_sense_is_refused_or_fails_its_run_by_name(
    shared: Engine, case: str
) -> None:
    client = await shared.registered(tasked, quick)
    await client.start(tasked, {"n": 1}, run_id=f"nonsense-{case}")
    payload = json.loads(result(await open_task(shared, f"nonsense-{case}")))
    payload.pop("output")
    answer = await shared.send_raw(f"nonsense-{case}", json.dumps({**payload, **BAD_RESULTS[case]}).encode())
    view = await client.get(f"nonsense-{case}", not_before=answer["seq"])
    if answer["accepted"]:
        assert view.status == "failed"
        assert view.failure is not None
        assert view.failure.name
    else:
        assert answer["code"] in {"RESULT_MALFORMED", "COMMAND_MALFORMED"}
        assert view.status == "running"
    assert await (await client.start(quick, {"n": 1}, run_id=f"after-nonsense-{case}")).result(5) == 1


async def test_a_result_without_output_failure_and_error_is_malformed_or_none(shared: Engine) -> None:
    client = await shared.registered(tasked)
    await client.start(tasked, {"n": 1}, run_id="hollow")
    payload = json.loads(result(await open_task(shared, "hollow")))
    payload.pop("output")
    answer = await shared.send_raw("hollow", json.dumps(payload).encode())
    assert not answer["accepted"]
    assert answer["code"] in {"RESULT_MALFORMED", "COMMAND_MALFORMED"}


async def test_a_bad_command_without_a_reply_header_stops_nothing(shared: Engine) -> None:
    client = await shared.registered(quick)
    stream = (await shared.nats()).jetstream()
    for shard in range(shared.shards):
        await stream.publish(shared.names.command(shard, "silent"), b"\x00garbage")
    for n, run_id in enumerate(ids_of_all_shards(shared.shards)):
        assert await (await client.start(quick, {"n": n}, run_id=f"silent-{n}-{run_id}")).result(5) == n


REPLIES = ["", " ", "a b", "a\tb", ">", "a..b", "x" * 3000, "größe"]


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: ascii(reply)[:12])
async def test_a_reply_header_that_is_no_subject_stops_nothing(engine: Engine, reply: str) -> None:
    client = await engine.registered(quick)
    stream = (await engine.nats()).jetstream()
    try:
        await stream.publish(engine.names.command(0, "r"), start(), headers={"Dressage-Reply": reply})
        handle = await client.start(quick, {"n": 1}, run_id="r", timeout_s=4)
        assert await handle.result(3) == 1
    finally:
        crash = engine.crash()
    assert crash is None


async def test_bad_commands_are_counted_by_code_and_all_shards_go_on(scraped: Scraped) -> None:
    engine = scraped.engine
    client = await engine.registered(quick)
    ids = ids_of_all_shards(engine.shards)
    for run_id in ids:
        await engine.send_raw(run_id, b"{")
        await engine.send_raw(run_id, start(workflow="nobody"))
        await engine.send_raw(run_id, start(input={"n": "x"}))
        await engine.send_raw(run_id, result("1-1"))
        assert await (await client.start(quick, {"n": 1}, run_id=run_id)).result(5) == 1
        await engine.send_raw(run_id, start(input={"n": 2}, command_id="c2"))
        await engine.send_raw(run_id, result("1-1"))
    for code in (
        *("COMMAND_MALFORMED", "WORKFLOW_UNKNOWN", "INPUT_INVALID"),
        *("RUN_UNKNOWN", "RUN_ID_CONFLICT", "RUN_FINISHED"),
    ):
        assert scraped.value(f'dressage_commands_total{{outcome="{code}"}}') == engine.shards, code
    assert scraped.value('dressage_runs_total{status="completed",workflow="quick"}') == engine.shards
    assert scraped.value("dressage_engine_faults_total") == 0


async def test_bad_requests_are_counted_by_operation_and_code(scraped: Scraped) -> None:
    engine = scraped.engine
    await engine.call("start", b"{")
    await engine.call("put-workflow", {"spec": {"format": 1}})
    await engine.call("get", {"run_id": "nobody"})
    assert scraped.value('dressage_api_requests_total{code="REQUEST_MALFORMED",op="start"}') == 1
    unknown = sum(
        scraped.value(f'dressage_api_requests_total{{code="{code}",op="get"}}')
        for code in ("RUN_UNKNOWN", "NOT_FOUND")
    )
    assert unknown == 1
