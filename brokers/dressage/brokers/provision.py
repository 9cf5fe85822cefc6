"""The streams and buckets of a namespace: what they are, and bringing them about."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from dressage.brokers.interface import (
    WRONG_LAST_SEQUENCE,
    Connection,
    ConsumerConfig,
    Expect,
    Message,
    StreamConfig,
)
from dressage.protocol.errors import BadInput, BrokerError, NotFound, PublishRefused
from dressage.protocol.names import Names
from dressage.protocol.retention import Retention, check_retention
from dressage.protocol.shardmap import Count, ShardMap

EVENTS_AGE_S: Final = 30 * 86_400.0
DEAD_AGE_S: Final = 30 * 86_400.0
MEMBER_TTL_S: Final = 10.0
"""When the entry of an orchestrator that died is cleaned away. The others do not wait for it: they count beats."""

TASK_ACK_WAIT_S: Final = 30.0
"""How long after a worker's last sign of life its tasks go to another one."""

TASKS_PENDING_MAX: Final = 10_000
"""Attempts of one shard and queue that workers may hold at a time: back-pressure, not a rate limit."""


OPEN_RUNS_MAX: Final = 1_000_000_000
"""The largest figure that open runs can be limited to."""


class Namespace(msgspec.Struct, frozen=True):
    """The namespace's own definition: the shard map (see `ShardMap`), because it decides where runs are.

    `open_runs_max` is how many runs may be open at a time, 0 for any number; each shard takes its share of it.
    `retention` says for how long runs are kept that have ended, of workflows of which nothing else is said.
    """

    shards: Count
    format: int = 1
    generation: int = 1
    previous: Count | None = None
    older: tuple[Count, ...] = ()
    open_runs_max: Annotated[int, msgspec.Meta(ge=0, le=OPEN_RUNS_MAX)] = 0
    retention: Retention = Retention()

    @property
    def map(self) -> ShardMap:
        return ShardMap(self.generation, self.shards, self.previous, self.older)

    def with_map(self, shard_map: ShardMap) -> Namespace:
        """The same namespace with its runs in other places."""
        return msgspec.structs.replace(
            self,
            shards=shard_map.shards,
            generation=shard_map.generation,
            previous=shard_map.previous,
            older=shard_map.older,
        )


async def provision(connection: Connection, names: Names, *, shards: int | None, replicas: int) -> Namespace:
    """Brings the namespace's streams about, and returns its definition. May be repeated by anyone at any time.

    `shards` None takes what the namespace has, or 1 for a new one. A number that the namespace had before it grew is
    taken for what it has now. Raises `BadInput` (SHARDS_DIFFER) for one that it never had.
    """
    await connection.ensure_stream(_bucket(names.definitions_stream(), names.definitions_bucket, replicas))
    while True:
        found = await read_namespace(connection, names)
        if found is not None and shards not in (None, found.shards, found.previous, *found.older):
            raise BadInput(
                f"namespace {names.namespace!r} has {found.shards} shards, not {shards}: leave --shards out, "
                "use another namespace, or, for more shards, call `dressage shards grow`",
                code="SHARDS_DIFFER",
            )
        wanted = found or Namespace(shards or 1)
        await ensure_streams(connection, names, wanted.shards, replicas)
        if found is not None or await define(connection, names, wanted, 0):
            return wanted


async def limit_open_runs(connection: Connection, names: Names, most: int) -> Namespace:
    """Sets how many runs of the namespace may be open at a time (0: any number). Orchestrators follow within a beat.

    Raises `NotFound` for a namespace that nobody has served, `BadInput` for a figure that is none.
    """
    if not 0 <= most <= OPEN_RUNS_MAX:
        raise BadInput(f"{most} open runs cannot be limited to: give 0 to {OPEN_RUNS_MAX} (limit open-runs)")
    while True:
        await require_namespace(connection, names)
        namespace, seq = await read_definition(connection, names)
        if namespace is None:
            continue
        wanted = msgspec.structs.replace(namespace, open_runs_max=most)
        if await define(connection, names, wanted, seq):
            return wanted


async def keep_runs(connection: Connection, names: Names, retention: Retention) -> Namespace:
    """Sets for how long runs are kept that have ended, of workflows of which nothing else is said.

    Raises `NotFound` for a namespace that nobody has served, `BadInput` for a time that is none.
    """
    check_retention(retention)
    while True:
        await require_namespace(connection, names)
        namespace, seq = await read_definition(connection, names)
        if namespace is None:
            continue
        wanted = msgspec.structs.replace(namespace, retention=retention)
        if await define(connection, names, wanted, seq):
            return wanted


