"""What is too large, too deep or wrongly named is refused to whoever sent it, and its shard goes on with the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import nats.errors
import pytest

from dressage.client import RunFailed
from dressage.flow import App, Event, Limits, Searchable, sleep, workflow
from dressage.orchestrator.fold.limits import STATE_BYTES_MAX
from dressage.protocol.commands import StartRun, TaskResult, WorkerInfo, encoder
from dressage.protocol.errors import BadInput, BadSpec, DressageError, Refused
from dressage.protocol.names import ACTOR_CHARS_MAX, REPLY_CHARS_MAX, Names
from dressage.protocol.spec import LIMITS_MAX
from dressage.protocol.spec_sizes import SPEC_BYTES_MAX
from dressage.worker import Worker, WorkerConfig

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

app = App("limits")


@app.task
async def large(size: int) -> str:
    return "x" * size


@app.task
async def given(text: str) -> int:
    return len(text)


@workflow
async def fetching(size: int) -> int:
    text = await large(size)
    return len(text)


@workflow(limits=Limits(value_bytes=LIMITS_MAX.value_bytes, variables_bytes=LIMITS_MAX.variables_bytes))
async def roomy(text: str) -> int:
    """As much as a run may hold: its input twice, and the arguments of a call."""
    return await given(text)


@workflow
async def same(text: str) -> str:
    return text


@workflow
async def quick(n: int) -> int:
    return n


@dataclass
class Shown:
    text: Searchable[str] = ""


@workflow(name="shown", limits=Limits(variables_bytes=LIMITS_MAX.variables_bytes))
async def shown(size: int) -> int:
    view = Shown()
    view.text = "x" * size
    await sleep(3600)
    return len(view.text)


@workflow
async def chatty(n: int) -> int:
    text = "x" * 200_000
    while n > 0:
        text = "y" + text
        n = n - 1
    return len(text)


@workflow
async def burning(n: int) -> int:
    """Looks like work and never ends; each round costs more than the last."""
    items = [0]
    while True:
        items = items + [n]  # noqa: RUF005 - what the language can say


@workflow
async def pausing(n: int) -> int:
    await sleep(0.2)
    return n


heard = Event("heard", of=int)


@workflow
async def deaf(seconds: int) -> int:
    """Hears nothing for a long time."""
    await sleep(seconds)
    return await heard.wait()


async def goes_on(engine: Engine) -> None:
    client = await engine.registered(quick)
    assert await (await client.start(quick, {"n": 7})).result(5) == 7


# -- values ----------------------------------------------------------------------------------------
async def test_an_input_between_its_limit_and_the_messages_is_refused_by_name(shared: Engine) -> None:
    client = await shared.registered(same)
    with pytest.raises(Refused, match=r"262\d+ bytes of 262144 allowed") as caught:
        await client.start(same, {"text": "x" * 262_140})
    assert caught.value.code == "INPUT_INVALID"
    assert "limit input-size" in caught.value.message
    await goes_on(shared)


@pytest.mark.parametrize("size", [300_000, 900_000, 1_048_000, 1_100_000, 3_000_000])
async def test_a_result_too_large_fails_its_run_by_name(engine: Engine, size: int) -> None:
    client = await engine.registered(fetching)
    await engine.worker(app)
    with pytest.raises(RunFailed) as caught:
        await (await client.start(fetching, {"size": size})).result(15)
    assert caught.value.failure.name == "result-size"
    assert caught.value.failure.kind == "limit"
    await goes_on(engine)


async def test_the_largest_state_is_stored_and_read_back(engine: Engine) -> None:
    client = await engine.registered(roomy)
    size = (STATE_BYTES_MAX - 1000) // 3
    handle = await client.start(roomy, {"text": "x" * size}, run_id="roomy")
    assert (await client.get("roomy")).status == "running"
    await engine.down()
    await engine.up()
    async with engine.working(app):
        assert await handle.result(15) == size


async def test_events_with_long_ids_are_refused_before_the_state_is_no_message_any_more(
    engine: Engine,
) -> None:
    client = await engine.registered(deaf)
    await client.start(deaf, {"seconds": 3600}, run_id="deaf")

    async def post(number: int) -> str:
        try:
            await client.post("deaf", heard, number, event_id=f"{number:04d}".ljust(ACTOR_CHARS_MAX, "\x01"))
        except Refused as refused:
            return refused.code
        return ""

    codes = [
        code for _ in range(4) for code in await asyncio.gather(*(post(number) for number in range(400)))
    ]
    assert set(codes) == {"", "EVENTS_FULL"}
    await engine.down()
    await engine.up()
    assert (await client.get("deaf")).status == "running"
    await goes_on(engine)


@pytest.mark.limit("orchestrator.service.PAYLOAD_BYTES_MIN")
async def test_a_start_that_is_no_message_is_refused_by_name(shared: Engine) -> None:
    client = await shared.registered(same)
    most = client.connection.payload_bytes_max
    with pytest.raises(BadInput, match=rf"max_payload of {most}: .*\(limit payload-size\)$") as caught:
        await client.start(same, {"text": "x" * most})
    assert caught.value.code == "PAYLOAD_TOO_LARGE"
    await goes_on(shared)


async def test_an_answer_that_does_not_fit_is_told_to_who_asked(engine: Engine) -> None:
    client = await engine.registered(shown)
    await client.start(shown, {"size": 550_000}, run_id="wide")
    with pytest.raises(Refused) as caught:
        await client.get("wide")
    assert caught.value.code == "PAYLOAD_TOO_LARGE"
    answer = await engine.call("get", {"run_id": "wide"})
    assert (answer["ok"], answer["code"]) == (False, "PAYLOAD_TOO_LARGE")
    await goes_on(engine)


async def test_a_history_that_does_not_fit_can_be_read_in_parts(engine: Engine) -> None:
    client = await engine.registered(chatty)
    await (await client.start(chatty, {"n": 10}, run_id="chatty")).result(5)
    answer = await engine.call("history", {"run_id": "chatty"})
    assert (answer["ok"], answer["code"]) == (False, "PAYLOAD_TOO_LARGE")
    assert "ask for less" in answer["message"]
    first = await engine.call("history", {"run_id": "chatty", "limit": 2})
    assert [event["index"] for event in first["events"]] == [0, 1]


async def test_a_request_with_an_input_too_large_is_answered(engine: Engine) -> None:
    await engine.registered(same)
    for size in (300_000, 1_000_000, 1_048_400):
        answer = await engine.call("start", {"workflow": "same", "input": {"text": "x" * size}})
        assert not answer["ok"]
        assert answer["code"] in {"INPUT_INVALID", "PAYLOAD_TOO_LARGE"}
    await goes_on(engine)


async def test_a_spec_too_large_is_refused_at_registration(engine: Engine) -> None:
    client = await engine.client()
    huge = msgspec.structs.replace(quick.spec, source="#" * SPEC_BYTES_MAX)
    with pytest.raises(BadSpec, match="limit spec-size"):
        await client.register(huge)
    request = b'{"spec":%b}' % huge.encode()
    answer = await engine.call("put-workflow", request)
    assert (answer["ok"], answer["code"]) == (False, "SPEC_INVALID")
    assert "limit spec-size" in answer["message"]
    fits = msgspec.structs.replace(quick.spec, source="#" * (SPEC_BYTES_MAX - len(quick.spec.encode())))
    await client.register(fits)
    assert await (await client.start(quick, {"n": 1})).result(5) == 1


async def test_what_was_too_large_leaves_the_engine_without_a_fault(engine: Engine) -> None:
    client = await engine.registered(fetching, same)
    await engine.worker(app)
    for size in (250_000, 262_000, 262_150):
        await client.start(fetching, {"size": size}, run_id=f"size-{size}")
        view = await client.wait(f"size-{size}", timeout_s=15)
        assert view.status in {"completed", "failed"}
        if view.failure is not None:
            assert view.failure.kind == "limit"
    assert engine.crash() is None


# -- budgets ---------------------------------------------------------------------------------------
async def test_another_run_of_the_shard_ends_beside_those_that_burn(engine: Engine) -> None:
    client = await engine.registered(burning, pausing)
    burns = [asyncio.create_task(client.start(burning, {"n": n}, run_id=f"burn-{n}")) for n in range(5)]
    assert await (await client.start(pausing, {"n": 3})).result(10) == 3
    for burn in burns:
        with pytest.raises(RunFailed) as caught:
            await (await burn).result(10)
        assert caught.value.failure.name in {"work-per-command", "steps-per-command"}
    assert engine.crash() is None


async def stored_unseen(engine: Engine, name: str, version: int, data: bytes) -> None:
    """Puts a version into the bucket as nobody should: past every check."""
    stream = (await engine.nats()).jetstream()
    await stream.publish(engine.names.workflow_version_key(name, version), data)


def by_hand(**parts: Any) -> bytes:
    spec = {
        "format": 1,
        "name": "by-hand",
        "params": [],
        "output": {"kind": "scalar", "name": "any"},
        "nodes": [{"kind": "return"}],
    }
    return json.dumps({"spec": spec | parts, "version": 1, "digest": "d"}).encode()


UNUSABLE: dict[str, bytes] = {
    "no JSON": b"hello",
    "no UTF-8": b'{"spec":"\xff"}',
    "deep": b'{"spec":' * 100_000,
    "a next out of range": by_hand(
        nodes=[{"kind": "sleep", "duration": {"op": "const", "value": 1}, "next": 9}]
    ),
    "an entry out of range": by_hand(entry=10**30),
    "another name": by_hand(name="another"),
    "no name at all": by_hand(name="a.*"),
    "an unknown node": by_hand(nodes=[{"kind": "exec"}]),
    "an unknown member": by_hand(priority=1),
    "a member twice": by_hand().replace(b'"name"', b'"name":"x","name"', 1),
    "Infinity": by_hand(first_line=7).replace(b"7", b"Infinity"),
    "too many nodes": by_hand(nodes=[{"kind": "return"}] * 10_001),
    "limits that nobody grants": by_hand(limits={"history_events": 10**12}),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_a_version_that_nobody_checked_is_refused_by_the_owner(shared: Engine, case: str) -> None:
    name = "by-hand"
    version = 1 + list(UNUSABLE).index(case)
    data = UNUSABLE[case].replace(b'"version": 1', b'"version": %d' % version)
    await stored_unseen(shared, name, version, data)
    start = encoder.encode(StartRun(name, version, msgspec.Raw(b"{}"), "c"))
    for _ in range(2):
        answer = await shared.send_raw(f"by-hand-{version}", start)
        assert (answer["accepted"], answer["code"]) == (False, "SPEC_INVALID")
        assert answer["message"]
    await goes_on(shared)


# -- names, ids, subjects --------------------------------------------------------------------------
LONG_ACTOR = "é" * ACTOR_CHARS_MAX


async def test_an_actor_is_text_of_a_bounded_length(shared: Engine) -> None:
    client = await shared.registered(quick)
    strange = "a.b *>\r\n\x00\u202e" + "é" * 500
    for run_id, actor in [("actor-long", LONG_ACTOR), ("actor-strange", strange)]:
        await client.start(quick, {"n": 1}, run_id=run_id, actor=actor)
        assert (await client.get(run_id)).actor == actor
        assert {event.actor async for event in client.history(run_id)} == {actor}
    for wrong in (LONG_ACTOR + "é", "\ud800"):
        with pytest.raises(BadInput) as caught:
            await client.start(quick, {"n": 1}, actor=wrong)
        assert caught.value.code == "ACTOR_INVALID"
        with pytest.raises(BadInput):
            await client.cancel("actor-long", actor=wrong)


async def test_ids_and_actors_without_end_are_refused_by_the_owner(shared: Engine) -> None:
    """Each event and the state repeat them, so a megabyte of one would fit nowhere."""
    await shared.registered(quick)
    for changed in ({"actor": "a" * 600_000}, {"command_id": "c" * 600_000}):
        start = (
            json.loads(encoder.encode(StartRun("quick", 1, msgspec.Raw(b'{"n":1}'), "c1", "me"))) | changed
        )
        answer = await shared.send_raw("endless-id", json.dumps(start).encode())
        assert (answer["accepted"], answer["code"]) == (False, "COMMAND_MALFORMED")
    result = json.loads(encoder.encode(TaskResult("t", WorkerInfo("w" * 600_000, 1.0), msgspec.Raw(b"1"))))
    answer = await shared.send_raw("endless-id", json.dumps(result).encode())
    assert answer["code"] == "COMMAND_MALFORMED"
    await goes_on(shared)


def test_a_worker_identity_without_end_is_refused() -> None:
    with pytest.raises(BadInput, match="worker identity"):
        Worker("nats://127.0.0.1:1", app, WorkerConfig(identity="w" * (ACTOR_CHARS_MAX + 1)))


@pytest.mark.parametrize("name", ["a.b", "*", ">", "a b", "a\r\n", "", "Ä", "a" * 64, "a\u202eb", "a\x00"])
async def test_names_outside_the_rule_reach_no_subject(shared: Engine, name: str) -> None:
    for make in (
        lambda: Names(name),
        lambda: App(name),
        lambda: workflow(name=name)(quick.function),
    ):
        with pytest.raises(DressageError) as caught:
            make()
        assert caught.value.code == "NAME_INVALID"
    client = await shared.client()
    for spec in (
        msgspec.structs.replace(quick.spec, name=name),
        msgspec.structs.replace(
            fetching.spec,
            tasks=tuple(msgspec.structs.replace(task, queue=name) for task in fetching.spec.tasks),
        ),
    ):
        with pytest.raises(BadInput) as refused:
            await client.register(spec)
        assert refused.value.code == "NAME_INVALID"
        answer = await shared.call("put-workflow", b'{"spec":%b}' % spec.encode())
        assert not answer["ok"]
        assert answer["code"] in {"NAME_INVALID", "SPEC_INVALID"}
    for operation in ("get-workflow", "start"):
        key = "name" if operation == "get-workflow" else "workflow"
        answer = await shared.call(operation, {key: name})
        assert (answer["ok"], answer["code"]) == (False, "NAME_INVALID")


async def test_an_answer_goes_nowhere_but_to_a_subject_of_the_senders(engine: Engine) -> None:
    """A sender names the subject; it must not make the engine publish where only the engine may."""
    client = await engine.registered(quick)
    connection = await engine.nats()
    stream = connection.jetstream()
    shard, names = engine.names.shard_stream(0), engine.names
    start = encoder.encode(StartRun("quick", 1, msgspec.Raw(b'{"n":1}'), "c"))
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    await connection.subscribe("answers.>", cb=hear)
    wrong = [
        *("$JS.API.STREAM.PURGE." + shard, "$SYS.REQ.SERVER.PING", "$KV.bucket.key"),
        *(names.command(0, "other"), names.cursor(0), "dressage.other.0.cmd.x"),
        *("answers.*", "answers.>", "answers..x", ".answers", "answers.", "answers x", "answers\tx"),
        "answers." + "x" * REPLY_CHARS_MAX,
    ]
    seq = 0
    for number, reply in enumerate([*wrong, "answers.ok"]):
        headers = {"Dressage-Reply": reply}
        seq = (await stream.publish(names.command(0, f"told-{number}"), start, headers=headers)).seq
        with contextlib.suppress(nats.errors.BadSubjectError):
            await connection.publish(names.ask(0), b'{"op":"get","run_id":"told-0"}', reply=reply)
    last = await client.wait(f"told-{len(wrong)}", timeout_s=5, not_before=seq)
    assert last.status == "completed"
    await connection.flush()
    deadline = asyncio.get_running_loop().time() + 5
    while not heard:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.02)
    assert set(heard) == {"answers.ok"}
    found = await connection.jetstream().get_last_msg(shard, names.cursor(0))
    assert json.loads(found.data or b"")["seq"] > 0
    with pytest.raises(DressageError):
        await client.get("other")
    await goes_on(engine)
