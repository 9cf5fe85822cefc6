"""An import of many rows, some at a time: what is wrong with one row is data, and harms no other.

Too many bad rows are a bad file: then what was stored is removed again, and what cannot be removed is told, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dressage.flow import App, Exponential, Limits, Searchable, TaskError, WorkflowFailure, gather, workflow

app = App("imports")
AT_ONCE = 20
PATIENT = Exponential(base=timedelta(milliseconds=20), limit=timedelta(seconds=1))


class BadRow(WorkflowFailure):
    """The row says nothing that could be stored, however often it is tried."""


class BadFile(WorkflowFailure):
    """Nothing of the file is kept, but for so many products as could not be removed."""

    problems: list[str]
    left: int


@dataclass
class Row:
    line: int
    name: str
    price: str


@dataclass
class File:
    rows: list[Row]
    tolerated: int


@dataclass
class Outcome:
    """What came of a row: a product, or a problem."""

    line: int
    product: str = ""
    problem: str = ""


@dataclass
class Report:
    imported: int
    problems: list[str]


@dataclass
class ImportView:
    rows: int
    status: Searchable[str] = "IMPORTING"
    problems: int = 0


@app.task
def check_row(row: Row) -> Row:
    if not row.price.isdigit():
        raise BadRow(f"{row.price!r} is no price")
    return row


@app.task(retries=2, backoff=PATIENT)
def store(row: Row) -> str:
    return f"{row.name}-{row.line}"


@app.task(retries=2, backoff=PATIENT)
def remove(product: str) -> None: ...


async def import_row(row: Row) -> Outcome:
    try:
        checked = await check_row(row)
        return Outcome(row.line, product=await store(checked))
    except BadRow as refused:
        return Outcome(row.line, problem=refused.message)
    except TaskError as error:
        return Outcome(row.line, problem=f"not stored: {error}")


# A row makes nine output events, and more where a task is tried again: this is enough for a file of ten thousand.
@workflow(limits=Limits(history_events=200_000))
async def import_file(file: File) -> Report:
    view = ImportView(len(file.rows))
    outcomes = await gather(*(import_row(row) for row in file.rows), limit=AT_ONCE)
    problems = [f"line {each.line}: {each.problem}" for each in outcomes if each.problem]
    products = [each.product for each in outcomes if each.product]
    view.problems = len(problems)
    if len(problems) > file.tolerated:
        view.status = "ROLLING BACK"
        left = 0
        try:
            # All are tried, and what some fail with comes as one group when the last has ended.
            await gather(*(remove(product) for product in products), limit=AT_ONCE)
        except* TaskError as stuck:
            left = len(stuck.exceptions)
        view.status = "STUCK" if left else "ROLLED BACK"
        raise BadFile(f"{len(problems)} of {len(outcomes)} rows are bad", problems=problems, left=left)
    view.status = "IMPORTED"
    return Report(len(products), problems)
