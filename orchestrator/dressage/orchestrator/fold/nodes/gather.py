"""Branches side by side: each a run thread of its own, until the last has ended (`Branches.end`)."""

from __future__ import annotations

from typing import Any

import msgspec

from dressage.expressions.errors import ExpressionFailed
from dressage.expressions.values import encode_stored
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.limits import RUN_THREADS_MAX
from dressage.orchestrator.fold.state import GatherWait, RunThread
from dressage.protocol.spec import EACH_LIMIT, Each, GatherNode
from dressage.protocol.spec_sizes import branch_argument


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, GatherNode)
    if node.each is not None:
        _enter_each(advance, thread, ready, node, node.each)
        return
    # All of it before the first branch starts: what fails here fails at the gather, and leaves no branch behind.
    places = range(len(node.branches))
    written = [*places[-1:], *places[:-1]] if node.until == "interrupted" else places
    given = {
        place: {
            name: advance.admitted(name, advance.evaluate(ready, branch_argument(place, name)))
            for name in node.branches[place].args
        }
        for place in written
    }
    if not node.branches:
        _nothing(advance, thread, node)
        return
    thread.wait = GatherWait(thread.node, len(node.branches))
    for place, branch in enumerate(node.branches):
        advance.branches.start(thread, place, branch, given[place])


def _enter_each(advance: Advance, thread: RunThread, ready: ReadyNode, node: GatherNode, each: Each) -> None:
    items: Any = advance.evaluate(ready, "items")
    fitting = isinstance(items, list | tuple) and all(
        isinstance(item, tuple) and len(item) == len(each.names) for item in list[Any](items)
    )
    if not fitting:
        # Only a spec that no compiler wrote can say so.
        raise ExpressionFailed(f"TypeError: items are tuples of {len(each.names)} values")
    # Whoever may win a race has to run: where there is no room for all, the run ends by the limit's name.
    limit = EACH_LIMIT if node.until == "all" else len(items)
    if each.limit is not None:
        limit = _limit(advance.evaluate(ready, "limit"))
    if not items:
        if node.until != "all":
            raise ExpressionFailed("ValueError: nobody would ever win a race without branches")
        _nothing(advance, thread, node)
        return
    given = [
        msgspec.Raw(encode_stored(tuple(map(advance.admitted, each.names, item))))
        for item in list[Any](items)
    ]
    size = sum(map(len, given))
    advance.scope.spend(size)
    advance.stored = True
    thread.wait = GatherWait(thread.node, len(given), given=given, limit=limit, held=size)
    # At least one, which tells by name if there is no room at all.
    room = max(1, RUN_THREADS_MAX - len(advance.state.threads)) if node.until == "all" else len(given)
    for _ in range(min(limit, len(given), room)):
        advance.branches.start_next(thread)


def _limit(value: Any) -> int:
    if value is None:
        return EACH_LIMIT
    if not isinstance(value, int) or isinstance(value, bool):
        raise ExpressionFailed(f"TypeError: a limit is a number of branches, not {type(value).__name__}")
    if value < 1:
        raise ExpressionFailed(f"ValueError: a limit is a number of branches, 1 or more, and not {value}")
    return value


def _nothing(advance: Advance, thread: RunThread, node: GatherNode) -> None:
    advance.go_on(thread, node.next)
    if node.target is not None:
        advance.assign(node.target, ())
