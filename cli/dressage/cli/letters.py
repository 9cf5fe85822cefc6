"""What the commands of triggers and of webhooks share: dead letters are asked for once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

import click

from dressage.client import Client
from dressage.connectors.engine import Engine
from dressage.connectors.mapping import EventMapping
from dressage.connectors.replay import Letter, Replayed, replay


async def ask_again(
    client: Client,
    letters: AsyncIterator[Letter],
    mapping: EventMapping,
    engine: Engine,
    wanted: Collection[int],
) -> bool:
    """Replays letters, and says what became of each; whether one stays, or is wanted and not there."""
    found, stay = set[int](), False
    # All are read first: those that are taken leave the stream.
    for letter in [each async for each in letters]:
        replayed = await replay(client.connection, client.names, letter, mapping, engine)
        click.echo(_said(replayed))
        found.add(letter.seq)
        stay = stay or not replayed.is_gone
    for seq in sorted(set(wanted) - found):
        click.echo(f"{seq}: there is no such dead letter")
    return stay or not found.issuperset(wanted)


def _said(replayed: Replayed) -> str:
    says = {
        "accepted": "accepted",
        "existing": "was accepted before",
        "skipped": "stays: `when` leaves it out",
        "kept": f"stays: {replayed.code}: {replayed.reason}",
    }
    return f"{replayed.letter.seq}: {says[replayed.outcome]}"
