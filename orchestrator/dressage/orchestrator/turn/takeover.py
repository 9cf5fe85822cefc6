"""Take-over, steps T1 to T5 of the protocol: fence first (cursor, position, states), only then read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dressage.brokers.interface import (
    FENCE_IN_PROCESS,
    WRONG_LAST_SEQUENCE,
    Connection,
    ConsumerConfig,
    Expect,
    Message,
)
from dressage.orchestrator.fold.fold import FOLD_VERSION
from dressage.orchestrator.turn.doubt import Doubt, Replaced
from dressage.orchestrator.turn.records import (
    Cursor,
    Fence,
    Position,
    decode_cursor,
    decode_fence,
    decode_position,
    encode,
)
from dressage.protocol.errors import BrokerError, OutcomeUnknown, PublishRefused
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.orchestrator")

FENCE_TRIES: Final = 100
ACK_WAIT_S: Final = 60.0
"""Far above the longest turn. Commands are removed rather than acknowledged; one that comes again is not folded."""


@dataclass(slots=True)
class Standing:
    """What a take-over won: the epoch, and the sequences that the next writes are checked against."""

    epoch: int
    cursor: Cursor
    cursor_seq: int
    position: Position
    position_seq: int
    fence_seq: int
    replicas: int


async def take_over(connection: Connection, names: Names, shard: int) -> Standing:
    """Raises `Replaced` on meeting a higher epoch, `Doubt` when the fences cannot be written."""
    stream = names.shard_stream(shard)
    cursor_subject, position_subject = names.cursor(shard), names.position(shard)
    won_cursor = Cursor()

    def fenced_cursor(data: bytes | None, seq: int) -> bytes:
        nonlocal won_cursor
        found = Cursor() if data is None else decode_cursor(data)
        if found.fold_version > FOLD_VERSION:
            raise BrokerError(
                f"shard {shard} was last folded by a newer release (fold version {found.fold_version}, "
                f"this one has {FOLD_VERSION}): upgrade this orchestrator",
                code="FOLD_VERSION_NEWER",
            )
        since = found.since if found.fence else seq
        won_cursor = Cursor(
            found.epoch, found.seq, found.effects, found.fold_version, fence=True, since=since
        )
        return encode(won_cursor)

    cursor_seq = await _fence(connection, stream, cursor_subject, fenced_cursor)
    epoch = cursor_seq
    won_position = Position()

    def fenced_position(data: bytes | None, _: int) -> bytes:
        nonlocal won_position
        found = Position() if data is None else decode_position(data)
        _refuse_higher(found.epoch, epoch)
        won_position = Position(epoch, found.seq, found.events)
        return encode(won_position)

    position_seq = await _fence(
        connection, names.events_stream, position_subject, fenced_position, never_expires=True
    )

    def fenced_states(data: bytes | None, _: int) -> bytes:
        _refuse_higher((Fence() if data is None else decode_fence(data)).epoch, epoch)
        return encode(Fence(epoch))

    fence_seq = await _fence(connection, names.runs_stream(), names.fence_key(shard), fenced_states)
    await _replace_consumers(connection, names, shard, epoch)
    state = await connection.stream_state(stream)
    if state is None:
        raise Doubt(f"stream {stream} is gone")
    return Standing(epoch, won_cursor, cursor_seq, won_position, position_seq, fence_seq, state.replicas)


def _refuse_higher(found: int, epoch: int) -> None:
    if found > epoch:
        raise Replaced(f"epoch {found} is above mine, {epoch}")


async def _fence(
    connection: Connection,
    stream: str,
    subject: str,
    rewrite: Callable[[bytes | None, int], bytes],
    *,
    never_expires: bool = False,
) -> int:
    """Rewrites the last message of `subject` under compare-and-set, until one write is known to have won."""
    for attempt in range(FENCE_TRIES):
        found = await connection.last_message(stream, subject)
        seq = found.seq if found else 0
        message = Message(
            subject,
            rewrite(found.data if found else None, seq),
            expect=Expect(seq),
            rollup=True,
            never_expires=never_expires,
        )
        try:
            return (await connection.publish(message)).seq
        except PublishRefused as refused:
            if refused.err_code not in (WRONG_LAST_SEQUENCE, FENCE_IN_PROCESS):
                raise
        except OutcomeUnknown as unknown:
            if connection.lost.is_set():
                raise
            _log.warning("shard fence on %s: %s; reading again", subject, unknown.message)
        await asyncio.sleep(min(0.5, 0.005 * (attempt + 1)))
    raise Doubt(f"the fence on {subject} could not be written in {FENCE_TRIES} tries")


async def _replace_consumers(connection: Connection, names: Names, shard: int, epoch: int) -> None:
    stream = names.shard_stream(shard)
    for name in await connection.consumers(stream):
        other = names.consumer_epoch(name)
        if other is not None and other > epoch:
            raise Replaced(f"consumer {name} is of an epoch above mine, {epoch}")
        if other is not None and other < epoch:
            await connection.delete_consumer(stream, name)
    for consumer, subjects in (
        (names.command_consumer(epoch), names.commands(shard)),
        (names.forward_consumer(epoch), names.sends(shard)),
    ):
        await connection.create_consumer(stream, ConsumerConfig(consumer, [subjects], ack_wait_s=ACK_WAIT_S))
