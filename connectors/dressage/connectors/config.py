"""The file that declares triggers: TOML with one `[[trigger]]` table for each.

A file is read as a whole, and everything that is wrong with it is told at once, each problem with its file, its
trigger and its key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from dressage.connectors.tables import (
    ConfigInvalid,
    Expression,
    Problem,
    Table,
    declared,
    read_text,
    read_toml,
    shown,
)
from dressage.expressions import parse_expression
from dressage.protocol.errors import BadInput, DefinitionError
from dressage.protocol.expressions import Name
from dressage.protocol.names import is_theirs
from dressage.protocol.versions import VersionRef, check_ref

EVENT_NAMES: Final = ("event", "subject", "headers", "ce")
"""What expressions of a trigger may use: the decoded payload, the event's subject, its headers as a dict of str, and
the attributes of a CloudEvent, of which there are none in any other event."""

BATCH_NAMES: Final = ("events", "subjects", "headers", "ce", "batch")
"""What the others may use where events come in batches: lists of the same, and the id of the batch."""

BATCH_EVENTS_MAX: Final = 1_000
BATCH_S_MAX: Final = 3_600.0

_KEYS: Final = ("name", "source", "when", "start", "order_by", "batch")
_BATCH_KEYS: Final = ("size", "within")
_START_KEYS: Final = ("workflow", "event", "version", "run_id", "input")
_POST_KEYS: Final = ("event", "workflow", "run_id", "key", "payload", "event_id")
_SOURCE_KEYS: Final = ("stream", "subject", "ordered", "core")
_STREAM: Final = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}")
_TOKEN: Final = re.compile(r"[^\s.*>\x00-\x1f\x7f]+|\*")


@dataclass(slots=True, frozen=True)
class SourceConfig:
    """Where events come from: a JetStream stream that belongs to somebody else.

    Without `stream` it is the one stream that stores `subject`. Without `subject` it is all of `stream`. `ordered` asks
    for one event after the other, in the order of the stream, whatever processes share them. `core` takes what is
    published on `subject` without a stream.
    """

    stream: str | None = None
    subject: str | None = None
    ordered: bool = False
    core: bool = False


@dataclass(slots=True, frozen=True)
class StartTarget:
    """Each event starts a run."""

    workflow: str
    run_id: Expression
    version: VersionRef | None = None
    input: Mapping[str, Expression] = field(default_factory=dict[str, Expression])


@dataclass(slots=True, frozen=True)
class PostTarget:
    """Each event is an external event, of the run `run_id` or for those that wait at the correlation key `key`.

    Without `payload` it is the event as it is; without `event_id` the event's place in its stream is its id.
    """

    event: str
    run_id: Expression | None = None
    key: Expression | None = None
    payload: Expression | None = None
    event_id: Expression | None = None


@dataclass(slots=True, frozen=True)
class BatchConfig:
    """So many events are one, or those that came within so long of the first of them."""

    size: int
    within_s: float


Start = Literal["all", "new"] | int | datetime
"""Where a new trigger begins in the stream: with its first event, behind its last one, at a sequence, or with what was
stored at a time or later."""


@dataclass(slots=True, frozen=True)
class TriggerConfig:
    """One trigger, with nothing left to check but what only the server knows.

    `start` is asked once, when the trigger first runs. Events with one `order_by` are dealt with in the order of the
    stream. `table` is what all of it was read from.
    """

    name: str
    source: SourceConfig
    target: StartTarget | PostTarget
    when: Expression | None = None
    start: Start = "all"
    order_by: Expression | None = None
    batch: BatchConfig | None = None
    table: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False)

    @property
    def in_turn(self) -> bool:
        """Whether one process at a time takes the events, in the order of the stream."""
        return self.order_by is not None or self.batch is not None


def load_triggers(path: Path) -> list[TriggerConfig]:
    """The triggers that a file declares. Raises `ConfigInvalid` with everything that is wrong with it."""
    return parse_triggers(read_text(path), path.name)


def parse_triggers(text: str, file: str = "triggers.toml") -> list[TriggerConfig]:
    """The triggers that `text` declares; `file` is its name in errors. Raises `ConfigInvalid`."""
    return _read(read_toml(text, file), file)


def read_trigger(table: Mapping[str, Any], where: str = "stored") -> TriggerConfig:
    """The trigger that a `table` of a file declares. Raises `ConfigInvalid`."""
    (trigger,) = _read({"trigger": [table]}, where)
    return trigger


def _read(document: Mapping[str, Any], file: str) -> list[TriggerConfig]:
    reading = _Reading(file)
    triggers = list(reading.triggers(document))
    if reading.problems:
        raise ConfigInvalid(reading.problems)
    return triggers


class _Reading:
    """The reading of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def triggers(self, document: Mapping[str, Any]) -> Iterator[TriggerConfig]:
        """What can be read of the triggers; only when there are no `problems` are they as the file says."""
        return (self._trigger(table) for table in declared(self.file, self.problems, document, "trigger"))

    def _trigger(self, table: Table) -> TriggerConfig:
        table.allow([*_KEYS, *target_keys(table)])
        source = self._source(table)
        batch = self._batch(table)
        self._check_turns(table, source)
        return TriggerConfig(
            name=table.name("name", "trigger"),
            source=source,
            target=read_target(table, "trigger", EVENT_NAMES if batch is None else BATCH_NAMES),
            when=table.expression("when", EVENT_NAMES),
            start=self._start(table),
            order_by=table.expression("order_by", EVENT_NAMES),
            batch=batch,
            table=table.values,
        )

    def _batch(self, table: Table) -> BatchConfig | None:
        values = table.value("batch", dict, 'a table, as in { size = 100, within = "5s" }')
        if values is None:
            return None
        inner = table.table("batch", values)
        inner.allow(_BATCH_KEYS)
        inner.require("size", "say how many events are a batch at most")
        inner.require("within", "say how long the first event of a batch waits for others at most")
        return BatchConfig(
            inner.whole("size", 1, BATCH_EVENTS_MAX, "(limit trigger-batch)"),
            inner.duration_s("within", 1.0, BATCH_S_MAX, "(limit trigger-batch-age)"),
        )

    def _check_turns(self, table: Table, source: SourceConfig) -> None:
        if "order_by" in table.values and "batch" in table.values:
            table.problem(
                "order_by",
                "VALUE_INVALID",
                "a batch is in the order of the stream: leave it out, or batch",
            )
        elif source.ordered and ("order_by" in table.values or "batch" in table.values):
            table.problem(
                "source.ordered",
                "VALUE_INVALID",
                "is one event after the other: leave it out, or order_by and batch",
            )

    def _source(self, table: Table) -> SourceConfig:
        if not table.require("source", 'say where events come from, as in source = { stream = "ORDERS" }'):
            return SourceConfig()
        values = table.value("source", dict, 'a table, as in { stream = "ORDERS", subject = "orders.>" }')
        if values is None:
            return SourceConfig()
        inner = table.table("source", values)
        inner.allow(_SOURCE_KEYS)
        stream = inner.value("stream", str, "the name of a stream")
        subject = inner.value("subject", str, "a subject, in which * and > are wildcards")
        if stream is not None and not _STREAM.fullmatch(stream):
            inner.problem("stream", "NAME_INVALID", f"{shown(stream)} is no name of a JetStream stream")
        if subject is not None and not _is_filter(subject):
            inner.problem(
                "subject",
                "NAME_INVALID",
                f"{shown(subject)} is no subject, which looks like orders.created or orders.>",
            )
        if not values.keys() - {"ordered", "core"}:
            table.problem("source", "KEY_MISSING", "give a stream, or a subject, or both")
        core = inner.flag("core")
        if core:
            self._check_core(table, inner, subject)
        return SourceConfig(stream, subject, ordered=inner.flag("ordered"), core=core)

    def _check_core(self, table: Table, inner: Table, subject: str | None) -> None:
        of_streams = (
            (inner, "stream"),
            (inner, "ordered"),
            (table, "start"),
            (table, "order_by"),
            (table, "batch"),
        )
        for where, key in of_streams:
            if key in where.values:
                where.problem(
                    key, "VALUE_INVALID", "means nothing where there is no stream: leave it out, or core"
                )
        if subject is None:
            inner.problem("subject", "KEY_MISSING", "is missing: name the subject to listen to")
        elif subject.partition(".")[0] in ("*", ">") or not is_theirs(subject):
            inner.problem(
                "subject",
                "NAME_INVALID",
                f"{shown(subject)} would take messages of the broker and of the engine: name a subject of yours, "
                "with its first token written out",
            )

    def _start(self, table: Table) -> Start:
        start = table.values.get("start", "all")
        if start == "all" or start == "new":
            return "all" if start == "all" else "new"
        if isinstance(start, int) and not isinstance(start, bool) and start >= 1:
            return start
        moment = _moment(start)
        if moment is not None:
            return moment
        table.problem(
            "start",
            "VALUE_INVALID",
            f'must be "all", "new", a stream sequence, or a time with its zone, not {shown(start)}',
        )
        return "all"


