"""How the shards of a namespace stand: from the heartbeats, and from the streams for a shard that nobody serves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from dressage.brokers.interface import Connection
from dressage.brokers.provision import require_namespace
from dressage.orchestrator.membership import Heartbeat, read_members
from dressage.orchestrator.sharing import holder
from dressage.orchestrator.turn.records import Cursor, Position, decode_cursor, decode_position
from dressage.protocol.commands import Ask, encoder
from dressage.protocol.errors import NoAnswer
from dressage.protocol.names import Names

ANSWER_S: Final = 1.0
"""An owner that answers nothing for so long is shown as silent, whatever its heartbeat says."""

ShardState = Literal["serving", "trying", "draining", "silent", "unserved"]


class ShardView(msgspec.Struct, frozen=True):
    """One shard. What only an owner knows is None for a shard without one.

    `lag` are commands that the bucket of states does not cover yet; without an owner, commands in the stream.
    `backlog` are those of them that wait for the owner's fold. `seq` is the cursor's command, `position` the one that
    the output events have come to, `behind` how many events wait. `unable` are members that tried in vain.
    """

    shard: int
    state: ShardState
    member: str = ""
    where: str = ""
    epoch: int = 0
    seq: int = 0
    position: int = 0
    lag: int = 0
    backlog: int | None = None
    behind: int | None = None
    open_runs: int | None = None
    commands_s: float | None = None
    tasks_s: float | None = None
    unable: tuple[str, ...] = ()


class MemberView(msgspec.Struct, frozen=True):
    """One orchestrator, as it says itself; one that died is shown until its entry is cleaned away."""

    member: str
    where: str
    fold_version: int
    shards: int
    leaving: bool = False
    resting: bool = False


class Overview(msgspec.Struct, frozen=True):
    """`generation` is that of the shard map; `previous` is the count of shards before a growth that is unfinished."""

    shards: list[ShardView]
    members: list[MemberView]
    generation: int = 1
    previous: int | None = None


async def read_overview(connection: Connection, names: Names) -> Overview:
    """Raises `NotFound` for a namespace that does not exist, and `BrokerError`."""
    namespace = await require_namespace(connection, names)
    heartbeats = {name: heartbeat for name, (_, heartbeat) in (await read_members(connection, names)).items()}
    shards = await asyncio.gather(
        *(_shard(connection, names, shard, heartbeats) for shard in range(namespace.shards))
    )
    members = [
        MemberView(
            name,
            said.where,
            said.fold_version,
            sum(figures.state == "serving" for figures in said.shards.values()),
            said.leaving,
            said.resting,
        )
        for name, said in sorted(heartbeats.items())
    ]
    return Overview(list(shards), members, namespace.generation, namespace.previous)


async def _shard(
    connection: Connection, names: Names, shard: int, heartbeats: Mapping[str, Heartbeat]
) -> ShardView:
    unable = tuple(name for name, said in sorted(heartbeats.items()) if shard in said.unable)
    member = holder(shard, {name: said.as_member() for name, said in heartbeats.items()})
    figures = heartbeats[member].shards[shard] if member is not None else None
    if member is None or figures is None or not figures.epoch:
        view = await _from_streams(connection, names, shard)
        if member is None or figures is None:
            return msgspec.structs.replace(view, unable=unable)
        return msgspec.structs.replace(
            view, state=figures.state, member=member, where=heartbeats[member].where, unable=unable
        )
    return ShardView(
        shard,
        figures.state if await _answers(connection, names, shard) else "silent",
        member,
        heartbeats[member].where,
        figures.epoch,
        figures.seq,
        figures.position,
        figures.uncovered,
        figures.backlog,
        figures.behind,
        figures.open_runs,
        figures.commands_s,
        figures.tasks_s,
        unable,
    )


async def _answers(connection: Connection, names: Names, shard: int) -> bool:
    """Whether anybody serves the shard's questions; which run is asked for does not matter."""
    try:
        await connection.request(names.ask(shard), encoder.encode(Ask("get", "nobody")), ANSWER_S)
    except NoAnswer:
        return False
    return True


async def _from_streams(connection: Connection, names: Names, shard: int) -> ShardView:
    stream = names.shard_stream(shard)
    state, events = await asyncio.gather(
        connection.stream_state(stream, subjects=names.commands(shard)),
        connection.stream_state(names.events_stream),
    )
    if state is None or events is None:
        return ShardView(shard, "unserved")
    cursor, position = await asyncio.gather(
        connection.last_message(stream, names.cursor(shard)),
        connection.last_message(names.events_stream, names.position(shard)),
    )
    written = decode_cursor(cursor.data) if cursor is not None else Cursor()
    published = decode_position(position.data) if position is not None else Position(open_runs=0)
    return ShardView(
        shard,
        "unserved",
        # The epoch of a take-over is the sequence of its first cursor; only the position repeats it.
        epoch=max(written.epoch, published.epoch),
        seq=written.seq,
        position=published.seq,
        lag=sum(state.subjects.values()),
        open_runs=published.open_runs,
    )
