"""Comprehensions and lambdas: what has variables of its own, in slots of the frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from dressage.expressions.compilation import UNSET, Evaluate, Part
from dressage.expressions.frame import OPERATION_WORK, Frame
from dressage.expressions.functions import dict_of, set_of
from dressage.expressions.iteration import iterate, iterate_any, unpack
from dressage.expressions.limits import weigh
from dressage.expressions.operators import check_hashable
from dressage.expressions.types import TypeTable
from dressage.expressions.values import Value
from dressage.protocol.errors import BadSpec
from dressage.protocol.expressions import Clause, Comprehension, Lambda, Target, locals_of, targets_in

_Bind = Callable[[Frame, Value], None]
_Steps = Callable[[Frame, Iterator[Any]], Iterator[Value]]
"""From the items of the first iterable to the elements."""


def comprehension(expr: Comprehension, part: Part, table: TypeTable) -> Evaluate:
    if not expr.clauses:
        raise BadSpec("a comprehension needs something to go through")
    if (expr.key is not None) != (expr.kind == "dict"):
        raise BadSpec("a dict comprehension needs a key, and no other has one")
    first = part.consumed(expr.clauses[0].iterable)
    names = sorted(locals_of(expr))
    inner = part.around(names)
    slots = [inner.locals[name] for name in names]
    before = inner.whole.work
    element = _element(expr, inner)
    steps = _clauses(expr.clauses, inner, element, inner.whole.work - before)
    begin = iterate_any if expr.kind == "set" else iterate

    def elements(frame: Frame) -> Iterator[Value]:
        # The first iterable is asked for its items at once, also by a generator.
        items = begin(frame, first(frame))
        for slot in slots:
            frame.locals[slot] = UNSET
        return steps(frame, items)

    return _MAKERS[expr.kind](elements)


def _element(expr: Comprehension, inner: Part) -> Evaluate:
    if expr.key is None:
        element = inner(expr.element)
        if expr.kind == "set":
            return lambda frame: _hashable(element(frame))
        return element
    key, value = inner(expr.key), inner(expr.element)

    def pair(frame: Frame) -> Value:
        name, member = key(frame), value(frame)
        check_hashable(name)
        return name, member

    return pair


def _hashable(value: Value) -> Value:
    check_hashable(value)
    return value


def _clauses(clauses: tuple[Clause, ...], inner: Part, element: Evaluate, element_work: int) -> _Steps:
    """The steps of all clauses. Each item pays for what is evaluated for it, whatever the conditions say."""
    *outer, last = clauses
    bind, conditions, work = _clause(last, inner)
    steps = _innermost(bind, conditions, element, work + element_work)
    following = last
    for clause in reversed(outer):
        bind, conditions, work = _clause(clause, inner)
        before = inner.whole.work
        source = inner.consumed(following.iterable)
        steps = _outer(bind, conditions, source, steps, work + inner.whole.work - before)
        following = clause
    return steps


def _clause(clause: Clause, inner: Part) -> tuple[_Bind, list[Evaluate], int]:
    """How an item is bound, its conditions, and the work of both."""
    before = inner.whole.work
    bind = _target(clause.target, inner)
    conditions = [inner(condition) for condition in clause.conditions]
    places = len(targets_in(clause.target))
    return bind, conditions, OPERATION_WORK * (3 + places) + inner.whole.work - before


def _innermost(bind: _Bind, conditions: list[Evaluate], element: Evaluate, work: int) -> _Steps:
    def steps(frame: Frame, items: Iterator[Any]) -> Iterator[Value]:
        for item in items:
            frame.spend(work)
            bind(frame, item)
            if all(condition(frame) for condition in conditions):
                yield element(frame)

    return steps


def _outer(bind: _Bind, conditions: list[Evaluate], source: Evaluate, following: _Steps, work: int) -> _Steps:
    def steps(frame: Frame, items: Iterator[Any]) -> Iterator[Value]:
        for item in items:
            frame.spend(work)
            bind(frame, item)
            if all(condition(frame) for condition in conditions):
                yield from following(frame, iterate(frame, source(frame)))

    return steps


# -- targets ---------------------------------------------------------------------------------------
def _target(target: Target, inner: Part, depth: int = 0) -> _Bind:
    if bool(target.name) == bool(target.items):
        raise BadSpec("a target of a comprehension is a variable, or several targets")
    if inner.depth <= depth:
        raise BadSpec("a target of a comprehension nests too deep (limit expression-depth)")
    if target.name:
        slot = inner.locals[target.name]

        def bind(frame: Frame, value: Value) -> None:
            frame.locals[slot] = value

        return bind
    stars = [place for place, each in enumerate(target.items) if each.star]
    if len(stars) > 1:
        raise BadSpec("a target of a comprehension has two stars")
    star = stars[0] if stars else None
    binds = [_target(each, inner, depth + 1) for each in target.items]

    def bind_all(frame: Frame, value: Value) -> None:
        for each, item in zip(binds, unpack(frame, value, len(binds), star), strict=True):
            each(frame, item)

    return bind_all


# -- what is made of the elements ------------------------------------------------------------------
_Elements = Callable[[Frame], Iterator[Value]]


def _list(elements: _Elements) -> Evaluate:
    def evaluate(frame: Frame) -> Value:
        value = list(elements(frame))
        frame.spend(weigh(value))
        return value

    return evaluate


def _set(elements: _Elements) -> Evaluate:
    return lambda frame: set_of(frame, elements(frame))


def _dict(elements: _Elements) -> Evaluate:
    return lambda frame: dict_of(frame, list(elements(frame)))


def _generator(elements: _Elements) -> Evaluate:
    return elements


_MAKERS: dict[str, Callable[[_Elements], Evaluate]] = {
    "list": _list,
    "set": _set,
    "dict": _dict,
    "generator": _generator,
}


# -- lambdas ---------------------------------------------------------------------------------------
def function(expr: Lambda, part: Part) -> Evaluate:
    """What gives a function of one value, for a builtin that calls it while it runs."""
    inner = part.around([expr.param])
    slot = inner.locals[expr.param]
    before = inner.whole.work
    body = inner(expr.body)
    work = OPERATION_WORK + inner.whole.work - before

    def evaluate(frame: Frame) -> Value:
        def call(item: Value) -> Value:
            frame.spend(work)
            frame.locals[slot] = item
            return body(frame)

        return call

    return evaluate
