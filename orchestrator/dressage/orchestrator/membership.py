"""Who is alive, by heartbeats in a bucket, and what each of them says of itself and of its shards.

A member counts as gone when its entry has not changed for `SILENT_S` of the *observer's own* looks. A look that took
long says nothing about the others, so a broker that stands still, or an observer that was paused, makes nobody dead.
The bucket's TTL (`provision.MEMBER_TTL_S`) only cleans up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, Message
from dressage.orchestrator.sharing import Claim, ClaimState, Member
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names

_log = logging.getLogger("dressage.orchestrator")

BEAT_S: Final = 0.5
SILENT_S: Final = 1.4
"""Just below three beats: after three looks at an unchanged entry, 1.5 to 2 s after its member's last beat."""

REST_S: Final = 5.0
REST_S_MAX: Final = 300.0
STEADY_S: Final = 120.0
"""After so long without an interruption a member is as good as new."""


class ShardFigures(msgspec.Struct, frozen=True, omit_defaults=True):
    """One shard as its member sees it.

    `seq` is the cursor's command, `position` that of the output events; `open_runs` is None where nobody counted them.
    `uncovered` are commands that were delivered and may have to be folded again by a next owner, `backlog` those of
    them that wait to be folded; `behind` are output events that wait for the position.
    `commands_s` and `tasks_s` are rates over some seconds: commands folded, attempts ended.
    """

    state: ClaimState
    epoch: int = 0
    seq: int = 0
    position: int = 0
    open_runs: int | None = None
    uncovered: int = 0
    backlog: int = 0
    behind: int = 0
    commands_s: float = 0.0
    tasks_s: float = 0.0


class Heartbeat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a member writes into the bucket. `where` is its host and process id."""

    where: str = ""
    fold_version: int = 0
    shards: dict[int, ShardFigures] = {}
    unable: tuple[int, ...] = ()
    leaving: bool = False
    resting: bool = False

    def as_member(self) -> Member:
        """The part that sharing looks at."""
        claims = {shard: Claim(figures.state, figures.epoch) for shard, figures in self.shards.items()}
        return Member(claims, frozenset(self.unable), self.leaving, self.resting)


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Heartbeat)


def decode_heartbeat(data: bytes) -> Heartbeat:
    """What cannot be read is a member that says nothing of itself: another release, perhaps."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Heartbeat()


async def read_members(connection: Connection, names: Names) -> dict[str, tuple[int, Heartbeat]]:
    """Every entry of the bucket: its sequence, and what it says. Raises `BrokerError`."""
    stream, prefix = names.members_stream(), names.member_key("")
    state = await connection.stream_state(stream, subjects=names.member_keys())
    subjects = sorted(state.subjects) if state else []
    found = await asyncio.gather(*(connection.request_last(stream, subject) for subject in subjects))
    return {
        message.subject[len(prefix) :]: (message.seq, decode_heartbeat(message.data))
        for message in found
        if message is not None and message.data
    }


class Watch:
    """Tells who is alive from looks at the bucket, by the clock of whoever looks."""

    def __init__(self) -> None:
        self._looked_at = float("-inf")
        self._seqs: dict[str, int] = {}
        self._silent_s: dict[str, float] = {}
        self.waited_s = 0.0
        """How much time the last look stands for: at most a beat, however long ago the one before was."""

    def look(self, entries: Mapping[str, int], now: float) -> set[str]:
        """Takes the sequence of each entry; gives those that have changed within `SILENT_S` of looking."""
        self.waited_s, self._looked_at = min(BEAT_S, now - self._looked_at), now
        self._silent_s = {
            name: self._silent_s[name] + self.waited_s if self._seqs.get(name) == seq else 0.0
            for name, seq in entries.items()
        }
        self._seqs = dict(entries)
        return {name for name, silent_s in self._silent_s.items() if silent_s < SILENT_S}


class Rest:
    """How long a member that was away keeps from taking shards of others; longer each time, so that flapping damps."""

    def __init__(self) -> None:
        self._beat_at: float | None = None
        self._until = 0.0
        self._next_s = REST_S

    def beaten(self, now: float) -> None:
        """A beat was stored. A long time since the one before means that the others must have missed us."""
        before, self._beat_at = self._beat_at, now
        if before is None:
            return
        if now - before > SILENT_S:
            self._until = now + self._next_s
            _log.warning(
                "no heartbeat of ours for %.1f s: taking no shards from others for %g s",
                now - before,
                self._next_s,
            )
            self._next_s = min(REST_S_MAX, self._next_s * 2)
        elif now - self._until > STEADY_S:
            self._next_s = REST_S

    def resting(self, now: float) -> bool:
        return now < self._until


class Membership:
    """This process among the live ones."""

    def __init__(self, connection: Connection, names: Names, member: str) -> None:
        self._connection = connection
        self._names = names
        self._stream = names.members_stream()
        self._subject = names.member_key(member)
        self._seq = 0
        self._watch = Watch()
        self._others: Mapping[str, Heartbeat] = {}
        self._rest = Rest()
        self.member = member
        self.heard_s = 0.0
        """How much time the last beat stands for: at most `BEAT_S`, and 0 if the broker did not answer."""

    @property
    def resting(self) -> bool:
        return self._rest.resting(asyncio.get_running_loop().time())

    async def beat(self, heartbeat: Heartbeat) -> Mapping[str, Heartbeat]:
        """Says `heartbeat`, and returns what the live members say, this one included.

        While the broker cannot be asked, what was known last holds.
        """
        self.heard_s = 0.0
        try:
            stored = await self._connection.publish(Message(self._subject, _encode(heartbeat)))
            self._seq = stored.seq
            self._rest.beaten(asyncio.get_running_loop().time())
            found = await read_members(self._connection, self._names)
            alive = self._watch.look(
                {name: seq for name, (seq, _) in found.items()}, asyncio.get_running_loop().time()
            )
            self.heard_s = self._watch.waited_s
            self._others = {name: found[name][1] for name in alive}
        except DressageError as error:
            _log.info("heartbeat: %s", error)
        return {**self._others, self.member: heartbeat}

    async def nudge(self) -> None:
        """Asks the others to look at once: something is free."""
        try:
            await self._connection.tell(self._names.nudge(), b"")
        except DressageError as error:
            _log.debug("nudge: %s", error)

    async def leave(self) -> None:
        """Lets the others forget this member at once instead of after its silence."""
        try:
            await self._connection.purge(self._stream, self._subject, self._seq + 1)
        except DressageError as error:
            _log.info("leaving: %s", error)
        await self.nudge()
