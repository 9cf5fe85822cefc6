"""Who serves which shard: live orchestrators share them by rendezvous hashing.

This only decides who tries. The cursor decides who may, so a wrong view of who is alive costs time, never truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

from dressage.brokers.interface import Connection, Message
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names

BEAT_S: Final = 0.7
"""Well below the bucket's TTL (`provision.MEMBER_TTL_S`), so that one lost beat makes nobody dead."""


def preferred(shard: int, members: Iterable[str]) -> str | None:
    """The member with the highest hash for this shard; when one leaves, only its own shards move."""

    def weight(member: str) -> bytes:
        return hashlib.blake2b(f"{shard}/{member}".encode(), digest_size=8).digest()

    return max(members, key=weight, default=None)


class Membership:
    """This process among the live ones, in a bucket whose entries vanish unless they are renewed."""

    def __init__(self, connection: Connection, names: Names, member: str) -> None:
        self._connection = connection
        self._stream = f"KV_{names.members_bucket}"
        self._prefix = f"$KV.{names.members_bucket}."
        self._known = frozenset({member})
        self.member = member

    async def beat(self) -> frozenset[str]:
        """Renews this member and returns all live ones; those known last while the broker cannot be asked."""
        try:
            await self._connection.publish(Message(self._prefix + self.member, b"{}"))
            state = await self._connection.stream_state(self._stream, subjects=f"{self._prefix}*")
        except DressageError:
            return self._known
        found = state.subjects if state else {}
        self._known = frozenset(subject[len(self._prefix) :] for subject in found) | {self.member}
        return self._known

    async def leave(self) -> None:
        """Lets the others take over at once instead of after the TTL."""
        try:
            await self._connection.request(
                f"$JS.API.STREAM.PURGE.{self._stream}",
                b'{"filter":"%s%s"}' % (self._prefix.encode(), self.member.encode()),
                1.0,
            )
        except DressageError:
            return
