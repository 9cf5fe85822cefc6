"""The command itself: help, errors, exit codes."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from dressage.cli.main import COMMANDS, Commands, main


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture
def commands() -> Commands:
    assert isinstance(main, Commands)
    return main


def test_help_lists_every_command() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    assert [name for name in COMMANDS if f"  {name}" not in shown] == []


def test_help_imports_no_command_and_no_library_of_theirs() -> None:
    done = python(
        "import sys\n"
        "from dressage.cli.main import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'nats', 'duckdb', 'rich', 'msgspec', 'asyncio'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_list_exists_and_explains_itself(commands: Commands, name: str) -> None:
    command = commands.get_command(click.Context(main), name)
    assert command is not None
    assert command.help


def test_a_command_that_does_not_exist_is_a_usage_error() -> None:
    done = CliRunner().invoke(main, ["wrokflow"])
    assert done.exit_code == 2
    assert "No such command 'wrokflow'" in done.output


def test_an_option_that_does_not_exist_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["run", "start", "order", "--inptu", "{}"]).exit_code == 2


def test_an_error_of_ours_is_one_line_with_its_code_and_exit_status_1() -> None:
    done = CliRunner().invoke(main, ["worker", "no_such_module:app"])
    assert done.exit_code == 1
    assert done.stderr.startswith("MODULE_NOT_FOUND: there is no module 'no_such_module'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["demo", "query 'SELECT 1' --db events.duckdb", "dev --analytics"])
def test_a_missing_extra_is_named_with_its_cure(command: str) -> None:
    done = python(
        "import shlex, sys\n"
        "sys.modules['duckdb'] = None\n"
        "from dressage.cli.main import main\n"
        f"main(shlex.split({command!r}))"
    )
    assert done.returncode == 1
    assert "pip install 'dressage[analytics]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_is_that_of_the_distribution() -> None:
    assert CliRunner().invoke(main, ["--version"]).output.startswith("dressage, version ")
