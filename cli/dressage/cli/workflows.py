"""`dressage workflow`: definitions."""

from __future__ import annotations

import click
import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dressage.cli import options
from dressage.cli.loading import load_workflows
from dressage.cli.running import require_answer, run
from dressage.client import Client
from dressage.protocol.spec import Node, RegisteredWorkflow, TaskNode, effective_retry


@click.group()
def workflow() -> None:
    """Register and read definitions."""


@workflow.command()
@click.argument("target", metavar="MODULE[:NAME]")
@options.server
@options.namespace
@options.actor
def deploy(target: str, server: str, namespace: str, actor: str) -> None:
    """Register a workflow of a module, or all of them, each behind those that it starts runs of.

    The same definition again is a no-op, a changed one is a new version. Runs stay on the version they began with.
    """
    found = load_workflows(target)

    async def register() -> None:
        await require_answer(server)
        async with Client(server, namespace=namespace, actor=actor) as client:
            ordered = {each.name: each for one in found for each in one.with_children()}
            for each in ordered.values():
                registered, created = await client.registry.put(each.spec, actor)
                was = "registered" if created else "unchanged"
                click.echo(f"{registered.spec.name} v{registered.version} {was}")

    run(register())


@workflow.command("list")
@options.server
@options.namespace
@options.as_json
def list_(server: str, namespace: str, as_json: bool) -> None:
    """List the workflows of a namespace, each with its latest version."""

    async def read() -> list[RegisteredWorkflow]:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return [await client.registry.get(name) for name in await client.registry.names()]

    found = run(read())
    if as_json:
        rows = [{"name": each.spec.name, "version": each.version, "digest": each.digest} for each in found]
        click.echo(msgspec.json.encode(rows))
        return
    table = Table("workflow", "version", "tasks", "registered", "by", box=None, pad_edge=False)
    for each in found:
        tasks = ", ".join(task.name for task in each.spec.tasks)
        table.add_row(
            each.spec.name, str(each.version), escape(tasks), each.registered_at, escape(each.actor)
        )
    Console().print(table)


@workflow.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Which version.  [default: the latest]")
@options.server
@options.namespace
@options.as_json
def show(name: str, version: int | None, server: str, namespace: str, as_json: bool) -> None:
    """Show a definition: its source, its tasks and its nodes."""

    async def read() -> RegisteredWorkflow:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return await client.registry.get(name, version)

    found = run(read())
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2))
        return
    _show(found)


def _show(found: RegisteredWorkflow) -> None:
    spec = found.spec
    console = Console(highlight=False, soft_wrap=True)
    by = f" by {found.actor}" if found.actor else ""
    console.print(f"{spec.name} v{found.version}, registered {found.registered_at}{escape(by)}", style="bold")
    console.print(f"digest {found.digest}")
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
