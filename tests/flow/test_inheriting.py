"""`inherited()`: what a child run has from its parent's variables without being given it; in plain Python as well."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import ModuleType

import pytest
from tests.flow.both_ways import both_ways  # pyright: ignore[reportMissingImports]

from dressage.flow import Masked, Workflow, gather, inherited, sleep, workflow
from dressage.protocol.errors import BadValue, DefinitionError
from dressage.testing import WorkflowTest


@workflow(name="inherits-inner")
async def inner(x: int, tenant: str = inherited(), *, level: int = inherited()) -> str:
    return f"{tenant}/{level}/{x}"


@workflow(name="inherits-middle")
async def middle(x: int, tenant: str = inherited()) -> str:
    level = x + 1
    return f"{await inner(x)}{level - level}"[:-1]


@workflow(name="inherits-outer")
async def outer(x: int) -> str:
    tenant = "acme"
    first = await middle(x)
    tenant = f"{tenant}-2"
    second = await middle(x)
    given = await middle(x, tenant="other")
    return f"{first}, {second}, {given}"


def test_what_is_not_given_is_that_of_the_caller_at_the_call() -> None:
    assert both_ways(outer, {}, 1)[0] == "acme/2/1, acme-2/2/1, other/2/1"


@workflow(name="inherits-many")
async def many(items: list[int]) -> list[str]:
    tenant, level = "acme", 7
    found = await gather(*(inner(each) for each in items))
    one, other = await gather(inner(1), inner(2, level=8))
    return [*found, one, other, f"{tenant}{level}"]


def test_branches_inherit_as_well() -> None:
    result, _ = both_ways(many, {}, [1, 2])
    assert result == ["acme/7/1", "acme/7/2", "acme/7/1", "acme/8/2", "acme7"]


@workflow(name="inherits-detached")
async def detached(x: int) -> str:
    tenant, level = "acme", x
    run = await inner.options(run_id=f"beside-{x}").start(x)
    await inner.start(x)
    chosen = await inner.options(run_id=f"mine-{x}")(x)
    level = x + 1
    return f"{run} {chosen} {tenant} {level}"


def test_options_and_starts_inherit_as_well() -> None:
    result, _ = both_ways(detached, {}, 3)
    assert result == "beside-3 acme/3/3 acme 4"
    run = WorkflowTest(detached).run(3)
    assert [child.variables["tenant"] for child in run.children] == ["acme"] * 3


@workflow(name="inherits-none")
async def inheriting_none(x: int) -> str:
    return f"none {x}"


@workflow(name="inherits-level")
async def of_level(y: int, *, level: int = inherited()) -> str:
    return f"level {level}, {y}"


WAYS: dict[str, Workflow[..., str]] = {"inner": inner, "none": inheriting_none, "level": of_level}


@workflow(name="inherits-chosen")
async def chosen(ways: list[str]) -> list[str]:
    tenant, level = "acme", 7
    found = await gather(*(WAYS[way](len(way)) for way in ways))
    one, other = await gather(WAYS[ways[0]](1), WAYS[ways[1]](2))
    alone = await WAYS[ways[2]](3)
    return [*found, one, other, alone, f"{tenant}{level}"]


def test_of_several_that_may_be_called_each_inherits_its_own() -> None:
    result, _ = both_ways(chosen, {}, ["inner", "none", "level"])
    assert result == ["acme/7/5", "none 4", "level 7, 5", "acme/7/1", "none 2", "level 7, 3", "acme7"]


@workflow(name="inherits-before")
async def before_it_is_set(x: int) -> list[str]:
    tenant, level = "old", 1
    tenant, found = "new", await inner(x)
    level, more = 2, await gather(inner(x), WAYS["level"](x))
    return [found, *more, f"{tenant}{level}"]


def test_what_is_assigned_together_is_inherited_as_it_was() -> None:
    result, _ = both_ways(before_it_is_set, {}, 5)
    assert result == ["old/1/5", "new/1/5", "level 1, 5", "new2"]


@workflow(name="assigns-with-nested")
async def with_nested(x: int) -> str:
    text = "old"

    async def leg() -> str:
        return text

    text, found = "new", await leg()
    return f"{text} {found}"


def test_what_a_nested_function_reads_is_as_it_was_too() -> None:
    assert both_ways(with_nested, {}, 1)[0] == "new old"


@workflow(name="inherits-changes")
async def changes(x: int, total: int = inherited()) -> int:
    total += x
    await sleep(1)
    return total


@workflow(name="inherits-changed")
async def changed(x: int) -> list[int]:
    total = 10
    one, other = await gather(changes(x), changes(x + 1))
    return [one, other, total]


def test_point_18_what_a_child_changes_is_its_own() -> None:
    assert both_ways(changed, {}, 1)[0] == [11, 12, 10]


def test_who_starts_it_by_itself_gives_it() -> None:
    with pytest.raises(BadValue, match="level"):
        inner.encode_input(1, "acme")
    assert inner.encode_input(1, tenant="acme", level=2) == b'{"x":1,"tenant":"acme","level":2}'
    assert [(each.name, each.required) for each in inner.spec.params] == [
        ("x", True),
        ("tenant", True),
        ("level", True),
    ]
    assert WorkflowTest(inner).run(1, tenant="acme", level=2).result == "acme/2/1"


def test_in_plain_python_a_caller_without_it_is_told() -> None:
    async def somebody() -> str:
        level = 2
        return await inner(level)

    with pytest.raises(TypeError, match="inherits tenant, and its caller has no such variable: give it"):
        asyncio.run(somebody())


@workflow(name="inherits-masked")
async def masked(secret: Masked[str] = inherited()) -> Masked[str]:
    return secret


@workflow(name="inherits-from-masked")
async def from_masked(secret: Masked[str]) -> Masked[str]:
    return await masked()


def test_what_is_masked_stays_so() -> None:
    run = WorkflowTest(from_masked).run("abc")
    assert run.result == "abc"
    assert "abc" not in str([event.data for event in [*run.events, *run.children[0].events]])


REFUSED = {
    "a variable of nobody": (
        "    return await part(x)",
        "part() inherits tenant, which is no variable of the function that calls it",
    ),
    "one that may have no value": (
        "    if x:\n        tenant = 'a'\n    return await part(x)",
        "tenant",
    ),
    "one of the function around": (
        "    tenant = 'a'\n    async def leg() -> int:\n        return await part(x)\n    return await leg()",
        "part() inherits tenant, which is no variable of the function that calls it",
    ),
    "one of a comprehension": (
        "    tenant = 'a'\n    b = await gather(*(part(y) for y, tenant in [(1, 'b')]))\n    return x",
        "part() inherits tenant, which is no variable of the function that calls it",
    ),
    "by a handler": (
        "    tenant = 'a'\n    return await interruptible(one(x), rung.interrupts(part))",
        "part inherits tenant, and nobody calls it where that is known",
    ),
    "by a function": (
        "    tenant = 'a'\n    return await helper(x)",
        "only a workflow inherits",
    ),
    "behind a limit that sets it": (
        "    tenant = 'a'\n    b = await gather(*(part(y) for y in [1]), limit=(tenant := 3))\n    return x",
        "Python computes this limit before",
    ),
    "one of the module": ("    return await part(x, why=WHY)", "part() has no parameter why"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_inherited_is_refused(name: str, define: Callable[[str], ModuleType]) -> None:
    body, what = REFUSED[name]
    text = (
        "from dressage.flow import Event, gather, inherited, interruptible, task, workflow\nWHY = 'w'\n"
        "rung = Event('rung', of=int)\n"
        "@task\nasync def one(x: int) -> int: ...\n"
        "async def helper(x: int, tenant: str = inherited()) -> int:\n    return x\n"
        "@workflow\nasync def part(x: int, tenant: str = inherited()) -> int:\n    return x\n"
        f"@workflow\nasync def flow(x: int) -> int:\n{body}\n"
    )
    with pytest.raises(DefinitionError) as refused:
        define(text)
    assert what in refused.value.message


def test_a_task_inherits_nothing(define: Callable[[str], ModuleType]) -> None:
    text = "from dressage.flow import inherited, task\n@task\nasync def t(x: int = inherited()) -> int: ...\n"
    with pytest.raises(DefinitionError) as refused:
        define(text)
    assert "a task inherits nothing" in refused.value.message
