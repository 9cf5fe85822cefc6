"""Reading one table of a file of connectors: what all kinds of connectors have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from dressage.connectors.connect.transforms import TransformConfig, TransformType
from dressage.connectors.secrets import SECRET, is_sensitive
from dressage.connectors.tables import Expression, Table, shown
from dressage.protocol.errors import BadInput
from dressage.protocol.versions import VersionRef, check_ref

SINK_NAMES: Final = ("value", "key", "kind", "workflow")
"""What expressions of a sink may use, whatever it writes to."""

COMMON_KEYS: Final = ("name", "type", "tasks.max", "transforms", "start", "value.format")

SinkFormat = Literal["cloudevents", "cloudevents-binary", "json"]
Tolerance = Literal["none", "all"]
Start = Literal["all", "new"]

WRITTEN_OUT: Final = "is a secret: write ${env:NAME} or ${file:/path}, and never itself"

_TRANSFORM_KEYS: Final[Mapping[TransformType, tuple[str, ...]]] = {
    "filter": ("name", "type", "condition"),
    "select": ("name", "type", "fields"),
    "rename": ("name", "type", "fields"),
    "constant": ("name", "type", "field", "value"),
    "expression": ("name", "type", "field", "expression"),
}


@dataclass(slots=True, frozen=True)
class CommonConfig:
    """What every connector has."""

    name: str
    transforms: tuple[TransformConfig, ...] = ()
    start: Start = "all"
    """Where a new connector begins; asked once."""


@dataclass(slots=True, frozen=True)
class AskingConfig(CommonConfig):
    """What every source has: runs to start, or external events to post, so exactly one of `workflow` and `event`."""

    tolerance: Tolerance = "none"
    workflow: str = ""
    version: VersionRef | None = None
    run_id: Expression | None = None
    input: Mapping[str, Expression] = field(default_factory=dict[str, Expression])
    event: str = ""
    correlation_key: Expression | None = None
    payload: Expression | None = None


ASKING_KEYS: Final = (
    "errors.tolerance",
    "workflow",
    "version",
    "run_id",
    "input",
    "event",
    "correlation_key",
    "payload",
)


class ConnectorTable(Table):
    """The table of one connector, or of one of its transforms."""

    def text(self, key: str) -> str:
        return self.value(key, str, "a text") or ""

    def choice(self, key: str, choices: tuple[str, ...], *, required: bool = False) -> str | None:
        if required and not self.require(key, f"write one of {', '.join(choices)}"):
            return None
        value = self.values.get(key)
        if value is None or value in choices:
            return value
        self.problem(key, "VALUE_INVALID", f"must be one of {', '.join(choices)}, not {shown(value)}")
        return None

    def format(self, key: str, choices: tuple[Any, ...], default: str) -> Any:
        return self.choice(key, choices) or default

    def start(self) -> Start:
        return "new" if self.choice("start", ("all", "new")) == "new" else "all"

    def tasks(self, most: int, what: str) -> int:
        count = self.value("tasks.max", int, "a number")
        if count is not None and not 1 <= count <= most:
            self.problem("tasks.max", "VALUE_INVALID", f"must be 1 to {most}, not {count}: {what}")
        return count or 1

    def one_task(self) -> None:
        self.tasks(1, "a sink is one task, as events keep their order: start more processes for stand-by")

    def tolerance(self) -> Tolerance:
        return "all" if self.choice("errors.tolerance", ("none", "all")) == "all" else "none"

    def version(self) -> VersionRef | None:
        version = self.values.get("version")
        if isinstance(version, int) and not isinstance(version, bool) and version >= 1:
            return version
        if isinstance(version, str):
            try:
                return check_ref(version)
            except BadInput as error:
                self.problem("version", "VALUE_INVALID", error.message)
        elif version is not None:
            what = "a version's number, its label as 2.x, or an alias"
            self.problem("version", "VALUE_INVALID", f"must be {what}, not {shown(version)}")
        return None

    def expressions(self, key: str, names: tuple[str, ...]) -> dict[str, Expression]:
        found: dict[str, Expression] = {}
        for parameter, text in (
            self.value(key, dict, "a table of parameters, each with an expression") or {}
        ).items():
            place = f"{key}.{parameter}"
            if not parameter.isidentifier():
                self.problem(place, "NAME_INVALID", "no workflow can have a parameter of this name")
            if not isinstance(text, str):
                self.problem(
                    place, "VALUE_INVALID", f"must be an expression, written as text, not {shown(text)}"
                )
                continue
            expression = self.parsed(place, text, names)
            if expression is not None:
                found[parameter] = expression
        return found

    def texts(self, key: str, secrets: frozenset[str] = frozenset()) -> dict[str, str]:
        """Settings as texts, with dots in their names, and secrets by name only; `secrets` are some in any case."""
        found: dict[str, str] = {}
        for name, value in _flat_all(self.value(key, dict, "a table of settings") or {}):
            place = f"{key}.{name}"
            if not isinstance(value, (str, int, float)):
                self.problem(place, "VALUE_INVALID", "must be a text, a number or a truth value")
                continue
            found[name] = str(value).lower() if isinstance(value, bool) else str(value)
            secret = (is_sensitive(name) and not name.endswith(".location")) or name.lower() in secrets
            if secret and not SECRET.search(found[name]):
                self.problem(place, "VALUE_INVALID", WRITTEN_OUT)
        return found

    def asking(self, names: tuple[str, ...]) -> dict[str, Any]:
        """The fields of `AskingConfig` that a table says; expressions may use `names`."""
        starts = "workflow" in self.values
        if starts == ("event" in self.values):
            self.problem(
                "workflow", "KEY_MISSING", "give a workflow to start, or an event to post, and not both"
            )
        if not starts and ("run_id" in self.values) == ("correlation_key" in self.values):
            self.problem(
                "run_id",
                "KEY_MISSING",
                "an event goes to a run_id, or to a correlation_key: give one of them",
            )
        for key in ("event", "payload", "correlation_key") if starts else ("workflow", "version", "input"):
            if key in self.values and key != "event":
                self.problem(key, "KEY_UNKNOWN", f"has no place beside {'workflow' if starts else 'event'}")
        return {
            "tolerance": self.tolerance(),
            "workflow": self.name("workflow", "workflow") if starts else "",
            "version": self.version(),
            "run_id": self.expression("run_id", names),
            "input": self.expressions("input", names),
            "event": "" if starts or "event" not in self.values else self.name("event", "event"),
            "correlation_key": self.expression("correlation_key", names),
            "payload": self.expression("payload", names),
        }

    def transforms(self, names: tuple[str, ...]) -> tuple[TransformConfig, ...]:
        steps = self.value("transforms", list, "a list of tables [[connector.transforms]]") or []
        found: list[TransformConfig] = []
        for number, values in enumerate(steps, 1):
            if not isinstance(values, dict):
                self.problem(
                    "transforms", "VALUE_INVALID", "declare each in a table [[connector.transforms]]"
                )
                continue
            name = values.get("name")
            which = f'transform "{name}"' if isinstance(name, str) else f"transform {number}"
            found.append(
                _transform(
                    ConnectorTable(self._file, self._problems, values, f"{self.where}: {which}"), names
                )
            )
        return tuple(found)


def _transform(step: ConnectorTable, names: tuple[str, ...]) -> TransformConfig:
    name = step.name("name", "transform")
    kinds = get_args(TransformType)
    kind: TransformType = step.choice("type", kinds, required=True) or "filter"  # type: ignore[assignment]
    if step.values.get("type") in kinds:
        step.allow(_TRANSFORM_KEYS[kind])
        for key in _TRANSFORM_KEYS[kind]:
            if key != "field" or kind != "expression":
                step.require(key, f"a transform of type {kind} needs it")
    text = "condition" if kind == "filter" else "expression"
    return TransformConfig(
        name=name,
        type=kind,
        expression=step.expression(text, names),
        field=step.text("field"),
        value=step.values.get("value"),
        fields=_fields(step, kind),
    )


def _fields(step: ConnectorTable, kind: TransformType) -> Mapping[str, str]:
    given = step.values.get("fields")
    if kind == "select" and isinstance(given, list) and all(isinstance(each, str) for each in given):
        return {each: each for each in given}
    if kind == "rename" and isinstance(given, dict) and all(isinstance(each, str) for each in given.values()):
        return given
    if kind in ("select", "rename") and given is not None:
        form = '["id", "total"]' if kind == "select" else '{ old = "new" }'
        step.problem("fields", "VALUE_INVALID", f"must be as in {form}, not {shown(given)}")
    return {}


def flat(table: Mapping[str, Any], tables: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as dotted keys, but for those that stay tables."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        path = prefix + key
        if isinstance(value, dict) and path not in tables:
            found |= flat(value, tables, f"{path}.")
        else:
            found[path] = value
    return found


def _flat_all(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat_all(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
