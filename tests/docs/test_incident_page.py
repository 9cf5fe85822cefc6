"""The commands of docs/incident.md, called one after the other, print what stands there."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from dressage.analytics import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.client import Client
from dressage.protocol.errors import DressageError

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "incident.md").read_text()
PAYMENTS: Final = """
from pathlib import Path

DOWN = Path(__file__).with_name("acme-is-down")


async def charge(provider: str, amount: int) -> str:
    if provider == "acme" and DOWN.exists():
        raise ConnectionError("connection refused by pay.acme.example:443")
    return f"{provider} took {amount}"
"""
ORDERS: Final = 9
SETTLED_S: Final = 30.0


class Called(NamedTuple):
    section: str
    command: str
    prints: str


def called() -> Iterator[Called]:
    """Each command with what stands below it."""
    for section in PAGE.split("\n## ")[1:]:
        title = section.partition("\n")[0]
        for block in re.findall(r"^```console\n(.*?)^```$", section, re.DOTALL | re.MULTILINE):
            for each in block.removeprefix("$ ").split("\n$ "):
                command, _, prints = each.partition("\n")
                yield Called(title, command, prints)


def bare(text: str) -> list[str]:
    """Without what differs from night to night: times, durations, processes, and how wide columns are for them."""
    for what, by in (
        (r"\d{4}-\d\d-\d\d[T ][\d:.]+Z?", "MOMENT"),
        (r"\(\d+ (s|min|h|d) ago\)", "(AGO)"),
        (r"--after \S+", "--after NEXT"),
        (r"worker \S+", "worker WORKER"),
        (r"\b\d+-\d+-\d+-\d+\b", "TASK"),
        (r"[─━]+", "-"),
        (r" +", " "),
    ):
        text = re.sub(what, by, text)
    return [line.strip() for line in text.strip().splitlines()]


@pytest.fixture
async def shop(tmp_path: Path, start: Start) -> AsyncIterator[tuple[Path, dict[str, str]]]:
    """The application of the page at work, while acme's orders do not get on: its folder, and where it runs."""
    (application,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "shop.py").write_text(application)
    (folder / "payments.py").write_text(PAYMENTS)
    (folder / "acme-is-down").touch()
    async with EmbeddedServer(tmp_path / "nats", sync="lazy") as server:
        env = {"DRESSAGE_SERVER": server.url, "DRESSAGE_ACTOR": "ann", "COLUMNS": "200"}
        start("orchestrator", env=env)
        await _there_is_a_namespace(server.url)
        deployed = start("deploy", "shop", cwd=folder, env=env)
        assert await asyncio.to_thread(deployed.ended) == 0, deployed.said
        start("worker", "shop:app", cwd=folder, env=env)
        async with (
            Client(server.url, actor="web") as client,
            AnalyticsService(server.url, "default", tmp_path / "shop.duckdb"),
        ):
            for number in range(1, ORDERS + 1):
                provider = "other" if number % 3 == 1 else "acme"
                given = {"item": "tea", "provider": provider, "amount": number}
                await client.start("shop-order", given, run_id=f"order-{number:02}")
            await _all_stand(client)
            yield folder, env


async def _there_is_a_namespace(url: str) -> None:
    async with asyncio.timeout(SETTLED_S):
        while True:
            try:
                async with Client(url):
                    return
            except DressageError:
                await asyncio.sleep(0.1)


async def _all_stand(client: Client) -> None:
    """Until each order has ended, or has a dead task."""
    async with asyncio.timeout(SETTLED_S):
        for number in range(1, ORDERS + 1):
            while True:
                view = await client.get(f"order-{number:02}")
                if view.status != "running" or view.dead_tasks:
                    break
                await asyncio.sleep(0.05)


async def _all_ended(client: Client) -> None:
    async with asyncio.timeout(SETTLED_S):
        for number in range(1, ORDERS + 1):
            await client.wait(f"order-{number:02}")


@pytest.mark.timeout(180)
async def test_the_night_goes_as_it_is_told(shop: tuple[Path, dict[str, str]], start: Start) -> None:
    folder, env = shop
    wrong: list[str] = []
    async with Client(env["DRESSAGE_SERVER"]) as client:
        for each in called():
            if each.section == "It is back":
                (folder / "acme-is-down").unlink(missing_ok=True)
                if " count " in each.command:
                    await _all_ended(client)
            program = start(*shlex.split(each.command)[1:], env=env)
            assert await asyncio.to_thread(program.ended) == 0, program.said
            print(f"$ {each.command}\n{program.said.rstrip()}", file=sys.stderr)
            if bare(program.said) != bare(each.prints):
                wrong.append(f"{each.command}\n{program.said}\ninstead of\n{each.prints}")
    assert not wrong, "\n\n".join(wrong)
    assert len(list(called())) > 10
