"""Control flow and branches as issue 4 lists them: each test is one construct, run by the real engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

from dressage.client import RunFailed
from dressage.flow import App, TaskError, WorkflowFailure, gather, sleep, workflow
from dressage.protocol.errors import DefinitionError

if TYPE_CHECKING:
    from tests.acceptance.conftest import Run  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio


app = App("language-control")
calls: list[str] = []


class NotFound(WorkflowFailure):
    wanted: str


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: int
    y: int = 0


@dataclass
class Circle:
    centre: Point
    radius: int


@app.task
def echo(text: str) -> str:
    calls.append(text)
    return text


@app.task
async def late_echo(text: str, wait_s: float) -> str:
    await asyncio.sleep(wait_s)
    calls.append(text)
    return text


@app.task
def double(number: int) -> int:
    return 2 * number


@app.task
def find(wanted: str) -> str:
    raise NotFound(f"no {wanted}", wanted=wanted)


@app.task
def break_down(text: str) -> str:
    raise OSError(text)


@workflow
async def c_grade(points: int) -> str:
    if points >= 90:
        grade = await echo("A")
    elif points >= 80:
        grade = await echo("B")
    elif points >= 70:
        grade = "C"
    else:
        grade = await echo("F")
    return grade


@pytest.mark.parametrize(("points", "grade"), [(95, "A"), (85, "B"), (75, "C"), (5, "F")])
async def test_if_elif_else_takes_one_way(run: Run, points: int, grade: str) -> None:
    assert await run(c_grade, points=points) == grade
    assert calls == ([] if grade == "C" else [grade])


@workflow
async def c_either(fast: bool) -> str:
    way = await echo("air") if fast else await echo("sea")
    return f"{way}, {'dear' if fast else 'cheap'}"


async def test_a_conditional_expression_calls_only_the_task_of_its_side(run: Run) -> None:
    assert await run(c_either, fast=True) == "air, dear"
    assert await run(c_either, fast=False) == "sea, cheap"
    assert calls == ["air", "sea"]


@workflow
async def c_match_value(value: int | str | bool | None) -> str:
    match value:
        case None:
            return "nothing"
        case True | False:
            return "a bool"
        case 1:
            return await echo("one")
        case "a" | "b":
            return "a letter"
        case int() as number if number > 100:
            return f"large {number}"
        case _:
            return "other"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "nothing"),
        (True, "a bool"),
        (1, "one"),
        ("b", "a letter"),
        (101, "large 101"),
        (2, "other"),
        ("c", "other"),
    ],
)
async def test_match_takes_the_case_of_a_value(run: Run, value: object, said: str) -> None:
    assert await run(c_match_value, value=value) == said


@workflow
async def c_match_enum(colour: Colour) -> str:
    match colour:
        case Colour.RED:
            said = await echo("stop")
        case _:
            said = await echo("wonder")
    return said


async def test_match_takes_members_of_an_enum(run: Run) -> None:
    assert await run(c_match_enum, colour=Colour.BLUE) == "wonder"


def test_match_over_all_members_of_an_enum_is_told_to_add_a_default() -> None:
    with pytest.raises(DefinitionError, match="add `case _:` at its end"):

        @workflow
        async def c_exhaustive(colour: Colour) -> str:
            match colour:
                case Colour.RED:
                    return await echo("stop")
                case Colour.BLUE:
                    return await echo("wonder")


@workflow
async def c_match_sequence(words: list[str]) -> str:
    match words:
        case []:
            return "silence"
        case ["go", direction]:
            return f"went {await echo(direction)}"
        case ["take", *things, "now"]:
            return f"took {len(things)}"
        case [one]:
            return f"just {one}"
        case [first, *_]:
            return f"{first} and more"
        case _:
            return "no list"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "silence"),
        (["go", "north"], "went north"),
        (["take", "a", "b", "now"], "took 2"),
        (["x"], "just x"),
        (["x", "y"], "x and more"),
    ],
)
async def test_match_takes_sequences_apart(run: Run, words: list[str], said: str) -> None:
    assert await run(c_match_sequence, words=words) == said


@workflow
async def c_match_mapping(event: dict[str, Any]) -> str:
    match event:
        case {"kind": "click", "at": [x, y]}:
            return f"click {x},{y}"
        case {"kind": "key", "key": str(key), **rest}:
            return f"key {key} {sorted(rest)}"
        case {"kind": kind}:
            return f"unknown {kind}"
        case _:
            return "no event"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"kind": "click", "at": [1, 2], "more": 1}, "click 1,2"),
        ({"kind": "key", "key": "q", "shift": True, "alt": False}, "key q ['alt', 'shift']"),
        ({"kind": "key", "key": 5}, "unknown key"),
        ({}, "no event"),
    ],
)
async def test_match_takes_mappings_apart(run: Run, event: dict[str, Any], said: str) -> None:
    assert await run(c_match_mapping, event=event) == said


@workflow
async def c_match_record(shape: Circle | None) -> str:
    match shape:
        case None:
            return "no shape"
        case Circle(centre=Point(0, 0), radius=radius):
            return f"around the origin, {radius}"
        case Circle(Point(x=x), 1 | 2 as radius):
            return f"small {radius} at {x}"
        case Circle(radius=radius) if radius < 0:
            return "inside out"
        case _:
            return "somewhere"


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (None, "no shape"),
        (Circle(Point(0), 7), "around the origin, 7"),
        (Circle(Point(5, 1), 2), "small 2 at 5"),
        (Circle(Point(5, 1), -1), "inside out"),
        (Circle(Point(5, 1), 9), "somewhere"),
    ],
)
async def test_match_takes_dataclasses_apart(run: Run, shape: Circle | None, said: str) -> None:
    assert await run(c_match_record, shape=shape) == said


@workflow
async def c_while(limit: int) -> int:
    value, rounds = 1, 0
    while value < limit:
        value = await double(value)
        rounds += 1
    return rounds


async def test_while_asks_its_condition_before_each_round(run: Run) -> None:
    assert await run(c_while, limit=100) == 7
    assert await run(c_while, limit=0) == 0


@workflow
async def c_poll(enough: int) -> int:
    seen = 0
    while (seen := await double(seen + 1)) < enough:
        await sleep(timedelta(milliseconds=10))
    return seen


async def test_while_can_ask_a_task_and_sleep_between(run: Run) -> None:
    assert await run(c_poll, enough=20) == 30


@workflow
async def c_for_list(items: list[str]) -> list[str]:
    found: list[str] = []
    for item in items:
        found = [*found, await echo(item)]
    return found


async def test_for_goes_through_a_list(run: Run) -> None:
    assert await run(c_for_list, items=["b", "a", "b"]) == ["b", "a", "b"]
    assert calls == ["b", "a", "b"]


@workflow
async def c_for_dict(stock: dict[str, int]) -> str:
    keys, total, pairs = "", 0, ""
    for key in stock:
        keys += key
    for count in stock.values():
        total += count
    for key, count in stock.items():
        pairs += f"{await echo(key)}{count} "
    return f"{keys} {total} {pairs.strip()}"


async def test_for_goes_through_a_dict_and_its_views_in_order(run: Run) -> None:
    assert await run(c_for_dict, stock={"z": 1, "a": 2}) == "za 3 z1 a2"


@workflow
async def c_for_range(first: int, last: int, step: int) -> list[int]:
    found: list[int] = []
    for number in range(first, last, step):
        found = [*found, await double(number)]
    return found


async def test_for_goes_through_a_range(run: Run) -> None:
    assert await run(c_for_range, first=3, last=0, step=-1) == [6, 4, 2]
    assert await run(c_for_range, first=3, last=0, step=1) == []
    with pytest.raises(RunFailed, match="must not be zero"):
        await run(c_for_range, first=3, last=0, step=0)


@workflow
async def c_for_pairs(names: list[str], ages: list[int]) -> str:
    said = ""
    for place, (name, age) in enumerate(zip(names, ages, strict=False), start=1):
        said += f"{place}:{await echo(name)}={age} "
    return said.strip()


async def test_for_goes_through_enumerate_and_zip(run: Run) -> None:
    assert await run(c_for_pairs, names=["a", "b", "c"], ages=[7, 8]) == "1:a=7 2:b=8"


@workflow
async def c_strict(names: list[str], ages: list[int]) -> str:
    said = ""
    try:
        for name, age in zip(names, ages, strict=True):
            said += f"{await echo(name)}{age}"
    except ValueError as error:
        return f"{said}: {error}"
    return said


async def test_a_strict_zip_fails_where_python_fails(run: Run) -> None:
    said = await run(c_strict, names=["a", "b"], ages=[1])
    assert said == "a1: zip() argument 2 is shorter than argument 1"


@workflow
async def c_nested_loops(rows: list[list[int]]) -> str:
    said = ""
    for row in rows:
        for number in row:
            if number == 0:
                continue
            if number < 0:
                break
            said += f"{await double(number)} "
        else:
            said += "| "
        if said.endswith("8 | "):
            break
    return said


async def test_break_and_continue_belong_to_the_loop_around_them(run: Run) -> None:
    assert await run(c_nested_loops, rows=[[1, 0, 2], [3, -1, 9], [4], [5]]) == "2 4 | 6 8 | "


@workflow
async def c_search(items: list[str], wanted: str) -> str:
    for item in items:
        if await echo(item) == wanted:
            found = f"found {item}"
            break
    else:
        found = await echo("nothing")
    return found


async def test_a_for_with_else_runs_it_when_nothing_broke_out(run: Run) -> None:
    assert await run(c_search, items=["a", "b"], wanted="c") == "nothing"
    assert await run(c_search, items=[], wanted="c") == "nothing"


async def test_a_for_with_else_leaves_it_out_after_break(run: Run) -> None:
    assert await run(c_search, items=["a", "b", "c"], wanted="b") == "found b"
    assert calls == ["a", "b"]


@workflow
async def c_attempts(most: int, lucky: int) -> str:
    attempt = 0
    while attempt < most:
        attempt += 1
        if await double(attempt) == lucky:
            break
    else:
        return "gave up"
    return f"attempt {attempt}"


async def test_a_while_with_else_runs_it_when_nothing_broke_out(run: Run) -> None:
    assert await run(c_attempts, most=3, lucky=4) == "attempt 2"
    assert await run(c_attempts, most=3, lucky=5) == "gave up"


@workflow
async def c_early(items: list[str]) -> str:
    if not items:
        return "empty"
    for item in items:
        for letter in item:
            if letter == "!":
                return f"loud {await echo(item)}"
    return "quiet"


async def test_return_leaves_all_loops_at_once(run: Run) -> None:
    assert await run(c_early, items=[]) == "empty"
    assert await run(c_early, items=["a", "b!", "c!"]) == "loud b!"
    assert await run(c_early, items=["a"]) == "quiet"


@workflow
async def c_nothing(text: str) -> None:
    if text == "":
        return
    await echo(text)


async def test_a_workflow_may_return_nothing(run: Run) -> None:
    assert await run(c_nothing, text="") is None
    assert await run(c_nothing, text="x") is None
    assert calls == ["x"]


@workflow
async def c_nested(prefix: str, words: list[str]) -> list[str]:
    def shouted(word: str) -> str:
        return f"{prefix}{word}".upper()

    async def told(word: str, times: int = 1) -> str:
        said = ""
        for _ in range(times):
            said += await echo(shouted(word))
        return said

    found = [await told("x", times=2)]
    for word in words:
        prefix = f"{prefix}."
        found = [*found, await told(word)]
    return found


async def test_nested_functions_read_what_is_around_them_when_they_are_called(run: Run) -> None:
    assert await run(c_nested, prefix="p", words=["a", "b"]) == ["PXPX", "P.A", "P..B"]


async def found_or(wanted: str, instead: str) -> str:
    try:
        return await find(wanted)
    except NotFound as failure:
        return f"{instead} for {failure.wanted}"


async def both(first: str, second: str) -> str:
    return f"{await found_or(first, 'a')}, {await found_or(second, instead='b')}"


@workflow
async def c_helper(wanted: str) -> str:
    return await both(wanted, f"{wanted}s")


async def test_module_level_helpers_call_each_other_and_handle_failures(run: Run) -> None:
    assert await run(c_helper, wanted="cat") == "a for cat, b for cats"


async def raising(wanted: str) -> str:
    found = await find(wanted)
    return f"never {found}"


@workflow
async def c_helper_fails(wanted: str) -> str:
    try:
        return await raising(wanted)
    except NotFound as failure:
        return f"{failure.name}: {failure.message}"


async def test_a_failure_in_a_helper_goes_to_the_try_around_the_call(run: Run) -> None:
    assert await run(c_helper_fails, wanted="cat") == "not-found: no cat"


async def greeted(name: str) -> str:
    await sleep(timedelta(milliseconds=20))
    return await echo(f"hello {name}")


@workflow
async def c_helper_threads(names: list[str]) -> list[str]:
    first, second = await gather(greeted(names[0]), greeted(names[1]))
    return [first, second]


async def test_helpers_run_as_child_threads(run: Run) -> None:
    assert await run(c_helper_threads, names=["ann", "bob"]) == ["hello ann", "hello bob"]


@workflow
async def c_order() -> list[str]:
    slow, quick, number, _ = await gather(
        late_echo("slow", 0.3), late_echo("quick", 0.0), double(4), sleep(timedelta(milliseconds=10))
    )
    return [slow, quick, str(number)]


async def test_outputs_of_gather_are_in_the_order_of_the_branches(run: Run) -> None:
    assert await run(c_order) == ["slow", "quick", "8"]
    assert calls == ["quick", "slow"]


@workflow
async def c_whole() -> tuple[int, str]:
    return await gather(double(1), echo("x"))


async def test_the_result_of_gather_is_a_tuple(run: Run) -> None:
    assert await run(c_whole) == (2, "x")


@workflow
async def c_gather_in_loop(rounds: int) -> list[int]:
    sums: list[int] = []
    for place in range(rounds):
        left, right = await gather(double(place), double(place + 1))
        sums = [*sums, left + right]
    return sums


async def test_gather_in_a_loop_starts_branches_anew(run: Run) -> None:
    assert await run(c_gather_in_loop, rounds=3) == [2, 6, 10]


@workflow
async def c_gather_in_gather() -> list[str]:
    async def pair(name: str) -> str:
        left, right = await gather(echo(f"{name}1"), echo(f"{name}2"))
        return f"{left}{right}"

    first, second = await gather(pair("a"), pair("b"))
    return [first, second]


async def test_gather_in_gather(run: Run) -> None:
    assert await run(c_gather_in_gather) == ["a1a2", "b1b2"]


@workflow
async def c_group() -> str:
    first, _, _ = await gather(late_echo("ok", 0.1), find("cat"), break_down("smoke"))
    return first


async def test_failures_of_branches_surface_as_one_group_after_all_have_ended(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(c_group)
    assert caught.value.failure.kind == "group"
    missing, broken = caught.value.failure.causes
    assert (missing.name, missing.message) == ("not-found", "no cat")
    assert (broken.kind, broken.message) == ("task-error", "smoke (task break-down, attempt 1 of 1)")
    assert calls == ["ok"]


@workflow
async def c_group_caught() -> str:
    try:
        await gather(find("cat"), break_down("smoke"), find("dog"))
    except ExceptionGroup as group:
        return f"{len(group.exceptions)}: {group}"
    return "no failure"


async def test_a_group_is_caught_and_says_how_many(run: Run) -> None:
    assert await run(c_group_caught) == "3: branches failed (3 sub-exceptions)"


@workflow
async def c_group_parts() -> str:
    said = ""
    try:
        await gather(find("cat"), break_down("smoke"), find("dog"))
    except* NotFound as missing:
        for each in missing.exceptions:
            said += f"{each} "
    except* TaskError as broken:
        said += f"and {len(broken.exceptions)}"
    return said


async def test_except_star_takes_the_parts_of_a_group(run: Run) -> None:
    assert await run(c_group_parts) == "no cat no dog and 1"


@workflow
async def c_fan_out(items: list[str]) -> list[str]:
    async def told(item: str) -> str:
        return await echo(item)

    first, second, third = await gather(told(items[0]), told(items[1]), told(items[2]))
    return [first, second, third]


async def test_branches_are_given_items_of_a_list_by_place(run: Run) -> None:
    assert await run(c_fan_out, items=["a", "b", "c"]) == ["a", "b", "c"]
    with pytest.raises(RunFailed, match="list index out of range"):
        await run(c_fan_out, items=["a"])
    assert sorted(calls) == ["a", "b", "c"]
