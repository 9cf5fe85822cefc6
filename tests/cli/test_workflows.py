"""`dressage workflow`, against a real engine."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Engine  # pyright: ignore[reportMissingImports]

MODULE = """
from dressage.flow import workflow

@workflow(name="{name}")
async def made(number: int) -> int:
    return number + {step}
"""


@pytest.fixture
def module(engine: Engine) -> str:
    """A module of this test alone, with one workflow that has the module's name."""
    name = f"made-{uuid.uuid4().hex[:8]}"
    write(engine, name, 1)
    return name.replace("-", "_")


def write(engine: Engine, workflow: str, step: int) -> None:
    path = engine.folder / f"{workflow.replace('-', '_')}.py"
    path.write_text(MODULE.format(name=workflow, step=step))


def test_deploying_registers_the_first_version(engine: Engine, module: str) -> None:
    assert engine.call("workflow", "deploy", module).stdout == f"{module.replace('_', '-')} v1 registered\n"


def test_deploying_the_same_again_changes_nothing(engine: Engine, module: str) -> None:
    engine.call("workflow", "deploy", module)
    assert engine.call("workflow", "deploy", module).stdout.endswith(" v1 unchanged\n")


def test_deploying_a_changed_one_makes_a_new_version(engine: Engine, module: str) -> None:
    engine.call("workflow", "deploy", module)
    write(engine, module.replace("_", "-"), 2)
    assert engine.call("workflow", "deploy", f"{module}:made").stdout.endswith(" v2 registered\n")


def test_a_run_of_an_older_version_can_still_be_asked_for(engine: Engine, module: str) -> None:
    name = module.replace("_", "-")
    engine.call("workflow", "deploy", module)
    write(engine, name, 2)
    engine.call("workflow", "deploy", module)
    done = engine.invoke("run", "start", name, "--version", "1", "--input", '{"number": 1}', "--wait")
    assert done.stdout == "2\n"


def test_list_has_every_workflow(engine: Engine, module: str) -> None:
    engine.call("workflow", "deploy", module)
    names = [each["name"] for each in json.loads(engine.invoke("workflow", "list", "--json").stdout)]
    assert {"greeting", module.replace("_", "-")} <= set(names)


def test_show_has_the_source(engine: Engine) -> None:
    assert "return await greet(name)" in engine.invoke("workflow", "show", "greeting").stdout


def test_show_as_json_has_the_spec(engine: Engine) -> None:
    shown = json.loads(engine.invoke("workflow", "show", "greeting", "--json").stdout)
    assert shown["spec"]["name"] == "greeting"


def test_a_version_that_is_not_there_is_named(engine: Engine) -> None:
    done = engine.invoke("workflow", "show", "greeting", "--version", "99")
    assert done.exit_code == 1
    assert done.stderr.startswith("WORKFLOW_UNKNOWN: workflow 'greeting' has no version 99")


def test_a_definition_that_is_refused_shows_line_and_caret(engine: Engine) -> None:
    source = "from dressage.flow import workflow\n@workflow\nasync def bad() -> int:\n    import os\n    return 1\n"
    (engine.folder / "refused.py").write_text(source)
    done = engine.call("workflow", "deploy", "refused")
    assert done.returncode == 1
    assert done.stderr.startswith("DEFINITION_REFUSED: ")
    assert "refused.py:4" in done.stderr
    assert "^" in done.stderr
