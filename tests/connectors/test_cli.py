"""`dressage trigger`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tests.connectors.conftest import CONFIG, eventually, order  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.client import Client

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "triggers.toml"
    path.write_text(CONFIG)
    return path


def test_check_says_what_a_file_declares(file: Path) -> None:
    done = CliRunner().invoke(main, ["trigger", "check", str(file)])
    assert (done.exit_code, done.output) == (
        0,
        "orders: stream ORDERS orders.> -> take-order, run id 'order-' + str(event['id'])\n",
    )


def test_check_fails_with_every_mistake_of_a_file(file: Path) -> None:
    file.write_text(CONFIG.replace("when", "wehn").replace("take-order", "Take Order"))
    done = CliRunner().invoke(main, ["trigger", "check", str(file)])
    assert done.exit_code == 1
    assert 'triggers.toml: trigger "orders": wehn: KEY_UNKNOWN' in done.output
    assert 'triggers.toml: trigger "orders": workflow: NAME_INVALID' in done.output


def test_run_needs_a_valid_file_first(file: Path) -> None:
    file.write_text("")
    done = CliRunner().invoke(main, ["trigger", "run", str(file), "--server", "nats://127.0.0.1:1"])
    assert (done.exit_code, "KEY_MISSING" in done.output) == (1, True)


async def test_run_works_until_it_is_told_to_stop(
    shop: Shop, client: Client, file: Path, start: Start
) -> None:
    program = start("trigger", "run", str(file), "--server", shop.server.url, "--metrics-port", "0")
    await shop.publish(order(1))
    await shop.has_started("order-1")
    assert await asyncio.to_thread(program.drain) == 0
    assert "stopped, nothing left in flight" in program.said


# -- triggers that are deployed --------------------------------------------------------------------
def called(shop: Shop, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["trigger", *words, "--server", shop.server.url])
    return done.exit_code, done.output


def become(file: Path, text: str) -> None:
    file.write_text(text)


async def command(shop: Shop, *words: str) -> tuple[int, str]:
    return await asyncio.to_thread(called, shop, *words)


async def test_a_trigger_is_deployed_shown_changed_and_removed(
    shop: Shop, client: Client, file: Path
) -> None:
    assert await command(shop, "deploy", str(file), "--actor", "me") == (0, "orders: version 1\n")
    assert await command(shop, "deploy", str(file)) == (0, "orders: version 1, unchanged\n")
    await shop.publish(order(1))
    become(file, CONFIG.replace("'order-'", "'o-'"))
    assert await command(shop, "deploy", str(file), "--actor", "you") == (
        *(0, "orders: version 2, for events from sequence 2 on\n"),
    )
    code, shown = await command(shop, "list")
    assert (code, "by you" in shown, "runs" in shown) == (0, True, True)
    assert await command(shop, "pause", "orders") == (0, "orders: paused\n")
    assert await command(shop, "pause", "orders") == (0, "orders: was paused before\n")
    code, shown = await command(shop, "show", "orders")
    assert code == 0
    assert shown.startswith("orders: paused, changed ")
    assert "version 2, events from sequence 2 on: stream ORDERS orders.> -> take-order" in shown
    assert await command(shop, "resume", "orders") == (0, "orders: goes on\n")
    assert await command(shop, "remove", "orders") == (0, "orders: removed\n")
    code, shown = await command(shop, "show", "orders")
    assert (code, shown.startswith("TRIGGER_UNKNOWN: ")) == (1, True)


async def test_dead_letters_are_shown_and_replayed(
    shop: Shop, client: Client, file: Path, start: Start
) -> None:
    become(file, CONFIG.replace("event['id']", "event['no such key']"))
    await command(shop, "deploy", str(file))
    program = start("trigger", "run", "--server", shop.server.url)
    await shop.publish(order(1))

    async def is_dead() -> bool:
        return bool(await shop.dead_letters())

    await eventually(is_dead, "the event is a dead letter")
    assert await asyncio.to_thread(program.drain) == 0
    code, shown = await command(shop, "dead", "orders")
    assert (code, "EXPRESSION_FAILED" in shown, "ORDERS 1" in shown) == (0, True, True)
    (letter,) = await shop.dead_letters()
    code, said = await command(shop, "replay", "orders", "--all")
    assert (code, said.startswith(f"{letter.seq}: stays: EXPRESSION_FAILED: ")) == (1, True)
    become(file, CONFIG)
    await command(shop, "deploy", str(file))
    assert (await command(shop, "replay", "orders", "--seq", "99"))[0] == 1
    code, said = await command(shop, "replay", "orders", "--seq", str(letter.seq))
    assert (code, said) == (0, f"{letter.seq}: accepted\n")
    assert not await shop.dead_letters()
    await shop.has_started("order-1")


def test_replay_asks_which() -> None:
    assert CliRunner().invoke(main, ["trigger", "replay", "orders"]).exit_code == 2
