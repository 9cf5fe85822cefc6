"""Where a run thread can stand in a spec, what is still read behind it, and which step of another spec is the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from dressage.protocol.errors import BadInput
from dressage.protocol.expressions import Bind, Compare, Index, Name, expressions_in, variables_in
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    ChildNode,
    ConditionNode,
    EventNode,
    GatherNode,
    Node,
    RaiseNode,
    ReturnNode,
    SleepNode,
    SleepUntilNode,
    TaskNode,
    TurnNode,
    UserTaskNode,
    WorkflowSpec,
)
from dressage.protocol.spec_sizes import expressions_of

WAITING: Final = (
    TaskNode,
    SleepNode,
    SleepUntilNode,
    ConditionNode,
    EventNode,
    UserTaskNode,
    ChildNode,
    GatherNode,
    TurnNode,
)
"""Where a run thread may stand between two commands."""


TURN: Final = -1

NAMES_KEPT: Final = 16
"""So many sets of variables are kept: the branches of a run stand at few nodes."""


class Lane(NamedTuple):
    """A branch of the gather at a node, by its place; or the turn that begins at a node, at place `TURN`."""

    gather: int
    place: int


def same_step(before: WorkflowSpec, node: Node, after: WorkflowSpec, other: Node) -> str:
    """Why what a run thread waits for at `node` is not what it would wait for at `other`; empty if it is."""
    if type(node) is not type(other):
        return "it is another kind of step"
    match node, other:
        case TaskNode(), TaskNode():
            if node.task != other.task:
                return f"it calls task {other.task}"
            return "" if node.undoes == other.undoes else "only one of them undoes a step of a saga"
        case EventNode(), EventNode():
            if node.event != other.event:
                return f"it waits for event {other.event}"
            if (node.key is None) != (other.key is None):
                return "only one of them has a key"
            return (
                "" if (node.timeout is None) == (other.timeout is None) else "only one of them has a timeout"
            )
        case UserTaskNode(), UserTaskNode():
            return "" if node.user_task == other.user_task else f"it is user task {other.user_task}"
        case ChildNode(), ChildNode():
            alike = (node.workflow, node.detached) == (other.workflow, other.detached)
            return "" if alike else f"it starts {other.workflow} in another way"
        case GatherNode(), GatherNode():
            return _same_gather(node, other)
        case SleepUntilNode(), SleepUntilNode():
            return "" if node.watched == other.watched else "only one of them looks at variables"
        case ConditionNode(), ConditionNode():
            timed = (node.timeout is None) == (other.timeout is None)
            return "" if timed else "only one of them has a timeout"
        case TurnNode(), TurnNode():
            return "" if node.begins == other.begins else "the one begins a handler, the other ends one"
        case _:
            return ""


def _same_gather(node: GatherNode, other: GatherNode) -> str:
    if node.until != other.until:
        return "it waits for its branches in another way"
    if (node.each is None) != (other.each is None):
        return "only one of them has a branch for each item of a list"
    if len(node.branches) != len(other.branches):
        return f"it has {len(other.branches)} branches, and not {len(node.branches)}"
    return ""


def step_text(node: Node) -> str:
    """What a run thread waits for at a node, for people."""
    match node:
        case TaskNode():
            return f"task {node.task}"
        case EventNode():
            return f"event {node.event}"
        case UserTaskNode():
            return f"user task {node.user_task}"
        case ChildNode():
            return f"child run of {node.workflow}"
        case GatherNode():
            return {"interrupted": "interruptible step", "all": "branches"}.get(node.until, "race")
        case ConditionNode():
            return f"condition {node.text}".rstrip()
        case SleepNode() | SleepUntilNode():
            return "sleep"
        case _:
            return str(type(node).__struct_config__.tag)


class Positions:
    """The places of one spec. Raises nothing for a spec that `check_spec` takes."""

    def __init__(self, spec: WorkflowSpec) -> None:
        self.spec = spec
        self.scopes = [tuple(self._scopes(node.scope)) for node in spec.nodes]
        """The try bodies around each node, from the inside out."""

        self.lanes = self._lanes()
        """The branches, and turns of handlers, that each node stands in, the outermost first. What is never reached has
        none."""

        self.undone = dict(self._undone())
        """By the variable that keeps what a saga is to undo: how each of its steps is undone, by its number there."""

        self.passing = frozenset(
            each.bind for scope in spec.scopes for each in scope.handlers if each.passing and each.bind
        )
        """The variables that hold a failure which passes through: it is raised again behind what tidies up."""

        self.kept = self.passing | self.undone.keys()
        self._names_of = lru_cache(NAMES_KEPT)(self._named)
        self._numbers: dict[str, int] = {}
        self._live = self._backwards()

    def firsts_at(self, line: int) -> list[int]:
        """The nodes with which this line begins, where a run can go on as a whole: none of a branch, or of a handler
        that interrupts. It has several where it is there several times, as of a `finally`, or of a function that is
        awaited twice."""
        nodes = self.spec.nodes
        here = {n for n, lanes in self.lanes.items() if nodes[n].line == line and not lanes}
        # What tidies up behind a failure, or undoes a step, has the line of what says so.
        here = (here & self._without_failures()) or here
        behind = {each for n in here for each in self.following(n)}
        return sorted(here - behind) or sorted(here)[:1]

    def _without_failures(self) -> set[int]:
        """The nodes that a run comes to in which nothing fails."""
        found, waiting = {self.spec.entry}, [self.spec.entry]
        while waiting:
            new = set(self.following(waiting.pop())) - found
            found |= new
            waiting += new
        return found

    def following(self, number: int) -> list[int]:
        """The nodes that may come next in the same run thread, without handlers."""
        node = self.spec.nodes[number]
        match node:
            case BranchNode():
                return [node.then, node.otherwise]
            case RaiseNode() | ReturnNode():
                return []
            case _:
                return [node.next]

    def entries(self, number: int) -> list[int]:
        """Where the branches begin that a node starts."""
        node = self.spec.nodes[number]
        return [branch.entry for branch in node.branches] if isinstance(node, GatherNode) else []

    def begins(self, number: int) -> frozenset[str]:
        """The variables that may be read before they are set, by whoever begins at a node."""
        return self._names_of(self._live[number])

    def waits(self, number: int) -> frozenset[str]:
        """The same for who waits there, and has read what the wait began with."""
        node = self.spec.nodes[number]
        behind = self._names_of(self._behind(number, self._live))
        match node:
            case ConditionNode():
                return behind | variables_in(node.condition)
            case SleepUntilNode(watched=True):
                return behind | variables_in(node.moment)
            case _:
                return behind

    def _undone(self) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        """As the compiler writes it: the last entry is taken off the list, and its number says which task is called."""
        nodes = self.spec.nodes
        for node in nodes:
            match node:
                case AssignNode(target=entry, value=Index(value=Name(name)), next=then):
                    behind = nodes[then]
                    if isinstance(behind, AssignNode) and behind.target == name:
                        yield name, tuple(self._undos(entry, behind.next))
                case _:
                    pass

    def _undos(self, entry: str, number: int) -> Iterator[bytes]:
        nodes, seen = self.spec.nodes, set[int]()
        while number not in seen:
            seen.add(number)
            match nodes[number]:
                case TaskNode(undoes=True) as node:
                    yield _how_undone(node, entry)
                    return
                case BranchNode(test=Compare(left=Index(value=Name(name)))) as node if name == entry:
                    called = nodes[node.then]
                    if isinstance(called, TaskNode):
                        yield _how_undone(called, entry)
                    number = node.otherwise
                case _:
                    return

    def _scopes(self, scope: int | None) -> Iterator[int]:
        seen: set[int] = set()
        while scope is not None and scope not in seen:
            seen.add(scope)
            yield scope
            scope = self.spec.scopes[scope].parent

    def _lanes(self) -> dict[int, tuple[Lane, ...]]:
        found: dict[int, tuple[Lane, ...]] = {self.spec.entry: ()}
        waiting, caught = [self.spec.entry], set[int]()
        while waiting:
            number = waiting.pop()
            lanes = found[number]
            reached = [(each, self._behind_turn(number, lanes)) for each in self.following(number)]
            reached += [
                (entry, (*lanes, Lane(number, place))) for place, entry in enumerate(self.entries(number))
            ]
            for scope in self.scopes[number]:
                if scope in caught:
                    break  # And so are those around it.
                caught.add(scope)
                reached += [(handler.node, lanes) for handler in self.spec.scopes[scope].handlers]
            for each, where in reached:
                if each not in found:
                    found[each] = where
                    waiting.append(each)
        return found

    def _behind_turn(self, number: int, lanes: tuple[Lane, ...]) -> tuple[Lane, ...]:
        node = self.spec.nodes[number]
        if not isinstance(node, TurnNode):
            return lanes
        if node.begins:
            return (*lanes, Lane(number, TURN))
        return lanes[:-1] if lanes and lanes[-1].place == TURN else lanes

    # -- what is still read ------------------------------------------------------------------------
    def _backwards(self) -> list[int]:
        """Of each node what is read at it or behind it before it is set, and behind the nodes of each scope what its
        handlers read: from the ends to the begins, until nothing changes.

        A set of variables is a number with a bit for each: a spec may have ten thousand of them. Each scope stands
        there once: a hundred of them, each with a hundred handlers, may be around all nodes.
        """
        spec, nodes = self.spec, len(self.spec.nodes)
        live = [0] * (nodes + len(spec.scopes))
        before: list[set[int]] = [set() for _ in live]
        for number, node in enumerate(spec.nodes):
            for each in (*self.following(number), *self.entries(number)):
                before[each].add(number)
            if node.scope is not None:
                before[nodes + node.scope].add(number)
        for number, scope in enumerate(spec.scopes):
            for handler in scope.handlers:
                before[handler.node].add(nodes + number)
            if scope.parent is not None:
                before[nodes + scope.parent].add(nodes + number)
        reads = [self._bits(_reads(node)) for node in spec.nodes]
        waiting = dict.fromkeys(reversed(range(len(live))))
        while waiting:
            number = next(iter(waiting))
            del waiting[number]
            if number < nodes:
                found = self._behind(number, live) | reads[number]
            else:
                found = self._caught(number - nodes, live)
            if found != live[number]:
                live[number] = found
                waiting.update(dict.fromkeys(before[number]))
        return live

    def _caught(self, number: int, live: list[int]) -> int:
        scope, nodes, found = self.spec.scopes[number], len(self.spec.nodes), 0
        for handler in scope.handlers:
            found |= live[handler.node] & ~self._bits([handler.bind])
        return found if scope.parent is None else found | live[nodes + scope.parent]

    def _behind(self, number: int, live: list[int]) -> int:
        node, found = self.spec.nodes[number], 0
        for each in self.following(number):
            found |= live[each]
        found &= ~self._bits([_set_by(node)])
        if node.scope is not None:
            found |= live[len(self.spec.nodes) + node.scope]
        if isinstance(node, GatherNode):
            own = node.each.names if node.each is not None else ()
            for branch in node.branches:
                found |= live[branch.entry] & ~self._bits([*branch.variables, *own])
        return found

    def _bits(self, names: Iterable[str | None]) -> int:
        found = 0
        for name in names:
            if name is not None:
                found |= 1 << self._numbers.setdefault(name, len(self._numbers))
        return found

    def _named(self, bits: int) -> frozenset[str]:
        return frozenset(name for name, number in self._numbers.items() if bits >> number & 1)


def node_at(spec: WorkflowSpec, line: int) -> int:
    """The node at which a run goes on that is to go on at this line. Raises `BadInput` (RESCUE_INVALID)."""
    found = Positions(spec).firsts_at(line)
    if len(found) == 1:
        return found[0]
    why = "no run can go on there" if not found else "it is done in several places"
    raise BadInput(
        f"line {line} of workflow {spec.name!r}: {why}. Name the line of another statement of the workflow itself, as "
        "`dressage spec show` has them",
        code="RESCUE_INVALID",
    )


def _how_undone(node: TaskNode, entry: str) -> bytes:
    """The task, and which part of the entry it is given for which parameter."""
    args = msgspec.json.encode(node.args).replace(msgspec.json.encode(entry), b'""')
    return node.task.encode() + b" " + args


def _reads(node: Node) -> frozenset[str]:
    found: set[str] = set()
    for expr in expressions_of(node).values():
        # What an expression sets itself it hardly reads before.
        bound = {each.name for each in expressions_in(expr) if isinstance(each, Bind)}
        found |= variables_in(expr) - bound
    if isinstance(node, AssignNode) and node.attribute is not None:
        found.add(node.target)
    if isinstance(node, RaiseNode) and node.reraise is not None:
        found.add(node.reraise)
    return frozenset(found)


def _set_by(node: Node) -> str | None:
    """The variable that a node sets before anything comes behind it."""
    if isinstance(node, AssignNode) and node.attribute is not None:
        return None
    return getattr(node, "target", None)


def lanes_moved(lanes: tuple[Lane, ...], nodes: Mapping[int, int]) -> tuple[Lane, ...] | None:
    """The same branches in another spec; None if one of their gathers has no place there."""
    moved = tuple(Lane(nodes.get(lane.gather, -1), lane.place) for lane in lanes)
    return None if any(lane.gather < 0 for lane in moved) else moved
