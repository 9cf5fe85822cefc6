"""From one event to the start of one run: pure, so that the same event always asks for the same run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dressage.brokers.interface import Delivery
from dressage.connectors.config import Expression, TriggerConfig
from dressage.expressions import TypeTable, compile_expression
from dressage.protocol.errors import BadInput, BadRunId, DressageError
from dressage.protocol.names import check_run_id

EVENT_NOT_JSON: Final = "EVENT_NOT_JSON"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
Evaluate = Callable[[Mapping[str, Any]], Any]


class Unmappable(BadInput):
    """This event can start no run, however often it is tried; `code` and the message say why."""

    code = "EVENT_UNMAPPABLE"


@dataclass(slots=True, frozen=True)
class Start:
    """What an event asks for. `input` is a JSON object of parameters by name."""

    run_id: str
    input: bytes


class EventMapping:
    """The expressions of one trigger, compiled."""

    def __init__(self, trigger: TriggerConfig) -> None:
        self._when = compiled(trigger.when) if trigger.when else None
        self._run_id = compiled(trigger.run_id)
        self._input = {name: compiled(expression) for name, expression in trigger.input.items()}

    def start_of(self, event: Delivery) -> Start | None:
        """What `event` asks for; None if `when` says that it is not meant. Raises `Unmappable`."""
        variables = {"event": _payload(event), "subject": event.subject, "headers": dict(event.headers or {})}
        if self._when is not None and not evaluated("when", self._when, variables):
            return None
        run_id = usable_run_id(evaluated("run_id", self._run_id, variables))
        values = {name: evaluated(f"input.{name}", each, variables) for name, each in self._input.items()}
        return Start(run_id, written(values))


def compiled(expression: Expression) -> Evaluate:
    """A function of the variables that the expression uses."""
    return compile_expression(expression.tree, TypeTable())


def _payload(event: Delivery) -> Any:
    try:
        return _decode(event.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) if event.data else "it is empty"
        raise Unmappable(f"the payload is no JSON: {reason}", code=EVENT_NOT_JSON) from error


def evaluated(key: str, evaluate: Evaluate, variables: Mapping[str, Any]) -> Any:
    """What the expression of a key gives. Raises `Unmappable`."""
    try:
        return evaluate(variables)
    except DressageError as error:
        raise Unmappable(f"{key}: {error.message}", code=error.code) from error


def usable_run_id(run_id: Any) -> str:
    """Returns what can be the id of a run. Raises `Unmappable`."""
    if not isinstance(run_id, str):
        kind = type(run_id).__name__
        raise Unmappable(f"run_id: it gives a {kind}, not a str: use str(...)", code=BadRunId.code)
    try:
        return check_run_id(run_id)
    except BadRunId as error:
        raise Unmappable(f"run_id: {error.message}", code=error.code) from error


def written(values: Any) -> bytes:
    """Values as JSON. Raises `Unmappable`."""
    try:
        return _encode(values)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unmappable(f"the input cannot be written as JSON: {error}", code="INPUT_INVALID") from error
