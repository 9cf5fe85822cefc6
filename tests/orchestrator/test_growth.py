"""Growing the shards of a living namespace: runs stay, ids stay unique, work goes on, and a growth can be finished."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dressage.brokers.interface import Connection, Message
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import provision, read_definition, require_namespace
from dressage.client import Client
from dressage.flow import App, workflow
from dressage.orchestrator.fold.state import RunState, decode_state
from dressage.orchestrator.growth import GrowthUnfinished, Staying, grow, look_for_staying, retire
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.orchestrator.turn.records import decode_cursor
from dressage.protocol.commands import REPLY_HEADER, Answer, CancelRun, StartRun, encoder
from dressage.protocol.errors import BadInput, NotFound, Refused
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.names import Names, run_token, shard_of
from dressage.protocol.shardmap import FORWARDED_HEADER, ShardMap
from dressage.worker import Worker, WorkerConfig

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

Audit = Callable[[Connection, Names], Awaitable[Any]]

app = App("growing")


@app.task
async def step(n: int) -> int:
    return n + 1


@workflow(name="short")
async def short(n: int) -> int:
    a = await step(n)
    return await step(a)


def ids(old: int, new: int, *, moved: bool, count: int = 3) -> list[str]:
    """Run ids whose place is another one after the growth, or the same."""
    found = (f"{'moved' if moved else 'same'}-{n}" for n in range(10_000))
    chosen = (run_id for run_id in found if (shard_of(run_id, old) != shard_of(run_id, new)) is moved)
    return [run_id for run_id, _ in zip(chosen, range(count), strict=False)]


async def refused(awaitable: Awaitable[Any]) -> str:
    with pytest.raises(Refused) as refusal:
        await awaitable
    return refusal.value.code


@asynccontextmanager
async def engine(broker: JetStreamBroker, namespace: str, shards: int) -> AsyncIterator[Client]:
    """An orchestrator and a client of `shards` shards with the workflow registered, and no worker."""
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace, shards=shards))
    async with Client(broker, namespace=namespace) as client:
        await client.register(short)
        yield client
    orchestrator.stop()
    await task


async def taken_up(connection: Connection, names: Names) -> None:
    """Returns once every shard folds by the newest map."""
    namespace = await require_namespace(connection, names)
    async with asyncio.timeout(15):
        for shard in range(namespace.shards):
            while True:
                found = await connection.last_message(names.shard_stream(shard), names.cursor(shard))
                maps = decode_cursor(found.data).maps if found is not None else ()
                if maps and maps[-1].map == namespace.map:
                    break
                await asyncio.sleep(0.02)


async def grown(connection: Connection, names: Names, shards: int) -> None:
    await grow(connection, names, shards)
    await taken_up(connection, names)


async def retired(connection: Connection, names: Names) -> None:
    async with asyncio.timeout(15):
        while True:
            try:
                await retire(connection, names)
                break
            except GrowthUnfinished:
                await asyncio.sleep(0.1)
    await taken_up(connection, names)


async def place(connection: Connection, names: Names, run_id: str) -> set[int]:
    """On which shards the run's output events are."""
    state = await connection.stream_state(
        names.events_stream, subjects=names.events_of_run(0, run_id).replace(".events.0.", ".events.*.")
    )
    found: set[int] = set()
    for subject in state.subjects if state else ():
        message = await connection.last_message(names.events_stream, subject)
        if message is not None and msgspec.json.decode(message.data)["subject"] == run_id:
            found.add(int(subject.split(".")[3]))
    return found


