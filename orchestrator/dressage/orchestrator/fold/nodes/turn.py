"""Interrupting: a handler has its turn, for which another branch of its gather pauses, and then gives it back."""

from __future__ import annotations

from msgspec.structs import replace

from dressage.expressions.errors import ExpressionFailed
from dressage.orchestrator.fold import pausing
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.state import GatherWait, RunThread, TurnWait
from dressage.protocol.commands import GoOn
from dressage.protocol.events import InterruptEnded, InterruptStarted
from dressage.protocol.names import run_token
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
        parent.wait = replace(wait, handler=thread.id)
        _begin(advance, wait, thread, node)


def go_on(advance: Advance, thread: RunThread) -> None:
    """Begins what has the turn since an earlier command; nothing for one that has none yet, or has ended."""
    wait = thread.wait
    node = advance.definition.spec.nodes[wait.node] if isinstance(wait, TurnWait) else None
    if isinstance(node, TurnNode):
        _, around = _interrupted(advance, thread)
        if around.handler == thread.id:
            _begin(advance, around, advance.threads.own(thread), node)


def _begin(advance: Advance, wait: GatherWait, thread: RunThread, node: TurnNode) -> None:
    """One with each command: each handler may have as much to do as after a command of its own."""
    if advance.turned:
        thread.wait = TurnWait(thread.node)
        advance.effects.append(SendCommand(run_token(advance.state.run_id), GoOn()))
        return
    advance.turned, thread.taken = True, None
    advance.emit(InterruptStarted(wait.node, thread.id))
    here = advance.moving
    if thread is here:
        thread.node = node.next
        return
    advance.go_on(thread, node.next)
    if here is not None:
        advance.turn_to(here)


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
    parent.wait = replace(wait, handler=following.id, turns=wait.turns[1:])
    _begin(advance, wait, following, node)


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
