"""From one event to what it asks for, the start of a run or an external event: pure, so that the same event always asks
for the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from dressage.brokers.interface import Delivery
from dressage.connectors.cloud_events import read_event
from dressage.connectors.config import PostTarget, StartTarget
from dressage.connectors.tables import Expression
from dressage.expressions import TypeTable, compile_expression
from dressage.protocol.errors import BadInput, BadRunId, DressageError
from dressage.protocol.names import check_actor, check_key, check_run_id
from dressage.protocol.traces import TRACEPARENT, usable_trace

EVENT_ID_INVALID: Final = "EVENT_ID_INVALID"
KEY_INVALID: Final = "KEY_INVALID"

_encode = msgspec.json.Encoder().encode
Evaluate = Callable[[Mapping[str, Any]], Any]


class Unmappable(BadInput):
    """This event asks for nothing that there is, however often it is tried; `code` and the message say why."""

    code = "EVENT_UNMAPPABLE"


@dataclass(slots=True, frozen=True)
class Start:
    """Asks for a run. `input` is a JSON object of parameters by name, `traceparent` the event's W3C trace context."""

    run_id: str
    input: bytes
    traceparent: str = ""


@dataclass(slots=True, frozen=True)
class Post:
    """Asks for an external event, of a run or at a correlation key; the other one is empty. `payload` is JSON."""

    event: str
    event_id: str
    payload: bytes
    run_id: str = ""
    key: str = ""


class Declared(Protocol):
    """What a trigger and a webhook have in common."""

    @property
    def when(self) -> Expression | None: ...

    @property
    def target(self) -> StartTarget | PostTarget: ...


Variables = dict[str, Any]
"""What expressions may use, by name."""


class EventMapping:
    """The expressions of one trigger or webhook, compiled."""

    def __init__(
        self, declared: Declared, order_by: Expression | None = None, *, in_batches: bool = False
    ) -> None:
        self._when = _compiled(declared.when)
        self._order_by = _compiled(order_by)
        self._in_batches = in_batches
        target = declared.target
        self._asked = _Starts(target) if isinstance(target, StartTarget) else _Posts(target)

    def asked_by(self, event: Delivery, event_id: str) -> Start | Post | None:
        """What `event` asks for, if need be as a batch of its own; None if `when` says that it is not meant. Raises
        `Unmappable`.

        `event_id` is the id of an external event where nothing else gives one: the same whenever this event comes.
        """
        variables = self.meant(event)
        if variables is None:
            return None
        return self.asked_of([variables], event_id) if self._in_batches else self.asked(variables, event_id)

    def meant(self, event: Delivery) -> Variables | None:
        """What there is of an event; None if `when` says that it is not meant. Raises `Unmappable`."""
        variables = _variables(event)
        if self._when is not None and not evaluated("when", self._when, variables):
            return None
        return variables

    def asked(self, variables: Variables, event_id: str) -> Start | Post:
        """What one event asks for. Raises `Unmappable`."""
        return self._asked(variables, event_id)

    def asked_of(self, batch: Sequence[Variables], batch_id: str) -> Start | Post:
        """What events ask for together, in their order. Raises `Unmappable`."""
        joined = {
            "events": [each["event"] for each in batch],
            "subjects": [each["subject"] for each in batch],
            "headers": [each["headers"] for each in batch],
            "ce": [each["ce"] for each in batch],
            "batch": batch_id,
        }
        return self._asked(joined, batch_id)

    def order_of(self, variables: Variables) -> str:
        """Those of one order come one after the other. Raises `Unmappable`."""
        assert self._order_by is not None, "asked where it is declared"
        return usable("order_by", evaluated("order_by", self._order_by, variables), str, KEY_INVALID)


class _Starts:
    def __init__(self, target: StartTarget) -> None:
        self._run_id = compiled(target.run_id)
        self._input = {name: compiled(each) for name, each in target.input.items()}

    def __call__(self, variables: Mapping[str, Any], event_id: str) -> Start:
        run_id = _run_id_of(self._run_id, variables)
        values = {name: evaluated(f"input.{name}", each, variables) for name, each in self._input.items()}
        return Start(run_id, written(values, "input"), traceparent_of(variables))


