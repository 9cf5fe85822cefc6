"""`dressage orchestrator`."""

from __future__ import annotations

import click

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.running import inspect_server, run, signals
from dressage.orchestrator.service import Orchestrator, OrchestratorConfig
from dressage.protocol.shardmap import SHARDS_MAX
from dressage.telemetry import Meters, meters_for
from dressage.telemetry.tracing import traced


@click.command()
@options.server
@options.namespace
@click.option(
    "--shards",
    type=click.IntRange(1, SHARDS_MAX),
    help="For a new namespace: how many slices its runs are cut into.  [default: 1, or what it has]",
)
@click.option(
    "--replicas",
    type=click.IntRange(1, 5),
    default=1,
    show_default=True,
    help="How many servers keep each stream: 3 in a cluster.",
)
@click.option(
    "--runs-in-memory",
    type=click.IntRange(min=1),
    default=OrchestratorConfig().runs_max,
    show_default=True,
    help="How many runs each shard keeps in memory. The others are read when a command for them comes.",
)
@options.metrics_port
@options.metrics_host
def orchestrator(
    server: str,
    namespace: str,
    shards: int | None,
    replicas: int,
    runs_in_memory: int,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Serve the shards of a namespace.

    Start as many as you like: they share the shards, and take over from one that dies. SIGTERM is an orderly stop.
    """
    config = OrchestratorConfig(namespace, shards, replicas, runs_in_memory)
    run(_serve(server, config, meters_for(metrics_port, metrics_host)))


async def _serve(server: str, config: OrchestratorConfig, meters: Meters) -> None:
    await inspect_server(server)
    with traced("dressage-orchestrator") as tracing:
        served = Orchestrator(JetStreamBroker(server), config, meters, tracing)
        with signals(served.stop), meters.health.shown(served.unready):
            click.echo(f"orchestrator: serving namespace {config.namespace} at {server}", err=True)
            await served.run()
    click.echo("orchestrator: stopped", err=True)
