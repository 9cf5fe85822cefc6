"""The DuckDB file: opened with its schema, written in transactions that carry their position.

DuckDB lets one process have the file while it writes. All SQL of other people runs on cursors of this same
database, so the database as a whole is closed to the outside: no file but its own, no extension, no Python
variable can be reached by SQL, and nothing of that can be switched on again.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final, Self

import duckdb
import msgspec

from dressage.analytics.batch import REJECT_PAYLOAD_BYTES_MAX, SEPARATOR, Batch, decode
from dressage.analytics.errors import AnalyticsError
from dressage.brokers.interface import Delivery
from dressage.protocol.events import TYPE_PREFIX

FORMAT: Final = 4
"""Of the tables. A file with a higher one was written by a later release. In one of format 1 the searchable paths
inside of records are missing among the variables, up to format 2 the keys of runs, and up to format 3 which runs were
rescued; they are filled in when it is opened."""

_RUN_KEY: Final = "md5_number_lower(run_id)"
"""The same in every release of DuckDB, unlike its `hash`."""

_to_json = msgspec.json.Encoder().encode

# Errors that the content of a batch can cause. Every other one is about the file, the memory or the schema,
# and would only repeat itself on parts of the batch.
_DATA_ERRORS: Final = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException)

_ENVELOPE: Final = (
    '[{"id":"VARCHAR","type":"VARCHAR","time":"TIMESTAMPTZ","subject":"VARCHAR","workflow":"VARCHAR",'
    '"version":"BIGINT","index":"BIGINT","command":"VARCHAR","actor":"VARCHAR"}]'
)
_FAILURE: Final = '{"name":"VARCHAR","message":"VARCHAR","kind":"VARCHAR"}'

# One JSON text in one parameter was the fastest of what needs no further library (us a row, 500 bytes each):
# this one 9, an appender 13, a list for each column 14 to 22, executemany 1,300.
_LOAD_BATCH: Final = f"""
CREATE OR REPLACE TEMP TABLE batch AS
SELECT
    stream_seq, shard, e.id, e.subject AS run_id, e.workflow, e.version, e."index" AS idx,
    CASE WHEN starts_with(e.type, '{TYPE_PREFIX}') THEN e.type[{len(TYPE_PREFIX) + 1}:] ELSE e.type END AS kind,
    e.time, coalesce(e.actor, '') AS actor, e.command, data::JSON AS data, md5_number_lower(e.subject) AS run_key
FROM (
    SELECT
        unnest(from_json($seqs, '["UBIGINT"]')) AS stream_seq,
        unnest(from_json($shards, '["INTEGER"]')) AS shard,
        unnest(from_json($payloads, '{_ENVELOPE}')) AS e,
        unnest(string_split($data, chr({SEPARATOR[0]}))) AS data
)
"""

_INNER_PATHS: Final = r"""
INSERT INTO variable_changes
SELECT
    stream_seq, run_id, path,
    coalesce(
        json_extract(value, '$' || regexp_replace(substr(path, length(name) + 1), '\.([^.]+)', '."\1"', 'g')),
        'null'::JSON
    ),
    true, time, run_key
FROM (
    SELECT stream_seq, run_id, RUN_KEY AS run_key, time, d.name AS name, d.value AS value, unnest(d.paths) AS path
    FROM (
        SELECT *, from_json(data, '{"name":"VARCHAR","value":"JSON","paths":["VARCHAR"]}') AS d
        FROM TABLE WHERE kind = 'variable-changed'
    )
)
"""
"""What can be searched for inside of a record is a variable of its own, by its path."""

_RESCUES: Final = """
INSERT INTO run_rescues
SELECT
    stream_seq, run_id, coalesce(CAST(data->>'node' AS BIGINT), 0),
    coalesce(CAST(data->>'skipped' AS BOOLEAN), false), coalesce(data->>'reason', ''), actor, time, RUN_KEY