class _Posts:
    def __init__(self, target: PostTarget) -> None:
        self._event = target.event
        self._run_id = _compiled(target.run_id)
        self._key = _compiled(target.key)
        self._payload = _compiled(target.payload)
        self._event_id = _compiled(target.event_id)

    def __call__(self, variables: Mapping[str, Any], event_id: str) -> Post:
        run_id = _run_id_of(self._run_id, variables) if self._run_id else ""
        key = _text_of("key", self._key, variables, check_key, KEY_INVALID) if self._key else ""
        payload = (
            variables.get("event", variables.get("events"))
            if self._payload is None
            else evaluated("payload", self._payload, variables)
        )
        return Post(
            self._event, self._id(variables, event_id), written(payload, "payload"), run_id=run_id, key=key
        )

    def _id(self, variables: Mapping[str, Any], event_id: str) -> str:
        """As the file says; else what a CloudEvent says of itself; else as the event came."""
        if self._event_id is not None:
            return _text_of("event_id", self._event_id, variables, _an_event_id, EVENT_ID_INVALID)
        ce = variables["ce"]
        if not ce or "batch" in variables:
            return event_id
        try:
            return _an_event_id(f"{ce['source']} {ce['id']}")
        except BadInput as error:
            raise Unmappable(
                f"source and id of the CloudEvent: {error.message}; or give event_id", code=EVENT_ID_INVALID
            ) from error


def _variables(event: Delivery) -> dict[str, Any]:
    headers = dict(event.headers or {})
    try:
        data, attributes = read_event(event.data, headers)
    except BadInput as error:
        raise Unmappable(error.message, code=error.code) from error
    return {"event": data, "subject": event.subject, "headers": headers, "ce": attributes}


def traceparent_of(variables: Mapping[str, Any]) -> str:
    """The trace context of an event, of its headers or of the CloudEvent; empty without one, as for a batch."""
    for name in ("headers", "ce"):
        found = variables.get(name)
        for header, value in found.items() if isinstance(found, Mapping) else ():
            # Names of headers are the same in capitals.
            if header.lower() == TRACEPARENT and isinstance(value, str) and (usable := usable_trace(value)):
                return usable
    return ""


def compiled(expression: Expression) -> Evaluate:
    """A function of the variables that the expression uses."""
    return compile_expression(expression.tree, TypeTable())


def _compiled(expression: Expression | None) -> Evaluate | None:
    return None if expression is None else compiled(expression)


def evaluated(key: str, evaluate: Evaluate, variables: Mapping[str, Any]) -> Any:
    """What the expression of a key gives. Raises `Unmappable`."""
    try:
        return evaluate(variables)
    except DressageError as error:
        raise Unmappable(f"{key}: {error.message}", code=error.code) from error


def _run_id_of(evaluate: Evaluate, variables: Mapping[str, Any]) -> str:
    return _text_of("run_id", evaluate, variables, check_run_id, BadRunId.code)


def _text_of(
    what: str, evaluate: Evaluate, variables: Mapping[str, Any], check: Callable[[str], str], code: str
) -> str:
    return usable(what, evaluated(what, evaluate, variables), check, code)


def usable_run_id(run_id: Any) -> str:
    """Returns what can be the id of a run. Raises `Unmappable`."""
    return usable("run_id", run_id, check_run_id, BadRunId.code)


def usable(what: str, text: Any, check: Callable[[str], str], code: str) -> str:
    """Returns a text that `check` lets pass. Raises `Unmappable`, with this code."""
    if not isinstance(text, str):
        kind = type(text).__name__
        raise Unmappable(f"{what}: it gives a {kind}, not a str: use str(...)", code=code)
    try:
        return check(text)
    except BadInput as error:
        raise Unmappable(f"{what}: {error.message}", code=code) from error


def _an_event_id(text: str) -> str:
    if not text:
        raise BadInput("it is empty")
    return check_actor(text, "event id")


def written(values: Any, what: str) -> bytes:
    """Values as JSON; `what` says whether they are an "input" or a "payload". Raises `Unmappable`."""
    try:
        return _encode(values)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        code = "INPUT_INVALID" if what == "input" else "EVENT_INVALID"
        raise Unmappable(f"the {what} cannot be written as JSON: {error}", code=code) from error
