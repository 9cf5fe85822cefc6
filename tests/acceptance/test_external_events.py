"""External events through the public API: posted by the client, the command line and the micro service."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path

import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]
from tests.conftest import Start  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import App, Event, Masked, gather, workflow
from dressage.protocol.errors import BadValue, Refused

pytestmark = pytest.mark.anyio


class Kind(Enum):
    ONE = "one"


@dataclass
class Approval:
    ok: bool
    reason: str = ""


approved = Event("approved", of=Approval)
opened = Event("opened")
secret = Event("secret", of=Masked[str])
secret_kind = Event("secret", of=Masked[Kind])
app = App("events")


@app.task
def slowly(n: int) -> int:
    return n


@workflow
async def decided(order: str) -> str:
    approval = await approved.wait()
    return f"{order}: {approval.ok} {approval.reason}"


@workflow
async def both(order: str) -> list[str]:
    await opened.wait()
    first, second = await approved.wait(), await approved.wait()
    return [first.reason, second.reason]


@workflow
async def patient(seconds: float) -> str:
    try:
        approval = await approved.wait(timeout=timedelta(seconds=seconds))
    except TimeoutError as error:
        return f"late: {error}"
    return approval.reason


@workflow
async def side_by_side(n: int) -> list[str]:
    first, second, number = await gather(approved.wait(), approved.wait(), slowly(n))
    return [first.reason, second.reason, str(number)]


@workflow
async def hiding(order: str) -> Masked[str]:
    return await secret.wait()


async def waits_for(client: Client, run_id: str, what: str) -> None:
    async def fact() -> bool:
        return (await client.get(run_id)).waiting_for.startswith(what)

    await until(fact, f"run {run_id} waits for {what}")


async def test_a_run_goes_on_with_what_was_posted(sharded: Engine) -> None:
    client = await sharded.registered(decided)
    for number in range(6):
        handle = await client.start(decided, {"order": f"o-{number}"}, run_id=f"o-{number}")
        await waits_for(client, handle.run_id, "event approved")
        posted = await handle.post(approved, Approval(ok=True, reason="fine"))
        assert not posted.existing
        assert await handle.result(5) == f"o-{number}: True fine"


async def test_events_that_come_before_their_wait_count_in_their_order(sharded: Engine) -> None:
    client = await sharded.registered(both)
    for run_id in ("a", "b", "c"):
        handle = await client.start(both, {"order": "o"}, run_id=run_id)
        for reason in ("first", "second"):
            await client.post(run_id, approved, Approval(ok=True, reason=reason))
        await client.post(run_id, opened)
        assert await handle.result(5) == ["first", "second"]


async def test_the_same_event_id_counts_once_however_late(engine: Engine) -> None:
    client = await engine.registered(both)
    handle = await client.start(both, {"order": "o"}, run_id="r")
    await client.post("r", opened, event_id="open")
    for _ in range(3):
        await client.post("r", approved, Approval(ok=True, reason="one"), event_id="mail-1")
    await waits_for(client, "r", "event approved")
    other = await engine.client("somebody else")
    await other.post("r", "approved", {"ok": True, "reason": "two"}, event_id="mail-2")
    assert await handle.result(5) == ["one", "two"]
    assert (await client.post("r", approved, Approval(ok=True), event_id="mail-1")).existing
    with pytest.raises(Refused, match="RUN_FINISHED"):
        await client.post("r", approved, Approval(ok=True), event_id="mail-3")


async def test_a_timeout_ends_the_wait(sharded: Engine) -> None:
    client = await sharded.registered(patient)
    handles = [await client.start(patient, {"seconds": 0.3}, run_id=f"p-{n}") for n in range(4)]
    for handle in handles:
        assert await handle.result(5) == "late: event approved did not come within 0.3 s"


async def test_branches_get_one_event_each(engine: Engine) -> None:
    client = await engine.registered(side_by_side)
    async with engine.working(app):
        handle = await client.start(side_by_side, {"n": 5}, run_id="r")
        await waits_for(client, "r", "event approved, 2 times")
        await client.post("r", approved, Approval(ok=True, reason="a"))
        await client.post("r", approved, Approval(ok=True, reason="b"))
        assert await handle.result(5) == ["a", "b", "5"]


async def test_a_payload_of_another_type_is_refused_to_whoever_posts_it(engine: Engine) -> None:
    client = await engine.registered(decided)
    handle = await client.start(decided, {"order": "o"}, run_id="r")
    with pytest.raises(BadValue, match="event approved"):
        await client.post("r", approved, {"ok": "yes"})  # type: ignore[misc]
    with pytest.raises(Refused, match=r"payload of event 'approved': value\.ok: Expected bool, got str"):
        await client.post("r", "approved", {"ok": "yes"})
    with pytest.raises(Refused, match=r"EVENT_UNKNOWN.*it waits for approved"):
        await client.post("r", "opened")
    with pytest.raises(Refused, match="RUN_UNKNOWN"):
        await client.post("nobody", "unheard-of")
    with pytest.raises(BadValue, match="secret does not fit its type: Invalid enum value") as hidden:
        await client.post("r", secret_kind, "4711")  # type: ignore[misc]
    assert "4711" not in hidden.value.message
    await handle.post(approved, Approval(ok=False, reason="no"))
    assert await handle.result(5) == "o: False no"


async def test_an_event_meets_its_wait_across_a_restart(sharded: Engine) -> None:
    client = await sharded.registered(decided, both)
    waiting = await client.start(decided, {"order": "o"}, run_id="waiting")
    early = await client.start(both, {"order": "o"}, run_id="early")
    await client.post("early", approved, Approval(ok=True, reason="before"))
    await sharded.down()
    posts = [
        asyncio.create_task(client.post("waiting", approved, Approval(ok=True, reason="meanwhile"))),
        asyncio.create_task(client.post("early", approved, Approval(ok=True, reason="meanwhile"))),
    ]
    await asyncio.sleep(0.3)
    await sharded.up()
    await asyncio.gather(*posts)
    await client.post("early", opened)
    assert await waiting.result(10) == "o: True meanwhile"
    assert await early.result(10) == ["before", "meanwhile"]


async def test_the_history_tells_of_events_and_hides_what_is_masked(engine: Engine) -> None:
    client = await engine.registered(hiding)
    handle = await client.start(hiding, {"order": "o"}, run_id="r")
    await client.post("r", secret, "4711", event_id="e-1", actor="bank")
    assert await handle.result(5) == "4711"
    events = [event async for event in client.history("r")]
    told = {event.kind: msgspec.json.decode(event.data) for event in events}
    assert told["event-awaited"] == {"node": 0, "event": "secret"}
    assert told["event-posted"] == {"event": "secret", "event_id": "e-1", "payload": "***"}
    assert told["event-received"]["event_id"] == "e-1"
    assert "bank" in {event.actor for event in events if event.kind == "event-posted"}
    assert all(b"4711" not in bytes(event.data) for event in events)


async def test_the_micro_service_and_the_command_line_post(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    client = await engine.registered(decided)
    for run_id in ("api", "cli", "file"):
        await client.start(decided, {"order": run_id}, run_id=run_id)
    answer = await engine.call("post", {"run_id": "api", "event": "approved", "payload": {"ok": True}})
    assert answer["ok"]
    assert not answer["existing"]
    (tmp_path / "yes.json").write_text(json.dumps({"ok": True, "reason": "from a file"}))
    where = ("--server", engine.url, "--namespace", engine.namespace)
    for arguments in (("cli", "approved", '{"ok": true}'), ("file", "approved", "@yes.json", "--id", "x")):
        program = start("run", "post", *arguments, *where, cwd=tmp_path)
        assert await asyncio.to_thread(program.ended) == 0, program.said
    assert await client.handle("api").result(5) == "api: True "
    assert await client.handle("cli").result(5) == "cli: True "
    assert await client.handle("file").result(5) == "file: True from a file"
    early = start("run", "post", "nobody", "approved", '{"ok": true}', *where, cwd=tmp_path)
    assert await asyncio.to_thread(early.ended) == 0
    assert "run 'nobody' does not exist yet" in early.said
    refused = start("run", "post", "nobody", "unheard-of", "{}", *where, cwd=tmp_path)
    assert await asyncio.to_thread(refused.ended) == 1
    assert "RUN_UNKNOWN" in refused.said
