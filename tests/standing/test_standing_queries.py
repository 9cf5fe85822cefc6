"""Rows of a query start runs, or are events: once each, whatever happens meanwhile; with a real engine and DuckDB."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
from click.testing import CliRunner
from tests.connecting import (  # pyright: ignore[reportMissingImports]
    QUICK,
    Place,
    Running,
    eventually,
    run_orders,
    workflow,
)

from dressage.analytics import AnalyticsService, BatchLimits
from dressage.brokers.embedded import EmbeddedServer
from dressage.cli.main import main
from dressage.client import Client
from dressage.connectors.asked import source
from dressage.connectors.asked.config import EVERY_S_MAX
from dressage.connectors.connect.config import parse_connectors
from dressage.connectors.connect.options import ConnectorFailed
from dressage.connectors.tables import ConfigInvalid
from dressage.protocol.expressions import Name
from dressage.protocol.spec import EventDef, EventNode, ReturnNode, Variable, WorkflowSpec
from dressage.protocol.types import ANY

pytestmark = pytest.mark.anyio

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs/standing-queries.md").read_text()

FOLLOW: Final = """
[[connector]]
name = "follow"
type = "source"
every = 0.05
key = "run_id"
query = "FROM runs WHERE workflow = 'take-order' AND status = 'completed'"
errors.tolerance = "none"
workflow = "look-into"
input.order = "{'id': int(key.removeprefix('run-'))}"
"""
QUERY: Final = "FROM runs WHERE workflow = 'take-order' AND status = 'completed'"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(tmp_path / "nats", sync="lazy") as server:
        yield server


@pytest.fixture
async def place(server: EmbeddedServer) -> Place:
    return Place(server)


@pytest.fixture
async def client(place: Place) -> AsyncIterator[Client]:
    async with place.engine(workflow(), workflow("look-into")) as client:
        yield client


@pytest.fixture
async def analytics(
    client: Client, server: EmbeddedServer, tmp_path: Path
) -> AsyncIterator[AnalyticsService]:
    async with AnalyticsService(server.url, "default", tmp_path / "events.duckdb") as service:
        yield service


async def ended(client: Client, *runs: str) -> None:
    async def all_ended() -> bool:
        found = await client.query(
            "SELECT count(*) FROM runs WHERE status = 'completed' AND run_id IN "
            f"({', '.join(repr(each) for each in runs)})"
        )
        return bool(found.rows[0][0] == len(runs))

    await eventually(all_ended, f"{runs} have ended")


def followed(*numbers: int) -> list[str]:
    return [f"follow/run-{number}" for number in numbers]


async def test_each_row_starts_one_run_whoever_asks_and_however_often(
    place: Place, client: Client, analytics: AnalyticsService
) -> None:
    await run_orders(client, 3)
    first, second = Running(place.server.url, FOLLOW, QUICK), Running(place.server.url, FOLLOW, QUICK)
    await ended(client, *followed(0, 1, 2))
    await run_orders(client, 2, first=3)
    await ended(client, *followed(3, 4))
    await first.stop()
    await second.stop()
    third = Running(place.server.url, FOLLOW, QUICK)
    await third.reaches("existing_total", 5)
    await run_orders(client, 1, first=5)
    await ended(client, *followed(5))
    assert third.metric("done_total") == 1
    await third.stop()
    assert first.metric("done_total") + second.metric("done_total") == 5
    assert (await client.get("follow/run-4")).input == {"order": {"id": 4}}
    starts = await place.starts()
    assert {name: starts[name] for name in starts if name.startswith("follow/")} == dict.fromkeys(
        followed(0, 1, 2, 3, 4, 5), 1
    )


async def test_a_row_that_changes_starts_nothing_more(
    place: Place, client: Client, analytics: AnalyticsService
) -> None:
    changing = """
