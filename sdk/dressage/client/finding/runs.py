"""Runs by what is known of them: how they stand, when they were, and what their searchable attributes are.

The SQL goes from few rows to more: first the runs that fit are chosen, by half joins and from the columns that are
asked for alone, and then the rest of what is told is looked up, for one page of them. Runs are told apart by the number
`run_key` that is made of their id: among a million, two have the same one in one of 37 million files. That a run id
came back makes no difference: what belongs to the run before went from the file when that was deleted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Final, Literal, get_args

import msgspec

from dressage.brokers.interface import Connection
from dressage.client.finding.conditions import (
    CONDITIONS_MAX,
    IS_MOMENT,
    KIND,
    NUMERIC,
    TEXT,
    Condition,
    is_attribute,
    parse_condition,
    predicate,
)
from dressage.client.finding.query import QueryError, QueryResult, query
from dressage.protocol.errors import BadInput
from dressage.protocol.names import Names

RunStatus = Literal["running", "completed", "failed", "cancelled", "engine-fault"]

LIMIT: Final = 100
PAGE_MAX: Final = 10_000
TIMEOUT_S: Final = 10.0
NEWEST: Final = "-started_at"


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What runs have to be like; what is not said of them may be anything.

    Moments have time zones; `..._from` is included, `..._until` is not. `failure` is the name of the failure that a run
    has ended with, `run_id` how its id begins. `stopped` are those that somebody has stopped as a whole; with False all
    others.
    """

    workflow: str = ""
    version: int | None = None
    status: Collection[RunStatus] = ()
    failure: str = ""
    run_id: str = ""
    actor: str = ""
    stopped: bool | None = None
    started_from: datetime | None = None
    started_until: datetime | None = None
    ended_from: datetime | None = None
    ended_until: datetime | None = None
    where: Sequence[Condition | str] = ()


class FoundRun(msgspec.Struct, frozen=True):
    """A run, as the events tell of it. `search` are its searchable attributes by name."""

    run_id: str
    workflow: str
    version: int
    status: RunStatus
    started_at: str
    ended_at: str | None
    duration_ms: float | None
    failure_name: str | None
    failure_message: str | None
    actor: str
    search: dict[str, Any]


class FoundRuns(msgspec.Struct, frozen=True):
    """One page. `next` is what gives the one behind it; empty if there is none."""

    runs: list[FoundRun]
    next: str = ""


class Counted(msgspec.Struct, frozen=True):
    """So many runs have this value; None: none."""

    value: Any
    runs: int


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Behind which run a page begins: the keys that runs are sorted by, and what tells two with the same ones apart."""

    sort: str
    number: str
    text: str
    run_seq: int


async def runs(
    connection: Connection,
    names: Names,
    asked: RunQuery,
    *,
    sort: str = NEWEST,
    limit: int = LIMIT,
    after: str = "",
    timeout_s: float = TIMEOUT_S,
) -> FoundRuns:
    """As `Client.search`, of any connection."""
    search = _Search(asked)
    sql = search.page(sort, limit, after)
    result = await _asked(connection, names, sql, search.params, limit, timeout_s)
    return _page(result, sort)


async def count_runs(
    connection: Connection,
    names: Names,
    asked: RunQuery,
    *,
    by: str = "",
    limit: int = LIMIT,
    timeout_s: float = TIMEOUT_S,
) -> list[Counted]:
    """As `Client.count`, of any connection."""
    search = _Search(asked)
    sql = search.counts(by, limit)
    result = await _asked(connection, names, sql, search.params, limit, timeout_s)
    return [Counted(value, runs) for value, runs in result.rows]


async def _asked(
    connection: Connection, names: Names, sql: str, params: dict[str, Any], limit: int, timeout_s: float
) -> QueryResult:
    try:
        return await query(
            connection,
            names,
            sql,
            params or None,
            limit_rows=limit,
            fresh=True,
            timeout_s=timeout_s,
        )
    except QueryError as error:
        if "last_ends" not in error.message and "run_key" not in error.message:
            raise
        raise QueryError(
            "the analytics process that answered is of an earlier release: upgrade it", code=error.code
        ) from error


def _page(result: QueryResult, sort: str) -> FoundRuns:
    rows = [dict(zip(result.columns, row, strict=True)) for row in result.rows]
    found = msgspec.convert(rows, list[FoundRun])
    if not result.truncated or not rows:
        return FoundRuns(found)
    last = rows[-1]
    cursor = Cursor(sort, str(last["number"]), last["text"], last["run_seq"])
    return FoundRuns(found, base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode())


# -- as SQL ----------------------------------------------------------------------------------------
_LAST_VALUES: Final = """
    SELECT run_key, arg_max(value, stream_seq) AS value FROM variable_changes
    WHERE searchable AND name = {name}{more} GROUP BY run_key
