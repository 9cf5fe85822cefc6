"""The app dies, or its answer is lost, at any instant, and still each event has exactly one run."""

from __future__ import annotations

import asyncio
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from signal import SIGKILL
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
from tests.connectors.conftest import eventually, order, orders, workflow  # pyright: ignore[reportMissingImports]
from tests.connectors.webhooks.conftest import CONFIG, letters, signed  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.connectors.webhooks import WebhookOptions

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]
    from tests.connectors.webhooks.conftest import Serve  # pyright: ignore[reportMissingImports]

EVENTS = 300
KILLS = 3

PROCESS = """
import importlib, os, signal, sys
import uvicorn
from dressage.connectors.webhooks import app

async def die(*args, **named):
    os.kill(os.getpid(), signal.SIGKILL)

server, file, port, *dies_at = sys.argv[1:]
if dies_at:
    module, name = dies_at[0].split(":")
    *owner, name = name.split(".")
    place = importlib.import_module(module)
    for each in owner:
        place = getattr(place, each)
    setattr(place, name, die)
uvicorn.run(app(file, server), port=int(port), http="h11", log_level="warning")
"""
"""A program that serves webhooks, and dies by SIGKILL when it first comes to the named step."""

BEFORE_THE_ANSWER = "dressage.connectors.webhooks.asgi:write"
BEFORE_THE_ENGINE = "dressage.connectors.engine:Engine.ask"

StartProcess = Callable[..., Awaitable[asyncio.subprocess.Process]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Sender:
    """Repeats each request until it is answered with 2xx, as senders do."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/orders"
        self.http = httpx.AsyncClient(timeout=10)
        self.answered = 0

    async def once(self, number: int) -> httpx.Response | None:
        body = msgspec.json.encode(order(number))
        try:
            return await self.http.post(self.url, content=body, headers=signed(body, f"msg_{number}"))
        except httpx.TransportError:
            return None

    async def send(self, number: int) -> None:
        while (response := await self.once(number)) is None or response.status_code == 503:
            await asyncio.sleep(0.05)
        assert response.status_code == 202, response.text
        assert response.json() == {"status": "accepted", "run_id": f"order-{number}"}
        self.answered += 1


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    sender = Sender(free_port())
    yield sender
    await sender.http.aclose()


@pytest.fixture
async def process(shop: Shop, sender: Sender, tmp_path: Path) -> AsyncIterator[StartProcess]:
    """Starts processes that serve the webhook, which are killed at the end."""
    config = tmp_path / "webhooks.toml"
    config.write_text(CONFIG)
    running: list[asyncio.subprocess.Process] = []
    port = sender.url.split(":")[2].partition("/")[0]

    async def start(*dies_at: str) -> asyncio.subprocess.Process:
        program = (sys.executable, "-c", PROCESS, shop.server.url, str(config), port, *dies_at)
        running.append(await asyncio.create_subprocess_exec(*program))

        async def listens() -> bool:
            assert running[-1].returncode is None
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(port))
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens, "the process listens")
        return running[-1]

    yield start
    for each in running:
        await kill(each)


async def kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


@pytest.mark.parametrize("step", [BEFORE_THE_ANSWER, BEFORE_THE_ENGINE])
async def test_death_around_the_acceptance_is_one_run_when_the_sender_repeats(
    shop: Shop, client: Client, process: StartProcess, sender: Sender, step: str
) -> None:
    victim = await process(step)
    assert await sender.once(1) is None
    async with asyncio.timeout(30):
        assert await victim.wait() == -SIGKILL
    if step == BEFORE_THE_ANSWER:
        await shop.has_started("order-1")
    else:
        assert not await shop.starts()
    await process()
    await sender.send(1)
    await shop.has_started("order-1")


async def test_death_after_the_dead_letter_is_no_second_one_when_the_sender_repeats(
    shop: Shop, client: Client, process: StartProcess, sender: Sender
) -> None:
    body = msgspec.json.encode({"total": 1})
    victim = await process(BEFORE_THE_ANSWER)
    with pytest.raises(httpx.TransportError):
        await sender.http.post(sender.url, content=body, headers=signed(body))
    async with asyncio.timeout(30):
        await victim.wait()
    assert len(await letters(shop)) == 1
    await process()
    response = await sender.http.post(sender.url, content=body, headers=signed(body))
    assert (response.status_code, response.json()["status"]) == (202, "dead-letter")
    assert len(await letters(shop)) == 1


async def test_a_sender_that_does_not_hear_the_answer_starts_nothing_twice(
    shop: Shop, client: Client, serve: Serve
) -> None:
    hooks = await serve()
    body = msgspec.json.encode(order(1))
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
    host, port = hooks.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body
    )
    await writer.drain()
    writer.close()
    await shop.has_started("order-1")
    assert await hooks.says(order(1)) == (202, {"status": "accepted", "run_id": "order-1"})
    assert hooks.metric("existing_total") == 1
    await shop.has_started("order-1")


async def test_an_acceptance_that_comes_too_late_to_be_told_is_no_second_run(
    shop: Shop, client: Client, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine has it, the app has given up: the sender hears 503, and tries again."""
    hooks = await serve(CONFIG, WebhookOptions(answer_s=0.5))
    ask = Client.start

    async def unheard(*args: object, **named: object) -> object:
        await ask(*args, **named)  # type: ignore[call-overload]
        return await asyncio.Event().wait()

    monkeypatch.setattr(Client, "start", unheard)
    assert (await hooks.says(order(1)))[0] == 503
    await shop.has_started("order-1")
    monkeypatch.undo()
    assert await hooks.says(order(1)) == (202, {"status": "accepted", "run_id": "order-1"})
    await shop.has_started("order-1")


@pytest.mark.faults
async def test_kill_9_under_load_leaves_exactly_one_run_for_each_event(
    shop: Shop, process: StartProcess, sender: Sender
) -> None:
    chance = random.Random(7)
    async with shop.engine(workflow()):
        running = await process()
        slots = asyncio.Semaphore(20)

        async def send(number: int) -> None:
            async with slots:
                await sender.send(number)

        sending = asyncio.gather(*(send(number) for number in range(EVENTS)))
        for number in range(1, KILLS + 1):

            async def far_enough(wanted: int = number * EVENTS // (KILLS + 2)) -> bool:
                return sender.answered >= wanted or sending.done()

            await eventually(far_enough, f"before kill {number}")
            await asyncio.sleep(chance.random() * 0.02)
            await kill(running)
            print(f"kill {number}: {sender.answered} of {EVENTS} are answered")
            assert not sending.done(), "the kill must fall into the middle"
            running = await process()
        await sending
    assert await shop.starts() == dict.fromkeys(orders(EVENTS), 1)
