"""Finding applications and workflows by name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dressage.cli.loading import load_app, load_workflows
from dressage.flow import App
from dressage.protocol.errors import BadInput, DefinitionError

APP = "from dressage.flow import App, workflow\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The current folder, and a module name of this test alone: an imported module stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path


def write(folder: Path, text: str) -> str:
    name = f"module_of_{folder.name}".replace("-", "_")
    (folder / f"{name}.py").write_text(text)
    return name


def test_an_app_is_found_in_the_current_folder(folder: Path) -> None:
    name = write(folder, APP + "application = App('shop')")
    assert load_app(f"{name}:application")[0].name == "shop"


def test_app_is_the_name_that_need_not_be_given(folder: Path) -> None:
    assert isinstance(load_app(write(folder, APP + "app = App('shop')"))[0], App)


def test_a_wrong_name_is_answered_with_the_right_one(folder: Path) -> None:
    with pytest.raises(BadInput, match="it has the App application") as raised:
        load_app(write(folder, APP + "application = App('shop')"))
    assert raised.value.code == "APP_NOT_FOUND"


def test_something_that_is_no_app_is_not_taken_for_one(folder: Path) -> None:
    with pytest.raises(BadInput, match="is int, not an App"):
        load_app(write(folder, "app = 7"))


def test_a_module_that_is_not_there_is_told_from_one_that_it_imports(folder: Path) -> None:
    with pytest.raises(BadInput, match="No module named 'nowhere'") as raised:
        load_app(write(folder, "import nowhere"))
    assert raised.value.code == "MODULE_BROKEN"


def test_a_module_that_raises_is_named_with_the_line(folder: Path) -> None:
    name = write(folder, "one = 1\ntwo = one / 0\n")
    with pytest.raises(BadInput, match=rf"{name}.py:2: ZeroDivisionError"):
        load_app(name)


def test_a_module_that_does_not_parse_is_named_with_the_line(folder: Path) -> None:
    name = write(folder, "one = 1\ntwo = = 2\n")
    with pytest.raises(BadInput, match=rf"{name}.py:2: SyntaxError"):
        load_app(name)


def test_a_refused_definition_keeps_its_own_error(folder: Path) -> None:
    name = write(folder, APP + "@workflow\nasync def first() -> int:\n    return await later()\n")
    with pytest.raises(DefinitionError, match=f"{name}.py:4"):
        load_workflows(name)


TWO = APP + "".join(
    f"@workflow(name='{name}')\nasync def {name}_() -> int:\n    return 1\n" for name in ("one", "two")
)


def test_all_workflows_of_a_module_are_found(folder: Path) -> None:
    assert [each.name for each in load_workflows(write(folder, TWO))] == ["one", "two"]


@pytest.mark.parametrize("wanted", ["two", "two_"])
def test_one_workflow_is_found_by_its_name_and_by_its_variable(folder: Path, wanted: str) -> None:
    assert [each.name for each in load_workflows(f"{write(folder, TWO)}:{wanted}")] == ["two"]


def test_a_workflow_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(BadInput, match="no workflow 'three'") as raised:
        load_workflows(f"{write(folder, TWO)}:three")
    assert raised.value.code == "WORKFLOW_NOT_FOUND"
