"""A migration as it is proposed: which step of one version is which of another one, and where a step has no place.

Nodes are compared as they were written, without their numbers: first those that are equal and stand in the same order,
as a comparison of two texts finds lines, then those that wait for the same thing, in their order.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any, Final

import msgspec

from dressage.protocol.errors import BadInput
from dressage.protocol.expressions import Expr, Name, expressions_in
from dressage.protocol.migrations import Migration
from dressage.protocol.positions import WAITING, Positions, lanes_moved, same_step, step_text
from dressage.protocol.spec import ConditionNode, GatherNode, Handler, Node, RegisteredWorkflow, WorkflowSpec
from dressage.protocol.spec_sizes import expressions_of

_NUMBERS: Final = ("next", "then", "otherwise", "scope", "line", "text")
"""What of a node says where it stands, or what comes behind it."""

PAIRS_COMPARED: Final = 300_000
"""Of so many pairs of nodes that are equal each is looked at; of more only those that are not equal to many others."""

_TEMPORARY: Final = re.compile(rb"\$\d+")


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where runs wait, and where they go on. Without a `node_after` they cannot: `why` says what is in the way.

    One that `begins` there gives up what it waits for.
    """

    what: str
    line: int
    node: int
    line_after: int = 0
    node_after: int | None = None
    begins: bool = False
    why: str = ""


