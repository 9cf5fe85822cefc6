"""Masked values reach workers and who awaits the result, and nobody else: all bytes that leave are looked through."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from dressage.analytics import AnalyticsService
from dressage.client.client import RunFailed
from dressage.flow import App, Masked, Searchable, gather, sleep, workflow
from dressage.protocol.errors import BadValue, Refused

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

SECRET = "4111-hidden-1111"
PIN = 918273645546
PLAIN = "plain-note-7"
"""What is not masked, and must be found wherever a secret is looked for."""


class Level(Enum):
    GOLD = "level-hidden-gold"


@dataclass
class Card:
    number: Masked[str]
    holder: str


@dataclass
class View:
    token: Masked[str | None] = None
    card: Card | None = None
    status: Searchable[str] = "NEW"


app = App("masked")
seen: list[Any] = []


@app.task
async def charge(card: Card, pin: Masked[int], level: Masked[Level]) -> Masked[str | None]:
    seen.append((card, pin, level))
    return f"{card.number}-token"


@app.task
async def keep(cards: list[Card], token: Masked[str | None]) -> dict[str, Masked[str]]:
    seen.append((cards, token))
    return {"receipt": f"receipt of {token}"}


@app.task
async def anything(note: str) -> Any:
    return note


@app.task
async def conceal(text: Masked[str]) -> Masked[str]:
    return text


@app.task
async def count(texts: list[Masked[str]]) -> int:
    return len(texts)


@workflow
async def pay(card: Card, pin: Masked[int], note: str, level: Masked[Level] = Level.GOLD) -> Masked[str]:
    view = View(card=card)
    view.status = note
    token = await charge(card, pin, level)
    if token is None:
        return "none"
    view.token = token
    other: Masked[str] = token
    copy = Card(number=other, holder=note)
    both = [card, copy]
    await sleep(0.05)
    kept = await keep(both, view.token)
    return kept["receipt"]


@workflow
async def looks(secret: Masked[str], note: str) -> str:
    given = await anything(note)
    either = secret if note else given
    return f"{note} {either}"


@workflow
async def compares(secret: Masked[str], note: str) -> bool:
    given = await anything(note)
    either = secret if note else given
    return [either] == [given]


@workflow
async def passes_in_clear(secret: Masked[str], note: str) -> str:
    given = await anything(note)
    either = secret if note else given
    await anything(either)
    return note


@workflow
async def side_by_side(secret: Masked[str]) -> int:
    one, other = await gather(conceal(secret), conceal("a"))
    return await count([one, other])


GIVEN: dict[str, Any] = {"card": {"number": SECRET, "holder": PLAIN}, "pin": PIN, "note": PLAIN}
SECRETS = [SECRET, str(PIN), "level-hidden"]


def secrets_in(data: bytes | str) -> list[str]:
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    return [each for each in SECRETS if each in text]


def told(data: bytes | str) -> None:
    """It tells of the run, and of no secret."""
    text = data.decode(errors="replace") if isinstance(data, bytes) else data
    assert PLAIN in text
    assert secrets_in(text) == []


async def events_of(engine: Engine) -> bytes:
    stream = (await engine.nats()).jetstream()
    pull = await stream.pull_subscribe(f"dressage.{engine.namespace}.events.>")
    total = (await pull.consumer_info()).num_pending or 0
    found = await pull.fetch(total, timeout=5)
    assert len(found) == total
    return b"\n".join(message.data for message in found)


def command(engine: Engine, *arguments: str) -> str:
    where = ["--server", engine.url, "--namespace", engine.namespace]
    line = [sys.executable, "-m", "dressage.cli.main", *arguments, *where]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout + done.stderr


async def test_point_21_only_workers_and_who_awaits_the_result_see_masked_values(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = await engine.registered(pay)
    await engine.worker(app)
    handle = await client.start(pay, GIVEN, run_id="r")
    assert await handle.result(timeout_s=8) == f"receipt of {SECRET}-token"
    card = Card(SECRET, PLAIN)
    assert seen == [
        (card, PIN, Level.GOLD),
        ([card, Card(f"{SECRET}-token", PLAIN)], f"{SECRET}-token"),
    ]
    seen.clear()

    told(msgspec.json.encode(await client.get("r")))
    assert msgspec.json.encode((await client.wait("r")).output) == b'"***"'
    told(msgspec.json.encode([event async for event in handle.history()]))
    for operation, request in (("get", {"run_id": "r"}), ("history", {"run_id": "r"})):
        told(msgspec.json.encode(await engine.call(operation, request)))
    assert secrets_in(msgspec.json.encode(await engine.call("wait", {"run_id": "r"}))) == []
    data = await events_of(engine)
    told(data)
    assert data.count(b'"***"') >= 8
    for arguments in (["get", "r"], ["get", "r", "--json"], ["history", "r"], ["history", "r", "--json"]):
        told(await asyncio.to_thread(command, engine, "run", *arguments))
    waited = await asyncio.to_thread(command, engine, "run", "wait", "r")
    assert waited.strip() == '"***"'
    assert secrets_in(caplog.text) == []


async def test_branches_come_to_masked_values_where_the_run_does_not(engine: Engine) -> None:
    client = await engine.registered(side_by_side)
    await engine.worker(app)
    assert await (await client.start(side_by_side, {"secret": SECRET})).result(timeout_s=8) == 2


async def test_the_analytics_file_holds_no_masked_value(engine: Engine, tmp_path: Path) -> None:
    client = await engine.registered(pay)
    await engine.worker(app)
    await (await client.start(pay, GIVEN, run_id="r")).result(timeout_s=8)
    path = tmp_path / "analytics.duckdb"
    async with AnalyticsService(engine.url, engine.namespace, path) as service:
        events = len([event async for event in client.history("r")])
        assert await service.reached(events, 10.0)
    whole = await asyncio.to_thread(lambda: b"".join(each.read_bytes() for each in tmp_path.iterdir()))
    assert PLAIN.encode() in whole
    assert secrets_in(whole) == []


@pytest.mark.parametrize(
    ("flow", "said"),
    [(looks, "TypeError"), (compares, "TypeError"), (passes_in_clear, "expected str, got a masked value")],
)
async def test_looking_at_a_masked_value_ends_the_run_without_telling_it(
    flow: Any, said: str, engine: Engine
) -> None:
    client = await engine.registered(flow)
    await engine.worker(app)
    handle = await client.start(flow, {"secret": SECRET, "note": PLAIN})
    with pytest.raises(RunFailed) as failed:
        await handle.result(timeout_s=8)
    assert said in failed.value.failure.message
    assert secrets_in(failed.value.message) == []
    assert [event async for event in handle.history()]
    told(await events_of(engine))


WRONG: dict[str, dict[str, Any]] = {
    "an int for a text": {"card": {"number": PIN, "holder": PLAIN}},
    "a text for an int": {"pin": SECRET},
    "no member": {"level": SECRET},
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_refusal_does_not_repeat_a_masked_value(name: str, engine: Engine) -> None:
    client = await engine.registered(pay)
    with pytest.raises(Refused) as refused:
        await client.start("pay", GIVEN | WRONG[name])
    assert refused.value.code == "INPUT_INVALID"
    assert secrets_in(refused.value.message) == []


async def test_another_input_under_the_same_id_is_a_conflict_also_where_only_the_secret_differs(
    engine: Engine,
) -> None:
    client = await engine.registered(pay)
    await client.start(pay, GIVEN, run_id="r")
    assert (await client.start(pay, GIVEN, run_id="r")).existing
    with pytest.raises(Refused) as refused:
        await client.start(pay, GIVEN | {"pin": 1}, run_id="r")
    assert refused.value.code == "RUN_ID_CONFLICT"
    assert secrets_in(refused.value.message) == []


async def test_masked_values_survive_a_restart_of_the_orchestrator(engine: Engine) -> None:
    client = await engine.registered(pay)
    handle = await client.start(pay, GIVEN, run_id="r")
    await engine.down()
    await engine.up()
    await engine.worker(app)
    assert await handle.result(timeout_s=15) == f"receipt of {SECRET}-token"
    seen.clear()


def test_a_worker_that_cannot_read_a_masked_argument_does_not_repeat_it() -> None:
    raw = msgspec.json.encode({"card": {"number": "n", "holder": PLAIN}, "pin": 1, "level": SECRET})
    with pytest.raises(BadValue) as refused:
        app.handlers["charge"].decode_args(raw)
    assert "level" in refused.value.message
    assert secrets_in(refused.value.message) == []
