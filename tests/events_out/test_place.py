"""Which process of a sink is the active one: never two at a time, and always one again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection, Message, Stored
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.connectors import place
from dressage.connectors.place import Lease, LeaseLost, read_place
from dressage.protocol.errors import OutcomeUnknown
from dressage.protocol.names import Names

NAMES = Names()
KEY = NAMES.connector_place_key("out")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience that a test can wait for."""
    for name, seconds in (("LEASE_S", 1.0), ("MARGIN_S", 0.2), ("LOOK_S", 0.02)):
        monkeypatch.setattr(place, name, seconds)


@pytest.fixture
async def connection(server: EmbeddedServer, client: Client) -> AsyncIterator[Connection]:
    connection = await JetStreamBroker(server.url).connect("lease", reconnect=True)
    yield connection
    await connection.close()


async def test_one_has_it_and_the_next_goes_on_where_that_one_was(connection: Connection) -> None:
    first, second = Lease(connection, NAMES, KEY, "it"), Lease(connection, NAMES, KEY, "it")
    found = await first.take(asyncio.Event())
    assert found is not None
    assert (found.created, found.seq) == ("", 0)
    waiting = asyncio.create_task(second.take(asyncio.Event()))
    for seq in range(30):
        await first.store("then", seq)
        await asyncio.sleep(0.05)
    assert not waiting.done(), "for longer than a lease it was renewed"
    await first.release()
    async with asyncio.timeout(10):
        found = await waiting
    assert found is not None
    assert (found.created, found.seq) == ("then", 29)


async def test_who_stood_still_looks_and_finds_that_another_has_it(connection: Connection) -> None:
    first, second = Lease(connection, NAMES, KEY, "it"), Lease(connection, NAMES, KEY, "it")
    await first.take(asyncio.Event())
    await first.store("then", 5)
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await second.take(asyncio.Event()) is not None
    assert loop.time() - began >= 0.8, "a lease that may still hold is nobody else's"
    with pytest.raises(LeaseLost):
        await first.sure()
    with pytest.raises(LeaseLost):
        await first.store("then", 6)
    await second.sure()
    found, _ = await read_place(connection, NAMES, KEY)
    assert found is not None
    assert found.seq == 5


async def test_who_stood_still_goes_on_where_nobody_has_taken_it(connection: Connection) -> None:
    lease = Lease(connection, NAMES, KEY, "it")
    await lease.take(asyncio.Event())
    _, before = await read_place(connection, NAMES, KEY)
    await lease.sure()
    assert (await read_place(connection, NAMES, KEY))[1] == before, "while it holds nobody is asked"
    lease._until = 0.0
    await lease.sure()
    assert (await read_place(connection, NAMES, KEY))[1] == before + 1


async def test_of_many_one_gets_it(connection: Connection) -> None:
    leases = [Lease(connection, NAMES, KEY, "it") for _ in range(5)]
    waiting = [asyncio.create_task(each.take(asyncio.Event())) for each in leases]
    done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED, timeout=5)
    await asyncio.wait(left, timeout=0.3)
    assert sum(each.done() for each in waiting) == len(done) == 1
    for each in left:
        each.cancel()


class Deaf:
    """A connection whose writes are stored, while the answer to the next one is lost."""

    def __init__(self, inner: Connection) -> None:
        self.inner = inner
        self.deaf = False

    async def publish(self, message: Message) -> Stored:
        stored = await self.inner.publish(message)
        if self.deaf:
            self.deaf = False
            raise OutcomeUnknown("no answer")
        return stored

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


async def test_a_write_whose_answer_was_lost_is_ones_own(connection: Connection) -> None:
    deaf = Deaf(connection)
    lease = Lease(cast("Connection", deaf), NAMES, KEY, "it")
    await lease.take(asyncio.Event())
    deaf.deaf = True
    with pytest.raises(OutcomeUnknown):
        await lease.store("then", 1)
    await lease.store("then", 2)
    found, _ = await read_place(connection, NAMES, KEY)
    assert found is not None
    assert found.seq == 2
