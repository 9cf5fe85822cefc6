"""`dressage migrate`: runs go on in another version of their workflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, NamedTuple

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.cli import options
from dressage.cli.analytics import ask
from dressage.cli.given import values as given_values
from dressage.cli.running import require_answer, run
from dressage.cli.runs import console
from dressage.client import Client
from dressage.protocol.alignment import Proposal, Step
from dressage.protocol.errors import DressageError, NotFound, Refused
from dressage.protocol.versions import parse_target

AT_A_TIME: Final = 20
"""So many runs are asked for at a time."""

_PAGE: Final = 10_000


@click.group()
def migrate() -> None:
    """Let runs go on in another version of their workflow.

    `plan` shows where they would go on, `check` asks each run whether it can move as it stands, and `apply` moves them.
    A run moves as a whole, or stays as it is.
    """


class Wanted(NamedTuple):
    """What all of the commands are given."""

    before: str
    after: str
    lines: dict[int, int]
    variables: dict[str, str]
    values: dict[str, Any]
    server: str
    namespace: str


def _lines(context: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[int, int]:
    found: dict[int, int] = {}
    for each in given:
        line, _, other = each.partition(":")
        if not (line.isdecimal() and other.isdecimal()):
            raise click.BadParameter(f"{each!r} is no pair of lines: write such as 31:40")
        found[int(line)] = int(other)
    return found


def _names(context: click.Context, param: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [each.partition("=") for each in given]
    for name, _, other in pairs:
        if not (name and other):
            raise click.BadParameter(f"{name!r} has no other name: write such as total=amount")
    return {name: other for name, _, other in pairs}


def _wanted(command: Callable[..., None]) -> Callable[..., None]:
    taken = [
        click.argument("before", metavar="NAME@VERSION"),
        click.argument("version", metavar="VERSION"),
        click.option(
            "--map",
            "lines",
            multiple=True,
            callback=_lines,
            metavar="LINE:LINE",
            help="Where runs that wait at a line of the version before go on. Another step than theirs begins there.",
        ),
        click.option(
            "--rename",
            "variables",
            multiple=True,
            callback=_names,
            metavar="OLD=NEW",
            help="A variable that has another name.",
        ),
        click.option(
            "--set",
            "values",
            multiple=True,
            callback=given_values,
            metavar="NAME=JSON",
            help="What a variable begins with that runs do not have.",
        ),
        options.server,
        options.namespace,
    ]
    for each in reversed(taken):
        command = each(command)
    return command


def _of(given: dict[str, Any]) -> Wanted:
    version, before = given.pop("version"), given.pop("before")
    name, ref = parse_target(before)
    if not ref:
        raise click.UsageError(f"say of which version the runs are: {name}@VERSION")
    after = f"{name}@{version.rpartition('@')[2]}"
    return Wanted(before, after, **{each: given.pop(each) for each in Wanted._fields[2:]})


async def _planned(client: Client, wanted: Wanted) -> Proposal:
    return await client.plan_migration(
        wanted.before,
        wanted.after,
        lines=wanted.lines,
        variables=wanted.variables,
        values=wanted.values,
    )


@migrate.command()
@_wanted
@options.as_json
def plan(as_json: bool, **given: Any) -> None:
    """Show where runs would go on, step by step. Nothing is changed."""
    wanted = _of(given)

    async def asked() -> Proposal:
        await require_answer(wanted.server)
        async with Client(wanted.server, namespace=wanted.namespace) as client:
            return await _planned(client, wanted)

    found = run(asked())
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    table = Table("line", "runs that wait for", "go on at line", "", box=None, pad_edge=False)
    for step in found.steps:
        there = "" if step.node_after is None else str(step.line_after)
        table.add_row(str(step.line), escape(step.what), there, escape(_said(step)))
    console().print(table)


def _said(step: Step) -> str:
    if step.node_after is None:
        return f"cannot move: {step.why}. --map {step.line}:LINE says where they go on"
    return f"begin there, and give up what they wait for: {step.why}" if step.begins else "and wait on"


def _which(command: Callable[..., None]) -> Callable[..., None]:
    command = click.argument("run_ids", nargs=-1, metavar="[RUN]...")(command)
    return click.option(
        "--all", "all_", is_flag=True, help="All runs of that version. It asks the analytics process."
    )(command)


@migrate.command()
@_wanted
@_which
@options.as_json
def check(run_ids: tuple[str, ...], all_: bool, as_json: bool, **given: Any) -> None:
    """Ask runs whether they can move as they stand, and say why not. Exits with 1 if one cannot, or is not there."""
    _each(_of(given), run_ids, all_, as_json, actor=None)


@migrate.command("apply")
@_wanted
@_which
@options.actor
@options.as_json
def apply_(run_ids: tuple[str, ...], all_: bool, as_json: bool, actor: str, **given: Any) -> None:
    """Move runs, and say which of them stay where they are, and why. Exits with 1 if one does, or is not there.

    It can be stopped and started again at any time: runs that have moved are passed over.
    """
    _each(_of(given), run_ids, all_, as_json, actor)


class Told(msgspec.Struct):
    """What became of the runs: how many can move, or have, and what is in the way of others."""

    runs: int = 0
    moved: int = 0
    reasons: dict[str, list[str]] = {}
    gone: list[str] = []


def _each(wanted: Wanted, run_ids: tuple[str, ...], all_: bool, as_json: bool, actor: str | None) -> None:
    """With an `actor` they move."""
    if all_ == bool(run_ids):
        raise click.UsageError("name runs, or --all")
    told = Told()

    async def act() -> None:
        await require_answer(wanted.server)
        async with Client(wanted.server, namespace=wanted.namespace, actor=actor or "") as client:
            found = await _planned(client, wanted)
            one = asyncio.Semaphore(AT_A_TIME)

            async def ask_one(run_id: str) -> None:
                async with one:
                    await _ask_one(client, found, run_id, told, move=actor is not None)

            async for some in _runs(wanted, run_ids, found):
                await asyncio.gather(*map(ask_one, some))
                if len(some) == _PAGE or told.runs > _PAGE:
                    click.echo(f"{told.runs} runs so far, {told.moved} of them moved", err=True)

    run(act())
    if as_json:
        click.echo(msgspec.json.encode(told))
    else:
        _show(told, move=actor is not None)
    if told.reasons or (told.gone and not all_):
        click.get_current_context().exit(1)


async def _ask_one(client: Client, found: Proposal, run_id: str, told: Told, *, move: bool) -> None:
    told.runs += 1
    try:
        if move:
            await client.migrate(run_id, found.migration)
        else:
            checked = await client.check_migration(run_id, found.migration)
            if checked.reasons:
                told.reasons[run_id] = list(checked.reasons)
                return
        told.moved += 1
    except (Refused, NotFound) as error:
        if error.code == "RUN_UNKNOWN":
            told.gone.append(run_id)
        else:
            told.reasons[run_id] = [error.message]
    except DressageError as error:
        told.reasons[run_id] = [str(error)]


async def _runs(wanted: Wanted, run_ids: tuple[str, ...], found: Proposal) -> AsyncIterator[list[str]]:
    if run_ids:
        yield list(run_ids)
        return
    workflow, before, last = found.migration.workflow, found.migration.before, ""
    while True:
        sql = (
            f"SELECT run_id FROM runs WHERE workflow = '{workflow}' AND version = {before} AND status = 'running' "
            f"AND run_id > {_quoted(last)} ORDER BY run_id LIMIT {_PAGE}"
        )
        result = await ask(sql, wanted.server, wanted.namespace, None, _PAGE, 60.0)
        some = [str(run_id) for (run_id,) in result.rows]
        if not some:
            return
        yield some
        last = some[-1]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _show(told: Told, *, move: bool) -> None:
    for run_id, reasons in sorted(told.reasons.items()):
        for reason in reasons:
            click.echo(f"{run_id}: {reason}")
    for run_id in told.gone:
        click.echo(f"{run_id}: there is no such run", err=True)
    done = "moved" if move else "can move"
    click.echo(f"{told.moved} of {told.runs} {'run' if told.runs == 1 else 'runs'} {done}")
