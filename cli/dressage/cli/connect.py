"""`dressage connect`."""

from __future__ import annotations

from pathlib import Path

import click

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.running import inspect_server, run, signals
from dressage.connectors.kafka.clients import check_client
from dressage.connectors.kafka.config import Connector, SinkConnector, load_connectors
from dressage.connectors.kafka.offsets import Reached, offsets_of
from dressage.connectors.kafka.runner import ConnectorRunner
from dressage.connectors.kafka.source import ConnectorOptions
from dressage.protocol.names import Names
from dressage.telemetry import Meters, meters_for

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def connect() -> None:
    """Let Kafka records start runs, and write output events to Kafka.

    FILE declares connectors in TOML: sources, by which records start runs or post events, and sinks, by which output
    events become records. See docs/kafka.md.
    """


@connect.command()
@_file
def validate(file: Path) -> None:
    """Tell what FILE declares, or everything that is wrong with it. Needs no server and no Kafka.

    The settings of the Kafka client are shown to the client, too, so secrets have to be where FILE says.
    """
    for each in load_connectors(file):
        check_client(each)
        click.echo(f"{each.name}: {_described(each)}")


@connect.command("run")
@_file
@options.server
@options.namespace
@options.metrics_port
@options.metrics_host
def run_(file: Path, server: str, namespace: str, metrics_port: int | None, metrics_host: str) -> None:
    """Run the connectors that FILE declares.

    Several processes share the partitions of a source; of a sink one writes, and the others stand by. On SIGTERM one
    finishes and commits what is under way.
    """
    connectors = load_connectors(file)
    settings = ConnectorOptions(namespace)
    run(_serve(server, connectors, settings, meters_for(metrics_port, metrics_host)))


@connect.command()
@_file
@options.server
@options.namespace
def offsets(file: Path, server: str, namespace: str) -> None:
    """Tell how far the connectors of FILE are, and how much is left."""
    for each in run(_offsets(server, load_connectors(file), Names(namespace))):
        offset = "-" if each.offset is None else each.offset
        click.echo(f"{each.connector} {each.where}: {offset} of {each.end}, lag {each.lag}")


async def _serve(
    server: str, connectors: list[Connector], settings: ConnectorOptions, meters: Meters
) -> None:
    await inspect_server(server)
    runner = ConnectorRunner(server, connectors, settings, meters)
    names = ", ".join(each.name for each in connectors)
    with signals(runner.stop):
        click.echo(f"connector {names}: running in namespace {settings.namespace}", err=True)
        await runner.run()
    click.echo(f"connector {names}: stopped, nothing left in flight", err=True)


async def _offsets(server: str, connectors: list[Connector], names: Names) -> list[Reached]:
    connection = await JetStreamBroker(server).connect(f"dressage-connect-{names.namespace}")
    try:
        return [reached for each in connectors for reached in await offsets_of(each, names, connection)]
    finally:
        await connection.close()


def _described(each: Connector) -> str:
    if isinstance(each, SinkConnector):
        topic = each.topic or (each.topic_of.text if each.topic_of else "")
        states = f", states -> {each.state_topic}" if each.state_topic else ""
        return f"output events -> {topic}, {each.value_format}{states}"
    version = f" version {each.version}" if each.version else ""
    target = f"{each.workflow}{version}" if each.workflow else f"event {each.event}"
    return f"{', '.join(each.topics)} -> {target}, {each.value_format}, errors.tolerance {each.tolerance}"
