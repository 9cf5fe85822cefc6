"""Publishing to streams of somebody else's: what counts as their answer, and what it says of the server."""

from __future__ import annotations

from pathlib import Path

import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Message
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.brokers.jetstream.wire import is_pub_ack
from dressage.protocol.errors import Unheard

ACKS = [
    b'{"stream":"ORDERS","seq":1}',
    b'{"stream":"ORDERS","domain":"leaf","seq":7,"duplicate":true}',
    b'{"error":{"code":400,"err_code":10054,"description":"message size exceeds maximum"},"stream":"O","seq":0}',
    b'{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}',
]
OTHERS = [
    b"",
    b"ok",
    b"7",
    b"[]",
    b"{}",
    b'{"seq":1}',
    b'{"stream":"","seq":1}',
    b'{"stream":"ORDERS"}',
    b'{"stream":"ORDERS","seq":"1"}',
    b'{"error":"no such order"}',
    b'{"error":{"code":404}}',
    b'{"ok":true,"id":"o-1"}',
    b"\xff{",
    b"[" * 100_000,
]


@pytest.mark.parametrize("answer", ACKS)
def test_a_stream_answers_so(answer: bytes) -> None:
    assert is_pub_ack(answer)


@pytest.mark.parametrize("answer", OTHERS, ids=lambda answer: repr(answer[:20]))
def test_this_is_somebody_else(answer: bytes) -> None:
    assert not is_pub_ack(answer)


@pytest.mark.anyio
async def test_a_stream_that_is_missing_elsewhere_is_no_reason_to_avoid_the_server(tmp_path: Path) -> None:
    avoided: list[str] = []
    async with EmbeddedServer(tmp_path) as server:
        connection = JetStreamConnection(name="elsewhere", reconnect=False, on_unserved=avoided.append)
        await connection.open([server.url])
        with pytest.raises(Unheard):
            await connection.publish_elsewhere(Message("nowhere", b""))
        assert avoided == []
        with pytest.raises(Unheard):
            await connection.publish(Message("nowhere", b""))
        assert len(avoided) == 1
        await connection.close()