FROM TABLE WHERE kind = 'run-rescued'
"""

_FROM_BATCH: Final = (
    "INSERT INTO events SELECT * EXCLUDE (run_key) FROM batch",
    _INNER_PATHS.replace("TABLE", "batch").replace("RUN_KEY", "run_key"),
    """
    INSERT INTO run_starts
    SELECT stream_seq, run_id, workflow, version, shard, time, actor, run_key FROM batch WHERE kind = 'run-started'
    """,
    _RESCUES.replace("TABLE", "batch").replace("RUN_KEY", "run_key"),
    """
    INSERT INTO run_moves SELECT stream_seq, run_id, version, time, run_key FROM batch WHERE kind = 'run-migrated'
    """,
    f"""
    INSERT INTO run_ends
    SELECT
        stream_seq, run_id,
        CASE kind
            WHEN 'run-completed' THEN 'completed' WHEN 'run-failed' THEN 'failed'
            WHEN 'run-cancelled' THEN 'cancelled' ELSE 'engine-fault'
        END,
        time, d.duration_ms, coalesce(d.failure.name, if(d.error IS NULL, NULL, 'engine-fault')),
        coalesce(d.failure.message, d.error, d.reason),
        CASE WHEN d.failure IS NOT NULL THEN coalesce(d.failure.kind, 'failure') END,
        d.output, run_key
    FROM (
        SELECT *, from_json(data,
            '{{"duration_ms":"DOUBLE","output":"JSON","error":"VARCHAR","reason":"VARCHAR","failure":{_FAILURE}}}') AS d
        FROM batch WHERE kind IN ('run-completed', 'run-failed', 'run-cancelled', 'run-faulted')
    )
    """,
    """
    INSERT INTO attempt_starts
    SELECT
        stream_seq, run_id, workflow, version, d.task, d.task_id, d.node, d.attempt, d.queue,
        coalesce(d.delay_s, 0), time
    FROM (
        SELECT *, from_json(data,
            '{"task":"VARCHAR","task_id":"VARCHAR","node":"BIGINT","attempt":"BIGINT","queue":"VARCHAR",
              "delay_s":"DOUBLE"}') AS d
        FROM batch WHERE kind = 'task-scheduled'
    )
    """,
    f"""
    INSERT INTO attempt_ends
    SELECT
        stream_seq, run_id, d.task_id, d.attempt, d.worker, time, d.waited_ms, d.duration_ms,
        CASE
            WHEN kind = 'task-completed' THEN 'completed'
            WHEN coalesce(d.failure.kind, 'failure') = 'failure' THEN 'failed'
            ELSE 'errored'
        END,
        d.failure.name, d.failure.message,
        CASE WHEN kind = 'task-failed' THEN coalesce(d.failure.kind, 'failure') END,
        coalesce(d.retry, false), d.output
    FROM (
        SELECT *, from_json(data,
            '{{"task_id":"VARCHAR","attempt":"BIGINT","worker":"VARCHAR","duration_ms":"DOUBLE",
               "waited_ms":"DOUBLE","retry":"BOOLEAN","output":"JSON","failure":{_FAILURE}}}') AS d
        FROM batch WHERE kind IN ('task-completed', 'task-failed')
    )
    """,
    """
    INSERT INTO variable_changes
    SELECT
        stream_seq, run_id, d.name, coalesce(d.value, 'null'::JSON), coalesce(d.searchable, false), time, run_key
    FROM (
        SELECT *, from_json(data, '{"name":"VARCHAR","value":"JSON","searchable":"BOOLEAN"}') AS d
        FROM batch WHERE kind = 'variable-changed'
    )
    """,
    """
    INSERT INTO user_task_events
    SELECT
        stream_seq, run_id, workflow, version, d.user_task, d.user_task_id, kind, time, actor,
        coalesce(d."user", ''), coalesce(d."group", ''), d.how, d.due, coalesce(d.notes, ''), d.waited_ms,
        coalesce(d.text, d.reason), d."values"
    FROM (
        SELECT *, from_json(data,
            '{"user_task":"VARCHAR","user_task_id":"VARCHAR","user":"VARCHAR","group":"VARCHAR","how":"VARCHAR",
              "due":"TIMESTAMPTZ","notes":"VARCHAR","waited_ms":"DOUBLE","text":"VARCHAR","reason":"VARCHAR",
              "values":"JSON"}') AS d
        FROM batch WHERE starts_with(kind, 'user-task-')
    )
    """,
    """
    INSERT INTO schedule_events
    SELECT
        stream_seq, d.schedule, workflow, kind, time, actor, d.moment, d.outcome, coalesce(d.run_id, ''), d.late_ms,
        d.paused, d.next, coalesce(d.by_hand, false)
    FROM (
        SELECT *, from_json(data,
            '{"schedule":"VARCHAR","moment":"TIMESTAMPTZ","outcome":"VARCHAR","run_id":"VARCHAR","late_ms":"DOUBLE",
              "paused":"BOOLEAN","next":"TIMESTAMPTZ","by_hand":"BOOLEAN"}') AS d
        FROM batch WHERE starts_with(kind, 'schedule-')
    )
    """,
)

_FORGET_DELETED: Final = tuple(
    f"""
    DELETE FROM {table} USING batch
    WHERE batch.kind = 'run-deleted' AND {table}.run_id = batch.run_id AND {table}.stream_seq < batch.stream_seq
    """
    for table in (
        "events",
        "run_starts",
        "run_moves",
        "run_ends",
        "run_rescues",
        "attempt_starts",
        "attempt_ends",
        "variable_changes",
        "user_task_events",
    )
)
"""Of a run that was deleted only its last event stays, which says so. Another run of its id comes behind it."""

_INSERT_REJECTS: Final = """
INSERT INTO rejects
SELECT r.seq, r.subject, r.reason, from_base64(r.payload), now()
FROM (
    SELECT unnest(from_json($1,
        '[{"seq":"UBIGINT","subject":"VARCHAR","reason":"VARCHAR","payload":"VARCHAR"}]')) AS r
)
"""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What the database may use. `checkpoint_bytes` is how large the log beside the file may grow: a larger
    one writes faster (commits cost a third at 128 MB of what they cost at DuckDB's 16 MB) and opens more
    slowly after a crash."""

    memory_bytes_max: int = 1 << 30
    spill_bytes_max: int = 4 << 30
    threads: int = 2
    checkpoint_bytes: int = 128 << 20


