"""The examples of docs/interrupts.md are tests, and pass; its commands are there."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from tests.docs.commands import check_command, commands_of  # pyright: ignore[reportMissingImports]

from dressage.simulation.programs import define
from dressage.testing import FakeTask, WorkflowTest

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "interrupts.md").read_text()
SOURCE: Final = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS: Final = re.findall(r"^def (test_\w+)", SOURCE, re.MULTILINE)


@pytest.fixture(scope="module")
def examples() -> Any:
    return define(SOURCE)


@pytest.mark.parametrize("name", TESTS)
def test_an_example_of_the_page_passes(examples: Any, name: str) -> None:
    getattr(examples, name)()


@pytest.mark.parametrize("fails", [False, True])
def test_what_has_come_for_a_body_that_is_cancelled_is_of_no_effect(examples: Any, *, fails: bool) -> None:
    text = (
        "from datetime import timedelta\n"
        "from dressage.flow import interruptible, sleep, workflow\n"
        "@workflow\n"
        "async def loaded(parcel: str) -> str:\n"
        "    async def give_up() -> None:\n"
        "        await sleep(timedelta(hours=2))\n"
        "        raise Cancelled(parcel)\n"
        "    return await interruptible(load(parcel), order_cancelled.interrupts(give_up))\n"
    )
    test: WorkflowTest[..., Any] = WorkflowTest(define(f"{SOURCE}\n\n{text}").loaded, examples.app)
    load: FakeTask[..., Any] = test.task(examples.load)
    load = load.fails(examples.Cancelled("no truck")) if fails else load.returns("a truck")
    load.takes(timedelta(hours=1))
    run = test.start("p-1").post(examples.order_cancelled).finish()
    assert run.failure is not None
    assert (run.failure.name, run.failure.message) == ("cancelled", "p-1")
    told = [event.kind for event in run.events if event.kind in ("task-failed", "task-completed")]
    assert told == ["task-failed" if fails else "task-completed"]


@pytest.mark.parametrize("line", commands_of(PAGE))
def test_a_command_of_the_page_is_understood(line: str) -> None:
    check_command(line)