[[connector]]
name = "all"
type = "source"
every = 0.05
key = "workflow"
query = "SELECT workflow, count(*) AS runs FROM runs WHERE workflow = 'take-order' GROUP BY workflow"
workflow = "look-into"
input.order = "{'id': value['runs']}"
"""
    await run_orders(client, 1)
    running = Running(place.server.url, changing, QUICK)
    await ended(client, "all/take-order")
    await running.stop()
    await run_orders(client, 1, first=1)
    again = Running(place.server.url, changing, QUICK)
    await again.reaches("existing_total", 1)
    await again.stop()
    assert (await client.get("all/take-order")).input == {"order": {"id": 1}}


async def test_rows_are_events_of_runs(place: Place, client: Client, analytics: AnalyticsService) -> None:
    waits = WorkflowSpec(
        1,
        "waits",
        (),
        ANY,
        (EventNode("noticed", target="seen", next=1), ReturnNode(Name("seen"))),
        variables=(Variable("seen"),),
        events=(EventDef("noticed", ANY),),
    )
    await client.register(waits)
    run = await client.start("waits", {}, run_id="w")
    running = Running(
        place.server.url,
        """
[[connector]]
name = "notice"
type = "source"
every = 0.05
key = "run_id"
query = "SELECT run_id, workflow, version FROM runs WHERE workflow = 'waits' AND status = 'running'"
event = "noticed"
run_id = "key"
[[connector.transforms]]
name = "only"
type = "select"
fields = ["workflow"]
""",
        QUICK,
    )
    assert await run.result(30) == {"workflow": "waits"}
    await running.stop()
    kinds = [event.kind async for event in client.history("w")]
    assert kinds.count("event-posted") == 1


async def test_a_row_that_stays_is_one_event_and_one_that_comes_too_late_is_done(
    place: Place, client: Client, analytics: AnalyticsService
) -> None:
    waits = WorkflowSpec(
        1,
        "waits-twice",
        (),
        ANY,
        (
            EventNode("noticed", target="seen", next=1),
            EventNode("over", target="seen", next=2),
            ReturnNode(Name("seen")),
        ),
        variables=(Variable("seen"),),
        events=(EventDef("noticed", ANY), EventDef("over", ANY)),
    )
    await client.register(waits)
    run = await client.start("waits-twice", {}, run_id="w")
    config = """
[[connector]]
name = "notice"
type = "source"
every = 0.05
key = "run_id"
query = "SELECT run_id FROM runs WHERE workflow = 'waits-twice'"
event = "noticed"
run_id = "key"
"""
    first, second = Running(place.server.url, config, QUICK), Running(place.server.url, config, QUICK)
    await first.reaches("active", 1)
    for each in (first, second):
        while each.metric("done_total") + each.metric("existing_total") < 1:
            await asyncio.sleep(0.02)
    await first.stop()
    await second.stop()
    await run.post("over", 1)
    assert await run.result(20) == 1
    kinds = [event.kind async for event in client.history("w")]
    assert kinds.count("event-posted") == 2
    late = Running(place.server.url, config.replace('"notice"', '"another"'), QUICK)
    await late.reaches("existing_total", 1)
    await late.stop()


async def test_more_rows_than_an_answer_holds_are_asked_for_at_once(
    place: Place, client: Client, analytics: AnalyticsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ROWS", 2)
    await run_orders(client, 7)
    await ended(client, *(f"run-{number}" for number in range(7)))
    running = Running(place.server.url, FOLLOW.replace("every = 0.05", "every = 3600"), QUICK)
    await ended(client, *followed(*range(7)))
    await running.stop()


@pytest.mark.limit("connectors.asked.source.DONE_MAX")
async def test_more_rows_than_are_remembered_are_told_and_count_once(
    place: Place, client: Client, analytics: AnalyticsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "DONE_MAX", 3)
    monkeypatch.setattr(source, "ROWS", 2)
    monkeypatch.setattr(source, "AT_A_TIME", 1)
    await run_orders(client, 3)
    running = Running(place.server.url, FOLLOW, QUICK)
    await ended(client, *followed(0, 1, 2))
    assert running.metric("faulty") == 0
    await run_orders(client, 9, first=3)
    await ended(client, *followed(*range(12)))
    await running.reaches("faulty", 1)
    assert running.metric("done_total") == 12
    again = running.metric("existing_total")
    await running.reaches("existing_total", again + 9)
    await running.stop()
    starts = await place.starts()
    assert {starts[name] for name in followed(*range(12))} == {1}


async def test_what_is_remembered_goes_with_the_rows(
    place: Place, client: Client, analytics: AnalyticsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query whose rows come and go never has too many."""
    monkeypatch.setattr(source, "DONE_MAX", 2)
    young = FOLLOW.replace(QUERY, QUERY + " AND run_id > 'run-1'")
    await run_orders(client, 4)
    running = Running(place.server.url, young, QUICK)
    await ended(client, *followed(2, 3))
    for number in (1, 2, 3):
        await client.delete(f"run-{number}")
    await run_orders(client, 2, first=4)
    await ended(client, *followed(4, 5))

    async def is_well() -> bool:
        return running.metric("faulty") == 0

    await eventually(is_well, "what is remembered has gone with the rows")
    await running.stop()


