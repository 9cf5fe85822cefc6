"""Major and minor versions, checks of a deploy, aliases, retiring and archiving, as the issue asks for them."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import App, Event, Workflow, workflow
from dressage.protocol.errors import DressageError

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]
Deploy = Callable[..., Awaitable[tuple[int, str]]]

app = App("issue-deploys")
go = Event("issue-deploys-go", of=str)


@app.task
async def echo(word: str) -> str:
    return word


HEAD: Final = """
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

from dressage.flow import Event, Masked, Searchable, publish, task, workflow

class Tier(Enum):
    BASIC = "basic"
    GOLD = "gold"

class MoreTiers(Enum):
    BASIC = "basic"
    GOLD = "gold"
    LEAD = "lead"

@dataclass
class Line:
    sku: str

@dataclass
class LineWithCount:
    sku: str
    count: int

@dataclass
class LineWithMore:
    sku: str
    note: str = ""

@task(name="issue-deploys-make", queue="issue-deploys")
async def make() -> Any:
    raise NotImplementedError
"""


def compiled(folder: Path, text: str) -> Workflow[..., Any]:
    """The workflow of a module with this text."""
    name = f"issue_deploys_{uuid.uuid4().hex}"
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (found,) = (value for value in vars(module).values() if isinstance(value, Workflow))
    return found


@dataclass
class Shape:
    """What of a workflow others can tell."""

    params: str = ""
    output: str = "None"
    view: str = ""
    body: str = ""
    events: str = ""

    def text(self, name: str) -> str:
        lines = [f"result: {self.output} = await make()"] if self.output != "None" else []
        if self.view:
            lines.append("view = View()")
        lines += [line for line in self.body.split("\n") if line]
        lines.append("return result" if self.output != "None" else "return None")
        fields = [
            *self.view.split("; "),
            "step: Searchable[int] = 0",
        ]  # What has nothing to search is no view.
        view = "\n".join(["@dataclass", "class View:", *(f"    {each}" for each in fields)])
        return "\n".join(
            [
                HEAD,
                self.events,
                view if self.view else "",
                f'@workflow(name="{name}")',
                f"async def changing({self.params}) -> {self.output}:",
                *(f"    {line}" for line in lines),
            ]
        )


def came(of: str) -> Shape:
    return Shape(events=f'came = Event("NAME-came", of={of})', body="await came.wait()")


PLAIN: Final = Shape("sku: str")

COMPATIBLE: Final = {
    "another inside": (PLAIN, Shape("sku: str", body="await make()")),
    "a new parameter with a default": (PLAIN, Shape("sku: str, count: int = 1")),
    "another default": (Shape("count: int = 1"), Shape("count: int = 2")),
    "required before, and now with a default": (PLAIN, Shape('sku: str = ""')),
    "parameters in another order": (Shape("sku: str, count: int"), Shape("count: int, sku: str")),
    "int becomes float": (Shape("count: int"), Shape("count: float")),
    "None is taken, too": (PLAIN, Shape("sku: str | None")),
    "an enum has a member more": (Shape("tier: Tier"), Shape("tier: MoreTiers")),
    "a literal more is taken": (Shape('tier: Literal["a"]'), Shape('tier: Literal["a", "b"]')),
    "records of a list have an optional field more": (
        Shape("lines: list[Line]"),
        Shape("lines: list[LineWithMore]"),
    ),
    "anything is taken": (Shape("lines: dict[str, list[Line]]"), Shape("lines: Any")),
    "the result may be None no more": (Shape(output="int | None"), Shape(output="int")),
    "the result has a field more": (Shape(output="Line"), Shape(output="LineWithCount")),
    "the result has a member fewer": (Shape(output="MoreTiers"), Shape(output="Tier")),
    "the view has a field more": (Shape(view="a: int = 0"), Shape(view='a: int = 0; b: str = ""')),
    "there is a view now": (Shape(), Shape(view="a: Searchable[int] = 0")),
    "a field can be searched now": (Shape(view="a: int = 0"), Shape(view="a: Searchable[int] = 0")),
    "an event is waited for now": (Shape(), came("str")),
    "an event takes more": (came("Line"), came("LineWithMore")),
    "what it publishes": (PLAIN, Shape("sku: str", body='await publish("issue.deploys", sku)')),
}

BREAKING: Final = {
    "a new parameter": (PLAIN, Shape("sku: str, count: int"), "count"),
    "a parameter is gone": (Shape("sku: str, count: int = 1"), PLAIN, "count"),
    "another name": (PLAIN, Shape("item: str"), "item"),
    "required now": (Shape("count: int = 1"), Shape("count: int"), "count"),
    "float becomes int": (Shape("count: float"), Shape("count: int"), "count"),
    "another type": (PLAIN, Shape("sku: int"), "sku"),
    "None is taken no more": (Shape("sku: str | None"), PLAIN, "sku"),
    "an enum has a member fewer": (Shape("tier: MoreTiers"), Shape("tier: Tier"), "lead"),
    "records of a list have a field more": (
        Shape("lines: dict[str, list[Line]]"),
        Shape("lines: dict[str, list[LineWithCount]]"),
        "count",
    ),
    "not anything is taken any more": (Shape("lines: Any"), Shape("lines: list[Line]"), "lines"),
    "the result may be None": (Shape(output="int"), Shape(output="int | None"), "result"),
    "the result is another one": (Shape(output="int"), Shape(output="str"), "result"),
    "int becomes float in the result": (Shape(output="int"), Shape(output="float"), "result"),
    "the result has lost a field": (Shape(output="LineWithCount"), Shape(output="Line"), "count"),
    "the result has a member more": (Shape(output="Tier"), Shape(output="MoreTiers"), "lead"),
    "there is a result now": (Shape(), Shape(output="int"), "result"),
    "there is no result any more": (Shape(output="int"), Shape(), "result"),
    "the result is masked now": (Shape(output="int"), Shape(output="Masked[int]"), "result"),
    "the view has lost a field": (Shape(view='a: int = 0; b: str = ""'), Shape(view="a: int = 0"), "b"),
    "the view has another type": (Shape(view="a: int = 0"), Shape(view='a: str = ""'), "a"),
    "the view is gone": (Shape(view="a: int = 0"), Shape(), "a"),
    "a field can be searched no more": (Shape(view="a: Searchable[int] = 0"), Shape(view="a: int = 0"), "a"),
    "an event is waited for no more": (came("str"), Shape(), "came"),
    "an event takes another type": (came("str"), came("int"), "came"),
    "an event takes less": (came("Line"), came("LineWithCount"), "count"),
}


async def both(client: Client, folder: Path, before: Shape, after: Shape) -> tuple[Any, Workflow[..., Any]]:
    name = f"changing-{uuid.uuid4().hex[:12]}"
    texts = [each.text(name).replace("NAME", name) for each in (before, after)]
    first, second = (compiled(folder, text) for text in texts)
    await client.register(first)
    return (await client.registry.plan(second.spec)), second


@pytest.mark.parametrize("change", COMPATIBLE)
async def test_a_change_that_nobody_outside_can_tell_is_a_minor_version(
    shared: Engine, tmp_path: Path, change: str
) -> None:
    client = await shared.client()
    plan, second = await both(client, tmp_path, *COMPATIBLE[change])
    assert (plan.change, str(plan.label), plan.breaks) == ("compatible", "1.1", ())
    assert (await client.register(second, allow="compatible")).label == "1.1"


@pytest.mark.parametrize("change", BREAKING)
async def test_a_change_that_breaks_somebody_is_a_major_version_and_says_what_breaks(
    shared: Engine, tmp_path: Path, change: str
) -> None:
    before, after, named = BREAKING[change]
    client = await shared.client()
    plan, second = await both(client, tmp_path, before, after)
    assert (plan.change, str(plan.label)) == ("breaking", "2.0")
    assert any(named in each for each in plan.breaks), plan.breaks
    with pytest.raises(DressageError) as refused:
        await client.register(second, allow="compatible")
    assert refused.value.code == "CHANGE_BREAKING"
    assert named in refused.value.message
    assert (await client.register(second)).label == "2.0"


async def test_what_means_the_same_is_no_new_version(shared: Engine, tmp_path: Path) -> None:
    client = await shared.client()
    name = f"changing-{uuid.uuid4().hex[:12]}"
    text = Shape("sku: str", "int", "a: Searchable[int] = 0", "view.a = len(sku)").text(name)
    moved = text.replace("@workflow(", "# a comment\n\n\n@workflow(").replace(
        "    view.a = len(sku)", '    """A docstring."""\n\n    # why\n    view.a = len(\n        sku\n    )'
    )
    first = await client.register(compiled(tmp_path, text))
    again = await client.register(compiled(tmp_path, moved), allow="none")
    assert (first.version, again.version) == (1, 1)


# -- deploy --check ------------------------------------------------------------------------------------------------
FIRST: Final = """
from dressage.flow import workflow

