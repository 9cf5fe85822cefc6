"""docs/limits.md says what the code does: every figure that bounds something is on the page, as it is, and tested."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from dressage.connectors.http.app import HttpOptions
from dressage.connectors.setting import TriggerOptions
from dressage.connectors.webhooks import WebhookOptions
from dressage.expressions.frame import OPERATION_WORK
from dressage.expressions.limits import ITEM_WEIGHT
from dressage.flow import Limits
from dressage.orchestrator.fold.advance import EVENT_WORK
from dressage.orchestrator.fold.definition import STEP_WORK
from dressage.orchestrator.service import OrchestratorConfig
from dressage.orchestrator.turn.tenure import TenureConfig
from dressage.protocol.spec import LIMITS_MAX
from dressage.worker import WorkerConfig

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "limits.md").read_text()
PACKAGES: Final = ("sdk", "brokers", "orchestrator", "outbox", "connectors", "analytics")
CONSTANT: Final = re.compile(r"[A-Z][A-Z0-9_]*_(?:MAX|MIN)(?:_[A-Z]+)*")
IN_CODE: Final = re.compile(r"`((?:[a-z_]+\.)+[A-Z][A-Z0-9_]*)`")

NO_LIMITS: Final = {
    "flow.drawing.svg.CHARS_MAX": "how much of a text a picture shows",
    "testing.workflow_test.COMMANDS_MAX": "when a unit test gives up; on docs/testing.md",
    "protocol.spec.LIMITS_MAX": "its fields are in the table of a run",
    "brokers.jetstream.connection.AGAIN_MAX": "how often a request is sent again",
    "orchestrator.doctor.RAFT_GROUPS_MAX": "what doctor warns of",
    "orchestrator.doctor.USED_MAX": "what doctor warns of",
    "orchestrator.doctor.LAG_MAX": "what doctor warns of",
    "orchestrator.doctor.SKEW_S_MAX": "what doctor warns of",
    "orchestrator.growth.SHOWN_MAX": "how much of a list is shown",
    "orchestrator.fold.limits.LOG_CHARS_MAX": "how much of an attempt's log is kept; on docs/protocol.md",
    "worker.attempt.LOG_CHARS_MAX": "how much of an attempt's log is kept; on docs/tasks.md",
    "client.client.PAUSE_S_MAX": "a pause",
    "orchestrator.fold.limiter.LATER_MS_MAX": "a pause",
    "worker.worker.LOOK_S_MAX": "a pause",
    "orchestrator.membership.REST_S_MAX": "a pause",
    "orchestrator.trying.UNABLE_S_MAX": "a pause",
    "orchestrator.turn.owner.PAUSE_S_MIN": "a pause",
    "orchestrator.turn.owner.PAUSE_S_MAX": "a pause",
    "orchestrator.turn.owner.BUGS_MAX": "how often an owner tries again",
    "orchestrator.turn.takeover.ANSWER_S_MAX": "a wait",
    "orchestrator.turn.publishing.PAUSE_S_MIN": "a pause",
    "orchestrator.turn.publishing.PAUSE_S_MAX": "a pause",
    "outbox.relay.engine.AGAIN_MS_MIN": "a pause",
    "outbox.relay.engine.AGAIN_MS_MAX": "a pause",
    "outbox.relay.fault.PAUSE_MIN_S": "a pause",
    "outbox.relay.fault.PAUSE_MAX_S": "a pause",
    "connectors.gate.PAUSE_MIN_S": "a pause",
    "connectors.gate.PAUSE_MAX_S": "a pause",
    "connectors.setting.BACKOFF_MIN_S": "a pause",
    "connectors.setting.BACKOFF_MAX_S": "a pause",
    "connectors.kafka.source.BACKOFF_MIN_S": "a pause",
    "connectors.kafka.source.BACKOFF_MAX_S": "a pause",
    "connectors.kafka.sink.RETRY_MAX_S": "a pause",
    "connectors.active.RETRY_MAX_S": "a pause",
    "connectors.events_out.under_way.BACKOFF_MIN_S": "a pause",
    "connectors.events_out.under_way.BACKOFF_MAX_S": "a pause",
    "analytics.ingest.RETRY_MIN_S": "a pause",
    "analytics.ingest.RETRY_MAX_S": "a pause",
    "analytics.ingest.STALLS_MAX": "how often ingesting tries again",
    "brokers.memory.server.PAYLOAD_BYTES_MAX": "the simulated server's own",
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [cells(line) for line in lines]


def documented() -> dict[str, str]:
    """The constants on the page, and the whole row of each."""
    found = {name: " | ".join(row) for row in rows() for name in IN_CODE.findall(" ".join(row))}
    for paragraph in PAGE.split("\n\n"):
        if not paragraph.startswith("|"):
            found |= dict.fromkeys(IN_CODE.findall(paragraph), paragraph)
    return found


def value_of(name: str) -> Any:
    module, _, constant = name.rpartition(".")
    return getattr(importlib.import_module(f"dressage.{module}"), constant)


def written(figure: float) -> set[str]:
    """How a figure may be written."""
    forms = {f"{figure:,.0f}" if figure == int(figure) else f"{figure:g}"}
    for unit, size in (("KiB", 1024), ("MiB", 1024 * 1024)):
        if figure % size == 0:
            forms.add(f"{figure // size:g} {unit}")
    return forms


def in_code() -> set[str]:
    """Every public constant that is called a maximum or a minimum."""
    found: set[str] = set()
    for root in PACKAGES:
        base = ROOT / root / "dressage"
        for path in base.rglob("*.py"):
            module = ".".join(path.relative_to(base).with_suffix("").parts)
            for node in ast.parse(path.read_text()).body:
                target: ast.expr | None = node.target if isinstance(node, ast.AnnAssign) else None
                if isinstance(node, ast.Assign):
                    target = node.targets[0]
                if isinstance(target, ast.Name) and CONSTANT.fullmatch(target.id):
                    found.add(f"{module}.{target.id}")
    return found


@pytest.mark.parametrize("name", documented())
def test_a_figure_on_the_page_is_that_of_the_code(name: str) -> None:
    row = documented()[name]
    figure = value_of(name)
    assert any(form in row for form in written(figure)), f"{name} is {figure}, and the page says: {row}"


def test_every_figure_of_the_code_is_on_the_page() -> None:
    missing = in_code() - documented().keys() - NO_LIMITS.keys()
    assert not missing, "add them to docs/limits.md, or say here why they are no limits"


def test_what_is_said_to_be_no_limit_exists() -> None:
    for name in NO_LIMITS:
        assert value_of(name) is not None


@pytest.mark.parametrize("field", Limits.__struct_fields__)
def test_the_limits_of_a_run_are_those_of_the_code(field: str) -> None:
    found = [row for row in rows() if row[-1] == f"`{field}`"]
    assert found
    for row in found:
        assert row[2] in written(getattr(Limits(), field))
        assert row[3] in written(getattr(LIMITS_MAX, field))


@pytest.mark.parametrize(
    ("option", "figure"),
    [
        ("`--runs-in-memory`, `OrchestratorConfig.runs_max`", OrchestratorConfig().runs_max),
        ("`TenureConfig.window`", TenureConfig.__dataclass_fields__["window"].default),
        ("`--concurrency`, `WorkerConfig.concurrency`", WorkerConfig().concurrency),
        ("`WebhookOptions.in_flight`", WebhookOptions().in_flight),
        ("`HttpOptions.in_flight`", HttpOptions().in_flight),
        ("`TriggerOptions.in_flight`", TriggerOptions().in_flight),
        ("`TriggerOptions.pending_max`", TriggerOptions().pending_max),
    ],
)
def test_the_options_of_processes_are_those_of_the_code(option: str, figure: int) -> None:
    (row,) = [row for row in rows() if row[-1] == option]
    assert row[1] in written(figure)


def test_the_units_of_work_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"{OPERATION_WORK} units for each part of an expression" in text
    assert f"{ITEM_WEIGHT} for each item that is looked at" in text
    assert f"{STEP_WORK} units for each node, {EVENT_WORK} for each output event" in text


def test_every_name_of_a_limit_in_the_code_is_on_the_page() -> None:
    """The page is where an error's name is looked up."""
    names: set[str] = set()
    for root in PACKAGES:
        for path in (ROOT / root / "dressage").rglob("*.py"):
            text = path.read_text()
            names.update(re.findall(r"\blimit ([a-z-]+)\)", text))
            names.update(re.findall(r'(?:LimitExceeded|too_large)\(\s*"([a-z-]+)"', text))
    first = {name for row in rows() for name in re.findall(r"`([a-z-]+)`", row[0])}
    assert names
    assert names <= first, names - first
    assert first - names == set(), "no code raises these"


