"""`dressage analytics` and `dressage query`."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.running import require_answer, run, signals
from dressage.protocol.names import Names
from dressage.telemetry import Meters, meters_for

# DuckDB is an extra, and takes a moment to import: only the commands here do, when they run.
if TYPE_CHECKING:
    from dressage.analytics import QueryResult


@click.command()
@options.server
@options.namespace
@click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("dressage.duckdb"),
    show_default=True,
    help="The file to write. It belongs to this process while it runs.",
)
@options.metrics_port
@options.metrics_host
def analytics(server: str, namespace: str, db: Path, metrics_port: int | None, metrics_host: str) -> None:
    """Write the output events into a DuckDB file, exactly once, and answer `dressage query`."""
    run(_serve(server, namespace, db, meters_for(metrics_port, metrics_host)))


async def _serve(server: str, namespace: str, db: Path, meters: Meters) -> None:
    from dressage.analytics import AnalyticsService, Metered

    await require_answer(server)
    service = AnalyticsService(server, namespace, db, metrics=Metered(meters))
    async with service:
        with signals(service.stop):
            click.echo(
                f"analytics of namespace {namespace} in {db}, behind sequence {service.position}", err=True
            )
            await service.wait()


@click.command()
@click.argument("sql")
@click.option(
    "--format",
    "output",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How to print the rows.",
)
@options.server
@options.namespace
@click.option(
    "--db",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Open this file instead of asking a process; nobody may be writing it.",
)
@click.option("--limit", "limit_rows", default=1000, show_default=True, help="At most so many rows.")
@click.option(
    "--timeout", "timeout_s", default=30.0, show_default=True, help="Seconds to wait for the answer."
)
def query(
    sql: str,
    output: str,
    server: str,
    namespace: str,
    db: Path | None,
    limit_rows: int,
    timeout_s: float,
) -> None:
    """Ask the analytics process, also while it ingests: dressage query "FROM workflow_stats"."""
    result = run(ask(sql, server, namespace, db, limit_rows, timeout_s))
    _print(result, output)
    if result.truncated:
        click.echo(
            f"only the first {len(result.rows)} rows are shown: narrow the query, or see --limit", err=True
        )


async def ask(
    sql: str, server: str, namespace: str, db: Path | None, limit_rows: int, timeout_s: float
) -> QueryResult:
    from dressage.analytics import query as asked
    from dressage.analytics import query_file

    if db is not None:
        return await asyncio.to_thread(query_file, db, sql, limit_rows=limit_rows)
    await require_answer(server)
    connection = await JetStreamBroker(server).connect("query")
    try:
        return await asked(connection, Names(namespace), sql, limit_rows=limit_rows, timeout_s=timeout_s)
    finally:
        await connection.close()


def _print(result: QueryResult, output: str) -> None:
    if output == "json":
        click.echo(msgspec.json.encode([dict(zip(result.columns, row, strict=True)) for row in result.rows]))
    elif output == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(result.columns)
        writer.writerows([[_cell(value, "") for value in row] for row in result.rows])
    else:
        _print_table(result)


def _print_table(result: QueryResult) -> None:
    table = Table()
    numbers = ("INT", "DOUBLE", "FLOAT", "DECIMAL")
    for name, kind in zip(result.columns, result.types, strict=True):
        right = any(part in kind for part in numbers) and "(" not in kind.removeprefix("DECIMAL(")
        table.add_column(escape(name), justify="right" if right else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*(escape(_cell(value, "-")) for value in row))
    # A table in a pipe must not be cut to the width of a terminal that is not there.
    Console(width=None if sys.stdout.isatty() else 10_000).print(table)


def _cell(value: object, absent: str) -> str:
    match value:
        case None:
            return absent
        case str():
            return value
        case float():
            return f"{value:.6g}" if absent == "-" else repr(value)
        case _:
            return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
