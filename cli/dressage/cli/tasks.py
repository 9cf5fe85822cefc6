"""`dressage task`: calls whose last attempt has failed, and which wait for somebody."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.cli import options
from dressage.cli.analytics import ask
from dressage.cli.running import require_answer, run
from dressage.cli.runs import console
from dressage.client import Client
from dressage.protocol.errors import Refused

_COLUMNS = ("run_id", "workflow", "task", "task_id", "attempt", "dead_at", "failure_name", "failure_message")
_LIMIT = 10_000


@click.group()
def tasks() -> None:
    """Find dead tasks, retry them, or let them fail."""


_task = click.option("--task", "of_task", help="Only those of this task.")
_workflow = click.option("--workflow", "of_workflow", help="Only those of runs of this workflow.")
_reason = click.option("--reason", default="", help="Why: it stands in the run's history.")


@tasks.command("list")
@_task
@_workflow
@options.server
@options.namespace
@options.as_json
def list_(of_task: str | None, of_workflow: str | None, server: str, namespace: str, as_json: bool) -> None:
    """List the dead tasks of a namespace, the oldest first. It asks the analytics process."""
    found = run(_dead(of_task, of_workflow, server, namespace))
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    table = Table(
        "run", "workflow", "task", "id", "attempts", "dead since", "failure", box=None, pad_edge=False
    )
    for row in found:
        failure = f"{row['failure_name']}: {row['failure_message']}"
        cells = [*(str(row[name]) for name in _COLUMNS[:6]), failure]
        table.add_row(*map(escape, cells))
    console().print(table)


@tasks.command()
@click.argument("run_id", required=False)
@click.argument("task_id", required=False)
@click.option(
    "--all", "all_", is_flag=True, help="All that `dressage task list` shows, instead of one of a run."
)
@_task
@_workflow
@_reason
@options.actor
@options.server
@options.namespace
def retry(
    run_id: str | None,
    task_id: str | None,
    all_: bool,
    of_task: str | None,
    of_workflow: str | None,
    reason: str,
    actor: str,
    server: str,
    namespace: str,
) -> None:
    """Retry the dead tasks of a run, one of them, or --all. Each has all its retries once more."""
    _settle("retry", run_id, task_id, all_, of_task, of_workflow, reason, actor, server, namespace)


@tasks.command()
@click.argument("run_id", required=False)
@click.argument("task_id", required=False)
@click.option(
    "--all", "all_", is_flag=True, help="All that `dressage task list` shows, instead of one of a run."
)
@_task
@_workflow
@_reason
@options.actor
@options.server
@options.namespace
def fail(
    run_id: str | None,
    task_id: str | None,
    all_: bool,
    of_task: str | None,
    of_workflow: str | None,
    reason: str,
    actor: str,
    server: str,
    namespace: str,
) -> None:
    """Let the dead tasks of a run fail, one of them, or --all: their failures are raised in the workflow."""
    _settle("fail", run_id, task_id, all_, of_task, of_workflow, reason, actor, server, namespace)


def _settle(
    do: str,
    run_id: str | None,
    task_id: str | None,
    all_: bool,
    of_task: str | None,
    of_workflow: str | None,
    reason: str,
    actor: str,
    server: str,
    namespace: str,
) -> None:
    if all_ == (run_id is not None):
        raise click.UsageError("give a run, or --all")
    if not all_ and (of_task or of_workflow):
        raise click.UsageError("--task and --workflow choose among --all")

    async def tell() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            if all_:
                rows = await _dead(of_task, of_workflow, server, namespace)
                found = [(str(row["run_id"]), str(row["task_id"])) for row in rows]
            elif task_id is not None:
                found = [(str(run_id), task_id)]
            else:
                found = [(str(run_id), dead.task_id) for dead in (await client.get(str(run_id))).dead_tasks]
            settled = 0
            for run_of, task in found:
                tell = client.retry_task if do == "retry" else client.fail_task
                try:
                    await tell(run_of, task, reason=reason)
                except Refused as refused:
                    # Somebody else was faster, or the run has ended since: nothing is left to do.
                    if task_id is not None or refused.code not in ("TASK_UNKNOWN", "RUN_FINISHED"):
                        raise
                    continue
                settled += 1
        what = "retried" if do == "retry" else "failed"
        click.echo(f"{settled} {'task is' if settled == 1 else 'tasks are'} {what}")

    run(tell())


async def _dead(
    of_task: str | None, of_workflow: str | None, server: str, namespace: str
) -> list[dict[str, Any]]:
    sql = f"SELECT {', '.join(_COLUMNS)} FROM dead_tasks ORDER BY dead_at"
    result = await ask(sql, server, namespace, None, _LIMIT, 30.0)
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    return [row for row in rows if of_task in (None, row["task"]) and of_workflow in (None, row["workflow"])]
