"""`dressage init`: a small project that works, to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from dressage.protocol.errors import DressageError

PROJECT: Final = Path(__file__).parent / "project"
FILES: Final = ("orders.py", "test_orders.py", "triggers.toml", "pyproject.toml", "README.md")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("orders"))
def init(folder: Path) -> None:
    """Write a small project into FOLDER: a workflow with its tasks, its tests, triggers, and how to run it all.

    Nothing that is there already is changed.

    \b
    dressage init orders && cd orders && pytest
    """
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise DressageError(
            f"{folder} has {', '.join(there)} already, and nothing was written: name another folder",
            code="FILE_EXISTS",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            # Exclusively: what somebody else has written meanwhile stays.
            with (folder / name).open("x", encoding="utf-8") as file:
                file.write((PROJECT / name).read_text("utf-8"))
    except OSError as error:
        raise DressageError(f"{folder} cannot be written: {error}", code="FOLDER_UNUSABLE") from error
    for name in FILES:
        click.echo(folder / name)
    click.echo(f"read {folder / 'README.md'} to go on", err=True)
