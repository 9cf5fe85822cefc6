"""Large values in unit tests: they are there, whatever their size, and travel as the engine's do."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from dressage.flow import Event, Large, Workflow, gather, task, workflow
from dressage.protocol.errors import BadValue
from dressage.protocol.expressions import Const
from dressage.protocol.large import INLINE_BYTES_MAX
from dressage.protocol.spec import ChildNode
from dressage.testing import WorkflowTest

LONG = "a long text " * 200_000
"""More than any value of a run may have."""

document_came = Event("document-came", of=Large[str])


@dataclass
class Page:
    number: int
    text: Large[str]


@task
async def shout(text: Large[str]) -> Large[str]:
    return text.upper()


@task
async def paged(text: Large[str]) -> list[Page]:
    return [Page(0, text), Page(1, text.upper()), Page(2, "short")]


@task
async def joined(pages: list[Page], loud: Large[str | None]) -> Large[str]:
    return "".join(page.text for page in pages) + str(loud)


@task
async def kept(given: Large[dict[str, Any]]) -> Large[dict[str, Any]]:
    return given


@workflow
async def inner(text: Large[str]) -> Large[str]:
    return await shout(text)


@workflow
async def outer(text: Large[str], loud: Large[str | None] = None) -> Large[str]:
    if loud is None:
        loud = await inner(text)
    pages = await paged(text)
    first, second = await gather(shout(text), shout(text))
    return await joined([*pages, Page(3, first), Page(4, second)], loud)


@workflow
async def waits() -> Large[str]:
    text = await document_came.wait()
    return await shout(text)


@workflow
async def keeps(given: Large[dict[str, Any]]) -> Large[dict[str, Any]]:
    return await kept(given)


def wanted(text: str) -> str:
    return text + text.upper() + "short" + 3 * text.upper()


@pytest.mark.parametrize("text", ["short", LONG], ids=["short", "long"])
def test_a_run_is_given_and_gives_them(text: str) -> None:
    run = WorkflowTest(outer).run(text)
    assert run.result == wanted(text)
    assert [len(call.arguments["text"]) for call in run.calls if call.task == "shout"] == [len(text)] * 2


async def test_plain_python_has_them_as_they_are() -> None:
    assert await outer(LONG) == wanted(LONG)


@pytest.mark.parametrize("text", ["short", LONG], ids=["short", "long"])
def test_an_external_event_has_one(text: str) -> None:
    assert WorkflowTest(waits).comes(document_came, text).run().result == text.upper()


def test_events_show_a_reference_and_not_the_value() -> None:
    run = WorkflowTest(inner).run(LONG)
    (completed,) = [event for event in run.events if event.kind == "task-completed"]
    shown = completed.data["output"]["$large"]
    assert shown["size"] == len(LONG) + 2
    assert len(shown["sha256"]) == 64
    assert all(len(str(event.data)) < 2_000 for event in run.events)


def test_a_small_one_is_shown_as_it_is() -> None:
    run = WorkflowTest(inner).run("x" * (INLINE_BYTES_MAX - 2))
    (completed,) = [event for event in run.events if event.kind == "task-completed"]
    assert completed.data["output"] == "X" * (INLINE_BYTES_MAX - 2)


@pytest.mark.parametrize(
    "value",
    [
        {"$large": {"sha256": "0" * 64, "size": 1, "encoding": "json"}},
        {"$large": 1},
        {"$large": 1, "and": "more"},
        {"inside": {"$large": {}}},
    ],
)
def test_a_value_that_looks_like_a_reference_is_a_value(value: dict[str, Any]) -> None:
    assert WorkflowTest(keeps).run(value).result == value


def test_a_value_of_another_type_is_refused() -> None:
    with pytest.raises(BadValue):
        WorkflowTest(inner).run(5)  # type: ignore[arg-type]


# -- of another root: no compiler writes such specs, and others may ----------------------------------------
@task
async def long_text(times: int) -> Large[str]:
    return times * LONG


@workflow
async def gives(times: int) -> Large[str]:
    return await long_text(times)


@workflow
async def hands_on(text: Large[str]) -> Large[str]:
    return await inner(text)


@workflow
async def takes_back(times: int) -> Large[str]:
    return await gives(times)


def with_another_root(found: Workflow[..., Any]) -> Workflow[..., Any]:
    """The same workflow, whose child run has an id of its own."""
    made = copy(found)
    chosen = Const(msgspec.Raw(b'"another"'))
    nodes = tuple(
        msgspec.structs.replace(node, run_id=chosen) if isinstance(node, ChildNode) else node
        for node in found.spec.nodes
    )
    made.spec = msgspec.structs.replace(found.spec, nodes=nodes)
    return made


def test_a_run_of_another_root_is_not_given_a_reference() -> None:
    test = WorkflowTest(with_another_root(hands_on))
    assert test.run("short").result == "SHORT"
    failed = test.run(LONG).failure
    assert failed is not None
    assert "run 'another' would not find a large value of this run" in failed.message


def test_a_reference_of_another_root_is_no_result() -> None:
    test = WorkflowTest(with_another_root(takes_back))
    assert test.run(0).result == ""
    failed = test.run(1).failure
    assert failed is not None
    assert (failed.name, failed.kind) == ("output-type", "type-error")
    assert "it is stored for the runs of another root" in failed.message
