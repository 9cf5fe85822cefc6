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
_Evaluate = Callable[[Mapping[str, Any]], Any]


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
        self._when = _compiled(trigger.when) if trigger.when else None
        self._run_id = _compiled(trigger.run_id)
        self._input = {name: _compiled(expression) for name, expression in trigger.input.items()}

    def start_of(self, event: Delivery) -> Start | None:
        """What `event` asks for; None if `when` says that it is not meant. Raises `Unmappable`."""
        variables = {"event": _payload(event), "subject": event.subject, "headers": dict(event.headers or {})}
        if self._when is not None and not _evaluated("when", self._when, variables):
            return None
        run_id = _usable(_evaluated("run_id", self._run_id, variables))
        values = {name: _evaluated(f"input.{name}", each, variables) for name, each in self._input.items()}
        return Start(run_id, _written(values))


def _compiled(expression: Expression) -> _Evaluate:
    return compile_expression(expression.tree, TypeTable())


def _payload(event: Delivery) -> Any:
    try:
        return _decode(event.data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error) if event.data else "it is empty"
        raise Unmappable(f"the payload is no JSON: {reason}", code=EVENT_NOT_JSON) from error


def _evaluated(key: str, evaluate: _Evaluate, variables: Mapping[str, Any]) -> Any:
    try:
        return evaluate(variables)
    except DressageError as error:
        raise Unmappable(f"{key}: {error.message}", code=error.code) from error


def _usable(run_id: Any) -> str:
    if not isinstance(run_id, str):
        kind = type(run_id).__name__
        raise Unmappable(f"run_id: it gives a {kind}, not a str: use str(...)", code=BadRunId.code)
    try:
        return check_run_id(run_id)
    except BadRunId as error:
        raise Unmappable(f"run_id: {error.message}", code=error.code) from error


def _written(values: Mapping[str, Any]) -> bytes:
    try:
        return _encode(values)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise Unmappable(f"the input cannot be written as JSON: {error}", code="INPUT_INVALID") from error
