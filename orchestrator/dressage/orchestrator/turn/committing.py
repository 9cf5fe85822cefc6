"""The commit of a turn: its effects and the new cursor as one unit, under compare-and-set on the old cursor.

Two forms. An atomic batch is always right. Fenced singles, all acknowledged and then the cursor, are cheaper for a
small turn on one server: a batch there is staged in a file of its own and costs several fsyncs. A crash between the
singles and the cursor leaves effects that the next owner stores again under the same ids: a task is executed at
least once anyway, its second result is stale, and a timer replaces itself. A send has no such second line of defence
at the turn, so a turn that holds one is always a batch; so is one that cancels a timer, which must not happen unless
the cursor says so. Above one replica the server takes only one fenced single at a time.
"""

from __future__ import annotations

from typing import Final

from dressage.brokers.interface import WRONG_LAST_SEQUENCE, Connection, Expect, Message, Stored, all_of
from dressage.orchestrator.fold.fold import FOLD_VERSION
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.records import Cursor, encode
from dressage.orchestrator.turn.removing import Floor
from dressage.orchestrator.turn.takeover import Standing
from dressage.orchestrator.turn.turn import Turn
from dressage.protocol.errors import OutcomeUnknown, PublishRefused
from dressage.protocol.names import Names

SINGLES_MAX: Final = 8
"""Measured with fsync on one server: so many pipelined singles and a cursor cost what the smallest batch costs."""


COMPANY_WANTED: Final = 150
COMPANY_S: Final = 0.004
"""On one server a batch smaller than this waits so long for company, because its price hardly depends on its size."""


class Committer:
    """Writes turns, one in flight. Anything but a positive reply is a `Doubt`."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        shard: int,
        standing: Standing,
        singles_max: int = SINGLES_MAX,
        fold_version: int = FOLD_VERSION,
    ) -> None:
        self._connection = connection
        self._subject = names.cursor(shard)
        self._epoch = standing.epoch
        self._cursor_seq = standing.cursor_seq
        self._alone = standing.replicas == 1
        self._singles_max = singles_max if self._alone else 0
        self._fold_version = fold_version
        self._share = standing.cursor.share
        self.place = standing.cursor.place
        self.copies = Floor()
        """Below it stand copies of the cursor that the next plain cursor would roll up."""

    def wants_company(self, turn: Turn) -> bool:
        """Whether the turn as it stands would be a small batch where batches are dear."""
        return self._alone and self._as_batch(turn) and turn.effect_count < COMPANY_WANTED

    def _as_batch(self, turn: Turn) -> bool:
        return len(turn.effects) > self._singles_max or turn.has_send or bool(turn.cancels)

    async def commit(self, turn: Turn) -> None:
        if turn.place <= self.place and turn.effects:
            raise Doubt("a turn behind the cursor has effects")
        if turn.place <= self.place and turn.share == self._share:
            return
        seq, effects = turn.place
        cursor = Message(
            self._subject,
            encode(
                Cursor(
                    self._epoch,
                    seq,
                    effects,
                    self._fold_version,
                    maps=turn.maps,
                    refused=turn.refused,
                    share=turn.share,
                )
            ),
            expect=Expect(self._cursor_seq),
            rollup=True,
        )
        if self._as_batch(turn):
            batch = turn.batch(cursor)
            stored = await certain(self._connection, batch)
            if batch[-1] is not cursor:
                self.copies.floor = stored.seq - 1
        else:
            await self._store_singles(turn.effects)
            stored = await certain(self._connection, [cursor])
        self._cursor_seq = stored.seq
        self.place = turn.place
        self._share = turn.share

    async def _store_singles(self, effects: list[Message]) -> None:
        """Every acknowledgement is awaited before the cursor goes: a stored cursor proves nothing about singles."""
        fence = Expect(self._cursor_seq, self._subject)
        try:
            for effect in effects:
                effect.expect = fence
            waiting = [self._connection.send(effect) for effect in effects]
            stored = await all_of(waiting)
        except (PublishRefused, OutcomeUnknown) as error:
            raise doubt_of(error, "an effect of the turn") from error
        if any(each.duplicate for each in stored):
            raise Doubt("an effect of the turn was answered as a duplicate")


async def certain(connection: Connection, messages: list[Message]) -> Stored:
    """Stores all or nothing, and knows which: raises `Doubt` for a refusal, silence, or a doubtful success."""
    try:
        stored = await connection.publish_batch(messages)
    except (PublishRefused, OutcomeUnknown) as error:
        raise doubt_of(error, f"a write of {len(messages)} messages to {messages[-1].subject}") from error
    if stored.duplicate:
        raise Doubt(
            f"the write to {messages[-1].subject} was answered as a duplicate: no proof that it is ours"
        )
    return stored


def doubt_of(error: PublishRefused | OutcomeUnknown, what: str) -> Doubt:
    """A compare-and-set that failed means that another owner has written."""
    contested = isinstance(error, PublishRefused) and error.err_code == WRONG_LAST_SEQUENCE
    return Doubt(f"{what}: {error.message}", contested=contested)
