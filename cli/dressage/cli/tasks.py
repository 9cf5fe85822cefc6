"""`dressage task`: calls whose last attempt has failed, and which wait for somebody; and limits of tasks."""

from __future__ import annotations

from collections.abc import Callable
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
from dressage.protocol.names import check_name
from dressage.protocol.permits import LimiterView

_COLUMNS = ("run_id", "workflow", "task", "task_id", "attempt", "dead_at", "failure_name", "failure_message")
_LIMIT = 10_000
_TAKEN_SHOWN = 20


@click.group()
def tasks() -> None:
    """Find dead tasks, retry them, or let them fail; look at limits."""


_task = click.option("--task", "of_task", help="Only those of this task.")
_workflow = click.option("--workflow", "of_workflow", help="Only those of runs of this workflow.")


@tasks.command("list")
@_task
@_workflow
@options.server
@options.namespace
@options.as_json
def list_(of_task: str | None, of_workflow: str | None, server: str, namespace: str, as_json: bool) -> None:
    """List the dead tasks of a namespace, the oldest first. It asks the analytics process."""
    found, more = run(_dead(of_task, of_workflow, server, namespace))
    if more:
        click.echo(f"only the first {len(found)} are shown: choose with --task and --workflow", err=True)
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
@click.argument("task")
@click.option("--key", default="", help="Of the calls that name this key.")
@options.server
@options.namespace
@options.as_json
def limit(task: str, key: str, server: str, namespace: str, as_json: bool) -> None:
    """Show the limit of a task: what it lets be at a time, and in a time, who has a permit, and how many wait."""

    async def read() -> LimiterView:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return await client.task_limit(task, key=key)

    view = run(read())
    if as_json:
        click.echo(msgspec.json.encode(view))
        return
    figures = view.limit
    if figures.concurrency is not None:
        click.echo(f"{len(view.taken)} of {figures.concurrency} at a time are with workers")
    if figures.rate is not None:
        free = f", the next one at {view.free_at}" if view.free_at else ""
        click.echo(f"{figures.rate} in {figures.per_s:g} s may begin{free}")
    click.echo(f"{view.waiting} {'waits' if view.waiting == 1 else 'wait'}")
    table = Table("run", "id", "with workers since", box=None, pad_edge=False)
    for taken in view.taken[:_TAKEN_SHOWN]:
        table.add_row(*map(escape, (taken.run_id, taken.task_id, taken.since)))
    if view.taken:
        console().print(table)
    more = len(view.taken) - _TAKEN_SHOWN
    if more > 0:
        click.echo(f"and {more} more: --json has them")


def _settling(command: Callable[..., None]) -> Callable[..., None]:
    """What both commands take."""
    taken = [
        click.argument("run_id", required=False),
        click.argument("task_id", required=False),
        click.option(
            "--all",
            "all_",
            is_flag=True,
            help="All that `dressage task list` shows, instead of those of a run.",
        ),
        _task,
        _workflow,
        click.option("--reason", default="", help="Why: it stands in the run's history."),
        options.actor,
        options.server,
        options.namespace,
    ]
    for each in reversed(taken):
        command = each(command)
    return command


@tasks.command()
@_settling
def retry(**given: Any) -> None:
    """Retry the dead tasks of a run, one of them, or --all. Each has all its retries once more."""
    _settle("retry", **given)


@tasks.command()
@_settling
def fail(**given: Any) -> None:
    """Let the dead tasks of a run fail, one of them, or --all: their failures are raised in the workflow."""
    _settle("fail", **given)


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
        done, refusals = list[str](), dict[str, str]()
        async with Client(server, namespace=namespace, actor=actor) as client:
            settle = client.retry_task if do == "retry" else client.fail_task

            async def one(run_of: str, task: str) -> None:
                try:
                    await settle(run_of, task, reason=reason)
                except Refused as refused:
                    # Somebody else was faster, or the run has ended since: nothing is left to do.
                    if task_id is not None or refused.code not in ("TASK_UNKNOWN", "RUN_FINISHED"):
                        refusals[f"{run_of} {task}"] = str(refused)
                    return
                done.append(task)

            if all_:
                known, more = set[tuple[str, str]](), True
                while more:  # What dies again meanwhile is none of those that were to be settled.
                    found, more = await _ids(of_task, of_workflow, server, namespace)
                    new = [each for each in found if each not in known]
                    for run_of, task in new:
                        await one(run_of, task)
                    known.update(new)
                    more = more and bool(new)
            elif task_id is not None:
                await one(str(run_id), task_id)
            else:
                for dead in (await client.get(str(run_id))).dead_tasks:
                    await one(str(run_id), dead.task_id)
        for which, said in refusals.items():
            click.echo(f"{which}: {said}", err=True)
        what = f"{len(done)} {'task is' if len(done) == 1 else 'tasks are'}"
        click.echo(f"{what} {'retried' if do == 'retry' else 'failed'}")
        if refusals:
            click.get_current_context().exit(1)

    run(tell())


def _where(of_task: str | None, of_workflow: str | None) -> str:
    """Names have no quotes in them. Raises `BadName`."""
    parts = [f"task = '{check_name(of_task, 'task')}'"] if of_task else []
    parts += [f"workflow = '{check_name(of_workflow, 'workflow')}'"] if of_workflow else []
    return f" WHERE {' AND '.join(parts)}" if parts else ""


async def _ids(
    of_task: str | None, of_workflow: str | None, server: str, namespace: str
) -> tuple[list[tuple[str, str]], bool]:
    """Those that one answer holds, and whether there are more."""
    sql = f"SELECT run_id, task_id FROM dead_tasks{_where(of_task, of_workflow)} ORDER BY dead_at"
    result = await ask(sql, server, namespace, None, _LIMIT, 30.0)
    return [(str(run_of), str(task)) for run_of, task in result.rows], result.truncated


async def _dead(
    of_task: str | None, of_workflow: str | None, server: str, namespace: str
) -> tuple[list[dict[str, Any]], bool]:
    """Those that one answer holds, and whether there are more."""
    sql = f"SELECT {', '.join(_COLUMNS)} FROM dead_tasks{_where(of_task, of_workflow)} ORDER BY dead_at"
    result = await ask(sql, server, namespace, None, _LIMIT, 30.0)
    return [dict(zip(result.columns, row, strict=True)) for row in result.rows], result.truncated
