"""Kafka connectors: records become runs or external events, and output events become records.

- `config`: what a file says of them.
- `source`: one consumer of a source; `record_mapping`: from one record to what is asked of the engine, pure.
- `sink`: the transactional producer of a sink; `event_mapping`: from one output event to a record, pure.

Reading a file needs nothing but the standard library; `source` and `sink` need the extra `kafka`.
"""
