"""Orchestrators that join and leave, and a namespace that grows, watched through `dressage shards` and the service."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import pytest
from nats.js.errors import NotFoundError

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.flow import App, workflow
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig, run_beside

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

SHARDS: Final = 16
Until = Callable[..., Awaitable[None]]
Views = dict[int, dict[str, Any]]

app = App("proof")


@app.task
async def plus_one(n: int) -> int:
    return n + 1


@workflow
async def counted(n: int) -> int:
    once = await plus_one(n)
    return await plus_one(once)


class Crew:
    """Orchestrators of one namespace by name; they join and leave as they are told."""

    def __init__(self, server: EmbeddedServer, shards: int) -> None:
        from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

        self.engine = Engine(server.url, shards)
        self.running: dict[str, tuple[Orchestrator, asyncio.Task[None]]] = {}

    async def joins(self, member: str) -> None:
        shards = self.engine.shards if not self.running else None
        config = OrchestratorConfig(self.engine.namespace, shards=shards, member=member)
        self.running[member] = await run_beside(JetStreamBroker(self.engine.url), config)

    async def leaves(self, member: str) -> None:
        orchestrator, task = self.running.pop(member)
        orchestrator.stop()
        await asyncio.wait_for(task, 20)

    async def views(self) -> Views:
        answer = await self.engine.call("shards", {})
        return {view["shard"]: view for view in answer["shards"]}

    async def settled(self) -> bool:
        """Everything is served, by members that are here, and their counts differ by at most one."""
        views = await self.views()
        counts = Counter(dict.fromkeys(self.running, 0))
        counts.update(view["member"] for view in views.values())
        return (
            all(view["state"] == "serving" for view in views.values())
            and counts.keys() == self.running.keys()
            and max(counts.values()) - min(counts.values()) <= 1
        )


@pytest.fixture
async def crew(server: EmbeddedServer) -> AsyncIterator[Crew]:
    made = Crew(server, SHARDS)
    yield made
    await made.engine.close()
    for member in list(made.running):
        await made.leaves(member)


class Load:
    """Runs that start one after another, a few at a time, for as long as the block lasts."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._over = asyncio.Event()
        self.expected: dict[str, int] = {}

    async def _starts(self) -> None:
        while not self._over.is_set():
            number = len(self.expected)
            run_id = f"load-{number}"
            self.expected[run_id] = number + 2
            await self._client.start(counted, {"n": number}, run_id=run_id)

    @contextlib.asynccontextmanager
    async def going(self) -> AsyncIterator[Load]:
        starters = [asyncio.create_task(self._starts()) for _ in range(4)]
        try:
            yield self
        finally:
            self._over.set()
            await asyncio.gather(*starters)

    async def more(self, until: Until, count: int = 10) -> None:
        wanted = len(self.expected) + count
        await until(lambda: len(self.expected) >= wanted, "runs go on being started", timeout_s=30)

    async def all_ended_once(self) -> None:
        """Each run's output, and its events: exactly once, in order, with each task ended once."""
        for run_id, expected in self.expected.items():
            assert await self._client.handle(run_id).result(30) == expected
            events = [event async for event in self._client.history(run_id)]
            assert [event.index for event in events] == list(range(len(events)))
            kinds = Counter(event.kind for event in events)
            assert (kinds["run-started"], kinds["task-completed"], kinds["run-completed"]) == (1, 2, 1)


def moved(before: Views, after: Views) -> set[int]:
    return {shard for shard in before if before[shard]["member"] != after[shard]["member"]}


def untouched(before: Views, after: Views, shards: set[int]) -> bool:
    """Whether these shards have not even been taken over by the one that had them."""
    return all(before[shard]["epoch"] == after[shard]["epoch"] for shard in shards)


