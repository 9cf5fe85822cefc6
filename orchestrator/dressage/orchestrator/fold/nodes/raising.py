"""Raising a named failure, or the one that a handler holds."""

from __future__ import annotations

import msgspec

from dressage.orchestrator.fold.advance import Advance, bounded, wire
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.commands import FailureInfo
from dressage.protocol.spec import RaiseNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, RaiseNode)
    advance.fail(thread, bounded(_failure(advance, ready, node)), thread.node)


def _failure(advance: Advance, ready: ReadyNode, node: RaiseNode) -> FailureInfo:
    if node.reraise is not None:
        held = advance.scope[node.reraise]
        if isinstance(held, FailureInfo):
            return held
    name = node.failure or "failure"
    message = str(advance.evaluate(ready, "message")) if node.message is not None else ""
    details = (
        msgspec.Raw(wire(advance.evaluate(ready, "details"))) if node.details is not None else msgspec.UNSET
    )
    return FailureInfo(name, message, details=details, family=advance.definition.families.get(name, ()))
