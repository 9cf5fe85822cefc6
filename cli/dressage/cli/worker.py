"""`dressage worker`."""

from __future__ import annotations

import click

from dressage.cli import options
from dressage.cli.loading import load_app
from dressage.cli.running import inspect_server, run, signals
from dressage.flow import App
from dressage.protocol.errors import BadInput
from dressage.telemetry import Meters, meters_for
from dressage.telemetry.tracing import traced
from dressage.worker import Worker, WorkerConfig


@click.command()
@click.argument("app", metavar="MODULE:APP")
@options.server
@options.namespace
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="How many handlers run at a time.",
)
@click.option("--build", default="", help="Take tasks of versions that were deployed with this build, too.")
@options.metrics_port
@options.metrics_host
def worker(
    app: str,
    server: str,
    namespace: str,
    concurrency: int,
    build: str,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Execute the tasks of an application.

    MODULE:APP names an App, as in payments.tasks:app; modules of the current folder are found. Workflows are not
    registered here: see `dressage deploy`. On SIGTERM the worker finishes what runs, and takes no more.
    """
    application, _ = load_app(app)
    config = WorkerConfig(namespace, concurrency, build=build)
    run(_serve(server, application, config, meters_for(metrics_port, metrics_host)))


async def _serve(server: str, app: App, config: WorkerConfig, meters: Meters) -> None:
    if not app.handlers:
        raise BadInput(
            f"application {app.name!r} handles no task: use @app.task or @app.handles", code="APP_EMPTY"
        )
    await inspect_server(server)
    served = Worker(server, app, config, meters)
    with (
        traced(f"dressage-worker-{app.name}"),
        signals(served.stop),
        meters.health.shown(served.unready),
    ):
        tasks = ", ".join(sorted(app.handlers))
        click.echo(f"worker {app.name}: executing {tasks} of namespace {config.namespace}", err=True)
        await served.run()
    click.echo(f"worker {app.name}: stopped, nothing left running", err=True)
