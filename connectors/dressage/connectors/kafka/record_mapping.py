"""From one record to what is asked of the engine: pure, so that the same record always asks for the same."""

from __future__ import annotations

from dressage.connectors.connect.asking import Asks
from dressage.connectors.connect.transforms import Variables
from dressage.connectors.kafka.config import SourceConnector
from dressage.connectors.kafka.formats import Decoder, decoder, text_headers
from dressage.connectors.kafka.records import Record
from dressage.connectors.mapping import Post, Start


class RecordMapping:
    """What one source makes of its records."""

    def __init__(self, config: SourceConnector) -> None:
        """Raises `BadInput` for a descriptor that cannot be used, or a secret that is not there."""
        self._value: Decoder = decoder(config, config.value_format)
        self._key: Decoder = decoder(config, config.key_format, is_key=True)
        self._asks = Asks(config)

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
        return self._asks.asked(variables, record.id)
