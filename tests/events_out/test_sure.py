"""Nothing is sent by a process that is not certainly the active one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from dressage.brokers.interface import Connection, StoredMessage
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.connectors.connect.config import parse_connectors
from dressage.connectors.connect.event_mapping import JSON, Output
from dressage.connectors.connect.metrics import ConnectorMetrics, Metrics
from dressage.connectors.events_out.config import WebhookSink
from dressage.connectors.events_out.outgoing import Delivery, Outgoing
from dressage.connectors.events_out.subject import SubjectDelivery
from dressage.connectors.events_out.webhook import WebhookDelivery
from dressage.connectors.gate import Faults
from dressage.connectors.place import LeaseLost
from dressage.protocol.events import decode_event
from dressage.telemetry import NoMeters

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import Receiver  # pyright: ignore[reportMissingImports]

EVENT = b"""{"id": "r/0", "source": "s", "type": "dressage.run-started", "time": "2026-01-01T00:00:00.000Z",
"subject": "r", "workflow": "w", "version": 1, "index": 0, "command": "1", "data": {}}"""


async def not_sure() -> None:
    raise LeaseLost("another one is active")


async def sure() -> None:
    return


@pytest.mark.parametrize("kind", ["subject", "webhook"])
async def test_it_is_asked_just_before(
    place: Place,
    shop: Callable[[], Awaitable[list[StoredMessage]]],
    client: Client,
    receiver: Receiver,
    kind: str,
) -> None:
    async def connect() -> Connection:
        return await JetStreamBroker(place.server.url).connect("sink", reconnect=True)

    faults = Faults("out", ConnectorMetrics(Metrics(NoMeters()), "out").faulty, "connector")
    (config,) = parse_connectors(f'[[connector]]\nname = "out"\ntype = "sink"\nurl = "{receiver.url}"\n')
    assert isinstance(config, WebhookSink)
    delivery: Delivery = SubjectDelivery(connect) if kind == "subject" else WebhookDelivery(config, faults)
    outgoing = Outgoing(1, "default/out/r/0/1", decode_event(EVENT), EVENT, Output(b"{}", JSON, {}, "shop.r"))
    async with delivery:
        with pytest.raises(LeaseLost):
            await delivery.deliver(outgoing, not_sure)
        assert (len(receiver.got), await shop()) == (0, [])
        await delivery.deliver(outgoing, sure)
        assert len(receiver.got) + len(await shop()) == 1