@pytest.mark.slow
async def test_sixteen_shards_stay_balanced_and_only_what_must_moves_while_work_goes_on(
    crew: Crew, until: Until
) -> None:
    for member in ("a", "b", "c", "d"):
        await crew.joins(member)
    await until(crew.settled, "four each", timeout_s=30)
    first = await crew.views()
    assert set(Counter(view["member"] for view in first.values()).values()) == {SHARDS // 4}
    client = await crew.engine.registered(counted)
    await crew.engine.worker(app)
    async with Load(client).going() as load:
        await load.more(until)
        await crew.joins("e")
        await until(crew.settled, "the fifth has its share", timeout_s=30)
        second = await crew.views()
        arrived = moved(first, second)
        assert {second[shard]["member"] for shard in arrived} == {"e"}
        assert len(arrived) == SHARDS // 5
        assert untouched(first, second, first.keys() - arrived)
        await load.more(until)
        left = {shard for shard in second if second[shard]["member"] == "b"}
        await crew.leaves("b")
        await until(crew.settled, "the others have its shards", timeout_s=30)
        third = await crew.views()
        assert moved(second, third) == left
        assert untouched(second, third, second.keys() - left)
        await load.more(until)
    await load.all_ended_once()


async def test_one_that_leaves_amid_work_has_drained_its_shards(
    crew: Crew, start: Start, until: Until
) -> None:
    """Nobody else is there to finish: whatever it has folded is stored when it is gone, and the rest is untouched."""
    await crew.joins("only")
    await until(crew.settled, "all are served", timeout_s=30)
    client = await crew.engine.registered(counted)
    await crew.engine.worker(app)
    names, stream = crew.engine.names, (await crew.engine.nats()).jetstream()
    async with Load(client).going() as load:
        await load.more(until)
        await crew.leaves("only")
        program = start("shards", "--json", "--server", crew.engine.url, "--namespace", crew.engine.namespace)
        assert await asyncio.to_thread(program.ended) == 0, program.said
        views = json.loads(program.said)["shards"]
        assert {view["state"] for view in views} == {"unserved"}
        assert sum(view["seq"] for view in views) > 0, "there was something to drain"
        for view in views:
            assert view["behind"] in {0, None}, "its events are out"
            with contextlib.suppress(NotFoundError):
                waiting = await stream.get_msg(
                    names.shard_stream(view["shard"]),
                    seq=1,
                    subject=names.command(view["shard"], "*"),
                    next=True,
                )
                assert waiting.seq is not None
                assert waiting.seq > view["seq"], "what it has folded is stored, and gone from the stream"
        await crew.joins("next")
        await load.more(until)
    await load.all_ended_once()


async def test_the_first_shares_are_even_however_they_come(crew: Crew, until: Until) -> None:
    """All at once, and not a name chosen by us: a count of members that does not divide the shards."""
    await crew.joins(uuid.uuid4().hex[:12])
    await asyncio.gather(*(crew.joins(uuid.uuid4().hex[:12]) for _ in range(2)))
    await until(crew.settled, "five, five and six", timeout_s=30)
    views = await crew.views()
    assert sorted(Counter(view["member"] for view in views.values()).values()) == [5, 5, 6]


@pytest.mark.slow
async def test_it_grows_under_load_by_the_documented_commands(
    engine: Engine, start: Start, until: Until
) -> None:
    client = await engine.registered(counted)
    await engine.worker(app)

    async def dressage(*arguments: str) -> tuple[int, str]:
        program = start(*arguments, "--server", engine.url, "--namespace", engine.namespace)
        return await asyncio.to_thread(program.ended), program.said

    async def views() -> list[dict[str, Any]]:
        code, said = await dressage("shards", "--json")
        assert code == 0, said
        found: list[dict[str, Any]] = json.loads(said)["shards"]
        return found

    async def serving(count: int) -> bool:
        found = await views()
        return len(found) == count and all(view["state"] == "serving" for view in found)

    async def retired() -> bool:
        code, said = await dressage("shards", "retire")
        assert code == 0 or said.startswith("GROWTH_UNFINISHED: "), said
        return code == 0

    async with Load(client).going() as load:
        await load.more(until)
        assert await dressage("shards", "grow", "4") == (0, "growing from 1 to 4 shards\n")
        await until(lambda: serving(4), "four are served", timeout_s=40)
        again = await engine.call("start", {"workflow": "counted", "input": {"n": 0}, "run_id": "load-0"})
        assert (again["ok"], again["existing"]) == (True, True), "the same id is the same run"
        await load.more(until)
        code, said = await dressage("shards", "grow", "0")
        assert code != 0
        assert "Traceback" not in said
    await load.all_ended_once()
    await until(retired, "the growth is finished", timeout_s=40)
    await load.all_ended_once()
    assert sum(view["open_runs"] for view in await views()) == 0


async def test_lag_and_rates_are_those_of_the_load(engine: Engine, until: Until) -> None:
    client = await engine.registered(counted)
    await engine.worker(app)

    async def view() -> dict[str, Any]:
        found: dict[str, Any] = (await engine.call("shards", {}))["shards"][0]
        return found

    async with Load(client).going() as load:
        await load.more(until)

        async def counts() -> bool:
            found = await view()
            return bool(found["commands_s"] and found["tasks_s"])

        await until(counts, "the rates are seen", timeout_s=20)
        found = await view()
        assert found["lag"] >= found["backlog"] >= 0
        assert found["commands_s"] > found["tasks_s"], "each run has two tasks, and one command more"
    await load.all_ended_once()

    async def at_rest() -> bool:
        found = await view()
        return (found["lag"], found["backlog"], found["behind"], found["open_runs"]) == (0, 0, 0, 0)

    await until(at_rest, "nothing waits when nobody asks", timeout_s=20)


@pytest.mark.parametrize("figure", ["0", "-1", "x", "1025", str(10**30), "1.5"])
async def test_a_count_of_shards_that_is_none_is_refused(engine: Engine, start: Start, figure: str) -> None:
    program = start(
        *("shards", "grow", "--server", engine.url, "--namespace", engine.namespace, "--", figure)
    )
    assert await asyncio.to_thread(program.ended) in {1, 2}
    assert "Traceback" not in program.said
    if figure in {"1025", str(10**30)}:
        assert "1024" in program.said.replace(",", ""), "the limit's figure"
    answer = await engine.call("shards", {})
    assert len(answer["shards"]) == 1
