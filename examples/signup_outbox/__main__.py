"""Everything in one process, from this folder's parent: `python -m signup_outbox`.

curl -X POST localhost:8000/accounts -H 'Content-Type: application/json' -d '{"email": "ada@example.org"}'
curl -X POST localhost:8000/accounts/1/confirmation
curl localhost:8000/accounts/1
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.outbox.relay import Relay
from dressage.outbox.relay.dsn import store_of
from dressage.worker import Worker
from signup_outbox.model import open_database
from signup_outbox.service import api
from signup_outbox.workflow import app, sign_up


@asynccontextmanager
async def everything(folder: Path) -> AsyncIterator[str]:
    """A broker, an engine, a worker and a relay around the service's database. Gives the broker's address."""
    url = f"sqlite:///{folder / 'accounts.db'}"
    engine = open_database(url)
    try:
        async with EmbeddedServer(folder / "nats") as server:
            orchestrator, running = await run_beside(JetStreamBroker(server.url), OrchestratorConfig())
            try:
                async with Client(server.url) as client:
                    await client.register(sign_up)
                async with Worker(server.url, app), Relay(server.url, store_of(url)):
                    yield server.url
            finally:
                orchestrator.stop()
                await running
    finally:
        engine.dispose()


async def main(folder: Path) -> None:
    async with everything(folder):
        await uvicorn.Server(uvicorn.Config(api, port=8000)).serve()


if __name__ == "__main__":
    data = Path(sys.argv[1] if len(sys.argv) > 1 else ".signup")
    data.mkdir(parents=True, exist_ok=True)
    asyncio.run(main(data))