# -- runs stay where they are, new ones go by the new count --------------------------------------------
async def test_runs_of_before_stay_and_new_ones_go_to_their_new_place(
    broker: JetStreamBroker, connection: Connection, namespace: str, audit: Audit
) -> None:
    names = Names(namespace)
    before, after = ids(1, 3, moved=True, count=6)[:3], ids(1, 3, moved=True, count=6)[3:]
    async with engine(broker, namespace, 1) as client:
        handles = [await client.start(short, {"n": n}, run_id=run_id) for n, run_id in enumerate(before)]
        await grown(connection, names, 3)
        handles += [await client.start(short, {"n": n}, run_id=run_id) for n, run_id in enumerate(after)]
        for run_id in before:
            assert (await client.get(run_id)).shard == 0
            again = await client.start(short, {"n": before.index(run_id)}, run_id=run_id)
            assert again.existing
            with pytest.raises(Refused, match="RUN_ID_CONFLICT"):
                await client.start(short, {"n": 99}, run_id=run_id)
        for run_id in after:
            assert (await client.get(run_id)).shard == shard_of(run_id, 3) != 0
            assert (await client.start(short, {"n": after.index(run_id)}, run_id=run_id)).existing
        async with Worker(broker, app, WorkerConfig(namespace)):
            assert [await handle.result(20) for handle in handles] == [2, 3, 4, 2, 3, 4]
            for run_id in (*before, *after):
                kinds = [event.kind async for event in client.history(run_id)]
                assert (kinds[0], kinds[-1]) == ("run-started", "run-completed")
        for run_id in before:
            assert await place(connection, names, run_id) == {0}
        for run_id in after:
            assert await place(connection, names, run_id) == {shard_of(run_id, 3)}
    assert (await audit(connection, names)).wrong() == []


