"""What leads where in a spec: the order of its nodes, its loops, and what can be reached from a place."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import NamedTuple

from dressage.flow.drawing.nodes import Way, ways_of
from dressage.protocol.spec import ReturnNode, WorkflowSpec


class Lane(NamedTuple):
    """One branch of the gather at a node; the first is branch 1."""

    gather: int
    branch: int


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
        # What begins comes behind the rest, the last branch first: so the order has it in front, the first one first.
        found = [way.to for way in self.ways[node] if not way.begins]
        found += [way.to for way in reversed(self.ways[node]) if way.begins]
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

    @cached_property
    def lanes(self) -> dict[int, tuple[Lane, ...]]:
        """The branches that each node stands in, the outermost first; a node of several stands in the first of all."""
        found: dict[int, tuple[Lane, ...]] = {}
        waiting: list[tuple[int, tuple[Lane, ...]]] = [(self.spec.entry, ())]
        for start, lanes in waiting:
            own = [start] if start not in found else []
            found.setdefault(start, lanes)
            for node in own:
                begins = [way.to for way in self.ways[node] if way.begins]
                waiting += [(each, (*lanes, Lane(node, place))) for place, each in enumerate(begins, 1)]
                for each in self.after(node):
                    if each not in found and each not in begins:
                        found[each] = lanes
                        own.append(each)
        return found

    @cached_property
    def joins(self) -> list[tuple[int, int]]:
        """From where branches have their results to where their gather goes on."""
        following = {node: way.to for node in self.order for way in self.ways[node] if not way.begins}
        return [
            (node, following[self.lanes[node][-1].gather])
            for node in self.order
            if self.lanes[node] and isinstance(self.spec.nodes[node], ReturnNode)
        ]

    @cached_property
    def ways_shown(self) -> list[tuple[int, Way]]:
        """Every way as a picture has it: behind a gather, the ways of its branches come together."""
        joined = {self.lanes[node][-1].gather for node, _ in self.joins}
        ways = [
            (node, way) for node in self.order for way in self.ways[node] if way.begins or node not in joined
        ]
        return ways + [(node, Way(to)) for node, to in self.joins]

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
        out = {way.to for node in inside for way in self.ways[node] if not way.begins}
        return sorted(out - inside, key=lambda node: self.order.get(node, node))

    def first(self, nodes: Iterable[int]) -> int | None:
        return min(nodes, key=lambda node: self.order.get(node, node), default=None)
