"""What an owner writes about itself: cursor, position and the fence of the states. All JSON."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from dressage.orchestrator.turn.routing import MapSince
from dressage.protocol.errors import BrokerError

_T = TypeVar("_T")


class Cursor(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the turns have come: every command below `seq` is folded, and `effects` of the effects of `seq`.

    `fold_version` is that of the fold which gave all this. A take-over changes nothing of it, as what the cursor covers
    is folded again by the same; but from then on states may be stored by the release that has taken over, which
    `served` tells.

    `fence` marks a rewrite by a take-over; `since` is where the last real turn's cursor stood then. `maps` are the
    shard maps by the commands that changed them; none before the first growth. `refused` are starts that were refused
    because too many runs were open, and `share` is how many may be open by the starts behind this cursor, None for any
    number (see `dressage.orchestrator.turn.starting`).
    """

    epoch: int = 0
    seq: int = 0
    effects: int = 0
    fold_version: int = 1
    served: int = 0
    fence: bool = False
    since: int = 0
    maps: tuple[MapSince, ...] = ()
    refused: tuple[int, ...] = ()
    share: int | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.seq, self.effects

    @property
    def newest(self) -> int:
        """The fold version of the newest release that has served the shard."""
        return max(self.fold_version, self.served)


class Position(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far the output events have come: all of every command below `seq`, and `events` of those of `seq`.

    `open_runs` are the runs that have started and not ended by these events; None where an earlier release, which did
    not count them, has written the position before.
    """

    epoch: int = 0
    seq: int = 0
    events: int = 0
    open_runs: int | None = None

    @property
    def place(self) -> tuple[int, int]:
        return self.seq, self.events


class Fence(msgspec.Struct, frozen=True, omit_defaults=True):
    """The key of the states' bucket that every put is checked against."""

    epoch: int = 0


encode = msgspec.json.Encoder().encode
_cursor = msgspec.json.Decoder(Cursor)
_position = msgspec.json.Decoder(Position)
_fence = msgspec.json.Decoder(Fence)


def decode_cursor(data: bytes) -> Cursor:
    return _decode(_cursor, data, "cursor")


def decode_position(data: bytes) -> Position:
    return _decode(_position, data, "position")


def decode_fence(data: bytes) -> Fence:
    return _decode(_fence, data, "fence")


def _decode(decoder: msgspec.json.Decoder[_T], data: bytes, what: str) -> _T:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BrokerError(f"the shard's {what} is unreadable: {error}", code="RECORD_UNREADABLE") from error
