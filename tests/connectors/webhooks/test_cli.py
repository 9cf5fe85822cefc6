"""`dressage webhook`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from tests.connectors.conftest import order  # pyright: ignore[reportMissingImports]
from tests.connectors.webhooks.conftest import CONFIG, SECRET, letters, signed  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.client import Client

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]
    from tests.connectors.webhooks.conftest import Hooks  # pyright: ignore[reportMissingImports]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "webhooks.toml"
    path.write_text(CONFIG)
    return path


def called(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["webhook", *words])
    return done.exit_code, done.output


def test_check_needs_no_secret(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORDERS_SECRET")
    said = "orders: POST /orders, signed as standard -> take-order, run id 'order-' + str(event['id'])\n"
    assert called("check", str(file)) == (0, said)


def test_check_fails_with_every_mistake_of_a_file(file: Path) -> None:
    file.write_text(CONFIG.replace("when", "wehn").replace("/orders", "orders"))
    code, said = called("check", str(file))
    assert code == 1
    assert 'webhooks.toml: webhook "orders": wehn: KEY_UNKNOWN' in said
    assert 'webhooks.toml: webhook "orders": path: VALUE_INVALID' in said


def test_run_needs_its_secrets_first(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORDERS_SECRET")
    code, said = called("run", str(file), "--server", "nats://127.0.0.1:1")
    assert (code, "SECRET_MISSING" in said) == (1, True)


async def test_run_serves_until_it_is_told_to_stop(
    shop: Shop, client: Client, file: Path, start: Start
) -> None:
    words = ("webhook", "run", str(file), "--server", shop.server.url, "--port", "0", "--metrics-port", "0")
    program = start(*words, env={"ORDERS_SECRET": SECRET})
    line = await asyncio.to_thread(program.says, "webhook orders: http://127.0.0.1:")
    (url,) = re.findall(r"http://\S+", line)
    body = msgspec.json.encode(order(1))
    async with httpx.AsyncClient(timeout=20) as http:
        response = await http.post(url, content=body, headers=signed(body))
        assert (response.status_code, response.json()["run_id"]) == (202, "order-1")
        assert "server" not in response.headers
        large = signed(body) | {"x-large": "x" * 1024 * 1024}
        with contextlib.suppress(httpx.TransportError):
            assert (await http.post(url, content=body, headers=large)).status_code == 400
        forwarded = signed(body) | {"x-forwarded-for": "10.0.0.1", "x-forwarded-proto": "https"}
        assert (await http.post(url, content=body, headers=forwarded)).status_code == 202
    assert await asyncio.to_thread(program.drain) == 0
    assert "stopped, nothing left in flight" in program.said
    await shop.has_started("order-1")


async def test_a_port_that_is_taken_is_told(shop: Shop, file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = ("run", str(file), "--server", shop.server.url, "--port", port)
        code, said = await asyncio.to_thread(called, *words)
    assert (code, f"ADDRESS_UNUSABLE: 127.0.0.1 port {port}" in said) == (1, True)


async def test_dead_letters_are_shown_and_replayed(shop: Shop, hooks: Hooks, file: Path) -> None:
    """The id that the request would have had is that of the replay, so both count once."""
    assert (await hooks.says({"number": 1, "total": 5}))[1]["status"] == "dead-letter"
    (letter,) = await letters(shop)
    server = ("--server", shop.server.url)
    code, shown = await asyncio.to_thread(called, "dead", "orders", *server)
    assert (code, "EXPRESSION_FAILED" in shown, "/orders" in shown) == (0, True, True)
    code, shown = await asyncio.to_thread(called, "dead", "orders", "--json", *server)
    assert msgspec.json.decode(shown)[0]["headers"]["webhook-id"] == "msg_1"
    code, said = await asyncio.to_thread(called, "replay", str(file), "orders", "--all", *server)
    assert (code, said.startswith(f"{letter.seq}: stays: EXPRESSION_FAILED: ")) == (1, True)
    become(file, CONFIG.replace("event['id']", "event['number']"))
    assert (await asyncio.to_thread(called, "replay", str(file), "orders", "--seq", "99", *server))[0] == 1
    code, said = await asyncio.to_thread(
        called, "replay", str(file), "orders", "--seq", str(letter.seq), *server
    )
    assert (code, said) == (0, f"{letter.seq}: accepted\n")
    assert not await letters(shop)
    await shop.has_started("order-1")


def become(file: Path, text: str) -> None:
    file.write_text(text)


def test_replay_asks_which(file: Path) -> None:
    assert called("replay", str(file), "orders")[0] == 2
    code, said = called("replay", str(file), "others", "--all")
    assert (code, said.startswith("WEBHOOK_UNKNOWN")) == (1, True)


def test_without_its_extra_the_command_says_what_to_install(file: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['uvicorn'] = None\n"
        "from dressage.cli.main import main\n"
        f"main(['webhook', 'run', {str(file)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, "pip install 'dressage[http]'" in done.stderr) == (1, True)
