"""Kafka connectors: records become runs or external events, and output events become records.

- `config`: the TOML file that declares them, and everything that can be wrong with it.
- `source`: one consumer of a source; `record_mapping`: from one record to what is asked of the engine, pure.
- `sink`: the transactional producer of a sink; `event_mapping`: from one output event to a record, pure.
- `runner`: the process that runs them.

Reading a file needs nothing but the standard library; `runner` needs the extra `kafka`.
"""

from dressage.connectors.kafka.config import (
    Connector,
    SinkConnector,
    SourceConnector,
    load_connectors,
    parse_connectors,
)

__all__ = ["Connector", "SinkConnector", "SourceConnector", "load_connectors", "parse_connectors"]
