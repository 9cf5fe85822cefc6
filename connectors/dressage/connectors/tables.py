"""Reading a TOML file that declares things: table by table, with every mistake noted and none of them the last one."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from dressage.expressions import TypeTable, compile_expression, parse_expression
from dressage.protocol.errors import BadInput, BadName, BadSpec, DefinitionError
from dressage.protocol.expressions import Expr
from dressage.protocol.names import check_name

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

_T = TypeVar("_T")

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)")
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0}


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
class Expression:
    """An expression as it was written, and as it is computed."""

    text: str
    tree: Expr


class Table:
    """One table of the file: hands out its values, and notes what is wrong with them."""

    def __init__(
        self, file: str, problems: list[Problem], values: Mapping[str, Any], where: str, prefix: str = ""
    ) -> None:
        self._file = file
        self._problems = problems
        self.values = values
        self.where = where
        self._prefix = prefix

    def problem(self, key: str, code: ProblemCode, message: str) -> None:
        place = f"{self.where}: {self._prefix}{key}" if key else self.where
        self._problems.append(Problem(self._file, place, code, message))

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
        self.problem(key, "VALUE_INVALID", f"must be {what}, not {shown(value)}")
        return None

    def whole(self, key: str, default: int, most: int, limit: str) -> int:
        """A whole number from 1 to `most`; `limit` names that, as in `(limit connector-tasks)`."""
        found = self.value(key, int, "a whole number")
        if found is not None and not 1 <= found <= most:
            self.problem(key, "VALUE_INVALID", f"must be 1 to {most}, not {found} {limit}")
        return default if found is None else found

    def duration_s(self, key: str, default: float, most: float, limit: str) -> float:
        """Seconds, of a number or of a text as "30s", "15m", "1h": more than 0, up to `most`; `limit` is as above."""
        given = self.values.get(key)
        if given is None:
            return default
        found = _DURATION.fullmatch(given) if isinstance(given, str) else None
        if found is not None:
            seconds = float(found[1]) * _UNITS[found[2]]
        elif isinstance(given, (int, float)) and not isinstance(given, bool):
            seconds = float(given)
        else:
            self.problem(
                key, "VALUE_INVALID", f'must be seconds, or as "30s", "15m" or "1h", not {shown(given)}'
            )
            return default
        if not 0 < seconds <= most:
            self.problem(
                key,
                "VALUE_INVALID",
                f"must be more than 0 and up to {most:g} s, not {shown(given)} {limit}",
            )
        return seconds

    def flag(self, key: str) -> bool:
        """Whether it is said to be true."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.problem(key, "VALUE_INVALID", f"must be true or false, not {shown(value)}")
        return value is True

    def name(self, key: str, what: str) -> str:
        if not self.require(key, f"name the {what}"):
            return ""
        try:
            return check_name(self.values[key], what)
        except BadName as error:
            self.problem(key, "NAME_INVALID", error.message)
            return ""

    def table(self, key: str, values: Mapping[str, Any]) -> Table:
        """A table inside of this one."""
        return Table(self._file, self._problems, values, self.where, f"{self._prefix}{key}.")

    def expression(self, key: str, names: Collection[str]) -> Expression | None:
        """The expression over `names`; None if there is none, or none that is valid."""
        text = self.value(key, str, "an expression, written as text")
        return None if text is None else self.parsed(key, text, names)

    def parsed(self, key: str, text: str, names: Collection[str]) -> Expression | None:
        """An expression that stands at `key`; None if it is not valid, which is noted."""
        try:
            tree = parse_expression(text, names)
            compile_expression(tree, TypeTable())
        except (DefinitionError, BadSpec) as error:
            self.problem(key, "EXPRESSION_INVALID", error.message)
            return None
        return Expression(text, tree)


def declared(file: str, problems: list[Problem], document: Mapping[str, Any], kind: str) -> Iterator[Table]:
    """Each table `[[kind]]` of a file that declares nothing else; no two of them may have one name."""
    Table(file, problems, document, "the file").allow([kind])
    tables = document.get(kind)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append(Problem(file, kind, "KEY_MISSING", f"declare each {kind} in a table [[{kind}]]"))
        return
    names = set[str]()
    for number, values in enumerate(tables, 1):
        name = values.get("name")
        where = f'{kind} "{name}"' if isinstance(name, str) else f"{kind} number {number}"
        table = Table(file, problems, values, where)
        if isinstance(name, str) and name in names:
            table.problem("name", "NAME_TAKEN", f"another {kind} of this file has this name")
        if isinstance(name, str):
            names.add(name)
        yield table


def read_text(path: Path) -> str:
    """What a file says. Raises `ConfigInvalid`."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _single(path.name, "FILE_UNREADABLE", f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _single(path.name, "FILE_UNREADABLE", f"is not UTF-8 text: {error.reason}") from error


def read_toml(text: str, file: str) -> dict[str, Any]:
    """The tables of a TOML text. Raises `ConfigInvalid`."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _single(file, "TOML_INVALID", f"this is no TOML: {error}") from error


def _single(file: str, code: ProblemCode, message: str) -> ConfigInvalid:
    """For a file that nothing can be read of."""
    return ConfigInvalid([Problem(file, "", code, message)])


def shown(value: object) -> str:
    """A value as a message may quote it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
