"""`dressage user-task`: what people have to do, and doing it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.markup import escape
from rich.table import Table

from dressage.brokers.jetstream import JetStreamBroker
from dressage.cli import options
from dressage.cli.given import any_json
from dressage.cli.running import require_answer, run
from dressage.cli.runs import console
from dressage.client import Client
from dressage.client.finding import FoundUserTask
from dressage.client.finding import user_tasks as find_user_tasks
from dressage.client.user_tasks import UserTaskHandle
from dressage.protocol.names import Names
from dressage.protocol.user_tasks import UserTaskView

_STATES = ("open", "unassigned", "assigned", "done", "cancelled", "timed-out", "withdrawn")

_user = click.option("--user", default=options.whoami, show_default="your user name", help="Who does it.")
_override = click.option("--override", is_flag=True, help="Also if another user has it.")
_action_id = click.option(
    "--id", "action_id", help="The same id is the same action, however often it is done."
)


@click.group("user-task")
def user_tasks() -> None:
    """Find what people have to do, and do it."""


@user_tasks.command("list")
@click.option("--user", default="", help="Those that this user has.")
@click.option("--group", default="", help="Those that are for this group.")
@click.option(
    "--state", type=click.Choice(_STATES), default="open", show_default=True, help="How they stand."
)
@click.option("--name", default="", help="Those of this name.")
@click.option("--workflow", default="", help="Those of runs of this workflow.")
@click.option(
    "--due-before",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M"]),
    help="Those that are due before this moment, in UTC.",
)
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@options.server
@options.namespace
@options.as_json
def list_(
    user: str,
    group: str,
    state: Any,
    name: str,
    workflow: str,
    due_before: datetime | None,
    limit: int,
    server: str,
    namespace: str,
    as_json: bool,
) -> None:
    """Find user tasks of all runs, the most urgent first. Asks the analytics process."""

    async def ask() -> list[FoundUserTask]:
        await require_answer(server)
        connection = await JetStreamBroker(server).connect("user-tasks")
        try:
            return await find_user_tasks(
                connection,
                Names(namespace),
                user=user,
                group=group,
                state=state,
                user_task=name,
                workflow=workflow,
                due_before=None if due_before is None else due_before.replace(tzinfo=UTC),
                limit=limit,
            )
        finally:
            await connection.close()

    found = run(ask())
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    table = Table(
        "run", "id", "user task", "state", "user", "group", "due", "notes", box=None, pad_edge=False
    )
    for each in found:
        due = (each.due_at or "") + (" overdue" if each.overdue else "")
        row = (each.run_id, each.user_task_id, each.user_task, each.state, each.user_id, each.group_id, due)
        table.add_row(*map(escape, (*row, " ".join(each.notes.split())[:80])))
    console().print(table)


@user_tasks.command()
@click.argument("run_id")
@click.argument("user_task_id", required=False)
@options.server
@options.namespace
@options.as_json
def show(run_id: str, user_task_id: str | None, server: str, namespace: str, as_json: bool) -> None:
    """Show the open user tasks of a run, or one of them: notes, comments, and the form as far as it is filled in."""

    async def read() -> list[UserTaskView]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            if user_task_id is not None:
                return [await client.user_task(run_id, user_task_id).view()]
            return await client.user_tasks(run_id)

    views = run(read())
    if as_json:
        click.echo(msgspec.json.encode(views))
        return
    if not views:
        click.echo(f"run {run_id!r} has no open user task", err=True)
    for view in views:
        _print(view)


def _print(view: UserTaskView) -> None:
    rows = {
        "user task": f"{view.user_task} {view.id}",
        "of": f"run {view.run_id} of {view.workflow} v{view.version}",
        "state": view.state + (", overdue" if view.overdue else ""),
        "user": view.user,
        "group": view.group,
        "given": view.opened_at,
        "due": view.due_at,
        "notes": view.notes,
        "saved": msgspec.json.encode(view.values).decode() if view.values else "",
        "fields": ", ".join(_fields(view.form)),
    }
    rows |= {f"comment {each.number}": f"{each.user}: {each.text or '(deleted)'}" for each in view.comments}
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    console().print(table)


def _fields(form: dict[str, Any]) -> list[str]:
    """The names of a form's fields; those that are required with a star."""
    ref = str(form.get("$ref", "")).rpartition("/")[2]
    record: dict[str, Any] = form.get("$defs", {}).get(ref, form)
    required = record.get("required", [])
    return [f"{name}*" if name in required else name for name in record.get("properties", {})]


def _does(act: Callable[[UserTaskHandle], Awaitable[object]], of: tuple[str, str, str, str]) -> None:
    run_id, user_task_id, server, namespace = of

    async def tell() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=options.whoami()) as client:
            await act(client.user_task(run_id, user_task_id))

    run(tell())


