"""What the tests of the compiler share: definitions from text, and a reference interpreter of specs.

The interpreter is the shortest honest reading of a `WorkflowSpec`. It keeps every value in its stored form between
nodes and sends every argument and result through wire JSON, as an engine would.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from dressage.expressions import ParamsCodec, TypeTable, decode_stored, encode_stored
from dressage.expressions.errors import ExpressionFailed
from dressage.expressions.evaluate import compile_for_frames
from dressage.expressions.frame import Frame
from dressage.flow import WorkflowFailure
from dressage.protocol.commands import FailureInfo
from dressage.protocol.expressions import Expr
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    Node,
    RaiseNode,
    ReturnNode,
    SleepNode,
    TaskNode,
    WorkflowSpec,
    catches,
)
from dressage.simulation import programs

STEPS_MAX = 20_000


@dataclass
class Outcome:
    """How a run ended: with a result, a business failure (name, message, details), or an error's name."""

    result: Any = None
    failure: tuple[str, str, Any] | None = None
    error: str | None = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    slept: list[Any] = field(default_factory=list[Any])


class Caught(Exception):
    """A business failure on its way to a handler."""

    def __init__(self, info: FailureInfo) -> None:
        super().__init__(info.name)
        self.info = info


class Variables(Frame):
    """The variables of a run, which an expression may set with `:=`."""

    def __init__(self, interpreter: Interpreter) -> None:
        super().__init__({})
        self.interpreter = interpreter

    def __getitem__(self, name: str) -> Any:
        return decode_stored(self.interpreter.stored[name], self.interpreter.table)

    def bind(self, name: str, value: Any) -> None:
        self.interpreter.stored[name] = encode_stored(value)


class Interpreter:
    """Runs one spec with fake tasks."""

    def __init__(self, spec: WorkflowSpec, tasks: Mapping[str, Callable[..., Any]]) -> None:
        # What runs is what a registry would hand out, not the objects that the compiler made.
        self.spec = msgspec.json.decode(spec.encode(), type=WorkflowSpec)
        self.tasks = tasks
        self.table = TypeTable(self.spec.types)
        self.stored: dict[str, bytes] = {}
        self.outcome = Outcome()
        self._compiled: dict[int, Any] = {}

    def run(self, given: Mapping[str, Any]) -> Outcome:
        params = ParamsCodec(self.spec.params, self.table).decode(msgspec.json.encode(given))
        for name, value in params.items():
            self._set(name, value)
        number: int | None = self.spec.entry
        for _ in range(STEPS_MAX):
            if number is None:
                return self.outcome
            node = self.spec.nodes[number]
            try:
                number = self._step(node)
            except Caught as failure:
                number = self._handle(node.scope, failure.info)
            except ExpressionFailed as error:
                self.outcome.error = error.message.split(":")[0]
                return self.outcome
        raise AssertionError("the run does not end")

    def _set(self, name: str, value: Any) -> None:
        self.stored[name] = encode_stored(value)

    def _value(self, expr: Expr) -> Any:
        evaluate, _ = self._compiled.setdefault(id(expr), compile_for_frames(expr, self.table))
        return evaluate(Variables(self))

    def _step(self, node: Node) -> int | None:
        match node:
            case TaskNode():
                result = self._call(node)
                if node.target is not None:
                    self._set(node.target, result)
                return node.next
            case AssignNode():
                value = self._value(node.value)
                if node.attribute is not None:
                    record = decode_stored(self.stored[node.target], self.table)
                    value = self.table.with_field(record, node.attribute, value)
                self._set(node.target, value)
                return node.next
            case BranchNode():
                return node.then if self._value(node.test) else node.otherwise
            case SleepNode():
                self.outcome.slept.append(self._value(node.duration))
                return node.next
            case RaiseNode():
                raise Caught(self._failure(node))
            case ReturnNode():
                value = None if node.value is None else self._value(node.value)
                self.outcome.result = msgspec.json.decode(self.table.codec(self.spec.output).encode(value))
                return None

    def _call(self, node: TaskNode) -> Any:
        definition = next(task for task in self.spec.tasks if task.name == node.task)
        params = ParamsCodec(definition.params, self.table)
        args = params.decode(params.encode({name: self._value(expr) for name, expr in node.args.items()}))
        self.outcome.calls.append((node.task, args))
        try:
            result = self.tasks[node.task](**args)
        except WorkflowFailure as failure:
            raise Caught(failure.info()) from failure
        return self.table.codec(definition.output).decode(msgspec.json.encode(result))

    def _failure(self, node: RaiseNode) -> FailureInfo:
        if node.reraise is not None:
            info = decode_stored(self.stored[node.reraise], self.table)
            assert isinstance(info, FailureInfo)
            return info
        message = "" if node.message is None else self._value(node.message)
        details = None if node.details is None else self._value(node.details)
        family = next((each.family for each in self.spec.failures if each.name == node.failure), ())
        raw = msgspec.Raw(msgspec.json.encode(details)) if details else msgspec.UNSET
        return FailureInfo(name=node.failure or "", message=message, details=raw, family=family)

    def _handle(self, scope: int | None, info: FailureInfo) -> int | None:
        while scope is not None:
            for handler in self.spec.scopes[scope].handlers:
                if catches(self.spec, handler, info):
                    if handler.bind is not None:
                        self._set(handler.bind, info)
                    return handler.node
            scope = self.spec.scopes[scope].parent
        details = msgspec.json.decode(info.details) if isinstance(info.details, msgspec.Raw) else {}
        self.outcome.failure = (info.name, info.message, details)
        return None


@pytest.fixture(scope="session")
def interpret() -> Callable[..., Outcome]:
    """Runs a spec: `interpret(spec, tasks by name, params as JSON values)`."""
    return lambda spec, tasks, given: Interpreter(spec, tasks).run(given)


@pytest.fixture(scope="session")
def define() -> Callable[[str], ModuleType]:
    """Executes the text of a module."""
    return programs.define


@pytest.fixture(scope="session")
def shop() -> ModuleType:
    """The example workflow beside this file."""
    path = Path(__file__).with_name("shop.py")
    spec = importlib.util.spec_from_file_location("shop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shop"] = module
    spec.loader.exec_module(module)
    return module
