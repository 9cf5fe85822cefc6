"""What a source makes of one record, or of one row: pure, so that the same one always asks for the same."""

from __future__ import annotations

from typing import Any

from dressage.connectors.connect.reading import AskingConfig
from dressage.connectors.connect.transforms import Variables, compiled_steps, passes
from dressage.connectors.mapping import (
    Post,
    Start,
    Unmappable,
    compiled,
    evaluated,
    traceparent_of,
    usable_run_id,
    written,
)
from dressage.protocol.errors import BadInput
from dressage.protocol.names import check_key


class Asks:
    """The expressions of one source, compiled."""

    def __init__(self, config: AskingConfig) -> None:
        self._config = config
        self._steps = compiled_steps(config.transforms)
        self._run_id = compiled(config.run_id) if config.run_id else None
        self._correlation = compiled(config.correlation_key) if config.correlation_key else None
        self._payload = compiled(config.payload) if config.payload else None
        self._input = {name: compiled(each) for name, each in config.input.items()}

    def asked(self, variables: Variables, place: str) -> Start | Post | None:
        """What is asked for; None if a filter says that it is not meant. `place` is where it came from, the same
        whenever it comes again. Raises `Unmappable`."""
        if not passes(self._steps, variables):
            return None
        return self._post(variables, place) if self._config.event else self._start(variables, place)

    def _start(self, variables: Variables, place: str) -> Start:
        values = {name: evaluated(f"input.{name}", each, variables) for name, each in self._input.items()}
        return Start(self._run_of(variables, place), written(values, "input"), traceparent_of(variables))

    def _post(self, variables: Variables, place: str) -> Post:
        payload = evaluated("payload", self._payload, variables) if self._payload else variables["value"]
        event, event_id = self._config.event, f"{self._config.name}/{place}"
        if self._correlation is None:
            return Post(event, event_id, written(payload, "payload"), run_id=self._run_of(variables, place))
        return Post(
            event,
            event_id,
            written(payload, "payload"),
            key=_usable_key(evaluated("correlation_key", self._correlation, variables)),
        )

    def _run_of(self, variables: Variables, place: str) -> str:
        if self._run_id is None:
            return usable_run_id(f"{self._config.name}/{place}")
        return usable_run_id(evaluated("run_id", self._run_id, variables))


def _usable_key(key: Any) -> str:
    try:
        return check_key(key)
    except BadInput as error:
        raise Unmappable(f"correlation_key: {error.message}", code=error.code) from error
