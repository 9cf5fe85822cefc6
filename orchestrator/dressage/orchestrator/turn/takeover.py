"""Take-over, steps T1 to T5 of the protocol: fence first (cursor, position, states), only then read."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

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
from dressage.orchestrator.turn.routing import MapSince
from dressage.protocol.errors import BrokerError, NoLeader, OutcomeUnknown, PublishRefused
from dressage.protocol.names import Names
from dressage.protocol.shardmap import ShardMap

_log = logging.getLogger("dressage.orchestrator")

_T = TypeVar("_T")

FOLD_VERSION_NEWER: Final = "FOLD_VERSION_NEWER"
FENCE_TRIES: Final = 100
ANSWER_S: Final = 1.0
"""While a stream has no leader nobody answers, and nobody says so. Asked again this often, a take-over goes on within
a second of the election that it waits for. A broker that is merely slow is given longer with each attempt."""

ANSWER_S_MAX: Final = 5.0

ORPHAN_S: Final = 30.0
"""After so long without a standing pull the server forgets a consumer. When two take over at a time, the one that is
replaced may make its consumers only after the other one has looked for some to delete."""

ELECTION_S: Final = 12.0
"""JetStream's elections take 4 to 9 s. Whoever is not answered for longer is better off on another connection."""

PAUSE_S: Final = 0.1
CREATE_TRIES: Final = 6
DELETE_TRIES: Final = 3
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
    refold_to: int
    """The last command that is to be folded again silently; 0 if all that the cursor covers is in the states."""


async def take_over(
    connection: Connection,
    names: Names,
    shard: int,
    fold_version: int = FOLD_VERSION,
    shard_map: ShardMap | None = None,
    share: int | None = None,
) -> Standing:
    """`fold_version` is the newest that this release can fold; a new shard begins with `shard_map`, and lets `share`
    runs be open (None: any number).

    Raises `Replaced` on meeting a higher epoch, `Doubt` when the fences cannot be written, and `BrokerError`
    (`FOLD_VERSION_NEWER`, nothing written) when a newer release has served the shard.
    """
    stream = names.shard_stream(shard)
    cursor_subject, position_subject = names.cursor(shard), names.position(shard)
    won_cursor = Cursor()

    def fenced_cursor(data: bytes | None, seq: int) -> bytes:
        nonlocal won_cursor
        found = Cursor(maps=_first_maps(shard_map), share=share) if data is None else decode_cursor(data)
        if found.newest > fold_version:
            raise BrokerError(
                f"shard {shard} was served by a newer release (fold version {found.newest}, "
                f"this one has {fold_version}): upgrade this orchestrator",
                code=FOLD_VERSION_NEWER,
            )
        since = found.since if found.fence else seq
        # Whatever this owner stores comes behind this write: its states too, which an older release cannot read.
        served = fold_version if fold_version > found.fold_version else 0
        won_cursor = msgspec.structs.replace(found, served=served, fence=True, since=since)
        return encode(won_cursor)

    cursor_seq = await _fence(connection, stream, cursor_subject, fenced_cursor)
    epoch = cursor_seq
    won_position = Position()

    def fenced_position(data: bytes | None, _: int) -> bytes:
        nonlocal won_position
        found = Position(open_runs=0) if data is None else decode_position(data)
        _refuse_higher(found.epoch, epoch)
        won_position = Position(epoch, found.seq, found.events, found.open_runs)
        return encode(won_position)

    position_seq = await _fence(
        connection, names.events_stream, position_subject, fenced_position, never_expires=True
    )

    def fenced_states(data: bytes | None, _: int) -> bytes:
        _refuse_higher((Fence() if data is None else decode_fence(data)).epoch, epoch)
        return encode(Fence(epoch))

    fence_seq = await _fence(connection, names.runs_stream(), names.fence_key(shard), fenced_states)
    await _replace_consumers(connection, names, shard, epoch)
    state = await _answered(connection, lambda: connection.stream_state(stream))
    if state is None:
        raise Doubt(f"stream {stream} is gone")
    # Commands are removed from the first one up: if the last that the cursor covers is gone, all of them are.
    covered = won_cursor.seq
    refold_to = 0
    if covered:
        found = await _answered(
            connection, lambda: connection.next_message(stream, covered, names.commands(shard))
        )
        refold_to = covered if found is not None and found.seq == covered else 0
    return Standing(
        epoch, won_cursor, cursor_seq, won_position, position_seq, fence_seq, state.replicas, refold_to
    )


