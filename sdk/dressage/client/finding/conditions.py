"""What is said of a searchable attribute: `total > 100`, `city ^= Ber`, `tier in gold, lead`, `tags has gift`.

Events do not tell the type that an attribute was declared with, so a value is compared as what it looks like: a number
with numbers, and with decimals, which stand as text in JSON; a moment with moments, whatever their zones; a text with
texts, character by character.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Final, Literal, get_args

import msgspec

from dressage.protocol.errors import BadInput

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "^=", "in", "has", "is null", "is not null"]
"""`^=`: begins with; `in`: is one of these; `has`: a list, or a set, that this is in."""

Value = str | int | float | Decimal | bool | datetime | date | Enum
"""What an attribute is compared with."""

CONDITIONS_MAX: Final = 32
VALUES_MAX: Final = 1_000

_HOW: Final = (
    "write NAME = VALUE, or !=, <, <=, >, >=, ^= (begins with), NAME in VALUE, VALUE, NAME has VALUE (of a list), "
    "NAME is null, or NAME is not null"
)
_NAME: Final = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_CONDITION: Final = re.compile(
    rf"\s*(?P<name>{_NAME})\s*(?:(?P<sign>\^=|!=|<=|>=|=|<|>)|(?P<word>\sin|\shas|\sis\s+null|\sis\s+not\s+null)(?!\w))"
    r"\s*(?P<value>.*?)\s*",
    re.DOTALL,
)
_LISTED: Final = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[^",]+)\s*(,|$)')
_NUMBER: Final = re.compile(r"-?(?:0|[1-9]\d{0,25})(?:\.\d{1,12})?", re.ASCII)
_ODD_NUMBER: Final = re.compile(r"[+-]?[\d.,_]*\d[\d.,_]*(?:e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
"""What somebody may mean as a number, and is none as it is written: 1e3, 1,000, +5, 007."""

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT.+", re.ASCII | re.DOTALL)
_ORDERED: Final = ("<", "<=", ">", ">=")


class Operand(msgspec.Struct, frozen=True):
    """A value, and all that it may stand for. None: it cannot be that."""

    text: str | None = None
    number: str | None = None
    truth: bool | None = None
    moment: str | None = None


class Condition(msgspec.Struct, frozen=True):
    """What has to be true of an attribute; one that a run does not have is null."""

    name: str
    operator: Operator
    values: tuple[Operand, ...] = ()


def is_attribute(name: str) -> bool:
    """Whether an attribute can be called so: by a name, or by a path to what is inside of it."""
    return re.fullmatch(_NAME, name) is not None


def condition(name: str, operator: Operator, *values: Value) -> Condition:
    """One of values of Python. Raises `BadInput` (CONDITION_INVALID)."""
    if not is_attribute(name):
        raise _wrong(f"{name!r} names no attribute")
    if operator not in get_args(Operator):
        raise _wrong(f"{operator!r} is no operator")
    return _checked(name, operator, [_operand(each) for each in values])


def parse_condition(text: str) -> Condition:
    """One that somebody has written. What stands in quotation marks is a text, whatever it looks like.

    Raises `BadInput` (CONDITION_INVALID).
    """
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise _wrong(f"{text!r} is no condition")
    operator = found["sign"] or " ".join(found["word"].split())
    said = found["value"]
    if operator in ("is null", "is not null"):
        if said:
            raise _wrong(f"{text!r} goes on behind {operator!r}")
        values: list[Operand] = []
    elif not said:
        raise _wrong(f'{text!r} says no value: an empty text is ""')
    elif said[0] in "=<>!^":
        raise _wrong(f"the value of {text!r} begins with a sign: put it in quotation marks")
    elif operator in _ORDERED and _ODD_NUMBER.fullmatch(said) and not _NUMBER.fullmatch(said):
        raise _wrong(
            f"{said} would be compared as a text: write the number with digits and a point alone, or put the text in "
            "quotation marks"
        )
    else:
        values = [_read(each) for each in (_listed(said) if operator == "in" else [said])]
    return _checked(found["name"], operator, values)  # type: ignore[arg-type]


def _checked(name: str, operator: Operator, values: list[Operand]) -> Condition:
    least, most, takes = {
        "is null": (0, 0, "no value"),
        "is not null": (0, 0, "no value"),
        "in": (1, VALUES_MAX, f"from 1 to {VALUES_MAX:,} values (limit search-values)"),
    }.get(operator, (1, 1, "one value"))
    if not least <= len(values) <= most:
        raise _wrong(f"{name} {operator} takes {takes}, not {len(values)}")
    if operator in (*_ORDERED, "^=") and values[0].truth is not None and values[0].text is None:
        raise _wrong(f"{name} {operator}: true and false have no order")
    if operator == "^=" and values[0].text is None:
        raise _wrong(f"{name} ^= takes a text")
    return Condition(name, operator, tuple(values))


def _listed(said: str) -> list[str]:
    found: list[str] = []
    at = 0
    while at < len(said) or not found:
        each = _LISTED.match(said, at)
        if each is None:
            raise _wrong(f"{said!r} is no list of values")
        found.append(each[1].strip())
        at = each.end()
    return found


def _read(said: str) -> Operand:
    if said.startswith('"'):
        try:
            text = json.loads(said)
        except ValueError:
            raise _wrong(f"{said} is no text in quotation marks") from None
        return Operand(text)
    truth = {"true": True, "false": False}.get(said)
    return Operand(
        said,
        said if _NUMBER.fullmatch(said) else None,
        truth,
        _moment(said) if _MOMENT.fullmatch(said) else None,
    )


def _moment(said: str) -> str | None:
    try:
        moment = datetime.fromisoformat(said)
    except ValueError:
        return None
    return None if moment.utcoffset() is None else moment.isoformat()


def _operand(value: object) -> Operand:
    match value:
        case Enum():
            return _operand(value.value)
        case bool():
            return Operand(truth=value)
        case int() | float() | Decimal():
            number = format(Decimal(str(value)), "f")
            if not _NUMBER.fullmatch(number):
                raise _wrong(f"{value} is no number of at most 26 digits, and 12 behind the point")
            return Operand(number=number)
        case datetime():
            if value.utcoffset() is None:
                raise _wrong(f"{value} has no time zone: without one it depends on the machine")
            return Operand(moment=value.isoformat())
        case date():
            return Operand(value.isoformat())
        case str():
            return Operand(value)
        case _:
            raise _wrong(f"a {type(value).__name__} is no value of an attribute")


def _wrong(what: str) -> BadInput:
    return BadInput(f"{what}: {_HOW}", code="CONDITION_INVALID")


# -- as SQL ----------------------------------------------------------------------------------------
Bind = Callable[[object], str]
"""Gives a value a parameter of the query, and returns how that is written."""

TEXT: Final = "(value->>'$')"
KIND: Final = "json_type(value)"
NUMERIC: Final = f"({KIND} IN ('BIGINT', 'UBIGINT', 'HUGEINT', 'DOUBLE') OR {KIND} = 'VARCHAR' AND " + (
    f"regexp_full_match({TEXT}, '-?(0|[1-9][0-9]{{0,25}})(\\.[0-9]+)?'))"
)
IS_MOMENT: Final = f"({KIND} = 'VARCHAR' AND {TEXT} LIKE '____-__-__T%')"


def predicate(asked: Condition, bind: Bind) -> str:
    """What has to be true of a column `value`, the JSON of an attribute. Not for `is null`, which has none."""
    match asked.operator:
        case "is null" | "is not null":
            return f"{KIND} <> 'NULL'"
        case "=":
            return _equal(asked.values[0], bind)
        case "!=":
            return f"({KIND} <> 'NULL' AND NOT coalesce({_equal(asked.values[0], bind)}, false))"
        case "in":
            return _any(_equal(each, bind) for each in asked.values)
        case "^=":
            return f"({KIND} = 'VARCHAR' AND starts_with({TEXT}, {bind(asked.values[0].text)}::VARCHAR))"
        case "has":
            members = "SELECT member AS value FROM (SELECT unnest(json_extract(value, '$[*]')) AS member)"
            return f"({KIND} = 'ARRAY' AND EXISTS (FROM ({members}) WHERE {_equal(asked.values[0], bind)}))"
        case sign:
            return _ordered(sign, asked.values[0], bind)


def _equal(wanted: Operand, bind: Bind) -> str:
    found: list[str] = []
    if wanted.text is not None and wanted.text.isprintable() and not set(wanted.text) & set('"\\'):
        # As the engine writes it, letter by letter: to look at columns as they are takes a fraction of the time.
        found.append(f"value = {bind(json.dumps(wanted.text, ensure_ascii=False))}")
    elif wanted.text is not None:
        found.append(f"({KIND} = 'VARCHAR' AND {TEXT} = {bind(wanted.text)}::VARCHAR)")
    if wanted.number is not None:
        found.append(_by_number("=", wanted.number, bind))
    if wanted.truth is not None:
        found.append(f"({KIND} = 'BOOLEAN' AND {TEXT} = '{json.dumps(wanted.truth)}')")
    if wanted.moment is not None:
        found.append(_by_moment("=", wanted.moment, bind))
    return _any(found)


def _ordered(sign: str, wanted: Operand, bind: Bind) -> str:
    if wanted.number is not None:
        return _by_number(sign, wanted.number, bind)
    if wanted.moment is not None:
        return _by_moment(sign, wanted.moment, bind)
    return f"({KIND} = 'VARCHAR' AND {TEXT} {sign} {bind(wanted.text)}::VARCHAR)"


def _by_number(sign: str, number: str, bind: Bind) -> str:
    place = bind(number)
    exact = f"try_cast({TEXT} AS DECIMAL(38, 12)) {sign} {place}::DECIMAL(38, 12)"
    rough = f"try_cast({TEXT} AS DOUBLE) {sign} {place}::DOUBLE"  # what is larger than a decimal may be
    return f"({NUMERIC} AND coalesce({exact}, {rough}))"


def _by_moment(sign: str, moment: str, bind: Bind) -> str:
    return f"({IS_MOMENT} AND try_cast({TEXT} AS TIMESTAMPTZ) {sign} {bind(moment)}::TIMESTAMPTZ)"


def _any(alternatives: Iterable[str]) -> str:
    return f"({' OR '.join(alternatives)})"