@workflow(name="part")
async def part(number: int) -> int:
    return number + 1

@workflow(name="whole")
async def whole(number: int) -> int:
    return await part(number)
"""
INSIDE: Final = FIRST.replace("+ 1", "+ 2")
OUTSIDE: Final = FIRST.replace("part(number: int)", "part(number: int, times: int)").replace(
    "await part(number)", "await part(number, 2)"
)


@pytest.fixture
def deploy(engine: Engine, start: Start, tmp_path: Path) -> Deploy:
    """`dressage deploy` of a module with this text: what it exits with, and what it says."""

    async def run(text: str, *arguments: str) -> tuple[int, str]:
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        (folder / "shop.py").write_text(text)
        place = ("--server", engine.url, "--namespace", engine.namespace)
        program = start("deploy", "shop", *arguments, *place, cwd=folder)
        return await asyncio.to_thread(program.ended), program.said

    return run


async def numbers(client: Client) -> dict[str, int]:
    return {name: (await client.registry.get(name)).version for name in await client.registry.names()}


async def test_a_check_says_by_its_exit_code_what_a_deploy_would_break_and_registers_nothing(
    engine: Engine, deploy: Deploy
) -> None:
    client = await engine.client()
    code, said = await deploy(FIRST, "--check", "--json")
    assert code == 0, said
    assert [(each["workflow"], each["change"], each["allowed"]) for each in json.loads(said)] == [
        ("part", "new", True),
        ("whole", "new", True),
    ]
    assert await numbers(client) == {}
    for _ in range(2):
        code, said = await deploy(FIRST)
        assert code == 0, said
    assert "unchanged" in said
    assert await numbers(client) == {"part": 1, "whole": 1}
    code, said = await deploy(OUTSIDE, "--check", "--json")
    assert code == 1, said
    part, whole = json.loads(said)
    assert (part["workflow"], part["label"], part["change"], part["allowed"]) == (
        "part",
        "2.0",
        "breaking",
        False,
    )
    assert "times" in part["breaks"][0]
    assert (whole["change"], whole["allowed"]) == ("compatible", True)
    assert await numbers(client) == {"part": 1, "whole": 1}


async def test_policies_refuse_as_a_whole(engine: Engine, deploy: Deploy) -> None:
    client = await engine.client()
    await deploy(FIRST)
    assert (await deploy(FIRST, "--check", "--allow", "none"))[0] == 0
    code, said = await deploy(INSIDE, "--check", "--allow", "none")
    assert (code, "would be refused" in said) == (1, True), said
    code, said = await deploy(OUTSIDE, "--allow", "compatible")
    assert (code, "CHANGE_BREAKING" in said, "times" in said) == (1, True, True), said
    assert await numbers(client) == {"part": 1, "whole": 1}
    assert (await deploy(OUTSIDE, "--check", "--allow", "all"))[0] == 0


async def test_a_module_that_is_no_module_is_no_breaking_change(engine: Engine, deploy: Deploy) -> None:
    for text in ("import nonsense_of_nobody", "x =", "from dressage.flow import workflow", "1 / 0"):
        code, said = await deploy(text, "--check")
        assert code != 0, said
        assert "Traceback" not in said or "1 / 0" in said, said


async def test_many_who_deploy_the_same_at_once_make_one_version(sharded: Engine, tmp_path: Path) -> None:
    client = await sharded.client()
    shapes = PLAIN, Shape("sku: str", body="await make()")
    first, second = (compiled(tmp_path, each.text("changing")) for each in shapes)
    for definition, version in ((first, 1), (second, 2)):
        made = await asyncio.gather(*(client.register(definition) for _ in range(6)))
        assert {each.version for each in made} == {version}
    others = [compiled(tmp_path, Shape(f"sku: str, n: int = {n}").text("changing")) for n in range(4)]
    made = await asyncio.gather(*(client.register(each) for each in others))
    assert sorted(each.version for each in made) == [3, 4, 5, 6]
    view = await client.registry.view("changing")
    assert [each.label for each in view.versions] == ["1.5", "1.4", "1.3", "1.2", "1.1", "1.0"]


# -- pinned --------------------------------------------------------------------------------------------------------
def version(number: int) -> Workflow[..., Any]:
    if number == 1:

        @workflow(name="dep-changing")
        async def changing(word: str) -> str:
            return f"one {await go.wait()} {await echo(word)}"

    elif number == 2:

        @workflow(name="dep-changing")
        async def changing(word: str) -> str:
            return f"two {await go.wait()} {await echo(word)}"

    else:

        @workflow(name="dep-changing")
        async def changing(word: str) -> str:
            return f"three {await go.wait()} {await echo(word)}"

    return changing


async def result_of(client: Client, target: str, **options: Any) -> str:
    """What a new run of this comes to."""
    run = await client.start(target, {"word": "w"}, **options)
    await run.post(go, "x")
    return str(await run.result(10))


async def code_of(action: Awaitable[Any]) -> str:
    """What it is refused with; empty if it is not."""
    try:
        await action
    except DressageError as refused:
        return refused.code
    return ""


# -- aliases -------------------------------------------------------------------------------------------------------
async def test_a_run_of_an_alias_is_of_what_that_is_when_it_starts(engine: Engine, start: Start) -> None:
    await engine.worker(app)
    client = await engine.registered(version(1), version(2))
    other = await engine.client()
    await client.registry.set_alias("dep-changing", "stable", 1)
    assert await result_of(client, "dep-changing@stable") == "one x w"
    assert await result_of(other, "dep-changing", version="stable") == "one x w"
    early = await client.start("dep-changing@stable", {"word": "w"})
    await client.registry.set_alias("dep-changing", "stable", 2)
    assert await result_of(other, "dep-changing@stable") == "two x w"
    await early.post(go, "x")
    assert await early.result(10) == "one x w"
    answer = await engine.call(
        "start", {"workflow": "dep-changing@stable", "input": {"word": "w"}, "run_id": "m"}
    )
    assert answer["ok"], answer
    assert (await client.get("m")).version == 2
    program = start(
        *("run", "start", "dep-changing@stable", "--run-id", "c", "--input", '{"word": "w"}'),
        *("--server", engine.url, "--namespace", engine.namespace),
    )
    assert await asyncio.to_thread(program.ended) == 0, program.said
    assert (await client.get("c")).version == 2


async def test_runs_that_start_while_an_alias_moves_are_of_one_version_or_the_other(sharded: Engine) -> None:
    client = await sharded.registered(version(1), version(2))
    other = await sharded.client()
    await client.registry.set_alias("dep-changing", "stable", 1)
    found: list[int] = []
    moved = asyncio.Event()

    async def starts() -> None:
        while len(found) < 10 or not moved.is_set() or found[-1] != 2:
            run = await other.start("dep-changing@stable", {"word": "w"})
            found.append((await run.state()).version)
            assert len(found) < 1_000

    running = asyncio.create_task(starts())
    for number in (2, 1, 2):
        await client.registry.set_alias("dep-changing", "stable", number)
    behind = await other.start("dep-changing@stable", {"word": "w"})
    assert (await behind.state()).version == 2
    moved.set()
    await running
    assert set(found) <= {1, 2}


async def test_what_is_no_alias_is_refused_and_what_there_is_is_named(engine: Engine) -> None:
    client = await engine.registered(version(1))
    registry = client.registry
    for wrong in ("latest", "1", "1.0", "2.x", "Stable", "a b", "", "x" * 64):
        assert await code_of(registry.set_alias("dep-changing", wrong, 1)) == "VERSION_INVALID", wrong
    for ref in (2, "9.x", "1.7"):
        assert await code_of(registry.set_alias("dep-changing", "stable", ref)) == "WORKFLOW_UNKNOWN", ref
    await registry.set_alias("dep-changing", "stable", 1)
    with pytest.raises(DressageError, match="stable") as refused:
        await client.start("dep-changing@canary", {"word": "w"})
    assert refused.value.code == "ALIAS_UNKNOWN"
    await registry.remove_alias("dep-changing", "stable")
    assert await code_of(client.start("dep-changing@stable", {"word": "w"})) == "ALIAS_UNKNOWN"


# -- retiring ------------------------------------------------------------------------------------------------------
async def test_when_all_versions_are_retired_a_start_says_so_and_a_new_one_can_be_registered(
    engine: Engine,
) -> None:
    client = await engine.registered(version(1))
    await client.registry.retire("dep-changing", 1)
    assert await code_of(client.start("dep-changing", {"word": "w"})) == "VERSION_RETIRED"
    assert await code_of(client.start("dep-changing@latest", {"word": "w"})) == "VERSION_RETIRED"
    assert await code_of(client.register(version(1))) == "VERSION_RETIRED"
    await client.register(version(2))
    assert (await (await client.start("dep-changing", {"word": "w"})).state()).version == 2


async def test_a_version_that_an_alias_names_is_not_retired_under_those_who_use_it(
    engine: Engine, start: Start
) -> None:
    client = await engine.registered(version(1), version(2))
    await client.registry.set_alias("dep-changing", "stable", 2)
    place = ("--server", engine.url, "--namespace", engine.namespace)
    program = start("workflow", "retire", "dep-changing@stable", *place)
    assert await asyncio.to_thread(program.ended) == 1
    assert "stable" in program.said
    outcomes = await asyncio.gather(
        code_of(client.registry.retire("dep-changing", 1)),
        code_of(client.registry.set_alias("dep-changing", "old", 1)),
    )
    assert sorted(outcomes) in (["", "VERSION_ALIASED"], ["", "VERSION_RETIRED"])


async def test_two_who_change_what_stands_of_versions_at_once_undo_nothing(engine: Engine) -> None:
    client = await engine.registered(version(1), version(2), version(3))
    registry = client.registry
    await asyncio.gather(
        registry.retire("dep-changing", 2),
        *(registry.set_alias("dep-changing", f"a{n}", 1 if n % 2 else 3) for n in range(8)),
        registry.archive("dep-changing", archived=False),
    )
    view = await registry.view("dep-changing")
    assert {name: alias.version for name, alias in view.aliases.items()} == {
        f"a{n}": 1 if n % 2 else 3 for n in range(8)
    }
    assert [each.version for each in view.versions if each.retired] == [2]


# -- archiving -----------------------------------------------------------------------------------------------------
async def test_an_archived_workflow_is_started_and_registered_by_nobody_and_its_runs_go_on(
    engine: Engine, start: Start
) -> None:
    await engine.worker(app)
    client = await engine.registered(version(1))
    other = await engine.client()
    await client.registry.set_alias("dep-changing", "stable", 1)
    assert await result_of(other, "dep-changing@1") == "one x w"
    old = await client.start("dep-changing", {"word": "w"}, run_id="old")
    await client.registry.archive("dep-changing")
    for target in ("dep-changing", "dep-changing@1", "dep-changing@stable", "dep-changing@1.x"):
        assert await code_of(client.start(target, {"word": "w"})) == "WORKFLOW_ARCHIVED", target
    answer = await engine.call("start", {"workflow": "dep-changing", "input": {"word": "w"}})
    assert (answer["ok"], answer["code"]) == (False, "WORKFLOW_ARCHIVED")
    assert await code_of(client.register(version(2))) == "WORKFLOW_ARCHIVED"
    assert await code_of(client.register(version(1))) == "WORKFLOW_ARCHIVED"
    assert (await client.start("dep-changing", {"word": "w"}, run_id="old")).existing
    await old.post(go, "x")
    assert await old.result(10) == "one x w"
    program = start("workflow", "list", "--server", engine.url, "--namespace", engine.namespace)
    assert await asyncio.to_thread(program.ended) == 0
    assert "dep-changing" not in program.said
    await client.registry.archive("dep-changing", archived=False)
    assert await result_of(client, "dep-changing@stable") == "one x w"


async def test_a_check_of_an_archived_workflow_fails_and_says_why(engine: Engine, deploy: Deploy) -> None:
    client = await engine.client()
    await deploy(FIRST)
    await client.registry.archive("whole")
    code, said = await deploy(INSIDE, "--check")
    assert (code, "archived" in said, "Traceback" in said) == (1, True, False), said
    code, said = await deploy(INSIDE)
    assert (code, "archived" in said) == (1, True), said
    assert await numbers(client) == {"part": 1, "whole": 1}  # none where one may not be


def parent() -> Workflow[..., Any]:
    child = version(1)

    @workflow(name="dep-parent")
    async def parent_of(word: str) -> str:
        return f"parent {await child(word)}"

    return parent_of


async def test_a_parent_starts_the_child_version_that_it_was_registered_with_whatever_became_of_it(
    engine: Engine, until: Until
) -> None:
    await engine.worker(app)
    client = await engine.registered(parent())
    await client.register(version(2))
    await client.registry.retire("dep-changing", 1)
    await client.registry.archive("dep-changing")
    run = await client.start("dep-parent", {"word": "w"})
    child = ""

    async def begun() -> bool:
        nonlocal child
        found = [json.loads(bytes(e.data)) async for e in run.history() if e.kind == "child-started"]
        child = found[0]["run_id"] if found else ""
        return bool(child)

    await until(begun, "the child run has begun")
    await client.post(child, go, "x")
    assert await run.result(10) == "parent one x w"
