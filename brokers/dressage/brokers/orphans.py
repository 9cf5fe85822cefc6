"""Objects that belong to no run: of a start that never came, or of an execution whose result came too late.

Nobody but the sender knows whether a start is still to come. So objects count as orphans only when nobody has stored
them, or found them there, for longer than a start can be on its way, and when there is neither a run of their root, nor
a child run of it, nor a command for one. They are marked as removed before they are: with a compare-and-set against
what was read of them, which whoever stores the same at that moment wins or sees (`put_object`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, StoredMessage
from dressage.brokers.objects import OVERTAKEN, PURGES, ObjectInfo, read_info, say
from dressage.brokers.provision import require_namespace
from dressage.protocol.errors import BadInput, BadRunId, PublishRefused
from dressage.protocol.names import Names, root_token, run_id_of

START_S: Final = 3_600.0
"""A start is in a stream so long after its objects, at the latest: clients give up after half a minute, if they were
not told otherwise."""

DAY_S: Final = 86_400.0

ROUNDS: Final = 4
"""So often all streams are looked at: while shards grow a command for a new run is handed on twice, rarely thrice."""

_DIGEST: Final = re.compile("[0-9a-f]{64}")


@dataclass(slots=True)
class Orphan:
    """What is stored under a root that has no run. `size` is in bytes."""

    root: str
    newest_ns: int = 0
    """When something of it was last stored, or found there."""

    size: int = 0
    said: dict[str, int] = field(default_factory=dict[str, int])
    """The sequence of what is said of each object, by its subject."""

    chunks: list[str] = field(default_factory=list[str])
    """Their subjects."""

    @property
    def run_id(self) -> str:
        """Of the run that it would be of; of an id that begins with `~` there is no more than that."""
        return "~" if self.root == root_token("~") else run_id_of(self.root)


async def find_orphans(connection: Connection, names: Names, older_s: float = DAY_S) -> list[Orphan]:
    """The roots of which no run is there, and of which nothing was stored for `older_s` seconds.

    Raises `BadInput` (AGE_TOO_SHORT) for less than an hour, `NotFound`, or `BrokerError`.
    """
    if older_s < START_S:
        raise BadInput(
            f"an object of {older_s:g} s may belong to a start that is still to come: give {START_S:g} s at least",
            code="AGE_TOO_SHORT",
        )
    state = await connection.stream_state(names.objects_stream(), names.all_objects())
    if state is None or not state.subjects:
        return []
    found = _by_root(names, state.subjects)
    for root in await _roots_with_runs(connection, names):
        found.pop(root, None)
    orphans = list(found.values())
    for first in range(0, len(orphans), PURGES):
        some = orphans[first : first + PURGES]
        await asyncio.gather(*(_look(connection, names, each, state.subjects) for each in some))
    before_ns = state.time_ns - int(older_s * 1e9)
    return [each for each in orphans if each.newest_ns <= before_ns]


async def remove_orphan(connection: Connection, names: Names, orphan: Orphan) -> bool:
    """Removes what `find_orphans` has found of a root; False if somebody has stored something of it since, which then
    stays. May be repeated, and broken off, at any time. Raises `BrokerError`."""
    stream = names.objects_stream()
    for subject, seq in orphan.said.items():
        try:
            marked = await say(connection, subject, _removed(names, subject), seq)
        except PublishRefused as refused:
            if refused.err_code not in OVERTAKEN:
                raise
            return False
        orphan.said[subject] = marked.seq
    state = await connection.stream_state(stream)
    below = 0 if state is None else state.last_seq + 1
    for first in range(0, len(orphan.chunks), PURGES):
        some = orphan.chunks[first : first + PURGES]
        await asyncio.gather(*(connection.purge(stream, each, below) for each in some))
    for subject, seq in orphan.said.items():
        await connection.purge(stream, subject, seq + 1)
    return True


def _removed(names: Names, subject: str) -> bytes:
    place = names.object_of_info(subject)
    assert place is not None, "found by it"
    said = ObjectInfo(names.object_name(*place), names.objects_bucket, "", 0, 0, "", deleted=True)
    return msgspec.json.encode(said)


def _by_root(names: Names, subjects: Iterable[str]) -> dict[str, Orphan]:
    """What is stored, but for what other tools have put there."""
    found: dict[str, Orphan] = {}
    for subject in subjects:
        of_chunks = names.object_of_chunks(subject)
        place = of_chunks or names.object_of_info(subject)
        if place is None or not _DIGEST.fullmatch(place[1]) or _root_of(place[0]) != place[0]:
            continue
        orphan = found.setdefault(place[0], Orphan(place[0]))
        if of_chunks is not None:
            orphan.chunks.append(subject)
        else:
            orphan.said[subject] = 0
    return found


async def _look(connection: Connection, names: Names, orphan: Orphan, counts: Mapping[str, int]) -> None:
    """How old it is, and how large. What was marked as removed says nothing of its age."""
    stream, whole = names.objects_stream(), set[str]()
    for subject in list(orphan.said):
        found = await connection.last_message(stream, subject)
        if found is None:
            del orphan.said[subject]
            continue
        orphan.said[subject] = found.seq
        whole |= _count(names, orphan, found)
    for subject in orphan.chunks:
        if subject not in whole:
            chunk = await connection.last_message(stream, subject)
            if chunk is not None:
                orphan.newest_ns = max(orphan.newest_ns, chunk.time_ns)
                orphan.size += counts[subject] * len(chunk.data)


def _count(names: Names, orphan: Orphan, said: StoredMessage) -> set[str]:
    """The chunks of an object that is there: they are older than what is said of it."""
    info = read_info(said.data)
    if info is None:
        return set()
    orphan.newest_ns = max(orphan.newest_ns, said.time_ns)
    orphan.size += info.size
    return {names.object_chunks(info.nuid)}


# -- runs ----------------------------------------------------------------------------------------------
async def _roots_with_runs(connection: Connection, names: Names) -> set[str]:
    """The roots of all runs that there are, or that a command is on its way to.

    A command is in a stream until the state that it makes is stored, on this shard, or it is in the next one's. So
    streams come first, and states last.
    """
    while True:
        shard_map = (await require_namespace(connection, names)).map
        found: set[str] = set()
        for _ in range(ROUNDS):
            for shard in range(shard_map.shards):
                for subjects in (names.commands(shard), names.sends(shard)):
                    found |= await _roots(connection, names.shard_stream(shard), subjects)
        for shard in range(shard_map.shards):
            found |= await _roots(connection, names.runs_stream(), names.run_keys(shard))
        if (await require_namespace(connection, names)).map == shard_map:
            return found


async def _roots(connection: Connection, stream: str, subjects: str) -> set[str]:
    state = await connection.stream_state(stream, subjects)
    tokens = {subject.rpartition(".")[2] for subject in (state.subjects if state is not None else ())}
    return {root for root in map(_root_of, tokens) if root}


def _root_of(token: str) -> str:
    """The token of the root of a run, by the token of the run; empty where that is of no run."""
    if token == root_token("~"):
        return token
    try:
        return root_token(run_id_of(token))
    except BadRunId:
        return ""
