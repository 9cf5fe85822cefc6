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
    assert engine.call("deploy", module).stdout == f"{module.replace('_', '-')} v1 (1.0) registered\n"


def test_deploying_the_same_again_changes_nothing(engine: Engine, module: str) -> None:
    engine.call("deploy", module)
    assert engine.call("deploy", module).stdout.endswith(" v1 (1.0) unchanged\n")


def test_deploying_a_changed_one_makes_a_new_version(engine: Engine, module: str) -> None:
    engine.call("deploy", module)
    write(engine, module.replace("_", "-"), 2)
    assert engine.call("deploy", f"{module}:made").stdout.endswith(" v2 (1.1) registered\n")


def test_a_run_of_an_older_version_can_still_be_asked_for(engine: Engine, module: str) -> None:
    name = module.replace("_", "-")
    engine.call("deploy", module)
    write(engine, name, 2)
    engine.call("deploy", module)
    done = engine.invoke("run", "start", f"{name}@1", "--input", '{"number": 1}', "--wait")
    assert done.stdout == "2\n"


def test_list_has_every_workflow(engine: Engine, module: str) -> None:
    engine.call("deploy", module)
    names = [each["name"] for each in json.loads(engine.invoke("workflow", "list", "--json").stdout)]
    assert {"greeting", module.replace("_", "-")} <= set(names)


def test_show_has_the_source(engine: Engine) -> None:
    assert "return await greet(name)" in engine.invoke("workflow", "show", "greeting").stdout


def test_show_as_json_has_the_spec(engine: Engine) -> None:
    shown = json.loads(engine.invoke("workflow", "show", "greeting", "--json").stdout)
    assert shown["spec"]["name"] == "greeting"


def test_a_version_that_is_not_there_is_named(engine: Engine) -> None:
    done = engine.invoke("workflow", "show", "greeting@99")
    assert done.exit_code == 1
    assert done.stderr.startswith("WORKFLOW_UNKNOWN: workflow 'greeting' has no version 99")


def test_a_definition_that_is_refused_shows_line_and_caret(engine: Engine) -> None:
    source = "from dressage.flow import workflow\n@workflow\nasync def bad() -> int:\n    import os\n    return 1\n"
    (engine.folder / "refused.py").write_text(source)
    done = engine.call("deploy", "refused")
    assert done.returncode == 1
    assert done.stderr.startswith("DEFINITION_REFUSED: ")
    assert "refused.py:4" in done.stderr
    assert "^" in done.stderr


# -- versions ----------------------------------------------------------------------------------------
BREAKING = "async def made(number: int) -> int:", "async def made(number: int, times: int) -> int:"


def broken(engine: Engine, module: str) -> None:
    path = engine.folder / f"{module}.py"
    path.write_text(path.read_text().replace(*BREAKING))


def test_a_check_registers_nothing_and_says_what_would_be(engine: Engine, module: str) -> None:
    name = module.replace("_", "-")
    assert engine.call("deploy", module, "--check").stdout == f"{name} v1 (1.0) would be registered\n"
    engine.call("deploy", module)
    write(engine, name, 2)
    checked = engine.call("deploy", module, "--check")
    assert (checked.returncode, checked.stdout) == (0, f"{name} v2 (1.1) would be registered\n")
    broken(engine, module)
    checked = engine.call("deploy", module, "--check")
    assert checked.returncode == 1
    assert checked.stdout == (
        f"{name} v2 (2.0) would be refused\n"
        "  breaks: parameter 'times' is new and required: give it a default\n"
    )
    assert engine.call("deploy", module, "--check", "--allow", "all").returncode == 0
    rows = json.loads(engine.call("deploy", module, "--check", "--json").stdout)
    assert [(row["workflow"], row["version"], row["label"], row["change"]) for row in rows] == [
        (name, 2, "2.0", "breaking")
    ]
    assert engine.call("deploy", module).stdout.startswith(f"{name} v2 (2.0) registered\n  breaks: ")


def test_a_deployment_that_is_not_allowed_registers_none_of_several(engine: Engine, module: str) -> None:
    name = module.replace("_", "-")
    path = engine.folder / f"{module}.py"
    path.write_text(
        path.read_text() + f'\n@workflow(name="{name}-too")\nasync def too() -> int:\n    return 1\n'
    )
    assert engine.call("deploy", module).returncode == 0
    path.write_text(path.read_text().replace("return 1", "return 2"))
    broken(engine, module)
    refused = engine.call("deploy", module, "--allow", "compatible")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"CHANGE_BREAKING: workflow '{name}' breaks those who use it:\n"
        "- parameter 'times' is new and required: give it a default\n"
    )
    checked = engine.call("deploy", module, "--check").stdout
    assert (checked.count("would be registered"), checked.count("would be refused")) == (1, 1)


def test_aliases_retiring_and_archiving_from_the_shell(engine: Engine, module: str) -> None:
    name = module.replace("_", "-")
    engine.call("deploy", module)
    write(engine, name, 2)
    engine.call("deploy", module)

    def workflow(*arguments: str) -> str:
        done = engine.invoke("workflow", *arguments)
        return done.stdout or done.stderr

    assert workflow("alias", f"{name}@1", "stable") == f"{name}@stable is v1\n"
    done = engine.invoke("run", "start", f"{name}@stable", "--input", '{"number": 1}', "--wait")
    assert done.stdout == "2\n"
    assert workflow("retire", f"{name}@1").startswith(
        f"VERSION_ALIASED: version 1 of workflow '{name}' is {name}@stable"
    )
    assert workflow("retire", f"{name}@2") == f"{name} v2 is retired\n"
    again = engine.call("deploy", module)
    assert again.returncode == 1
    assert again.stderr.startswith(f"VERSION_RETIRED: workflow '{name}' is its version 2, which is retired")
    table = workflow("versions", name)
    assert "latest, stable" in table
    assert "retired" in table
    rows = json.loads(workflow("versions", name, "--json"))
    assert [(each["version"], each.get("retired", False)) for each in rows["versions"]] == [
        (2, True),
        (1, False),
    ]
    assert workflow("restore", f"{name}@1.1") == f"{name} v2 is restored\n"
    assert workflow("alias", name, "stable", "--remove") == f"{name}@stable is removed\n"
    assert workflow("archive", name) == f"{name} is archived\n"
    assert name not in workflow("list")
    assert name in workflow("list", "--all")
    assert workflow("versions", name).startswith(f"{name} is archived: no run of it can be started\n")
    done = engine.invoke("run", "start", name, "--input", '{"number": 1}')
    assert done.stderr.startswith(f"WORKFLOW_ARCHIVED: workflow '{name}' is archived")
    assert workflow("unarchive", name) == f"{name} is no longer archived\n"
    assert workflow("show", f"{name}@1").startswith(f"{name} v1 (1.0), registered")


def test_what_is_asked_for_wrongly_is_a_wrong_call(engine: Engine) -> None:
    assert engine.invoke("workflow", "retire", "greeting").exit_code == 2
    assert engine.invoke("workflow", "alias", "greeting@1", "stable", "--remove").exit_code == 2
    done = engine.invoke("workflow", "alias", "greeting", "latest")
    assert done.stderr.startswith("VERSION_INVALID: 'latest' is no version: give a number")
