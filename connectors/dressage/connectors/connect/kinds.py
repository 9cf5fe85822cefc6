"""Which code runs a connector: that of its kind is imported here, where one of it runs, as it may need an extra."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from dressage.brokers.interface import Connection
from dressage.connectors.asked.config import QuerySource
from dressage.connectors.connect.config import Connector
from dressage.connectors.connect.event_mapping import EventOutput
from dressage.connectors.connect.options import ConnectorFailed, Setting
from dressage.connectors.events_out.config import SubjectSink, WebhookSink
from dressage.connectors.events_out.outgoing import Delivery
from dressage.connectors.events_out.under_way import SinkParts
from dressage.connectors.gate import Faults
from dressage.connectors.kafka.config import SinkConnector, SourceConnector


class Work(Protocol):
    """A task of a connector."""

    def run(self, stop: asyncio.Event) -> Awaitable[None]:
        """Returns after `stop`. Raises `ConnectorFailed`, or `BadInput`."""
        ...


def tasks_of(config: Connector) -> int:
    """How many tasks one process has for it."""
    return config.tasks_max if isinstance(config, SourceConnector) else 1


def work_of(config: Connector, setting: Setting) -> Work:
    """Raises `BadInput` for settings that cannot be used, or a secret that is not there; `ConnectorFailed` where the
    extra is not installed."""
    try:
        return _work_of(config, setting)
    except ModuleNotFoundError as error:
        extra = {"confluent_kafka": "kafka", "httpx": "webhooks"}.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ConnectorFailed(
            f"connector {config.name!r}: {error.name} is not installed: pip install 'dressage[{extra}]'",
            code="EXTRA_MISSING",
        ) from error


def _work_of(config: Connector, setting: Setting) -> Work:
    client, options, metrics = setting.client, setting.options, setting.metrics
    match config:
        case SourceConnector():
            from dressage.connectors.kafka.source import SourceTask

            return SourceTask(config, client, options, metrics)
        case QuerySource():
            from dressage.connectors.asked.source import QueryTask

            return QueryTask(config, client, options, metrics)
        case SinkConnector():
            from dressage.connectors.kafka.sink import SinkTask

            return SinkTask(config, client, options, metrics)
        case SubjectSink() | WebhookSink():
            from dressage.connectors.events_out.sink import EventSink

            return EventSink(sink_parts(config, setting))


def sink_parts(config: SubjectSink | WebhookSink, setting: Setting) -> SinkParts:
    """What a sink to subjects or to a webhook is made of. Raises `BadInput` as `work_of` does."""
    faults = Faults(config.name, setting.metrics.faulty, "connector")
    if isinstance(config, SubjectSink):
        output = EventOutput(config.transforms, config.value_format, "subject", config.subject)
        return SinkParts(config, setting, output, _subjects(config, setting), faults)
    from dressage.connectors.events_out.webhook import WebhookDelivery

    output = EventOutput(config.transforms, config.value_format)
    return SinkParts(config, setting, output, WebhookDelivery(config, faults), faults)


def _subjects(config: SubjectSink, setting: Setting) -> Delivery:
    from dressage.connectors.events_out.subject import SubjectDelivery

    async def connect() -> Connection:
        name = f"dressage-sink-{setting.client.names.namespace}-{config.name}"
        return await setting.broker.connect(name, reconnect=True)

    return SubjectDelivery(connect)


def check_settings(config: Connector) -> None:
    """Raises `BadInput` for settings that a client refuses, or a secret that is not there. Connects to nothing."""
    match config:
        case SourceConnector() | SinkConnector():
            from dressage.connectors.kafka.clients import check_client

            check_client(config)
        case WebhookSink():
            from dressage.connectors.events_out.webhook import target_of

            target_of(config)
        case SubjectSink() | QuerySource():
            pass