async def test_no_row_with_a_key_is_passed_over(
    place: Place, client: Client, analytics: AnalyticsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first key that there is, as its text, and those at the edges of pages; a row without one does not count."""
    monkeypatch.setattr(source, "ROWS", 2)
    keys = "SELECT * FROM (VALUES (''), ('-1'), ('a'), ('é'), (NULL)) rows(k)"
    config = FOLLOW.replace(QUERY, keys).replace('key = "run_id"', 'key = "k"')
    config = config.replace("int(key.removeprefix('run-'))", "key")
    running = Running(place.server.url, config, QUICK)
    await ended(client, *(f"follow/{key}" for key in ("", "-1", "a", "é")))
    assert running.metric("records_total") == 4
    await running.stop()


async def test_a_row_that_was_filtered_out_counts_once_it_is_another_one(
    place: Place, client: Client, analytics: AnalyticsService
) -> None:
    counting = """
[[connector]]
name = "many"
type = "source"
every = 0.05
key = "workflow"
query = "SELECT workflow, count(*) AS runs FROM runs WHERE workflow = 'take-order' GROUP BY workflow"
workflow = "look-into"
input.order = "{'id': value['runs']}"
[[connector.transforms]]
name = "many"
type = "filter"
condition = "value['runs'] > 2"
"""
    await run_orders(client, 2)
    running = Running(place.server.url, counting, QUICK)
    await running.reaches("skipped_total", 1)
    await asyncio.sleep(0.3)
    assert running.metric("skipped_total") <= 2, "the same row is looked at once"
    await run_orders(client, 1, first=2)
    await ended(client, "many/take-order")
    await running.stop()


async def test_a_file_that_is_being_filled_shows_nothing_that_is_over(
    place: Place, server: EmbeddedServer, client: Client, tmp_path: Path
) -> None:
    """Of a backlog the starts are read before the ends: no row is made of what lies between."""
    await run_orders(client, 300)
    running = Running(
        server.url,
        FOLLOW.replace("status = 'completed'", "status = 'running'"),
        QUICK,
    )
    await running.reaches("faulty", 1)
    limits = BatchLimits(events_max=7)
    async with AnalyticsService(server.url, "default", tmp_path / "new.duckdb", limits=limits):
        await ended(client, *(f"run-{number}" for number in range(300)))
        await asyncio.sleep(0.3)
    assert running.metric("records_total") == 0
    await running.stop()


async def test_what_passes_is_waited_for(place: Place, server: EmbeddedServer, tmp_path: Path) -> None:
    """No analytics process, and then no workflow."""
    async with place.engine(workflow()) as client:
        running = Running(server.url, FOLLOW, QUICK)
        await running.reaches("faulty", 1)
        async with AnalyticsService(server.url, "default", tmp_path / "events.duckdb"):
            await run_orders(client, 1)
            await running.reaches("retries_total", 1, code="WORKFLOW_UNKNOWN")
            await client.register(workflow("look-into"))
            await ended(client, *followed(0))
            await running.stop()


async def test_a_query_that_cannot_be_answered_stops_the_connector_and_says_why(
    place: Place, client: Client, analytics: AnalyticsService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "REFUSED_S", 0.2)
    for query, code in (("FROM nowhere", "QUERY_INVALID"), ("DROP TABLE events", "QUERY_INVALID")):
        running = Running(place.server.url, FOLLOW.replace(QUERY, query), QUICK)
        with pytest.raises(ConnectorFailed, match=f"follow.*{code}"):
            await running.task


async def test_rows_that_nothing_can_be_made_of(
    place: Place, client: Client, analytics: AnalyticsService
) -> None:
    bad = FOLLOW.replace("int(key.removeprefix('run-'))", "10 // (int(key.removeprefix('run-')) - 1)")
    await run_orders(client, 2)
    running = Running(place.server.url, bad.replace('"none"', '"all"'), QUICK)
    await running.reaches("done_total", 1)
    await running.reaches("dead_letters_total", 1, code="EXPRESSION_FAILED")
    await running.stop()
    strict = Running(place.server.url, bad, QUICK)
    with pytest.raises(ConnectorFailed, match=r"stops at row 'run-1', as errors\.tolerance is none"):
        await strict.task


# -- the file ----------------------------------------------------------------------------------------
@pytest.mark.limit("connectors.asked.config.EVERY_S_MAX")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('key = "run_id"\n', "", "name the column"),
        ("every = 0.05", f"every = {EVERY_S_MAX + 1}", "(limit query-every)"),
        ("every = 0.05", "every = 0", "(limit query-every)"),
        ('workflow = "look-into"', 'topics = ["a"]', "topics"),
        ("int(key", "int(row", "row"),
        ('errors.tolerance = "none"', 'run_id = "key"', "by the connector's name and the row's key"),
        ('workflow = "look-into"\n', "", "give a workflow to start, or an event to post"),
    ],
)
def test_a_file_that_says_nonsense_is_refused(old: str, new: str, said: str) -> None:
    assert FOLLOW.count(old) == 1
    with pytest.raises(ConfigInvalid, match=re.escape(said)):
        parse_connectors(FOLLOW.replace(old, new))
    assert parse_connectors(FOLLOW.replace("every = 0.05", f"every = {EVERY_S_MAX:g}"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


async def test_the_page_is_as_it_goes(
    place: Place, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (said,), (shown,) = blocks("toml"), blocks("console")
    (tmp_path / "connectors.toml").write_text(said)
    for command, output in re.findall(r"^\$ dressage (.*)\n((?:[^$].*\n)*)", shown, re.MULTILINE):
        server = ["--server", place.server.url] if "deploy" in command else []
        done = await asyncio.to_thread(CliRunner().invoke, main, [*command.split(), *server])
        assert (done.exit_code, done.output) == (0, output)
    dead = ["connect", "replay", "stuck-orders", "--all", "--server", place.server.url]
    refused = await asyncio.to_thread(CliRunner().invoke, main, dead)
    assert "has no dead letters" in refused.output


async def test_the_example_of_the_page_starts_what_looks_into_an_order(
    place: Place, client: Client, analytics: AnalyticsService
) -> None:
    (said,) = blocks("toml")
    young = said.replace("INTERVAL 1 HOUR", "INTERVAL 0 SECOND").replace("'running'", "'completed'")
    young = young.replace('"30s"', "0.05").replace("input.provider = \"value['provider']\"\n", "")
    await client.register(workflow("shop-order"))
    params, variables = workflow().params, (Variable("order"),)
    await client.register(
        WorkflowSpec(1, "look-into", params, ANY, (ReturnNode(Name("order")),), variables=variables)
    )
    await (await client.start("shop-order", {"order": {"id": 1}}, run_id="o-1")).result()
    running = Running(place.server.url, young, QUICK)
    await ended(client, "stuck-orders/o-1")
    await running.stop()
    assert await client.handle("stuck-orders/o-1").result(20) == "o-1"
