"""A run's events from any point, and waits for one of them or for a state: nothing is missed, and nothing hangs."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.memory import AT_ONCE, Fate, MemoryBroker, MemoryConnection, MemoryServer, Network
from dressage.client import Client, EventsGone, RunEnded, RunHandle, feed, history
from dressage.flow import Event, Searchable, WorkflowFailure, workflow
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.commands import RunView
from dressage.protocol.errors import BadInput, DressageError, NoAnswer, NotFound
from dressage.protocol.events import KINDS, EventReceived, ReceivedEvent, VariableChanged, decode_data
from dressage.protocol.names import event_bucket

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]
DEADLINE_S: Final = 30.0

told = Event("told", of=int)


class Enough(WorkflowFailure): ...


@dataclass
class View:
    status: Searchable[str] = "NEW"


@workflow
async def listening(times: int) -> int:
    """Its view counts what it was told; less than 0 is enough."""
    view, total = View(), 0
    for n in range(times):
        number = await told.wait()
        if number < 0:
            raise Enough("no more")
        total += number
        view.status = f"HEARD-{n}"
    return total


async def started(engine: Engine, times: int, run_id: str | None = None) -> RunHandle[int]:
    client = await engine.registered(listening)
    return await client.start(listening, {"times": times}, run_id=run_id)


async def tell(run: RunHandle[int], *numbers: int) -> None:
    for number in numbers:
        await run.post(told, number)


class Follower:
    """Follows in the background, and keeps what came."""

    def __init__(self, events: AsyncIterator[ReceivedEvent]) -> None:
        self.events: list[ReceivedEvent] = []
        self._task = asyncio.create_task(self._follow(events))

    async def _follow(self, events: AsyncIterator[ReceivedEvent]) -> None:
        async for event in events:
            self.events.append(event)

    @property
    def indexes(self) -> list[int]:
        return [event.index for event in self.events]

    @property
    def done(self) -> bool:
        return self._task.done()

    async def to_the_end(self) -> list[ReceivedEvent]:
        await asyncio.wait_for(self._task, DEADLINE_S)
        return self.events

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def whole_history(run: RunHandle[int]) -> list[ReceivedEvent]:
    events = [event async for event in run.history()]
    assert [event.index for event in events] == list(range(len(events)))
    assert events[-1].kind.startswith("run-")
    return events


# -- following -----------------------------------------------------------------------------------------
async def test_a_run_is_followed_from_its_start_to_its_end(sharded: Engine, until: Until) -> None:
    run = await started(sharded, 3)
    follower = Follower(run.follow())
    for number in (1, 2, 3):
        seen = len(follower.events)
        await tell(run, number)
        await until(lambda seen=seen: len(follower.events) > seen + 2, "what was told is seen at once", 3)
    assert await follower.to_the_end() == await whole_history(run)
    assert follower.events[0].kind == "run-started"
    assert follower.events[-1].kind == "run-completed"


async def test_following_begins_behind_any_event(shared: Engine) -> None:
    run = await started(shared, 2)
    await tell(run, 1, 2)
    assert await run.result(5) == 3
    events = await whole_history(run)
    for after in range(-1, len(events)):
        found = [event async for event in run.follow(after=after)]
        assert found == events[after + 1 :]
        assert [event async for event in run.history(after=after)] == found


async def test_a_run_that_ended_long_ago_is_replayed_and_then_it_stops(engine: Engine) -> None:
    run = await started(engine, 1)
    await tell(run, 1)
    await run.result(5)
    await engine.down()
    await engine.up()
    async with asyncio.timeout(4):
        assert [event async for event in run.follow()] == await whole_history(run)


async def test_nothing_behind_the_end_is_waited_for(shared: Engine) -> None:
    run = await started(shared, 1)
    await tell(run, 1)
    await run.result(5)
    async with asyncio.timeout(2):
        assert [event async for event in run.follow(after=1_000)] == []


async def test_a_run_that_ends_before_the_index_is_reached_ends_it_too(shared: Engine, until: Until) -> None:
    run = await started(shared, 1)
    follower = Follower(run.follow(after=1_000))
    await tell(run, 1)
    assert await follower.to_the_end() == []


async def test_following_a_run_that_does_not_exist_is_not_found(shared: Engine) -> None:
    client = await shared.client()
    with pytest.raises(NotFound, match="nobody-knows"):
        _ = [event async for event in client.follow("nobody-knows")]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_every_end_ends_it(shared: Engine, end: str) -> None:
    run = await started(shared, 1)
    follower = Follower(run.follow())
    if end == "failed":
        await tell(run, -1)
    else:
        await run.cancel("enough")
    assert (await follower.to_the_end())[-1].kind == f"run-{end}"


async def test_runs_that_share_their_subjects_do_not_mix(engine: Engine) -> None:
    """Their ids fall into one bucket, so that whoever follows one is shown the events of all."""
    client = await engine.registered(listening)
    wanted = event_bucket("r-0")
    ids = (f"r-{n}" for n in itertools.count() if event_bucket(f"r-{n}") == wanted)
    runs = [await client.start(listening, {"times": 3}, run_id=run_id) for run_id in itertools.islice(ids, 6)]
    followers = [Follower(run.follow()) for run in runs]
    for number in range(3):
        await asyncio.gather(*(tell(run, number) for run in runs))
    for run, follower in zip(runs, followers, strict=True):
        events = await follower.to_the_end()
        assert {event.subject for event in events} == {run.run_id}
        assert events == await whole_history(run)


async def test_a_client_that_starts_again_goes_on_with_the_index_it_kept(engine: Engine) -> None:
    run = await started(engine, 3, "kept")
    kept: list[ReceivedEvent] = []
    for number in range(3):
        await tell(run, number)
        async with (
            Client(engine.url, namespace=engine.namespace) as client,
            aclosing(client.follow("kept", after=kept[-1].index if kept else -1)) as events,
        ):
            async for event in events:
                kept.append(event)
                if event.kind == "event-received":
                    break
    async with Client(engine.url, namespace=engine.namespace) as client:
        kept += [event async for event in client.follow("kept", after=kept[-1].index)]
    assert kept == await whole_history(run)


async def test_many_who_follow_one_run_all_see_all_of_it(shared: Engine) -> None:
    run = await started(shared, 2)
    followers = [Follower(run.follow()) for _ in range(20)]
    await tell(run, 1, 2)
    events = [await follower.to_the_end() for follower in followers]
    assert events == [await whole_history(run)] * 20


# -- what gets lost meanwhile ------------------------------------------------------------------------------
async def test_it_goes_on_across_a_stop_of_the_orchestrator(engine: Engine, until: Until) -> None:
    run = await started(engine, 2)
    follower = Follower(run.follow())
    await tell(run, 1)
    await until(lambda: len(follower.events) > 2, "it follows")
    await engine.down()
    await engine.up()
    await tell(run, 2)
    assert await follower.to_the_end() == await whole_history(run)


async def test_who_begins_while_nobody_serves_waits_for_the_next_owner(engine: Engine, until: Until) -> None:
    run = await started(engine, 1)
    await engine.down()
    follower = Follower(run.follow())
    wait = asyncio.create_task(run.wait_for_event("run-completed"))
    state = asyncio.create_task(run.wait_for_state(lambda view: view.status == "completed"))
    await asyncio.sleep(0.5)
    assert not follower.events
    await engine.up()
    await tell(run, 1)
    events = await follower.to_the_end()
    assert events == await whole_history(run)
    assert await asyncio.wait_for(wait, 5) == events[-1]
    assert (await asyncio.wait_for(state, 5)).status == "completed"


@pytest.mark.slow
async def test_it_goes_on_when_owners_are_killed_one_after_the_other(
    server: EmbeddedServer, start: Start, until: Until
) -> None:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

    engine = Engine(server.url, 1)
    serve = ("orchestrator", "--server", server.url, "--namespace", engine.namespace)
    program = start(*serve)
    try:
        client = await connected(engine)
        await client.register(listening)
        run = await client.start(listening, {"times": 6})
        follower = Follower(run.follow())
        for number in range(6):
            state = asyncio.create_task(run.wait_for_state(heard(number)))
            await tell(run, number)
            if number % 2:
                program.process.kill()
                program.process.wait()
                program = start(*serve)
            assert (await asyncio.wait_for(state, DEADLINE_S)).search == {"status": f"HEARD-{number}"}
        assert await follower.to_the_end() == await whole_history(run)
    finally:
        await engine.close()


def heard(n: int) -> Callable[[RunView], bool]:
    return lambda run: run.search.get("status") == f"HEARD-{n}"


async def connected(engine: Engine) -> Client:
    """A client, once an orchestrator has made the namespace."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await engine.client()
            except NotFound:
                await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_it_goes_on_when_the_server_is_killed(tmp_path: Path, until: Until) -> None:
    """With it go the consumer, which is in its memory, and every answer that was on its way."""
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

    async with EmbeddedServer(tmp_path / "nats") as server:
        engine = Engine(server.url, 3)
        await engine.up()
        run = await started(engine, 4)
        follower = Follower(run.follow())
        wait = asyncio.create_task(run.wait_for_event(lambda event: heard_now(event, "HEARD-3")))
        for number in range(4):
            state = asyncio.create_task(run.wait_for_state(heard(number)))
            if number:
                server.kill()
                await server.wait()
                await server.start()
            await tell(run, number)
            assert (await asyncio.wait_for(state, DEADLINE_S)).search == {"status": f"HEARD-{number}"}
            seen = number + 1
            await until(lambda seen=seen: received(follower.events) == seen, "it follows", DEADLINE_S)
        events = await follower.to_the_end()
        assert events == await whole_history(run)
        assert await asyncio.wait_for(wait, 5) in events
        await engine.close()


