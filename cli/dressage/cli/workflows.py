"""`dressage deploy` and `dressage workflow`: definitions and their versions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, get_args

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dressage.brokers.registry import Allow, Plan, Registry, refusal
from dressage.cli import options
from dressage.cli.loading import load_workflows
from dressage.cli.running import require_answer, run
from dressage.client import Client
from dressage.protocol.errors import ChangeRefused
from dressage.protocol.spec import Node, RegisteredWorkflow, TaskNode, WorkflowSpec, effective_retry
from dressage.protocol.uses import Used
from dressage.protocol.versions import LATEST, VERSIONS_SHOWN, Label, VersionRef, parse_target

T = TypeVar("T")


@click.command()
@click.argument("target", metavar="MODULE[:NAME]")
@click.option(
    "--check",
    is_flag=True,
    help="Only say what would be registered. Exits with 1 for a change that breaks those who use a workflow, unless "
    "--allow says otherwise.",
)
@click.option(
    "--allow",
    type=click.Choice(["all", "compatible", "none"]),
    help="Which changes may become a version.  [default: all, with --check: compatible]",
)
@click.option(
    "--build", default="", help="Tasks of the version go to workers of this build: dressage worker --build."
)
@options.server
@options.namespace
@options.actor
@options.as_json
def deploy(
    target: str,
    check: bool,
    allow: Allow | None,
    build: str,
    server: str,
    namespace: str,
    actor: str,
    as_json: bool,
) -> None:
    """Register a workflow of a module, or all of them, each behind those that it starts runs of.

    The same definition again is a no-op, a changed one is a new version. Runs stay on the version they began with.
    Where one of them may not be registered, none is.
    """
    found = load_workflows(target)
    ordered = {each.name: each.spec for one in found for each in one.with_children()}
    allowed: Allow = allow or ("compatible" if check else "all")

    async def register() -> list[Plan]:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            plans = await client.registry.plans(list(ordered.values()), build)
            refusals = [error for error in (refusal(plan, allowed) for plan in plans) if error]
            if refusals and not check:
                raise ChangeRefused("\n".join(error.message for error in refusals), code=refusals[0].code)
            if not check:
                put = partial(client.registry.put, actor=actor, allow=allowed, build=build)
                plans = [await _registered(put, plan, ordered[plan.workflow]) for plan in plans]
        if as_json:
            click.echo(msgspec.json.encode([_row(plan, allowed) for plan in plans]))
        else:
            for plan in plans:
                click.echo(_told(plan, allowed, check=check))
        return plans

    plans = run(register())
    if check and any(refusal(plan, allowed) for plan in plans):
        click.get_current_context().exit(1)


async def _registered(
    put: Callable[[WorkflowSpec], Awaitable[tuple[RegisteredWorkflow, bool]]], plan: Plan, spec: WorkflowSpec
) -> Plan:
    """The plan as it was carried out; somebody may have registered another version since it was made."""
    registered, created = await put(spec)
    label = Label(*map(int, registered.label.split(".")))
    change = plan.change if created else "unchanged"
    return Plan(plan.workflow, registered.version, label, change, registered.breaks if created else ())


def _row(plan: Plan, allow: Allow) -> dict[str, Any]:
    return {**plan._asdict(), "label": str(plan.label), "allowed": refusal(plan, allow) is None}


def _told(plan: Plan, allow: Allow, *, check: bool) -> str:
    done = "registered"
    if plan.change == "unchanged":
        done = "unchanged"
    elif check:
        done = "would be refused" if refusal(plan, allow) else "would be registered"
    breaks = "".join(f"\n  breaks: {each}" for each in plan.breaks)
    return f"{plan.workflow} v{plan.version} ({plan.label}) {done}{breaks}"


@click.group()
def workflow() -> None:
    """Read definitions, and say which of their versions new runs get."""


@workflow.command()
@click.argument("name")
@click.option(
    "--limit", type=click.IntRange(1, VERSIONS_SHOWN), default=20, show_default=True, help="At most so many."
)
@options.server
@options.namespace
@options.as_json
def versions(name: str, limit: int, server: str, namespace: str, as_json: bool) -> None:
    """List the versions of a workflow, the newest first: which are retired, which have an alias, and what broke."""
    view = _asked(server, namespace, lambda registry: registry.view(name, limit))
    if as_json:
        click.echo(msgspec.json.encode(view))
        return
    if view.archived:
        click.echo(f"{name} is archived: no run of it can be started\n")
    table = Table("version", "label", "build", "registered", "by", "is", "breaks", box=None, pad_edge=False)
    for each in view.versions:
        standing = [*each.aliases]
        if each.version == view.latest:
            standing.insert(0, "latest")
        if each.retired:
            standing.append("retired")
        table.add_row(
            f"v{each.version}",
            each.label,
            each.build,
            each.registered_at,
            escape(each.actor),
            ", ".join(standing),
            escape("\n".join(each.breaks)),
        )
    Console().print(table)
    if view.more:
        click.echo(f"and older ones: --limit shows more than {limit}")


@workflow.command()
@click.argument("target", metavar="NAME[@VERSION]")
@click.argument("alias_", metavar="ALIAS")
@click.option("--remove", is_flag=True, help="Remove it instead.")
@options.server
@options.namespace
@options.actor
def alias(target: str, alias_: str, remove: bool, server: str, namespace: str, actor: str) -> None:
    """Let NAME@ALIAS be a version: by its number, its label, another alias, or the latest now."""
    name, ref = parse_target(target)
    if remove:
        if ref:
            raise click.UsageError("an alias is removed from a workflow: leave out the version")
        _asked(server, namespace, lambda registry: registry.remove_alias(name, alias_))
        click.echo(f"{name}@{alias_} is removed")
        return
    number = _asked(
        server, namespace, lambda registry: registry.set_alias(name, alias_, ref or LATEST, actor)
    )
    click.echo(f"{name}@{alias_} is v{number}")


@workflow.command()
@click.argument("target", metavar="NAME@VERSION")
@options.server
@options.namespace
def retire(target: str, server: str, namespace: str) -> None:
    """Let no new run be started of a version. Its runs go on; the latest is the newest that is not retired."""
    name, ref = _one_version(target)
    number = _asked(server, namespace, lambda registry: registry.retire(name, ref))
    click.echo(f"{name} v{number} is retired")


@workflow.command()
@click.argument("target", metavar="NAME@VERSION")
@options.server
@options.namespace
def restore(target: str, server: str, namespace: str) -> None:
    """Let runs be started of a retired version again."""
    name, ref = _one_version(target)
    number = _asked(server, namespace, lambda registry: registry.restore(name, ref))
    click.echo(f"{name} v{number} is restored")


@workflow.command()
@click.argument("name")
@options.server
@options.namespace
def archive(name: str, server: str, namespace: str) -> None:
    """Let no new run be started of a workflow, and no version of it be registered. Its runs go on."""
    _asked(server, namespace, lambda registry: registry.archive(name))
    click.echo(f"{name} is archived")


@workflow.command()
@click.argument("name")
@options.server
@options.namespace
def unarchive(name: str, server: str, namespace: str) -> None:
    """Let runs be started of an archived workflow again."""
    _asked(server, namespace, lambda registry: registry.archive(name, archived=False))
    click.echo(f"{name} is no longer archived")


def _asked(server: str, namespace: str, ask: Callable[[Registry], Awaitable[T]]) -> T:
    async def connected() -> T:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return await ask(client.registry)

    return run(connected())


def _one_version(target: str) -> tuple[str, VersionRef]:
    name, ref = parse_target(target)
    if not ref:
        raise click.UsageError(f"say which version: {name}@VERSION")
    return name, ref


@workflow.command("list")
@click.option("--all", "all_", is_flag=True, help="Also archived ones.")
@options.server
@options.namespace
@options.as_json
def list_(all_: bool, server: str, namespace: str, as_json: bool) -> None:
    """List the workflows of a namespace, each with its latest version. Archived ones are left out."""

    async def read(registry: Registry) -> list[RegisteredWorkflow]:
        found = {name: await registry.versions(name) for name in await registry.names()}
        return [await registry.get(name) for name, versions in found.items() if all_ or not versions.archived]

    found = _asked(server, namespace, read)
    if as_json:
        rows = [
            {"name": each.spec.name, "version": each.version, "label": each.label, "digest": each.digest}
            for each in found
        ]
        click.echo(msgspec.json.encode(rows))
        return
    table = Table("workflow", "version", "label", "tasks", "registered", "by", box=None, pad_edge=False)
    for each in found:
        tasks = ", ".join(task.name for task in each.spec.tasks)
        table.add_row(
            each.spec.name,
            f"v{each.version}",
            each.label,
            escape(tasks),
            each.registered_at,
            escape(each.actor),
        )
    Console().print(table)


@workflow.command()
@click.argument("target", metavar="NAME[@VERSION]")
@options.server
@options.namespace
@options.as_json
def show(target: str, server: str, namespace: str, as_json: bool) -> None:
    """Show a definition, of the latest version unless it says which: its source, its tasks and its nodes."""
    name, ref = parse_target(target)
    found = _asked(server, namespace, lambda registry: registry.get(name, ref))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    _show(found)


def _show(found: RegisteredWorkflow) -> None:
    spec = found.spec
    console = Console(highlight=False, soft_wrap=True)
    by = f" by {found.actor}" if found.actor else ""
    console.print(
        f"{spec.name} v{found.version} ({found.label}), registered {found.registered_at}{escape(by)}",
        style="bold",
    )
    console.print(f"digest {found.digest}{f', of build {found.build}' if found.build else ''}")
    nodes = Table("node", "kind", "what", "next", "line", title="nodes", box=None, title_justify="left")
    for number, node in enumerate(spec.nodes):
        nodes.add_row(str(number), _kind(node), escape(_what(found, node)), _next(node), str(node.line))
    console.print(nodes)
    if spec.source:
        console.print(f"\n{spec.module} line {spec.first_line}", style="bold", markup=False)
        console.print(spec.source.rstrip(), markup=False)


def _kind(node: Node) -> str:
    return str(type(node).__struct_config__.tag)


def _what(found: RegisteredWorkflow, node: Node) -> str:
    if isinstance(node, TaskNode):
        retries = effective_retry(found.spec, node).retries
        args = ", ".join(node.args)
        return f"{node.task}({args})" + (f", up to {retries + 1} attempts" if retries else "")
    return str(getattr(node, "target", None) or getattr(node, "failure", None) or "")


def _next(node: Node) -> str:
    ways = [getattr(node, name, None) for name in ("next", "then", "otherwise")]
    return ", ".join(str(way) for way in ways if way is not None)


@workflow.command()
@click.argument("what", type=click.Choice(get_args(Used)))
@click.argument("name")
@click.option(
    "--all", "all_", is_flag=True, help="Every version, not only the latest and those with an alias."
)
@options.server
@options.namespace
@options.as_json
def uses(what: Used, name: str, all_: bool, server: str, namespace: str, as_json: bool) -> None:
    """Show which workflows use a task, an event, a queue, a user task, or a workflow as a child.

    \b
    dressage workflow uses task charge-card
    dressage workflow uses queue billing --all
    """
    found = _asked(server, namespace, lambda registry: registry.uses(what, name, all_versions=all_))
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    if not found:
        click.echo(f"no workflow uses {what} {name}", err=True)
        return
    table = Table("workflow", "version", "label", "lines", box=None, pad_edge=False)
    for each in found:
        lines = "cannot be read by this release" if each.unread else ", ".join(map(str, each.lines))
        table.add_row(each.workflow, f"v{each.version}", each.label, lines)
    Console().print(table)