"""

_GROUPS: Final = {
    "status": "coalesce(e.status, 'running')",
    "workflow": "s.workflow",
    "version": "coalesce(m.version, s.version)",
    "failure": "e.failure_name",
    "actor": "s.actor",
}
_SORTS: Final = {
    "started_at": ("epoch_us(s.started_at)::DOUBLE", "''"),
    "ended_at": ("epoch_us(e.ended_at)::DOUBLE", "''"),
    "duration_ms": ("e.duration_ms", "''"),
    "run_id": ("0::DOUBLE", "s.run_id"),
    "workflow": ("0::DOUBLE", "s.workflow"),
}
_MOVED: Final = """(
    SELECT run_key, arg_max(version, stream_seq) AS version, max(stream_seq) AS stream_seq FROM run_moves
    GROUP BY run_key
)"""
_STOPPED: Final = """
    SELECT run_id FROM (
        SELECT
            run_id, kind, stream_seq, coalesce(CAST(data->>'thread' AS BIGINT), 0) AS thread,
            coalesce(data->>'by', 'somebody') AS wanted_by
        FROM events WHERE kind IN ('run-stopped', 'run-resumed', 'run-rescued')
    )
    WHERE thread = 0 AND wanted_by = 'somebody' AND run_id NOT IN (SELECT run_id FROM last_ends)
    GROUP BY run_id HAVING arg_max(kind, stream_seq) = 'run-stopped'
"""

_PAGE: Final = """
WITH chosen AS MATERIALIZED ({chosen}),
ended AS (SELECT * FROM last_ends WHERE run_key IN (SELECT run_key FROM chosen)),
attributes AS (
    SELECT run_key, json_group_object(name, value) AS search
    FROM (
        SELECT run_key, name, arg_max(value, stream_seq) AS value FROM variable_changes
        WHERE searchable AND run_key IN (SELECT run_key FROM chosen) GROUP BY ALL
    )
    GROUP BY run_key
)
SELECT
    c.run_id, c.workflow, coalesce(m.version, c.version) AS version, coalesce(e.status, 'running') AS status,
    c.started_at, e.ended_at, e.duration_ms, e.failure_name, e.failure_message, c.actor,
    coalesce(a.search, '{{}}'::JSON) AS search, c.run_seq, c.number, c.text
