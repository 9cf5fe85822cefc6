"""The file that declares triggers: TOML with one `[[trigger]]` table for each.

A file is read as a whole, and everything that is wrong with it is told at once, each problem with its file, its
trigger and its key.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from dressage.expressions import TypeTable, compile_expression, parse_expression
from dressage.protocol.errors import BadInput, BadName, BadSpec, DefinitionError
from dressage.protocol.expressions import Expr, Name
from dressage.protocol.names import check_name
from dressage.protocol.versions import VersionRef, check_ref

EVENT_NAMES: Final = ("event", "subject", "headers")
"""What expressions of a trigger may use: the decoded payload, the event's subject, its headers as a dict of str."""

ProblemCode = Literal[
    "FILE_UNREADABLE",
    "TOML_INVALID",
    "KEY_UNKNOWN",
    "KEY_MISSING",
    "VALUE_INVALID",
    "NAME_INVALID",
    "NAME_TAKEN",
    "EXPRESSION_INVALID",
]

_KEYS: Final = ("name", "source", "workflow", "version", "when", "run_id", "input", "start")
_SOURCE_KEYS: Final = ("stream", "subject")
_STREAM: Final = re.compile(r"[^\s.*>/\\\x00-\x1f\x7f]{1,255}")
_TOKEN: Final = re.compile(r"[^\s.*>\x00-\x1f\x7f]+|\*")

_T = TypeVar("_T")


@dataclass(slots=True, frozen=True)
class Problem:
    """One thing that is wrong with a file. `key` is its path, as in `trigger "orders": input.amount`."""

    file: str
    key: str
    code: ProblemCode
    message: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: {self.code}: {self.message}"


