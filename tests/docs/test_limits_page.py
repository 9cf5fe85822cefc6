"""docs/limits.md says what the code does: every figure that bounds something is on the page, as it is."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any, Final

import pytest

from dressage.connectors.trigger import TriggerOptions
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
PACKAGES: Final = ("sdk", "brokers", "orchestrator", "connectors", "analytics")
CONSTANT: Final = re.compile(r"[A-Z][A-Z0-9_]*_(?:MAX|MIN)(?:_[A-Z]+)*")
IN_CODE: Final = re.compile(r"`((?:[a-z_]+\.)+[A-Z][A-Z0-9_]*)`")

NO_LIMITS: Final = {
    "protocol.spec.LIMITS_MAX": "its fields are in the table of a run",
    "brokers.jetstream.connection.AGAIN_MAX": "how often a request is sent again",
    "orchestrator.doctor.RAFT_GROUPS_MAX": "what doctor warns of",
    "orchestrator.doctor.USED_MAX": "what doctor warns of",
    "orchestrator.doctor.LAG_MAX": "what doctor warns of",
    "orchestrator.doctor.SKEW_S_MAX": "what doctor warns of",
    "orchestrator.growth.SHOWN_MAX": "how much of a list is shown",
    "orchestrator.membership.REST_S_MAX": "a pause",
    "orchestrator.trying.UNABLE_S_MAX": "a pause",
    "orchestrator.turn.owner.PAUSE_S_MIN": "a pause",
    "orchestrator.turn.owner.PAUSE_S_MAX": "a pause",
    "orchestrator.turn.owner.BUGS_MAX": "how often an owner tries again",
    "orchestrator.turn.takeover.ANSWER_S_MAX": "a wait",
    "connectors.gate.PAUSE_MIN_S": "a pause",
    "connectors.gate.PAUSE_MAX_S": "a pause",
    "connectors.trigger.BACKOFF_MIN_S": "a pause",
    "connectors.trigger.BACKOFF_MAX_S": "a pause",
    "analytics.ingest.RETRY_MIN_S": "a pause",
    "analytics.ingest.RETRY_MAX_S": "a pause",
    "analytics.ingest.STALLS_MAX": "how often ingesting tries again",
    "brokers.memory.server.PAYLOAD_BYTES_MAX": "the simulated server's own",
}


def rows() -> list[list[str]]:
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


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
        ("`OrchestratorConfig.runs_max`", OrchestratorConfig().runs_max),
        ("`TenureConfig.window`", TenureConfig.__dataclass_fields__["window"].default),
        ("`--concurrency`, `WorkerConfig.concurrency`", WorkerConfig().concurrency),
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
            names.update(re.findall(r"\(limit ([a-z-]+)\)", text))
            names.update(re.findall(r'(?:LimitExceeded|too_large)\(\s*"([a-z-]+)"', text))
    first = {name for row in rows() for name in re.findall(r"`([a-z-]+)`", row[0])}
    assert names
    assert names <= first, names - first
    assert first - names == set(), "no code raises these"


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
