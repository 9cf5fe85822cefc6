"""A list of subjects that comes in parts, and changes between them, is whole for all that."""

from __future__ import annotations

from typing import Any

import pytest

from dressage.brokers.jetstream import connection as module
from dressage.brokers.jetstream import wire
from dressage.brokers.jetstream.connection import JetStreamConnection

pytestmark = pytest.mark.anyio

PART = 10


@pytest.mark.parametrize("removed", [0, 1, 2, 3, 7])
@pytest.mark.parametrize("overlap", [1, 3])
async def test_what_stays_is_in_it_whatever_is_removed_meanwhile(
    removed: int, overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = [f"s.{number:03}" for number in range(100)]
    stay = {each for each in subjects if not each.endswith(("0", "1"))}
    going = sorted(set(subjects) - stay)

    async def answered(_: Any, __: str, ___: str, offset: int) -> wire.StreamReply:
        page = dict.fromkeys(subjects[offset : offset + PART], 1)
        reply = wire.StreamReply(wire.StreamStateReply(1, 100, 100, page), total=len(subjects))
        for each in going[:removed]:
            subjects.remove(each)
        del going[:removed]
        return reply

    monkeypatch.setattr(JetStreamConnection, "_stream_info", answered)
    monkeypatch.setattr(module, "OVERLAP", overlap)
    state = await JetStreamConnection.__new__(JetStreamConnection).stream_state("S", "s.*")
    assert state is not None
    assert stay <= set(state.subjects)
