"""Whether the commands on a page are there, with their options and as many arguments."""

from __future__ import annotations

import re
import shlex

import click

from dressage.cli.main import main


def commands_of(page: str) -> list[str]:
    """The lines of all shell blocks of a page."""
    lines = "".join(re.findall(r"(?s)```sh\n(.*?)```", page)).splitlines()
    return [line for line in lines if line.strip()]


def check_command(line: str) -> None:
    """Raises `AssertionError` for a command that there is not, and `click.UsageError` for what it does not take."""
    program, *words = shlex.split(line, comments=True)
    assert program == "dressage", line
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, line
        command, words = found, words[1:]
    command.make_context(str(command.name), words)