def target_keys(table: Table) -> Sequence[str]:
    """The keys of what is asked for, which are others for an event than for a run."""
    return _POST_KEYS if "event" in table.values else _START_KEYS


def read_target(table: Table, kind: str, names: Sequence[str] = EVENT_NAMES) -> StartTarget | PostTarget:
    """What a table of this kind, as a "trigger", asks the engine for, for each event; expressions may use `names`."""
    return _post(table, kind, names) if "event" in table.values else _starts(table, names)


def _starts(table: Table, names: Sequence[str]) -> StartTarget:
    if "workflow" not in table.values:
        table.problem(
            "workflow",
            "KEY_MISSING",
            "is missing: name the workflow to start, or the external event to post, as event",
        )
    return StartTarget(
        workflow=table.name("workflow", "workflow") if "workflow" in table.values else "",
        run_id=_run_id(table, names),
        version=_version(table),
        input=_input(table, names),
    )


def _post(table: Table, kind: str, names: Sequence[str]) -> PostTarget:
    if "workflow" in table.values:
        table.problem("event", "VALUE_INVALID", f"a {kind} starts a workflow or posts an event, not both")
    if ("run_id" in table.values) == ("key" in table.values):
        table.problem("key", "KEY_MISSING", "say whose event it is: give either run_id or key")
    return PostTarget(
        event=table.name("event", "event"),
        **{key: table.expression(key, names) for key in ("run_id", "key", "payload", "event_id")},
    )