class ConfigInvalid(BadInput):
    """A file that cannot be used; `problems` are all that were found."""

    code = "CONFIG_INVALID"

    def __init__(self, problems: Collection[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(slots=True, frozen=True)
class SourceConfig:
    """Where events come from: a JetStream stream that belongs to somebody else.

    Without `stream` it is the one stream that stores `subject`. Without `subject` it is all of `stream`.
    """

    stream: str | None = None
    subject: str | None = None


@dataclass(slots=True, frozen=True)
class Expression:
    """An expression as it was written, and as it is computed."""

    text: str
    tree: Expr


@dataclass(slots=True, frozen=True)
class TriggerConfig:
    """One trigger, with nothing left to check but what only the server knows.

    `start` says where a new trigger begins in the stream: with its first event, behind its last one, or at a
    sequence. It is asked once, when the trigger's consumer is made.
    """

    name: str
    source: SourceConfig
    workflow: str
    run_id: Expression
    version: VersionRef | None = None
    when: Expression | None = None
    input: Mapping[str, Expression] = field(default_factory=dict[str, Expression])
    start: Literal["all", "new"] | int = "all"


def load_triggers(path: Path) -> list[TriggerConfig]:
    """The triggers that a file declares. Raises `ConfigInvalid` with everything that is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise _single(path.name, "FILE_UNREADABLE", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _single(path.name, "FILE_UNREADABLE", f"is not UTF-8 text: {error.reason}") from error
    return parse_triggers(text, path.name)


def parse_triggers(text: str, file: str = "triggers.toml") -> list[TriggerConfig]:
    """The triggers that `text` declares; `file` is its name in errors. Raises `ConfigInvalid`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _single(file, "TOML_INVALID", f"this is no TOML: {error}") from error
    reading = _Reading(file)
    triggers = list(reading.triggers(document))
    if reading.problems:
        raise ConfigInvalid(reading.problems)
    return triggers


def _single(file: str, code: ProblemCode, message: str) -> ConfigInvalid:
    return ConfigInvalid([Problem(file, "", code, message)])


class _Table:
    """One table of the file: hands out its values, and notes what is wrong with them."""

    def __init__(self, reading: _Reading, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._reading = reading
        self.values = values
        self.where = where
        self._prefix = prefix

    def problem(self, key: str, code: ProblemCode, message: str) -> None:
        place = f"{self.where}: {self._prefix}{key}" if key else self.where
        self._reading.problems.append(Problem(self._reading.file, place, code, message))

    def allow(self, keys: Collection[str]) -> None:
        for key in self.values:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, 1)
                advice = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(keys)}"
                self.problem(key, "KEY_UNKNOWN", f"there is no such key: {advice}")

    def require(self, key: str, advice: str) -> bool:
        if key in self.values:
            return True
        self.problem(key, "KEY_MISSING", f"is missing: {advice}")
        return False

    def value(self, key: str, kind: type[_T], what: str) -> _T | None:
        """The value if it is there and of that type; None otherwise, which is noted unless it is not there."""
        value = self.values.get(key)
        if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
            return value
        self.problem(key, "VALUE_INVALID", f"must be {what}, not {_shown(value)}")
        return None

    def name(self, key: str, what: str) -> str:
        if not self.require(key, f"name the {what}"):
            return ""
        try:
            return check_name(self.values[key], what)
        except BadName as error:
            self.problem(key, "NAME_INVALID", error.message)
            return ""

    def expression(self, key: str) -> Expression | None:
        text = self.value(key, str, "an expression, written as text")
        if text is None:
            return None
        try:
            tree = parse_expression(text, EVENT_NAMES)
            compile_expression(tree, TypeTable())
        except (DefinitionError, BadSpec) as error:
            self.problem(key, "EXPRESSION_INVALID", error.message)
            return None
        return Expression(text, tree)


class _Reading:
    """The reading of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self._names: set[str] = set()

    def triggers(self, document: Mapping[str, Any]) -> Iterator[TriggerConfig]:
        """What can be read of the triggers; only when there are no `problems` are they as the file says."""
        top = _Table(self, document, "the file")
        top.allow(["trigger"])
        tables = document.get("trigger")
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.problems.append(
                Problem(self.file, "trigger", "KEY_MISSING", "declare each trigger in a table [[trigger]]")
            )
            return
        for number, table in enumerate(tables, 1):
            name = table.get("name")
            where = f'trigger "{name}"' if isinstance(name, str) else f"trigger number {number}"
            yield self._trigger(_Table(self, table, where))

    def _trigger(self, table: _Table) -> TriggerConfig:
        table.allow(_KEYS)
        name = table.name("name", "trigger")
        if name and name in self._names:
            table.problem("name", "NAME_TAKEN", "another trigger of this file has this name")
        self._names.add(name)
        return TriggerConfig(
            name=name,
            source=self._source(table),
            workflow=table.name("workflow", "workflow"),
            run_id=self._run_id(table),
            version=self._version(table),
            when=table.expression("when"),
            input=self._input(table),
            start=self._start(table),
        )

    def _source(self, table: _Table) -> SourceConfig:
        if not table.require("source", 'say where events come from, as in source = { stream = "ORDERS" }'):
            return SourceConfig()
        values = table.value("source", dict, 'a table, as in { stream = "ORDERS", subject = "orders.>" }')
        if values is None:
            return SourceConfig()
        inner = _Table(self, values, table.where, "source.")
        inner.allow(_SOURCE_KEYS)
        stream = inner.value("stream", str, "the name of a stream")
        subject = inner.value("subject", str, "a subject, in which * and > are wildcards")
        if stream is not None and not _STREAM.fullmatch(stream):
            inner.problem("stream", "NAME_INVALID", f"{_shown(stream)} is no name of a JetStream stream")
        if subject is not None and not _is_filter(subject):
            inner.problem(
                "subject",
                "NAME_INVALID",
                f"{_shown(subject)} is no subject, which looks like orders.created or orders.>",
            )
        if not values:
            table.problem("source", "KEY_MISSING", "give a stream, or a subject, or both")
        return SourceConfig(stream, subject)

    def _run_id(self, table: _Table) -> Expression:
        nothing = Expression("", Name("event"))
        if not table.require(
            "run_id", "an expression that gives each event its run, so that none starts two"
        ):
            return nothing
        expression = table.expression("run_id")
        if expression is None:
            return nothing
        if _is_constant(expression.text):
            table.problem(
                "run_id",
                "EXPRESSION_INVALID",
                "is the same for every event, so all of them would be one run: "
                f"use something of {', '.join(EVENT_NAMES)}",
            )
        return expression

    def _version(self, table: _Table) -> VersionRef | None:
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
            table.problem("version", "VALUE_INVALID", f"must be {what}, not {_shown(version)}")
        return None

    def _start(self, table: _Table) -> Literal["all", "new"] | int:
        start = table.values.get("start", "all")
        if start == "all" or start == "new":
            return "all" if start == "all" else "new"
        if isinstance(start, int) and not isinstance(start, bool) and start >= 1:
            return start
        table.problem(
            "start", "VALUE_INVALID", f'must be "all", "new" or a stream sequence, not {_shown(start)}'
        )
        return "all"

    def _input(self, table: _Table) -> dict[str, Expression]:
        values = table.value("input", dict, "a table of parameters, each with an expression")
        inner = _Table(self, values or {}, table.where, "input.")
        found: dict[str, Expression] = {}
        for parameter in inner.values:
            if not parameter.isidentifier():
                inner.problem(parameter, "NAME_INVALID", "no workflow can have a parameter of this name")
            expression = inner.expression(parameter)
            if expression is not None:
                found[parameter] = expression
        return found


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


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
