"""Specs by hand and folds of them: what a compiler of ours would never write is what these tests are about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from dressage.expressions import parse_expression
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import RunState, TaskWait
from dressage.protocol.commands import Command, FailureInfo, StartRun, TaskResult, WorkerInfo
from dressage.protocol.expressions import Expr
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    FailureDef,
    Node,
    RegisteredWorkflow,
    ReturnNode,
    TaskDef,
    TaskNode,
    WorkflowSpec,
)
from dressage.protocol.types import ANY, Field, RecordType

VARIABLES: Final = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
ANYTHING: Final = Field("p", ANY, False, msgspec.Raw(b"null"))


TELLING: Final[dict[str, Any]] = {
    "types": (RecordType("Boom", (Field("text", ANY),)),),
    "failures": (FailureDef("boom", record="Boom"),),
}
"""Parts of a spec whose failure `boom` has a field."""


def expr(text: str) -> Expr:
    """An expression over the variables a to z."""
    return parse_expression(text, VARIABLES)


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def spec_of(nodes: Sequence[Node], **parts: Any) -> WorkflowSpec:
    plain = WorkflowSpec(1, "hostile", (ANYTHING,), ANY, tuple(nodes))
    return msgspec.structs.replace(plain, **parts)


def in_turn(*steps: tuple[str, str | Expr], end: Node | None = None, **parts: Any) -> WorkflowSpec:
    """Assignments one after the other, then `end` (a return)."""
    nodes = [
        AssignNode(name, expr(value) if isinstance(value, str) else value, number + 1)
        for number, (name, value) in enumerate(steps)
    ]
    return spec_of([*nodes, end or ReturnNode()], **parts)


def for_ever(
    before: Sequence[tuple[str, str | Expr]], *body: tuple[str, str | Expr], test: str = "True", **parts: Any
) -> WorkflowSpec:
    """`before`, then `body` again and again while `test` is true."""
    head = len(before)
    out = head + len(body) + 1
    nodes: list[Node] = []
    for name, value in before:
        nodes.append(AssignNode(name, expr(value) if isinstance(value, str) else value, len(nodes) + 1))
    nodes.append(BranchNode(expr(test), head + 1 if body else head, out))
    for name, value in body:
        following = head if len(nodes) + 1 == out else len(nodes) + 1
        nodes.append(AssignNode(name, expr(value) if isinstance(value, str) else value, following))
    return spec_of([*nodes, ReturnNode()], **parts)


def calling(args: Mapping[str, str | Expr], **parts: Any) -> WorkflowSpec:
    """Calls the task `work` and returns what it gives."""
    task = TaskDef("work", tuple(Field(name, ANY) for name in args), ANY)
    given = {name: expr(value) if isinstance(value, str) else value for name, value in args.items()}
    nodes: list[Node] = [TaskNode("work", given, 1, target="r"), ReturnNode(expr("r"))]
    return spec_of(nodes, tasks=(task,), **parts)


class Run:
    """One run of a spec, folded in this process."""

    def __init__(self, spec: WorkflowSpec) -> None:
        self.definition = Definition(RegisteredWorkflow(spec, 1, spec.digest()))
        self.name = spec.name
        self.state: RunState | None = None
        self.seq = 0

    def apply(self, command: Command) -> Outcome:
        self.seq += 1
        outcome = fold(self.state, command, "r", Stamp(self.seq, 1000 * self.seq), self.definition)
        assert isinstance(outcome.state, RunState | None)
        self.state = outcome.state
        return outcome

    def start(self, data: bytes = b"{}") -> Outcome:
        return self.apply(StartRun(self.name, 1, msgspec.Raw(data), "c"))

    def report(self, **result: Any) -> Outcome:
        assert self.state is not None
        wait = self.state.threads[0].wait
        assert isinstance(wait, TaskWait)
        return self.apply(TaskResult(wait.task_id, WorkerInfo("w", 1.0), **result))


def failure_of(outcome: Outcome) -> FailureInfo:
    assert isinstance(outcome.state, RunState)
    assert outcome.state.failure is not None, (outcome.state.status, outcome.code, outcome.message)
    return outcome.state.failure
