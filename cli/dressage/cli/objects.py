"""`dressage objects`: large values that belong to no run."""

from __future__ import annotations

import click
import msgspec

from dressage.brokers.orphans import Orphan, find_orphans, remove_orphan
from dressage.cli import options
from dressage.cli.retention import seconds_of
from dressage.cli.running import require_answer, run
from dressage.client import Client


class Age(click.ParamType[float]):
    """A number with a unit, in seconds."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = value if isinstance(value, float) else seconds_of(str(value))
        if seconds is None:
            self.fail("give a number and a unit, such as 7d or 24h", param, ctx)
        return seconds


class Swept(msgspec.Struct, frozen=True):
    """What was stored for a run that is not there. `removed` is false if it only would be, or was stored again."""

    run_id: str
    size: int
    removed: bool


@click.group()
def objects() -> None:
    """Remove large values that belong to no run."""


@objects.command()
@click.option(
    "--older-than",
    "older_s",
    type=Age(),
    default="24h",
    show_default=True,
    help="Only where nothing was stored for so long; at least 1h, since a start may still be on its way.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@options.server
@options.namespace
@options.as_json
def sweep(older_s: float, dry_run: bool, server: str, namespace: str, as_json: bool) -> None:
    """Remove the large values of runs that are not there, nor any child run of them: those of starts that were refused,
    or never sent, and of executions that ended too late.

    What is stored for a run that is there, or on its way, stays as it is. It may be repeated at any time.
    """

    async def go() -> list[Swept]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return [
                await swept(client, orphan, dry_run)
                for orphan in await find_orphans(client.connection, client.names, older_s)
            ]

    async def swept(client: Client, orphan: Orphan, dry_run: bool) -> Swept:
        removed = not dry_run and await remove_orphan(client.connection, client.names, orphan)
        return Swept(orphan.run_id, orphan.size, removed)

    found = run(go())
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for each in found:
        what = "removed" if each.removed else "would be removed" if dry_run else "stored again, stays"
        click.echo(f"{each.run_id}: {each.size} bytes, {what}")
    gone = [each for each in found if each.removed or dry_run]
    verb = "would be removed" if dry_run else "removed"
    click.echo(f"{verb}: {sum(each.size for each in gone)} bytes of {len(gone)} runs that are not there")
