"""The end of a run thread: a run's output is checked against the declared type, a branch has but a result."""

from __future__ import annotations

import msgspec

from dressage.expressions.values import encode_stored
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.commands import FailureInfo
from dressage.protocol.errors import BadValue
from dressage.protocol.spec import ReturnNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, ReturnNode)
    value = None if node.value is None else advance.evaluate(ready, "value")
    if thread.parent is not None:
        advance.branches.end(thread, msgspec.Raw(encode_stored(value)))
        return
    try:
        output = advance.definition.output.encode(value)
    except BadValue as error:
        advance.fail_run(FailureInfo("output-type", f"line {node.line}: {error.message}", "type-error"))
        return
    advance.complete(output, advance.definition.output.shown(output, value))
