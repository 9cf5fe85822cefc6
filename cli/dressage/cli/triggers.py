"""`dressage trigger`."""

from __future__ import annotations

from pathlib import Path

import click

from dressage.cli import options
from dressage.cli.running import inspect_server, run, signals
from dressage.connectors import TriggerConfig, TriggerOptions, TriggerRunner, load_triggers
from dressage.connectors.config import PostTarget, StartTarget
from dressage.telemetry import Meters, meters_for

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def trigger() -> None:
    """Start runs from the events of other services.

    FILE declares triggers in TOML: which events of which JetStream stream start which workflow, under which run id
    and with which input. See docs/triggers.md.
    """


@trigger.command()
@_file
def check(file: Path) -> None:
    """Tell what FILE declares, or everything that is wrong with it. Needs no server."""
    for each in load_triggers(file):
        click.echo(f"{each.name}: {_described(each)}")


@trigger.command("run")
@_file
@options.server
@options.namespace
@options.metrics_port
@options.metrics_host
def run_(file: Path, server: str, namespace: str, metrics_port: int | None, metrics_host: str) -> None:
    """Run the triggers that FILE declares.

    Several processes share the events. On SIGTERM one finishes the events in flight, and takes no more.
    """
    triggers = load_triggers(file)
    run(_serve(server, triggers, TriggerOptions(namespace), meters_for(metrics_port, metrics_host)))


async def _serve(
    server: str, triggers: list[TriggerConfig], settings: TriggerOptions, meters: Meters
) -> None:
    await inspect_server(server)
    runner = TriggerRunner(server, triggers, settings, meters)
    names = ", ".join(each.name for each in triggers)
    with signals(runner.stop):
        click.echo(f"trigger {names}: starting runs of namespace {settings.namespace}", err=True)
        await runner.run()
    click.echo(f"trigger {names}: stopped, nothing left in flight", err=True)


def _described(each: TriggerConfig) -> str:
    source = each.source
    whence = " ".join(part for part in (source.stream and f"stream {source.stream}", source.subject) if part)
    return f"{whence} -> {_target(each.target)}"


def _target(target: StartTarget | PostTarget) -> str:
    match target:
        case StartTarget():
            version = f" version {target.version}" if target.version else ""
            return f"{target.workflow}{version}, run id {target.run_id.text}"
        case PostTarget(run_id=None, key=key):
            return f"event {target.event}, key {key.text if key else ''}"
        case PostTarget(run_id=run_id):
            return f"event {target.event}, run id {run_id.text if run_id else ''}"