def received(events: list[ReceivedEvent]) -> int:
    return sum(event.kind == "event-received" for event in events)


def heard_now(event: ReceivedEvent, status: str) -> bool:
    data = decode_data(event)
    return isinstance(data, VariableChanged) and status in bytes(data.value).decode()


async def test_a_consumer_that_somebody_removes_is_made_anew(engine: Engine, until: Until) -> None:
    run = await started(engine, 3)
    follower = Follower(run.follow())
    manager = (await engine.nats()).jsm()
    for number in range(3):
        await tell(run, number)
        seen = number + 1
        await until(lambda seen=seen: received(follower.events) == seen, "it follows")
        for consumer in await manager.consumers_info(engine.names.events_stream):
            await manager.delete_consumer(engine.names.events_stream, consumer.name)
    assert await follower.to_the_end() == await whole_history(run)


class Losing(Network):
    """Loses every delivery of output events while it is told to."""

    def __init__(self) -> None:
        self.losing = False
        self.lost = 0

    def incoming(self, connection: MemoryConnection, kind: str) -> Fate:
        if not self.losing or kind != "delivery" or not connection.name.endswith("client"):
            return AT_ONCE
        self.lost += 1
        return Fate(lost=True)


@pytest.mark.parametrize("more", [True, False], ids=["more-comes", "nothing-comes-any-more"])
async def test_deliveries_that_got_lost_come_again(
    more: bool, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """A connection that breaks may swallow what was on its way; to the server all of it was delivered."""
    monkeypatch.setattr(history, "LOOK_S", 0.3)
    network = Losing()
    server = MemoryServer(time.time_ns)
    orchestrator, serving = await run_beside(MemoryBroker(server), OrchestratorConfig())
    async with Client(MemoryBroker(server, network)) as client:
        await client.register(listening)
        run = await client.start(listening, {"times": 3})
        follower = Follower(run.follow())
        await tell(run, 1)
        await until(lambda: received(follower.events) == 1, "it follows")
        network.losing = True
        await tell(run, 2)
        await until(lambda: network.lost > 1, "deliveries get lost")
        network.losing = False
        if more:
            await tell(run, 3)
            assert await follower.to_the_end() == await whole_history(run)
        else:
            await until(lambda: received(follower.events) == 2, "what was lost comes again")
            await follower.stop()
    orchestrator.stop()
    await serving


# -- what is no longer there ---------------------------------------------------------------------------------
@pytest.fixture
async def dropped(engine: Engine) -> RunHandle[int]:
    """A run that has ended, of whose events the stream has dropped the first three."""
    run = await started(engine, 2, "dropped")
    await tell(run, 1, 2)
    await run.result(5)
    events = await whole_history(run)
    assert len(events) > 5
    manager = (await engine.nats()).jsm()
    stream = engine.names.events_stream
    subjects = engine.names.events_of_run(0, "dropped")
    consumer = await (await engine.nats()).jetstream().subscribe(subjects, ordered_consumer=True)
    messages = [await consumer.next_msg(5) for _ in range(4)]
    await manager.purge_stream(stream, subject=subjects, seq=messages[-1].metadata.sequence.stream)
    await consumer.unsubscribe()
    return run


async def test_a_gap_at_the_beginning_is_told_with_where_to_go_on(dropped: RunHandle[int]) -> None:
    with pytest.raises(EventsGone, match=r"output events 0 to 2 of run 'dropped'.*after=2") as caught:
        _ = [event async for event in dropped.follow()]
    error = caught.value
    assert (error.code, error.after, error.next_index) == ("EVENTS_GONE", -1, 3)
    rest = [event async for event in dropped.follow(after=2)]
    assert rest[0].index == 3
    assert rest[-1].kind == "run-completed"
    assert [event async for event in dropped.history()] == rest, "the history shows what is left"


async def test_a_wait_for_an_event_does_not_pass_over_a_gap(dropped: RunHandle[int]) -> None:
    with pytest.raises(EventsGone):
        await dropped.wait_for_event("run-completed", timeout_s=20)
    assert (await dropped.wait_for_event("run-completed", after=2, timeout_s=5)).kind == "run-completed"


async def test_a_run_of_which_nothing_is_left_is_told_too(
    engine: Engine, dropped: RunHandle[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOOK_S", 0.3)
    manager = (await engine.nats()).jsm()
    subjects = engine.names.events_of_run(0, "dropped")
    await manager.purge_stream(engine.names.events_stream, subject=subjects)
    async with asyncio.timeout(5):
        with pytest.raises(EventsGone, match="output events from 0 on") as caught:
            _ = [event async for event in dropped.follow()]
        assert caught.value.next_index is None
        assert [event async for event in dropped.history()] == []


async def test_a_gap_in_the_midst_of_following_is_told(
    engine: Engine, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for somebody who was away for longer than the stream keeps what it has."""
    monkeypatch.setattr(feed, "WINDOW", 1)
    run = await started(engine, 3)
    await tell(run, 1)
    manager = (await engine.nats()).jsm()
    subjects = engine.names.events_of_run(0, run.run_id)

    async def told_while_reading() -> None:
        async with aclosing(run.follow()) as events:
            async for event in events:
                if event.kind == "event-received":
                    await tell(run, 2)
                    _ = [event async for event in run.history()]
                    await manager.purge_stream(engine.names.events_stream, subject=subjects)
                    await tell(run, 3)

    with pytest.raises(EventsGone) as caught:
        await told_while_reading()
    assert caught.value.next_index is not None
    rest = [event async for event in run.follow(after=caught.value.next_index - 1)]
    assert rest[-1].kind == "run-completed"


# -- its cost ---------------------------------------------------------------------------------------------
async def test_who_reads_slowly_holds_no_more_than_the_window(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "WINDOW", 4)
    run = await started(engine, 20)
    await tell(run, *range(20))
    await run.result(10)
    manager = (await engine.nats()).jsm()
    seen: list[int] = []
    async with aclosing(run.follow()) as events:
        async for event in events:
            seen.append(event.index)
            if len(seen) in {10, 20}:
                await asyncio.sleep(0.3)
                (info,) = await manager.consumers_info(engine.names.events_stream)
                assert info.delivered is not None
                assert info.delivered.consumer_seq <= len(seen) + 4
    assert seen == list(range(len(seen)))
    assert len(seen) > 60


async def test_no_consumer_is_left_behind(engine: Engine, until: Until) -> None:
    run = await started(engine, 1)
    manager = (await engine.nats()).jsm()

    async def none() -> bool:
        return await manager.consumers_info(engine.names.events_stream) == []

    async with aclosing(run.follow()) as events:
        async for _ in events:
            break
    await until(none, "whoever stops removes it")
    with pytest.raises(NoAnswer):
        await run.wait_for_event("run-failed", timeout_s=0.5)
    await until(none, "and so does a wait")
    follower = Follower(run.follow())
    await tell(run, 1)
    await follower.to_the_end()
    await until(none, "and the end of the run")


async def test_a_run_is_not_searched_for_in_what_is_older_than_it(engine: Engine, until: Until) -> None:
    """Of a busy namespace with a month of events only those since the run's start are looked at."""
    run = await started(engine, 1)
    await tell(run, 1)
    await run.result(5)
    monday = await started(engine, 1)
    wait = asyncio.create_task(monday.wait_for_event("run-completed"))
    manager = (await engine.nats()).jsm()

    async def begins_then() -> bool:
        found = await manager.consumers_info(engine.names.events_stream)
        return [info.config.deliver_policy for info in found] == ["by_start_time"]

    await until(begins_then, "its consumer begins at a time")
    await tell(monday, 1)
    await wait


async def test_who_follows_is_told_when_the_client_is_closed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LOOK_S", 0.3)
    run = await started(engine, 1)
    async with Client(engine.url, namespace=engine.namespace) as client:
        follower = Follower(client.follow(run.run_id))
        wait = asyncio.create_task(client.wait(run.run_id))
        await asyncio.sleep(0.3)
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(follower.to_the_end()), wait]
    for task in tasks:
        with pytest.raises(DressageError) as caught:
            await asyncio.wait_for(task, DEADLINE_S)
        assert caught.value.code in {"NO_ANSWER", "OUTCOME_UNKNOWN"}


# -- waiting for an event ----------------------------------------------------------------------------------
async def test_an_event_is_waited_for_by_its_kind(sharded: Engine) -> None:
    run = await started(sharded, 2)
    wait = asyncio.create_task(run.wait_for_event("event-received", timeout_s=10))
    await tell(run, 1)
    event = await wait
    assert (event.kind, event.subject) == ("event-received", run.run_id)


async def test_an_event_that_happened_before_is_found_at_once(shared: Engine) -> None:
    run = await started(shared, 2)
    await tell(run, 1)
    first = await run.wait_for_event("event-received", timeout_s=5)
    assert await run.wait_for_event("event-received", timeout_s=5) == first
    assert (await run.wait_for_event("run-started", timeout_s=5)).index == 0


async def test_the_next_one_is_behind_the_index_of_the_last(shared: Engine) -> None:
    run = await started(shared, 2)
    await tell(run, 1)
    first = await run.wait_for_event("event-received", timeout_s=5)
    wait = asyncio.create_task(run.wait_for_event("event-received", after=first.index, timeout_s=10))
    await asyncio.sleep(0.2)
    assert not wait.done()
    await tell(run, 2)
    assert (await wait).index > first.index


async def test_an_event_is_waited_for_by_what_holds_of_it(shared: Engine) -> None:
    run = await started(shared, 3)

    def second(event: ReceivedEvent) -> bool:
        data = decode_data(event)
        return isinstance(data, EventReceived) and data.event_id == "second"

    wait = asyncio.create_task(run.wait_for_event(second, timeout_s=10))
    for event_id in ("first", "second", "third"):
        await run.post(told, 1, event_id=event_id)
    assert second(await wait)


async def test_the_end_of_a_run_can_be_waited_for(shared: Engine) -> None:
    run = await started(shared, 1)
    wait = asyncio.create_task(run.wait_for_event("run-failed", timeout_s=10))
    await tell(run, -1)
    assert (await wait).kind == "run-failed"


async def test_a_wait_for_an_event_has_a_timeout(shared: Engine) -> None:
    run = await started(shared, 1)
    began = asyncio.get_running_loop().time()
    with pytest.raises(NoAnswer, match=r"no event of kind 'run-failed' in 0\.5 s.*after=\d") as caught:
        await run.wait_for_event("run-failed", timeout_s=0.5)
    assert asyncio.get_running_loop().time() - began < 2
    assert caught.value.retryable


async def test_a_timeout_is_kept_while_nobody_serves(engine: Engine) -> None:
    run = await started(engine, 1)
    await engine.down()
    began = asyncio.get_running_loop().time()
    with pytest.raises(NoAnswer):
        await run.wait_for_event("run-failed", timeout_s=0.5)
    with pytest.raises(NoAnswer):
        await run.wait_for_state(heard(0), timeout_s=0.5)
    assert asyncio.get_running_loop().time() - began < 3


async def test_a_timeout_of_the_callers_own_stays_one(shared: Engine) -> None:
    run = await started(shared, 1)

    def raising(_: ReceivedEvent) -> bool:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await run.wait_for_event(raising, timeout_s=5)


@pytest.mark.parametrize("before", [True, False], ids=["ended-before", "ends-meanwhile"])
async def test_a_run_that_ends_without_the_event_ends_the_wait(shared: Engine, before: bool) -> None:
    run = await started(shared, 1)
    if before:
        await tell(run, 1)
        await run.result(5)
    wait = asyncio.create_task(run.wait_for_event("task-failed", timeout_s=20))
    if not before:
        await tell(run, 1)
    with pytest.raises(
        RunEnded, match=r"has ended \(completed\) without an event of kind 'task-failed'"
    ) as caught:
        await asyncio.wait_for(wait, 5)
    assert (caught.value.code, caught.value.run.status) == ("RUN_ENDED", "completed")


async def test_a_kind_that_does_not_exist_is_refused_with_those_that_do(shared: Engine) -> None:
    run = await started(shared, 1)
    with pytest.raises(BadInput, match="task-faild") as caught:
        await run.wait_for_event("task-faild", timeout_s=5)
    assert caught.value.code == "KIND_UNKNOWN"
    assert all(kind in caught.value.message for kind in KINDS)


async def test_waiting_in_a_run_that_does_not_exist_is_not_found(shared: Engine) -> None:
    client = await shared.client()
    with pytest.raises(NotFound):
        await client.wait_for_event("nobody-knows", "run-started", timeout_s=5)
    with pytest.raises(NotFound):
        await client.wait_for_state("nobody-knows", lambda _: True, timeout_s=5)


# -- waiting for a state -------------------------------------------------------------------------------------
async def test_a_state_is_waited_for(sharded: Engine) -> None:
    run = await started(sharded, 3)
    wait = asyncio.create_task(run.wait_for_state(heard(1), timeout_s=10))
    await tell(run, 1)
    await asyncio.sleep(0.2)
    assert not wait.done()
    await tell(run, 2)
    view = await wait
    assert (view.run_id, view.status, view.search) == (run.run_id, "running", {"status": "HEARD-1"})


async def test_a_state_that_is_there_is_given_at_once(shared: Engine) -> None:
    run = await started(shared, 1)
    assert (await run.wait_for_state(lambda view: view.status == "running", timeout_s=5)).seq == run.seq
    await tell(run, 1)
    await run.result(5)
    assert (await run.wait_for_state(heard(0), timeout_s=5)).status == "completed"


async def test_the_end_is_a_state_too(shared: Engine) -> None:
    run = await started(shared, 1)
    await tell(run, 1)
    view = await run.wait_for_state(lambda view: view.status != "running", timeout_s=5)
    assert view.ended_at


@pytest.mark.parametrize("before", [True, False], ids=["ended-before", "ends-meanwhile"])
async def test_a_run_that_ends_without_the_state_ends_the_wait(shared: Engine, before: bool) -> None:
    run = await started(shared, 1)
    if before:
        await tell(run, -1)
        await run.wait_for_event("run-failed", timeout_s=5)
    wait = asyncio.create_task(run.wait_for_state(heard(0), timeout_s=20))
    if not before:
        await tell(run, -1)
    with pytest.raises(RunEnded, match=r"has ended \(failed\) without coming to that state") as caught:
        await asyncio.wait_for(wait, 5)
    assert caught.value.run.failure is not None
    assert caught.value.run.failure.name == "enough"


async def test_a_wait_for_a_state_has_a_timeout(shared: Engine) -> None:
    run = await started(shared, 1)
    with pytest.raises(NoAnswer, match=r"did not come to that state in 0\.5 s"):
        await run.wait_for_state(heard(5), timeout_s=0.5)


async def test_a_quiet_run_is_not_asked_about_all_the_time(engine: Engine) -> None:
    """The events wake whoever waits; between them nothing is asked for seconds."""
    run = await started(engine, 1)
    asked = await (await engine.nats()).subscribe(engine.names.ask(0))
    wait = asyncio.create_task(run.wait_for_state(heard(0), timeout_s=20))
    await asyncio.sleep(2)
    quiet = asked.pending_msgs
    assert quiet <= 2
    await tell(run, 1)
    await asyncio.wait_for(wait, 2)
    assert asked.pending_msgs <= quiet + 3
