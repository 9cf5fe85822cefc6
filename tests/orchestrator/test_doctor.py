"""What the doctor makes of facts. The facts of a real server are in tests/cli/test_shards.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from dressage.brokers.jetstream.account import Account, ConsumerFacts, Limits, StreamFacts, Tier
from dressage.brokers.orphans import Orphan
from dressage.brokers.server_check import ServerFacts, ServerWarning
from dressage.orchestrator.doctor import (
    LAG_MAX,
    RAFT_GROUPS_MAX,
    SKEW_S_MAX,
    Facts,
    Thresholds,
    count,
    examine,
)
from dressage.orchestrator.overview import Overview, ShardView
from dressage.protocol.names import Names

NAMES = Names("shop")
SHARDS = 2


def stream(name: str, **changed: object) -> StreamFacts:
    known = {
        "name": name,
        "replicas": 1,
        "messages": 0,
        "size": 0,
        "consumers": 0,
        "max_messages": -1,
        "max_size": -1,
        "suitable": True,
    }
    return StreamFacts(**(known | changed))  # type: ignore[arg-type]


def consumer(name: str, **changed: int) -> ConsumerFacts:
    known = {"replicas": 1, "waiting": 1, "pending": 0, "unacknowledged": 0, "max_unacknowledged": 100}
    return ConsumerFacts(name, **(known | changed))


def healthy() -> Facts:
    names = [
        NAMES.events_stream,
        NAMES.dead_stream,
        NAMES.runs_stream(),
        NAMES.definitions_stream(),
        NAMES.members_stream(),
        NAMES.objects_stream(),
        *map(NAMES.shard_stream, range(SHARDS)),
    ]
    return Facts(
        NAMES,
        ServerFacts("s", "2.15.1", None, 1 << 20, "always"),
        Account({"": Tier()}, [stream(name) for name in names]),
        Overview([ShardView(shard, "serving", "m", "h:1", epoch=1) for shard in range(SHARDS)], []),
        0.01,
    )


def with_stream(facts: Facts, changed: StreamFacts) -> Facts:
    others = [each for each in facts.account.streams if each.name != changed.name]
    return replace(facts, account=replace(facts.account, streams=[*others, changed]))


def with_shard(facts: Facts, changed: ShardView) -> Facts:
    views = [changed if view.shard == changed.shard else view for view in facts.overview.shards]
    return replace(facts, overview=Overview(views, []))


def with_tier(facts: Facts, tier: Tier) -> Facts:
    return replace(facts, account=replace(facts.account, tiers={"": tier}))


def codes(facts: Facts) -> dict[str, str]:
    return {finding.code: finding.level for finding in examine(facts).findings}


def test_nothing_is_found_where_all_is_well() -> None:
    report = examine(healthy())
    assert report.findings == []
    assert report.well


def without_stream(facts: Facts) -> Facts:
    streams = [each for each in facts.account.streams if each.name != NAMES.shard_stream(1)]
    return replace(facts, account=replace(facts.account, streams=streams))


TASKS = NAMES.task_consumer("payments")
FOUND: list[tuple[str, str, Callable[[Facts], Facts]]] = [
    ("SHARD_UNSERVED", "problem", lambda facts: with_shard(facts, ShardView(1, "unserved", lag=3))),
    ("SHARD_TRYING", "problem", lambda facts: with_shard(facts, ShardView(1, "trying", "m", "h:1"))),
    ("SHARD_SILENT", "problem", lambda facts: with_shard(facts, ShardView(1, "silent", "m", "h:1"))),
    ("SHARD_BEHIND", "warning", lambda facts: with_shard(facts, ShardView(1, "serving", lag=LAG_MAX + 1))),
    ("STREAM_MISSING", "problem", without_stream),
    (
        "STREAM_UNSUITABLE",
        "problem",
        lambda facts: with_stream(facts, stream(NAMES.shard_stream(0), suitable=False)),
    ),
    (
        "STREAM_FULL",
        "warning",
        lambda facts: with_stream(facts, stream(NAMES.events_stream, size=90, max_size=100)),
    ),
    (
        "STREAM_FULL",
        "problem",
        lambda facts: with_stream(facts, stream(NAMES.events_stream, messages=100, max_messages=100)),
    ),
    ("OBJECTS_ORPHANED", "warning", lambda facts: replace(facts, orphans=[Orphan("r", size=1)])),
    ("DEAD_LETTERS", "warning", lambda facts: with_stream(facts, stream(NAMES.dead_stream, messages=1))),
    (
        "QUEUE_WITHOUT_WORKER",
        "warning",
        lambda facts: with_stream(
            facts,
            stream(NAMES.shard_stream(0), consumers=1, each=[consumer(TASKS, waiting=0, pending=7)]),
        ),
    ),
    (
        "QUEUE_FULL",
        "warning",
        lambda facts: with_stream(
            facts, stream(NAMES.shard_stream(0), consumers=1, each=[consumer(TASKS, unacknowledged=100)])
        ),
    ),
    (
        "ACCOUNT_FULL",
        "problem",
        lambda facts: with_tier(facts, Tier(streams=9, limits=Limits(max_streams=9))),
    ),
    (
        "ACCOUNT_FULL",
        "problem",
        lambda facts: with_tier(facts, Tier(consumers=7, limits=Limits(max_consumers=10))),
    ),
    (
        "ACCOUNT_NEARLY_FULL",
        "warning",
        lambda facts: with_tier(facts, Tier(storage=81, limits=Limits(max_storage=100))),
    ),
    ("CLOCK_SKEW", "warning", lambda facts: replace(facts, skew_s=-2 * SKEW_S_MAX)),
    (
        "SYNC_LAZY",
        "warning",
        lambda facts: replace(
            facts, server=replace(facts.server, warnings=(ServerWarning("SYNC_LAZY", "says what to do"),))
        ),
    ),
    (
        "STREAM_ON_ONE_SERVER",
        "warning",
        lambda facts: replace(facts, server=replace(facts.server, cluster="c", servers=3)),
    ),
    (
        "GROWTH_UNFINISHED",
        "warning",
        lambda facts: replace(facts, overview=msgspec.structs.replace(facts.overview, previous=1)),
    ),
    (
        "RAFT_GROUPS_MANY",
        "warning",
        lambda facts: with_stream(facts, stream("others", replicas=3, consumers=RAFT_GROUPS_MAX)),
    ),
]


@pytest.mark.parametrize(("code", "level", "worsen"), FOUND, ids=[f"{each[0]}-{each[1]}" for each in FOUND])
def test_it_finds(code: str, level: str, worsen: Callable[[Facts], Facts]) -> None:
    worse = worsen(healthy())
    assert codes(worse) == {code: level}
    assert examine(worse).well is (level == "warning")


def test_a_worker_whose_hands_are_full_is_a_worker() -> None:
    """It has asked for nothing, because it holds as much as it wants."""
    busy = consumer(TASKS, waiting=0, pending=7, unacknowledged=3)
    assert codes(with_stream(healthy(), stream(NAMES.shard_stream(0), each=[busy]))) == {}


def test_problems_come_first() -> None:
    worse = with_shard(replace(healthy(), skew_s=100.0), ShardView(0, "unserved"))
    assert [finding.level for finding in examine(worse).findings] == ["problem", "warning"]


def test_thresholds_are_the_callers() -> None:
    facts = with_shard(healthy(), ShardView(0, "serving", lag=5))
    assert codes(replace(facts, limits=Thresholds(lag_max=4))) == {"SHARD_BEHIND": "warning"}


def test_raft_groups_are_the_replicated_streams_and_consumers() -> None:
    each = [consumer("orch_1", replicas=3), consumer("history", replicas=1)]
    facts = with_stream(healthy(), stream(NAMES.shard_stream(0), replicas=3, consumers=2, each=each))
    facts = with_stream(facts, stream("others", replicas=3, consumers=5))
    counts = count(facts)
    assert counts.raft_groups == 2
    assert counts.account_raft_groups == 2 + 6
    assert (counts.streams, counts.account_streams) == (SHARDS + 6, SHARDS + 7)
