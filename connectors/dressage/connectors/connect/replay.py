"""Dead letters of connectors once more, by the connector as it is declared now.

A record is asked for at the engine as its source asks, and an output event is delivered as its sink delivers: under the
ids that they had at first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from dressage.connectors.asked.config import QuerySource
from dressage.connectors.connect.config import Connector
from dressage.connectors.connect.kinds import sink_parts
from dressage.connectors.connect.options import Setting
from dressage.connectors.engine import engine_of_source
from dressage.connectors.events_out.outgoing import (
    EVENT_HEADER,
    RECEIVER,
    NotDelivered,
    Outgoing,
    received,
    with_output,
)
from dressage.connectors.events_out.under_way import SinkParts
from dressage.connectors.kafka.config import SinkConnector, SourceConnector
from dressage.connectors.kafka.record_mapping import RecordMapping
from dressage.connectors.kafka.records import record_of
from dressage.connectors.replay import Again, Letter, Taken, asked
from dressage.protocol.errors import BadInput, BadRunId
from dressage.protocol.names import Names


@asynccontextmanager
async def letters_again(config: Connector, setting: Setting) -> AsyncIterator[Again]:
    """How letters of a connector are asked for, or delivered.

    Raises `BadInput` for settings that cannot be used, for a secret that is not there, and for a kind that keeps none.
    """
    match config:
        case SourceConnector():
            yield _records(config, setting)
        case QuerySource():
            raise BadInput(
                f"connector {config.name!r} has no dead letters: a row that leads to nothing is in the analytics file",
                code="CONNECTOR_UNSUITABLE",
            )
        case SinkConnector():
            raise BadInput(
                f"connector {config.name!r} has no dead letters: a sink to Kafka stops before what it cannot write",
                code="CONNECTOR_UNSUITABLE",
            )
        case _:
            parts = sink_parts(config, setting)
            async with parts.delivery:
                yield _events(parts)


def _records(config: SourceConnector, setting: Setting) -> Again:
    mapping = RecordMapping(config)
    engine = engine_of_source(config, setting.client, answer_s=setting.options.answer_s)

    async def again(letter: Letter) -> Taken:
        return await asked(engine, await mapping.asked(record_of(letter.headers, letter.payload)))

    return again


def _events(parts: SinkParts) -> Again:
    async def again(letter: Letter) -> Taken:
        event = _event_of(letter, parts.setting.client.names, parts.config.name)
        outgoing = with_output(event, parts.output, parts.delivery)
        if outgoing is None:
            return "skipped"
        away = parts.faults[RECEIVER]
        if away:
            # To wait for it is for who runs always; here the others would only have to wait as well.
            raise NotDelivered(
                "the receiver is not asked again, as it was away for a letter before", code=away
            )
        await parts.delivery.deliver(outgoing, _sure)
        return "accepted"

    return again


def _event_of(letter: Letter, names: Names, connector: str) -> Outgoing:
    if EVENT_HEADER not in letter.headers:
        raise BadInput("it is no output event", code="LETTER_UNUSABLE")
    try:
        return received(names, connector, letter.seq, letter.payload)
    except (msgspec.MsgspecError, BadRunId) as error:
        raise BadInput(f"it is no output event: {error}", code="LETTER_UNUSABLE") from error


async def _sure() -> None:
    """The active process may be another one, and goes on: what is delivered here has gone out of its order before."""