# -- each row has its test -------------------------------------------------------------------------
NOBODY_MEETS: Final = {
    "Processes": "what a process is given to run with: nothing is refused for it",
    "Inside": "batches and tables of the engine itself: another figure would only be slower",
}


def tables() -> Iterator[tuple[str, dict[str, str]]]:
    """Each row of each table by the names of its columns, with the heading that it stands under."""
    heading, columns = "", list[str]()
    for line in PAGE.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        if not line.startswith("| "):
            columns = []
        elif not columns:
            columns = cells(line)
        elif not line.startswith("| ---"):
            yield heading, dict(zip(columns, cells(line), strict=True))


def limits() -> list[dict[str, str]]:
    """The rows that somebody can meet."""
    return [row for heading, row in tables() if heading not in NOBODY_MEETS]


def keys_of(row: dict[str, str]) -> list[str]:
    """What a test names as the limit that it tries: the constant, or the name if the workflow sets the figure."""
    return re.findall(r"`([^`]+)`", row.get("in the code", row["name"]))


def marks_of(function: Any) -> Iterator[str]:
    """The limits that a test function names, on itself or on one of its cases."""
    for mark in getattr(function, "pytestmark", ()):
        if mark.name == "limit":
            yield from mark.args
        if mark.name == "parametrize":
            yield from (name for case in mark.args[1] for name in marks_of_case(case))


