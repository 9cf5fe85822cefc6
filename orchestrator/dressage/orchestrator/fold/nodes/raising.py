"""Raising a named failure, or the one that a handler holds."""

from __future__ import annotations

from typing import Any

import msgspec

from dressage.expressions.errors import ExpressionFailed
from dressage.expressions.groups import group_of
from dressage.expressions.limits import parts_of_value
from dressage.expressions.masked import opaque_in
from dressage.expressions.opaque import OpaqueValue
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.branches import CANCELLED
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.limits import limit_details
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.commands import FailureInfo
from dressage.protocol.spec import SAGA_TEXT, RaiseNode
from dressage.protocol.types import ANY


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, RaiseNode)
    failure = _failure(advance, ready, node)
    if node.undone and thread.cancel == "asked":
        thread.cancel = "raised"
        failure = CANCELLED if node.group is None else group_of(failure.causes[1:], SAGA_TEXT)
    advance.fail(thread, failure, thread.node)


def _failure(advance: Advance, ready: ReadyNode, node: RaiseNode) -> FailureInfo:
    if node.reraise is not None:
        held = advance.variable(node.reraise)
        if isinstance(held, FailureInfo):
            return held
    if node.group is not None:
        return _group(advance, ready, node)
    name = node.failure or "failure"
    message = _text(advance, advance.evaluate(ready, "message")) if node.message is not None else ""
    failure = FailureInfo(name, message, family=advance.definition.families.get(name, ()))
    if node.details is None:
        return failure
    given = advance.evaluate(ready, "details")
    if (opaque := opaque_in(given, parts_of_value)) is not None:
        raise ExpressionFailed(f"TypeError: {opaque.said} cannot be told in a failure")
    codec = advance.definition.types.details_of(failure) or advance.definition.types.codec(ANY)
    details = codec.encode(given)
    limit_details(details, f"failure {name}")
    advance.scope.spend(len(details))
    return msgspec.structs.replace(failure, details=msgspec.Raw(details))


def _group(advance: Advance, ready: ReadyNode, node: RaiseNode) -> FailureInfo:
    text = _text(advance, advance.evaluate(ready, "message")) if node.message is not None else ""
    causes = advance.evaluate(ready, "group")
    if (
        not isinstance(causes, list)
        or not all(isinstance(each, FailureInfo) for each in causes)
        or not causes
    ):
        raise ExpressionFailed("TypeError: a group is raised of failures that were caught")
    return group_of(causes, text)


def _text(advance: Advance, value: Any) -> str:
    if isinstance(value, OpaqueValue):
        raise ExpressionFailed(f"TypeError: {value.said} cannot be a failure's message")
    advance.scope.spend_on(value)
    return str(value)
