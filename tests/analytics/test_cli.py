"""`dressage analytics` and `dressage query` as a person runs them."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from dressage.brokers.embedded import EmbeddedServer
from dressage.cli.main import main

if TYPE_CHECKING:
    from tests.analytics.conftest import (  # pyright: ignore[reportMissingImports]
        EventsStream,
        Eventually,
        Start,
    )

PROGRAM = "import sys; from dressage.cli.main import main; main(['analytics', *sys.argv[1:]])"


@pytest.fixture
async def process(
    server: EmbeddedServer, events: EventsStream, db_path: Path, unused_port: int, eventually: Eventually
) -> AsyncIterator[asyncio.subprocess.Process]:
    """`dressage analytics` with ten orders in its file."""
    last = await events.publish_orders(10)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, "--server", server.url, "--namespace", "shop"),
        *("--db", str(db_path), "--metrics-port", str(unused_port)),
    )

    async def ingested() -> bool:
        result = await run("SELECT max(position) AS p FROM positions", server.url, "--format", "json")
        return result.exit_code == 0 and json.loads(result.stdout) == [{"p": last}]

    await eventually(ingested, "all events are in the file")
    yield process
    if process.returncode is None:
        process.kill()
    await process.wait()


async def run(sql: str, url: str, *options: str) -> Result:
    arguments = [sql, "--server", url, "--namespace", "shop", *options]
    return await asyncio.to_thread(CliRunner().invoke, main, ["query", *arguments])


@pytest.mark.usefixtures("process")
async def test_query_prints_a_table(server: EmbeddedServer) -> None:
    result = await run("SELECT workflow, runs FROM workflow_stats", server.url)
    assert [line.split() for line in result.stdout.splitlines() if "process-order" in line] == [
        ["│", "process-order", "│", "10", "│"]
    ]


@pytest.mark.usefixtures("process")
async def test_query_prints_json(server: EmbeddedServer) -> None:
    sql = "SELECT status, count(*) AS n FROM runs GROUP BY 1 ORDER BY 1"
    result = await run(sql, server.url, "--format", "json")
    assert json.loads(result.stdout) == [{"status": "completed", "n": 8}, {"status": "failed", "n": 2}]


@pytest.mark.usefixtures("process")
async def test_query_prints_csv(server: EmbeddedServer) -> None:
    result = await run("SELECT 'a,\"b\"' AS x, NULL AS y, [1, 2] AS z", server.url, "--format", "csv")
    assert list(csv.reader(io.StringIO(result.stdout))) == [["x", "y", "z"], ['a,"b"', "", "[1, 2]"]]


@pytest.mark.usefixtures("process")
async def test_query_says_when_rows_are_left_out(server: EmbeddedServer) -> None:
    result = await run("FROM events", server.url, "--limit", "3", "--format", "csv")
    assert "only the first 3 rows are shown" in result.stderr


@pytest.mark.usefixtures("process")
async def test_query_fails_with_the_reason(server: EmbeddedServer) -> None:
    result = await run("DELETE FROM events", server.url)
    assert result.exit_code == 1
    assert "QUERY_NOT_READ_ONLY" in result.stderr


async def call(command: str, url: str, *options: str) -> Result:
    arguments = [command, *options, "--server", url, "--namespace", "shop"]
    return await asyncio.to_thread(CliRunner().invoke, main, arguments)


@pytest.mark.usefixtures("process")
async def test_search_prints_a_page_and_how_to_go_on(server: EmbeddedServer) -> None:
    first = await call("search", server.url, "process-order", "--limit", "6")
    assert [line.split()[0] for line in first.stdout.splitlines()[1:]] == [
        f"order-{n}" for n in range(9, 3, -1)
    ]
    assert "card-declined" in first.stdout
    assert "status=DECLINED" in first.stdout
    after = first.stderr.split("--after ")[1].strip()
    rest = await call("search", server.url, "process-order", "--limit", "6", "--after", after)
    assert [line.split()[0] for line in rest.stdout.splitlines()[1:]] == [
        f"order-{n}" for n in range(3, -1, -1)
    ]
    assert rest.stderr == ""


@pytest.mark.usefixtures("process")
async def test_search_and_count_take_the_same_options(server: EmbeddedServer) -> None:
    for options, expected in (
        (["--status", "failed", "--status", "running"], 2),
        (["--where", "status = DONE", "--failure", "card-declined"], 0),
        (["--until", "2026-01-02T03:04:00Z"], 0),
        (["--since", "2026-01-02T03:04:00Z", "--ended-until", "1s"], 10),
        (["--version", "2"], 0),
        (["--id", "order-9", "--started-by", "tests"], 1),
    ):
        found = await call("search", server.url, *options, "--json")
        assert len(json.loads(found.stdout)["runs"]) == expected, options
        counted = await call("count", server.url, *options)
        assert counted.stdout == f"{expected}\n", options


@pytest.mark.usefixtures("process")
async def test_count_tells_each_value(server: EmbeddedServer) -> None:
    by_status = await call("count", server.url, "process-order", "--by", "status")
    assert [line.split() for line in by_status.stdout.splitlines()[1:]] == [
        ["completed", "8"],
        ["failed", "2"],
    ]
    by_attribute = await call("count", server.url, "--by", ".status")
    assert [line.split() for line in by_attribute.stdout.splitlines()[1:]] == [
        ["DONE", "8"],
        ["DECLINED", "2"],
    ]
    some = await call("count", server.url, "--by", ".status", "--limit", "1")
    assert "only the 1 most frequent" in some.stderr
    by_failure = await call("count", server.url, "--by", "failure", "--json")
    assert json.loads(by_failure.stdout) == [
        {"value": None, "runs": 8},
        {"value": "card-declined", "runs": 2},
    ]


@pytest.mark.usefixtures("process")
async def test_what_cannot_be_searched_for_is_refused(server: EmbeddedServer) -> None:
    for options, why in (
        (["--where", "total >> 5"], "CONDITION_INVALID"),
        (["--after", "nonsense"], "SEARCH_INVALID"),
        (["--sort", "no such thing"], "SEARCH_INVALID"),
        (["Process Order"], "NAME_INVALID"),
        (["--since", "yesterday"], "so long ago"),
        (["--since", "2026-01-02T03:04:00"], "no time zone"),
    ):
        result = await call("search", server.url, *options)
        assert result.exit_code != 0, options
        assert why in result.stderr, (options, result.stderr)


@pytest.mark.usefixtures("events")
async def test_search_says_when_nobody_answers(server: EmbeddedServer) -> None:
    result = await call("search", server.url)
    assert result.exit_code == 1
    assert "start `dressage analytics`" in result.stderr


@pytest.mark.usefixtures("events")
async def test_query_says_when_nobody_answers(server: EmbeddedServer) -> None:
    result = await run("SELECT 1", server.url, "--timeout", "0.1")
    assert result.exit_code == 1
    assert "start `dressage analytics`" in result.stderr


async def test_query_reads_a_file_that_nobody_writes(
    events: EventsStream, start: Start, db_path: Path
) -> None:
    process = start()
    await process.until(await events.publish_orders(4))
    await process.stop()
    result = await run(
        "SELECT count(*) AS n FROM runs", "nats://unused", "--db", str(db_path), "--format", "csv"
    )
    assert result.stdout.split() == ["n", "4"]


async def test_metrics_are_served(process: asyncio.subprocess.Process, unused_port: int) -> None:
    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{unused_port}/metrics", timeout=5) as response:
            text: bytes = response.read()
        return text.decode()

    assert "dressage_analytics_lag 0.0" in await asyncio.to_thread(read)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_in_good_order(
    process: asyncio.subprocess.Process, db_path: Path, number: signal.Signals
) -> None:
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), 10) == 0
    assert not db_path.with_name(db_path.name + ".wal").exists()
