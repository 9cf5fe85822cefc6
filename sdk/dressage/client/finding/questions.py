"""Questions that are asked of every system, by name: `dressage query stuck-runs`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from dressage.protocol.errors import NotFound


@dataclass(frozen=True, slots=True)
class Question:
    """`about` says in a line what is asked, and what the rows are."""

    about: str
    sql: str


QUESTIONS: Final[dict[str, Question]] = {
    "stuck-runs": Question(
        "Runs that go on, and of which nothing was heard for an hour, the longest silence first",
        """
        SELECT r.run_id, r.workflow, r.version, r.started_at, max(e.time) AS last_event,
            arg_max(e.kind, e.stream_seq) AS what
        FROM runs r JOIN events e ON e.run_id = r.run_id AND e.stream_seq >= r.run_seq
        WHERE r.status = 'running'
        GROUP BY ALL HAVING max(e.time) < now() - INTERVAL 1 HOUR
        ORDER BY last_event
        """,
    ),
    "durations": Question(
        "How long runs take, by workflow and version",
        """
        SELECT workflow, version, count(duration_ms) AS ended, quantile_cont(duration_ms, 0.5) AS p50_ms,
            quantile_cont(duration_ms, 0.95) AS p95_ms, quantile_cont(duration_ms, 0.99) AS p99_ms,
            max(duration_ms) AS max_ms
        FROM runs GROUP BY ALL ORDER BY workflow, version
        """,
    ),
    "failures": Question(
        "What runs have failed with, the most frequent first",
        """
        SELECT workflow, status, failure_name, count(*) AS runs, max(ended_at) AS last,
            arg_max(run_id, run_seq) AS example
        FROM runs WHERE failure_name IS NOT NULL GROUP BY ALL ORDER BY runs DESC, workflow, failure_name
        """,
    ),
    "slow-tasks": Question(
        "How long attempts of each task take inside their handler, the slowest first",
        """
        SELECT workflow, task, attempts, p50_ms, p95_ms, max_ms
        FROM task_stats ORDER BY p95_ms DESC NULLS LAST, workflow, task
        """,
    ),
    "queue-waits": Question(
        "How long attempts wait for a worker, by queue and task, the longest first",
        """
        SELECT queue, task, count(waited_ms) AS attempts, quantile_cont(waited_ms - duration_ms, 0.5) AS p50_ms,
            quantile_cont(waited_ms - duration_ms, 0.95) AS p95_ms, count(*) FILTER (outcome IS NULL) AS open
        FROM task_attempts GROUP BY ALL ORDER BY p95_ms DESC NULLS LAST, queue, task
        """,
    ),
    "retries": Question(
        "Tasks whose attempts were retried, and with what they had failed",
        """
        SELECT workflow, task, failure_name, count(*) AS attempts, count(DISTINCT run_id) AS runs, max(ended_at) AS last
        FROM task_attempts WHERE retried GROUP BY ALL ORDER BY attempts DESC, workflow, task, failure_name
        """,
    ),
    "outcomes": Question(
        "Which share of a workflow's runs comes to which end",
        """
        SELECT workflow, outcome, status, failure_name, runs, round(100 * share, 1) AS percent
        FROM outcome_stats ORDER BY workflow, runs DESC, status, failure_name
        """,
    ),
    "throughput": Question(
        "Runs that started and ended in each minute, the latest first",
        """
        SELECT minute, count(*) FILTER (what = 'start') AS started, count(*) FILTER (what = 'end') AS ended
        FROM (
            SELECT time_bucket(INTERVAL 1 MINUTE, started_at) AS minute, 'start' AS what FROM run_starts
            UNION ALL SELECT time_bucket(INTERVAL 1 MINUTE, ended_at), 'end' FROM last_ends
        )
        GROUP BY minute ORDER BY minute DESC
        """,
    ),
    "funnel": Question(
        "How far runs come: of each workflow its tasks in the order of the source, and how many have reached each",
        """
        SELECT workflow, version, node, task, count(DISTINCT run_id) AS reached,
            count(DISTINCT run_id) FILTER (outcome = 'completed') AS completed
        FROM task_attempts GROUP BY ALL ORDER BY workflow, version, node
        """,
    ),
    "flow": Question(
        "Which task follows which in a run, how often, and how long after it began",
        """
        SELECT workflow, task AS from_task, next_task AS to_task, count(*) AS times,
            median(date_diff('millisecond', scheduled_at, next_at)) AS median_ms
        FROM (
            SELECT workflow, task, scheduled_at, lead(task) OVER run AS next_task,
                lead(scheduled_at) OVER run AS next_at
            FROM task_attempts WHERE attempt = 1
            WINDOW run AS (PARTITION BY run_id ORDER BY scheduled_at, node, task_id)
        )
        WHERE next_task IS NOT NULL GROUP BY ALL ORDER BY workflow, times DESC, from_task, to_task
        """,
    ),
    "waiting-people": Question(
        "User tasks that somebody has to do, the oldest first",
        """
        SELECT user_task, user_id, group_id, count(*) AS open, count(*) FILTER (overdue) AS overdue,
            min(opened_at) AS oldest
        FROM user_tasks WHERE state IN ('unassigned', 'assigned') GROUP BY ALL ORDER BY oldest
        """,
    ),
    "dead-tasks": Question(
        "Tasks whose last attempt has failed, and which wait for somebody who retries them",
        """
        SELECT run_id, workflow, task, attempt, dead_at, failure_name, failure_message FROM dead_tasks ORDER BY dead_at
        """,
    ),
    "late-fires": Question(
        "How late schedules fire, and what was not started",
        """
        SELECT schedule, count(*) AS fires,
            count(*) FILTER (outcome IN ('missed', 'skipped', 'refused')) AS not_started,
            quantile_cont(late_ms, 0.95) AS p95_late_ms, max(late_ms) AS max_late_ms
        FROM schedule_fires GROUP BY ALL ORDER BY max_late_ms DESC NULLS LAST, schedule
        """,
    ),
}

_NAME: Final = re.compile(r"[a-z]+(-[a-z]+)*")


def sql_of(said: str) -> str:
    """SQL, or that of the question which is named. No word alone is SQL. Raises `NotFound` (QUESTION_UNKNOWN)."""
    if not _NAME.fullmatch(said):
        return said
    question = QUESTIONS.get(said)
    if question is not None:
        return question.sql
    near = get_close_matches(said, QUESTIONS, n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f'`dressage query --list` shows them; a table is asked by "FROM {said}"'
    )
    raise NotFound(f"there is no question {said!r}: {hint}", code="QUESTION_UNKNOWN")
