"""Connectors: how events of other services become runs, and what runs say becomes events of others.

- `config`, `tables`: the TOML file that declares them, and everything that can be wrong with it.
- `trigger`: the process that asks the engine for something for each event of a JetStream stream.
- `mapping`: from one event to what it asks for, the start of a run or an external event, pure.
- `engine`: asks for it.
- `runner`: a process of triggers.
- `definitions`, `deployed`, `rules`: those that are deployed, and may change under way.
- `source`: the stream that belongs to somebody else, and the trigger's durable consumer on it.
- `webhooks`: events that come by HTTP.
- `http`: runs for callers without NATS.
- `dead_letter`: what is kept of an event that cannot start a run.
"""

from dressage.connectors.config import TriggerConfig, load_triggers, parse_triggers
from dressage.connectors.runner import TriggerRunner
from dressage.connectors.setting import TriggerOptions
from dressage.connectors.tables import ConfigInvalid, Problem

__all__ = [
    "ConfigInvalid",
    "Problem",
    "TriggerConfig",
    "TriggerOptions",
    "TriggerRunner",
    "load_triggers",
    "parse_triggers",
]
