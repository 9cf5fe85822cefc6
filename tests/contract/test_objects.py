"""Values too large for a message, in an object store that other tools can read."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Final

import nats
import pytest
from tests.contract.world import RealWorld, World  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import Connection, Message
from dressage.brokers.objects import (
    CHUNK_BYTES,
    ObjectDamaged,
    delete_objects_of,
    digest_of,
    get_object,
    put_object,
)
from dressage.brokers.provision import ensure_objects
from dressage.protocol.errors import OutcomeUnknown
from dressage.protocol.names import Names, root_token

pytestmark = pytest.mark.anyio

LARGE: Final = bytes(range(256)) * (3 * CHUNK_BYTES // 256) + b"and a bit"
PATIENCE_S: Final = 10.0


@dataclass
class Store:
    connection: Connection
    names: Names

    async def put(self, data: bytes = LARGE, root: str = "r") -> str:
        return await put_object(self.connection, self.names, root, data, patience_s=PATIENCE_S)

    async def get(self, digest: str, size: int = len(LARGE), root: str = "r") -> bytes:
        return await get_object(self.connection, self.names, root, digest, size)

    async def messages(self) -> int:
        state = await self.connection.stream_state(self.names.objects_stream())
        assert state is not None
        return state.messages


@pytest.fixture
async def store(connection: Connection) -> Store:
    made = Store(connection, Names(f"o{uuid.uuid4().hex[:12]}"))
    await ensure_objects(connection, made.names, replicas=1)
    return made


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, len(LARGE)])
async def test_what_is_stored_is_what_is_read(store: Store, size: int) -> None:
    data = LARGE[:size]
    assert await store.get(await store.put(data), size) == data


async def test_the_same_is_stored_once(store: Store) -> None:
    digest = await store.put()
    before = await store.messages()
    assert await store.put() == digest
    assert await store.messages() == before


async def test_two_uploads_of_the_same_at_once_give_one_object(store: Store) -> None:
    first, second = await asyncio.gather(store.put(), store.put())
    assert first == second
    assert await store.get(first) == LARGE


async def test_many_objects_that_are_stored_at_once_are_read_apart(store: Store) -> None:
    several = [LARGE[n:] for n in range(5)]
    digests = await asyncio.gather(*map(store.put, several))
    found = await asyncio.gather(*(store.get(each, len(LARGE) - n) for n, each in enumerate(digests)))
    assert found == several


async def test_objects_of_one_root_are_none_of_another(store: Store) -> None:
    digest = await store.put(root="r")
    with pytest.raises(ObjectDamaged, match="is not in the object store"):
        await store.get(digest, root="s")


async def test_deleting_takes_all_of_a_root_and_nothing_else(store: Store) -> None:
    mine = [await store.put(LARGE[n:]) for n in range(3)]
    other = await store.put(root="other")
    await delete_objects_of(store.connection, store.names, "r")
    await delete_objects_of(store.connection, store.names, "r")
    for digest in mine:
        with pytest.raises(ObjectDamaged):
            await store.get(digest)
    assert await store.get(other, root="other") == LARGE
    await delete_objects_of(store.connection, store.names, "other")
    assert await store.messages() == 0


async def test_deleting_takes_chunks_of_an_upload_that_broke_off(store: Store) -> None:
    nuid = store.names.object_nuid("r", await digest_of(LARGE), "broken")
    await store.connection.publish(Message(store.names.object_chunks(nuid), b"chunk"))
    await delete_objects_of(store.connection, store.names, "r")
    assert await store.messages() == 0


async def test_what_was_deleted_can_be_stored_again(store: Store) -> None:
    await store.put()
    await delete_objects_of(store.connection, store.names, "r")
    assert await store.get(await store.put()) == LARGE


async def test_a_chunk_that_is_another_one_is_noticed(store: Store) -> None:
    data = LARGE[:100]
    digest = await store.put(data)
    state = await store.connection.stream_state(store.names.objects_stream(), store.names.all_object_chunks())
    assert state is not None
    (subject,) = state.subjects
    await store.connection.purge(store.names.objects_stream(), subject, state.last_seq + 1)
    with pytest.raises(ObjectDamaged, match="0 bytes of 100"):
        await store.get(digest, 100)
    await store.connection.publish(Message(subject, bytes(100)))
    with pytest.raises(ObjectDamaged, match="not those of its digest"):
        await store.get(digest, 100)


async def test_a_size_that_is_not_its_own_is_noticed(store: Store) -> None:
    digest = await store.put()
    with pytest.raises(ObjectDamaged, match="its reference says 7"):
        await store.get(digest, 7)


async def test_what_is_said_of_it_may_be_unreadable(store: Store) -> None:
    await store.connection.publish(Message(store.names.object_info("r", "00"), b"{"))
    with pytest.raises(ObjectDamaged, match="unreadable"):
        await store.get("00")


async def test_an_upload_goes_on_after_a_lost_connection(world: World, store: Store) -> None:
    async with world.weak(reconnect=True) as weak:
        weak.stall()
        upload = asyncio.create_task(put_object(weak.connection, store.names, "r", LARGE, patience_s=None))
        await asyncio.sleep(0)
        await weak.cut()
        assert await store.get(await upload) == LARGE


async def test_an_upload_ends_with_its_connection(world: World, store: Store) -> None:
    async with world.weak(reconnect=False) as weak:
        await weak.connection.close()
        with pytest.raises(OutcomeUnknown):
            await put_object(weak.connection, store.names, "r", LARGE, patience_s=None)


async def test_other_tools_can_read_it(world: World, store: Store) -> None:
    if not isinstance(world, RealWorld):
        pytest.skip("there is no server that other tools could ask")
    root = root_token("an id / with * signs~1")
    digest = await store.put(root=root)
    tool = await nats.connect(world.url)
    try:
        bucket = await tool.jetstream().object_store(store.names.objects_bucket)
        found = await bucket.get(store.names.object_name(root, digest))
        assert found.data == LARGE
        assert [each.name for each in await bucket.list()] == [store.names.object_name(root, digest)]
        await bucket.delete(store.names.object_name(root, digest))
        with pytest.raises(ObjectDamaged, match="is not in the object store"):
            await store.get(digest, root=root)
        assert await store.get(await store.put(root=root), root=root) == LARGE
    finally:
        await tool.close()
