"""What the commands of triggers, webhooks and connectors share: dead letters are asked for once more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import click

from dressage.client import Client
from dressage.connectors.replay import Again, Letter, Replayed, replay
from dressage.protocol.errors import NotFound

Command = TypeVar("Command", bound=Callable[..., Any])


class Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


def which(command: Command) -> Command:
    """The options that say which letters are meant; `check_which` looks at what they give."""
    every = click.option("--all", "every", is_flag=True, help="All that there are.")
    seqs = click.option(
        "--seq", "seqs", type=click.IntRange(1), multiple=True, help="This one; several are allowed."
    )
    return seqs(every(command))


def check_which(seqs: Collection[int], *, every: bool) -> None:
    if bool(seqs) == every:
        raise click.UsageError("say which: give --seq, or --all")


def declared(found: Iterable[N], name: str, file: Path, what: str) -> N:
    """The one of this name that a file declares; `what` it is, as "trigger". Raises `NotFound`."""
    for each in found:
        if each.name == name:
            return each
    raise NotFound(f"{file.name} declares no {what} {name!r}", code=f"{what.upper()}_UNKNOWN")


async def ask_again(
    client: Client, letters: AsyncIterator[Letter], again: Again, wanted: Collection[int]
) -> bool:
    """Replays letters, and says what became of each; whether one stays, or is wanted and not there."""
    found, stay = set[int](), False
    async for letter in letters:
        replayed = await replay(client.connection, client.names, letter, again)
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
        "skipped": "stays: `when` or a filter leaves it out",
        "kept": f"stays: {replayed.code}: {replayed.reason}",
    }
    return f"{replayed.letter.seq}: {says[replayed.outcome]}"
