"""How runs really go: which step follows which, and the steps as a log that tools for process mining read."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any, Final

import msgspec

from dressage.brokers.interface import Connection
from dressage.client.finding.query import QueryError, query
from dressage.protocol.errors import BadInput
from dressage.protocol.names import Names

PAGE: Final = 2_000
TIMEOUT_S: Final = 60.0


class Follows(msgspec.Struct, frozen=True):
    """So often `after` was the next step behind `before`, and so long after it, as the median in milliseconds.

    `before` is None of first steps; `after` is None where the run ended, in `status`, which is empty otherwise.
    """

    before: str | None
    after: str | None
    status: str
    times: int
    median_ms: float | None


class Step(msgspec.Struct, frozen=True):
    """A row of the view `steps`; moments are RFC 3339."""

    run_id: str
    workflow: str
    version: int
    kind: str
    step: str
    began_at: str
    ended_at: str | None
    outcome: str
    who: str
    attempts: int
    step_seq: int


_MEANT: Final = """
meant AS (
    SELECT run_id, run_seq, started_at, ended_at, status FROM runs
    WHERE workflow = $workflow AND ($version = 0 OR version = $version)
        AND started_at >= coalesce($since::TIMESTAMPTZ, '-infinity'::TIMESTAMPTZ)
)"""
_FOLLOWS: Final = f"""
WITH {_MEANT},
placed AS (
    SELECT
        m.run_id, s.step, s.began_at, lead(s.step) OVER run AS next_step, lead(s.began_at) OVER run AS next_at,
        row_number() OVER run AS place, m.started_at, m.ended_at, m.status
    FROM meant m JOIN steps s ON s.run_id = m.run_id AND s.step_seq > m.run_seq
    WINDOW run AS (PARTITION BY m.run_seq ORDER BY s.began_at, s.step_seq)
),
pairs AS (
    SELECT step AS before, next_step AS after, '' AS status, began_at AS one, next_at AS two FROM placed
    WHERE next_step IS NOT NULL
    UNION ALL
    SELECT NULL, step, '', started_at, began_at FROM placed WHERE place = 1
    UNION ALL
    SELECT step, NULL, status, began_at, ended_at FROM placed WHERE next_step IS NULL AND status <> 'running'
    UNION ALL
    SELECT NULL, NULL, status, started_at, ended_at FROM meant
    WHERE status <> 'running' AND run_id NOT IN (SELECT run_id FROM placed)
)
SELECT before, after, status, count(*) AS times, median(epoch_us(two) - epoch_us(one)) / 1000 AS median_ms
FROM pairs GROUP BY ALL ORDER BY times DESC, before NULLS FIRST, after NULLS LAST, status
"""
_STEPS: Final = f"""
WITH {_MEANT}
SELECT s.* FROM steps s JOIN meant m ON s.run_id = m.run_id AND s.step_seq > m.run_seq
WHERE (s.run_id, s.step_seq) > ($run_id::VARCHAR, $step_seq::UBIGINT)
ORDER BY s.run_id, s.step_seq
"""


async def follows(
    connection: Connection,
    names: Names,
    workflow: str,
    *,
    version: int = 0,
    since: datetime | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[Follows]:
    """Which step follows which, the most frequent first: of runs that were started `since`, or of all.

    Raises as `Client.query` does, and `BadInput` (SEARCH_INVALID) for a moment without a zone.
    """
    params = _params(workflow, version, since)
    result = await query(connection, names, _FOLLOWS, params, limit_rows=100_000, timeout_s=timeout_s)
    if result.truncated:
        raise QueryError(
            f"more than {len(result.rows)} pairs of steps do not fit: ask for one version, or for younger runs",
            code="QUERY_TOO_LARGE",
        )
    return msgspec.convert(
        [dict(zip(result.columns, row, strict=True)) for row in result.rows], list[Follows]
    )


async def steps(
    connection: Connection,
    names: Names,
    workflow: str,
    *,
    version: int = 0,
    since: datetime | None = None,
    timeout_s: float = TIMEOUT_S,
) -> AsyncGenerator[Step, None]:
    """The steps of those runs, one run after the other, in the order of `step_seq`. Raises as `follows` does."""
    params = {**_params(workflow, version, since), "run_id": "", "step_seq": 0}
    while True:
        result = await query(connection, names, _STEPS, params, limit_rows=PAGE, timeout_s=timeout_s)
        page = msgspec.convert(
            [dict(zip(result.columns, row, strict=True)) for row in result.rows], list[Step]
        )
        for each in page:
            yield each
        if not result.truncated:
            return
        params |= {"run_id": page[-1].run_id, "step_seq": page[-1].step_seq}


def _params(workflow: str, version: int, since: datetime | None) -> dict[str, Any]:
    if since is not None and since.utcoffset() is None:
        raise BadInput(
            f"{since} has no time zone: without one it depends on the machine", code="SEARCH_INVALID"
        )
    return {
        "workflow": workflow,
        "version": version,
        "since": None if since is None else since.isoformat(),
    }
