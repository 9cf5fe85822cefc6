"""Which shard a run lives on, while the number of shards grows.

A growth makes a new generation of the map. While `previous` is set two generations live: every command for a run goes
first to its place under the previous count, whose owner folds it if the run is there, or hands it on in order. Once no
open run lives at a place that the new count would not name, the growth is finished: `previous` moves to `older`, and
what has ended at an older place is still found there.

**One id is one run, in every phase.** Say a run's place was P and is H. It can be created

1. at P, by a command before the switch of P's stream to the new generation; or
2. at H, by a command that P's owner handed on, which is behind that switch, and only if the run is not at P; or
3. at H, by a command that came directly, after the growth was finished, and only if the run is not at P either.

Before its switch P never hands on, and behind it P never creates; the switch is a command in P's own stream, so there
is no third. Hence not 1 and 2. A growth is finished only when every stream has switched and all that was folded before
is stored in the bucket, without an open run at a place like P: what P's part of the bucket holds then is final, and
that is where 3 looks. Hence not 1 and 3. And 2 and 3 are commands of one stream, folded one after the other, where the
second finds the run of the first. A command that comes to H directly before the growth is finished is sent back to P
first. One that P handed on may come to H before H's own switch: it says which generation P had, and is taken.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from dressage.protocol.names import shard_of

MAP_TOKEN: Final = "=map"
"""Stands where a command has its run, for a change of the map; no run id is ever encoded to it."""

FORWARDED_HEADER: Final = "Dressage-Forwarded"
"""`<generation>.<shard>.<sequence>` of the command at the run's earlier place, whose owner found no such run there."""

DELETED_HEADER: Final = "Dressage-Deleted"
"""What an owner sets to `1` on a command that it hands on and that was meant for a run that was deleted there: it does
not begin, and does not end, the next one of the id."""


SHARDS_MAX: Final = 1_024
"""Each shard is a stream of its own, with consumers, and in a cluster a Raft group."""

Count = Annotated[int, msgspec.Meta(ge=1, le=SHARDS_MAX)]
"""A number of shards. A map may come from anybody who can publish, and a number of 0 would divide by it."""


class ShardMap(msgspec.Struct, frozen=True, omit_defaults=True):
    """One generation. `previous` is set until the growth is finished; `older` are counts before that, newest first."""

    generation: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] = 1
    shards: Count = 1
    previous: Count | None = None
    older: Annotated[tuple[Count, ...], msgspec.Meta(max_length=100)] = ()

    def home(self, run_id: str) -> int:
        """Where the run is created."""
        return shard_of(run_id, self.shards)

    def first(self, run_id: str) -> int:
        """Where commands for the run go, and questions about it."""
        return shard_of(run_id, self.previous or self.shards)

    def older_places(self, run_id: str) -> list[int]:
        """Where else the run may have ended, newest place first; without `home`."""
        home = self.home(run_id)
        places = (shard_of(run_id, count) for count in self.older)
        return list(dict.fromkeys(place for place in places if place != home))

    def other_places(self, run_id: str, shard: int) -> list[int]:
        """Where else than on `shard` the run may be; the place that is asked first, first."""
        places = (self.first(run_id), self.home(run_id), *(shard_of(run_id, count) for count in self.older))
        return [place for place in dict.fromkeys(places) if place != shard]

    @property
    def growing(self) -> bool:
        return self.previous is not None

    def grown(self, shards: int) -> ShardMap:
        """The next generation, with more shards."""
        return ShardMap(self.generation + 1, shards, self.shards, self.older)

    def finished(self) -> ShardMap:
        """The next generation, with the growth finished."""
        older = self.older if self.previous is None else (self.previous, *self.older)
        return ShardMap(self.generation + 1, self.shards, None, older)

    def first_of_all(self) -> ShardMap:
        """The map that the namespace began with."""
        return ShardMap(shards=(self.previous or self.shards, *self.older)[-1])


def forwarded_mark(generation: int, shard: int, seq: int) -> str:
    """What an owner says of a command that it hands on to where its run may be created."""
    return f"{generation}.{shard}.{seq}"


def forwarded_generation(mark: str | None) -> int:
    """The generation of the owner that handed a command on; 0 without a mark, or for one that no owner made."""
    generation = (mark or "").partition(".")[0]
    return int(generation) if generation.isascii() and generation.isdigit() and len(generation) < 10 else 0


_decoder = msgspec.json.Decoder(ShardMap)
encode_map = msgspec.json.Encoder().encode


def decode_map(data: bytes) -> ShardMap:
    """Raises `msgspec.MsgspecError` or `UnicodeDecodeError`."""
    return _decoder.decode(data)