@dataclass(frozen=True, slots=True)
class Written:
    """What one batch became."""

    events: int
    rejects: int


class Store:
    """The file, open for writing by this process. Its methods block, and only one may run at a time."""

    def __init__(self, root: duckdb.DuckDBPyConnection, stream: str, subject_prefix: str) -> None:
        self._root = root
        self._writer = root.cursor()
        self._stream = stream
        self._subject_prefix = subject_prefix
        self.position = 0
        """Everything up to this stream sequence is in the file."""
        self.event_seq = 0
        """The last message read; reading goes on behind it."""
        self._created = ""
        # The file must not be closed under a write that goes on in its thread.
        self._lock = threading.Lock()
        self._load_position()

    @classmethod
    def open(cls, path: Path, stream: str, subject_prefix: str, config: StoreConfig | None = None) -> Self:
        """Opens or creates the file. Raises `AnalyticsError` FILE_BUSY or FILE_UNUSABLE."""
        root = open_database(path, config or StoreConfig())
        try:
            check_format(root, path)
            root.execute(_script("schema.sql"))
            _upgrade(root)
            root.execute(_script("views.sql"))
            return cls(root, stream, subject_prefix)
        except BaseException:
            root.close()
            raise

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection to the same database for a reader in another thread. The caller closes it."""
        return self._root.cursor()

    def close(self) -> None:
        with self._lock:
            self._writer.close()
            self._root.close()

    def bind(self, created: str) -> None:
        """Ties the file to the stream that was created at that time, or checks that it is tied to it.

        Raises `AnalyticsError` STREAM_REPLACED: sequences of one stream mean nothing in another.
        """
        if not self._created:
            self._writer.execute(
                "INSERT INTO positions VALUES ($1, 0, 0, $2, $3)", [self._stream, created, FORMAT]
            )
            self._created = created
        elif self._created != created:
            raise AnalyticsError(
                f"the file has read the stream {self._stream} that was created at {self._created}, but there "
                f"is now one created at {created}. Move the file away and start again: a new one is filled "
                "from the beginning of the stream.",
                code="STREAM_REPLACED",
            )

    def write(self, messages: Sequence[Delivery], gaps: Sequence[tuple[int, int]] = ()) -> Written:
        """Writes consecutive messages, and the ranges lost before or between them, with their position.

        All is written or nothing, except that a batch that DuckDB refuses for its content is written in
        parts, each with its own position, until what cannot be stored is found and set aside in `rejects`.
        Raises `duckdb.Error` when the file itself fails.
        """
        with self._lock:
            return self._write(decode(messages, self._subject_prefix), gaps)

    def advance(self, position: int, gaps: Sequence[tuple[int, int]] = ()) -> None:
        """Notes that there is no event between the last one read and `position`."""
        with self._lock:
            self._transaction(Batch(self.event_seq), max(position, self.position), gaps)

    def _write(self, batch: Batch, gaps: Sequence[tuple[int, int]]) -> Written:
        try:
            self._transaction(batch, max(batch.last_seq, self.position), gaps)
        except _DATA_ERRORS as error:
            if not batch.rows:
                raise
            if len(batch.rows) == 1:
                return self._write(batch.without_rows(f"{type(error).__name__}: {error}"), gaps)
        else:
            return Written(len(batch.rows), len(batch.rejects))
        left, right = batch.halves()
        first, second = self._write(left, gaps), self._write(right, ())
        return Written(first.events + second.events, first.rejects + second.rejects)

    def _transaction(self, batch: Batch, position: int, gaps: Sequence[tuple[int, int]]) -> None:
        run = self._writer.execute
        run("BEGIN TRANSACTION")
        try:
            if batch.rows:
                self._insert_events(batch)
            if batch.rejects:
                self._insert_rejects(batch)
            for first, last in gaps:
                run("INSERT INTO gaps VALUES ($1, $2, $3, now())", [self._stream, first, last])
            run(
                "UPDATE positions SET position = $1, event_seq = $2, format = $3 WHERE stream = $4",
                [position, batch.last_seq, FORMAT, self._stream],
            )
            run("COMMIT")
        except BaseException:
            self._rollback()
            raise
        self.position, self.event_seq = position, batch.last_seq

    def _rollback(self) -> None:
        try:
            self._writer.execute("ROLLBACK")
        except duckdb.Error:
            # A failed commit has already ended the transaction.
            self._writer.close()
            self._writer = self._root.cursor()

    def _insert_events(self, batch: Batch) -> None:
        rows = batch.rows
        self._writer.execute(
            _LOAD_BATCH,
            {
                "seqs": _to_json([row.message.stream_seq for row in rows]).decode(),
                "shards": _to_json([row.shard for row in rows]).decode(),
                "payloads": (b"[" + b",".join([row.message.data for row in rows]) + b"]").decode(),
                "data": SEPARATOR.join([row.data for row in rows]).decode(),
            },
        )
        for statement in _FROM_BATCH:
            self._writer.execute(statement)
        if any(b"run-deleted" in row.message.data for row in rows):
            for statement in _FORGET_DELETED:
                self._writer.execute(statement)

    def _insert_rejects(self, batch: Batch) -> None:
        rejects = [
            {
                "seq": reject.message.stream_seq,
                "subject": reject.message.subject,
                "reason": reject.reason,
                "payload": base64.b64encode(reject.message.data[:REJECT_PAYLOAD_BYTES_MAX]).decode(),
            }
            for reject in batch.rejects
        ]
        self._writer.execute(_INSERT_REJECTS, [_to_json(rejects).decode()])

    def _load_position(self) -> None:
        row = self._writer.execute(
            "SELECT position, event_seq, stream_created FROM positions WHERE stream = $1", [self._stream]
        ).fetchone()
        if row is not None:
            self.position, self.event_seq, self._created = row


def open_database(path: Path, config: StoreConfig, *, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    """A database that can reach nothing but its own file. Raises `AnalyticsError` FILE_BUSY, FILE_UNUSABLE."""
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{config.memory_bytes_max}B",
        "max_temp_directory_size": f"{config.spill_bytes_max}B",
        "checkpoint_threshold": f"{config.checkpoint_bytes}B",
        "threads": config.threads,
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    try:
        root = duckdb.connect(str(path), read_only=read_only, config=settings)
    except duckdb.IOException as error:
        if "lock" in str(error):
            raise AnalyticsError(
                f"another process has {path} open. If that is `dressage analytics`, leave --db out: the "
                "query then goes to it through NATS.",
                code="FILE_BUSY",
                retryable=True,
            ) from error
        raise AnalyticsError(f"{path} cannot be opened: {error}") from error
    except duckdb.Error as error:
        raise AnalyticsError(f"{path} cannot be opened: {error}") from error
    root.execute("SET GLOBAL TimeZone = 'UTC'")
    root.execute("SET GLOBAL lock_configuration = true")
    return root


def _script(name: str) -> str:
    return resources.files("dressage.analytics").joinpath(name).read_text()


_KEYED: Final = ("run_starts", "run_moves", "run_ends", "variable_changes")


def _upgrade(root: duckdb.DuckDBPyConnection) -> None:
    """Brings the tables of an earlier release to the format of this one, at once or not at all."""
    keyed = root.execute(
        "SELECT count(*) FROM duckdb_columns() WHERE table_name = 'run_starts' AND column_name = 'run_key'"
    ).fetchone()
    row = root.execute("SELECT min(format) FROM positions").fetchone()
    known = None if row is None else row[0]
    root.execute("BEGIN TRANSACTION")
    if keyed == (0,):
        for view in root.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall():
            root.execute(f'DROP VIEW "{view[0]}"')  # They are made anew, of the tables as they are then.
        for table in _KEYED:
            root.execute(f"ALTER TABLE {table} ADD COLUMN run_key UBIGINT")
            root.execute(f"UPDATE {table} SET run_key = {_RUN_KEY}")
    if known is not None and known < 2:
        root.execute(_INNER_PATHS.replace("TABLE", "events").replace("RUN_KEY", _RUN_KEY))
    if known is not None and known < 4:
        root.execute(_RESCUES.replace("TABLE", "events").replace("RUN_KEY", _RUN_KEY))
    if known is not None and known < FORMAT:
        root.execute("UPDATE positions SET format = $1", [FORMAT])
    root.execute("COMMIT")


def check_format(root: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Raises `AnalyticsError` FILE_UNUSABLE when a later release has written the file."""
    known = root.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'positions'").fetchone()
    if known is None:
        return
    row = root.execute("SELECT max(format) FROM positions").fetchone()
    if row is not None and row[0] is not None and row[0] > FORMAT:
        raise AnalyticsError(
            f"{path} has format {row[0]}, and this release of Dressage knows formats up to {FORMAT}: "
            "upgrade Dressage, or let it fill a new file."
        )
