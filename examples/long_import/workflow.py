"""An import that takes hours: it tells how far it has come, and whoever goes on with it begins there.

A worker that is stopped, killed or cut off loses nothing but the lines behind its last checkpoint; one that hangs is
told by its silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dressage.flow import App, Exponential, Searchable, TaskError, TaskTimeout, WorkflowFailure, workflow
from dressage.worker import current_task

app = App("catalogue")
AT_ONCE = 1000


class Unfinished(WorkflowFailure):
    """What is stored is stored: the same file again changes nothing that is there."""

    lines: int


@dataclass
class Progress:
    line: int
    executions: int


@dataclass
class CatalogueView:
    file: str
    status: Searchable[str] = "COUNTING"
    lines: int = 0


@app.task(retries=3)
def count_lines(file: str) -> int:
    return 400 * len(file)


def store(file: str, first: int, behind: int) -> None:
    """Lines `first` up to, and without, `behind` go where they are wanted. To store them again changes nothing."""


@app.task(
    retries=5,
    backoff=Exponential(base=timedelta(milliseconds=20), limit=timedelta(minutes=1)),
    heartbeat=timedelta(minutes=2),
    deadline=timedelta(hours=12),
    not_retried=(UnicodeError,),
)
async def import_lines(file: str, lines: int) -> int:
    """Gives how many executions it took."""
    task = current_task()
    progress = task.resumed(Progress) or Progress(0, 0)
    executions = progress.executions + 1
    for first in range(progress.line, lines, AT_ONCE):
        behind = min(first + AT_ONCE, lines)
        store(file, first, behind)
        task.heartbeat()
        await task.checkpoint(Progress(behind, executions))
    return executions


@workflow
async def import_catalogue(file: str) -> str:
    view = CatalogueView(file)
    view.lines = await count_lines(file)
    view.status = "IMPORTING"
    try:
        executions = await import_lines(file, view.lines)
    except TaskTimeout:
        view.status = "OVERDUE"
        raise Unfinished(f"{file} was not done in time", lines=view.lines) from None
    except TaskError as error:
        view.status = "BROKEN"
        raise Unfinished(f"{file}: {error}", lines=view.lines) from None
    view.status = "IMPORTED"
    return f"{view.lines} lines in {executions} executions"