async def define(connection: Connection, names: Names, namespace: Namespace, seq: int) -> bool:
    """Writes the definition last, so that whoever finds it finds all streams. False if another was faster.

    `seq` is that of the definition that this one replaces.
    """
    message = Message(names.namespace_key(), msgspec.json.encode(namespace), expect=Expect(seq))
    try:
        await connection.publish(message)
    except PublishRefused as refused:
        if refused.err_code != WRONG_LAST_SEQUENCE:
            raise
        return False
    return True


async def ensure_streams(connection: Connection, names: Names, shards: int, replicas: int) -> None:
    """Makes the streams of a namespace with so many shards, or brings them to their configuration."""
    await connection.ensure_stream(_bucket(names.runs_stream(), names.runs_bucket, replicas))
    await connection.ensure_stream(
        StreamConfig(
            name=names.members_stream(),
            subjects=[f"$KV.{names.members_bucket}.>"],
            per_subject_max=1,
            max_age_s=MEMBER_TTL_S,
            replicas=replicas,
            description="orchestrators that are alive",
        )
    )
    await connection.ensure_stream(
        StreamConfig(
            names.events_stream,
            names.events_subjects(),
            replicas=replicas,
            max_age_s=EVENTS_AGE_S,
            message_ttl=True,
            direct_reads=True,
            description="output events",
        )
    )
    await connection.ensure_stream(
        StreamConfig(names.dead_stream, names.dead_subjects(), replicas=replicas, max_age_s=DEAD_AGE_S)
    )
    await ensure_objects(connection, names, replicas)
    for shard in range(shards):
        await connection.ensure_stream(
            StreamConfig(
                names.shard_stream(shard),
                names.shard_subjects(shard),
                replicas=replicas,
                schedules=True,
                message_ttl=True,
                description="commands, tasks, timers and the cursor of one shard",
            )
        )


async def ensure_objects(connection: Connection, names: Names, replicas: int) -> None:
    """Makes the object store (ADR-20) of values too large for a message."""
    await connection.ensure_stream(
        StreamConfig(
            names.objects_stream(),
            names.objects_subjects(),
            replicas=replicas,
            direct_reads=True,
            description="values too large for a message: an object store",
        )
    )


def _bucket(stream: str, bucket: str, replicas: int) -> StreamConfig:
    """A KV bucket (ADR-8) without direct reads: what is folded on is read from the leader."""
    return StreamConfig(stream, [f"$KV.{bucket}.>"], per_subject_max=1, message_ttl=True, replicas=replicas)


async def read_namespace(connection: Connection, names: Names) -> Namespace | None:
    """The namespace's definition; None if no orchestrator has ever served it on this server."""
    return (await read_definition(connection, names))[0]


async def read_definition(connection: Connection, names: Names) -> tuple[Namespace | None, int]:
    """The namespace's definition, and its sequence."""
    if await connection.stream_state(names.definitions_stream()) is None:
        return None, 0
    return await reread_definition(connection, names)


async def reread_definition(connection: Connection, names: Names) -> tuple[Namespace | None, int]:
    """`read_definition` of a namespace that is known to be there: one request."""
    found = await connection.last_message(names.definitions_stream(), names.namespace_key())
    if found is None:
        return None, 0
    try:
        return msgspec.json.decode(found.data, type=Namespace), found.seq
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BrokerError(
            f"the definition of namespace {names.namespace!r} is unreadable: {error}",
            code="RECORD_UNREADABLE",
        ) from error


async def require_namespace(connection: Connection, names: Names) -> Namespace:
    """Raises `NotFound` with what to do about it."""
    namespace = await read_namespace(connection, names)
    if namespace is None:
        raise NotFound(
            f"namespace {names.namespace!r} does not exist on this server: start an orchestrator for it "
            f"(dressage orchestrator --namespace {names.namespace})",
            code="NAMESPACE_UNKNOWN",
        )
    return namespace


async def ensure_queue(connection: Connection, names: Names, shards: int, queue: str) -> None:
    """The consumers of a queue, one a shard, so that its tasks wait for workers rather than the other way round."""
    for shard in range(shards):
        await connection.create_consumer(
            names.shard_stream(shard),
            ConsumerConfig(
                names.task_consumer(queue),
                [names.task(shard, queue)],
                ack_wait_s=TASK_ACK_WAIT_S,
                max_ack_pending=TASKS_PENDING_MAX,
            ),
        )
