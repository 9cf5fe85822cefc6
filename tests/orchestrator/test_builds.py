"""Builds as a fold and the names see them: where attempts of a version go."""

from __future__ import annotations

import msgspec
import pytest

from dressage.flow import App, workflow
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import DispatchTask
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import RunState, TaskWait
from dressage.protocol.commands import FailureInfo, StartRun, TaskResult, WorkerInfo
from dressage.protocol.errors import BadName
from dressage.protocol.names import NAME_CHARS_MAX, build_queue, queue_text
from dressage.protocol.spec import RegisteredWorkflow, registered_digest
from dressage.protocol.spec_reading import read_registered

app = App("shop")


@app.task(retries=1)
def work(n: int) -> int:
    return n


@workflow
async def working(n: int) -> int:
    return await work(n)


def registered(build: str) -> RegisteredWorkflow:
    return RegisteredWorkflow(working.spec, 1, registered_digest(working.spec, {}, build), build=build)


def queues(outcome: Outcome) -> list[str]:
    return [effect.queue for effect in outcome.effects if isinstance(effect, DispatchTask)]


@pytest.mark.parametrize(("build", "queue"), [("", "shop"), ("b2", "shop_b2")])
def test_each_attempt_goes_to_the_queue_of_the_versions_build(build: str, queue: str) -> None:
    definition = Definition(registered(build))
    start = StartRun(working.name, 1, msgspec.Raw(b'{"n": 1}'), "start")
    begun = fold(None, start, "r", Stamp(1, 0), definition)
    assert queues(begun) == [queue]
    assert isinstance(begun.run, RunState)
    wait = begun.run.threads[0].wait
    assert isinstance(wait, TaskWait)
    assert wait.queue == queue
    error = FailureInfo("OSError", "down", "task-error")
    failed = TaskResult(wait.task_id, WorkerInfo("w", 1.0, build), error=error)
    assert queues(fold(begun.run, failed, "r", Stamp(2, 1), definition)) == [queue]


def test_a_build_is_part_of_what_a_version_is_and_none_is_as_it_was() -> None:
    plain, of_build = registered_digest(working.spec, {}), registered_digest(working.spec, {}, "b2")
    assert plain == working.spec.digest()
    assert len({plain, of_build, registered_digest(working.spec, {"b2": 1}), registered("b3").digest}) == 4


def test_a_version_that_was_stored_before_there_were_builds_has_none() -> None:
    stored = msgspec.json.decode(msgspec.json.encode(registered("b2")))
    del stored["build"]
    assert read_registered(msgspec.json.encode(stored)).build == ""


def test_no_queue_of_a_build_is_another_tasks_or_another_builds() -> None:
    pairs = [("a", "b-c"), ("a-b", "c"), ("a-b-c", ""), ("a", "b"), ("a-b", ""), ("a", "")]
    assert len({build_queue(*pair) for pair in pairs}) == len(pairs)
    assert [queue_text(build_queue(*pair)) for pair in pairs[1:3]] == ["a-b of build c", "a-b-c"]


@pytest.mark.parametrize("build", ["2.4.1", "B", "a_b", "-a", "b" * (NAME_CHARS_MAX + 1)])
def test_what_is_no_name_is_no_build(build: str) -> None:
    with pytest.raises(BadName, match="use 1 to 63 characters"):
        build_queue("shop", build)
