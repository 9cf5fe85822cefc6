"""What JetStream tells of an account: its limits and use, and every stream and consumer with what weighs on the server.

Only for operators' questions: the engine itself needs nothing of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client

from dressage.protocol.errors import BrokerError

REPLY_S: Final = 5.0


class Limits(msgspec.Struct, frozen=True):
    """-1 is unlimited."""

    max_memory: int = -1
    max_storage: int = -1
    max_streams: int = -1
    max_consumers: int = -1


class Tier(msgspec.Struct, frozen=True):
    """What an account uses of what it may; an account without tiers has one."""

    memory: int = 0
    storage: int = 0
    streams: int = 0
    consumers: int = 0
    limits: Limits = Limits()


class ConsumerFacts(msgspec.Struct, frozen=True):
    """`waiting` are pull requests that stand, `pending` messages to deliver, `unacknowledged` those delivered."""

    name: str
    replicas: int
    waiting: int
    pending: int
    unacknowledged: int
    max_unacknowledged: int


class StreamFacts(msgspec.Struct, frozen=True):
    """`consumers` counts all; `each` holds them where they were asked for.

    `suitable` says that it keeps what nobody has removed and takes atomic batches.
    """

    name: str
    replicas: int
    messages: int
    size: int
    consumers: int
    max_messages: int
    max_size: int
    suitable: bool
    each: Sequence[ConsumerFacts] = ()

    @property
    def raft_groups(self) -> int:
        """Its own and those of its consumers. Consumers that were not asked for count as replicated."""
        if self.replicas == 1:
            return 0
        if not self.each:
            return 1 + self.consumers
        return 1 + sum(consumer.replicas > 1 for consumer in self.each)


@dataclass(slots=True, frozen=True)
class Account:
    """`tiers` has one entry without a name for an account without tiers, else one by replication ("R1", "R3")."""

    tiers: dict[str, Tier] = field(default_factory=dict[str, Tier])
    streams: list[StreamFacts] = field(default_factory=list[StreamFacts])


async def read_account(client: Client, ours: str) -> Account:
    """Reads the account of this connection; of streams whose name holds `ours` also the consumers, one by one.

    Raises `BrokerError` when JetStream does not answer.
    """
    info = await _ask(client, "INFO", None, _Info)
    tiers = info.tiers or {"": Tier(info.memory, info.storage, info.streams, info.consumers, info.limits)}
    streams: list[StreamFacts] = []
    while True:
        page = await _ask(client, "STREAM.LIST", {"offset": len(streams)}, _Streams)
        for found in page.streams or []:
            each = await _consumers(client, found) if ours in found.config.name else []
            streams.append(found.facts(each))
        if not page.streams or len(streams) >= page.total:
            return Account(tiers, streams)


async def read_clock(client: Client, stream: str) -> datetime | None:
    """The time by the leader of a stream; None from a server that does not tell. Raises `BrokerError`."""
    clock: _Clock = await _ask(client, f"STREAM.INFO.{stream}", None, _Clock)
    return clock.ts


async def _consumers(client: Client, stream: _Stream) -> list[ConsumerFacts]:
    found: list[ConsumerFacts] = []
    while True:
        page = await _ask(client, f"CONSUMER.LIST.{stream.config.name}", {"offset": len(found)}, _Consumers)
        found += [consumer.facts(stream.config.num_replicas) for consumer in page.consumers or []]
        if not page.consumers or len(found) >= page.total:
            return found


async def _ask(client: Client, what: str, body: object, kind: type[_R]) -> Any:
    try:
        reply = await client.request(
            f"$JS.API.{what}", msgspec.json.encode(body) if body else b"", timeout=REPLY_S
        )
    except (nats.errors.Error, TimeoutError) as error:
        raise BrokerError(f"JetStream did not answer {what} in {REPLY_S:g} s: {error}") from error
    answer = msgspec.json.decode(reply.data, type=kind)
    if answer.error is not None:
        raise BrokerError(f"JetStream refused {what}: {answer.error.description}")
    return answer


# -- the wire --------------------------------------------------------------------------------------
class _Error(msgspec.Struct):
    description: str = ""


class _R(msgspec.Struct):
    """What every answer of JetStream's API may hold."""

    error: _Error | None = None
    total: int = 0


class _Clock(_R):
    ts: datetime | None = None


class _Info(_R):
    memory: int = 0
    storage: int = 0
    streams: int = 0
    consumers: int = 0
    limits: Limits = Limits()
    tiers: dict[str, Tier] | None = None


class _StreamConfig(msgspec.Struct):
    name: str
    num_replicas: int = 1
    max_msgs: int = -1
    max_bytes: int = -1
    retention: str = "limits"
    allow_atomic: bool = False


class _StreamState(msgspec.Struct):
    messages: int = 0
    bytes: int = 0
    consumer_count: int = 0


class _Stream(msgspec.Struct):
    config: _StreamConfig
    state: _StreamState

    def facts(self, each: Sequence[ConsumerFacts]) -> StreamFacts:
        return StreamFacts(
            self.config.name,
            self.config.num_replicas,
            self.state.messages,
            self.state.bytes,
            self.state.consumer_count,
            self.config.max_msgs,
            self.config.max_bytes,
            self.config.retention == "limits" and self.config.allow_atomic,
            each,
        )


class _Streams(_R):
    streams: list[_Stream] | None = None


class _ConsumerConfig(msgspec.Struct):
    num_replicas: int = 0
    """0 is as many as the stream."""
    max_ack_pending: int = -1


class _Consumer(msgspec.Struct):
    name: str
    config: _ConsumerConfig
    num_waiting: int = 0
    num_pending: int = 0
    num_ack_pending: int = 0

    def facts(self, stream_replicas: int) -> ConsumerFacts:
        return ConsumerFacts(
            self.name,
            self.config.num_replicas or stream_replicas,
            self.num_waiting,
            self.num_pending,
            self.num_ack_pending,
            self.config.max_ack_pending,
        )


class _Consumers(_R):
    consumers: list[_Consumer] | None = None
