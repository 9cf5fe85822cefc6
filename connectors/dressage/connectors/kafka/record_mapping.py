"""From one record to what is asked of the engine: pure, so that the same record always asks for the same."""

from __future__ import annotations

from typing import Any

from dressage.connectors.connect.transforms import Variables, compiled_steps, passes
from dressage.connectors.kafka.config import SourceConnector
from dressage.connectors.kafka.formats import Decoder, decoder, text_headers
from dressage.connectors.kafka.records import Record
from dressage.connectors.mapping import Post, Start, Unmappable, compiled, evaluated, usable_run_id, written
from dressage.protocol.errors import BadInput
from dressage.protocol.names import check_key


class RecordMapping:
    """What one source makes of its records."""

    def __init__(self, config: SourceConnector) -> None:
        """Raises `BadInput` for a descriptor that cannot be used, or a secret that is not there."""
        self._config = config
        self._value: Decoder = decoder(config, config.value_format)
        self._key: Decoder = decoder(config, config.key_format, is_key=True)
        self._steps = compiled_steps(config.transforms)
        self._run_id = compiled(config.run_id) if config.run_id else None
        self._correlation = compiled(config.correlation_key) if config.correlation_key else None
        self._payload = compiled(config.payload) if config.payload else None
        self._input = {name: compiled(each) for name, each in config.input.items()}

    async def asked(self, record: Record) -> Start | Post | None:
        """What the record asks for; None if a filter says that it is not meant.

        Raises `Unmappable`, or `RegistryAway` when its schema cannot be looked up now.
        """
        variables: Variables = {
            "value": await self._value.decode(record.value, record.topic),
            "key": await self._key.decode(record.key, record.topic),
            "headers": text_headers(record.headers),
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp_ms,
        }
        if not passes(self._steps, variables):
            return None
        return self._post(record, variables) if self._config.event else self._start(record, variables)

    def _start(self, record: Record, variables: Variables) -> Start:
        values = {name: evaluated(f"input.{name}", each, variables) for name, each in self._input.items()}
        return Start(self._run_of(record, variables), written(values, "input"))

    def _post(self, record: Record, variables: Variables) -> Post:
        payload = evaluated("payload", self._payload, variables) if self._payload else variables["value"]
        event, event_id = self._config.event, f"{self._config.name}/{record.id}"
        if self._correlation is None:
            return Post(event, event_id, written(payload, "payload"), run_id=self._run_of(record, variables))
        return Post(
            event,
            event_id,
            written(payload, "payload"),
            key=_usable_key(evaluated("correlation_key", self._correlation, variables)),
        )

    def _run_of(self, record: Record, variables: Variables) -> str:
        if self._run_id is None:
            return usable_run_id(f"{self._config.name}/{record.id}")
        return usable_run_id(evaluated("run_id", self._run_id, variables))


def _usable_key(key: Any) -> str:
    try:
        return check_key(key)
    except BadInput as error:
        raise Unmappable(f"correlation_key: {error.message}", code=error.code) from error
