"""`dressage run rescue`, `fork` and `edit`: a run that has failed goes on, itself or as another one, and variables are
set by hand."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from dressage.cli import given, options
from dressage.cli.running import require_answer, run
from dressage.client import Client

_set = click.option(
    "--set",
    "variables",
    multiple=True,
    callback=given.values,
    metavar="NAME=JSON",
    help="A variable that is to be another one before that.",
)


@click.command()
@click.argument("run_id")
@click.option(
    "--line",
    type=click.IntRange(1),
    help="The line of the workflow's file where it is to go on.  [default: where it has failed]",
)
@click.option("--skip", is_flag=True, help="Go on behind that step, as if it had been done.")
@click.option(
    "--value",
    callback=lambda *said: said[2] and given.any_json(*said),
    metavar="JSON",
    help="What it gave then.",
)
@_set
@click.option("--reason", default="", help="Kept in the history of the run.")
@options.actor
@options.server
@options.namespace
def rescue(
    run_id: str,
    line: int | None,
    skip: bool,
    value: msgspec.Raw | None,
    variables: dict[str, Any],
    reason: str,
    actor: str,
    server: str,
    namespace: str,
) -> None:
    """Let a run go on that has failed: where it has failed, or where you say.

    The step is done anew, with all branches if it has some. If the run has failed with a child run, that is rescued,
    and waited for once more; a child run is rescued with the run above it. What a saga has undone stays undone.

    \b
    dressage run rescue order-17 --reason 'the provider is back'
    dressage run rescue order-17 --skip --value '"paid by hand"'
    dressage run rescue order-17 --line 21 --set amount=80
    """

    if value is not None and not skip:
        raise click.UsageError("--value is what a step would have given that is skipped: say --skip")

    async def go() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            rescued = await client.rescue(
                run_id,
                line=line,
                skip=skip,
                value=msgspec.UNSET if value is None else value,
                variables=variables,
                reason=reason,
            )
        if rescued.run_id != run_id:
            click.echo(f"run {rescued.run_id} has failed with it: that goes on, and it with that", err=True)

    run(go())


@click.command()
@click.argument("run_id")
@click.option("--as", "new_id", help="The id of the other run.  [default: a new one]")
@click.option(
    "--line",
    type=click.IntRange(1),
    help="The line of the workflow's file where it is to begin.  [default: where the run has failed]",
)
@_set
@options.actor
@options.server
@options.namespace
def fork(
    run_id: str,
    new_id: str | None,
    line: int | None,
    variables: dict[str, Any],
    actor: str,
    server: str,
    namespace: str,
) -> None:
    """Start another run, which goes on with what a run has ended with. That stays as it is.

    \b
    dressage run fork order-17 --as order-17-again --line 21 --set amount=80
    """

    async def begin() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            click.echo((await client.fork(run_id, new_id, line=line, variables=variables)).run_id)

    run(begin())


@click.command()
@click.argument("run_id")
@click.argument("variables", nargs=-1, required=True, callback=given.values, metavar="NAME=JSON...")
@click.option(
    "--thread",
    type=click.IntRange(0),
    default=0,
    help="As this branch sees them.  [default: those of the run]",
)
@click.option("--reason", default="", help="Kept in the history of the run.")
@options.actor
@options.server
@options.namespace
def edit(
    run_id: str, variables: dict[str, Any], thread: int, reason: str, actor: str, server: str, namespace: str
) -> None:
    """Set variables of a run that has not ended. What waits for a condition looks at them at once.

    \b
    dressage run edit order-17 'limit=200' --reason 'agreed by phone'
    """

    async def change() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            await client.edit(run_id, variables, thread=thread, reason=reason)

    run(change())