async def test_a_run_can_be_cancelled_wherever_it_is(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names = Names(namespace)
    old, new = ids(2, 5, moved=True, count=2)
    async with engine(broker, namespace, 2) as client:
        await client.start(short, {"n": 1}, run_id=old)
        await grown(connection, names, 5)
        await client.start(short, {"n": 1}, run_id=new)
        for run_id in (old, new):
            await client.cancel(run_id, "enough")
            assert (await client.wait(run_id, timeout_s=10)).status == "cancelled"
        with pytest.raises(Refused, match="RUN_UNKNOWN"):
            await client.cancel("nobody")
        with pytest.raises(NotFound, match="RUN_UNKNOWN"):
            await client.get(ids(2, 5, moved=True, count=3)[2])


async def test_a_run_is_followed_wherever_it_is(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    """From before the growth until after it, at its older place and at its new one."""
    names = Names(namespace)
    old, new = ids(1, 3, moved=True, count=2)

    async def followed(client: Client, run_id: str) -> list[tuple[int, str]]:
        async with asyncio.timeout(20):
            return [(event.index, event.kind) async for event in client.follow(run_id)]

    async with engine(broker, namespace, 1) as client:
        await client.start(short, {"n": 1}, run_id=old)
        meanwhile = asyncio.create_task(followed(client, old))
        await grown(connection, names, 3)
        await client.start(short, {"n": 1}, run_id=new)
        async with Worker(broker, app, WorkerConfig(namespace)):
            expected = [(event.index, event.kind) for event in await whole(client, new)]
            assert await meanwhile == expected
            await retired(connection, names)
        for run_id in (old, new):
            assert await followed(client, run_id) == expected
            assert (await client.wait_for_event(run_id, "run-completed", timeout_s=10)).subject == run_id
            done = await client.wait_for_state(run_id, lambda run: run.status == "completed", timeout_s=10)
            assert done.shard == (0 if run_id == old else shard_of(run_id, 3))


async def whole(client: Client, run_id: str) -> list[ReceivedEvent]:
    """The history of a run once it has ended."""
    await client.wait(run_id, timeout_s=20)
    return [event async for event in client.history(run_id)]


async def test_a_command_that_nobody_awaited_is_found_where_it_went(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    """Asked right behind the PubAck, the earlier place says where the start has gone, and from which command on."""
    names = Names(namespace)
    async with engine(broker, namespace, 1) as client:
        version = await client.registry.resolve("short")
        await grown(connection, names, 3)
        for n, run_id in enumerate(ids(1, 3, moved=True, count=30)):
            seq = await client.send(run_id, StartRun("short", version, msgspec.Raw(b'{"n":1}'), f"c{n}"))
            view = await client.get(run_id, not_before=seq)
            assert (view.status, view.shard) == ("running", shard_of(run_id, 3))


async def test_senders_with_an_old_or_a_later_map_start_the_same_run(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    """Whoever sends to the place of before, or straight to the new one, before, during and after the growth."""
    names = Names(namespace)
    async with engine(broker, namespace, 1) as client:
        version = await client.registry.resolve("short")
        inbox = connection.new_inbox()
        answers: asyncio.Queue[Answer] = asyncio.Queue()

        async def on_answer(_: str, data: bytes, __: str) -> None:
            answers.put_nowait(msgspec.json.decode(data, type=Answer))

        await connection.serve(inbox, on_answer)

        async def start(run_id: str, shard: int, command_id: str) -> Answer:
            command = StartRun("short", version, msgspec.Raw(b'{"n":1}'), command_id)
            message = Message(
                names.command(shard, run_token(run_id)), encoder.encode(command), {REPLY_HEADER: inbox}
            )
            await connection.publish(message)
            async with asyncio.timeout(10):
                return await answers.get()

        first, second, third = ids(1, 3, moved=True)
        home = {run_id: shard_of(run_id, 3) for run_id in (first, second, third)}
        assert not (await start(first, 0, "a")).existing
        await grown(connection, names, 3)
        for run_id, shard in ((first, 0), (second, home[second])):
            for command_id, to in (("b", 0), ("c", home[run_id]), ("d", 0)):
                answer = await start(run_id, to, command_id)
                assert answer.accepted
                assert answer.shard == shard
                assert answer.existing is not (run_id == second and command_id == "b")
        async with Worker(broker, app, WorkerConfig(namespace)):
            await client.wait(first, timeout_s=20)
            await retired(connection, names)
        for run_id in (first, second, third):
            expected = [run_id != third, True, True]
            for (command_id, to), existing in zip(
                (("e", 0), ("f", home[run_id]), ("g", 0)), expected, strict=True
            ):
                answer = await start(run_id, to, command_id)
                assert (answer.accepted, answer.existing) == (True, existing), answer


async def test_a_shard_that_no_map_names_refuses(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names = Names(namespace)
    async with engine(broker, namespace, 1) as client:
        await grown(connection, names, 3)
        run_id = next(f"r{n}" for n in range(100) if shard_of(f"r{n}", 3) == 1)
        refused: asyncio.Queue[bytes] = asyncio.Queue()
        inbox = connection.new_inbox()

        async def on_answer(_: str, data: bytes, __: str) -> None:
            refused.put_nowait(data)

        await connection.serve(inbox, on_answer)
        data = encoder.encode(CancelRun("c"))
        await connection.publish(Message(names.command(2, run_token(run_id)), data, {REPLY_HEADER: inbox}))
        async with asyncio.timeout(10):
            assert msgspec.json.decode(await refused.get(), type=Answer).code == "SHARD_WRONG"
        assert (await client.start(short, {"n": 1}, run_id=run_id)).shard == 1


async def test_a_run_handed_to_a_shard_before_its_switch_outlives_the_owner(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    """By the map that the shard still folds by, the run does not belong to it; its next owner has nothing in memory."""
    names = Names(namespace)
    run_id = next(f"r{n}" for n in range(100) if shard_of(f"r{n}", 2) == 1)
    subject = names.command(0, run_token(run_id))
    async with engine(broker, namespace, 2) as client:
        version = await client.registry.resolve("short")
        start = encoder.encode(StartRun("short", version, msgspec.Raw(b'{"n":1}'), "c"))
        await connection.publish(Message(subject, start, {FORWARDED_HEADER: "2.1"}))
        await state_of(connection, names.run_key(0, run_token(run_id)), "running")
    orchestrator, task = await run_beside(broker, OrchestratorConfig(namespace))
    await connection.publish(Message(subject, encoder.encode(CancelRun("d"))))
    await state_of(connection, names.run_key(0, run_token(run_id)), "cancelled")
    orchestrator.stop()
    await task


async def state_of(connection: Connection, key: str, status: str) -> None:
    """Returns once the bucket holds the run in this status."""
    stream = f"KV_{key.split('.')[1]}"
    async with asyncio.timeout(10):
        while True:
            found = await connection.last_message(stream, key)
            state = None if found is None else decode_state(found.data)
            if isinstance(state, RunState) and state.status == status:
                return
            await asyncio.sleep(0.02)


# -- finishing a growth ------------------------------------------------------------------------------
async def test_a_growth_is_finished_when_no_run_is_left_behind(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names = Names(namespace)
    moved, same = ids(1, 3, moved=True, count=1)[0], ids(1, 3, moved=False, count=1)[0]
    async with engine(broker, namespace, 1) as client:
        for run_id in (moved, same):
            await client.start(short, {"n": 1}, run_id=run_id)
        await grown(connection, names, 3)
        async with asyncio.timeout(15):
            while True:
                with pytest.raises(GrowthUnfinished) as unfinished:
                    await retire(connection, names)
                if "1 runs are open" in unfinished.value.message:
                    break
                await asyncio.sleep(0.1)
        assert repr(moved) in unfinished.value.message
        assert repr(same) not in unfinished.value.message
        async with Worker(broker, app, WorkerConfig(namespace)):
            assert await client.handle(moved).result(20) == 3
        await retired(connection, names)
        assert (await require_namespace(connection, names)).map == ShardMap(3, 3, None, (1,))
        async with Client(broker, namespace=namespace) as fresh:
            for asked in (client, fresh):
                view = await asked.get(moved)
                assert view.status == "completed"
                assert view.variables == {"n": 1, "a": 2}
                assert [event.index async for event in asked.history(moved)] == list(range(view.events))
                assert (await asked.start(short, {"n": 1}, run_id=moved)).existing
                with pytest.raises(Refused, match="RUN_FINISHED"):
                    await asked.cancel(moved)
        again = await client.start(short, {"n": 7}, run_id=ids(1, 3, moved=True, count=2)[1])
        assert again.shard == shard_of(again.run_id, 3)
        assert await retire(connection, names) == await require_namespace(connection, names)


async def test_a_lost_delivery_hides_no_open_run(
    connection: Connection, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the bucket's reader does not get it notices, and reads again."""
    names, wanted = Names(namespace), ids(1, 2, moved=True)
    await provision(connection, names, shards=1, replicas=1)
    for run_id in wanted:
        await connection.publish(Message(names.run_key(0, run_token(run_id)), b'{"status":"running"}'))
    pull, lost = connection.pull, [1, 2]

    async def lossy(stream: str, consumer: str, window: int, deliver: Any, on_end: Any) -> Any:
        left = lost.pop() if lost else 0

        def pass_on(delivery: Any) -> None:
            if delivery.consumer_seq != left:
                deliver(delivery)

        return await pull(stream, consumer, window, pass_on, on_end)

    monkeypatch.setattr(connection, "pull", lossy)
    found = Staying()
    await look_for_staying(connection, names, ShardMap(generation=2, shards=2, previous=1), 0, found)
    assert found == Staying(open=set(wanted))
    assert lost == []


async def test_what_was_meant_for_a_deleted_run_is_told_from_the_next_one_of_its_id_elsewhere(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    """The shard that remembers the deletion is not the one where the id lives from now on."""
    names, (run_id,) = Names(namespace), ids(1, 3, moved=True, count=1)
    async with engine(broker, namespace, 1) as client, Worker(broker, app, WorkerConfig(namespace)):
        await client.start(short, {"n": 1}, run_id=run_id, command_id="first")
        await client.wait(run_id, timeout_s=20)
        await client.delete(run_id, command_id="delete")
        await grown(connection, names, 3)
        again = StartRun("short", 1, msgspec.Raw(b'{"n":1}'), "first")
        assert (
            await refused(client.start(short, {"n": 1}, run_id=run_id, command_id="first")) == "RUN_DELETED"
        )
        assert await refused(client.post(run_id, "paid", {}, event_id="late")) == "RUN_DELETED"
        handle = await client.start(short, {"n": 5}, run_id=run_id, command_id="second")
        assert handle.shard == shard_of(run_id, 3) != 0
        assert await handle.result(20) == 7
        await client.delete(run_id, command_id="delete")
        await client.send(run_id, again)
        for shard in (0, shard_of(run_id, 3)):  # To whichever of the two places a sender's map leads.
            await connection.publish(Message(names.command(shard, run_token(run_id)), encoder.encode(again)))
        assert (await client.start(short, {"n": 5}, run_id=run_id)).existing, "it is there, and only once"
        kinds = [event.kind async for event in client.history(run_id)]
        assert kinds.count("run-started") == 1
        with pytest.raises(GrowthUnfinished, match=f"were deleted where they were.*{run_id}.*For 10 minutes"):
            await retire(connection, names)


async def test_a_growth_is_finished_when_nobody_needs_to_know_of_deletions(
    broker: JetStreamBroker, connection: Connection, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dressage.orchestrator.fold.retention.FORGET_MS", 4_000)
    names, (run_id,) = Names(namespace), ids(1, 3, moved=True, count=1)
    async with engine(broker, namespace, 1) as client, Worker(broker, app, WorkerConfig(namespace)):
        await client.start(short, {"n": 1}, run_id=run_id, command_id="first")
        await client.wait(run_id, timeout_s=20)
        await client.delete(run_id)
        await grown(connection, names, 3)
        with pytest.raises(GrowthUnfinished, match=r"deleted|stored"):
            await retire(connection, names)
        await retired(connection, names)
        again = await client.start(short, {"n": 1}, run_id=run_id, command_id="first")
        assert not again.existing
        assert await again.result(20) == 3


async def test_one_growth_at_a_time(broker: JetStreamBroker, connection: Connection, namespace: str) -> None:
    names = Names(namespace)
    async with engine(broker, namespace, 2):
        await grow(connection, names, 3)
        assert (await grow(connection, names, 3)).generation == 2, "the same again changes nothing"
        with pytest.raises(GrowthUnfinished, match="finish that first"):
            await grow(connection, names, 4)
        with pytest.raises(BadInput, match="SHARDS_FEWER"):
            await grow(connection, names, 2)
        await taken_up(connection, names)
        await retired(connection, names)
        await grown(connection, names, 4)
        assert (await require_namespace(connection, names)).map == ShardMap(4, 4, 3, (2,))


async def test_nothing_is_finished_before_every_shard_knows(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    """Without an orchestrator a growth is defined, and nobody has taken it up."""
    names = Names(namespace)
    async with engine(broker, namespace, 1) as client:
        handle = await client.start(short, {"n": 1}, run_id=ids(1, 2, moved=True, count=1)[0])
    await grow(connection, names, 2)
    with pytest.raises(GrowthUnfinished, match="has not taken up generation 2"):
        await retire(connection, names)
    async with engine(broker, namespace, 1), Worker(broker, app, WorkerConfig(namespace)):
        async with Client(broker, namespace=namespace) as client:
            assert await client.handle(handle.run_id).result(20) == 3
        await retired(connection, names)


async def test_new_shards_have_the_queues_of_every_workflow(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    names = Names(namespace)
    async with engine(broker, namespace, 1) as client:
        await grow(connection, names, 3)
        wanted = names.task_consumer("growing")
        for shard in range(3):
            assert wanted in await connection.consumers(names.shard_stream(shard))
        await client.register(other)
        for shard in range(3):
            assert names.task_consumer("elsewhere") in await connection.consumers(names.shard_stream(shard))


elsewhere = App("elsewhere")


@elsewhere.task
async def work(n: int) -> int:
    return n


@workflow(name="other")
async def other(n: int) -> int:
    return await work(n)


async def test_an_orchestrator_may_name_a_count_of_before(
    broker: JetStreamBroker, connection: Connection, namespace: str
) -> None:
    """A manifest still says what the namespace began with; a number that it never had is refused."""
    names = Names(namespace)
    await provision(connection, names, shards=2, replicas=1)
    await grow(connection, names, 3)
    assert (await provision(connection, names, shards=2, replicas=1)).shards == 3
    with pytest.raises(BadInput, match="SHARDS_DIFFER"):
        await provision(connection, names, shards=5, replicas=1)
    assert (await read_definition(connection, names))[1] > 0


# -- under load --------------------------------------------------------------------------------------
class Load:
    """Starts runs all the time; every third one is started by two clients at once, with maps of different ages."""

    def __init__(self, *clients: Client) -> None:
        self._clients = clients
        self.expected: dict[str, int] = {}
        self.failed: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        n = 0
        while not stop.is_set():
            await asyncio.gather(*(self._start(number) for number in range(n, n + 10)))
            n += 10

    async def _start(self, n: int) -> None:
        run_id = f"load-{n}"
        starters = self._clients if n % 3 == 0 else self._clients[n % len(self._clients) :][:1]
        handles = await asyncio.gather(
            *(client.start(short, {"n": n}, run_id=run_id, timeout_s=60) for client in starters)
        )
        self.expected[run_id] = n + 2
        if sum(not handle.existing for handle in handles) != 1:
            self.failed.append(f"{run_id} began {[handle.existing for handle in handles]}")
        if len({handle.shard for handle in handles}) != 1:
            self.failed.append(f"{run_id} is on shards {[handle.shard for handle in handles]}")


class Stale(Client):
    """A client that never learns of a growth."""

    async def _learn(self, generation: int) -> None:
        return


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_it_grows_under_load_while_orchestrators_die(
    broker: JetStreamBroker, connection: Connection, namespace: str, audit: Audit, start: Start
) -> None:
    """1 to 3 shards, then 3 to 4, with `kill -9` in each growth; nothing is lost, doubled, or in two places."""
    names = Names(namespace)
    await provision(connection, names, shards=1, replicas=1)
    arguments = ("orchestrator", "--server", broker.url, "--namespace", namespace)
    processes = [start(*arguments) for _ in range(3)]
    stop = asyncio.Event()
    async with (
        Client(broker, namespace=namespace) as client,
        Stale(broker, namespace=namespace) as stale,
        Worker(broker, app, WorkerConfig(namespace)),
    ):
        await client.register(short)
        load = Load(client, stale)
        loading = asyncio.create_task(load.run(stop))

        async def more(count: int) -> None:
            wanted = len(load.expected) + count
            async with asyncio.timeout(60):
                while len(load.expected) < wanted:
                    assert not loading.done(), loading.exception()
                    await asyncio.sleep(0.05)

        await more(50)
        for shards in (3, 4):
            await grow(connection, names, shards)
            await more(20)
            processes.pop(0).process.kill()
            processes.append(start(*arguments))
            await more(50)
            await taken_up(connection, names)
            await more(50)
            await retired(connection, names)
            await more(50)
        stop.set()
        await loading
        for run_id, expected in load.expected.items():
            assert await client.handle(run_id).result(60) == expected
        assert load.failed == []
        async with asyncio.timeout(20):
            while len((found := await audit(connection, names)).finished) < len(load.expected):
                await asyncio.sleep(0.2)
    assert found.wrong() == []
    assert found.runs.keys() == load.expected.keys()
    print(f"{len(load.expected)} runs, generation {(await require_namespace(connection, names)).generation}")
