"""Messages that no client library would send, written byte by byte: refused or dropped, and everything goes on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
import pytest

from dressage.flow import workflow
from dressage.protocol.commands import StartRun, encoder

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]


@workflow
async def quick(n: int) -> int:
    return n


async def write(url: str, *messages: bytes) -> None:
    """Returns once the server has taken all of them."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    await reader.readline()
    writer.write(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\n')
    for message in messages:
        writer.write(message)
    writer.write(b"PING\r\n")
    await writer.drain()
    assert await asyncio.wait_for(reader.readline(), 5) == b"PONG\r\n"
    writer.close()
    await writer.wait_closed()


def message(subject: bytes, data: bytes, *, headers: bytes = b"", reply: bytes = b"") -> bytes:
    where = b"%b %b" % (subject, reply) if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (where, len(data), data)
    block = b"NATS/1.0\r\n%b\r\n" % headers
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (where, len(block), len(block) + len(data), block, data)


CASES: Final[dict[str, dict[str, Any]]] = {
    "a subject that is no UTF-8": {"subject": b"{root}.0.cmd.\xff\xfe"},
    "a subject with half a letter": {"subject": b"{root}.0.cmd.a\xc3"},
    "a subject with a NUL": {"subject": b"{root}.0.cmd.a\x00b"},
    "a subject with a vertical tab": {"subject": b"{root}.0.cmd.a\x0b7"},
    "a subject with a form feed": {"subject": b"{root}.0.cmd.a\x0c\x1c7"},
    "a subject with a bell and a bidi mark": {"subject": "{root}.0.cmd.a\x07\u202e".encode()},
    "a long subject": {"subject": b"{root}.0.cmd." + b"a" * 3000},
    "a map of no shards": {"subject": b"{root}.0.cmd.=map", "data": b'{"generation":2,"shards":0}'},
    "a map of less than none": {"subject": b"{root}.0.cmd.=map", "data": b'{"generation":2,"shards":-1}'},
    "a map that nobody defined": {
        "subject": b"{root}.0.cmd.=map",
        "data": b'{"generation":2,"shards":5,"previous":1}',
    },
    "a map of the far future": {
        "subject": b"{root}.0.cmd.=map",
        "data": b'{"generation":999999999,"shards":1024}',
    },
    "a map that is none": {"subject": b"{root}.0.cmd.=map", "data": b"\xff"},
    "a deep map": {"subject": b"{root}.0.cmd.=map", "data": b"[" * 100_000},
    "a header's name that is no UTF-8": {"headers": b"Dressage-Reply: _INBOX.x\r\nX-\xff: 1\r\n"},
    "a header's value that is no UTF-8": {"headers": b"Dressage-Reply: \xff\xfe\x00x\r\n"},
    "a header without a colon": {"headers": b"Dressage-Reply\r\nfoo\r\n"},
    "a header without a name": {"headers": b": x\r\n"},
    "a mark that no owner made": {"headers": b"Dressage-Forwarded: \xff9.9.9\r\n"},
    "a mark beyond all figures": {"headers": b"Dressage-Forwarded: 99999999999999999999.1.1\r\n"},
    "a mark in other digits": {"headers": "Dressage-Forwarded: \u0663.1.1\r\n".encode()},
    "an id for the server": {"headers": b"Nats-Msg-Id: \xff\r\n"},
    "a question in no UTF-8": {"subject": b"{root}.ask.0", "data": b"\xff", "reply": b"a.b"},
    "an answer to no UTF-8": {
        "subject": b"{root}.ask.0",
        "data": b'{"op":"get","run_id":"x"}',
        "reply": b"a\xff.b",
    },
    "an answer to white space": {
        "subject": b"{root}.ask.0",
        "data": b'{"op":"get","run_id":"x"}',
        "reply": b"a\x0b9",
    },
    "a question about a surrogate": {
        "subject": b"{root}.ask.0",
        "data": b'{"op":"get","run_id":"\\ud800"}',
        "reply": b"a.b",
    },
    "a deep question": {"subject": b"{root}.ask.0", "data": b'{"op":' * 50_000, "reply": b"a.b"},
    "an operation in no UTF-8": {"subject": b"{root}.api.\xff", "reply": b"a.b"},
    "a request's answer to no UTF-8": {"subject": b"{root}.api.get", "reply": b"a\xff.b"},
    "a request with odd headers": {
        "subject": b"{root}.api.get",
        "reply": b"a.b",
        "headers": b"\xff\r\n:\r\n",
    },
    "a request that nests": {"subject": b"{root}.api.start", "reply": b"a.b", "data": b'{"input":' * 50_000},
    "discovery in no UTF-8": {"subject": b"$SRV.PING", "reply": b"a\xff.b"},
    "a nudge in no UTF-8": {"subject": b"{root}.nudge", "data": b"\xff", "reply": b"\xff"},
    "a heartbeat that is none": {"subject": b"$KV.dressage_{ns}_members.stranger", "data": b"\xff"},
    "a heartbeat of figures": {
        "subject": b"$KV.dressage_{ns}_members.stranger",
        "data": b'{"shards":{"0":{"epoch":-1}},"unable":[-5]}',
    },
    "an event that is none": {"subject": b"{root}.events.0.quick.run-started.1", "data": b"\xff"},
}


@pytest.mark.parametrize("case", CASES)
async def test_whatever_somebody_writes_everything_goes_on(engine: Engine, case: str) -> None:
    client = await engine.registered(quick)
    root, space = f"dressage.{engine.namespace}".encode(), engine.namespace.encode()
    parts = {"subject": b"{root}.0.cmd.a", "data": b"{}"} | CASES[case]
    parts["subject"] = parts["subject"].replace(b"{root}", root).replace(b"{ns}", space)
    await write(engine.url, message(**parts))
    for n in range(2):
        handle = await client.start(quick, {"n": n}, run_id=f"after-{n}", timeout_s=8)
        assert await handle.result(8) == n
        assert [event.kind async for event in handle.history()] == ["run-started", "run-completed"]
    assert (await engine.call("get", {"run_id": "after-0"}))["ok"]
    assert engine.crash() is None


async def test_a_subject_of_two_runs_is_neither(engine: Engine) -> None:
    """White space in a token must not make another token of what stands before it."""
    client = await engine.registered(quick)
    start = encoder.encode(StartRun("quick", 1, msgspec.Raw(b'{"n":1}'), "c"))
    root = f"dressage.{engine.namespace}".encode()
    await write(engine.url, message(b"%b.0.cmd.real\x0bx" % root, start))
    assert not (await client.start(quick, {"n": 1}, run_id="real", timeout_s=8)).existing
