"""The nodes of a spec as a tree that reads like the program: branches, loops and try bodies are indented.

A spec is a graph, and any language may have written it; what no such tree can say is said by a jump, `go on at`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from dressage.expressions.checks import shown
from dressage.flow.drawing.expressions import expression_text
from dressage.flow.drawing.flowgraph import FlowGraph
from dressage.flow.drawing.nodes import NODES, Way, handler_text, node_text
from dressage.protocol.errors import BadSpec
from dressage.protocol.expressions import Const, Unary
from dressage.protocol.spec import BranchNode, WorkflowSpec
from dressage.protocol.types import Field

_TOO_DEEP = "the spec nests too deep to be shown as a tree: draw it with --mermaid"


class Line(NamedTuple):
    """A line of the tree; `node` is None and `line` 0 for what stands for no node, such as `else:`."""

    depth: int
    text: str
    line: int = 0
    node: int | None = None


def outline(spec: WorkflowSpec) -> list[Line]:
    """The tree, line by line. Raises `BadSpec` for a spec that nests too deep."""
    drawing = _Outline(spec)
    try:
        drawing.block(spec.entry, 0, _Ends(None, {}), ())
    except RecursionError as error:
        raise BadSpec(_TOO_DEEP) from error
    return drawing.lines


def signature(name: str, params: tuple[Field, ...], output: str) -> str:
    """A workflow or task as Python declares it."""
    return f"{name}({', '.join(map(parameter_text, params))}) -> {output}"


def parameter_text(field: Field) -> str:
    declared = f"{field.name}: {shown(field.type)}"
    if isinstance(field.default, msgspec.UnsetType):
        return declared
    return f"{declared} = {expression_text(Const(field.default))}"


class _Ends(NamedTuple):
    """Where a block ends: before `follow` without a word, and at `jumps` with one."""

    follow: int | None
    jumps: Mapping[int, str]

    @property
    def all(self) -> set[int]:
        return {*self.jumps, *(() if self.follow is None else (self.follow,))}


class _Outline:
    def __init__(self, spec: WorkflowSpec) -> None:
        self.spec = spec
        self.graph = FlowGraph(spec)
        self.lines: list[Line] = []
        self._done: set[int] = set()
        self._open: set[int] = set()

    def _say(self, depth: int, text: str, node: int | None = None) -> None:
        line = 0 if node is None else self.spec.nodes[node].line
        self.lines.append(Line(depth, text, line, node))

    def _inner(self, ends: _Ends, follow: int | None, **jumps: int | None) -> _Ends:
        """The ends of a block inside of another one, which goes on at `follow`. `jumps` are named for their words."""
        known = dict(ends.jumps)
        if ends.follow is not None and ends.follow != follow:
            known.setdefault(ends.follow, self._go_on(ends.follow))
        known.update({node: word.rstrip("_") for word, node in jumps.items() if node is not None})
        return _Ends(follow, known)

    def _go_on(self, node: int) -> str:
        line = self.spec.nodes[node].line
        return f"go on at line {line}" if line else f"go on at node {node}"

    def block(self, at: int | None, depth: int, ends: _Ends, inside: tuple[int, ...]) -> None:
        """Writes what happens from a node on, until the block ends. `inside` are the try bodies it stands in."""
        while at is not None and at != ends.follow:
            if at in ends.jumps:
                self._say(depth, ends.jumps[at])
                return
            if at in self._done:
                self._say(depth, self._go_on(at))
                return
            scope = next((each for each in self.graph.scopes[at] if each not in inside), None)
            loop = self.graph.loops.get(at) if at not in self._open else None
            if scope is not None and not (loop and self._body(scope) < loop):
                at = self._try(at, scope, depth, ends, inside)
            elif loop:
                at = self._loop(at, loop, depth, ends, inside)
            else:
                self._done.add(at)
                at = self._node(at, depth, ends, inside)

    def _body(self, scope: int) -> set[int]:
        return {node for node in self.graph.order if scope in self.graph.scopes[node]}

    # -- structures --------------------------------------------------------------------------------
    def _node(self, at: int, depth: int, ends: _Ends, inside: tuple[int, ...]) -> int | None:
        node = self.spec.nodes[at]
        ways = [way for way in self.graph.ways[at] if not way.begins]
        if len(ways) > 1:
            return self._choice(at, ways, depth, ends, inside)
        self._say(depth, node_text(self.spec, node), at)
        for way in self.graph.ways[at]:
            if way.begins:
                self._say(depth + 1, f"{way.label}:")
                self.block(way.to, depth + 2, _Ends(None, {}), inside)
        return ways[0].to if ways else None

    def _choice(
        self, at: int, ways: list[Way], depth: int, ends: _Ends, inside: tuple[int, ...]
    ) -> int | None:
        word = "if"
        while True:
            yes, no = ways[0].to, ways[1].to
            join = self._join(yes, no, ends)
            within = self._inner(ends, join)
            swapped = yes == join and no != join
            self._say(depth, f"{word} {self._question(at, swapped)}:", at)
            self._inside(no if swapped else yes, depth + 1, within, inside)
            other = yes if swapped else no
            if other == join:
                return join
            following = [way for way in self.graph.ways[other] if not way.begins]
            chained = len(following) > 1 and other not in within.jumps and other not in self._done
            same_place = other not in self.graph.loops and self.graph.scopes[other] == self.graph.scopes[at]
            if not (chained and same_place and self._join(following[0].to, following[1].to, within) == join):
                self._say(depth, "else:")
                self._inside(other, depth + 1, within, inside)
                return join
            self._done.add(other)
            at, ways, word, ends = other, following, "elif", within

    def _inside(self, at: int, depth: int, ends: _Ends, inside: tuple[int, ...]) -> None:
        written = len(self.lines)
        self.block(at, depth, ends, inside)
        if len(self.lines) == written:
            self._say(depth, "pass")

    def _question(self, at: int, negated: bool) -> str:
        node = self.spec.nodes[at]
        if negated and isinstance(node, BranchNode):
            return expression_text(Unary("not", node.test))
        return f"not ({node_text(self.spec, node)})" if negated else node_text(self.spec, node)

    def _join(self, one: int, other: int, ends: _Ends) -> int | None:
        """Where two ways meet again, or where the one goes on of which the other is only a side."""
        if one == other:
            return one
        here, there = self.graph.reach(one, ends.all), self.graph.reach(other, ends.all)
        common = (here & there) - ends.jumps.keys()
        if common - {ends.follow}:
            return self.graph.first(common - {ends.follow})
        if ends.follow in here and ends.follow in there:
            return ends.follow
        if ends.follow not in here and other not in ends.jumps:
            return other
        return one if one not in ends.jumps else ends.follow

    def _loop(self, at: int, loop: set[int], depth: int, ends: _Ends, inside: tuple[int, ...]) -> int | None:
        self._open.add(at)
        ways = [way for way in self.graph.ways[at] if not way.begins]
        out = [way.to for way in ways if way.to not in loop]
        if (
            NODES[type(self.spec.nodes[at])].shape == "choice"
            and len(out) == 1
            and self.graph.scopes[at] == inside
        ):
            self._done.add(at)
            body = next(way.to for way in ways if way.to in loop)
            self._say(depth, f"while {self._question(at, body != ways[0].to)}:", at)
            within = self._inner(ends, at, continue_=at, break_=out[0])
            self._inside(body, depth + 1, within, inside)
            return out[0]
        behind = [node for node in self.graph.exits(loop) if node not in ends.jumps]
        after = (
            ends.follow if ends.follow in behind else min((n for n in behind if n > max(loop)), default=None)
        )
        within = self._inner(ends, at, continue_=at, break_=after)
        self._say(depth, "while True:")
        self._done.discard(at)
        self._first(at, depth + 1, within, inside)
        return after

    def _first(self, at: int, depth: int, ends: _Ends, inside: tuple[int, ...]) -> None:
        """The body of a loop: it begins where it also ends."""
        scope = next((each for each in self.graph.scopes[at] if each not in inside), None)
        following: int | None
        if scope is not None:
            following = self._try(at, scope, depth, ends, inside, begins=True)
        else:
            self._done.add(at)
            following = self._node(at, depth, ends, inside)
        self.block(following, depth, ends, inside)

    def _try(
        self, at: int, scope: int, depth: int, ends: _Ends, inside: tuple[int, ...], *, begins: bool = False
    ) -> int | None:
        body, handlers = self._body(scope), self.spec.scopes[scope].handlers
        exits = [node for node in self.graph.exits(body) if node not in ends.jumps]
        starts = {*exits, *(handler.node for handler in handlers)} - ends.jumps.keys()
        reached = [self.graph.reach(start, ends.all) - ends.jumps.keys() for start in starts]
        common = {node for some in reached for node in some if sum(node in each for each in reached) > 1}
        # In a loop all leads here again; a block that ended where it begins would never be written.
        common -= {at}
        falls = any(ends.follow in self.graph.reach(handler.node, ends.all) for handler in handlers)
        if common - {ends.follow}:
            join = self.graph.first(common - {ends.follow})
        elif exits and not falls and ends.follow not in exits:
            join = exits[0]
        else:
            join = ends.follow
        within = self._inner(ends, join)
        self._say(depth, "try:")
        if begins:
            self._first(at, depth + 1, within, (*inside, scope))
        else:
            self._inside(at, depth + 1, within, (*inside, scope))
        for handler in handlers:
            self._say(depth, f"{handler_text(handler)}:")
            self._inside(handler.node, depth + 1, within, inside)
        return join