async def still_owned(connection: Connection, names: Names, shard: int, standing: Standing) -> bool:
    """Whether nobody has taken the shard over since: one read, from the leader."""
    found = await connection.last_message(names.shard_stream(shard), names.cursor(shard))
    if found is None:
        return False
    if found.seq == standing.cursor_seq:
        return True
    cursor = decode_cursor(found.data)
    return cursor.epoch == standing.epoch and not cursor.fence


def _first_maps(shard_map: ShardMap | None) -> tuple[MapSince, ...]:
    """What the cursor of a new shard says of the map: nothing of the first generation, like every cursor of it."""
    if shard_map is None or shard_map.generation == 1:
        return ()
    return (MapSince(0, shard_map),)


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
        found = await _answered(connection, lambda: connection.last_message(stream, subject))
        seq = found.seq if found else 0
        message = Message(
            subject,
            rewrite(found.data if found else None, seq),
            expect=Expect(seq),
            rollup=True,
            never_expires=never_expires,
        )
        try:
            async with asyncio.timeout(min(ANSWER_S_MAX, ANSWER_S * (1 + attempt))):
                return (await connection.publish(message)).seq
        except TimeoutError:
            _log.warning("shard fence on %s: no answer yet; reading again", subject)
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
    """The consumers keep nothing that a next owner needs, so each lives in the memory of one server.

    Of replicated ones, made after the loss of a server, a third would be led by that very server, and would wait for
    an election of their own.
    """
    stream = names.shard_stream(shard)
    for name in await _answered(connection, lambda: connection.consumers(stream)):
        other = names.consumer_epoch(name)
        if other is not None and other > epoch:
            raise Replaced(f"consumer {name} is of an epoch above mine, {epoch}")
        if other is not None and other < epoch:
            await _delete_consumer(connection, stream, name)
    for consumer, subjects in (
        (names.command_consumer(epoch), names.commands(shard)),
        (names.forward_consumer(epoch), names.sends(shard)),
    ):
        config = ConsumerConfig(consumer, [subjects], ack_wait_s=ACK_WAIT_S, memory=True, inactive_s=ORPHAN_S)
        await _create_consumer(connection, stream, config)


async def _delete_consumer(connection: Connection, stream: str, name: str) -> None:
    """One that lived on a server that was lost cannot be answered for; it is harmless, and forgotten in time."""
    for _ in range(DELETE_TRIES):
        with contextlib.suppress(TimeoutError, OutcomeUnknown):
            async with asyncio.timeout(ANSWER_S):
                await connection.delete_consumer(stream, name)
                return


async def _create_consumer(connection: Connection, stream: str, config: ConsumerConfig) -> None:
    """One that is not answered for is made anew: its place may be a server that was lost a moment ago."""
    for attempt in range(CREATE_TRIES):
        try:
            async with asyncio.timeout(min(ANSWER_S_MAX, ANSWER_S * (2 + attempt))):
                await connection.create_consumer(stream, config)
                return
        except NoLeader:
            raise
        except (TimeoutError, OutcomeUnknown):
            if connection.lost.is_set():
                raise
        await _delete_consumer(connection, stream, config.name)
    raise Doubt(f"consumer {config.name} of {stream} could not be made in {CREATE_TRIES} tries")


async def _answered(connection: Connection, ask: Callable[[], Awaitable[_T]]) -> _T:
    """Repeats what is harmless to repeat until it is answered. Raises `OutcomeUnknown` after `ELECTION_S`."""
    deadline = asyncio.get_running_loop().time() + ELECTION_S
    attempt = 0
    while True:
        attempt += 1
        try:
            async with asyncio.timeout(min(ANSWER_S_MAX, ANSWER_S * (1 + attempt // 4))):
                return await ask()
        except NoLeader:
            raise  # Another server may know better, and this one has been told to be avoided.
        except (TimeoutError, OutcomeUnknown) as unanswered:
            if connection.lost.is_set() or asyncio.get_running_loop().time() > deadline:
                raise OutcomeUnknown("a take-over was not answered") from unanswered
        await asyncio.sleep(PAUSE_S)
