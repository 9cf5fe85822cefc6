"""The sign-up service with its outbox: what a caller sees, with a real engine behind it."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from tests.examples.cases import EXAMPLES  # pyright: ignore[reportMissingImports]

from dressage.client import Client

sys.path.insert(0, str(EXAMPLES))


async def until(fact: Callable[[], Awaitable[Any]], wanted: object) -> None:
    deadline = time.monotonic() + 60
    while (found := await fact()) != wanted:
        assert time.monotonic() < deadline, f"it is {found!r}, not {wanted!r}"
        await asyncio.sleep(0.05)


async def test_an_account_is_confirmed_and_has_its_credit_once(tmp_path: Path) -> None:
    service = importlib.import_module("signup_outbox.service")
    everything = importlib.import_module("signup_outbox.__main__").everything
    async with everything(tmp_path) as url:
        transport = httpx.ASGITransport(app=service.api)
        async with (
            httpx.AsyncClient(transport=transport, base_url="http://shop") as caller,
            Client(url) as client,
        ):
            made = await caller.post("/accounts", json={"email": "ada@example.org"})
            assert made.status_code == 201
            account = made.json()["id"]
            assert (await caller.post("/accounts", json={"email": "ada@example.org"})).status_code == 409
            assert (await caller.post("/accounts/77/confirmation")).status_code == 404

            async def shown(name: str) -> Any:
                return (await caller.get(f"/accounts/{account}")).json()[name]

            await until(lambda: shown("credit"), 10)
            assert await shown("status") == "new"
            assert (await caller.post(f"/accounts/{account}/confirmation")).status_code == 202
            await until(lambda: shown("status"), "confirmed")
            assert await client.handle(f"sign-up-{account}").result(30) == "confirmed"
            assert await shown("credit") == 10
