"""Interrupting: a handler has its turn, for which another branch of its gather pauses, and then gives it back."""

from __future__ import annotations

from msgspec.structs import replace

from dressage.expressions.errors import ExpressionFailed
from dressage.orchestrator.fold import pausing
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.state import GatherWait, RunThread, TurnWait
from dressage.protocol.events import InterruptEnded, InterruptStarted
from dressage.protocol.spec import GatherNode, TurnNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, TurnNode)
    parent, wait = _interrupted(advance, thread)
    if not node.begins:
        advance.emit(InterruptEnded(wait.node, thread.id))
        thread.node = node.next
        _next(advance, parent, wait)
    elif wait.handler:
        parent.wait = replace(wait, turns=(*wait.turns, thread.id))
        thread.wait = TurnWait(thread.node)
    else:
        thread.node = node.next
        _begin(advance, parent, wait, thread)


def _begin(advance: Advance, parent: RunThread, wait: GatherWait, thread: RunThread) -> None:
    parent.wait = replace(wait, handler=thread.id)
    advance.emit(InterruptStarted(wait.node, thread.id))


def _next(advance: Advance, parent: RunThread, wait: GatherWait) -> None:
    """The one that has waited longest has its turn, or else what is interrupted goes on."""
    if not wait.turns:
        paused = pausing.watchers(advance)
        parent.wait = replace(wait, handler=0)
        pausing.go_on(advance, pausing.INTERRUPTED_AT_A_TIME)
        advance.watches.look_again(paused)
        return
    following = advance.thread(wait.turns[0])
    waiting = following.wait
    assert isinstance(waiting, TurnWait)
    node = advance.definition.spec.nodes[waiting.node]
    assert isinstance(node, TurnNode)
    _begin(advance, parent, replace(wait, turns=wait.turns[1:]), following)
    here = advance.moving
    advance.go_on(following, node.next)
    if here is not None:
        advance.turn_to(here)


def _interrupted(advance: Advance, thread: RunThread) -> tuple[RunThread, GatherWait]:
    """The thread whose last branch this one interrupts, as this fold may change it."""
    parent = None if thread.parent is None else advance.thread(thread.parent)
    wait = None if parent is None else parent.wait
    if parent is not None and isinstance(wait, GatherWait) and thread.branch < wait.branches - 1:
        node = advance.definition.spec.nodes[wait.node]
        if isinstance(node, GatherNode) and node.until == "interrupted":
            return parent, wait
    # Only a spec that no compiler wrote can say so.
    raise ExpressionFailed("RuntimeError: there is nothing to interrupt")