@user_tasks.command()
@click.argument("run_id")
@click.argument("user_task_id")
@_user
@_override
@_action_id
@options.server
@options.namespace
def claim(
    run_id: str,
    user_task_id: str,
    user: str,
    override: bool,
    action_id: str | None,
    server: str,
    namespace: str,
) -> None:
    """Take one for yourself, or for another user."""
    _does(
        lambda each: each.claim(user, override=override, action_id=action_id),
        (run_id, user_task_id, server, namespace),
    )


@user_tasks.command()
@click.argument("run_id")
@click.argument("user_task_id")
@click.option("--to-user", default="", help="Who is to do it.")
@click.option("--to-group", default="", help="Whose it is.")
@_override
@_action_id
@options.server
@options.namespace
def assign(
    run_id: str,
    user_task_id: str,
    to_user: str,
    to_group: str,
    override: bool,
    action_id: str | None,
    server: str,
    namespace: str,
) -> None:
    """Give one to a user, to a group, or to a user of a group, and to nobody else."""
    _does(
        lambda each: each.assign(user=to_user, group=to_group, override=override, action_id=action_id),
        (run_id, user_task_id, server, namespace),
    )


@user_tasks.command()
@click.argument("run_id")
@click.argument("user_task_id")
@_user
@_override
@_action_id
@options.server
@options.namespace
def release(
    run_id: str,
    user_task_id: str,
    user: str,
    override: bool,
    action_id: str | None,
    server: str,
    namespace: str,
) -> None:
    """Give one back to its group."""
    _does(
        lambda each: each.release(user, override=override, action_id=action_id),
        (run_id, user_task_id, server, namespace),
    )


@user_tasks.command()
@click.argument("run_id")
@click.argument("user_task_id")
@click.argument("text", default="")
@click.option("--edit", type=click.IntRange(1), help="Give your comment of this number that text.")
@click.option("--delete", type=click.IntRange(1), help="Take the text of your comment of this number away.")
@_user
@_action_id
@options.server
@options.namespace
def comment(
    run_id: str,
    user_task_id: str,
    text: str,
    edit: int | None,
    delete: int | None,
    user: str,
    action_id: str | None,
    server: str,
    namespace: str,
) -> None:
    """Say something of one."""

    def act(each: UserTaskHandle) -> Awaitable[object]:
        if delete is not None:
            return each.delete_comment(user, delete, action_id=action_id)
        if edit is not None:
            return each.edit_comment(user, edit, text, action_id=action_id)
        return each.comment(user, text, action_id=action_id)

    _does(act, (run_id, user_task_id, server, namespace))


@user_tasks.command()
@click.argument("run_id")
@click.argument("user_task_id")
@click.argument("values", callback=any_json)
@_user
@_override
@_action_id
@options.server
@options.namespace
def save(
    run_id: str,
    user_task_id: str,
    values: msgspec.Raw,
    user: str,
    override: bool,
    action_id: str | None,
    server: str,
    namespace: str,
) -> None:
    """Keep what is filled in so far. VALUES is a JSON object, @FILE, or - for standard input."""
    _does(
        lambda each: each.save(user, values, override=override, action_id=action_id),
        (run_id, user_task_id, server, namespace),
    )


@user_tasks.command()
@click.argument("run_id")
@click.argument("user_task_id")
@click.argument("values", required=False, callback=lambda *given: given[2] and any_json(*given))
@_user
@_override
@_action_id
@options.server
@options.namespace
def complete(
    run_id: str,
    user_task_id: str,
    values: msgspec.Raw | None,
    user: str,
    override: bool,
    action_id: str | None,
    server: str,
    namespace: str,
) -> None:
    """Say that one is done. VALUES is a JSON object, @FILE, or - for standard input; without it, what was saved."""
    given = msgspec.UNSET if values is None else values
    _does(
        lambda each: each.complete(user, given, override=override, action_id=action_id),
        (run_id, user_task_id, server, namespace),
    )


@user_tasks.command()
@click.argument("run_id")
@click.argument("user_task_id")
@click.option("--reason", default="", help="What the workflow is told.")
@_user
@_action_id
@options.server
@options.namespace
def cancel(
    run_id: str,
    user_task_id: str,
    reason: str,
    user: str,
    action_id: str | None,
    server: str,
    namespace: str,
) -> None:
    """Say that nobody is to do one any more: the workflow gets `UserTaskCancelled`."""
    _does(
        lambda each: each.cancel(user, reason, action_id=action_id),
        (run_id, user_task_id, server, namespace),
    )
