"""Transforms: small named steps between a record and what is made of it, pure.

==============  ==================================================================================
`filter`        goes on only with records for which an expression is true
`select`        keeps these fields of the value, and no others
`rename`        gives fields of the value other names
`constant`      sets a field of the value
`expression`    sets a field of the value, or the whole value, to what an expression gives
==============  ==================================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dressage.connectors.mapping import Unmappable, compiled, evaluated
from dressage.connectors.tables import Expression

TransformType = Literal["filter", "select", "rename", "constant", "expression"]

Variables = dict[str, Any]
"""What expressions may use; `value` is what the steps change."""


@dataclass(slots=True, frozen=True)
class TransformConfig:
    """One step. Which fields count depends on its type."""

    name: str
    type: TransformType
    expression: Expression | None = None
    field: str = ""
    value: Any = None
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    """For `select` the names that are kept, for `rename` the new name of each."""


Step = Callable[[Variables], bool]
"""Changes the variables in place; False ends it for a record that is not meant."""


def compiled_steps(transforms: tuple[TransformConfig, ...]) -> list[Step]:
    return [_step(each) for each in transforms]


def passes(steps: list[Step], variables: Variables) -> bool:
    """Whether the record is meant; its `value` is what the steps have made of it. Raises `Unmappable`."""
    return all(step(variables) for step in steps)


def _step(config: TransformConfig) -> Step:
    match config.type:
        case "filter":
            return _filter(config)
        case "select":
            return _select(config)
        case "rename":
            return _rename(config)
        case "constant":
            return _constant(config)
        case "expression":
            return _expression(config)


def _filter(config: TransformConfig) -> Step:
    assert config.expression is not None
    evaluate, where = compiled(config.expression), f"transform {config.name}"

    def step(variables: Variables) -> bool:
        return bool(evaluated(where, evaluate, variables))

    return step


def _select(config: TransformConfig) -> Step:
    def step(variables: Variables) -> bool:
        value = _fields_of(config, variables)
        variables["value"] = {name: value[name] for name in config.fields if name in value}
        return True

    return step


def _rename(config: TransformConfig) -> Step:
    def step(variables: Variables) -> bool:
        value = _fields_of(config, variables)
        variables["value"] = {config.fields.get(name, name): each for name, each in value.items()}
        return True

    return step


def _constant(config: TransformConfig) -> Step:
    def step(variables: Variables) -> bool:
        variables["value"] = {**_fields_of(config, variables), config.field: config.value}
        return True

    return step


def _expression(config: TransformConfig) -> Step:
    assert config.expression is not None
    evaluate, where = compiled(config.expression), f"transform {config.name}"

    def step(variables: Variables) -> bool:
        found = evaluated(where, evaluate, variables)
        variables["value"] = {**_fields_of(config, variables), config.field: found} if config.field else found
        return True

    return step


def _fields_of(config: TransformConfig, variables: Variables) -> dict[str, Any]:
    value = variables["value"]
    if isinstance(value, dict):
        return value
    raise Unmappable(
        f"transform {config.name}: the value is a {type(value).__name__}, which has no fields: filter such records "
        "out, or make an object of them by a transform of type expression",
        code="VALUE_INVALID",
    )
