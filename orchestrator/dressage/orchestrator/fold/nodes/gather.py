"""Branches side by side: each a run thread of its own, until the last has ended (`Branches.end`)."""

from __future__ import annotations

from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.state import GatherWait, RunThread
from dressage.protocol.spec import GatherNode
from dressage.protocol.spec_sizes import branch_argument


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, GatherNode)
    # All of it before the first branch starts: what fails here fails at the gather, and leaves no branch behind.
    given = [
        {
            name: advance.admitted(name, advance.evaluate(ready, branch_argument(place, name)))
            for name in branch.args
        }
        for place, branch in enumerate(node.branches)
    ]
    if not node.branches:
        advance.go_on(thread, node.next)
        if node.target is not None:
            advance.assign(node.target, ())
        return
    thread.wait = GatherWait(thread.node, len(node.branches))
    for place, (branch, values) in enumerate(zip(node.branches, given, strict=True)):
        advance.branches.start(thread, place, branch, values)
