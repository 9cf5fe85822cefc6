"""`dressage trigger`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.cli import options
from dressage.cli.letters import ask_again, check_which, declared, which
from dressage.cli.running import inspect_server, require_answer, run, signals
from dressage.cli.runs import console
from dressage.client import Client
from dressage.connectors import TriggerConfig, TriggerOptions, TriggerRunner, load_triggers
from dressage.connectors.config import PostTarget, StartTarget
from dressage.connectors.definitions import Definitions, Entry, Found, Version
from dressage.connectors.deployed import in_force
from dressage.connectors.metrics import Metrics
from dressage.connectors.replay import Letter, by_mapping, dead_letters
from dressage.connectors.setting import Setting
from dressage.connectors.source import Source
from dressage.connectors.trying import try_events
from dressage.protocol.names import check_name
from dressage.telemetry import Meters, NoMeters, meters_for

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def trigger() -> None:
    """Start runs, and post external events, from the events of other services.

    FILE declares triggers in TOML: which events of which JetStream stream start which workflow, under which run id
    and with which input, or become an external event of which run; one by one, in the order of a key, or in batches.
    See docs/triggers.md.
    """


@trigger.command()
@_file
def check(file: Path) -> None:
    """Tell what FILE declares, or everything that is wrong with it. Needs no server."""
    for each in load_triggers(file):
        click.echo(f"{each.name}: {_described(each)}")


@trigger.command("run")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), required=False)
@options.server
@options.namespace
@options.metrics_port
@options.metrics_host
def run_(file: Path | None, server: str, namespace: str, metrics_port: int | None, metrics_host: str) -> None:
    """Run the triggers that are deployed, or those that FILE declares.

    Several processes share the events. What is deployed, changed, paused or removed meanwhile is followed at once. On
    SIGTERM a process finishes the events in flight, and takes no more.
    """
    triggers = load_triggers(file) if file else None
    run(_serve(server, triggers, TriggerOptions(namespace), meters_for(metrics_port, metrics_host)))


async def _serve(
    server: str, triggers: list[TriggerConfig] | None, settings: TriggerOptions, meters: Meters
) -> None:
    await inspect_server(server)
    runner = TriggerRunner(server, triggers, settings, meters)
    which = "those that are deployed" if triggers is None else ", ".join(each.name for each in triggers)
    with signals(runner.stop), meters.health.shown(runner.unready):
        click.echo(f"trigger {which}: serving namespace {settings.namespace}", err=True)
        await runner.run()
    click.echo(f"trigger {which}: stopped, nothing left in flight", err=True)


@trigger.command()
@_file
@click.option(
    "--waiting",
    is_flag=True,
    help="Let a change hold at once, for all events that wait: one that is under way may then count twice.",
)
@options.actor
@options.server
@options.namespace
def deploy(file: Path, waiting: bool, actor: str, server: str, namespace: str) -> None:
    """Store the triggers that FILE declares, for every process that runs deployed ones.

    A change holds for events that are stored from then on; those before it, waiting or under way, are dealt with as
    the trigger was when they came.
    """
    triggers = load_triggers(file)

    async def store() -> None:
        async with _definitions(server, namespace) as (definitions, client):
            stored = [(each, await definitions.deploy(each, actor, waiting=waiting)) for each in triggers]
            for each, (_, changed) in stored:
                entry = await in_force(definitions, each.name, lambda entry: _source(client, entry))
                click.echo(f"{each.name}: {_deployed(entry.latest, changed=changed)}")

    run(store())


def _deployed(version: Version, *, changed: bool) -> str:
    since = f", for events from sequence {version.first_seq} on" if version.first_seq else ""
    return f"version {version.number}{since}{'' if changed else ', unchanged'}"


@trigger.command("list")
@options.server
@options.namespace
@options.as_json
def list_(server: str, namespace: str, as_json: bool) -> None:
    """Show the triggers that are deployed."""

    async def read() -> list[Found]:
        async with _definitions(server, namespace) as (definitions, _):
            return await definitions.all()

    found = run(read())
    if as_json:
        click.echo(msgspec.json.encode([each.entry for each in found]))
        return
    table = Table("trigger", "version", "state", "does", "changed", box=None, pad_edge=False)
    for entry in (each.entry for each in found):
        state = "paused" if entry.paused else "changing" if entry.asked else "runs"
        does = escape(_described(entry.latest.config))
        table.add_row(
            entry.name, str(entry.latest.number), state, does, f"{entry.changed_at} by {entry.actor}"
        )
    console().print(table)


@trigger.command()
@click.argument("name")
@options.server
@options.namespace
@options.as_json
def show(name: str, server: str, namespace: str, as_json: bool) -> None:
    """Show a trigger: what it does, of which version, and for which events."""

    async def read() -> Entry:
        async with _definitions(server, namespace) as (definitions, _):
            return (await definitions.get(name)).entry

    entry = run(read())
    if as_json:
        click.echo(msgspec.json.encode(entry))
        return
    click.echo(
        f"{entry.name}: {'paused' if entry.paused else 'runs'}, changed {entry.changed_at} by {entry.actor}"
    )
    for version in entry.versions:
        click.echo(
            f"version {version.number}, events from sequence {version.first_seq} on: {_described(version.config)}"
        )
    if entry.asked:
        click.echo(f"version {entry.asked.number}, asked for: {_described(entry.asked.config)}")


def _change(
    act: Callable[[Definitions], Awaitable[tuple[Found, bool]]], server: str, namespace: str
) -> tuple[Found, bool]:
    async def change() -> tuple[Found, bool]:
        async with _definitions(server, namespace) as (definitions, _):
            return await act(definitions)

    return run(change())


@trigger.command()
@click.argument("name")
@options.actor
@options.server
@options.namespace
def pause(name: str, actor: str, server: str, namespace: str) -> None:
    """Let every process take no more events of it. They wait in its stream."""
    _, changed = _change(lambda each: each.pause(name, actor), server, namespace)
    click.echo(f"{name}: {'paused' if changed else 'was paused before'}")


@trigger.command()
@click.argument("name")
@options.actor
@options.server
@options.namespace
def resume(name: str, actor: str, server: str, namespace: str) -> None:
    """Let it go on where it was paused."""
    _, changed = _change(lambda each: each.resume(name, actor), server, namespace)
    click.echo(f"{name}: {'goes on' if changed else 'was not paused'}")


@trigger.command()
@click.argument("name")
@options.actor
@options.server
@options.namespace
def remove(name: str, actor: str, server: str, namespace: str) -> None:
    """Take it away, with its place in the stream. What it has started goes on; its dead letters stay."""

    async def take_away() -> None:
        async with _definitions(server, namespace) as (definitions, client):
            found, _ = await definitions.remove(name, actor)
            # Processes that run it do this, too, once they have ended it; but perhaps there is none.
            await _source(client, found.entry).discard()

    run(take_away())
    click.echo(f"{name}: removed")


@trigger.command()
@click.argument("name")
@options.server
@options.namespace
@options.as_json
def dead(name: str, server: str, namespace: str, as_json: bool) -> None:
    """Show the dead letters of a trigger: events that asked for nothing that there is, with the reason."""
    check_name(name, "trigger")

    async def read() -> list[Letter]:
        async with _definitions(server, namespace) as (_, client):
            return [each async for each in _letters(client, name)]

    letters = run(read())
    if as_json:
        click.echo(msgspec.json.encode([_as_json(each) for each in letters]))
        return
    table = Table("seq", "code", "event", "subject", "stored", "reason", box=None, pad_edge=False)
    for each in letters:
        event = f"{each.stream} {each.event.stream_seq}"
        table.add_row(
            str(each.seq), each.code, event, escape(each.event.subject), each.time, escape(each.reason)
        )
    console().print(table)


def _letters(client: Client, name: str, seqs: Collection[int] = ()) -> AsyncIterator[Letter]:
    return dead_letters(client.connection, client.names, client.names.dead_trigger(name), seqs)


def _as_json(letter: Letter) -> dict[str, object]:
    return {
        "seq": letter.seq,
        "code": letter.code,
        "reason": letter.reason,
        "stream": letter.stream,
        "sequence": letter.event.stream_seq,
        "subject": letter.event.subject,
        "time": letter.time,
        "headers": dict(letter.event.headers or {}),
        "payload_base64": letter.event.data,
    }


@trigger.command()
@click.argument("name")
@which
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="By what this file declares, for a trigger that is not deployed.",
)
@options.server
@options.namespace
def replay(
    name: str, seqs: tuple[int, ...], every: bool, file: Path | None, server: str, namespace: str
) -> None:
    """Ask for dead letters once more, by the trigger as it is now.

    What was accepted is a dead letter no more. Each event counts once, however often it is replayed. Exit code 1 if a
    letter stays.
    """
    check_which(seqs, every=every)
    check_name(name, "trigger")
    of_file = declared(load_triggers(file), name, file, "trigger") if file else None

    async def ask() -> bool:
        async with _definitions(server, namespace) as (definitions, client):
            config = of_file or (await definitions.get(name)).entry.latest.config
            rule = _setting(client).rule(name)(config)
            again = by_mapping(rule.mapping, rule.engine)
            return await ask_again(client, _letters(client, name, seqs), again, seqs)

    if run(ask()):
        raise SystemExit(1)


@trigger.command("test")
@_file
@click.argument("events", type=click.File("rb"))
@options.as_json
def test_(file: Path, events: BinaryIO, as_json: bool) -> None:
    """Tell what the triggers of FILE would do with the events in EVENTS, one in JSON to a line. Needs no server.

    Exit code 1 if one would be a dead letter.
    """
    dead_ones = 0
    for each in try_events(load_triggers(file), events):
        dead_ones += each.would == "dead-letter"
        if as_json:
            click.echo(msgspec.json.encode(each))
        else:
            name = f"{each.trigger}: " if each.trigger else ""
            click.echo(f"{each.line}: {name}{each.would}: {each.says}")
    if dead_ones:
        raise SystemExit(1)


def _setting(client: Client) -> Setting:
    options = TriggerOptions(client.names.namespace)
    return Setting(client.connection, client, options, Metrics(NoMeters()))


def _source(client: Client, entry: Entry) -> Source:
    return _setting(client).source(entry.versions[-1].config, entry.incarnation)


@asynccontextmanager
async def _definitions(server: str, namespace: str) -> AsyncIterator[tuple[Definitions, Client]]:
    await require_answer(server)
    async with Client(server, namespace=namespace) as client:
        yield Definitions(client.connection, client.names), client


def _described(each: TriggerConfig) -> str:
    source = each.source
    parts = (
        source.stream and f"stream {source.stream}",
        source.subject,
        "in order" if source.ordered else "",
        f"in the order of each {each.order_by.text}" if each.order_by else "",
        f"in batches of {each.batch.size} or {each.batch.within_s:g} s" if each.batch else "",
    )
    whence = " ".join(part for part in parts if part)
    return f"{whence} -> {describe_target(each.target)}"


def describe_target(target: StartTarget | PostTarget) -> str:
    """What a trigger or a webhook asks for, in words."""
    match target:
        case StartTarget():
            version = f" version {target.version}" if target.version else ""
            return f"{target.workflow}{version}, run id {target.run_id.text}"
        case PostTarget(run_id=None, key=key):
            return f"event {target.event}, key {key.text if key else ''}"
        case PostTarget(run_id=run_id):
            return f"event {target.event}, run id {run_id.text if run_id else ''}"