class Proposal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A migration, and what it comes to for each step at which a run may wait."""

    migration: Migration
    steps: tuple[Step, ...]


def propose(
    before: RegisteredWorkflow,
    after: RegisteredWorkflow,
    lines: Mapping[int, int] | None = None,
    variables: Mapping[str, str] | None = None,
    values: Mapping[str, msgspec.Raw] | None = None,
) -> Proposal:
    """How runs of version `before` go on in version `after`.

    `lines` are for steps of which somebody knows better: by the line of a step where the runs are that wait there, the
    line at which they go on. `variables` are those that have another name, `values` what variables begin with. Raises
    `BadInput` (MIGRATION_INVALID).
    """
    if before.spec.name != after.spec.name:
        raise _invalid(
            f"{before.spec.name} and {after.spec.name} are two workflows: runs move between versions"
        )
    if before.version == after.version:
        raise _invalid(f"version {before.version} is the one that the runs are on")
    aligned = _Alignment(before.spec, after.spec)
    said = dict(aligned.said(lines or {}))
    nodes = aligned.nodes(said)
    renamed = variables or {}
    _check_names(before, renamed)
    _check_names(after, (*renamed.values(), *(values or {})))
    if len(set(renamed.values())) < len(renamed):
        raise _invalid(f"two variables would have one name: {', '.join(sorted(renamed.values()))}")
    migration = Migration(
        after.spec.name,
        before.version,
        after.version,
        aligned.needed(nodes),
        {**aligned.temporaries(nodes), **renamed},
        dict(values or {}),
    )
    return Proposal(migration, tuple(aligned.steps(nodes)))


def _check_names(registered: RegisteredWorkflow, names: Iterable[str]) -> None:
    spec = registered.spec
    known = {each.name for each in spec.variables} | {field.name for field in spec.params}
    for name in names:
        if name not in known or name.startswith("$"):
            raise _invalid(f"version {registered.version} of {spec.name} has no variable {name!r}")


def _invalid(message: str) -> BadInput:
    return BadInput(message, code="MIGRATION_INVALID")


class _Alignment:
    def __init__(self, before: WorkflowSpec, after: WorkflowSpec) -> None:
        self.before, self.after = before, after
        self.old, self.new = Positions(before), Positions(after)
        self._old_order, self._new_order = _order(self.old), _order(self.new)
        self._caught: set[tuple[int, int]] = set()
        """The scopes whose handlers were compared."""

        self._old_keys = {number: _key(before.nodes[number]) for number in self._old_order}
        self._new_keys = {number: _key(after.nodes[number]) for number in self._new_order}

    def said(self, lines: Mapping[int, int]) -> Iterator[tuple[int, int]]:
        """What somebody says of lines, for nodes. Raises `BadInput`."""
        for line, other in lines.items():
            here = [number for number in self._old_order if _at(self.before, number, line)]
            here = [number for number in here if isinstance(self.before.nodes[number], WAITING)]
            there = [number for number in self._new_order if _at(self.after, number, other)]
            if not here:
                raise _invalid(f"no run can wait at line {line} of the version before")
            if not there:
                raise _invalid(f"nothing stands at line {other} of the version after")
            for number in here:
                node = self.before.nodes[number]
                alike = [
                    each
                    for each in there
                    if not same_step(self.before, node, self.after, self.after.nodes[each])
                ]
                yield number, (alike or there)[0]

    def nodes(self, said: Mapping[int, int]) -> dict[int, int]:
        """By each node that has a place in the other spec which one that is."""
        found = dict(said)
        taken = set(said.values())
        self._match_alike(found, taken)
        old = [number for number in self._old_order if number not in found]
        new = [number for number in self._new_order if number not in taken]
        here, there = [self._old_keys[each] for each in old], [self._new_keys[each] for each in new]
        counts = Counter(there)
        pairs = sum(counts[key] for key in here)
        matcher = SequenceMatcher(None, here, there, autojunk=pairs > PAIRS_COMPARED)
        for block in matcher.get_matching_blocks():
            for place in range(block.size):
                self._match(old[block.a + place], new[block.b + place], found, taken)
        # Gathers from the outside in: what stands in a branch has its place in the same one.
        for inside in (False, True):
            self._match_waiting(found, taken, inside=inside)
        return self._consistent(found, said)

    def _match_alike(self, found: dict[int, int], taken: set[int]) -> None:
        """Nodes that there is one of, and along the ways from them those that are equal."""
        once, there = _single(self._old_keys), _single(self._new_keys)
        for key in once.keys() & there.keys():
            self._match(once[key], there[key], found, taken)

    def _match(self, number: int, other: int, found: dict[int, int], taken: set[int]) -> None:
        waiting = [(number, other)]
        while waiting:
            number, other = waiting.pop()
            if number in found or other in taken or self._old_keys[number] != self._new_keys[other]:
                continue
            found[number] = other
            taken.add(other)
            waiting += zip(self._ways(self.old, number), self._ways(self.new, other), strict=False)
            scopes = zip(self.old.scopes[number], self.new.scopes[other], strict=False)
            for pair in scopes:
                if pair in self._caught:
                    break  # And so are those around them.
                self._caught.add(pair)
                waiting += [(each.node, there.node) for each, there in self._handlers(*pair)]

    @staticmethod
    def _ways(positions: Positions, number: int) -> list[int]:
        """What comes behind a node."""
        return [*positions.following(number), *positions.entries(number)]

    def _handlers(self, scope: int, other: int) -> Iterator[tuple[Handler, Handler]]:
        yield from zip(self.before.scopes[scope].handlers, self.after.scopes[other].handlers, strict=False)

    def _match_waiting(self, found: dict[int, int], taken: set[int], *, inside: bool) -> None:
        """Steps that wait for the same thing, in their order, where both versions have as many left."""
        left: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        free: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        for number in self._old_order:
            node = self.before.nodes[number]
            if number in found or not isinstance(node, WAITING) or bool(self.old.lanes[number]) != inside:
                continue
            left[lanes_moved(self.old.lanes[number], found), _subject(node)].append(number)
        for number in self._new_order:
            node = self.after.nodes[number]
            if number not in taken and isinstance(node, WAITING):
                free[self.new.lanes[number], _subject(node)].append(number)
        for key, numbers in left.items():
            others = free.get(key, [])
            if len(numbers) != len(others):
                continue
            for number, other in zip(numbers, others, strict=True):
                found[number] = other
                taken.add(other)

    def _consistent(self, found: dict[int, int], said: Mapping[int, int]) -> dict[int, int]:
        """Without those that stand in other branches there, which no run thread of this one comes to."""
        left = dict(found)
        while True:
            wrong = [
                number
                for number, other in left.items()
                if lanes_moved(self.old.lanes.get(number, ()), left) != self.new.lanes.get(other, ())
            ]
            if not wrong:
                return left
            for number in wrong:
                if number in said:
                    raise _invalid(
                        f"line {self.before.nodes[number].line} stands in another branch, or handler that interrupts, "
                        f"than line {self.after.nodes[left[number]].line}: no run thread goes from the one to the other"
                    )
                del left[number]

    def needed(self, nodes: Mapping[int, int]) -> dict[int, int]:
        """The nodes at which a run thread can stand between two commands."""
        stands: set[int] = set()
        for number, node in enumerate(self.before.nodes):
            if isinstance(node, WAITING):
                stands |= {number, *self.old.following(number), *self.old.entries(number)}
        stands |= {handler.node for scope in self.before.scopes for handler in scope.handlers}
        return {number: nodes[number] for number in sorted(stands & nodes.keys())}

    def steps(self, nodes: Mapping[int, int]) -> Iterator[Step]:
        for number in self._old_order:
            node = self.before.nodes[number]
            if not isinstance(node, WAITING):
                continue
            what, other = step_text(node), nodes.get(number)
            if other is None:
                yield Step(what, node.line, number, why="it has no place in the version after")
                continue
            there = self.after.nodes[other]
            why = same_step(self.before, node, self.after, there)
            yield Step(what, node.line, number, there.line, other, bool(why), why)

    def temporaries(self, nodes: Mapping[int, int]) -> dict[str, str]:
        """The compiler's own variables, by what stands in their places in nodes that are aligned."""
        votes: dict[str, Counter[str]] = defaultdict(Counter)
        scopes: Counter[tuple[int, int]] = Counter()

        def vote(name: str | None, known: str | None, count: int = 1) -> None:
            if name and known and name.startswith("$") and known.startswith("$"):
                votes[name][known] += count

        for number, other in nodes.items():
            scopes.update(zip(self.old.scopes[number], self.new.scopes[other], strict=False))
            for name, known in _named(self.before.nodes[number], self.after.nodes[other]):
                vote(name, known)
        for pair, count in scopes.items():
            for each, there in self._handlers(*pair):
                vote(each.bind, there.bind, count)
        chosen = dict(filter(None, (_first(name, counts) for name, counts in votes.items())))
        # Of several that stand for the same one the most likely is it.
        claims: dict[str, Counter[str]] = defaultdict(Counter)
        for name, known in chosen.items():
            claims[known][name] = votes[name][known]
        best = dict(filter(None, (_first(known, counts) for known, counts in claims.items())))
        return {name: known for name, known in sorted(chosen.items()) if best.get(known) == name}


