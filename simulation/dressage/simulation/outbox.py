"""The relay of the outbox among faults: real relays and a real engine, and a model of the database behind their
interface.

Services write rows in transactions, which commit in another order than they began in, or are rolled back; relays and
orchestrators die at any of their steps, connections break, and the database now and then loses a request, or does it
and loses the reply. In the end each committed row is one run, or one event in the order of its key, and nothing else is
there.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from dressage.client import Client
from dressage.flow import Event, workflow
from dressage.outbox.messages import Outgoing, Post, Start, encode_message
from dressage.outbox.relay import Relay, RelayOptions
from dressage.outbox.relay.faults import StoreFault
from dressage.outbox.relay.store import Batch, Depth, Outcome, Row, Store, Taker
from dressage.protocol.errors import DressageError
from dressage.protocol.events import KIND, RUN_HEADER, RunStarted
from dressage.protocol.names import Names, run_id_of
from dressage.simulation.processes import Life
from dressage.simulation.small import SECONDS, SmallWorld

RUNS, EVENTS = 12, 4
RELAYS: Final = 2

noted = Event("noted", of=int)


@workflow
async def collect(count: int) -> list[int]:
    seen: list[int] = []
    while len(seen) < count:
        value = await noted.wait()
        seen = [*seen, value]
    return seen


# -- the database ----------------------------------------------------------------------------------
@dataclass
class _Kept:
    row: Row
    state: str = "pending"
    due_s: float = 0.0
    holder: Life | None = None


class Database:
    """A table as the relay sees one: rows that are committed, locks that end with their holder, and replies that get
    lost."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._rows: dict[int, _Kept] = {}
        self._last = 0
        self._written = asyncio.Event()
        self.calm = False

    def write(self, messages: Sequence[Outgoing]) -> list[Row]:
        """Rows have their numbers when they are written, and are there when they are committed, if ever."""
        rows: list[Row] = []
        for message in messages:
            self._last += 1
            rows.append(Row(self._last, message.id, message.ordering_key, encode_message(message)))
        return rows

    def commit(self, rows: Sequence[Row]) -> None:
        self._rows |= {row.seq: _Kept(row) for row in rows}
        self._written.set()

    def pending(self) -> int:
        return sum(kept.state == "pending" for kept in self._rows.values())

    def dead(self) -> int:
        return sum(kept.state == "dead" for kept in self._rows.values())

    async def lag(self) -> None:
        """A round trip, or none."""
        await asyncio.sleep(self._chance.random() * 0.004)
        self.may_fail()

    def may_fail(self) -> None:
        if not self.calm and self._chance.random() < 0.02:
            raise StoreFault("the database is away")

    def take(self, life: Life, limit: int) -> list[Row]:
        """Locks what is due and free, then looks for older rows of the same keys, as the SQL does."""
        now = asyncio.get_running_loop().time()
        waiting = [kept for _, kept in sorted(self._rows.items()) if kept.state == "pending"]
        mine = [kept for kept in waiting if kept.due_s <= now and not self._held(kept)][:limit]
        for kept in mine:
            kept.holder = life
        return self.in_order(waiting, mine)

    def in_order(self, waiting: Sequence[_Kept], mine: Sequence[_Kept]) -> list[Row]:
        held = {kept.row.seq for kept in mine}
        oldest: dict[str, int] = {}
        for kept in waiting:
            if kept.row.seq not in held:
                oldest.setdefault(kept.row.ordering_key, kept.row.seq)
        return [
            kept.row for kept in mine if kept.row.seq < oldest.get(kept.row.ordering_key, kept.row.seq + 1)
        ]

    def _held(self, kept: _Kept) -> bool:
        return kept.holder is not None and kept.holder.process.life is kept.holder

    def settle(self, outcome: Outcome) -> None:
        now = asyncio.get_running_loop().time()
        for row in outcome.sent:
            self._rows[row.seq].state = "sent"
        for row, _ in outcome.dead:
            self._rows[row.seq].state = "dead"
        for row, verdict in outcome.later:
            kept = self._rows[row.seq]
            kept.due_s, kept.row = now + verdict.later_ms / 1000, replace(row, attempts=row.attempts + 1)

    def let_go(self, life: Life) -> None:
        for kept in self._rows.values():
            if kept.holder is life:
                kept.holder = None

    async def wait(self, timeout_s: float) -> None:
        self._written.clear()
        try:
            async with asyncio.timeout(timeout_s):
                await self._written.wait()
        except TimeoutError:
            return


