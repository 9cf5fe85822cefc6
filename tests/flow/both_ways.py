"""One workflow, run by Python itself and by the engine's own fold, against the same fake tasks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from dressage.client.client import RunFailed
from dressage.flow import Task, Workflow, WorkflowFailure
from dressage.protocol.commands import FailureInfo
from dressage.testing import WorkflowTest

Calls = list[tuple[str, dict[str, Any]]]
Fakes = Mapping[Task[..., Any], Callable[..., Any]]


def both_ways(workflow: Workflow[..., Any], fakes: Fakes, *args: Any) -> tuple[Any, Calls]:
    """What it comes to, and the calls in their order: first by Python, then the same by the fold, or the test fails."""
    expected = _by_python(workflow, fakes, *args)
    found = _by_fold(workflow, fakes, *args)
    assert found == expected, (found, expected)
    return expected


def _noting(calls: Calls, task: Task[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    names = [param.name for param in task.definition.params]

    def call(*args: Any, **keywords: Any) -> Any:
        given = {**dict(zip(names, args, strict=False)), **keywords}
        calls.append((task.name, given))
        return fake(**given)

    return call


def _by_python(workflow: Workflow[..., Any], fakes: Fakes, *args: Any) -> tuple[Any, Calls]:
    calls: Calls = []
    with contextlib.ExitStack() as stack:
        for task, fake in fakes.items():
            stack.enter_context(task.faked(_noting(calls, task, fake)))
        try:
            return asyncio.run(workflow(*args)), calls
        except Exception as error:
            return _raised(error), calls


def _by_fold(workflow: Workflow[..., Any], fakes: Fakes, *args: Any) -> tuple[Any, Calls]:
    calls: Calls = []
    test: WorkflowTest[..., Any] = WorkflowTest(workflow)
    called = {task.name for task in workflow.spec.tasks}
    for task, fake in fakes.items():
        if task.name not in called:
            continue
        test.task(task).does(_noting(calls, task, fake))
    run = test.run(*args)
    try:
        return run.result, calls
    except RunFailed as failed:
        return _failed(failed.failure), calls


def _raised(error: BaseException) -> Any:
    if isinstance(error, WorkflowFailure):
        return (error.name, error.message)
    if isinstance(error, BaseExceptionGroup):
        return [_raised(each) for each in error.exceptions]
    return type(error).__name__


def _failed(info: FailureInfo) -> Any:
    if info.kind == "failure":
        return (info.name, info.message)
    return [_failed(each) for each in info.causes] if info.kind == "group" else info.family[0]
