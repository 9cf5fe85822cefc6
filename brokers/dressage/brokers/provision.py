"""The streams and buckets of a namespace: what they are, and bringing them about."""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.brokers.interface import (
    WRONG_LAST_SEQUENCE,
    Connection,
    ConsumerConfig,
    Expect,
    Message,
    StreamConfig,
)
from dressage.protocol.errors import BadInput, NotFound, PublishRefused
from dressage.protocol.names import Names

EVENTS_AGE_S: Final = 30 * 86_400.0
DEAD_AGE_S: Final = 30 * 86_400.0
MEMBER_TTL_S: Final = 3.0
TASK_ACK_WAIT_S: Final = 30.0
"""How long after a worker's last sign of life its tasks go to another one."""

TASKS_PENDING_MAX: Final = 10_000
"""Attempts of one shard and queue that workers may hold at a time: back-pressure, not a rate limit."""


class Namespace(msgspec.Struct, frozen=True):
    """The namespace's own definition. `shards` is fixed while runs live, because it decides where they are."""

    shards: int
    format: int = 1


async def provision(connection: Connection, names: Names, *, shards: int | None, replicas: int) -> Namespace:
    """Brings the namespace's streams about, and returns its definition. May be repeated by anyone at any time.

    `shards` None takes what the namespace has, or 1 for a new one. Raises `BadInput` when the namespace exists
    with another number of shards.
    """
    await connection.ensure_stream(_bucket(names.definitions_stream(), names.definitions_bucket, replicas))
    while True:
        found = await read_namespace(connection, names)
        if found is not None and shards not in (None, found.shards):
            raise BadInput(
                f"namespace {names.namespace!r} has {found.shards} shards, not {shards}: leave --shards out, "
                "or use another namespace",
                code="SHARDS_DIFFER",
            )
        wanted = found or Namespace(shards or 1)
        await _ensure_streams(connection, names, wanted.shards, replicas)
        if found is not None or await _define(connection, names, wanted):
            return wanted


async def _define(connection: Connection, names: Names, namespace: Namespace) -> bool:
    """Writes the definition last, so that whoever finds it finds all streams. False if another was faster."""
    message = Message(names.namespace_key(), msgspec.json.encode(namespace), expect=Expect(0))
    try:
        await connection.publish(message)
    except PublishRefused as refused:
        if refused.err_code != WRONG_LAST_SEQUENCE:
            raise
        return False
    return True


async def _ensure_streams(connection: Connection, names: Names, shards: int, replicas: int) -> None:
    await connection.ensure_stream(_bucket(names.runs_stream(), names.runs_bucket, replicas))
    await connection.ensure_stream(
        StreamConfig(
            name=f"KV_{names.members_bucket}",
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


def _bucket(stream: str, bucket: str, replicas: int) -> StreamConfig:
    """A KV bucket (ADR-8) without direct reads: what is folded on is read from the leader."""
    return StreamConfig(stream, [f"$KV.{bucket}.>"], per_subject_max=1, message_ttl=True, replicas=replicas)


async def read_namespace(connection: Connection, names: Names) -> Namespace | None:
    """The namespace's definition; None if no orchestrator has ever served it on this server."""
    if await connection.stream_state(names.definitions_stream()) is None:
        return None
    found = await connection.last_message(names.definitions_stream(), names.namespace_key())
    return msgspec.json.decode(found.data, type=Namespace) if found is not None else None


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
