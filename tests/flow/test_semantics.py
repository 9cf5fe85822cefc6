"""What docs/semantics.md says of failures, branches and variables, where no other test shows it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest

from dressage.protocol.errors import BadValue
from dressage.testing import WorkflowTest

TEXT = """\
from datetime import timedelta
from dressage.flow import App, WorkflowFailure, gather, sleep, workflow

class First(WorkflowFailure): ...
class Second(WorkflowFailure): ...
app = App("meaning")

@app.task
def work(n: int) -> int:
    if n < 0:
        raise First(f"of {n}")
    return n

@workflow
async def handled(n: int) -> list[str]:
    steps: list[str] = []
    try:
        try:
            await work(n)
            steps = [*steps, "not reached"]
        except First:
            raise Second("from the handler")
        except Second:
            steps = [*steps, "a clause beside it"]
    except Second as failure:
        steps = [*steps, f"around it: {failure.message}"]
    return [*steps, "behind it"]

@workflow
async def kept(n: int) -> list[int]:
    x = y = 1
    try:
        x, y = 2, 1 // n
    except ZeroDivisionError:
        pass
    return [x, y]

@workflow
async def noticed(n: int) -> str:
    async def slow() -> int:
        await sleep(timedelta(hours=1))
        return await work(1)

    try:
        await gather(work(n), slow())
    except ExceptionGroup:
        return "noticed"
    return "well"

@workflow
async def latest(n: int) -> int:
    total = 0
    for i in range(n):
        found = await work(i)
        total = total * 10 + found
    return total

@workflow
async def defaults(n: int = 7) -> int:
    return n
"""


@pytest.fixture(scope="module")
def module(define: Callable[[str], ModuleType]) -> ModuleType:
    return define(TEXT)


def test_point_2_a_handler_that_fails_is_handled_by_the_try_around_and_the_run_goes_on_behind_that(
    module: ModuleType,
) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(module.handled)
    assert test.run(-1).result == ["around it: from the handler", "behind it"]


async def test_an_assignment_that_fails_sets_as_much_as_in_python(module: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(module.kept)
    assert test.run(0).result == await module.kept(0) == [1, 1]
    assert test.run(1).result == await module.kept(1) == [2, 1]


def test_point_5_a_failed_branch_is_noticed_when_the_last_one_has_ended(module: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(module.noticed)
    run = test.run(-1)
    assert run.result == "noticed"
    assert run.elapsed == timedelta(hours=1)
    assert [call.arguments["n"] for call in run.calls] == [-1, 1]


def test_point_23_a_variable_is_what_was_assigned_last(module: ModuleType) -> None:
    test: WorkflowTest[..., Any] = WorkflowTest(module.latest)
    assert test.run(4).result == 123


def test_point_15_a_missing_input_and_null_take_the_default_and_an_unknown_one_is_refused(
    module: ModuleType,
) -> None:
    decode = module.defaults.signature.decode_args
    assert decode(b"{}") == decode(b'{"n": null}') == {"n": 7}
    with pytest.raises(BadValue, match="m"):
        decode(b'{"m": 1}')