FROM chosen c
LEFT JOIN ended e ON e.run_key = c.run_key AND e.stream_seq > c.run_seq
LEFT JOIN {moved} m ON m.run_key = c.run_key AND m.stream_seq > c.run_seq
LEFT JOIN attributes a ON a.run_key = c.run_key
ORDER BY c.number {way}, c.text {way}, c.run_seq {way}
"""


class _Search:
    """The SQL of one query, and its parameters by name."""

    def __init__(self, asked: RunQuery) -> None:
        self.params: dict[str, Any] = {}
        self._asked = asked
        self._joins: dict[str, str] = {}
        self._wanted: list[str] = []
        for what, said in (("where", asked.where), ("status", asked.status)):
            if isinstance(said, str):
                raise _invalid(f"{what} is a list, not a text: write [{said!r}]")
        if len(asked.where) > CONDITIONS_MAX:
            raise _invalid(
                f"{len(asked.where)} conditions, of {CONDITIONS_MAX} allowed (limit search-conditions)"
            )
        self._say_of_starts()
        self._say_of_ends()
        for each in asked.where:
            self._say(parse_condition(each) if isinstance(each, str) else each)

    def page(self, sort: str, limit: int, after: str) -> str:
        """Raises `BadInput`."""
        if not 1 <= limit <= PAGE_MAX:
            raise _invalid(f"a page has from 1 to {PAGE_MAX:,} runs, not {limit} (limit search-page)")
        way = "DESC" if sort.startswith("-") else "ASC"
        number, text = self._keys(sort.removeprefix("-"), way)
        chosen = self._select(
            "s.stream_seq AS run_seq, s.run_key, s.run_id, s.workflow, s.version, s.started_at, s.actor, "
            f"{number} AS number, {text} AS text"
        )
        behind = ""
        if after:
            cursor = _cursor(after, sort)
            keys = ("number", "text", "run_seq")
            values = (
                f"{self._bind(cursor.number)}::DOUBLE",
                f"{self._bind(cursor.text)}::VARCHAR",
                f"{self._bind(cursor.run_seq)}::UBIGINT",
            )
            behind = f"WHERE {_behind(keys, values, '<' if way == 'DESC' else '>')}"
        order = f"ORDER BY number {way}, text {way}, run_seq {way}"
        chosen = f"SELECT * FROM ({chosen}) {behind} {order} LIMIT {limit + 1}"
        return _PAGE.format(chosen=chosen, moved=_MOVED, way=way)

    def counts(self, by: str, limit: int) -> str:
        """Raises `BadInput`."""
        if not 1 <= limit <= PAGE_MAX:
            raise _invalid(f"from 1 to {PAGE_MAX:,} values are told, not {limit} (limit search-page)")
        if not by:
            return f"SELECT NULL AS value, count(*) AS runs FROM ({self._select('1')})"
        if by in _GROUPS:
            self._join_of(_GROUPS[by])
            value = _GROUPS[by]
        else:
            self._join_attribute(by, _GROUPS)
            value = "nullif(v.value, 'null'::JSON)"
        chosen = self._select(f"{value} AS value")
        return f"SELECT value, count(*) AS runs FROM ({chosen}) GROUP BY value ORDER BY runs DESC, value LIMIT {limit}"

    # -- what is said of runs ----------------------------------------------------------------------
    def _say_of_starts(self) -> None:
        asked = self._asked
        for column, value in (("workflow", asked.workflow), ("actor", asked.actor)):
            if value:
                self._wanted.append(f"s.{column} = {self._bind(value)}::VARCHAR")
        if asked.run_id:
            self._wanted.append(f"starts_with(s.run_id, {self._bind(asked.run_id)}::VARCHAR)")
        if asked.version is not None:
            self._join_of("m.version")
            self._wanted.append(f"coalesce(m.version, s.version) = {self._bind(asked.version)}::BIGINT")
        if asked.stopped is not None:
            self._wanted.append(f"s.run_id {'IN' if asked.stopped else 'NOT IN'} ({_STOPPED})")
        self._wanted += self._between("s.started_at", asked.started_from, asked.started_until)

    def _say_of_ends(self) -> None:
        asked = self._asked
        wrong = set(asked.status) - set(get_args(RunStatus))
        if wrong:
            raise _invalid(f"{', '.join(sorted(wrong))}: a run is {', '.join(get_args(RunStatus))}")
        of_end = self._between("ended_at", asked.ended_from, asked.ended_until)
        if asked.failure:
            of_end.append(f"failure_name = {self._bind(asked.failure)}::VARCHAR")
        ends = [each for each in get_args(RunStatus) if each in asked.status and each != "running"]
        if ends:
            listed = ", ".join(f"'{each}'" for each in ends)
            of_end.append(f"status IN ({listed})")
        has_ended = f"s.run_key IN (SELECT run_key FROM last_ends WHERE {' AND '.join(of_end) or 'true'})"
        runs_on = "s.run_key NOT IN (SELECT run_key FROM last_ends)"
        if "running" not in asked.status:
            self._wanted += [has_ended] if of_end else []
        elif asked.failure or asked.ended_from or asked.ended_until:
            raise _invalid("a run that is running has no end, and no failure: leave out one of both")
        else:
            self._wanted.append(f"({has_ended} OR {runs_on})" if ends else runs_on)

    def _say(self, asked: Condition) -> None:
        name = self._bind(asked.name)
        # A value that fits may have changed since: only of runs that have had one the last is looked at.
        may = f" AND run_key IN (SELECT run_key FROM variable_changes WHERE searchable AND name = {name} AND {{what}})"
        what = predicate(asked, self._bind)
        if asked.operator == "is null":
            may = ""
        last = _LAST_VALUES.format(name=name, more=may.format(what=what))
        # The group's value is not seen by the name of a column.
        fits = f"SELECT run_key FROM (SELECT run_key, value FROM ({last})) WHERE {what}"
        self._wanted.append(f"s.run_key {'NOT IN' if asked.operator == 'is null' else 'IN'} ({fits})")

    def _between(self, column: str, first: datetime | None, last: datetime | None) -> list[str]:
        for moment in (first, last):
            if moment is not None and moment.utcoffset() is None:
                raise _invalid(f"{moment} has no time zone: without one it depends on the machine")
        found = [] if first is None else [f"{column} >= {self._bind(first.isoformat())}::TIMESTAMPTZ"]
        return found + ([] if last is None else [f"{column} < {self._bind(last.isoformat())}::TIMESTAMPTZ"])

    # -- parts of the statement --------------------------------------------------------------------
    def _keys(self, sort: str, way: str) -> tuple[str, str]:
        """A number and a text that are never NULL: who has no value comes last."""
        last_number, last_text = ("'inf'::DOUBLE", "'>'") if way == "ASC" else ("'-inf'::DOUBLE", "''")
        if sort in _SORTS:
            number, text = _SORTS[sort]
            self._join_of(number)
            return f"coalesce({number}, {last_number})", text
        self._join_attribute(sort, _SORTS)
        number = (
            f"CASE WHEN {NUMERIC} THEN try_cast({TEXT} AS DOUBLE) "
            f"WHEN {IS_MOMENT} THEN epoch_us(try_cast({TEXT} AS TIMESTAMPTZ))::DOUBLE END"
        )
        text = f"CASE WHEN {KIND} <> 'NULL' THEN '=' || {TEXT} END"
        return f"coalesce({number}, {last_number})", f"coalesce({text}, {last_text})"

    def _join_of(self, expression: str) -> None:
        if expression.startswith(("e.", "coalesce(e.", "epoch_us(e.")):
            self._joins["e"] = (
                "LEFT JOIN last_ends e ON e.run_key = s.run_key AND e.stream_seq > s.stream_seq"
            )
        if expression.startswith(("m.", "coalesce(m.")):
            self._joins["m"] = (
                f"LEFT JOIN {_MOVED} m ON m.run_key = s.run_key AND m.stream_seq > s.stream_seq"
            )

    def _join_attribute(self, said: str, known: Collection[str]) -> None:
        """The last values of an attribute; one that is called as what is known of all runs has a point in front."""
        name = said.removeprefix(".")
        if not is_attribute(name) or (said in {*_SORTS, *_GROUPS} and said not in known):
            raise _invalid(
                f"{said!r} is neither {', '.join(known)}, nor an attribute (with a point in front if need be)"
            )
        last = _LAST_VALUES.format(name=self._bind(name), more="")
        self._joins["v"] = f"LEFT JOIN ({last}) v ON v.run_key = s.run_key"

    def _select(self, columns: str) -> str:
        wanted = f"WHERE {' AND '.join(self._wanted)}" if self._wanted else ""
        return f"SELECT {columns} FROM run_starts s {' '.join(self._joins.values())} {wanted}"

    def _bind(self, value: object) -> str:
        name = f"p{len(self.params)}"
        self.params[name] = value
        return f"${name}"


def _behind(keys: Sequence[str], values: Sequence[str], sign: str) -> str:
    """Rows behind these keys, in their order."""
    alternatives = [
        " AND ".join(
            [*(f"{keys[n]} = {values[n]}" for n in range(number)), f"{keys[number]} {sign} {values[number]}"]
        )
        for number in range(len(keys))
    ]
    return " OR ".join(f"({each})" for each in alternatives)


def _cursor(after: str, sort: str) -> Cursor:
    try:
        cursor = msgspec.json.decode(base64.urlsafe_b64decode(after), type=Cursor)
        float(cursor.number)
    except (binascii.Error, msgspec.MsgspecError, ValueError) as error:
        raise _invalid("`after` is no `next` of a page") from error
    if cursor.sort != sort:
        raise _invalid(f"`after` is of runs that are sorted by {cursor.sort}, not by {sort}")
    return cursor


def _invalid(what: str) -> BadInput:
    return BadInput(what, code="SEARCH_INVALID")
