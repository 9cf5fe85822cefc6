"""`dressage analytics` and `dressage query`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import get_args

import click
from rich.markup import escape
from rich.table import Table

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.answers import Form, show
from dressage.cli.running import interruptible, require_answer, run, signals
from dressage.cli.runs import console
from dressage.client.finding import QueryResult
from dressage.client.finding import query as asked
from dressage.client.finding.questions import QUESTIONS, sql_of
from dressage.protocol.names import Names
from dressage.telemetry import Meters, meters_for


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
        with signals(service.stop), meters.health.shown(service.unready):
            click.echo(
                f"analytics of namespace {namespace} in {db}, behind sequence {service.position}", err=True
            )
            await service.wait()


@click.command()
@click.argument("sql", default="", metavar="SQL or QUESTION")
@click.option("--list", "listed", is_flag=True, help="Show the questions that have names.")
@click.option(
    "--format",
    "output",
    type=click.Choice(get_args(Form)),
    default="table",
    show_default=True,
    help="How to print the rows; a chart has a bar for each, of its first number, and so have pictures.",
)
@click.option(
    "--output", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write them to this file."
)
@click.option(
    "--watch", "every_s", type=click.FloatRange(0.1), metavar="SECONDS", help="Ask again every so often."
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
    listed: bool,
    output: Form,
    file: Path | None,
    every_s: float | None,
    server: str,
    namespace: str,
    db: Path | None,
    limit_rows: int,
    timeout_s: float,
) -> None:
    """Ask the analytics process, also while it ingests.

    \b
    dressage query stuck-runs
    dressage query "FROM workflow_stats"
    dressage query throughput --format chart --watch 5
    dressage query throughput --format png --output throughput.png
    dressage query "FROM events" --limit 100000 --format parquet --output events.parquet
    """
    if listed:
        table = Table("question", "what it tells", box=None, pad_edge=False)
        for name, question in QUESTIONS.items():
            table.add_row(name, escape(question.about))
        console().print(table)
        return
    if not sql.strip():
        raise click.UsageError("say what to ask: SQL, or the name of a question (--list)")
    if every_s is not None and (file is not None or output not in ("table", "chart")):
        raise click.UsageError("--watch shows a table or a chart, in a terminal")

    async def once() -> None:
        result = await ask(sql_of(sql), server, namespace, db, limit_rows, timeout_s)
        if every_s is not None and sys.stdout.isatty():
            click.clear()
        show(result, output, file)
        if result.truncated:
            click.echo(
                f"only the first {len(result.rows)} rows are shown: narrow the query, or see --limit",
                err=True,
            )

    async def again_and_again() -> None:
        while True:
            await once()
            await asyncio.sleep(every_s or 0.0)

    if every_s is None:
        run(once())
    else:
        run(interruptible(again_and_again()))


async def ask(
    sql: str, server: str, namespace: str, db: Path | None, limit_rows: int, timeout_s: float
) -> QueryResult:
    if db is not None:
        from dressage.analytics import query_file  # DuckDB is an extra.

        return await asyncio.to_thread(query_file, db, sql, limit_rows=limit_rows)
    await require_answer(server)
    connection = await JetStreamBroker(server).connect("query")
    try:
        return await asked(connection, Names(namespace), sql, limit_rows=limit_rows, timeout_s=timeout_s)
    finally:
        await connection.close()
