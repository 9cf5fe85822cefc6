"""Which workflow or task is called, looked up in a dict of the module: a lookup and a call, as in Python."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from enum import Enum
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest

from dressage.flow import (
    App,
    ChildError,
    Event,
    Task,
    Workflow,
    first_completed,
    gather,
    interruptible,
    sleep,
    workflow,
)
from dressage.protocol.errors import DefinitionError
from dressage.protocol.spec import BranchNode, ChildNode, TaskNode
from dressage.testing import WorkflowTest

app = App("choices")
moved = Event("moved", of=str)


class Size(Enum):
    SMALL = "s"
    LARGE = "l"


@app.task
def weigh(what: str) -> str:
    return f"weighed {what}"


@app.task
def measure(thing: str) -> str:
    return f"measured {thing}"


@workflow
async def ship_dhl(parcel: str) -> str:
    await sleep(timedelta(milliseconds=1))
    return f"dhl {await weigh(parcel)}"


@workflow
async def ship_ups(box: str) -> str:
    return f"ups {box}"


CARRIERS: dict[str, Workflow[[str], str]] = {"dhl": ship_dhl, "ups": ship_ups, "brown": ship_ups}
BY_SIZE: dict[Size, Task[[str], str]] = {Size.SMALL: weigh, Size.LARGE: measure}
NUMBERED: dict[int, Task[[str], str] | Workflow[[str], str]] = {
    1: weigh.options(retries=2),
    2: weigh.options(retries=3),
    10: ship_ups,
}


@workflow
async def ship(carrier: str, parcel: str) -> str:
    try:
        return await CARRIERS[carrier](parcel)
    except KeyError as error:
        return f"nobody: {error}"


@workflow
async def ship_by(size: Size) -> str:
    return await BY_SIZE[size](size.value)


@workflow
async def ordered(carrier: str) -> str:
    """The key, the lookup, what is given: in Python's order."""
    told = carrier
    try:
        return await CARRIERS[(told := f"{told} key") and carrier](await weigh(told := f"{told} given"))
    except KeyError:
        return f"no carrier: {told}"


@workflow
async def several(carriers: list[str]) -> str:
    both = await gather(CARRIERS[carriers[0]]("a"), BY_SIZE[Size.LARGE]("b"))
    all_of = await gather(*(CARRIERS[each](each) for each in carriers if each in CARRIERS), limit=2)
    return f"{both} {all_of} {len([each for each in carriers if each not in CARRIERS])}"


@workflow
async def raced(carrier: str) -> str:
    match await first_completed(CARRIERS[carrier]("a"), sleep(timedelta(hours=1))):
        case 0, told:
            return f"first: {told}"
        case _:
            return "late"


async def noted(where: str) -> None:
    await weigh(where)


@workflow
async def interrupted(carrier: str) -> str:
    return await interruptible(CARRIERS[carrier]("a"), moved.interrupts(noted))


@workflow
async def detached(carrier: str) -> str:
    try:
        first = await CARRIERS[carrier].options(run_id=f"{carrier} 1", parent_close="request").start("a")
        await CARRIERS[carrier].options(run_id=await weigh(carrier)).start(carrier)
        await CARRIERS["ups"].options(run_id=first)("b")
    except ChildError as error:
        return f"{error}"[:20]
    return first


@workflow
async def numbered(number: int) -> str:
    return await NUMBERED[number]("it")


CASES: list[tuple[Workflow[..., str], list[tuple[Any, ...]]]] = [
    (ship, [("dhl", "p"), ("ups", "p"), ("brown", "p"), ("none", "p")]),
    (ship_by, [(Size.SMALL,), (Size.LARGE,)]),
    (ordered, [("dhl",), ("none",)]),
    (several, [(["dhl", "ups", "none"],), (["brown"],)]),
    (raced, [("dhl",), ("ups",)]),
    (numbered, [(1,), (2,), (10,)]),
]


@pytest.mark.parametrize(
    ("flow", "given"), [(flow, given) for flow, inputs in CASES for given in inputs], ids=str
)
def test_what_is_looked_up_and_called_is_the_same_as_in_python(
    flow: Workflow[..., str], given: tuple[Any, ...]
) -> None:
    assert WorkflowTest(flow, app=app).run(*given).result == asyncio.run(flow(*given))


def test_an_unknown_key_is_the_error_of_python_and_nothing_is_called() -> None:
    run = WorkflowTest(numbered, app=app).run(3)
    assert run.failure is not None
    assert (run.failure.family[0], run.failure.message.endswith("KeyError: 3")) == ("KeyError", True)
    assert run.calls == []
    with pytest.raises(KeyError, match="3"):
        asyncio.run(numbered(3))


def test_what_is_awaited_for_the_call_comes_behind_the_lookup() -> None:
    run = WorkflowTest(ordered, app=app).run("none")
    assert (run.result, run.calls) == ("no carrier: none key", [])
    assert [call.task for call in WorkflowTest(ordered, app=app).run("dhl").calls] == ["weigh"]


def test_a_chosen_child_is_started_and_given_an_id_as_any_other() -> None:
    run = WorkflowTest(detached, app=app).run("dhl")
    assert [child.run_id for child in run.children] == ["dhl 1", "weighed dhl"]
    assert run.result == "run 'dhl 1' exists, "


def test_a_chosen_child_can_be_what_is_interrupted() -> None:
    run = WorkflowTest(interrupted, app=app).start("dhl")
    run.post(moved, "north")
    assert run.finish().result == "dhl weighed a"
    assert [call.task for call in run.calls] == ["weigh"]


def test_it_is_a_lookup_and_one_call_of_each_and_all_are_children() -> None:
    (looked_up, test, *calls) = ship.spec.nodes[:4]
    assert (looked_up.line, isinstance(test, BranchNode)) == (test.line, True)
    assert [(each.workflow, list(each.args)) for each in calls if isinstance(each, ChildNode)] == [
        ("ship-dhl", ["parcel"]),
        ("ship-ups", ["box"]),
    ]
    assert [each.workflow for each in ship.spec.children] == ["ship-dhl", "ship-ups"]
    assert [each.name for each in ship.with_children()] == ["ship-dhl", "ship-ups", "ship"]


def test_tasks_of_one_name_with_other_options_are_two() -> None:
    nodes = [each for each in numbered.spec.nodes if isinstance(each, TaskNode)]
    assert [each.retry.retries for each in nodes if each.retry is not None] == [2, 3]


def test_a_dict_that_changes_later_changes_nothing(define: Callable[[str], ModuleType]) -> None:
    module = define(
        dedent("""
        from dressage.flow import workflow

        @workflow
        async def first() -> int:
            return 1

        @workflow
        async def second() -> int:
            return 2

        BOTH = {"a": first}

        @workflow
        async def flow() -> int:
            return await BOTH["a"]()

        BOTH["a"] = second
        """)
    )
    assert WorkflowTest(module.flow).run().result == 1


def test_what_they_give_is_checked_as_what_any_of_them_gives(define: Callable[[str], ModuleType]) -> None:
    with pytest.raises(DefinitionError, match="attribute count of a int"):
        define(
            dedent("""
            from dressage.flow import workflow

            @workflow
            async def first() -> int:
                return 1

            BOTH = {"a": first}

            @workflow
            async def flow() -> int:
                return (await BOTH["a"]()).count
            """)
        )
