"""How far connectors are: what Kafka has committed of a source, and where a sink is in the stream."""

from __future__ import annotations

from dataclasses import dataclass

from dressage.brokers.event_feed import stream_info
from dressage.brokers.interface import Connection
from dressage.connectors.asked.config import QuerySource
from dressage.connectors.connect.config import Connector
from dressage.connectors.events_out.config import SubjectSink, WebhookSink
from dressage.connectors.kafka.config import SourceConnector
from dressage.connectors.place import read_place
from dressage.protocol.names import Names


@dataclass(slots=True, frozen=True)
class Reached:
    """`where` is a partition as `orders/0`, or the stream; `offset` is None before anything was committed."""

    connector: str
    where: str
    offset: int | None
    end: int

    @property
    def lag(self) -> int:
        return max(0, self.end - (self.offset or 0))


async def offsets_of(config: Connector, names: Names, connection: Connection) -> list[Reached]:
    """How far one connector is. Raises `BrokerError`."""
    if isinstance(config, SourceConnector):
        from dressage.connectors.kafka.offsets import source_offsets

        return [Reached(config.name, *each) for each in source_offsets(config, names)]
    if isinstance(config, QuerySource):
        return []  # It has no place: each row counts once, whenever it is seen.
    # The stream also holds positions of shards, which are no events.
    last = await connection.last_message(names.events_stream, names.all_events())
    seq = await _sink_seq(config, names, connection)
    return [Reached(config.name, names.events_stream, seq, last.seq if last else 0)]


async def _sink_seq(config: Connector, names: Names, connection: Connection) -> int | None:
    if isinstance(config, (SubjectSink, WebhookSink)):
        place, _ = await read_place(connection, names, names.connector_place_key(config.name))
        created = (await stream_info(connection, names.events_stream)).created
        return place.seq if place is not None and place.created == created else None
    assert not isinstance(config, SourceConnector | QuerySource)
    from dressage.connectors.kafka.offsets import sink_seq

    return sink_seq(config, names)
