"""The questions that have names are answered by what there is, and told of on the page."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from click.testing import CliRunner, Result

from dressage.analytics.service import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.cli.main import main
from dressage.client.finding.questions import QUESTIONS, sql_of
from dressage.protocol.errors import NotFound
from dressage.protocol.events import RunFaulted, RunStarted, TaskScheduled

if TYPE_CHECKING:
    from tests.analytics.conftest import EventsStream  # pyright: ignore[reportMissingImports]

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "analytics.md").read_text()


@pytest.fixture
async def asked(events: EventsStream, server: EmbeddedServer, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a server where twenty orders are known, one that goes on, and one that a fault has ended."""
    await events.publish_orders(20)
    started = RunStarted(msgspec.Raw(b"{}"))
    stuck = events.run("stuck", [started, TaskScheduled("fetch-price", "stuck.1.1", 1, 1, "shop")])
    await events.publish(stuck + events.run("broken", [started, RunFaulted(1, "a bug")]))
    async with AnalyticsService(server.url, events.names.namespace, tmp_path / "asked.duckdb") as service:
        assert await service.reached(await events.last_seq(), 20)
        yield server.url


async def query(url: str, *arguments: str) -> Result:
    command = ["query", *arguments, "--server", url, "--namespace", "shop"]
    return await asyncio.to_thread(CliRunner().invoke, main, command)


async def test_each_question_is_answered(asked: str) -> None:
    answers: dict[str, list[dict[str, Any]]] = {}
    for name in QUESTIONS:
        result = await query(asked, name, "--format", "json")
        assert result.exit_code == 0, (name, result.output)
        answers[name] = json.loads(result.stdout)
    nothing = {"waiting-people", "dead-tasks", "late-fires"}
    assert {name for name, rows in answers.items() if not rows} == nothing
    assert [(row["run_id"], row["what"]) for row in answers["stuck-runs"]] == [("stuck", "task-scheduled")]
    assert [(row["ended"], row["max_ms"]) for row in answers["durations"]] == [(20, 20.0)]
    assert [(row["failure_name"], row["runs"], row["example"]) for row in answers["failures"]] == [
        ("card-declined", 4, "order-15"),
        ("engine-fault", 1, "broken"),
    ]
    assert [(row["task"], row["p50_ms"]) for row in answers["slow-tasks"]] == [
        ("charge-card", 20.0),
        ("fetch-price", 10.0),
    ]
    waits = {row["task"]: (row["attempts"], row["p95_ms"], row["open"]) for row in answers["queue-waits"]}
    assert waits == {"charge-card": (20, 1.0, 0), "fetch-price": (25, 1.0, 1)}
    assert [(row["task"], row["failure_name"], row["attempts"]) for row in answers["retries"]] == [
        ("fetch-price", "ValueError", 5),
        ("charge-card", "card-declined", 4),
    ]
    assert sum(row["runs"] for row in answers["outcomes"]) == 22
    assert [(row["started"], row["ended"]) for row in answers["throughput"]] == [(22, 21)]
    assert [(row["task"], row["reached"], row["completed"]) for row in answers["funnel"]] == [
        ("fetch-price", 21, 20),
        ("charge-card", 20, 16),
    ]
    assert [(row["from_task"], row["to_task"], row["times"]) for row in answers["flow"]] == [
        ("fetch-price", "charge-card", 20)
    ]


async def test_questions_are_listed_and_an_unknown_one_is_told(asked: str) -> None:
    listed = (await query(asked, "--list")).stdout
    for name, question in QUESTIONS.items():
        assert re.search(rf"^{name} +{re.escape(question.about)}", listed, re.MULTILINE)
    unknown = await query(asked, "stuck-run")
    assert (unknown.exit_code, unknown.stderr.strip()) == (
        1,
        "QUESTION_UNKNOWN: there is no question 'stuck-run': did you mean stuck-runs?",
    )
    table = await query(asked, "runs")
    assert 'a table is asked by "FROM runs"' in table.stderr
    assert (await query(asked)).exit_code == 2


def test_what_is_more_than_a_word_is_sql() -> None:
    assert sql_of("FROM runs") == "FROM runs"
    assert sql_of("SELECT 1") == "SELECT 1"
    with pytest.raises(NotFound):
        sql_of("nothing-like-that")


def test_the_page_tells_of_each() -> None:
    told = dict(
        re.findall(
            r"^\| `([a-z-]+)` \| ([^|]+) \|$", PAGE.partition("## Questions with names")[2], re.MULTILINE
        )
    )
    for name, question in QUESTIONS.items():
        assert told[name].lower().startswith(question.about.lower()), name