class _Batch:
    def __init__(self, database: Database, life: Life, rows: list[Row]) -> None:
        self._database = database
        self._life = life
        self.rows: Sequence[Row] = rows

    async def settle(self, outcome: Outcome) -> None:
        await self._database.lag()
        self._database.settle(outcome)
        self._database.let_go(self._life)
        self._database.may_fail()  # It is done, and the reply is lost.

    async def close(self) -> None:
        self._database.let_go(self._life)


class _Taker:
    def __init__(self, database: Database, life: Life) -> None:
        self._database = database
        self._life = life

    async def take(self, limit: int) -> Batch:
        await self._database.lag()
        return _Batch(self._database, self._life, self._database.take(self._life, limit))

    async def close(self) -> None:
        self._database.let_go(self._life)


class ModelStore:
    """A relay's connection to the model. One taker for each relay: the model knows holders by their process."""

    def __init__(self, database: Database, life: Life) -> None:
        self._database = database
        self._life = life

    async def taker(self) -> Taker:
        await self._database.lag()
        return _Taker(self._database, self._life)

    async def wait(self, timeout_s: float) -> None:
        await self._database.wait(timeout_s)

    async def depth(self) -> Depth:
        return Depth(self._database.pending(), 0.0, self._database.dead())

    async def clean(self, kept_s: float, limit: int) -> int:
        return 0

    async def clean_inbox(self, kept_s: float, limit: int) -> int:
        return 0

    async def close(self) -> None:
        self._database.let_go(self._life)


# -- the system ------------------------------------------------------------------------------------
@dataclass
class OutboxWorld(SmallWorld):
    """Everything of one seed."""

    name = "outbox"

    committed: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.database = Database(random.Random(f"outbox database {self.seed}"))
        for number in range(RELAYS):
            self.add(f"relay-{number}", self._relay)

    async def _relay(self, life: Life) -> None:
        async def opens() -> Store:
            return ModelStore(self.database, life)

        options = RelayOptions(self.name, batch=20, takers=1, poll_s=0.1)
        await Relay(life.broker, opens, options).run()

    async def prepare(self, client: Client) -> None:
        await client.register(collect)

    async def work(self) -> None:
        await asyncio.gather(*(self._write(number) for number in range(RUNS)))

    async def is_settled(self) -> bool:
        self.database.calm = True
        return not self.database.pending()

    async def _write(self, number: int) -> None:
        """A service: a start and then its events, each in a transaction; some are rolled back and leave nothing."""
        run_id = f"run-{number}"
        steps: list[Outgoing] = [
            Start(f"{number}-start", "collect", run_id, msgspec.Raw(b'{"count":%d}' % EVENTS))
        ]
        steps += [
            Post(f"{number}-{step}", "noted", msgspec.Raw(b"%d" % step), run_id) for step in range(EVENTS)
        ]
        await asyncio.sleep(self.chance.random() * SECONDS / 2)
        while steps:
            together = self.chance.randint(1, 2)
            ghost = Start(
                f"{number}-ghost-{len(steps)}", "collect", f"ghost-{number}", msgspec.Raw(b'{"count":0}')
            )
            self.database.write([ghost, *steps[:together]])  # It is rolled back.
            rows = self.database.write(steps[:together])
            await asyncio.sleep(self.chance.random() * SECONDS / 20)
            self.database.commit(rows)
            del steps[:together]
            await asyncio.sleep(self.chance.random() * SECONDS / 10)
        self.committed.append(run_id)

    async def judge(self) -> None:
        if self.database.pending():
            self.violations.append(f"committed-is-sent: {self.database.pending()} rows are pending")
        if self.database.dead():
            self.violations.append(f"committed-is-sent: {self.database.dead()} rows are dead")
        starts = self._starts()
        if starts != Counter(self.committed):
            self.violations.append(f"one-run-each: {starts - Counter(self.committed)} beyond, or missing")
        async with self.client() as client:
            for run_id in sorted(self.committed):
                try:
                    found = await client.handle(run_id).result(30.0)
                except DressageError as error:
                    self.violations.append(f"committed-is-sent: {run_id}: {error}")
                    continue
                if found != list(range(EVENTS)):
                    self.violations.append(f"order-of-a-key: {run_id} has {found}")

    def _starts(self) -> Counter[str]:
        subject = f"{Names(self.name).root}.events."
        return Counter(
            run_id_of((record.headers or {})[RUN_HEADER])
            for record in self.server.ledger
            if record.subject.startswith(subject) and f".{KIND[RunStarted]}." in record.subject
        )
