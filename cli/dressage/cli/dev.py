"""`dressage dev`: a broker, the engine, your application and analytics in one process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

import click

from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.loading import load_app, workflows_of
from dressage.cli.running import inspect_server, run, signals
from dressage.client import Client
from dressage.flow import App
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.protocol.errors import DressageError, EmbeddedServerError
from dressage.telemetry.tracing import traced
from dressage.worker import Worker, WorkerConfig

T = TypeVar("T")

DEFAULT_PORT: Final = 4222
"""Where every other command looks for a server unless it is told another address."""

STOP_S: Final = 20.0
"""How long one part may take to stop. Without its broker a drain has no end."""


@dataclass(frozen=True)
class DevConfig:
    """What to run, and where its data is kept."""

    app: App | None
    module: ModuleType | None
    data: Path
    server: str | None
    port: int
    namespace: str
    shards: int | None
    analytics: bool


@click.command()
@click.argument("app", metavar="[MODULE:APP]", required=False)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(".dressage"),
    show_default=True,
    help="Where runs, streams and the DuckDB file are kept between starts.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    envvar="DRESSAGE_PORT",
    show_default=True,
    show_envvar=True,
    help="Port of the embedded server; 0 takes a free one.",
)
@click.option("--server", help="Use this NATS server instead of an embedded one.")
@options.namespace
@click.option(
    "--shards", type=click.IntRange(1, 1024), help="For new data: how many slices its runs are cut into."
)
@click.option(
    "--analytics/--no-analytics",
    default=None,
    help="Answer `dressage query` from a DuckDB file.  [default: if DuckDB is installed]",
)
def dev(
    app: str | None,
    data: Path,
    port: int,
    server: str | None,
    namespace: str,
    shards: int | None,
    analytics: bool | None,
) -> None:
    """Run a broker, the engine and your application in one process.

    MODULE:APP names an App; the workflows of its module are registered, and its tasks are executed here.
    """
    application, module = load_app(app) if app else (None, None)
    chosen = importlib.util.find_spec("duckdb") is not None if analytics is None else analytics
    run(_dev(DevConfig(application, module, data, server, port, namespace, shards, chosen)))


async def _dev(config: DevConfig) -> None:
    stopped = asyncio.Event()
    with signals(stopped.set):
        async with AsyncExitStack() as stack:
            # Each part is told to stop before the one that it needs: the last one entered leaves first.
            ends: dict[str, asyncio.Task[Any]] = {}
            url = await _unless(stopped, _server(config, stack, ends))
            if url is None:
                return
            await _orchestrator(config, url, stack, ends)
            if config.analytics:
                await _analytics(config, url, stack, ends)
            if config.app is not None and config.module is not None:
                await _register(config, url, config.module)
                await _worker(config, url, config.app, stack, ends)
            _say("ready", _hint(config, url))
            await _until_stopped(stopped, ends)
            click.echo("stopping", err=True)


async def _unless(stopped: asyncio.Event, starting: Coroutine[Any, Any, T]) -> T | None:
    """What takes minutes where there is much data to read; None, and it is given up, if it is to stop before."""
    task, stop = asyncio.create_task(starting), asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        for each in (task, stop):
            each.cancel()
        await asyncio.wait({task, stop})


async def _server(config: DevConfig, stack: AsyncExitStack, ends: dict[str, asyncio.Task[Any]]) -> str:
    if config.server is not None:
        facts = await inspect_server(config.server)
        _say("server", f"{config.server}, nats-server {facts.version}, not ours")
        return config.server
    embedded = EmbeddedServer(config.data / "nats", port=config.port or None)
    try:
        await stack.enter_async_context(embedded)
    except EmbeddedServerError as error:
        if error.code != "EMBEDDED_PORT_IN_USE":
            raise
        raise EmbeddedServerError(
            f"port {config.port} is in use, perhaps by another `dressage dev` or a nats-server of your own. Take "
            f"a free one with --port 0, or use what runs there with --server nats://127.0.0.1:{config.port}",
            code=error.code,
        ) from error
    await _watch("the embedded server", embedded.wait(), stack, ends)
    version = embedded.facts.version if embedded.facts else "?"
    _say("server", f"{embedded.url}, nats-server {version}, data in {config.data}")
    return embedded.url


async def _orchestrator(
    config: DevConfig, url: str, stack: AsyncExitStack, ends: dict[str, asyncio.Task[Any]]
) -> None:
    wanted = OrchestratorConfig(config.namespace, config.shards)
    tracing = stack.enter_context(traced("dressage-dev"))
    orchestrator, task = await run_beside(JetStreamBroker(url), wanted, tracing)
    ends["the orchestrator"] = task
    stack.push_async_callback(_stop, orchestrator.stop, task)
    shards = orchestrator.namespace.shards if orchestrator.namespace else 1
    _say("engine", f"namespace {config.namespace}, {shards} shard{'s' if shards > 1 else ''}")


async def _analytics(
    config: DevConfig, url: str, stack: AsyncExitStack, ends: dict[str, asyncio.Task[Any]]
) -> None:
    from dressage.analytics import AnalyticsService

    path = config.data / f"{config.namespace}.duckdb"
    path.parent.mkdir(parents=True, exist_ok=True)
    service = AnalyticsService(url, config.namespace, path)
    await stack.enter_async_context(service)
    await _watch("analytics", service.wait(), stack, ends)
    _say("analytics", str(path))


async def _register(config: DevConfig, url: str, module: ModuleType) -> None:
    found = workflows_of(module)
    async with Client(url, namespace=config.namespace, actor=options.whoami()) as client:
        versions = [await client.register(each) for each in found]
    if versions:
        _say("workflows", ", ".join(f"{each.spec.name} v{each.version}" for each in versions))


async def _worker(
    config: DevConfig, url: str, app: App, stack: AsyncExitStack, ends: dict[str, asyncio.Task[Any]]
) -> None:
    if not app.handlers:
        _say("worker", f"application {app.name} handles no task")
        return
    worker = Worker(url, app, WorkerConfig(config.namespace))
    task = asyncio.create_task(worker.run())
    stack.push_async_callback(_stop, worker.stop, task)
    ends["the worker"] = task
    _say("worker", f"{app.name}: {', '.join(sorted(app.handlers))}")


def _hint(config: DevConfig, url: str) -> str:
    """What to type next."""
    where = "" if url == options.DEFAULT_SERVER else f" --server {url}"
    names = [each.name for each in workflows_of(config.module)] if config.module else []
    return f"dressage run start {names[0] if names else 'WORKFLOW'}{where} --wait   (Ctrl-C stops)"


async def _watch(what: str, ending: Any, stack: AsyncExitStack, ends: dict[str, asyncio.Task[Any]]) -> None:
    await stack.enter_async_context(_watching(what, ending, ends))


@asynccontextmanager
async def _watching(what: str, ending: Any, ends: dict[str, asyncio.Task[Any]]) -> AsyncIterator[None]:
    task = ends[what] = asyncio.create_task(ending)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, DressageError):
            await task


async def _stop(stop: Callable[[], None], task: asyncio.Task[Any]) -> None:
    stop()
    _, late = await asyncio.wait([task], timeout=STOP_S)
    for one in late:
        one.cancel()
    with contextlib.suppress(asyncio.CancelledError, DressageError):
        await task


async def _until_stopped(stopped: asyncio.Event, ends: dict[str, asyncio.Task[Any]]) -> None:
    """Returns when asked to stop. Raises what a part raised, or an error when one ended by itself."""
    asked = asyncio.create_task(stopped.wait())
    try:
        await asyncio.wait([asked, *ends.values()], return_when=asyncio.FIRST_COMPLETED)
    finally:
        asked.cancel()
    if stopped.is_set():
        return
    for what, task in ends.items():
        if task.done():
            task.result()
            raise DressageError(f"{what} ended unexpectedly; see the log with -v", code="PART_ENDED")


def _say(what: str, text: str) -> None:
    click.echo(f"{click.style(f'{what:10}', bold=True)} {text}", err=True)
