"""What leads where in a spec: the order of its nodes, its loops, and what can be reached from a place."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property

from dressage.flow.drawing.nodes import Way, ways_of
from dressage.protocol.spec import WorkflowSpec


class FlowGraph:
    """The graph of a spec's nodes. A node in a try also leads to that try's handlers."""

    def __init__(self, spec: WorkflowSpec) -> None:
        self.spec = spec
        self.ways: list[tuple[Way, ...]] = [ways_of(node) for node in spec.nodes]
        self.scopes: list[tuple[int, ...]] = [self._scopes(node.scope) for node in spec.nodes]
        """The try bodies around each node, the outermost first."""

    def _scopes(self, scope: int | None) -> tuple[int, ...]:
        around: list[int] = []
        while scope is not None and scope not in around:
            around.append(scope)
            scope = self.spec.scopes[scope].parent
        return tuple(reversed(around))

    def after(self, node: int) -> list[int]:
        """Every node that may come next, through handlers too."""
        found = [way.to for way in self.ways[node]]
        for scope in reversed(self.scopes[node]):
            found += [handler.node for handler in self.spec.scopes[scope].handlers]
        return found

    @cached_property
    def _walked(self) -> tuple[dict[int, int], dict[int, set[int]]]:
        """The place of each node in an order where what follows comes later, and by loop head what leads back to it."""
        finished: list[int] = []
        back: dict[int, set[int]] = {}
        state = {self.spec.entry: 1}
        stack = [(self.spec.entry, iter(self.after(self.spec.entry)))]
        while stack:
            node, following = stack[-1]
            for each in following:
                if state.get(each) == 1:
                    back.setdefault(each, set()).add(node)
                elif each not in state:
                    state[each] = 1
                    stack.append((each, iter(self.after(each))))
                    break
            else:
                stack.pop()
                state[node] = 2
                finished.append(node)
        return {node: place for place, node in enumerate(reversed(finished))}, back

    @property
    def order(self) -> dict[int, int]:
        """The place of each node that can be reached; what follows without a loop comes later."""
        return self._walked[0]

    @cached_property
    def loops(self) -> dict[int, set[int]]:
        """The nodes of each loop, by its head."""
        before: dict[int, list[int]] = {}
        for node in self.order:
            for each in self.after(node):
                before.setdefault(each, []).append(node)
        found: dict[int, set[int]] = {}
        for head, latches in self._walked[1].items():
            inside, waiting = {head}, list(latches)
            while waiting:
                node = waiting.pop()
                if node not in inside and node in self.order:
                    inside.add(node)
                    waiting += before.get(node, [])
            found[head] = inside
        return found

    def reach(self, start: int, stops: Collection[int]) -> set[int]:
        """What can be reached from a node, itself included; at `stops` the way ends."""
        seen, waiting = {start}, [start]
        while waiting:
            node = waiting.pop()
            if node in stops:
                continue
            for each in self.after(node):
                if each not in seen:
                    seen.add(each)
                    waiting.append(each)
        return seen

    def exits(self, nodes: Iterable[int]) -> list[int]:
        """Where ways lead out of a set of nodes, in their order."""
        inside = set(nodes)
        out = {way.to for node in inside for way in self.ways[node] if way.to not in inside}
        return sorted(out, key=lambda node: self.order.get(node, node))

    def first(self, nodes: Iterable[int]) -> int | None:
        return min(nodes, key=lambda node: self.order.get(node, node), default=None)
