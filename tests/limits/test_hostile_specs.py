"""Specs built to burn processor time or memory: each ends at a limit, its run alone, and soon.

Soon is counted in calls rather than in seconds, which a busy machine would stretch: a million calls are some tenths of
a second. What makes one call last is caught by the time limit of every test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final

import msgspec
import pytest
from tests.limits.specs import (  # pyright: ignore[reportMissingImports]
    TELLING,
    Run,
    expr,
    failure_of,
    for_ever,
    in_turn,
    raw,
    spec_of,
)

from dressage.expressions.frame import WORK_MAX
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.fold.state import encode_state
from dressage.orchestrator.turn.definitions import load_definition
from dressage.orchestrator.turn.messages import MessageMaker
from dressage.protocol.errors import BadSpec
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    Call,
    Const,
    DictOfExpr,
    ListOfExpr,
    Make,
    Name,
    TupleOfExpr,
)
from dressage.protocol.names import Names
from dressage.protocol.shardmap import ShardMap
from dressage.protocol.spec import (
    AssignNode,
    Handler,
    Node,
    RaiseNode,
    RegisteredWorkflow,
    ReturnNode,
    Scope,
    TaskDef,
    TaskNode,
    Variable,
    WorkflowSpec,
)
from dressage.protocol.types import ANY, Field, Named, RecordType, Scalar

CALLS_MAX: Final = 5_000_000
PRIME: Final = 2**61 - 1
WIDE: Final = RecordType("Wide", tuple(Field(f"f{n}", Scalar("int"), False, raw(1)) for n in range(255)))
VIEW: Final = Variable("v", Named("Wide"), view=True)
BOXED: Final = RecordType("Box", (Field("a", ANY),))


def repeated(before: Mapping[str, str], text: str, **parts: Any) -> WorkflowSpec:
    """Computes the same again and again, for ever."""
    return for_ever(list(before.items()), ("b", text), **parts)


def raising(**parts: Any) -> WorkflowSpec:
    """Raises, catches, raises; nothing is ever computed."""
    return spec_of(
        [RaiseNode("boom", scope=0)], scopes=(Scope((Handler(("workflow-failure",), 0),)),), **parts
    )


def raising_deep() -> WorkflowSpec:
    """Raises far inside many handlers that do not take it."""
    scopes = [Scope((Handler(("workflow-failure",), 0),))]
    for level in range(99):
        handlers = tuple(Handler(tuple(f"x{level}-{n}-{k}" for k in range(8)), 0) for n in range(10))
        scopes.append(Scope(handlers, parent=level))
    return spec_of([RaiseNode("boom", scope=99)], scopes=tuple(scopes))


def raising_much() -> WorkflowSpec:
    nodes: list[Node] = [
        AssignNode("a", expr("'x' * 250000"), 1),
        RaiseNode("boom", message=Name("a"), details=Make("Boom", {"text": expr("'x' * 32000")}), scope=0),
    ]
    return spec_of(nodes, scopes=(Scope((Handler(("workflow-failure",), 1),)),), **TELLING)


def many_arguments() -> WorkflowSpec:
    names = [f"p{n}" for n in range(255)]
    task = TaskDef("t", tuple(Field(name, ANY) for name in names), ANY)
    return spec_of([TaskNode("t", {name: expr("'x' * 1000000") for name in names}, 0)], tasks=(task,))


def viewing() -> WorkflowSpec:
    """Tells of 255 fields, again and again."""
    return for_ever([], ("v", Make("Wide", {})), types=(WIDE,), variables=(VIEW,))


def viewing_one() -> WorkflowSpec:
    """Changes one field of a wide record, again and again."""
    nodes: list[Node] = [AssignNode("v", Make("Wide", {}), 1), AssignNode("v", expr("1"), 1, attribute="f3")]
    return spec_of(nodes, types=(WIDE,), variables=(VIEW,))


def colliding() -> DictOfExpr:
    keys = tuple(Const(raw(number * PRIME)) for number in range(1, 12_000))
    return DictOfExpr(keys, tuple(Const(raw(1)) for _ in keys))


HOSTILE: dict[str, tuple[Callable[[], WorkflowSpec], str]] = {
    # -- never waits -------------------------------------------------------------------------------
    "an empty loop": (lambda: for_ever([]), "steps-per-command"),
    "a loop that counts": (lambda: for_ever([("a", "0")], ("a", "a + 1")), "steps-per-command"),
    "a loop of failures": (raising, "steps-per-command"),
    "failures far inside": (raising_deep, "work-per-command"),
    "failures with a long story": (raising_much, "work-per-command"),
    # -- grows -------------------------------------------------------------------------------------
    "a text that doubles": (lambda: for_ever([("a", "'x'")], ("a", "a + a")), "variables-size"),
    "a large text, again": (lambda: repeated({"a": "'x' * 100000"}, "a"), "work-per-command"),
    "a list that grows": (lambda: for_ever([("a", "[]")], ("a", "a + ['abcdefgh']")), "work-per-command"),
    "a list that holds itself twice": (lambda: for_ever([("a", "[1]")], ("a", "[a, a]")), "value-size"),
    "a list that doubles": (lambda: for_ever([("a", "[1]")], ("a", "a + a")), "value-size"),
    "a list in a list in a list": (lambda: for_ever([("a", "[1]")], ("a", "[a]")), "value-depth"),
    "a dict that grows": (
        lambda: for_ever([("a", "{}"), ("b", "0")], ("b", "b + 1"), ("a", "a | {b: b}")),
        "work-per-command",
    ),
    "a list repeated": (lambda: in_turn(("a", "[0] * 10**9")), "value-size"),
    "a text repeated": (lambda: in_turn(("a", "'x' * 10**9")), "text-size"),
    "many large variables": (
        lambda: in_turn(*[(f"v{n}", "'x' * 250000") for n in range(500)]),
        "work-per-command",
    ),
    "many large arguments": (many_arguments, "work-per-command"),
    "an int that grows": (lambda: for_ever([("a", "3")], ("a", "a * a")), "int-size"),
    "a power": (lambda: in_turn(("a", "10 ** 10 ** 10")), "int-size"),
    "a shift": (lambda: in_turn(("a", "1 << 10**9")), "int-size"),
    "a width": (lambda: in_turn(("a", "round(1, -(10 ** 9))")), "int-size"),
    # -- small, but dear ---------------------------------------------------------------------------
    "products": (lambda: repeated({"a": "7 ** 2400"}, "a * a % 7 + a * a % 5"), "work-per-command"),
    "quotients": (lambda: repeated({"a": "7 ** 4600", "c": "7 ** 2300"}, "a // c % 7"), "work-per-command"),
    "long numbers to text": (lambda: repeated({"a": "7 ** 4600"}, "len(str(a))"), "work-per-command"),
    "long numbers with commas": (lambda: repeated({"a": "7 ** 4600"}, "len(f'{a:,}')"), "work-per-command"),
    "text to long numbers": (lambda: repeated({"a": "'9' * 4200"}, "int(a) % 7"), "work-per-command"),
    "powers of decimals": (
        lambda: repeated({"a": "Decimal('1.' + '7' * 190)", "c": "Decimal('3.' + '7' * 190)"}, "a ** c"),
        "work-per-command",
    ),
    "a power of a long decimal": (
        lambda: in_turn(("a", "Decimal('9' * 4200) ** Decimal('1.0000001')")),
        "number-digits",
    ),
    "products of long decimals": (
        lambda: repeated({"a": "Decimal('9' * 4200)"}, "a * a"),
        "work-per-command",
    ),
    "a long decimal and an int": (
        lambda: repeated({"a": "Decimal('9' * 4200)", "c": "7 ** 4600"}, "a == c"),
        "work-per-command",
    ),
    "long decimals rounded": (
        lambda: repeated({"a": "Decimal('9' * 4200)"}, "round(a) % 7"),
        "work-per-command",
    ),
    "an int rounded": (lambda: repeated({"a": "7 ** 4600"}, "round(a, -3000) % 7"), "work-per-command"),
    "ints and a decimal summed": (
        lambda: repeated({"a": "[7 ** 4600] * 20"}, "sum(a, Decimal(0))"),
        "work-per-command",
    ),
    "a strip of many characters": (
        lambda: repeated({"a": "'a' * 200000", "c": "'b' * 40000 + 'a'"}, "len(a.strip(c))"),
        "work-per-command",
    ),
    "a search": (lambda: repeated({"a": "'a' * 200000"}, "('a' * 50 + 'b') in a"), "work-per-command"),
    "a search among few": (
        lambda: repeated({"a": "'a' * 29000"}, "('a' * 45 + 'b' + 'a' * 45) in a"),
        "work-per-command",
    ),
    "upper case": (lambda: repeated({"a": "'ß' * 100000"}, "len(a.upper())"), "work-per-command"),
    "escapes": (lambda: repeated({"a": "'\\x00' * 40000"}, "len(f'{a!r}')"), "work-per-command"),
    "a list as text": (lambda: repeated({"a": "['abc'] * 2000"}, "len(str(a))"), "work-per-command"),
    "the largest": (lambda: repeated({"a": "['abc'] * 20000"}, "max(a)"), "work-per-command"),
    "the sum": (lambda: repeated({"a": "[1] * 50000"}, "sum(a)"), "work-per-command"),
    "equal lists": (lambda: repeated({"a": "[1] * 40000", "c": "[1] * 40000"}, "a == c"), "work-per-command"),
    "a list searched": (lambda: repeated({"a": "[[1, 2]] * 20000"}, "[1, 3] in a"), "work-per-command"),
    "wide formats": (lambda: repeated({"a": "1"}, "len(f'{a:>10000}')"), "work-per-command"),
    "long floats": (lambda: repeated({"a": "1e300"}, "len(f'{a:.9999f}')"), "work-per-command"),
    # -- comprehensions and what they consume ------------------------------------------------------
    "a comprehension without end": (lambda: in_turn(("a", "[x for x in range(10**12)]")), "work-per-command"),
    "comprehensions in each other": (
        lambda: in_turn(("a", "sum(x * y for x in range(10**6) for y in range(10**6))")),
        "work-per-command",
    ),
    "a comprehension that keeps nothing": (
        lambda: in_turn(("a", "[x for x in range(10**12) if x < 0]")),
        "work-per-command",
    ),
    "a comprehension inside of one": (
        lambda: in_turn(("a", "[[[z for z in range(y)] for y in range(x)] for x in range(10**5)]")),
        "work-per-command",
    ),
    "large texts, one after the other": (
        lambda: in_turn(("a", "','.join('x' * 10000 for x in range(10**6))")),
        "text-size",
    ),
    "large texts that are not kept": (
        lambda: in_turn(("a", "sum(len('x' * 100000) for x in range(10**6))")),
        "work-per-command",
    ),
    "a set of what collides": (
        lambda: in_turn(("a", f"{{x * {PRIME} for x in range(1, 20000)}}")),
        "hash-collisions",
    ),
    "a dict of what collides": (
        lambda: in_turn(("a", f"{{x * {PRIME}: 1 for x in range(1, 20000)}}")),
        "hash-collisions",
    ),
    "a list of a range": (lambda: in_turn(("a", "list(range(10**12))")), "value-size"),
    "a range beyond all": (lambda: in_turn(("a", "sorted(range(10**5000))")), "int-size"),
    "a float in a range": (lambda: in_turn(("a", "0.5 in range(10**12)")), "work-per-command"),
    "what is never found": (lambda: in_turn(("a", "any(x < 0 for x in range(10**12))")), "work-per-command"),
    "the sum of a range": (lambda: in_turn(("a", "sum(range(10**12))")), "work-per-command"),
    "the last of many": (lambda: in_turn(("a", "max(enumerate(range(10**12)))")), "work-per-command"),
    "pairs without end": (
        lambda: in_turn(("a", "len([1 for x, y in zip(range(10**9), range(10**9))])")),
        "work-per-command",
    ),
    "spread again and again": (
        lambda: for_ever([("a", "[1] * 30000")], ("b", "len([*a, *a, *a])")),
        "work-per-command",
    ),
    "keys that are large": (
        lambda: in_turn(("c", "['x' * 1000] * 200"), ("a", "sorted(range(10000), key=lambda x: c)")),
        "work-per-command",
    ),
    "sorted again and again": (
        lambda: for_ever([("a", "[1.5] * 30000")], ("b", "len(sorted(a))")),
        "work-per-command",
    ),
    "a power with a modulus": (
        lambda: repeated({"a": "7 ** 4600"}, "pow(a - 1, a - 2, a)"),
        "work-per-command",
    ),
    "a search from the right": (
        lambda: repeated({"a": "'a' * 100000", "c": "'b' + 'a' * 1000"}, "a.rfind(c)"),
        "work-per-command",
    ),
    "a replacement": (
        lambda: repeated({"a": "'a' * 100000"}, "len(a.replace('a', 'b' * 9))"),
        "work-per-command",
    ),
    "a replacement that grows": (
        lambda: in_turn(("c", "'a' * 100000"), ("a", "c.replace('', c)")),
        "text-size",
    ),
    "pieces of a text": (lambda: in_turn(("a", "('a,' * 130000).split(',')")), "value-size"),
    "a text filled up": (lambda: in_turn(("a", "'x'.zfill(10**12)")), "text-size"),
    "a tab of any width": (lambda: in_turn(("a", "'\t'.expandtabs(10**12)")), "text-size"),
    "slices": (lambda: repeated({"a": "[1] * 30000"}, "len(a[::-1])"), "work-per-command"),
    "a format that is computed": (lambda: in_turn(("c", "10**9"), ("a", "f'{1:>{c}}'")), "format-width"),
    # -- wide rather than often --------------------------------------------------------------------
    "an expression of many parts": (
        lambda: for_ever([("a", "0")], ("b", wide(Binary("+", Name("a"), Const(raw(1)))))),
        "work-per-command",
    ),
    "many large texts at once": (
        lambda: for_ever([], ("b", wide(Binary("*", Const(raw("x")), Const(raw(1_000_000)))))),
        "work-per-command",
    ),
    "many large lists at once": (
        lambda: for_ever([("a", "[1] * 30000")], ("b", Call("len", (tuple_of(ListOfExpr((Name("a"),))),)))),
        "work-per-command",
    ),
    "many large records at once": (
        lambda: for_ever(
            [("a", "[1] * 30000")],
            ("b", Call("len", (tuple_of(Attribute(Make("Box", {"a": Name("a")}), "a")),))),
            types=(BOXED,),
        ),
        "work-per-command",
    ),
    "a view of many fields": (viewing, "history-limit"),
    "a field of many": (viewing_one, "work-per-command"),
    "keys that collide": (lambda: in_turn(("a", colliding())), "hash-collisions"),
}


def wide(part: Binary) -> Call:
    return Call("len", (ListOfExpr((part,) * 9_000),))


def tuple_of(part: ListOfExpr | Attribute) -> TupleOfExpr:
    return TupleOfExpr((part,) * 9_000)


def calls_of(function: Callable[[], Outcome]) -> tuple[Outcome, int]:
    """What the function gives, and how many calls it made, C functions included."""
    calls = 0

    def count(frame: FrameType, event: str, arg: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        outcome = function()
    finally:
        sys.setprofile(before)
    return outcome, calls


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_spec_ends_at_a_limit_and_soon(case: str) -> None:
    make, limit = HOSTILE[case]
    run = Run(make())
    outcome, calls = calls_of(run.start)
    failure = failure_of(outcome)
    assert (failure.name, failure.kind) == (limit, "limit")
    assert failure.message.endswith(f"(limit {limit})")
    assert calls < CALLS_MAX
    assert outcome.run is not None
    messages = MessageMaker(Names("x"), 0, lambda: ShardMap(1)).events(
        outcome.events, 0, outcome.run, "r", "ann"
    )
    sizes = [len(message.data) for message in messages]
    assert sum(sizes) < 2 * WORK_MAX
    assert max([*sizes, len(encode_state(outcome.run))]) < 1024 * 1024 - 4096


def test_the_budget_is_per_command() -> None:
    """A run that waits in between may go on for as long as it likes."""
    nodes: list[Node] = [
        AssignNode("a", expr("'x' * 100000 == 'x' * 100000"), 1),
        TaskNode("t", {}, 2),
        *[AssignNode("a", expr("'x' * 100000 == 'x' * 100000"), number + 1) for number in range(2, 50)],
        TaskNode("t", {}, 0),
    ]
    run = Run(spec_of(nodes, tasks=(TaskDef("t", (), ANY),)))
    run.start()
    for _ in range(10):
        assert run.report(output=raw(None)).code is None
    assert run.state is not None
    assert not run.state.finished


def test_the_same_work_is_counted_each_time() -> None:
    """A refold must come to the same end, whatever the machine does meanwhile."""
    spec = HOSTILE["a list that grows"][0]()
    first, second = Run(spec).start(), Run(spec).start()
    assert first.state is not None
    assert second.state is not None
    assert encode_state(first.state) == encode_state(second.state)
    assert len(first.events) == len(second.events)


# -- what is refused before any run meets it -------------------------------------------------------
def test_a_constant_whose_items_collide_is_refused() -> None:
    items = b",".join(b"%d" % (number * PRIME) for number in range(1, 20_000))
    spec = spec_of([ReturnNode(Const(msgspec.Raw(b'{"$set":[%b]}' % items)))])
    with pytest.raises(BadSpec, match="hash-collisions"):
        load_definition("hostile", 1, msgspec.json.encode(RegisteredWorkflow(spec, 1, spec.digest())))
