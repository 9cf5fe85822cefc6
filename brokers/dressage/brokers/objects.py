"""Values too large for a message, in the namespace's object store (ADR-20), by the root of their run and their digest.

An object's name says what its bytes are: who stores the same once more finds it there, and who reads checks it. What
is said of an object is written last, when each of its chunks is acknowledged, so an object that is found is whole;
chunks of an upload that broke off are found by their subjects, and go with those of the run.

Who finds an object there says of it anew what is said already. So its age is the time since somebody has last wanted it
there, and whoever removes it for its age (`orphans`) is refused if somebody wants it at that moment.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from base64 import urlsafe_b64encode
from typing import Final

import msgspec

from dressage.brokers.interface import (
    FENCE_IN_PROCESS,
    WRONG_LAST_SEQUENCE,
    Connection,
    Expect,
    Message,
    Stored,
    all_of,
)
from dressage.protocol.errors import DressageError, OutcomeUnknown, PublishRefused
from dressage.protocol.names import Names

CHUNK_BYTES: Final = 512 * 1024
"""What one message of an object holds: a server reads it out in base64, within a payload of 1 MiB."""

HEADERS_BYTES: Final = 4 * 1024
"""What a message needs beside its data."""

IN_FLIGHT: Final = 8
"""So many chunks of one object are under way at a time; with `CHUNK_BYTES` that bounds the memory they take."""

READ_IN_FLIGHT: Final = 4
HASHED_BYTES: Final = 1024 * 1024
"""After so many bytes of a digest others may go on."""

AGAIN_S: Final = 0.2
OVERTAKEN: Final = frozenset({WRONG_LAST_SEQUENCE, FENCE_IN_PROCESS})
"""Somebody else says something of the object at the same moment."""

PURGES: Final = 20
"""So many objects are removed at a time."""


class ObjectDamaged(DressageError):
    """An object is not there, or is not what its name says. Nothing that is repeated mends that."""

    code = "OBJECT_DAMAGED"


class ObjectInfo(msgspec.Struct, omit_defaults=True):
    """What is said of an object, as ADR-20 has it."""

    name: str
    bucket: str
    nuid: str
    size: int
    chunks: int
    digest: str
    options: dict[str, int] = {}
    deleted: bool = False
    """Whether a tool has removed it, which leaves this behind."""


_infos = msgspec.json.Decoder(ObjectInfo)


async def digest_of(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    found = hashlib.sha256()
    view = memoryview(data)
    for start in range(0, len(data), HASHED_BYTES):
        found.update(view[start : start + HASHED_BYTES])
        await asyncio.sleep(0)
    return found.hexdigest()


async def put_object(
    connection: Connection, names: Names, root: str, data: bytes, *, patience_s: float | None
) -> str:
    """Stores `data` for the runs of `root`, a `root_token`; gives its digest once all of it is acknowledged.

    What is stored already is not stored again, and counts as stored now. An unknown outcome is tried again for
    `patience_s` seconds (None: for ever). Raises `BrokerError`.
    """
    digest = await digest_of(data)
    loop = asyncio.get_running_loop()
    deadline = None if patience_s is None else loop.time() + patience_s
    while True:
        try:
            found = await connection.last_message(names.objects_stream(), names.object_info(root, digest))
            if found is not None and await _stands(connection, names, found.data, len(data)):
                await say(connection, found.subject, found.data, found.seq)
            else:
                await _upload(connection, names, root, digest, data)
            return digest
        except (OutcomeUnknown, PublishRefused) as error:
            if isinstance(error, PublishRefused) and error.err_code not in OVERTAKEN:
                raise
            if connection.lost.is_set() or (deadline is not None and loop.time() >= deadline):
                raise
        await asyncio.sleep(AGAIN_S)


async def say(connection: Connection, subject: str, said: bytes, before: int) -> Stored:
    """Says something of an object in place of what was said at sequence `before`.

    Raises `PublishRefused` with one of `OVERTAKEN` if that is no longer the last word, or `OutcomeUnknown`.
    """
    return await connection.publish(Message(subject, said, expect=Expect(before), rollup=True))


def read_info(said: bytes) -> ObjectInfo | None:
    """What is said of an object; None if that cannot be read, or is that it was removed."""
    try:
        info = _infos.decode(said)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return None if info.deleted else info


async def _stands(connection: Connection, names: Names, said: bytes, size: int) -> bool:
    """Whether an object of which this is said is there, with all its chunks."""
    info = read_info(said)
    if info is None or info.size != size:
        return False
    subject = names.object_chunks(info.nuid)
    state = await connection.stream_state(names.objects_stream(), subject)
    return state is not None and state.subjects.get(subject) == info.chunks


async def _upload(connection: Connection, names: Names, root: str, digest: str, data: bytes) -> None:
    """Under a subject of its own: chunks of which nobody knows whether they were stored belong to no other upload."""
    nuid = names.object_nuid(root, digest, uuid.uuid4().hex)
    subject = names.object_chunks(nuid)
    size = min(CHUNK_BYTES, connection.payload_bytes_max - HEADERS_BYTES)
    starts = range(0, len(data), size)
    for first in range(0, len(starts), IN_FLIGHT):
        await all_of(
            [
                connection.send(Message(subject, data[start : start + size]))
                for start in starts[first : first + IN_FLIGHT]
            ]
        )
    said = ObjectInfo(
        name=names.object_name(root, digest),
        bucket=names.objects_bucket,
        nuid=nuid,
        size=len(data),
        chunks=len(starts),
        digest="SHA-256=" + urlsafe_b64encode(bytes.fromhex(digest)).decode(),
        options={"max_chunk_size": size},
    )
    await connection.publish(Message(names.object_info(root, digest), msgspec.json.encode(said), rollup=True))


async def get_object(connection: Connection, names: Names, root: str, digest: str, size: int) -> bytes:
    """The bytes of an object whose size and digest a reference names.

    Raises `ObjectDamaged`, or `BrokerError` where the store cannot be reached.
    """
    name = names.object_name(root, digest)
    found = await connection.last_message(names.objects_stream(), names.object_info(root, digest))
    try:
        info = None if found is None else _infos.decode(found.data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ObjectDamaged(f"what is said of object {name} is unreadable: {error}") from error
    if info is None or info.deleted:
        raise ObjectDamaged(
            f"object {name} is not in the object store {names.objects_bucket}: its run was deleted, or who has sent "
            "the reference has not stored it"
        )
    if info.size != size:
        raise ObjectDamaged(f"object {name} has {info.size} bytes, and its reference says {size}")
    data = await _chunks(connection, names, info)
    if len(data) != size or await digest_of(data) != digest:
        raise ObjectDamaged(
            f"object {name} is damaged: its {len(data)} bytes of {size} are not those of its digest; restore the "
            "object store, or start the run again"
        )
    return data


async def _chunks(connection: Connection, names: Names, info: ObjectInfo) -> bytes:
    """Asks for several at a time, each by the sequence that it has if nobody else stores in between."""
    stream, subject = names.objects_stream(), names.object_chunks(info.nuid)
    chunks: list[bytes] = []
    seq, size = 1, 0
    while len(chunks) < info.chunks and size < info.size:
        # The place of the first one is not known.
        ahead = min(READ_IN_FLIGHT, info.chunks - len(chunks)) if chunks else 1
        asked = [connection.next_message(stream, seq + place, subject) for place in range(ahead)]
        before = len(chunks)
        for found in await asyncio.gather(*asked):
            if found is not None and found.seq >= seq:
                chunks.append(found.data)
                seq, size = found.seq + 1, size + len(found.data)
        if len(chunks) == before:
            break
    return b"".join(chunks)


class RunObjects:
    """The objects of one namespace's runs. An unknown outcome of a write is tried again for `patience_s` seconds (None:
    for ever)."""

    def __init__(self, connection: Connection, names: Names, *, patience_s: float | None) -> None:
        self._connection = connection
        self._names = names
        self._patience_s = patience_s

    async def put(self, root: str, data: bytes) -> str:
        """As `put_object`."""
        return await put_object(self._connection, self._names, root, data, patience_s=self._patience_s)

    async def get(self, root: str, digest: str, size: int) -> bytes:
        """As `get_object`."""
        return await get_object(self._connection, self._names, root, digest, size)


async def has_objects(connection: Connection, names: Names, root: str) -> bool:
    """Whether anything is stored for the runs of `root`, a `root_token`. Raises `BrokerError`."""
    chunks = names.object_chunks_of(root)
    return await connection.last_message(names.objects_stream(), chunks) is not None


async def delete_objects_of(connection: Connection, names: Names, root: str) -> None:
    """Removes all objects of the runs of `root`, a `root_token`. May be repeated, and broken off, at any time.

    Nothing asks whether a run of them is left. Raises `BrokerError`.
    """
    stream = names.objects_stream()
    while True:
        state = await connection.stream_state(stream, names.object_chunks_of(root))
        if state is None or not state.subjects:
            return
        subjects = list(state.subjects)
        for first in range(0, len(subjects), PURGES):
            await asyncio.gather(
                *(
                    _remove(connection, names, subject, state.last_seq + 1)
                    for subject in subjects[first : first + PURGES]
                )
            )


async def _remove(connection: Connection, names: Names, chunks: str, below: int) -> None:
    """What is said of an object goes before its chunks, by which it is found."""
    found = names.object_of_chunks(chunks)
    if found is not None:
        await connection.purge(names.objects_stream(), names.object_info(*found), below)
    await connection.purge(names.objects_stream(), chunks, below)
