"""What the demo asks of DuckDB, and how the answers are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

WORKFLOW: Final = "process-order"


@dataclass(frozen=True)
class Question:
    """A question in words and in SQL."""

    words: str
    sql: str


QUESTIONS: Final = (
    Question(
        "How long does the workflow take?",
        f"""SELECT runs, round(avg_ms) AS average_ms, round(p50_ms) AS p50_ms, round(p95_ms) AS p95_ms,
       round(max_ms) AS longest_ms
FROM workflow_stats WHERE workflow = '{WORKFLOW}'""",
    ),
    Question(
        "How long does an attempt of each task take, and what share of them fails?",
        f"""SELECT task, attempts, round(avg_ms, 1) AS average_ms, round(p95_ms, 1) AS p95_ms,
       failed_share AS share_failed, errored / attempts AS technical, failed / attempts AS business
FROM task_stats WHERE workflow = '{WORKFLOW}' ORDER BY attempts DESC, task""",
    ),
    Question(
        "What became of the orders?",
        f"""SELECT outcome, coalesce(failure_name, '') AS because, runs AS orders, share
FROM outcome_stats WHERE workflow = '{WORKFLOW}' ORDER BY orders DESC, because""",
    ),
)

SHARES: Final = {"share", "share_failed", "technical", "business"}


def show(console: Console, question: Question, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    console.print()
    console.print(question.words, style="bold", highlight=False)
    console.print(question.sql, style="dim", markup=False, highlight=False, soft_wrap=True)
    table = Table()
    for place, name in enumerate(columns):
        is_text = any(isinstance(row[place], str) for row in rows)
        table.add_column(escape(name), justify="left" if is_text else "right")
    for row in rows:
        table.add_row(*(_cell(name, value) for name, value in zip(columns, row, strict=True)))
    console.print(table)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in SHARES:
        return f"{value:.1%}"
    return f"{value:g}" if isinstance(value, float) else escape(str(value))
