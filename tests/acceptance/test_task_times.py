"""Tasks that take too long, tell how far they have come, and go on from there; on a real server, in real workers."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import until  # pyright: ignore[reportMissingImports]

from dressage.client import Client, RunFailed
from dressage.flow import (
    App,
    Exponential,
    TaskError,
    TaskTimeout,
    first_completed,
    sleep,
    task,
    workflow,
)
from dressage.protocol.errors import BadInput, BadValue
from dressage.protocol.names import shard_of
from dressage.worker import TaskLog, current_task

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

FAST = Exponential(base=timedelta(milliseconds=10))
app = App("timed")
calls: list[Any] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    calls.clear()


# -- how long an attempt may take -----------------------------------------------------------------------
@app.task(timeout=timedelta(milliseconds=200), retries=1, backoff=FAST)
async def slow_first(n: int) -> int:
    try:
        await asyncio.sleep(60 if current_task().attempt == 1 else 0)
    except asyncio.CancelledError:
        calls.append(("cancelled", current_task().stopped))
        raise
    return n + 1


@workflow
async def once_more(n: int) -> int:
    return await slow_first(n)


async def test_an_attempt_that_takes_too_long_is_cancelled_and_made_again(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(once_more)
    assert await (await client.start(once_more, {"n": 1})).result(15) == 2
    assert calls == [("cancelled", "the handler has taken more than 0.2 s")]


@workflow
async def never_done(n: int) -> str:
    try:
        return str(await slow_first.options(retries=0)(n))
    except TimeoutError as error:
        return str(error)


async def test_what_took_too_long_is_a_timeout(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(never_done)
    said = await (await client.start(never_done, {"n": 1})).result(15)
    assert said == "the handler has taken more than 0.2 s (task slow-first, attempt 1 of 1)"


@workflow
async def not_caught(n: int) -> int:
    return await slow_first.options(retries=0)(n)


async def test_a_run_may_fail_with_it(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(not_caught)
    handle = await client.start(not_caught, {"n": 1})
    with pytest.raises(RunFailed, match="taken more than"):
        await handle.result(15)
    failure = (await client.get(handle.run_id)).failure
    assert failure is not None
    assert (failure.name, failure.kind) == ("attempt-timeout", "timeout")


@app.task(timeout=timedelta(milliseconds=200))
def busy(n: int) -> int:
    while not current_task().stopped:
        time.sleep(0.01)
    calls.append(current_task().stopped)
    return n


@workflow
async def busy_once(n: int) -> str:
    try:
        return str(await busy(n))
    except TaskTimeout:
        return "late"


async def test_a_plain_handler_that_ends_when_it_is_asked_to_has_done_its_work(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(busy_once)
    assert await (await client.start(busy_once, {"n": 7})).result(15) == "7"


@app.task(timeout=timedelta(milliseconds=200))
def deaf(seconds: float) -> int:
    time.sleep(seconds)
    calls.append("ended")
    return 0


@workflow
async def deaf_once(seconds: float) -> str:
    try:
        return str(await deaf(seconds))
    except TaskTimeout:
        return "late"


async def test_a_plain_handler_that_goes_on_keeps_its_place_in_the_worker(shared: Engine) -> None:
    """Or else those behind it would wait for a thread while their time passes."""
    await shared.worker(app, concurrency=1)
    client = await shared.registered(deaf_once, once_more)
    deaf_run = await client.start(deaf_once, {"seconds": 2.5})
    assert await deaf_run.result(15) == "late"
    assert calls == []
    assert await (await client.start(once_more, {"n": 1})).result(15) == 2
    assert calls[0] == "ended"


@app.task(timeout=timedelta(seconds=5))
async def exiting(n: int) -> int:
    sys.exit(n)


@workflow
async def exits(n: int) -> str:
    try:
        return str(await exiting(n))
    except TaskError as error:
        return str(error)


async def test_a_handler_that_exits_ends_itself_alone(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(exits)
    assert "attempt 1 of 1" in await (await client.start(exits, {"n": 3})).result(15)
    assert "attempt 1 of 1" in await (await client.start(exits, {"n": 4})).result(15)


@app.task
async def cancels_itself(n: int) -> int:
    raise asyncio.CancelledError


@workflow
async def self_cancelled(n: int) -> str:
    try:
        return str(await cancels_itself(n))
    except TaskError as error:
        return str(error)


async def test_a_handler_that_cancels_itself_has_failed(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(self_cancelled)
    assert "cancelled itself" in await (await client.start(self_cancelled, {"n": 3})).result(15)


# -- signs of life --------------------------------------------------------------------------------------
@app.task(heartbeat=timedelta(milliseconds=300))
async def beating(beats: int) -> int:
    for _ in range(beats):
        await asyncio.sleep(0.1)
        current_task().heartbeat()
    await asyncio.sleep(0 if beats else 60)
    return beats


@workflow
async def alive(beats: int) -> str:
    try:
        return str(await beating(beats))
    except TaskTimeout as error:
        return str(error)


async def test_a_handler_may_take_long_as_long_as_it_gives_signs_of_life(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(alive)
    assert await (await client.start(alive, {"beats": 8})).result(15) == "8"
    said = await (await client.start(alive, {"beats": 0})).result(15)
    assert said == "the handler was silent for 0.3 s (task beating, attempt 1 of 1)"


@app.task(heartbeat=timedelta(seconds=30))
def telling(n: int) -> int:
    for done in range(n):
        current_task().heartbeat({"done": done})
    deadline = time.monotonic() + 10
    while not calls and time.monotonic() < deadline:
        time.sleep(0.01)
    return n


@workflow
async def told(n: int) -> int:
    return await telling(n)


async def test_readers_see_how_far_a_task_has_come(sharded: Engine) -> None:
    await sharded.worker(app, identity="jane")
    client = await sharded.registered(told)
    handle = await client.start(told, {"n": 1000})

    async def seen() -> bool:
        said = (await client.get(handle.run_id)).waiting_for
        return said == 'task telling (attempt 1) with worker jane, which has come to {"done":999}'

    await until(seen, "the last progress is told")
    calls.append("go on")
    assert await handle.result(15) == 1000
    kinds = [event.kind async for event in client.history(handle.run_id)]
    assert kinds == ["run-started", "task-scheduled", "task-started", "task-completed", "run-completed"]


# -- the call as a whole --------------------------------------------------------------------------------
@app.task(retries=9, backoff=Exponential(base=timedelta(milliseconds=50), factor=200.0))
async def failing(n: int) -> int:
    calls.append(n)
    raise OSError("down")


@workflow
async def given_up(n: int) -> str:
    try:
        return str(await failing.options(deadline=timedelta(seconds=4))(n))
    except TaskError as error:
        return str(error)


async def test_no_attempt_is_made_behind_the_deadline(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(given_up)
    said = await (await client.start(given_up, {"n": 1})).result(15)
    assert said == "down (task failing, attempt 2 of 10)"


@app.task(deadline=timedelta(milliseconds=300))
async def stuck(n: int) -> int:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        calls.append(("cancelled", current_task().stopped))
        raise
    return n


@workflow
async def unstuck(n: int) -> str:
    try:
        return str(await stuck(n))
    except TimeoutError as error:
        return str(error)


async def test_a_deadline_ends_the_call_and_its_handler_is_cancelled(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(unstuck)
    handle = await client.start(unstuck, {"n": 1})
    assert await handle.result(15) == "task stuck was not done in 0.3 s (attempt 1)"
    await until(lambda: bool(calls), "the handler is cancelled")
    assert calls == [("cancelled", f"run {handle.run_id} does not wait for it any more")]


@task(queue="nobody", start_timeout=timedelta(milliseconds=300), retries=5)
async def untaken(n: int) -> int:
    raise NotImplementedError


@workflow
async def unserved(n: int) -> str:
    try:
        return str(await untaken(n))
    except TaskTimeout as error:
        return str(error)


async def test_an_attempt_that_no_worker_takes_in_time_fails(sharded: Engine) -> None:
    client = await sharded.registered(unserved)
    said = await (await client.start(unserved, {"n": 1})).result(15)
    assert said == "no worker has taken task untaken from queue nobody in 0.3 s (attempt 1)"
    # Whoever comes late to it does not execute it.
    late = App("nobody")

    @late.handles(untaken)
    async def take(n: int) -> int:
        calls.append(n)
        return n

    await sharded.worker(late)
    handle = await client.start(unserved, {"n": 2})
    assert await handle.result(15) == "2"
    assert calls == [2]
    kinds = [event.kind async for event in client.history(handle.run_id)]
    assert kinds == ["run-started", "task-scheduled", "task-started", "task-completed", "run-completed"]


# -- what is not tried again ----------------------------------------------------------------------------
class Broken(ValueError): ...


@app.task(retries=3, backoff=FAST, not_retried=(ValueError,))
async def breaking(kind: str) -> str:
    calls.append(kind)
    if kind == "derived":
        raise Broken("for good")
    if kind == "itself":
        raise ValueError("for good")
    if len(calls) == 1:
        raise OSError("for now")
    return kind


@workflow
async def broken(kind: str) -> str:
    try:
        return await breaking(kind)
    except TaskError as error:
        return str(error)


@pytest.mark.parametrize(("kind", "attempts"), [("derived", 1), ("itself", 1), ("other", 2)])
async def test_an_error_of_a_named_class_is_not_retried(shared: Engine, kind: str, attempts: int) -> None:
    await shared.worker(app)
    client = await shared.registered(broken)
    said = await (await client.start(broken, {"kind": kind})).result(15)
    assert said == ("other" if kind == "other" else "for good (task breaking, attempt 1 of 4)")
    assert len(calls) == attempts


# -- going on from where it was -------------------------------------------------------------------------
@dataclass
class Row:
    done: int
    total: int


@app.task(retries=2, backoff=FAST)
async def importing(rows: int) -> int:
    found = current_task().resumed(Row)
    first = 0 if found is None else found.done
    for number in range(first, rows):
        calls.append(number)
        await current_task().checkpoint(Row(number + 1, number + 1))
        if number == 2 and current_task().attempt == 1:
            raise OSError("the file is locked")
    return rows


@workflow
async def imported(rows: int) -> int:
    return await importing(rows)


async def test_a_retry_goes_on_from_the_last_checkpoint(sharded: Engine) -> None:
    await sharded.worker(app)
    client = await sharded.registered(imported)
    assert await (await client.start(imported, {"rows": 5})).result(15) == 5
    assert calls == [0, 1, 2, 3, 4]


@app.task
def importing_in_a_thread(rows: int) -> int:
    first = current_task().resumed(int) or 0
    for number in range(first, rows):
        calls.append((current_task().task_id, number))
        current_task().checkpoint_blocking(number + 1)
        while number == 2 and first == 0:  # The first worker comes no further.
            time.sleep(0.01)
            current_task().heartbeat()
    return rows


@workflow
async def imported_in_a_thread(rows: int) -> int:
    return await importing_in_a_thread(rows)


async def test_another_worker_goes_on_from_the_last_checkpoint_of_a_lost_one(sharded: Engine) -> None:
    client = await sharded.registered(imported_in_a_thread)
    async with sharded.working(app, drain_s=0.1):
        handle = await client.start(imported_in_a_thread, {"rows": 5})
        await until(lambda: len(calls) == 3, "three rows are done")
        await asyncio.sleep(0.2)
    await sharded.worker(app)
    assert await handle.result(30) == 5
    assert [number for _, number in calls] == [0, 1, 2, 3, 4]
    assert len({task_id for task_id, _ in calls}) == 1, "it was the same attempt"


@app.task
async def too_much(n: int) -> str:
    try:
        await current_task().checkpoint("x" * n)
    except BadValue as error:
        return str(error)
    return "kept"


@workflow
async def kept(n: int) -> str:
    return await too_much(n)


async def test_progress_has_its_limit(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(kept)
    assert await (await client.start(kept, {"n": 16_382})).result(15) == "kept"
    assert "limit progress-size" in await (await client.start(kept, {"n": 16_383})).result(15)


@app.task
async def blocks(n: int) -> str:
    try:
        current_task().checkpoint_blocking(n)
    except BadInput as error:
        return error.code
    return "blocked"


@workflow
async def blocked(n: int) -> str:
    return await blocks(n)


async def test_an_async_handler_cannot_block_its_worker_by_a_checkpoint(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(blocked)
    assert await (await client.start(blocked, {"n": 1})).result(15) == "CHECKPOINT_BLOCKS"


@app.task
def with_a_loop_of_its_own(n: int) -> int:
    async def inside() -> int:
        await current_task().checkpoint(n)
        return n

    return asyncio.run(inside())


@workflow
async def looping(n: int) -> int:
    return await with_a_loop_of_its_own(n)


async def test_a_plain_handler_may_have_a_loop_of_its_own(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(looping)
    assert await (await client.start(looping, {"n": 4})).result(15) == 4


@app.task
async def overtaken(n: int) -> int:
    calls.append("begun")
    try:
        while True:
            await asyncio.sleep(0.05)
            await current_task().checkpoint(n)
    except asyncio.CancelledError:
        calls.append(current_task().stopped)
        raise


@workflow
async def overtakes(n: int) -> int:
    return await overtaken(n)


async def test_a_worker_stops_when_another_one_has_begun_its_attempt_and_leaves_it_there(
    sharded: Engine,
) -> None:
    client = await sharded.registered(overtakes)
    async with sharded.working(app, identity="a"):
        handle = await client.start(overtakes, {"n": 4})
        await until(lambda: calls == ["begun"], "the handler has begun")
        task_id = next(
            [
                json.loads(bytes(event.data))["task_id"]
                async for event in client.history(handle.run_id)
                if event.kind == "task-scheduled"
            ].__iter__()
        )
        begins = {"type": "attempt-progress", "task_id": task_id, "worker": "b", "begins": True}
        assert (await sharded.send_raw(handle.run_id, json.dumps(begins).encode()))["accepted"]
        await until(lambda: len(calls) == 2, "the handler is cancelled")
        assert calls[1] == "another worker has begun it anew"
        nats = await sharded.nats()
        stream = sharded.names.shard_stream(shard_of(handle.run_id, sharded.shards))
        info = await nats.jetstream().consumer_info(stream, sharded.names.task_consumer("timed"))
        assert info.num_ack_pending == 1, "it is the other one's to acknowledge"
    assert (await client.get(handle.run_id)).status == "running"


# -- what it logs ---------------------------------------------------------------------------------------
logged = App("logging", version="1.4.0")
logger = logging.getLogger("logged")
logger.addHandler(TaskLog())


@logged.task(retries=1, backoff=FAST)
def chatty(lines: int) -> int:
    for number in range(lines):
        current_task().log(f"line {number}")
    logger.warning("%d lines", lines)
    if current_task().attempt == 1:
        raise OSError("down")
    return lines


@workflow
async def chats(lines: int) -> int:
    return await chatty(lines)


async def test_the_history_has_what_each_attempt_has_logged(shared: Engine) -> None:
    await shared.worker(logged)
    logger.warning("nobody's")
    client = await shared.registered(chats)
    handle = await client.start(chats, {"lines": 2})
    assert await handle.result(15) == 2
    ends = [
        json.loads(bytes(event.data))
        async for event in client.history(handle.run_id)
        if event.kind in ("task-failed", "task-completed")
    ]
    assert [(data["build"], data["log"]) for data in ends] == 2 * [("1.4.0", "line 0\nline 1\n2 lines")]


@logged.task
def odd(n: int) -> int:
    current_task().log("caf\udce9")
    current_task().log(b"bytes")
    logger.warning("%d", "no number")
    if n:
        raise OSError("caf\udce9 is locked")
    return n


@workflow
async def oddly(n: int) -> str:
    try:
        return str(await odd(n))
    except TaskError as error:
        return str(error)


async def test_what_is_no_text_can_be_logged_and_raised(
    shared: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    await shared.worker(logged)
    client = await shared.registered(oddly)
    assert await (await client.start(oddly, {"n": 0})).result(15) == "0"
    assert "caf? is locked" in await (await client.start(oddly, {"n": 1})).result(15)


async def test_of_a_long_log_the_end_is_kept(shared: Engine) -> None:
    await shared.worker(logged)
    client = await shared.registered(chats)
    handle = await client.start(chats, {"lines": 5_000})
    await handle.result(15)
    (log,) = [
        json.loads(bytes(event.data))["log"]
        async for event in client.history(handle.run_id)
        if event.kind == "task-completed"
    ]
    assert log.endswith("\nline 4999\n5000 lines")
    assert 7_000 < len(log) <= 8_000


# -- what nobody waits for ------------------------------------------------------------------------------
@app.task
async def long(name: str) -> str:
    calls.append((name, "begun"))
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        calls.append((name, "cancelled"))
        raise
    return name


@app.task
def long_in_a_thread(name: str) -> str:
    calls.append((name, "begun"))
    while not current_task().stopped:
        time.sleep(0.01)
    calls.append((name, "cancelled"))
    return name


@workflow
async def waits(plain: bool) -> str:
    return await long_in_a_thread("x") if plain else await long("x")


@pytest.mark.parametrize("plain", [False, True])
async def test_a_cancelled_run_cancels_its_handler(sharded: Engine, plain: bool) -> None:
    await sharded.worker(app)
    client = await sharded.registered(waits)
    handle = await client.start(waits, {"plain": plain})
    await until(lambda: calls == [("x", "begun")], "the handler has begun")
    await client.cancel(handle.run_id)
    await until(lambda: calls[1:] == [("x", "cancelled")], "the handler is cancelled")


@workflow
async def raced() -> str:
    place, _ = await first_completed(long("loser"), sleep(0.3))
    return f"won by {place}"


async def test_the_handler_of_a_branch_that_loses_is_cancelled(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(raced)
    assert await (await client.start(raced, {})).result(15) == "won by 1"
    await until(lambda: ("loser", "cancelled") in calls, "the handler is cancelled")


@app.task
async def tidy(name: str) -> str:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.5)
        calls.append("tidied")
    return name


@workflow
async def tidied() -> str:
    return await tidy("x")


async def test_a_second_word_cuts_no_tidying_short(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(tidied)
    handle = await client.start(tidied, {})
    await asyncio.sleep(0.3)
    await client.cancel(handle.run_id)
    data = [event.data async for event in client.history(handle.run_id) if event.kind == "task-scheduled"]
    told = {"run_id": handle.run_id, "task_id": json.loads(bytes(data[0]))["task_id"]}
    nats = await shared.nats()
    for _ in range(3):
        await nats.publish(shared.names.stop("timed"), json.dumps(told).encode())
        await asyncio.sleep(0.05)
    await until(lambda: calls == ["tidied"], "the handler has tidied up")


async def test_a_word_that_is_wrong_stops_nothing(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(once_more)
    handle = await client.start(once_more, {"n": 1})
    nats = await shared.nats()
    for told in (b"nonsense", b"{}", json.dumps({"run_id": handle.run_id, "task_id": "0-0-1-1"}).encode()):
        await nats.publish(shared.names.stop("timed"), told)
    assert await handle.result(15) == 2


async def test_who_is_not_told_asks(shared: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tells of the end of an attempt is told once, and may be lost."""
    monkeypatch.setattr("dressage.worker.worker.SIGN_OF_LIFE_S", 0.4)
    monkeypatch.setattr("dressage.protocol.names.Names.stop", lambda self, queue: f"{self.root}.nowhere")
    worker_client: Client = await shared.registered(waits)
    await shared.worker(app)
    monkeypatch.undo()
    monkeypatch.setattr("dressage.worker.worker.SIGN_OF_LIFE_S", 0.4)
    handle = await worker_client.start(waits, {"plain": False})
    await until(lambda: calls == [("x", "begun")], "the handler has begun")
    await worker_client.cancel(handle.run_id)
    await until(lambda: calls[1:] == [("x", "cancelled")], "the handler is cancelled")
