"""`dressage connect`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.letters import ask_again, check_which, declared, which
from dressage.cli.running import inspect_server, require_answer, run, signals
from dressage.cli.runs import console
from dressage.client import Client
from dressage.connectors.asked.config import QuerySource
from dressage.connectors.connect.config import Connector, connector_tables, load_connectors
from dressage.connectors.connect.deployed import Deployed
from dressage.connectors.connect.kinds import check_settings
from dressage.connectors.connect.metrics import ConnectorMetrics, Metrics
from dressage.connectors.connect.offsets import Reached, offsets_of
from dressage.connectors.connect.options import ConnectorOptions, Setting
from dressage.connectors.connect.replay import letters_again
from dressage.connectors.connect.runner import ConnectorRunner
from dressage.connectors.events_out.config import EventsOutConfig, SubjectSink, WebhookSink
from dressage.connectors.events_out.outgoing import EVENT_HEADER
from dressage.connectors.kafka.config import SinkConnector, SourceConnector
from dressage.connectors.kafka.records import TOPIC_HEADER
from dressage.connectors.replay import Letter, dead_letters
from dressage.protocol.names import Names, check_name
from dressage.telemetry import Meters, NoMeters, meters_for

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def connect() -> None:
    """Let Kafka records start runs, and write output events to Kafka, to subjects and to webhooks.

    FILE declares connectors in TOML: sources, by which records start runs or post events, and sinks, by which output
    events go out. See docs/kafka.md and docs/events-out.md.
    """


@connect.command()
@_file
def validate(file: Path) -> None:
    """Tell what FILE declares, or everything that is wrong with it. Needs no server, no Kafka and no receiver.

    The settings of the Kafka client are shown to the client, too. Secrets have to be where FILE says.
    """
    for each in load_connectors(file):
        check_settings(each)
        click.echo(f"{each.name}: {_described(each)}")


@connect.command("run")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@options.server
@options.namespace
@options.metrics_port
@options.metrics_host
def run_(file: Path | None, server: str, namespace: str, metrics_port: int | None, metrics_host: str) -> None:
    """Run the connectors that FILE declares; without FILE those that are deployed, for as long as they are.

    Several processes share the partitions of a source; of a sink one is active, and the others stand by. On SIGTERM one
    finishes what is under way.
    """
    connectors = load_connectors(file) if file is not None else None
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


@connect.command()
@_file
@options.server
@options.namespace
def deploy(file: Path, server: str, namespace: str) -> None:
    """Store the connectors that FILE declares: every process of `dressage connect run` without a FILE runs them.

    One that is paused stays so. Secrets are stored by name only.
    """
    load_connectors(file)
    tables = connector_tables(file.read_text(encoding="utf-8"))

    async def store(deployed: Deployed) -> None:
        for name, table in tables.items():
            click.echo(f"{name}: {'deployed' if await deployed.deploy(name, table) else 'as it was'}")

    run(_with_deployed(server, namespace, store))


@connect.command()
@options.server
@options.namespace
@options.as_json
def status(server: str, namespace: str, as_json: bool) -> None:
    """Tell which connectors are deployed, and whether they run, are paused, or have failed."""

    async def show(deployed: Deployed) -> None:
        entries = await deployed.all()
        if as_json:
            told = {name: {"state": each.state, "failure": each.failure} for name, each in entries.items()}
            click.echo(json.dumps(told))
            return
        for name, each in entries.items():
            click.echo(f"{name}: {each.state}{f': {each.failure}' if each.failure else ''}")

    run(_with_deployed(server, namespace, show))


def _command(name: str, text: str, act: Callable[[Deployed, str], Coroutine[Any, Any, None]]) -> None:
    """A command that does one thing to one connector."""

    @connect.command(name, help=text)
    @click.argument("name")
    @options.server
    @options.namespace
    def command(name: str, server: str, namespace: str) -> None:
        run(_with_deployed(server, namespace, lambda deployed: act(deployed, check_name(name, "connector"))))


_command("pause", "Let no process run a connector until it is resumed; its place is kept.", Deployed.pause)
_command("resume", "Let a connector run that is paused, or has failed.", Deployed.resume)
_command("restart", "Let every process begin a connector anew.", Deployed.restart)
_command("delete", "Deploy a connector no more. Its place is kept, under its name.", Deployed.delete)


@connect.command()
@click.argument("name")
@options.server
@options.namespace
@options.as_json
def dead(name: str, server: str, namespace: str, as_json: bool) -> None:
    """Show the dead letters of a connector: records and output events that were not taken, with the reason.

    Those that go to a topic of Kafka are not among them.
    """
    check_name(name, "connector")

    async def read() -> list[Letter]:
        async with _connected(server, namespace) as client:
            return [each async for each in _letters(client, name)]

    letters = run(read())
    if as_json:
        click.echo(msgspec.json.encode([_as_json(each) for each in letters]))
        return
    table = Table("seq", "code", "what", "time", "reason", box=None, pad_edge=False)
    for each in letters:
        table.add_row(str(each.seq), each.code, escape(_what(each)), each.time, escape(each.reason))
    console().print(table)


@connect.command()
@click.argument("name")
@which
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="By what this file declares, for a connector that is not deployed.",
)
@options.server
@options.namespace
def replay(
    name: str, seqs: tuple[int, ...], every: bool, file: Path | None, server: str, namespace: str
) -> None:
    """Ask for dead letters once more, or deliver them, by the connector as it is now, also while it is paused.

    A record asks the engine for what it asked for at first, and counts once, however often it is replayed. An output
    event goes out again, under the id that it had at first. What was taken is a dead letter no more. Exit code 1 if a
    letter stays.

    \b
    dressage connect dead crm
    dressage connect replay crm --seq 17 --seq 21
    dressage connect replay crm --all --file connectors.toml
    """
    check_which(seqs, every=every)
    check_name(name, "connector")
    of_file = declared(load_connectors(file), name, file, "connector") if file else None

    async def ask() -> bool:
        async with _connected(server, namespace) as client:
            config = of_file or (await Deployed(client.connection, client.names).get(name)).connector()
            _tell_of_topic(config)
            own = ConnectorMetrics(Metrics(NoMeters()), name)
            setting = Setting(client, JetStreamBroker(server), ConnectorOptions(namespace), own)
            async with letters_again(config, setting) as again:
                return await ask_again(client, _letters(client, name, seqs), again, seqs)

    if run(ask()):
        raise SystemExit(1)


def _tell_of_topic(config: Connector) -> None:
    if isinstance(config, SourceConnector) and config.dead_topic:
        click.echo(f"the dead letters in topic {config.dead_topic} of Kafka are not replayed", err=True)


def _letters(client: Client, name: str, seqs: Collection[int] = ()) -> AsyncIterator[Letter]:
    return dead_letters(client.connection, client.names, client.names.dead_connector(name), seqs)


def _what(letter: Letter) -> str:
    """The place of a record, or the id of an output event."""
    headers = letter.headers
    if TOPIC_HEADER in headers:
        return "/".join(headers.get(f"Dressage-{part}", "") for part in ("Topic", "Partition", "Offset"))
    return headers.get(EVENT_HEADER, "")


def _as_json(letter: Letter) -> dict[str, object]:
    kind = "record" if TOPIC_HEADER in letter.headers else "event"
    return {
        "seq": letter.seq,
        "code": letter.code,
        "reason": letter.reason,
        kind: _what(letter),
        "time": letter.time,
        "headers": letter.originals,
        "payload_base64": letter.payload,
    }


@asynccontextmanager
async def _connected(server: str, namespace: str) -> AsyncIterator[Client]:
    await require_answer(server)
    async with Client(server, namespace=namespace) as client:
        yield client


async def _with_deployed(
    server: str, namespace: str, act: Callable[[Deployed], Coroutine[Any, Any, None]]
) -> None:
    async with Client(server, namespace=namespace) as client:
        await act(Deployed(client.connection, client.names))


async def _serve(
    server: str, connectors: list[Connector] | None, settings: ConnectorOptions, meters: Meters
) -> None:
    await inspect_server(server)
    runner = ConnectorRunner(server, connectors, settings, meters)
    names = "s that are deployed" if connectors is None else f" {', '.join(each.name for each in connectors)}"
    with signals(runner.stop), meters.health.shown(runner.unready):
        click.echo(f"connector{names}: running in namespace {settings.namespace}", err=True)
        await runner.run()
    click.echo(f"connector{names}: stopped, nothing left in flight", err=True)


async def _offsets(server: str, connectors: list[Connector], names: Names) -> list[Reached]:
    connection = await JetStreamBroker(server).connect(f"dressage-connect-{names.namespace}")
    try:
        return [reached for each in connectors for reached in await offsets_of(each, names, connection)]
    finally:
        await connection.close()


def _described(each: Connector) -> str:
    match each:
        case SourceConnector():
            version = f" version {each.version}" if each.version else ""
            target = f"{each.workflow}{version}" if each.workflow else f"event {each.event}"
            return f"{', '.join(each.topics)} -> {target}, {each.value_format}, errors.tolerance {each.tolerance}"
        case QuerySource():
            target = each.workflow or f"event {each.event}"
            rows = f"rows by {each.key}, every {each.every_s:g} s"
            return f"{rows} -> {target}, errors.tolerance {each.tolerance}"
        case SinkConnector():
            topic = each.topic or (each.topic_of.text if each.topic_of else "")
            states = f", states -> {each.state_topic}" if each.state_topic else ""
            return f"output events -> {topic}, {each.value_format}{states}"
        case SubjectSink():
            subject = each.subject.text if each.subject else ""
            return f"output events -> subject {subject}, {_out(each)}"
        case WebhookSink():
            return f"output events -> {each.url}, {_out(each)}, {'signed' if each.secrets else 'not signed'}"


def _out(each: EventsOutConfig) -> str:
    return f"{each.value_format}, errors.tolerance {each.tolerance}"
