"""`dressage completion`: what a shell needs to complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion of a shell, for its startup file.

    \b
    dressage completion bash >> ~/.bashrc
    dressage completion zsh >> ~/.zshrc
    dressage completion fish > ~/.config/fish/completions/dressage.fish
    """
    made = get_completion_class(shell)
    assert made is not None, "click has all three"
    click.echo(made(ctx.find_root().command, {}, "dressage", "_DRESSAGE_COMPLETE").source())
