"""`dressage trigger`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from tests.connectors.conftest import CONFIG, order  # pyright: ignore[reportMissingImports]

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
