"""`dressage trigger`."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import click

from dressage.connectors import ConfigInvalid, TriggerConfig, TriggerOptions, TriggerRunner, load_triggers
from dressage.protocol.errors import DressageError
from dressage.telemetry import meters_for

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def trigger() -> None:
    """Start a run for each event of a stream that belongs to another service."""


@trigger.command()
@_file
def check(file: Path) -> None:
    """Say what is wrong with FILE, or what it declares. Needs no server."""
    for each in _load(file):
        click.echo(f"{each.name}: {_described(each)}")


@trigger.command()
@_file
@click.option(
    "--server",
    envvar="DRESSAGE_SERVER",
    default="nats://127.0.0.1:4222",
    show_default=True,
    help="Address of a NATS server.",
)
@click.option(
    "--namespace",
    envvar="DRESSAGE_NAMESPACE",
    default="default",
    show_default=True,
    help="Where runs are started.",
)
@click.option(
    "--metrics-port", type=int, default=None, help="Serve Prometheus metrics on this loopback port."
)
def run(file: Path, server: str, namespace: str, metrics_port: int | None) -> None:
    """Run the triggers that FILE declares, until SIGTERM or Ctrl-C. More processes share the events."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    triggers = _load(file)
    try:
        options = TriggerOptions(namespace=namespace)
        asyncio.run(_run(server, triggers, options, metrics_port))
    except DressageError as error:
        raise click.ClickException(str(error)) from error


async def _run(
    server: str, triggers: list[TriggerConfig], options: TriggerOptions, metrics_port: int | None
) -> None:
    runner = TriggerRunner(server, triggers, options, meters_for(metrics_port))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, runner.stop)
    names = ", ".join(each.name for each in triggers)
    click.echo(f"triggers of namespace {options.namespace}: {names}", err=True)
    await runner.run()


def _load(file: Path) -> list[TriggerConfig]:
    try:
        return load_triggers(file)
    except ConfigInvalid as error:
        raise click.ClickException(error.message) from error


def _described(each: TriggerConfig) -> str:
    source = each.source
    whence = " ".join(
        part for part in (f"stream {source.stream}" if source.stream else "", source.subject or "") if part
    )
    version = f" version {each.version}" if each.version else ""
    return f"{whence} -> {each.workflow}{version}, run id {each.run_id.text}"
