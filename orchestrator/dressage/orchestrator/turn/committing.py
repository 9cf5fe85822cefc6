"""The commit of a turn: its effects and the new cursor as one unit, under compare-and-set on the old cursor."""

from __future__ import annotations

from dressage.brokers.interface import Connection, Expect, Message, Stored
from dressage.orchestrator.fold.fold import FOLD_VERSION
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.records import Cursor, encode
from dressage.orchestrator.turn.takeover import Standing
from dressage.orchestrator.turn.turn import Turn
from dressage.protocol.errors import OutcomeUnknown, PublishRefused
from dressage.protocol.names import Names


class Committer:
    """Writes turns, one in flight. Anything but a positive reply is a `Doubt`."""

    def __init__(self, connection: Connection, names: Names, shard: int, standing: Standing) -> None:
        self._connection = connection
        self._subject = names.cursor(shard)
        self._epoch = standing.epoch
        self._cursor_seq = standing.cursor_seq
        self.place = standing.cursor.place

    async def commit(self, turn: Turn) -> None:
        if turn.place <= self.place:
            if turn.effects:
                raise Doubt("a turn behind the cursor has effects")
            return
        seq, effects = turn.place
        cursor = Message(
            self._subject,
            encode(Cursor(self._epoch, seq, effects, FOLD_VERSION)),
            expect=Expect(self._cursor_seq),
            rollup=True,
        )
        self._cursor_seq = (await certain(self._connection, [*turn.effects, cursor])).seq
        self.place = turn.place


async def certain(connection: Connection, messages: list[Message]) -> Stored:
    """Stores all or nothing, and knows which: raises `Doubt` for a refusal, silence, or a doubtful success."""
    try:
        stored = await connection.publish_batch(messages)
    except (PublishRefused, OutcomeUnknown) as error:
        raise Doubt(f"a write of {len(messages)} messages to {messages[-1].subject}: {error.message}") from error
    if stored.duplicate:
        raise Doubt(f"the write to {messages[-1].subject} was answered as a duplicate: no proof that it is ours")
    return stored
