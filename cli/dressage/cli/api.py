"""`dressage api`: what the micro service is asked, and what it answers."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table

from dressage.cli import options
from dressage.cli.runs import console
from dressage.orchestrator.api_schema import api_reference, api_schema, operation_schema
from dressage.orchestrator.operations import OPERATIONS
from dressage.protocol.names import Names


@click.group()
def api() -> None:
    """Look at the micro service that every orchestrator offers."""


@api.command("list")
@options.namespace
@options.as_json
def list_(namespace: str, as_json: bool) -> None:
    """List the operations, each with its subject.

    \b
    dressage api list
    """
    names = Names(namespace)
    if as_json:
        shown = [
            {"operation": name, "subject": names.api(name), "about": each.about}
            for name, each in OPERATIONS.items()
        ]
        click.echo(json.dumps(shown))
        return
    table = Table("operation", "subject", "what it does", box=None, pad_edge=False)
    for name, each in OPERATIONS.items():
        table.add_row(name, names.api(name), each.about)
    console().print(table)


def _completed(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    return [name for name in OPERATIONS if name.startswith(begun)]


@api.command()
@click.argument("operation", required=False, shell_complete=_completed)
@options.namespace
def schema(operation: str | None, namespace: str) -> None:
    """Print the JSON Schemas of requests and answers: of one operation, or of all.

    \b
    dressage api schema > dressage.schema.json
    dressage api schema start
    """
    names = Names(namespace)
    if operation is not None and operation not in OPERATIONS:
        raise click.BadParameter(f"there is no operation {operation!r}: `dressage api list` shows them")
    shown: dict[str, Any] = api_schema(names) if operation is None else operation_schema(names, operation)
    click.echo(json.dumps(shown, indent=2))


@api.command()
@options.namespace
def reference(namespace: str) -> None:
    """Print the same for people, in Markdown: each operation with its fields.

    \b
    dressage api reference > reference.md
    """
    click.echo(api_reference(Names(namespace)), nl=False)
