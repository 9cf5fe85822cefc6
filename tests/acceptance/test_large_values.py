"""Values above the message limit travel beside the messages, and nobody who takes part notices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dressage.flow import App, Large, workflow

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

MIB: Final = 1024 * 1024
DOCUMENT: Final = "a document, and what is in it. " * (20 * MIB // 31)

app = App("large")


@dataclass
class Report:
    title: str
    text: Large[str]


@app.task
async def shout(document: Large[str]) -> Large[str]:
    return document.upper()


@app.task
async def report(title: str, text: Large[str]) -> Report:
    return Report(title, text)


@workflow
async def inner(document: Large[str]) -> Large[str]:
    return await shout(document)


@workflow
async def outer(document: Large[str]) -> Report:
    loud = await inner(document)
    return await report("loud", loud)


async def test_a_document_of_20_mb_goes_through_task_and_child_run(engine: Engine) -> None:
    client = await engine.registered(inner, outer)
    await engine.worker(app)
    handle = await client.start(outer, {"document": DOCUMENT}, run_id="r")
    assert await handle.result(timeout_s=30) == Report("loud", DOCUMENT.upper())
