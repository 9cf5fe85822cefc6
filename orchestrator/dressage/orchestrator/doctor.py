"""Is this namespace well, and will it stay so? Facts are gathered first, then examined by plain functions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from nats.aio.client import Client

from dressage.brokers.interface import Connection
from dressage.brokers.jetstream.account import Account, StreamFacts, Tier, read_account, read_clock
from dressage.brokers.orphans import START_S, Orphan, find_orphans
from dressage.brokers.server_check import ServerFacts, check_server
from dressage.orchestrator.overview import Overview, ShardView, read_overview
from dressage.protocol.names import Names, queue_text

RAFT_GROUPS_MAX: Final = 1000
"""A rule of thumb: every server of the cluster takes part in each of them, idle or not, and holds an election for those
that it led when one is lost."""

USED_MAX: Final = 0.8
LAG_MAX: Final = 10_000
SKEW_S_MAX: Final = 1.0

Level = Literal["problem", "warning"]


class Finding(msgspec.Struct, frozen=True):
    """Something to act on; `message` says what to do. `code` is stable."""

    level: Level
    code: str
    message: str


class Counts(msgspec.Struct, frozen=True):
    """Of the namespace, and of the whole account. Each replicated stream and consumer is a Raft group."""

    streams: int = 0
    consumers: int = 0
    raft_groups: int = 0
    account_streams: int = 0
    account_consumers: int = 0
    account_raft_groups: int = 0


class Report(msgspec.Struct, frozen=True):
    findings: list[Finding]
    counts: Counts

    @property
    def well(self) -> bool:
        """Warnings are no reason to fail."""
        return all(finding.level != "problem" for finding in self.findings)


@dataclass(slots=True, frozen=True)
class Thresholds:
    """Above these it warns: Raft groups of the account, and commands that a shard has not covered."""

    raft_groups_max: int = RAFT_GROUPS_MAX
    lag_max: int = LAG_MAX


@dataclass(slots=True, frozen=True)
class Facts:
    """What is examined. `skew_s` is how far the server's clock is ahead of this host's; None if it does not tell.
    `orphans` are objects of no run, older than an hour."""

    names: Names
    server: ServerFacts
    account: Account
    overview: Overview
    skew_s: float | None = None
    limits: Thresholds = field(default_factory=Thresholds)
    orphans: Sequence[Orphan] = ()


async def gather(
    client: Client, connection: Connection, names: Names, limits: Thresholds | None = None
) -> Facts:
    """Raises `ServerUnsuitable`, `NotFound` for a namespace that does not exist, and `BrokerError`."""
    server = await check_server(client)
    overview = await read_overview(connection, names)
    account = await read_account(client, f"dressage_{names.namespace}_")
    asked_at = time.time()
    clock = await read_clock(client, names.events_stream)
    middle = (asked_at + time.time()) / 2
    skew_s = clock.timestamp() - middle if clock is not None else None
    orphans = await find_orphans(connection, names, START_S)
    return Facts(names, server, account, overview, skew_s, limits or Thresholds(), orphans)


def examine(facts: Facts) -> Report:
    """The problems first, then the warnings."""
    found = [
        *_server(facts),
        *_shards(facts),
        *_growth(facts),
        *_streams(facts),
        *_queues(facts),
        *_account(facts),
        *_clocks(facts),
        *_orphans(facts),
    ]
    return Report(sorted(found, key=lambda finding: finding.level != "problem"), count(facts))


def count(facts: Facts) -> Counts:
    ours = _ours(facts).values()
    every = facts.account.streams
    return Counts(
        len(ours),
        sum(stream.consumers for stream in ours),
        sum(stream.raft_groups for stream in ours),
        len(every),
        sum(stream.consumers for stream in every),
        sum(stream.raft_groups for stream in every),
    )


def _ours(facts: Facts) -> Mapping[str, StreamFacts]:
    names = facts.names
    wanted = {
        names.events_stream,
        names.dead_stream,
        names.runs_stream(),
        names.definitions_stream(),
        names.members_stream(),
        names.objects_stream(),
        *(names.shard_stream(view.shard) for view in facts.overview.shards),
    }
    return {stream.name: stream for stream in facts.account.streams if stream.name in wanted}


def _server(facts: Facts) -> Iterator[Finding]:
    for warning in facts.server.warnings:
        yield Finding("warning", warning.code, warning.message)


def _shards(facts: Facts) -> Iterator[Finding]:
    for view in facts.overview.shards:
        unable = f" Tried in vain by {', '.join(view.unable)}: see their logs." if view.unable else ""
        match view.state:
            case "serving" | "draining":
                pass
            case "trying":
                yield Finding(
                    "problem",
                    "SHARD_TRYING",
                    f"shard {view.shard} is not served: {view.member} ({view.where}) is trying to take it over. If "
                    f"this stays so for more than some seconds, its log says why.{unable}",
                )
            case "silent":
                yield Finding(
                    "problem",
                    "SHARD_SILENT",
                    f"shard {view.shard} is not served: {view.member} ({view.where}) says that it serves it, and "
                    "answers nothing. If it died just now another one takes over within 3 s; if it goes on, restart "
                    "that process.",
                )
            case "unserved":
                yield Finding(
                    "problem",
                    "SHARD_UNSERVED",
                    f"shard {view.shard} is served by nobody, and {view.lag} commands wait: start an orchestrator "
                    f"(dressage orchestrator --namespace {facts.names.namespace}).{unable}",
                )
        if view.lag > facts.limits.lag_max:
            yield _lag(view)


def _growth(facts: Facts) -> Iterator[Finding]:
    if facts.overview.previous is not None:
        yield Finding(
            "warning",
            "GROWTH_UNFINISHED",
            f"the namespace grows from {facts.overview.previous} to {len(facts.overview.shards)} shards. When the runs "
            "of before have ended: dressage shards retire. Until then starts of new runs take one step more.",
        )


def _lag(view: ShardView) -> Finding:
    return Finding(
        "warning",
        "SHARD_BEHIND",
        f"shard {view.shard} has {view.lag} commands that are not covered yet. If it goes on rising, this shard gets "
        "more than one owner can fold or the disk can take: more shards (dressage shards grow), or faster disks.",
    )


def _streams(facts: Facts) -> Iterator[Finding]:
    ours = _ours(facts)
    names = facts.names
    expected = [
        names.events_stream,
        names.dead_stream,
        names.runs_stream(),
        names.members_stream(),
        names.objects_stream(),
        *(names.shard_stream(view.shard) for view in facts.overview.shards),
    ]
    for name in expected:
        if name not in ours:
            yield Finding(
                "problem",
                "STREAM_MISSING",
                f"stream {name} is gone: stop the orchestrators and restore it together with all other streams of "
                "the namespace from one backup. If it is known to have been empty, an orchestrator makes it anew at "
                "its start.",
            )
    for stream in ours.values():
        yield from _stream(stream, facts)
    dead = ours.get(names.dead_stream)
    if dead is not None and dead.messages:
        yield Finding(
            "warning",
            "DEAD_LETTERS",
            f"{dead.messages} dead letters: `nats stream view {names.dead_stream}` shows them, the header "
            f"Dressage-Reason says why. Purge them (`nats stream purge {names.dead_stream}`) when they are dealt with.",
        )


def _stream(stream: StreamFacts, facts: Facts) -> Iterator[Finding]:
    if not stream.suitable:
        yield Finding(
            "problem",
            "STREAM_UNSUITABLE",
            f"stream {stream.name} was changed by hand: it must keep what nobody removed (retention limits) and take "
            "atomic batches. Restart an orchestrator, which brings it to its configuration or says why it cannot.",
        )
    for what, used, limit in (
        ("messages", stream.messages, stream.max_messages),
        ("bytes", stream.size, stream.max_size),
    ):
        if limit > 0 and used > USED_MAX * limit:
            yield Finding(
                "problem" if used >= limit else "warning",
                "STREAM_FULL",
                f"stream {stream.name} holds {used} of {limit} {what} allowed. Dressage sets no such limit, because a "
                "full stream loses its oldest messages or refuses new ones: remove it.",
            )
    if facts.server.cluster and facts.server.servers > 1 and stream.replicas == 1:
        yield Finding(
            "warning",
            "STREAM_ON_ONE_SERVER",
            f"stream {stream.name} is on one server of the cluster, and gone while that one is: start an orchestrator "
            "with --replicas 3.",
        )


def _queues(facts: Facts) -> Iterator[Finding]:
    """What waits for workers, over all shards of each queue."""
    prefix = Names.task_consumer("")
    waiting: dict[str, int] = {}
    stuck: dict[str, int] = {}
    for view in facts.overview.shards:
        stream = _ours(facts).get(facts.names.shard_stream(view.shard))
        for consumer in stream.each if stream is not None else ():
            if not consumer.name.startswith(prefix):
                continue
            queue = consumer.name.removeprefix(prefix)
            if consumer.pending and not consumer.waiting and not consumer.unacknowledged:
                waiting[queue] = waiting.get(queue, 0) + consumer.pending
            if consumer.unacknowledged >= consumer.max_unacknowledged > 0:
                stuck[queue] = stuck.get(queue, 0) + 1
    for queue, tasks in sorted(waiting.items()):
        name, _, build = queue.partition("_")
        of = f" with --build {build}" if build else ""
        yield Finding(
            "warning",
            "QUEUE_WITHOUT_WORKER",
            f"{tasks} tasks wait on queue {queue_text(queue)}, and nobody pulls from it: start a worker of the "
            f"application {name!r}, or one whose tasks name that queue{of}.",
        )
    for queue, shards in sorted(stuck.items()):
        yield Finding(
            "warning",
            "QUEUE_FULL",
            f"queue {queue_text(queue)}: workers hold as many attempts as they may on {shards} shards. They are slow, "
            "or hang: more workers, or see what their handlers wait for.",
        )


def _account(facts: Facts) -> Iterator[Finding]:
    for name, tier in sorted(facts.account.tiers.items()):
        yield from _tier(f"account limits{f' of {name}' if name else ''}", tier, len(facts.overview.shards))
    groups = count(facts).account_raft_groups
    if groups > facts.limits.raft_groups_max:
        yield Finding(
            "warning",
            "RAFT_GROUPS_MANY",
            f"{groups} Raft groups in this account (one for each replicated stream and consumer): they cost every "
            "server CPU when idle and make elections long. Fewer shards or queues, or a cluster of its own for some "
            "namespaces.",
        )


def _tier(where: str, tier: Tier, shards: int) -> Iterator[Finding]:
    limits = tier.limits
    for what, used, limit in (
        ("streams", tier.streams, limits.max_streams),
        ("consumers", tier.consumers, limits.max_consumers),
        ("bytes of storage", tier.storage, limits.max_storage),
    ):
        if limit < 0:
            continue
        # A new queue takes a consumer in each shard, and a take-over two before the old ones are gone.
        needed = 2 * shards if what == "consumers" else 0
        if used >= limit or used + needed > limit:
            yield Finding(
                "problem",
                "ACCOUNT_FULL",
                f"{where}: {used} of {limit} {what} are used, too many to go on ({needed} more may be needed at once): "
                "raise the limit in the server's configuration.",
            )
        elif used > USED_MAX * limit:
            yield Finding(
                "warning",
                "ACCOUNT_NEARLY_FULL",
                f"{where}: {used} of {limit} {what} are used: raise the limit before it is reached.",
            )


def _clocks(facts: Facts) -> Iterator[Finding]:
    if facts.skew_s is not None and abs(facts.skew_s) > SKEW_S_MAX:
        ahead = "ahead of" if facts.skew_s > 0 else "behind"
        yield Finding(
            "warning",
            "CLOCK_SKEW",
            f"the server's clock is {abs(facts.skew_s):.1f} s {ahead} this host's. Timers fire and histories are dated "
            "by the server's: keep both on NTP, and do not compare its times with those of this host's logs.",
        )


def _orphans(facts: Facts) -> Iterator[Finding]:
    if facts.orphans:
        size = sum(orphan.size for orphan in facts.orphans)
        yield Finding(
            "warning",
            "OBJECTS_ORPHANED",
            f"{size} bytes of large values belong to {len(facts.orphans)} runs that are not there: starts that were "
            "refused, or never sent, and executions that ended too late leave some. Remove those that are older than a "
            "day: dressage objects sweep.",
        )
