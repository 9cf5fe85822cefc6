"""SQL from elsewhere: answered while events come in, read-only, bounded, and safe as JSON."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dressage.analytics.errors import AnalyticsError
from dressage.analytics.query import ROWS_MAX, query_file
from dressage.analytics.service import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.client.finding import QueryError, QueryResult, query
from dressage.protocol.errors import NoAnswer, NotFound
from dressage.protocol.names import Names

if TYPE_CHECKING:
    from tests.analytics.conftest import (  # pyright: ignore[reportMissingImports]
        EventsStream,
        MakeEvents,
        Start,
    )


class Asking:
    def __init__(self, connection: JetStreamConnection, names: Names) -> None:
        self.connection = connection
        self.names = names

    async def __call__(self, sql: str, *args: Any, **options: Any) -> QueryResult:
        return await query(self.connection, self.names, sql, *args, **options)

    async def value(self, sql: str) -> Any:
        return (await self(sql)).rows[0][0]

    async def refusal(self, sql: str, **options: Any) -> str:
        with pytest.raises(QueryError) as caught:
            await self(sql, **options)
        return caught.value.code


@pytest.fixture
async def service(
    server: EmbeddedServer, names: Names, db_path: Path, events: EventsStream
) -> AsyncIterator[AnalyticsService]:
    """An analytics process that has read twenty orders."""
    last = await events.publish_orders(20)
    async with AnalyticsService(server.url, names.namespace, db_path) as service:
        assert await service.reached(last, 20)
        yield service


@pytest.fixture
def ask_while_events_come(service: AnalyticsService, connection: JetStreamConnection, names: Names) -> Asking:
    """A process of one's own, for a test that publishes."""
    return Asking(connection, names)


@pytest.fixture(scope="module")
async def ask(tmp_path_factory: pytest.TempPathFactory, make_events: MakeEvents) -> AsyncIterator[Asking]:
    """One process for all tests that only ask. It has read twenty orders."""
    names, folder = Names("asked"), tmp_path_factory.mktemp("asked")
    async with EmbeddedServer(folder / "nats", sync="lazy") as server:
        connection = await JetStreamBroker(server.url).connect("test", reconnect=True)
        events = make_events(connection, names)
        await events.create()
        last = await events.publish_orders(20)
        async with AnalyticsService(server.url, names.namespace, folder / "asked.duckdb") as service:
            assert await service.reached(last, 20)
            yield Asking(connection, names)
        await connection.close()


async def test_a_query_is_answered_by_the_process_that_writes(ask: Asking) -> None:
    result = await ask("SELECT workflow, runs FROM workflow_stats")
    assert (result.columns, result.types) == (["workflow", "runs"], ["VARCHAR", "BIGINT"])
    assert result.rows == [["process-order", 20]]


async def test_queries_are_answered_while_events_come_in(
    ask_while_events_come: Asking, events: EventsStream
) -> None:
    """Every answer shows a whole prefix of the stream, and they never go back."""
    stream, seen = events.names.events_stream, [0]
    publishing = asyncio.create_task(events.publish_orders(400, 20))
    while not publishing.done() or seen[-1] < await publishing:
        result = await ask_while_events_come(
            "SELECT max(stream_seq), (SELECT count(*) FROM index_breaks) FROM events"
        )
        assert result.rows[0][0] <= result.positions[stream]
        assert result.rows[0][1] == 0
        assert result.positions[stream] >= seen[-1]
        seen.append(result.positions[stream])
    assert len(set(seen)) > 2


async def test_an_answer_reflects_the_position_asked_for(
    ask_while_events_come: Asking, events: EventsStream
) -> None:
    last = await events.publish_orders(30, 20)
    not_before = {events.names.events_stream: last}
    result = await ask_while_events_come("SELECT count(*) FROM runs", not_before=not_before)
    assert result.rows == [[50]]


