"""An engine on a real server, to compare with; and the example that is defined beside the tests of the compiler."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.orchestrator.service import OrchestratorConfig, run_beside

TESTS: Final = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS.parent / "examples"))


@pytest.fixture(scope="session")
def shop() -> ModuleType:
    """`tests/flow/shop.py`."""
    spec = importlib.util.spec_from_file_location("shop", TESTS / "flow" / "shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shop"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The address of a server with an engine on it."""
    async with EmbeddedServer(Path(tmp_path_factory.mktemp("testing"))) as running:
        orchestrator, task = await run_beside(JetStreamBroker(running.url), OrchestratorConfig())
        yield running.url
        orchestrator.stop()
        await task
