"""The app inside of another one, which may tell it that it begins, or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from tests.connectors.conftest import order  # pyright: ignore[reportMissingImports]
from tests.connectors.webhooks.conftest import CONFIG, served, signed  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.connectors import webhooks
from dressage.connectors.webhooks import WebhookApp

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]


@pytest.fixture
def inner(shop: Shop, tmp_path: Path) -> WebhookApp:
    file = tmp_path / "webhooks.toml"
    file.write_text(CONFIG)
    return webhooks.app(file, shop.server.url)


async def post(url: str, event: object) -> httpx.Response:
    body = msgspec.json.encode(event)
    async with httpx.AsyncClient(timeout=20) as http:
        return await http.post(url, content=body, headers=signed(body))


async def test_mounted_it_connects_with_the_first_request(
    shop: Shop, client: Client, inner: WebhookApp
) -> None:
    outer = FastAPI()
    outer.mount("/hooks", inner)

    @outer.get("/health")
    async def health() -> str:
        return "well"

    async with served(outer) as url:
        response = await post(f"{url}/hooks/orders", order(1))
        assert (response.status_code, response.json()["run_id"]) == (202, "order-1")
        assert (await post(f"{url}/hooks/others", order(1))).json()["code"] == "PATH_UNKNOWN"
        assert (await post(f"{url}/orders", order(1))).status_code == 404
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/health")).json() == "well"
    await inner.close()
    await shop.has_started("order-1")


async def test_mounted_it_may_live_as_long_as_the_outer_app(
    shop: Shop, client: Client, inner: WebhookApp
) -> None:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with inner:
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/hooks", inner)
    async with served(outer) as url:
        assert (await post(f"{url}/hooks/orders", order(1))).status_code == 202
    await shop.has_started("order-1")


async def test_a_server_that_knows_no_lifespan_serves_it(
    shop: Shop, client: Client, inner: WebhookApp
) -> None:
    async with served(inner, lifespan="off") as url:
        assert (await post(f"{url}/orders", order(1))).status_code == 202
    await inner.close()


async def test_once_it_is_closed_senders_are_asked_to_try_again(client: Client, inner: WebhookApp) -> None:
    async with served(inner, lifespan="off") as url:
        assert (await post(f"{url}/orders", order(1))).status_code == 202
        await inner.close()
        response = await post(f"{url}/orders", order(2))
        assert response.status_code == 503