def _run_id(table: Table, names: Sequence[str]) -> Expression:
    nothing = Expression("", Name("event"))
    if not table.require("run_id", "an expression that gives each event its run, so that none starts two"):
        return nothing
    expression = table.expression("run_id", names)
    if expression is None:
        return nothing
    if _is_constant(expression.text):
        table.problem(
            "run_id",
            "EXPRESSION_INVALID",
            "is the same for every event, so all of them would be one run: "
            f"use something of {', '.join(names)}",
        )
    return expression


def _version(table: Table) -> VersionRef | None:
    what = "a version's number, its label as 2.x, or an alias"
    version = table.value("version", object, what)
    if isinstance(version, str):
        try:
            return check_ref(version)
        except BadInput as error:
            table.problem("version", "VALUE_INVALID", error.message)
    elif isinstance(version, int):
        if version >= 1:
            return version
        table.problem("version", "VALUE_INVALID", f"must be at least 1, not {version}")
    elif version is not None:
        table.problem("version", "VALUE_INVALID", f"must be {what}, not {shown(version)}")
    return None


def _input(table: Table, names: Sequence[str]) -> dict[str, Expression]:
    values = table.value("input", dict, "a table of parameters, each with an expression")
    inner = table.table("input", values or {})
    found: dict[str, Expression] = {}
    for parameter in inner.values:
        if not parameter.isidentifier():
            inner.problem(parameter, "NAME_INVALID", "no workflow can have a parameter of this name")
        expression = inner.expression(parameter, names)
        if expression is not None:
            found[parameter] = expression
    return found


def _moment(value: object) -> datetime | None:
    """A time with a zone, of TOML or as text in RFC 3339."""
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    return moment if isinstance(moment, datetime) and moment.utcoffset() is not None else None


def _is_filter(subject: str) -> bool:
    *parents, last = subject.split(".")
    return all(_TOKEN.fullmatch(token) for token in parents) and bool(last == ">" or _TOKEN.fullmatch(last))


def _is_constant(text: str) -> bool:
    """Whether an expression that is valid uses none of the names."""
    try:
        parse_expression(text, ())
    except DefinitionError:
        return False
    return True
