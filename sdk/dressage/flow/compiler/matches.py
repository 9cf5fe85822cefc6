"""`match`: each case is one condition over the subject, and then the assignments of what it captures."""

from __future__ import annotations

import ast
from typing import Final

from dressage.expressions.matching import KINDS
from dressage.expressions.parse import constant
from dressage.expressions.spelling import text_of
from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.gathers import until_of
from dressage.flow.compiler.graph import Label
from dressage.protocol.expressions import (
    Attribute,
    Call,
    Compare,
    CompareOperator,
    Comparison,
    Conditional,
    Expr,
    Index,
    Logical,
    Slice,
)
from dressage.protocol.spec import BranchNode

_SELF_CAPTURING: Final = frozenset(KINDS.values()) - {KINDS["datetime"], KINDS["date"], KINDS["timedelta"]}
"""Types whose one positional pattern is the value itself (PEP 634 has the list)."""


class Matched:
    """A pattern as expressions: when it matches, which is None if always, and what it captures."""

    def __init__(self, tests: list[Expr], captures: dict[str, Expr]) -> None:
        self.tests = tests
        self.captures = captures

    @property
    def test(self) -> Expr | None:
        if len(self.tests) > 1:
            return Logical("and", tuple(self.tests))
        return self.tests[0] if self.tests else None


def compile_match(context: Context, node: ast.Match) -> None:
    graph, end = context.graph, Label()
    call = node.subject.value if isinstance(node.subject, ast.Await) else None
    pair = isinstance(call, ast.Call) and until_of(context, call) not in (None, "all")
    subject = context.hold(node.subject)
    for case in node.cases:
        if not graph.live:
            raise context.refusal(
                case.pattern, "no value gets to this case", "remove it, or put it further up"
            )
        missed = Label()
        matched = _matched(context, case.pattern, subject)
        if pair and _takes_any_pair(case.pattern):
            matched.tests = []
        _go_on_if(context, case.pattern, matched.test, missed)
        for name, value in matched.captures.items():
            context.set(case.pattern, context.variable(name), value)
        if case.guard is not None:
            _go_on_if(context, case.guard, context.translate(case.guard), missed)
        context.block(context, case.body)
        graph.jump(end)
        graph.mark(missed)
    graph.jump(end)
    graph.mark(end)


def _takes_any_pair(pattern: ast.pattern) -> bool:
    """Whether this always takes what a race gives: `case _, value`."""
    return (
        isinstance(pattern, ast.MatchSequence)
        and len(pattern.patterns) == 2
        and all(isinstance(each, ast.MatchAs) and each.pattern is None for each in pattern.patterns)
    )


def _go_on_if(context: Context, place: ast.AST, test: Expr | None, missed: Label) -> None:
    if test is None:
        return
    then = Label()
    context.graph.emit(BranchNode, place, {"then": then, "otherwise": missed}, test=test)
    context.graph.mark(then)


def _matched(context: Context, pattern: ast.pattern, subject: Expr) -> Matched:
    match pattern:
        case ast.MatchValue():
            return Matched([_compared(subject, "==", context.translate(pattern.value))], {})
        case ast.MatchSingleton():
            return Matched([_compared(subject, "is", constant(pattern.value))], {})
        case ast.MatchAs():
            return _captured(context, pattern, subject)
        case ast.MatchOr():
            return _any_of(context, pattern, subject)
        case ast.MatchSequence():
            return _sequence(context, pattern, subject)
        case ast.MatchMapping():
            return _mapping(context, pattern, subject)
        case ast.MatchClass():
            return _instance(context, pattern, subject)
        case _:
            raise context.refusal(pattern, "this pattern is not supported", "write if and elif")


def _compared(left: Expr, operator: CompareOperator, right: Expr) -> Expr:
    return Compare(left, (Comparison(operator, right),))


def _captured(context: Context, pattern: ast.MatchAs, subject: Expr) -> Matched:
    inner = _matched(context, pattern.pattern, subject) if pattern.pattern else Matched([], {})
    if pattern.name is None:
        return inner
    return Matched(inner.tests, {**inner.captures, **_capture(context, pattern, pattern.name, subject)})


