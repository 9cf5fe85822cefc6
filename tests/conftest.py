"""What every test shares."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The NATS client speaks asyncio only, so async tests run on that, whatever else is installed."""
    return "asyncio"
