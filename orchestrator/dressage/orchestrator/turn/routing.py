"""Where a command belongs while the number of shards grows: folded here, or handed on to another shard.

What is decided must be decided again by whoever folds the command a second time, so the map comes from the shard's own
stream: a command changes it, and holds for every command behind it. `dressage.protocol.shardmap` says why one id is one
run all the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from dressage.orchestrator.turn.reading import Unreadable
from dressage.protocol.errors import BadRunId
from dressage.protocol.names import place_of, shard_of
from dressage.protocol.shardmap import ShardMap

MAPS_KEPT: Final = 3
"""A growth is finished only when everything before its switch is covered, so no older map is ever needed again."""

HANDED_ON_KEPT: Final = 10_000


class MapSince(msgspec.Struct, frozen=True):
    """A map that holds for the commands of a shard behind sequence `seq`."""

    seq: int
    map: ShardMap


class Route(NamedTuple):
    """`checked` says that the run is known not to be at its earlier place: so it may be created at `shard`."""

    shard: int
    checked: bool = False


class Maps:
    """The maps of one shard, by the sequence from which they hold."""

    def __init__(self, known: Iterable[MapSince]) -> None:
        self._known = list(known)
        self.now = self._known[-1].map
        """The map that holds for the command at hand."""

    def at(self, seq: int) -> ShardMap:
        """The map that holds for the command with this sequence."""
        return next((since.map for since in reversed(self._known) if since.seq < seq), self._known[0].map)

    @property
    def latest(self) -> ShardMap:
        return self._known[-1].map

    @property
    def kept(self) -> tuple[MapSince, ...]:
        """What the cursor has to hold; nothing as long as the map is the first one."""
        return tuple(self._known[-MAPS_KEPT:]) if self.latest.generation > 1 else ()

    def change(self, seq: int, changed: ShardMap) -> None:
        """Takes a newer generation; one that is known already, or older, changes nothing."""
        if changed.generation > self.latest.generation:
            self._known.append(MapSince(seq, changed))


def route(shard_map: ShardMap, run_id: str, shard: int, checked_by: int = 0) -> Route:
    """Where a command goes that has come to `shard`, which has no such run.

    `checked_by` is the generation of an owner that handed it on because the run is not at its earlier place. Raises
    `Unreadable` at a shard where no map has ever put the run.
    """
    if checked_by > shard_map.generation:
        return Route(shard)  # The switch of this shard is still to come.
    home, first = shard_map.home(run_id), shard_map.first(run_id)
    if shard == home:
        return Route(home) if checked_by or first == home else Route(first)
    if shard == first:
        return Route(home, checked=True)
    if any(shard == shard_of(run_id, count) for count in shard_map.older):
        return Route(home, checked=True) if first == home else Route(first)
    raise Unreadable(
        "SHARD_WRONG", f"run {run_id!r} belongs to shard {first} of {shard_map.shards}, not to {shard}"
    )


def older_places(shard_map: ShardMap, token: str, shard: int) -> list[int]:
    """Where else than on `shard` the run of a token may have ended, before the shards grew."""
    if not shard_map.older:
        return []
    try:
        return [place for place in shard_map.older_places(place_of(token)) if place != shard]
    except BadRunId:
        return []


class HandedOn:
    """Which runs' commands this tenure has handed on lately, and where they are: for questions that come meanwhile."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def begun(self, token: str, target: int) -> None:
        self._places[token] = target, 0
        self._places.move_to_end(token)
        if len(self._places) > HANDED_ON_KEPT:
            self._places.popitem(last=False)

    def arrived(self, token: str, seq: int) -> None:
        if token in self._places:
            self._places[token] = self._places[token][0], seq

    def folded_here(self, token: str) -> None:
        """The newest command went nowhere else: who asks elsewhere would be sent back here, for ever."""
        self._places.pop(token, None)

    def place(self, token: str) -> tuple[int, int] | None:
        """The shard that the newest command went to, and its sequence there: 0 while it is on its way."""
        return self._places.get(token)