def _capture(context: Context, place: ast.AST, name: str, value: Expr) -> dict[str, Expr]:
    if context.is_view(context.variable(name)) or name in context.names.failures:
        raise context.refusal(
            place, f"{name} cannot be captured: it names something else here", "use another name"
        )
    return {name: value}


def _any_of(context: Context, pattern: ast.MatchOr, subject: Expr) -> Matched:
    """The first alternative that matches says what is captured; Python has checked that all capture the same."""
    alternatives = [_matched(context, each, subject) for each in pattern.patterns]
    tests = [each.test for each in alternatives]
    chosen = dict(alternatives[-1].captures)
    for each in reversed(alternatives[:-1]):
        if each.test is not None:
            for name in chosen:
                chosen[name] = Conditional(each.test, each.captures[name], chosen[name])
    known = [test for test in tests if test is not None]
    return Matched([] if len(known) < len(tests) else [Logical("or", tuple(known))], chosen)


def _all_of(tests: list[Expr], parts: list[Matched], captures: dict[str, Expr] | None = None) -> Matched:
    for part in parts:
        tests = [*tests, *part.tests]
        captures = {**(captures or {}), **part.captures}
    return Matched(tests, captures or {})


def _sequence(context: Context, pattern: ast.MatchSequence, subject: Expr) -> Matched:
    starred = [place for place, each in enumerate(pattern.patterns) if isinstance(each, ast.MatchStar)]
    count = len(pattern.patterns)
    length = Call("len", (subject,))
    needed = (
        _compared(length, ">=", constant(count - 1)) if starred else _compared(length, "==", constant(count))
    )
    parts: list[Matched] = []
    for place, each in enumerate(pattern.patterns):
        behind = bool(starred) and place > starred[0]
        if isinstance(each, ast.MatchStar):
            stop = None if place == count - 1 else constant(place - count + 1)
            rest = Call("list", (Slice(subject, constant(place), stop),))
            captured = _capture(context, each, each.name, rest) if each.name else {}
            parts.append(Matched([], captured))
        else:
            parts.append(
                _matched(context, each, Index(subject, constant(place - count if behind else place)))
            )
    return _all_of([Call("is_sequence", (subject,)), needed], parts)


def _mapping(context: Context, pattern: ast.MatchMapping, subject: Expr) -> Matched:
    keys = [context.translate(each) for each in pattern.keys]
    tests: list[Expr] = [Call("is_mapping", (subject,))]
    parts: list[Matched] = []
    for key, each in zip(keys, pattern.patterns, strict=True):
        inner = _matched(context, each, Index(subject, key))
        parts.append(Matched([_compared(key, "in", subject), *inner.tests], inner.captures))
    rest = {}
    if pattern.rest is not None:
        rest = _capture(context, pattern, pattern.rest, Call("without", (subject, *keys)))
    return _all_of(tests, parts, rest)


def _instance(context: Context, pattern: ast.MatchClass, subject: Expr) -> Matched:
    kind = context.names.object(pattern.cls)
    if not isinstance(kind, type):
        name = text_of(pattern.cls)
        raise context.refusal(pattern.cls, f"{name} is no class", "name a dataclass or a type of values")
    names = calls.type_names(context.scope, pattern.cls, kind)
    parts: list[Matched] = []
    if kind in _SELF_CAPTURING:
        parts = [_matched(context, each, subject) for each in pattern.patterns]
        places: tuple[str, ...] = ()
    else:
        places = getattr(kind, "__match_args__", ())
        if len(pattern.patterns) > len(places):
            raise context.refusal(
                pattern, f"{kind.__name__}() takes {len(places)} patterns by place", "give the others by name"
            )
        parts = [
            _matched(context, each, Attribute(subject, name))
            for name, each in zip(places, pattern.patterns, strict=False)
        ]
    parts += [
        _matched(context, each, Attribute(subject, name))
        for name, each in zip(pattern.kwd_attrs, pattern.kwd_patterns, strict=True)
    ]
    return _all_of([Call("isinstance", (subject, *names))], parts)
