"""Growing the number of shards of a namespace, and finishing a growth. `dressage.protocol.shardmap` says what holds.

Runs stay where they are. A growth only says where new ones go, so it moves nothing and stops nothing; it is finished
when the last run has ended at a place where the new count would not look.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, ConsumerConfig, Delivery
from dressage.brokers.provision import (
    Namespace,
    define,
    ensure_queue,
    ensure_streams,
    read_definition,
    require_namespace,
)
from dressage.brokers.registry import Registry
from dressage.orchestrator.fold.retention import FORGET_MS
from dressage.orchestrator.turn.records import decode_cursor
from dressage.protocol.errors import BadInput, BrokerError, DressageError
from dressage.protocol.names import Names, is_key, is_limiter, is_schedule, is_timetable, run_id_of
from dressage.protocol.shardmap import SHARDS_MAX, ShardMap

SHOWN_MAX: Final = 10
SCAN_WINDOW: Final = 5000
SCAN_SILENCE_S: Final = 10.0
SCAN_TRIES: Final = 5
SCAN_PAUSE_S: Final = 1.0
"""Before another try: what swallows deliveries does so for a while."""


class GrowthUnfinished(DressageError):
    """Something of an earlier growth is still to come; the message says what."""

    code = "GROWTH_UNFINISHED"
    retryable = True


class _Status(msgspec.Struct):
    """As much of a state as it takes to count open runs; of what is kept for a correlation key, or of a run that was
    deleted, that it is none."""

    status: str = "running"
    mailbox: int = 0
    gone_format: int = 0


async def grow(connection: Connection, names: Names, shards: int) -> Namespace:
    """Defines `shards` as the number of shards from now on, with streams and consumers for the new ones.

    The same again changes nothing. Raises `BadInput` (SHARDS_FEWER, SHARDS_MANY), `GrowthUnfinished` while another
    growth goes on or its map has not come everywhere, and `NotFound` for a namespace that does not exist.
    """
    while True:
        namespace, seq = await _definition(connection, names)
        if shards == namespace.shards:
            return namespace
        require_more(namespace, shards)
        if namespace.map.growing:
            raise GrowthUnfinished(
                f"namespace {names.namespace!r} still grows from {namespace.previous} to {namespace.shards} shards: "
                "finish that first (dressage shards retire)"
            )
        await _require_taken_up(connection, names, namespace)
        state = await connection.stream_state(names.events_stream)
        await ensure_streams(connection, names, shards, state.replicas if state else 1)
        wanted = namespace.with_map(namespace.map.grown(shards))
        await _ensure_queues(connection, names, shards)
        if await define(connection, names, wanted, seq):
            # Once more: a queue that was registered meanwhile may know the old shards only.
            await _ensure_queues(connection, names, shards)
            return wanted


async def retire(connection: Connection, names: Names) -> Namespace:
    """Finishes a growth: from now on commands go straight to where the new count says.

    What has ended at an older place is still found there. Without a growth this changes nothing. Raises
    `GrowthUnfinished` while a run is open at a place that the new count would not name, or was deleted there so
    shortly before that its start may still be repeated.
    """
    while True:
        namespace, seq = await _definition(connection, names)
        if not namespace.map.growing:
            return namespace
        await _require_taken_up(connection, names, namespace)
        await _require_covered(connection, names, namespace)
        staying = Staying()
        for shard in range(namespace.previous or 0):
            await look_for_staying(connection, names, namespace.map, shard, staying)
        if staying.open:
            raise GrowthUnfinished(_still_open(sorted(staying.open)))
        if staying.deleted:
            raise GrowthUnfinished(_still_known(sorted(staying.deleted)))
        wanted = namespace.with_map(namespace.map.finished())
        if await define(connection, names, wanted, seq):
            return wanted


@dataclass(slots=True)
class Staying:
    """Ids of runs that are `open` where the newest map would not look, and of those of which is still known there that
    they were `deleted`."""

    open: set[str] = field(default_factory=set[str])
    deleted: set[str] = field(default_factory=set[str])


async def look_for_staying(
    connection: Connection, names: Names, shard_map: ShardMap, shard: int, staying: Staying
) -> None:
    """Adds those of a shard that the newest map would look for elsewhere, as the bucket of states has them.

    What is kept for a correlation key, a schedule, a timetable, or for a run to come, stays where it is, and everything
    for it is handed on there: nobody could end it, so it is not waited for. Of a deletion is known for some minutes
    only, and nobody else would know: so that is waited for.
    """

    def look(delivery: Delivery) -> None:
        token = delivery.subject.rsplit(".", 1)[1]
        if is_key(token) or is_schedule(token) or is_timetable(token) or is_limiter(token):
            return
        run_id = run_id_of(token)
        if shard_map.home(run_id) == shard:
            return
        staying.open.discard(run_id)
        staying.deleted.discard(run_id)
        if delivery.data:
            status = msgspec.json.decode(delivery.data, type=_Status)
            if status.gone_format:
                staying.deleted.add(run_id)
            elif status.status == "running" and not status.mailbox:
                staying.open.add(run_id)

    await _each_state(connection, names, shard, look)


def _shown(runs: Sequence[str]) -> str:
    shown = ", ".join(map(repr, runs[:SHOWN_MAX]))
    return f"{shown} and {len(runs) - SHOWN_MAX} others" if len(runs) > SHOWN_MAX else shown


def _still_known(runs: Sequence[str]) -> str:
    return (
        f"{len(runs)} runs were deleted where they were before the growth: {_shown(runs)}. For "
        f"{FORGET_MS // 60_000} minutes from then on their starts are refused there if they are repeated: try again "
        "after that"
    )


def _still_open(runs: Sequence[str]) -> str:
    return (
        f"{len(runs)} runs are open where they were before the growth: {_shown(runs)}. Wait until they have ended "
        "(dressage run get RUN_ID says what one waits for), or cancel them, and try again. Until then all works, and "
        "only costs commands for new runs one step more"
    )


async def _definition(connection: Connection, names: Names) -> tuple[Namespace, int]:
    await require_namespace(connection, names)
    namespace, seq = await read_definition(connection, names)
    assert namespace is not None, "it was there, and is never removed"
    return namespace, seq


def require_more(namespace: Namespace, shards: int) -> None:
    """Raises `BadInput` unless the namespace may have so many shards."""
    if shards < namespace.shards:
        raise BadInput(
            f"the namespace has {namespace.shards} shards, and cannot have fewer: a shard holds what it holds",
            code="SHARDS_FEWER",
        )
    if shards > SHARDS_MAX:
        raise BadInput(
            f"{shards} shards are more than {SHARDS_MAX}: give fewer (limit shards)", code="SHARDS_MANY"
        )


async def _require_taken_up(connection: Connection, names: Names, namespace: Namespace) -> None:
    """Every shard that has ever been served must fold by the newest map. (One that never was begins with it.)"""
    behind: list[int] = []
    for shard in range(namespace.shards):
        found = await connection.last_message(names.shard_stream(shard), names.cursor(shard))
        if found is None or namespace.generation == 1:
            continue
        maps = decode_cursor(found.data).maps
        if not maps or maps[-1].map.generation < namespace.generation:
            behind.append(shard)
    if behind:
        raise GrowthUnfinished(
            f"shard {', '.join(map(str, behind))} has not taken up generation {namespace.generation} of the shard map "
            "yet: see that orchestrators of this release serve it (dressage shards), and try again in a moment"
        )


async def _require_covered(connection: Connection, names: Names, namespace: Namespace) -> None:
    """What was folded before the switch must be in the bucket: then the bucket shows every run that may be open."""
    for shard in range(namespace.previous or 0):
        cursor = await connection.last_message(names.shard_stream(shard), names.cursor(shard))
        maps = decode_cursor(cursor.data).maps if cursor is not None else ()
        switched = next((since.seq for since in maps if since.map.generation == namespace.generation), 0)
        first = await connection.next_message(names.shard_stream(shard), 1, names.commands(shard))
        if first is not None and first.seq <= switched:
            raise GrowthUnfinished(
                f"shard {shard} has not stored yet what it folded before the growth: try again in a moment"
            )


async def _ensure_queues(connection: Connection, names: Names, shards: int) -> None:
    for queue in await Registry(connection, names).queues():
        await ensure_queue(connection, names, shards, queue)


async def _each_state(
    connection: Connection, names: Names, shard: int, look: Callable[[Delivery], None]
) -> None:
    """Shows the states of a shard's runs as they stand now, some of them perhaps twice."""
    stream, subjects = names.runs_stream(), names.run_keys(shard)
    last = await connection.last_message(stream, subjects)
    if last is None:
        return
    for _ in range(SCAN_TRIES):
        consumer = f"growth_{uuid.uuid4().hex}"
        await connection.create_consumer(
            stream,
            ConsumerConfig(
                consumer, [subjects], durable=False, explicit_ack=False, memory=True, inactive_s=30.0
            ),
        )
        try:
            if await _scanned(connection, stream, consumer, last.seq, look):
                return
        finally:
            await connection.delete_consumer(stream, consumer)
        await asyncio.sleep(SCAN_PAUSE_S)
    raise BrokerError(
        f"reading the states of shard {shard}: deliveries got lost {SCAN_TRIES} times: look at the connection to the "
        "server, and try again"
    )


async def _scanned(
    connection: Connection, stream: str, consumer: str, last: int, look: Callable[[Delivery], None]
) -> bool:
    """Whether all came, up to the message `last`: nothing comes twice here, so one that is lost shows as a gap."""
    found: asyncio.Queue[Delivery] = asyncio.Queue()
    pull = await connection.pull(stream, consumer, SCAN_WINDOW, found.put_nowait, lambda _: None)
    expected = 1
    try:
        while True:
            async with asyncio.timeout(SCAN_SILENCE_S):
                delivery = await found.get()
            if delivery.consumer_seq != expected:
                return False
            expected += 1
            look(delivery)
            await pull.taken()
            if delivery.stream_seq >= last:
                return True
    except TimeoutError:
        return False
    finally:
        await pull.close()
