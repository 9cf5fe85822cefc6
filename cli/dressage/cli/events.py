"""`dressage event`: external events that are posted to correlation keys. Those for a run: `dressage run post`."""

from __future__ import annotations

import click
import msgspec

from dressage.cli import options
from dressage.cli.given import any_json
from dressage.cli.running import require_answer, run
from dressage.client import Client


@click.group("event")
def events() -> None:
    """Post external events to correlation keys, and look at a key."""


@events.command()
@click.argument("event")
@click.argument("key")
@click.argument("payload", default="null", callback=any_json)
@click.option("--id", "event_id", help="The same id is the same event, however often it is posted.")
@options.actor
@options.server
@options.namespace
def post(
    event: str,
    key: str,
    payload: msgspec.Raw,
    event_id: str | None,
    actor: str,
    server: str,
    namespace: str,
) -> None:
    """Post an external event to a correlation key. PAYLOAD is JSON, @FILE, or - for standard input.

    All runs that wait there take it, or else the first that comes.
    """

    async def tell() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            await client.post_by_key(event, key, payload, event_id=event_id)

    run(tell())


@events.command()
@click.argument("event")
@click.argument("key")
@options.server
@options.namespace
@options.as_json
def get(event: str, key: str, server: str, namespace: str, as_json: bool) -> None:
    """Show which runs wait at a correlation key, and which events nobody has claimed."""

    async def tell() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            view = await client.key(event, key)
        if as_json:
            click.echo(msgspec.json.encode(view).decode())
            return
        click.echo(f"waiting: {', '.join(view.waiting) or 'no run'}")
        click.echo(f"unclaimed: {', '.join(view.unclaimed) or 'no event'}")
        click.echo(f"posted: {view.posted}")

    run(tell())
