"""Who should serve which shard: a pure function of what the live members say, the same for whoever computes it.

This only decides who tries. The cursor decides who may, so a wrong view of who is alive costs time, never truth.

Four rules, in this order; `docs/decisions/0021-balanced-sticky-shares.md` says why pure rendezvous hashing is not
enough:

1. A shard stays with the member that holds it. Where several claim it, the highest epoch has it.
2. A shard that nobody holds goes to the member with the fewest shards; among those, to the highest rendezvous hash.
3. While two members differ by more than one shard, the fuller one gives up the shard for which its hash is lowest.
4. What is given up is not tried by its heir before it is released, or its holder is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal

import msgspec

ClaimState = Literal["trying", "serving", "draining"]


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a member says of a shard that it has not released. `epoch` is that of its last take-over, 0 before one."""

    state: ClaimState
    epoch: int = 0


class Member(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a member says of itself, as far as it matters to the others.

    `unable` are the shards that it has tried in vain. One that is `leaving` takes nothing more and is draining all.
    One that is `resting` was away for a while without knowing: it keeps what it holds, and nobody makes room for it.
    """

    claims: Mapping[int, Claim] = {}
    unable: frozenset[int] = frozenset()
    leaving: bool = False
    resting: bool = False


@lru_cache(maxsize=100_000)
def weight(shard: int, member: str) -> bytes:
    """The rendezvous hash of a member for a shard."""
    return hashlib.blake2b(f"{shard}/{member}".encode(), digest_size=8).digest()


def preferred(shard: int, members: Iterable[str]) -> str | None:
    """The member with the highest hash for this shard; when one leaves, only its own shards have another."""
    return max(members, key=lambda member: weight(shard, member), default=None)


def holder(shard: int, members: Mapping[str, Member]) -> str | None:
    """Who has the shard among those that claim it: the highest epoch, for the cursor gave it; then the higher hash."""
    claiming = [name for name, member in members.items() if shard in member.claims]
    return max(
        claiming, key=lambda name: (members[name].claims[shard].epoch, weight(shard, name)), default=None
    )


def share(shards: int, members: Mapping[str, Member]) -> dict[int, str]:
    """Which member each shard should be at. Empty if every member is leaving."""
    return _Sharing(shards, members).result()


def to_serve(me: str, shards: int, members: Mapping[str, Member]) -> frozenset[int]:
    """The shards that `me` should be trying or serving now; what it claims beyond them it should drain.

    Raises `KeyError` unless `me` is one of `members`.
    """
    mine = members[me].claims
    others = {shard for name, member in members.items() if name != me for shard in member.claims}
    wanted = {shard for shard, name in share(shards, members).items() if name == me}
    return frozenset(shard for shard in wanted if shard in mine or shard not in others)


class _Sharing:
    """One computation. Whoever may take a shard is looked up once, for both the placing and the levelling."""

    def __init__(self, shards: int, members: Mapping[str, Member]) -> None:
        self._shards = range(shards)
        self._members = members
        staying = {name: member for name, member in members.items() if not member.leaving}
        awake = {name: member for name, member in staying.items() if not member.resting}
        self._staying = staying
        self._awake = awake or staying
        self._held: dict[str, set[int]] = {name: set() for name in staying}

    def result(self) -> dict[int, str]:
        if not self._staying:
            return {}
        free = [shard for shard in self._shards if not self._keep(shard)]
        for shard in free:
            self._held[self._heir(shard)].add(shard)
        while self._level():
            pass
        return {shard: name for name, held in self._held.items() for shard in held}

    def _keep(self, shard: int) -> bool:
        """Whether the shard stays where it is. What is draining cannot be kept: its owner is on its way out."""
        name = holder(shard, self._members)
        if name is None or name not in self._staying:
            return False
        if self._members[name].claims[shard].state == "draining":
            return False
        if shard in self._members[name].unable and name not in self._able(shard):
            return False
        self._held[name].add(shard)
        return True

    def _able(self, shard: int) -> list[str]:
        """Who may take the shard. If all have tried in vain, all may try again: one of them may be wrong by now."""
        for candidates in (self._awake, self._staying):
            able = [name for name, member in candidates.items() if shard not in member.unable]
            if able:
                return able
        return list(self._awake)

    def _heir(self, shard: int) -> str:
        return min(
            self._able(shard), key=lambda name: (len(self._held[name]), _descending(weight(shard, name)))
        )

    def _level(self) -> bool:
        """Moves one shard from a fuller member to an emptier one; False when no two differ by more than one."""
        givers = sorted(self._staying, key=self._load, reverse=True)
        takers = sorted(self._awake, key=self._load)
        for giver in givers:
            for taker in takers:
                if len(self._held[giver]) - len(self._held[taker]) < 2:
                    break
                movable = self._held[giver] - self._members[taker].unable
                if movable:
                    given = min(movable, key=lambda shard: weight(shard, giver))
                    self._held[giver].remove(given)
                    self._held[taker].add(given)
                    return True
        return False

    def _load(self, name: str) -> tuple[int, str]:
        return len(self._held[name]), name


def _descending(digest: bytes) -> int:
    return -int.from_bytes(digest)
