"""`dressage spec`: definitions as people read them, and what changed between two of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click
import msgspec

from dressage.cli import options
from dressage.cli.loading import load_workflows
from dressage.cli.main import Failure
from dressage.cli.running import require_answer, run
from dressage.client import Client
from dressage.expressions.checks import shown
from dressage.flow.drawing import Change, changes, mermaid, node_text, outline, signature, svg, ways_of
from dressage.protocol.errors import BadInput, DressageError
from dressage.protocol.spec import RegisteredWorkflow, WorkflowSpec
from dressage.protocol.spec_reading import read_registered, read_spec
from dressage.protocol.versions import LATEST, check_ref

WHERE: Final = """MODULE:WORKFLOW is compiled from its source, FILE.json is read, and NAME@VERSION is asked of the
server: by its number, its label as 2.1 or 2.x, an alias, or latest, which is what new runs get."""


class Trouble(Failure):
    """An error of a command whose exit code 1 says something else."""

    exit_code = 2


class Found(NamedTuple):
    """A spec, and its version where it has one."""

    spec: WorkflowSpec
    version: int = 0

    @property
    def title(self) -> str:
        return self.spec.name + (f" v{self.version}" if self.version else "")


@click.group()
def spec() -> None:
    """Show definitions, and what changed between two of them."""


@spec.command(epilog=WHERE)
@click.argument("target", metavar="MODULE:WORKFLOW|FILE.json|NAME@VERSION")
@click.option("--mermaid", "form", flag_value="mermaid", help="Print a Mermaid flowchart.")
@click.option("--svg", "form", flag_value="svg", help="Print a picture.")
@click.option("--json", "form", flag_value="json", help="Print the nodes and the tree as JSON, for programs.")
@options.server
@options.namespace
def show(target: str, form: str | None, server: str, namespace: str) -> None:
    """Show what a workflow does, step by step, with the lines of its source."""
    found = find(target, server, namespace)
    click.echo(_FORMS[form or "tree"](found), nl=form in (None, "json"))


@spec.command(epilog=WHERE)
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@options.server
@options.namespace
@options.as_json
def diff(before: str, after: str, server: str, namespace: str, as_json: bool) -> None:
    """Show what changed between two definitions. Exit code 0: nothing; 1: something; 2: it could not be told."""
    try:
        old, new = (find(target, server, namespace) for target in (before, after))
        differences = changes(old.spec, new.spec)
    except DressageError as error:
        raise Trouble(error) from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(differences), indent=2))
    elif differences:
        click.echo(f"{old.title} -> {new.title}")
        click.echo(_told(differences))
    else:
        click.echo(f"{old.title} and {new.title} do the same")
    click.get_current_context().exit(1 if differences else 0)


def find(target: str, server: str, namespace: str) -> Found:
    """The definition that `target` names. Raises `BadInput`, `BadSpec`, `NotFound`, or what a broker raises."""
    if target.endswith(".json"):
        return read_file(Path(target))
    name, at, version = target.partition("@")
    if at:
        return _registered(name, version, server, namespace)
    found = load_workflows(target)
    if len(found) > 1:
        names = ", ".join(f"{target}:{each.name}" for each in found)
        raise BadInput(
            f"module {target!r} has several workflows: name one of {names}", code="WORKFLOW_UNNAMED"
        )
    return Found(found[0].spec)


def read_file(path: Path) -> Found:
    """The spec in a file, or the version as `dressage workflow show --json` prints it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", code="FILE_UNREADABLE") from error
    try:
        members = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        members = {}  # It is no spec either, and reading it as one says what is wrong.
    if "spec" not in members:
        return Found(read_spec(data))
    registered = read_registered(data)
    return Found(registered.spec, registered.version)


def _registered(name: str, version: str, server: str, namespace: str) -> Found:
    check_ref(version or LATEST)

    async def read() -> RegisteredWorkflow:
        await require_answer(server)
        async with Client(server, namespace=namespace) as client:
            return await client.registry.get(name, version)

    found = run(read())
    return Found(found.spec, found.version)


# -- forms -----------------------------------------------------------------------------------------
def _tree(found: Found) -> str:
    spec = found.spec
    where = f"{spec.module}, from line {spec.first_line}" if spec.module else "no source"
    lines = [f"{signature(found.title, spec.params, shown(spec.output))}    {where}"]
    lines += textwrap.indent(spec.description, "       ").splitlines()
    lines.append("")
    lines += [f"{each.line or '':>5}  {'    ' * each.depth}{each.text}".rstrip() for each in outline(spec)]
    return "\n".join(lines)


def _json(found: Found) -> str:
    spec = found.spec
    nodes = [
        {
            "node": number,
            "kind": type(node).__struct_config__.tag,
            "line": node.line,
            "text": node_text(spec, node),
            "ways": [{"to": way.to, "label": way.label} for way in ways_of(node)],
            "scope": node.scope,
        }
        for number, node in enumerate(spec.nodes)
    ]
    shape = {
        "name": spec.name,
        "version": found.version or None,
        "digest": spec.digest(),
        "signature": signature(spec.name, spec.params, shown(spec.output)),
        "module": spec.module,
        "first_line": spec.first_line,
        "nodes": nodes,
        "tree": [each._asdict() for each in outline(spec)],
    }
    return msgspec.json.format(msgspec.json.encode(shape), indent=2).decode()


_FORMS: Final[dict[str, Callable[[Found], str]]] = {
    "tree": _tree,
    "json": _json,
    "mermaid": lambda found: mermaid(found.spec),
    "svg": lambda found: svg(found.spec),
}


def _told(differences: Sequence[Change]) -> str:
    lines: list[str] = []
    part = ""
    for each in differences:
        if each.part != part:
            part = each.part
            lines.append(part)
        lines.append(f"  {each}")
    return "\n".join(lines)
