"""How the rows of an answer are printed: as a table, as bars, as JSON, CSV or Parquet; or drawn."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dressage.cli.drawing import draw
from dressage.client.finding import QueryResult
from dressage.protocol.errors import BadInput

Form = Literal["table", "chart", "png", "svg", "json", "csv", "parquet"]

_NUMBERS: Final = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|DOUBLE|FLOAT|DECIMAL\(\d+,\d+\)")
_INEXACT: Final = re.compile(r"UNION\(|DECIMAL\(|HUGEINT")
"""What stands in JSON inside of a list or a record in another way, or not exactly."""

_BAR: Final = 60


def show(result: QueryResult, form: Form, output: Path | None) -> None:
    """Prints an answer, or writes it to a file. Raises `BadInput`."""
    if form in ("parquet", "png", "svg"):
        if output is None:
            raise BadInput(f"{form.upper()} goes to a file: give one with --output")
        if form == "parquet":
            _write_parquet(result, output)
        else:
            bars = _bars(result)
            draw(
                [each.label for each in bars.rows],
                [each.value for each in bars.rows],
                bars.what,
                form,
                output,
            )
        return
    text = as_text(result, form, wide=output is not None or not sys.stdout.isatty())
    if output is None:
        click.echo(text, nl=False)
    else:
        output.write_text(text)


def as_text(result: QueryResult, form: Form, *, wide: bool) -> str:
    """An answer as it is printed. A table that is `wide` is not cut to the width of a terminal."""
    out = io.StringIO(newline="")
    match form:
        case "json":
            rows = [dict(zip(_names(result.columns), row, strict=True)) for row in result.rows]
            return msgspec.json.encode(rows).decode() + "\n"
        case "csv":
            writer = csv.writer(out)
            writer.writerow(result.columns)
            writer.writerows([[_cell(value, "") for value in row] for row in result.rows])
        case "chart":
            Console(file=out, width=10_000 if wide else None).print(_chart(result))
        case _:
            Console(file=out, width=10_000 if wide else None).print(_table(result))
    return out.getvalue()


def _table(result: QueryResult) -> Table:
    table = Table()
    for name, kind in zip(result.columns, result.types, strict=True):
        table.add_column(escape(name), justify="right" if _is_number(kind) else "left", overflow="fold")
    for row in result.rows:
        table.add_row(*(escape(_cell(value, "-")) for value in row))
    return table


@dataclass(frozen=True)
class _Bar:
    cells: list[str]
    value: float

    @property
    def label(self) -> str:
        return ", ".join(self.cells[:-1])


@dataclass(frozen=True)
class _Bars:
    """A bar for each row, of its first number; what stands in front of that names it."""

    columns: list[str]
    rows: list[_Bar]

    @property
    def what(self) -> str:
        return self.columns[-1]


def _bars(result: QueryResult) -> _Bars:
    """Raises `BadInput`."""
    place = next((place for place, kind in enumerate(result.types) if _is_number(kind)), None)
    if place is None:
        raise BadInput("bars are of numbers, and no column of this answer has any")
    rows = [_Bar([_cell(each, "-") for each in row[: place + 1]], _number(row[place])) for row in result.rows]
    return _Bars(list(result.columns[: place + 1]), rows)


def _chart(result: QueryResult) -> Table:
    """Raises `BadInput`."""
    bars = _bars(result)
    most = max([*(each.value for each in bars.rows), 0.0])
    table = Table(*map(escape, bars.columns), "", box=None, pad_edge=False)
    for each in bars.rows:
        length = round(_BAR * each.value / most) if most > 0 and each.value > 0 else 0
        table.add_row(*map(escape, each.cells), "█" * length)
    return table


def _number(value: Any) -> float:
    number = float(value or 0)
    return number if math.isfinite(number) else 0.0


def _is_number(kind: str) -> bool:
    return _NUMBERS.fullmatch(kind) is not None


def _names(columns: Sequence[str]) -> list[str]:
    """Each once: a second `a` is `a_1`."""
    found: list[str] = []
    for name in columns:
        number, chosen = 0, name
        while chosen in found:
            number += 1
            chosen = f"{name}_{number}"
        found.append(chosen)
    return found


def _write_parquet(result: QueryResult, output: Path) -> None:
    """Writes the rows with their types, by DuckDB, which is an extra. Raises `BadInput`."""
    import duckdb

    for name, kind in zip(result.columns, result.types, strict=True):
        if (_nests(kind) and _INEXACT.search(kind)) or kind.startswith("UNION("):
            raise BadInput(
                f"column {name!r} is a {kind}, which does not come over exactly: cast it to JSON or VARCHAR"
            )
    with duckdb.connect() as file:
        columns = ", ".join(
            f"CAST({_of_json(place, kind)} AS {kind}) AS {_quoted(name)}"
            for place, (name, kind) in enumerate(zip(_names(result.columns), result.types, strict=True))
        )
        file.execute("SET TimeZone = 'UTC'")
        rows = msgspec.json.encode(result.rows).decode()
        file.execute(
            f"""CREATE TABLE answer AS SELECT {columns} FROM (SELECT unnest(from_json($1, '["JSON"]')) AS row)""",
            [rows],
        )
        file.table("answer").write_parquet(str(output))


def _of_json(place: int, kind: str) -> str:
    if kind == "BLOB":
        return f"from_base64(row->>{place})"
    return f"nullif(row->{place}, 'null'::JSON)" if _nests(kind) or kind == "JSON" else f"row->>{place}"


def _nests(kind: str) -> bool:
    return "[" in kind or kind.startswith(("STRUCT(", "MAP("))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cell(value: object, absent: str) -> str:
    match value:
        case None:
            return absent
        case str():
            return value
        case float():
            return f"{value:.6g}" if absent == "-" else repr(value)
        case _:
            return json.dumps(msgspec.to_builtins(value), ensure_ascii=False)