def marks_of_case(case: Any) -> Iterator[str]:
    return (name for mark in getattr(case, "marks", ()) if mark.name == "limit" for name in mark.args)


def tried() -> Counter[str]:
    """How many tests, or cases of one, try each limit."""
    found: Counter[str] = Counter()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "pytest.mark.limit(" in path.read_text() and path != Path(__file__):
            module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for name, function in vars(module).items():
                if name.startswith("test_"):
                    found.update(marks_of(function))
    return found


TRIED: Final = tried()


def test_every_limit_is_tried_at_its_edge() -> None:
    rows = limits()
    assert rows
    missing = [key for row in rows for key in keys_of(row) if not TRIED[key]]
    assert not missing, "mark the tests that try them, exactly and one beyond, with pytest.mark.limit"
    assert all(keys_of(row) for row in rows), "a row names its constant, or the limit that a workflow sets"


def test_no_test_tries_a_limit_that_is_not_on_the_page() -> None:
    known = {key for row in limits() for key in keys_of(row)} | documented().keys()
    assert not TRIED.keys() - known


def test_every_limit_says_who_sets_it() -> None:
    for row in limits():
        (setter,) = [cell for column, cell in row.items() if column.startswith("set by")]
        assert re.match(r"fixed: \w+|.*`", setter), row


def test_every_constant_of_a_limit_has_a_row_of_its_own() -> None:
    """A constant that is only mentioned in a sentence has no name, no owner and no test."""
    in_rows = [name for _, row in tables() for name in IN_CODE.findall(row.get("in the code", ""))]
    assert sorted(in_rows) == sorted(set(in_rows))
    assert not documented().keys() - set(in_rows)


def test_the_sections_without_tests_exist() -> None:
    assert {heading for heading, _ in tables()} >= NOBODY_MEETS.keys()


def test_the_example_is_taken(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    path = tmp_path / "collecting.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location("collecting", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.collect.spec.limits == Limits(history_events=200_000, variables_bytes=512 * 1024)


def test_the_command_exists() -> None:
    assert re.search(r"^fuzz: .*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert (ROOT / "tests" / "fuzz" / "guided.py").is_file()
    assert re.search(r"^sleeping: .*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