def _first(name: str, counts: Counter[str]) -> tuple[str, str] | None:
    """What has the most votes, if one has."""
    (first, most), *others = counts.most_common(2)
    return None if others and others[0][1] == most else (name, first)


def _at(spec: WorkflowSpec, number: int, line: int) -> bool:
    return spec.nodes[number].line == line


def _order(positions: Positions) -> list[int]:
    """The nodes as a reader comes to them: along the ways, branches where they begin, handlers behind their bodies."""
    lines = {number: positions.spec.nodes[number].line for number in positions.lanes}
    return sorted(positions.lanes, key=lambda number: (lines[number], number))


def _single(keys: Mapping[int, bytes]) -> dict[bytes, int]:
    """The nodes that no other one is like, by their keys."""
    counts = Counter(keys.values())
    return {key: number for number, key in keys.items() if counts[key] == 1}


def _key(node: Node) -> bytes:
    """A node as it was written, without its place and without the numbers of the compiler's own variables."""
    said = msgspec.json.decode(msgspec.json.encode(node), type=dict[str, Any])
    for name in _NUMBERS:
        said.pop(name, None)
    for branch in said.get("branches", ()):
        branch.pop("entry")
    return _TEMPORARY.sub(b"$", msgspec.json.encode(said))


def _subject(node: Node) -> tuple[str, str]:
    what = "" if isinstance(node, ConditionNode) else step_text(node)
    return str(type(node).__struct_config__.tag), what


def _named(node: Node, other: Node) -> Iterator[tuple[str | None, str | None]]:
    """Pairs of variables that have the same place in two nodes of a kind."""
    if type(node) is not type(other):
        return
    for field in ("target", "reraise"):
        yield getattr(node, field, None), getattr(other, field, None)
    if isinstance(node, GatherNode) and isinstance(other, GatherNode):
        for branch, there in zip(node.branches, other.branches, strict=False):
            yield from zip(branch.variables, there.variables, strict=False)
    mine, theirs = expressions_of(node), expressions_of(other)
    for name, expr in mine.items():
        if name in theirs:
            yield from _names(expr, theirs[name])


def _names(expr: Expr, other: Expr) -> Iterable[tuple[str, str]]:
    pairs = list(zip_longest(expressions_in(expr), expressions_in(other)))
    if any(type(each) is not type(there) for each, there in pairs):
        return []
    return [
        (each.name, there.name) for each, there in pairs if isinstance(each, Name) and isinstance(there, Name)
    ]
