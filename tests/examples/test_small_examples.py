"""The small examples: each way through them ends as it should, in a unit test, in plain Python and on the engine."""

from __future__ import annotations

import ast
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from tests.examples.cases import EXAMPLES, WAYS, Way  # pyright: ignore[reportMissingImports]
from tests.testing.ways import (  # pyright: ignore[reportMissingImports]
    Seen,
    by_engine,
    by_harness,
    by_python,
    harness_run,
)

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.testing import WorkflowTest

pytestmark = pytest.mark.anyio

LINES_MAX: Final = 60
ELSEWHERE: Final = {"online_retail", "node_worker"}
"""Examples with tests of their own."""

FILES: Final = sorted(path for path in EXAMPLES.glob("*/workflow.py") if path.parent.name not in ELSEWHERE)


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a server with an engine on it."""
    async with EmbeddedServer(Path(tmp_path_factory.mktemp("examples"))) as running:
        orchestrator, task = await run_beside(JetStreamBroker(running.url), OrchestratorConfig())
        yield running.url
        orchestrator.stop()
        await task


def called(seen: Seen) -> list[tuple[str, int]]:
    """The tasks in the order of their calls, with the number of attempts of each."""
    calls: list[tuple[str, int]] = []
    for task, _, attempt in seen.calls:
        if attempt > 1:
            calls[-1] = (task, attempt)
        else:
            calls.append((task, 1))
    return calls


def wanted(way: Way) -> list[tuple[str, int]]:
    parts = [part.partition("*") for part in way.calls.split()]
    return [(task, int(times or 1)) for task, _, times in parts]


@pytest.mark.parametrize("name", WAYS)
def test_it_ends_as_its_author_means_it(name: str) -> None:
    way = WAYS[name]
    seen = by_harness(way.case)
    assert called(seen) == wanted(way)
    if seen.failure is not None:
        assert seen.failure[0] == way.ends
    else:
        assert way.ends in plain_text(seen.result)


def plain_text(result: Any) -> str:
    """A result as text, with its Decimals as they are written."""
    return repr(result).replace("Decimal('", "").replace("')", "")


@pytest.mark.parametrize("name", WAYS)
def test_its_view_shows_how_far_it_came(name: str) -> None:
    way = WAYS[name]
    view = harness_run(WorkflowTest(way.case.workflow, way.case.make()), way.case).view
    assert (view.queue if hasattr(view, "queue") else view.status) == way.status


@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if way.case.plain])
async def test_plain_python_comes_to_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = WAYS[name].case
    harness, python = by_harness(case), await by_python(case, monkeypatch)
    # Python knows of no retries, so that each attempt is the only one.
    harness.calls = [call for call in harness.calls if call[2] == 1]
    if "branch-started" in harness.kinds:
        # Which of its branches is the first to call a second task is chance.
        harness.calls.sort(key=repr)
        python.calls.sort(key=repr)
    harness.events = []
    assert repr(python) == re.sub(r"attempt \d of \d", "attempt 1 of 1", repr(harness))


async def test_the_engine_comes_to_the_same(server: str) -> None:
    for name, way in WAYS.items():
        assert (await by_engine(way.case, server)).settled() == by_harness(way.case).settled(), name


def test_the_ways_are_those_of_every_example() -> None:
    workflows = {way.case.workflow.spec.module for way in WAYS.values()}
    assert workflows | examples_with_a_database() == {f"{path.parent.name}.workflow" for path in FILES}
    assert len(FILES) == 17


def examples_with_a_database() -> set[str]:
    """Their tasks write to one, so they have tests of their own beside this file, as services have."""
    own = {"signup_outbox.workflow": Path(__file__).with_name("test_signup_outbox.py")}
    assert all(module.partition(".")[0] in test.read_text() for module, test in own.items())
    return set(own)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_a_workflow_is_at_most_60_lines(path: Path) -> None:
    """The function of the workflow and those that it awaits, which are compiled with it."""
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.AsyncFunctionDef)]
    lines = [(node.end_lineno or 0) - node.lineno + 1 for node in functions]
    assert lines
    assert sum(lines) <= LINES_MAX


def test_the_readme_has_a_line_for_each() -> None:
    text = (EXAMPLES / "README.md").read_text()
    for path in EXAMPLES.glob("*/workflow.py"):
        assert f"]({path.parent.name}/" in text, path


def test_the_trips_failure_names_what_is_still_booked() -> None:
    case = WAYS["trip: one cannot be cancelled"].case
    run = WorkflowTest(case.workflow, case.make()).run(*case.arguments)
    assert run.failure is not None
    assert bytes(run.failure.details) == b'{"open":["car-7"]}'  # type: ignore[arg-type]


def test_a_bad_file_tells_what_is_bad_and_how_much_of_it_is_left() -> None:
    case = WAYS["import: a bad file, of which something is left"].case
    run = WorkflowTest(case.workflow, case.make()).run(*case.arguments)
    assert run.failure is not None
    assert run.failure.message == "1 of 2 rows are bad"
    told = msgspec.json.decode(run.failure.details)  # type: ignore[arg-type]
    assert told == {"problems": ["line 1: 'dear' is no price"], "left": 1}


def test_the_last_booking_is_cancelled_first() -> None:
    case = WAYS["trip: no flight"].case
    run = WorkflowTest(case.workflow, case.make()).run(*case.arguments)
    cancelled = [call.arguments["booking"].kind for call in run.calls if call.task == "cancel"]
    assert cancelled == ["hotel", "car"]
