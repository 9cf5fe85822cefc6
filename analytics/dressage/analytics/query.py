"""SQL over the events: answered by the process that writes the file, or from a file that nobody writes.

A file of DuckDB belongs to the process that writes it, so that process answers the queries of all others, on
`names.query()` in a queue group. A query sees one state of the file and the positions that go with it, and
neither waits for ingestion nor holds it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import duckdb
import msgspec

from dressage.analytics.errors import AnalyticsError
from dressage.analytics.metrics import Metrics, NoMetrics
from dressage.analytics.store import Store, StoreConfig, check_format, open_database
from dressage.analytics.values import expression, is_json, wire_value
from dressage.brokers.interface import Connection, Subscription
from dressage.client.finding.query import Params, QueryError, QueryReply, QueryRequest, QueryResult
from dressage.protocol.errors import DressageError, NotFound
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.analytics")

QUEUE_GROUP: Final = "analytics"
ROWS_MAX: Final = 100_000
TIMEOUT_MAX_S: Final = 300.0
INTERRUPT_AGAIN_S: Final = 0.05

REPLY_BYTES_RESERVED: Final = 4 * 1024
"""Of a message, for what stands in a reply beside columns and rows."""

FETCH_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Budget:
    """What one query may use: rows, bytes of encoded rows, seconds."""

    rows: int
    bytes_max: int
    seconds: float


_request_decoder: Final = msgspec.json.Decoder(QueryRequest)
_encoder: Final = msgspec.json.Encoder()


# -- running one ------------------------------------------------------------------------------------
def run_query(
    cursor: duckdb.DuckDBPyConnection, sql: str, params: Params | None, budget: Budget
) -> QueryResult:
    """Runs one statement that only reads, in a transaction that can do nothing else. Raises `QueryError`.

    Blocks for at most `budget.seconds`, as far as another thread calls `cursor.interrupt()` then.
    """
    started = time.monotonic()
    try:
        text = _single_select(sql)
        # Says of a table function or of an unforeseen statement what the check of its type cannot.
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        try:
            positions = dict(cursor.execute("SELECT stream, position FROM positions").fetchall())
            columns, types = _describe(cursor, text, params)
            rows, truncated = _rows(cursor, text, params, types, budget, started)
        finally:
            # A failed statement has ended its transaction already.
            with contextlib.suppress(duckdb.Error):
                cursor.execute("ROLLBACK")
    except duckdb.Error as error:
        raise _query_error(error, budget) from error
    elapsed_ms = (time.monotonic() - started) * 1e3
    return QueryResult(columns, types, rows, positions, round(elapsed_ms, 3), truncated)


def _single_select(sql: str) -> str:
    """The statement without its semicolon. Raises `QueryError` for anything but one SELECT."""
    statements = duckdb.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"give one statement: there are {len(statements)} here", code="QUERY_INVALID")
    kind = statements[0].type
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(
            f"this is a statement of type {kind.name}; only SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW and "
            "SUMMARIZE are answered",
            code="QUERY_NOT_READ_ONLY",
        )
    # What is a semicolon and what is inside of a text or a comment, only DuckDB's own scanner knows. Its
    # offsets are in bytes.
    encoded = sql.encode()
    tokens = duckdb.tokenize(sql)
    for offset, kind_of in reversed(tokens):
        if kind_of != duckdb.token_type.comment:
            return encoded[:offset].decode() if encoded[offset : offset + 1] == b";" else sql
    return sql


def _describe(
    cursor: duckdb.DuckDBPyConnection, text: str, params: Params | None
) -> tuple[list[str], list[str]]:
    relation = cursor.sql(text, params=params)
    return list(relation.columns), [str(one) for one in relation.types]


def _rows(
    cursor: duckdb.DuckDBPyConnection,
    text: str,
    params: Params | None,
    types: Sequence[str],
    budget: Budget,
    started: float,
) -> tuple[list[list[Any]], bool]:
    """The rows that fit the budget, and whether there are more."""
    selected = ", ".join(expression(f"#{number}", name) for number, name in enumerate(types, 1))
    # The line break ends a comment at the end of the statement.
    cursor.execute(f"SELECT {selected} FROM (\n{text}\n)", params)
    json_text = [is_json(name) for name in types]
    rows: list[list[Any]] = []
    room = budget.bytes_max
    while chunk := cursor.fetchmany(FETCH_ROWS):
        if time.monotonic() - started > budget.seconds:
            raise _timed_out(budget)
        for values in chunk:
            if len(rows) >= budget.rows:
                return rows, True
            row = [wire_value(value, json_text=flag) for value, flag in zip(values, json_text, strict=True)]
            room -= len(_encoder.encode(row)) + 1
            if room < 0:
                if rows:
                    return rows, True
                raise QueryError(
                    "the first row alone is larger than one message: select fewer columns, or parts of them",
                    code="QUERY_TOO_LARGE",
                )
            rows.append(row)
    return rows, False


def _query_error(error: duckdb.Error, budget: Budget) -> QueryError:
    text = str(error).strip()
    match error:
        case duckdb.InterruptException():
            return _timed_out(budget)
        case duckdb.OutOfMemoryException():
            return QueryError(
                f"the query needs more memory or disk than it may use: {text}", code="QUERY_TOO_LARGE"
            )
        case duckdb.TransactionException() if "read-only" in text:
            return QueryError(text, code="QUERY_NOT_READ_ONLY")
        case _:
            return QueryError(text, code="QUERY_INVALID")


def _timed_out(budget: Budget) -> QueryError:
    return QueryError(
        f"the query took longer than {budget.seconds:g} s: narrow it down, or allow it more time, up to "
        f"{TIMEOUT_MAX_S:g} s (limit query-time)",
        code="QUERY_TIMEOUT",
        retryable=True,
    )


# -- answering over NATS ----------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class ResponderLimits:
    """How many queries run at once, and how many may wait for that."""

    running_max: int = 2
    waiting_max: int = 64


Reached = Callable[[int, float], Awaitable[bool]]
"""Waits for a position of the EVENTS stream, at most so many seconds; says whether it was reached."""


class QueryResponder:
    """Answers on `names.query()` from the store, until `stop()`."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        store: Store,
        reached: Reached,
        *,
        limits: ResponderLimits | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._connection = connection
        self._names = names
        self._store = store
        self._reached = reached
        self._limits = limits or ResponderLimits()
        self._metrics = metrics or NoMetrics()
        self._slots = asyncio.Semaphore(self._limits.running_max)
        self._tasks: set[asyncio.Task[None]] = set()
        self._cursors: set[duckdb.DuckDBPyConnection] = set()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        self._subscription = await self._connection.serve(
            self._names.query(), self._on_request, queue=QUEUE_GROUP
        )

    async def stop(self) -> None:
        """Takes no more queries, interrupts those that run, and answers them."""
        if self._subscription is not None:
            await self._subscription.close()
        while self._tasks:
            for cursor in self._cursors:
                cursor.interrupt()
            await asyncio.wait(self._tasks, timeout=INTERRUPT_AGAIN_S)

    async def _on_request(self, subject: str, data: bytes, reply: str) -> None:
        task = asyncio.create_task(self._respond(data, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _respond(self, data: bytes, reply: str) -> None:
        started = time.monotonic()
        answer = await self._answer(data)
        self._metrics.answered(answer.code, time.monotonic() - started)
        if reply:
            try:
                await self._connection.tell(reply, _encoder.encode(answer))
            except DressageError as error:
                _log.warning("the answer to a query could not be sent: %s", error)

    async def _answer(self, data: bytes) -> QueryReply:
        try:
            request = _request_decoder.decode(data)
            return QueryReply(await self._query(request))
        except QueryError as error:
            return QueryReply(code=error.code, message=error.message)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            return QueryReply(code="QUERY_MALFORMED", message=f"the request cannot be read: {error}")
        except Exception as error:
            _log.exception("a query failed for a reason of our own")
            return QueryReply(code="QUERY_INVALID", message=f"{type(error).__name__}: {error}")

    async def _query(self, request: QueryRequest) -> QueryResult:
        if len(self._tasks) > self._limits.running_max + self._limits.waiting_max:
            raise QueryError("too many queries wait already: ask again later", code="QUERY_BUSY")
        deadline = time.monotonic() + min(request.timeout_s, TIMEOUT_MAX_S)
        await self._await_positions(request, deadline)
        async with self._slots:
            left_s = max(0.001, deadline - time.monotonic())
            payload = self._connection.payload_bytes_max - REPLY_BYTES_RESERVED
            budget = Budget(max(0, min(request.limit_rows, ROWS_MAX)), payload, left_s)
            result = await self._run(request, budget)
        return _fitting(result, payload)

    async def _await_positions(self, request: QueryRequest, deadline: float) -> None:
        for stream, seq in request.not_before.items():
            if stream != self._names.events_stream:
                raise QueryError(f"this process reads no stream {stream}", code="QUERY_MALFORMED")
            if not await self._reached(seq, deadline - time.monotonic()):
                raise QueryError(
                    f"the file reflects {stream} up to {self._store.position}, which is before {seq}",
                    code="QUERY_BEHIND",
                )

    async def _run(self, request: QueryRequest, budget: Budget) -> QueryResult:
        cursor = self._store.cursor()
        self._cursors.add(cursor)
        ending = asyncio.create_task(_interrupt(cursor, budget.seconds))
        try:
            return await anyio.to_thread.run_sync(run_query, cursor, request.sql, request.params, budget)
        finally:
            ending.cancel()
            self._cursors.discard(cursor)
            cursor.close()


async def _interrupt(cursor: duckdb.DuckDBPyConnection, after_s: float) -> None:
    """Until it is cancelled: an interrupt between two statements is forgotten, and the next would run on for ever."""
    await asyncio.sleep(after_s)
    while True:
        cursor.interrupt()
        await asyncio.sleep(INTERRUPT_AGAIN_S)


def _fitting(result: QueryResult, payload: int) -> QueryResult:
    """The same result with as many rows as fit a message beside the names of its columns."""
    over = len(_encoder.encode(result)) - payload
    if over <= 0:
        return result
    rows = list(result.rows)
    while rows and over > 0:
        over -= len(_encoder.encode(rows.pop())) + 1
    if not rows:
        raise QueryError("columns and first row do not fit one message", code="QUERY_TOO_LARGE")
    return msgspec.structs.replace(result, rows=rows, truncated=True)


# -- without the process ----------------------------------------------------------------------------
def query_file(
    path: Path, sql: str, params: Params | None = None, *, limit_rows: int = ROWS_MAX
) -> QueryResult:
    """Asks a file directly, with the same rules, while nothing writes it.

    Raises `QueryError`, `NotFound`, and `AnalyticsError` FILE_BUSY or FILE_UNUSABLE.
    """
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    root = open_database(path, StoreConfig(), read_only=True)
    try:
        check_format(root, path)
        return run_query(root, sql, params, Budget(limit_rows, 1 << 40, float("inf")))
    except duckdb.CatalogException as error:
        raise AnalyticsError(f"{path} is no analytics file: {error}") from error
    finally:
        root.close()
