"""JSON that is given on the command line: as it is, from a file after `@`, or from standard input for `-`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import msgspec


def parsed(ctx: click.Context, param: click.Parameter, value: str) -> msgspec.Raw:
    """A JSON object."""
    given = any_json(ctx, param, value)
    if not isinstance(json.loads(bytes(given)), dict):
        raise click.BadParameter('give an object of the parameters by name, such as {"order": 7}')
    return given


def any_json(ctx: click.Context, param: click.Parameter, value: str) -> msgspec.Raw:
    """Any JSON."""
    text = _text(value)
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"this is no JSON: {error}") from error
    # The text goes on as it is: a number keeps the digits that it was written with.
    return msgspec.Raw(text)


def values(ctx: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """JSON by a name, each as NAME=JSON."""
    found: dict[str, Any] = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            found[name] = msgspec.json.decode(value)
        except msgspec.MsgspecError as error:
            raise click.BadParameter(
                f"what is set as {name!r} is JSON, as in note='\"none\"': {error}"
            ) from error
    return found


def _text(value: str) -> bytes:
    if value == "-":
        return sys.stdin.buffer.read()
    if not value.startswith("@"):
        return value.encode(errors="surrogateescape")  # As the bytes were that the shell gave us.
    try:
        return Path(value[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{value[1:]} cannot be read: {error.strerror}") from error
