"""`/healthz` and `/readyz` of every process that has metrics, over real HTTP."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.client import Client
from dressage.flow import App, workflow
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig
from dressage.telemetry import PrometheusMeters, health
from dressage.worker import Worker, WorkerConfig

pytestmark = pytest.mark.anyio

app = App("healthy")


@app.task
async def nothing() -> None: ...


@workflow(name="healthy")
async def healthy() -> None:
    await nothing()


async def asked(port: int, path: str) -> tuple[int, str]:
    def ask() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(ask)


async def becomes(port: int, path: str, status: int) -> str:
    async with asyncio.timeout(30):
        while True:
            got, said = await asked(port, path)
            if got == status:
                return said
            await asyncio.sleep(0.05)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "BEAT_S", 0.02)


async def test_a_process_says_that_it_starts_works_and_ends(quick: None) -> None:
    meters = PrometheusMeters()
    port = meters.serve(0)
    assert await asked(port, "/healthz") == (200, "ok\n")
    assert await asked(port, "/readyz") == (503, "it is starting\n")
    why = "it waits for the moon"
    with meters.health.shown(lambda: why):
        assert await becomes(port, "/readyz", 503) in ("it is starting\n", "it waits for the moon\n")
        await asyncio.sleep(0.1)
        assert await asked(port, "/readyz") == (503, "it waits for the moon\n")
        why = ""
        assert await becomes(port, "/readyz", 200) == "ok\n"
    assert await asked(port, "/readyz") == (503, "it is ending\n")
    assert await asked(port, "/healthz") == (200, "ok\n")
    meters.counter("seen_total", "Seen").inc()
    status, shown = await asked(port, "/metrics")
    assert (status, "dressage_seen_total 1.0" in shown) == (200, True)


async def test_a_loop_that_is_stuck_is_told_while_it_is(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "STUCK_S", 0.3)
    meters = PrometheusMeters()
    port = meters.serve(0)
    with meters.health.shown(str):
        await becomes(port, "/readyz", 200)
        answers: list[int] = []

        def ask() -> None:
            time.sleep(0.6)
            for path in ("/healthz", "/readyz"):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5)
                except urllib.error.HTTPError as error:
                    answers.append(error.code)

        asking = asyncio.get_running_loop().run_in_executor(None, ask)
        time.sleep(1.5)  # The loop is stuck: this is its thread.  # noqa: ASYNC251
        await asking
        assert answers == [503, 503]
        await becomes(port, "/healthz", 200)


async def test_an_orchestrator_and_a_worker_are_ready_when_they_work(quick: None, tmp_path: Path) -> None:
    engine, hands = PrometheusMeters(), PrometheusMeters()
    ports = engine.serve(0), hands.serve(0)
    async with EmbeddedServer(tmp_path / "nats") as server:
        broker = JetStreamBroker(server.url)
        worker = Worker(broker, app, WorkerConfig())
        working = asyncio.create_task(worker.run())
        with hands.health.shown(worker.unready):
            await asyncio.sleep(0.3)
            assert (await asked(ports[1], "/readyz"))[0] == 503, "there is no namespace yet"
            orchestrator = Orchestrator(broker, OrchestratorConfig(shards=2), engine)
            assert orchestrator.unready()
            with engine.health.shown(orchestrator.unready):
                serving = asyncio.create_task(orchestrator.run())
                await becomes(ports[0], "/readyz", 200)
                assert orchestrator.shards == {0, 1}
                await becomes(ports[1], "/readyz", 200)
                async with Client(broker) as client:
                    await client.register(healthy)
                    await (await client.start(healthy)).result(20)
                await server.stop()
                assert "server" in await becomes(ports[1], "/readyz", 503)
                await becomes(ports[0], "/readyz", 503)
                await server.start()
                await becomes(ports[1], "/readyz", 200)
                await becomes(ports[0], "/readyz", 200)
                worker.stop()
                assert "ending" in await becomes(ports[1], "/readyz", 503)
                await working
                orchestrator.stop()
                assert "ending" in await becomes(ports[0], "/readyz", 503)
                await serving