async def test_a_position_that_is_not_reached_in_time_is_refused(ask: Asking) -> None:
    not_before = {ask.names.events_stream: 10**6}
    assert await ask.refusal("SELECT 1", not_before=not_before, timeout_s=0.2) == "QUERY_BEHIND"


async def test_parameters_by_position(ask: Asking) -> None:
    assert (await ask("SELECT run_id FROM runs WHERE run_id = $1", ["order-3"])).rows == [["order-3"]]


async def test_parameters_by_name(ask: Asking) -> None:
    assert (await ask("SELECT $a::INT + $b::INT", {"a": 1, "b": 2})).rows == [[3]]


# -- read-only --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM events",
        "INSERT INTO gaps VALUES ('x', 1, 2, now())",
        "WITH x AS (INSERT INTO gaps VALUES ('x', 1, 2, now()) RETURNING *) SELECT * FROM x",
        "CREATE TABLE t (a INT)",
        "CREATE TEMP TABLE t (a INT)",
        "DROP VIEW runs",
        "UPDATE positions SET position = 0",
        "EXPLAIN ANALYZE DELETE FROM events",
        "COPY events TO 'out.csv'",
        "ATTACH 'other.duckdb'",
        "EXPORT DATABASE 'out'",
        "SET threads = 1",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CHECKPOINT",
        "FORCE CHECKPOINT",
        "CALL force_checkpoint()",
        "BEGIN",
        "COMMIT",
        "PREPARE p AS SELECT 1",
        "VACUUM",
        "DETACH analytics",
    ],
)
async def test_what_does_not_only_read_is_refused(ask: Asking, sql: str) -> None:
    assert await ask.refusal(sql) == "QUERY_NOT_READ_ONLY"
    assert await ask.value("SELECT count(*) FROM runs") == 20


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_text('/etc/hostname')",
        "FROM read_csv('/etc/hostname')",
        "FROM read_blob('/etc/*')",
        "FROM glob('/*')",
        "FROM '/etc/hostname.csv'",
        "FROM parquet_metadata('/etc/hostname')",
        "SELECT * FROM query('FROM read_text(''/etc/hostname'')')",
    ],
)
async def test_no_file_can_be_read(ask: Asking, sql: str) -> None:
    with pytest.raises(QueryError, match="disabled by configuration"):
        await ask(sql)


@pytest.mark.parametrize("name", ["types", "params", "positions_", "cursor", "budget"])
async def test_no_variable_of_the_process_can_be_read(ask: Asking, name: str) -> None:
    assert await ask.refusal(f"FROM {name}") == "QUERY_INVALID"


async def test_several_statements_are_refused(ask: Asking) -> None:
    assert await ask.refusal("SELECT 1; DELETE FROM events") == "QUERY_INVALID"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1;",
        "SELECT 1; -- and a comment",
        "SELECT 1 -- and a comment; with a semicolon",
        "/* ; */ SELECT 1 /* ; */ ; /* ; */",
        "SELECT length(';');",
        "SELECT length('ü;') - 1 ;",
    ],
)
async def test_semicolons_and_comments_are_understood(ask: Asking, sql: str) -> None:
    assert await ask.value(sql) == 1


@pytest.mark.parametrize(
    "sql", ["DESCRIBE runs", "SHOW TABLES", "SUMMARIZE run_ends", "FROM runs", "VALUES (1)"]
)
async def test_other_statements_that_read_are_answered(ask: Asking, sql: str) -> None:
    assert (await ask(sql)).rows


# -- errors and limits ------------------------------------------------------------------------------
async def test_an_invalid_query_says_what_duckdb_says(ask: Asking) -> None:
    with pytest.raises(QueryError, match="Table with name nothing does not exist"):
        await ask("FROM nothing")


async def test_an_empty_query_is_invalid(ask: Asking) -> None:
    assert await ask.refusal("  ") == "QUERY_INVALID"


async def test_a_query_that_takes_too_long_is_interrupted(ask: Asking) -> None:
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"
    assert await ask.refusal(endless, timeout_s=0.3) == "QUERY_TIMEOUT"


