"""`dressage outbox`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TypeVar

import click

from dressage.cli import options
from dressage.cli.running import inspect_server, run, signals
from dressage.outbox.connections import DIALECTS, Dialect
from dressage.outbox.relay import Relay, RelayOptions
from dressage.outbox.relay import slot as slots
from dressage.outbox.relay.dsn import dialect_of_dsn, open_db, plain_dsn, store_of
from dressage.outbox.relay.relay import Beside
from dressage.outbox.relay.sql import Db, Table
from dressage.outbox.schema import schema_sql
from dressage.protocol.errors import BadInput
from dressage.telemetry import Meters, meters_for

T = TypeVar("T")

_dsn = click.option(
    "--dsn",
    envvar="DRESSAGE_OUTBOX_DSN",
    required=True,
    show_envvar=True,
    help="Address of the database: postgresql://..., mysql://... or sqlite:///...",
)


@click.group()
def outbox() -> None:
    """Send what applications have written in their own transactions.

    See docs/outbox.md.
    """


@outbox.command()
@click.option("--dialect", type=click.Choice(DIALECTS), required=True)
def schema(dialect: Dialect) -> None:
    """Print the SQL that makes the tables of outbox and inbox."""
    click.echo(schema_sql(dialect), nl=False)


@outbox.command()
@_dsn
@options.server
@options.namespace
@options.metrics_port
@options.metrics_host
@click.option(
    "--log", is_flag=True, help="Read PostgreSQL's log, too, by the slot of `dressage outbox slot create`."
)
def relay(
    dsn: str, server: str, namespace: str, metrics_port: int | None, metrics_host: str, *, log: bool
) -> None:
    """Start the runs and post the events that were committed.

    Several processes share the work; of those with --log one reads the log, and the others stand by. On SIGTERM one
    finishes what is under way, and takes no more.
    """
    settings = RelayOptions(namespace)
    run(_relay(dsn, server, settings, meters_for(metrics_port, metrics_host), log=log))


async def _relay(dsn: str, server: str, settings: RelayOptions, meters: Meters, *, log: bool) -> None:
    store = store_of(dsn)
    beside = _log_of(dsn) if log else None
    await inspect_server(server)
    relay = Relay(server, store, settings, meters, beside=beside)
    with signals(relay.stop), meters.health.shown(relay.unready):
        click.echo(f"outbox relay: sending to namespace {settings.namespace}", err=True)
        await relay.run()
    click.echo("outbox relay: stopped, nothing left under way", err=True)


def _log_of(dsn: str) -> Beside:
    """Raises `BadInput`: only PostgreSQL has one."""
    if dialect_of_dsn(dsn) != "postgresql":
        raise BadInput(
            "only PostgreSQL has a log that messages can be written to", code="OUTBOX_DIALECT_UNKNOWN"
        )
    from dressage.outbox.relay.log import reading

    return reading(plain_dsn(dsn))


def _require_log(dsn: str) -> None:
    if dialect_of_dsn(dsn) != "postgresql":
        raise BadInput(
            "only PostgreSQL has a log that messages can be written to", code="OUTBOX_DIALECT_UNKNOWN"
        )


@outbox.group()
def slot() -> None:
    """Make or remove what keeps PostgreSQL's log until the relay has read it."""


@slot.command()
@_dsn
def create(dsn: str) -> None:
    """Make slot and publication. Applications can write to the log from then on."""
    _require_log(dsn)
    made = run(_asked(dsn, lambda _, db: slots.create(db)))
    click.echo("the slot is there" if made else "the slot was there before")


@slot.command()
@_dsn
def drop(dsn: str) -> None:
    """Remove both. What was not sent yet is lost, and applications cannot write to the log any more."""
    _require_log(dsn)
    gone = run(_asked(dsn, lambda _, db: slots.drop(db)))
    click.echo("the slot is gone" if gone else "there was no slot")


@outbox.command()
@_dsn
@options.as_json
def status(dsn: str, *, as_json: bool) -> None:
    """Tell how many messages wait, how old the oldest of them is, and how many are dead."""
    depth = run(_asked(dsn, lambda table, db: table.depth(db)))
    if as_json:
        click.echo(json.dumps({"pending": depth.pending, "oldest_s": depth.oldest_s, "dead": depth.dead}))
    else:
        click.echo(f"{depth.pending} waiting, the oldest for {depth.oldest_s:.1f} s; {depth.dead} dead")


@outbox.command()
@_dsn
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="So many at most.")
@options.as_json
def dead(dsn: str, limit: int, *, as_json: bool) -> None:
    """List messages that were refused, the oldest first, and why."""
    for each in run(_asked(dsn, lambda table, db: table.dead(db, limit))):
        if as_json:
            said = {"id": each.id, "key": each.ordering_key, "code": each.code, "reason": each.reason}
            click.echo(json.dumps({**said, "message": json.loads(each.message)}))
        else:
            when = datetime.fromtimestamp(each.settled_ms / 1000, UTC).isoformat(timespec="seconds")
            click.echo(f"{each.id}  {when}  {each.ordering_key}  {each.code}: {each.reason}")


@outbox.command()
@_dsn
@click.argument("message_ids", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that are dead.")
def retry(dsn: str, message_ids: tuple[str, ...], *, every: bool) -> None:
    """Let dead messages be sent again, before younger ones of their key that wait."""
    if every == bool(message_ids):
        raise BadInput("name messages by their ids, or all of them by --all", code="OUTBOX_RETRY_WHICH")
    wanted = None if every else message_ids
    found = run(_asked(dsn, lambda table, db: table.retry(db, wanted)))
    click.echo(f"{found} will be sent again")


async def _asked(dsn: str, ask: Callable[[Table, Db], Awaitable[T]]) -> T:
    db = await open_db(dsn)
    try:
        found = await ask(Table(dialect_of_dsn(dsn)), db)
        await db.commit()
    finally:
        await db.close()
    return found
