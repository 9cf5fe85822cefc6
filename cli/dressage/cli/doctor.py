"""`dressage doctor`: looks at the server, the account and the namespace, and says what to do."""

from __future__ import annotations

import sys

import click
import msgspec

from dressage.brokers.connect import connect
from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.running import run
from dressage.orchestrator.doctor import (
    LAG_MAX,
    RAFT_GROUPS_MAX,
    Counts,
    Finding,
    Report,
    Thresholds,
    examine,
    gather,
)
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names


@click.command()
@click.option(
    "--raft-groups-max",
    type=click.IntRange(1),
    default=RAFT_GROUPS_MAX,
    show_default=True,
    help="Warn above so many replicated streams and consumers.",
)
@click.option(
    "--lag-max",
    type=click.IntRange(1),
    default=LAG_MAX,
    show_default=True,
    help="Warn when a shard is so many commands behind.",
)
@options.server
@options.namespace
@options.as_json
def doctor(raft_groups_max: int, lag_max: int, server: str, namespace: str, as_json: bool) -> None:
    """Look at the server, its streams and the shards, and say what to do.

    Exits with 1 if something is wrong now, and with 0 if there are only warnings.
    """
    report = run(_report(server, Names(namespace), Thresholds(raft_groups_max, lag_max)))
    if as_json:
        click.echo(msgspec.json.encode({"well": report.well, **msgspec.to_builtins(report)}))
    else:
        _print(report)
    sys.exit(0 if report.well else 1)


async def _report(server: str, names: Names, limits: Thresholds) -> Report:
    """What keeps it from looking is a finding, too."""
    try:
        client = await connect(server)
        try:
            connection = await JetStreamBroker(server).connect("dressage-doctor", reconnect=True)
            try:
                return examine(await gather(client, connection, names, limits))
            finally:
                await connection.close()
        finally:
            await client.close()
    except DressageError as error:
        return Report([Finding("problem", error.code, error.message)], Counts())


def _print(report: Report) -> None:
    for finding in report.findings:
        problem = finding.level == "problem"
        click.secho(
            f"{'PROBLEM' if problem else 'warning'} ", fg="red" if problem else "yellow", bold=True, nl=False
        )
        click.echo(f"{finding.code}: {finding.message}")
    counts = report.counts
    click.echo(
        f"namespace: {counts.streams} streams, {counts.consumers} consumers, {counts.raft_groups} Raft groups; "
        f"account: {counts.account_streams}, {counts.account_consumers}, {counts.account_raft_groups}"
    )
    if not report.findings:
        click.echo("all is well")