@pytest.mark.limit("analytics.query.TIMEOUT_MAX_S")
async def test_a_query_gets_no_more_time_than_the_limit(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a limit that a test can wait for."""
    monkeypatch.setattr(sys.modules[query_file.__module__], "TIMEOUT_MAX_S", 0.3)
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"
    with pytest.raises(QueryError, match=r"up to 0\.3 s \(limit query-time\)$") as caught:
        await ask(endless, timeout_s=60.0)
    assert caught.value.code == "QUERY_TIMEOUT"
    assert await ask.value("SELECT 1") == 1


async def test_a_query_after_one_that_took_too_long_is_answered(ask: Asking) -> None:
    await ask.refusal("SELECT count(*) FROM range(1000000) a, range(1000000) b", timeout_s=0.01)
    assert await ask.value("SELECT 1") == 1


async def test_a_query_whose_time_is_over_before_it_begins_ends_too(ask: Asking) -> None:
    """Its time may end before its first statement, between two, or in the last one."""
    endless = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"
    for milliseconds in range(1, 21):
        assert await ask.refusal(endless, timeout_s=milliseconds / 1000) == "QUERY_TIMEOUT"


async def test_more_rows_than_asked_for_are_cut_off(ask: Asking) -> None:
    result = await ask("FROM range(100)", limit_rows=10)
    assert (len(result.rows), result.truncated) == (10, True)


async def test_exactly_as_many_rows_as_asked_for_are_whole(ask: Asking) -> None:
    result = await ask("FROM range(10)", limit_rows=10)
    assert (len(result.rows), result.truncated) == (10, False)


@pytest.mark.limit("analytics.query.ROWS_MAX")
async def test_no_more_rows_than_the_limit_however_many_are_asked_for(ask: Asking) -> None:
    whole = await ask(f"SELECT 1 FROM range({ROWS_MAX})", limit_rows=10**9)
    assert (len(whole.rows), whole.truncated) == (ROWS_MAX, False)
    more = await ask(f"SELECT 1 FROM range({ROWS_MAX + 1})", limit_rows=10**9)
    assert (len(more.rows), more.truncated) == (ROWS_MAX, True)


async def test_more_rows_than_a_message_holds_are_cut_off(ask: Asking) -> None:
    result = await ask("SELECT repeat('x', 10000) FROM range(1000)")
    assert result.truncated
    assert 50 < len(result.rows) < 110


async def test_a_row_larger_than_a_message_is_refused(ask: Asking) -> None:
    assert await ask.refusal("SELECT repeat('x', 2000000)") == "QUERY_TOO_LARGE"


async def test_columns_larger_than_a_message_are_refused(ask: Asking) -> None:
    names = ", ".join(f'1 AS "{"x" * 300}{number}"' for number in range(1000))
    sql = f"WITH t AS (SELECT {names}) SELECT a.*, b.*, c.*, d.* FROM t a, t b, t c, t d"
    assert await ask.refusal(sql) == "QUERY_TOO_LARGE"


async def test_a_malformed_request_is_answered(ask: Asking) -> None:
    data = await ask.connection.request(ask.names.query(), b'{"sql": 1}', 5.0)
    assert json.loads(data)["code"] == "QUERY_MALFORMED"


async def test_nobody_there_is_said_so(events: EventsStream, connection: JetStreamConnection) -> None:
    with pytest.raises(NoAnswer, match="start `dressage analytics`"):
        await query(connection, events.names, "SELECT 1", timeout_s=0.1)


# -- values -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("1.10::DECIMAL(10,2)", "1.10"),
        ("9223372036854775807::BIGINT", 9223372036854775807),
        ("170141183460469231731687303715884105727::HUGEINT", "170141183460469231731687303715884105727"),
        ("5::HUGEINT", 5),
        ("1.5::DOUBLE", 1.5),
        ("'nan'::DOUBLE", "nan"),
        ("'-inf'::DOUBLE", "-inf"),
        ("TIMESTAMPTZ '2026-01-02 03:04:05.678+01'", "2026-01-02T02:04:05.678000Z"),
        ("TIMESTAMP '2026-01-02 03:04:05'", "2026-01-02T03:04:05.000000"),
        ("DATE '2026-01-02'", "2026-01-02"),
        ("INTERVAL '90 minutes'", "01:30:00"),
        ("'ab'::BLOB", "YWI="),
        ("NULL", None),
        ("true", True),
        ("{'a': 1, 'b': [1, NULL]}", {"a": 1, "b": [1, None]}),
        ("MAP {'k': 1.5::DECIMAL(3,1)}", {"k": 1.5}),
        ("[DATE '2026-01-02']", ["2026-01-02"]),
        ("['nan'::DOUBLE]", ["nan"]),
        ("[[1], [2, 3]]", [[1], [2, 3]]),
        ('\'{"a": [1, {"b": null}]}\'::JSON', {"a": [1, {"b": None}]}),
        ("'a'::ENUM ('a', 'b')", "a"),
        ("'5a0c1f0e-1111-4222-8333-444455556666'::UUID", "5a0c1f0e-1111-4222-8333-444455556666"),
    ],
)
async def test_a_value_is_safe_as_json(ask: Asking, sql: str, value: object) -> None:
    assert await ask.value(f"SELECT {sql}") == value


async def test_columns_of_one_name_are_kept(ask: Asking) -> None:
    result = await ask("SELECT 1 AS a, 2 AS a")
    assert (result.columns, result.rows) == (["a", "a"], [[1, 2]])


async def test_every_row_of_every_table_can_be_read(ask: Asking) -> None:
    for (name,) in (await ask("SELECT name FROM (SHOW TABLES)")).rows:
        result = await ask(f"FROM {name}")
        assert all(len(row) == len(result.columns) for row in result.rows)


# -- the file alone ---------------------------------------------------------------------------------
async def test_a_file_that_nobody_writes_can_be_asked(
    events: EventsStream, start: Start, db_path: Path
) -> None:
    process = start()
    await process.until(await events.publish_orders(7))
    await process.stop()
    result = query_file(db_path, "SELECT count(*) AS runs FROM runs")
    assert result.rows == [[7]]


async def test_a_file_that_is_being_written_is_busy(service: AnalyticsService, db_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from dressage.analytics import query_file;"
        "query_file(Path(sys.argv[1]), 'SELECT 1')"
    )
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, str(db_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "FILE_BUSY" in done.stderr


def test_a_file_cannot_be_written_by_a_query(db_path: Path) -> None:
    from dressage.analytics.store import Store

    Store.open(db_path, "stream", "prefix").close()
    with pytest.raises(QueryError, match="QUERY_NOT_READ_ONLY"):
        query_file(db_path, "DELETE FROM events")


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        query_file(tmp_path / "none.duckdb", "SELECT 1")


def test_a_file_of_something_else_is_unusable(tmp_path: Path) -> None:
    path = tmp_path / "text.duckdb"
    path.write_text("not a database" * 1000)
    with pytest.raises(AnalyticsError, match="FILE_UNUSABLE"):
        query_file(path, "SELECT 1")


def test_a_file_of_a_later_release_is_unusable(db_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dressage.analytics import store

    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    opened = store.Store.open(db_path, "stream", "prefix")
    opened.bind("2026-01-02T03:04:05Z")
    opened.close()
    monkeypatch.undo()
    with pytest.raises(AnalyticsError, match="upgrade Dressage"):
        store.Store.open(db_path, "stream", "prefix")


def test_results_travel_as_plain_json() -> None:
    result = QueryResult(["a"], ["JSON"], [[msgspec.Raw(b'{"x":1}')]], {}, 0.1)
    assert json.loads(msgspec.json.encode(result))["rows"] == [[{"x": 1}]]
