"""Specs as people read them: every kind is drawn, expressions keep their meaning, and no node is left out."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dressage.expressions.configuration import TextScope
from dressage.expressions.parse import constant, translate
from dressage.flow.drawing import (
    EXPRESSIONS,
    NODES,
    changes,
    expression_text,
    mermaid,
    node_text,
    outline,
    svg,
)
from dressage.flow.drawing.flowgraph import FlowGraph
from dressage.flow.drawing.svg import BOX_HEIGHT, GAP_Y
from dressage.protocol.errors import BadSpec, DefinitionError
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    BinaryOperator,
    Bind,
    Call,
    Clause,
    Compare,
    CompareOperator,
    Comparison,
    Comprehension,
    Conditional,
    Const,
    DictOfExpr,
    Expr,
    Format,
    Index,
    Lambda,
    ListOfExpr,
    Logical,
    Make,
    Name,
    Placeholder,
    SetOfExpr,
    Slice,
    Spread,
    Target,
    TupleOfExpr,
    Unary,
    UnaryOperator,
)
from dressage.protocol.spec import Branch, BranchNode, GatherNode, Node, ReturnNode, SleepNode, WorkflowSpec
from dressage.protocol.types import NONE
from dressage.simulation.programs import Program

NAMES = ("order", "price", "n")


# -- every kind ------------------------------------------------------------------------------------
def test_every_kind_of_expression_has_a_text() -> None:
    assert EXPRESSIONS.keys() == set(get_args(Expr))


def test_every_kind_of_node_is_drawn() -> None:
    assert NODES.keys() == set(get_args(Node))


# -- expressions -----------------------------------------------------------------------------------
class RecordScope(TextScope):
    """The names of a text, and one record; `:=` sets a variable."""

    def call(self, node: ast.Call) -> Expr:
        assert isinstance(node.func, ast.Name)
        fields = {str(each.arg): translate(each.value, self) for each in node.keywords}
        return Make(node.func.id, fields)

    def bound(self, node: ast.NamedExpr) -> str:
        return node.target.id

    def locally(self, names: Collection[str]) -> RecordScope:
        return RecordScope(self.text, {*self.names, *names})


def parsed(text: str) -> Expr:
    return translate(ast.parse(text, mode="eval").body, RecordScope(text, NAMES))


def operator(kind: Any, *without: str) -> st.SearchStrategy[Any]:
    return st.sampled_from([each for each in get_args(kind) if each not in without])


names = st.sampled_from(NAMES).map(Name)
identifiers = st.sampled_from(["id", "item", "x1"])
constants = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2**80),
    st.floats(0, 1e300, allow_nan=False),
    st.text(max_size=6),
    st.binary(max_size=3),
).map(constant)
simple = st.one_of(names, st.builds(Attribute, names, identifiers), st.integers(0, 9).map(constant))


def placeholders() -> st.SearchStrategy[Any]:
    conversions = st.sampled_from([None, "s", "r"])
    inner = st.builds(Placeholder, simple)
    computed = st.builds(
        lambda width, digits: Format((">", width, ".", digits, "f") if digits else (">", width)),
        inner,
        st.none() | inner,
    )
    specs = st.sampled_from(["", ">10", ".2f", ",", "%Y-%m"]) | computed
    return st.builds(Placeholder, simple, conversions, specs)


def comprehensions(inner: st.SearchStrategy[Any], *kinds: str) -> st.SearchStrategy[Any]:
    """Of one clause or two; what they are made of knows their variables."""
    x, y = Name("x"), Name("y")
    pair = Target(items=(Target("x"), Target(items=(Target("y"), Target("rest", star=True)))))
    seen = st.one_of(inner, st.sampled_from([x, y]), st.builds(Binary, st.just("+"), st.just(x), inner))
    conditions = st.lists(seen, max_size=2).map(tuple)
    first = st.builds(Clause, st.just(pair), inner, conditions)
    second = st.builds(Clause, st.just(Target("z")), seen, conditions)
    clauses = st.one_of(st.tuples(first), st.tuples(first, second))
    known = [each for each in kinds if each != "dict"]
    found = st.builds(Comprehension, st.sampled_from(known), seen, clauses)
    return (
        found
        if "dict" not in kinds
        else found | st.builds(Comprehension, st.just("dict"), seen, clauses, seen)
    )


def with_texts(parts: list[Any], text: str) -> Format:
    """Texts between placeholders, as the parser gives them: none is empty, and no two are neighbours."""
    return Format(tuple(each for part in parts for each in ((part, text) if text else (part,))))


first_of_may = (constant(2030), constant(5), constant(1))


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    two = st.lists(inner, min_size=2, max_size=3).map(tuple)
    fields = st.dictionaries(identifiers, inner, max_size=2)
    links = st.lists(
        st.builds(Comparison, operator(CompareOperator, "is", "is not"), inner), min_size=1, max_size=2
    )
    none = Comparison("is not", constant(None))
    generators = comprehensions(inner, "generator")
    items = st.lists(inner | st.builds(Spread, inner | generators), max_size=3).map(tuple)
    some = st.lists(inner | st.builds(Spread, inner), min_size=1, max_size=3).map(tuple)
    bound = st.none() | inner
    body = inner | st.builds(Attribute, st.just(Name("each")), identifiers)
    return st.one_of(
        st.builds(Attribute, inner, identifiers),
        st.builds(Index, inner, inner),
        st.builds(Binary, operator(BinaryOperator, "%"), inner, inner),
        st.builds(Binary, st.just("%"), names, inner),
        st.builds(Unary, operator(UnaryOperator), inner),
        st.builds(Compare, inner, links.map(tuple)),
        st.builds(Compare, inner, st.just((none,))),
        st.builds(Logical, st.sampled_from(["and", "or"]), two),
        st.builds(Conditional, inner, inner, inner),
        st.builds(
            with_texts, st.lists(placeholders(), min_size=1, max_size=3), st.text("a{}'\"\n ", max_size=3)
        ),
        st.builds(ListOfExpr, items),
        st.builds(TupleOfExpr, items),
        st.builds(SetOfExpr, some),
        st.builds(Slice, inner, bound, bound, bound),
        st.builds(Bind, identifiers, inner),
        comprehensions(inner, "list", "set", "dict"),
        st.builds(lambda made: Call("sum", (made,)), generators),
        st.builds(lambda of, made: Call("sorted", (of,), {"key": Lambda("each", made)}), inner, body),
        st.just(Call("datetime", first_of_may, {"tzinfo": Call("timezone.utc")})),
        st.lists(st.tuples(st.none() | inner, inner), max_size=2).map(
            lambda pairs: DictOfExpr(tuple(k for k, _ in pairs), tuple(v for _, v in pairs))
        ),
        st.builds(Make, st.just("Order"), fields),
        st.builds(Call, st.sampled_from(["min", "max"]), two),
        st.builds(lambda receiver, key: Call(".get", (receiver, key)), inner, inner),
        st.builds(lambda days: Call("timedelta", (), {"days": days}), inner),
    )


expressions: st.SearchStrategy[Any] = st.recursive(st.one_of(names, constants), deeper, max_leaves=12)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(expressions)
def test_the_text_of_an_expression_is_that_expression(expr: Expr) -> None:
    text = expression_text(expr)
    assert msgspec.json.encode(parsed(text)) == msgspec.json.encode(expr), text


@pytest.mark.parametrize(
    "value",
    [
        -1,
        -2.5,
        Decimal("1.50"),
        datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        date(2030, 1, 2),
        timedelta(days=-1, seconds=7, microseconds=3),
        timedelta(0),
        UUID(int=7),
        b"\x00a",
        float("inf"),
        (1, "a"),
        (),
        {1, 2},
        set[int](),
        {"a": [1, {"b": None}]},
        {1: "a", (2, 3): "b"},
        [Decimal(1), [True]],
    ],
)
def test_the_text_of_a_constant_is_its_value_in_python(value: Any) -> None:
    known = {each.__name__: each for each in (Decimal, datetime, date, timedelta, UUID, float, set)}
    text = expression_text(constant(value))
    assert eval(text, known) == value


def test_constants_of_the_authors_types_have_their_names() -> None:
    assert expression_text(Const(msgspec.Raw(b'{"$enum":["Color","RED"]}'))) == "Color.RED"
    record = msgspec.Raw(b'{"$record":["Order",{"id":"o-1","count":2}]}')
    assert expression_text(Const(record)) == "Order(id='o-1', count=2)"


def test_an_f_string_that_python_cannot_hold_is_said_in_another_way() -> None:
    quotes = constant("\n'\"'''\"\"\"")
    text = expression_text(Format(("a", Placeholder(quotes, "r", ">9"))))
    assert eval(text) == f"a{bytes(quotes.value).decode() and msgspec.json.decode(quotes.value)!r:>9}"


def boxes_of(spec: WorkflowSpec) -> list[tuple[str, float, float, float, float]]:
    """Of each node in a picture its whole text, its place, its width and its height."""
    svg_name = "{http://www.w3.org/2000/svg}"
    found: list[tuple[str, float, float, float, float]] = []
    for group in ET.fromstring(svg(spec)).iter(f"{svg_name}g"):
        title, rect = group.findtext(f"{svg_name}title", ""), group.find(f"{svg_name}rect")
        assert rect is not None
        x, y, width, height = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
        found.append((title, x, y, width, height))
    return found


# -- the tree --------------------------------------------------------------------------------------
def test_every_node_of_a_program_stands_in_its_tree_once(define: Callable[[str], ModuleType]) -> None:
    drawn = jumps = 0
    for seed in range(120):
        program = Program(seed)
        try:
            spec: WorkflowSpec = define(program.text()).flow.spec
        except DefinitionError:
            continue
        lines = outline(spec)
        there = [line.node for line in lines if line.node is not None]
        assert sorted(there) == sorted(FlowGraph(spec).order), program.text()
        assert all(line.depth <= lines[at].depth + 1 for at, line in enumerate(lines[1:]))
        drawn += len(there)
        jumps += sum(line.text.startswith("go on at") for line in lines)
    assert drawn > 1_000
    assert jumps < drawn / 40, "what a compiler wrote reads as a program"


def test_a_graph_that_is_no_program_is_told_with_jumps() -> None:
    """Two loops that lead into one another's middle."""
    test = Name("x")
    nodes = (BranchNode(test, 1, 2), BranchNode(test, 2, 3), BranchNode(test, 1, 3), ReturnNode())
    lines = outline(WorkflowSpec(1, "knot", (), NONE, nodes))
    assert sorted(line.node for line in lines if line.node is not None) == [0, 1, 2, 3]
    assert any(line.text.startswith("go on at node") for line in lines)


BRANCHES = """
from dressage.flow import App, gather, sleep, workflow

app = App("drawn")

@app.task
async def ship(item: str) -> str: ...

@app.task
async def bill(item: str) -> str: ...

async def pack(item: str) -> str:
    try:
        first, _ = await gather(ship(item), bill(item))
    except ExceptionGroup:
        return "lost"
    return first

@workflow
async def flow(item: str, times: int) -> str:
    done = 0
    while done < times:
        try:
            made = await gather(pack(item), sleep(5))
        finally:
            done += 1
        if made[0]:
            return made[0]
    return "never"
"""

BRANCHES_TREE = """
done = 0
while done < times:
    try:
        made = await gather(2 branches)
            branch 1 with $2 = item:
                pack.item = $2
                try:
                    $6 = await gather(2 branches)
                        branch 1 with $7 = pack.item:
                            $8 = await ship(item=$7)
                            return $8
                        branch 2 with $9 = pack.item:
                            $10 = await bill(item=$9)
                            return $10
                    pack.first = $6[0]
                    pack._ = $6[1]
                    $3 = pack.first
                except ExceptionGroup:
                    $3 = 'lost'
                return $3
            branch 2 with $4 = 5:
                await sleep($4)
                return
    finally, behind a failure:
        done = done + 1
        raise
    done = done + 1
    if not made[0]:
        continue
    return made[0]
return 'never'
"""


def test_branches_are_a_block_each(define: Callable[[str], ModuleType]) -> None:
    spec = define(BRANCHES).flow.spec
    tree = "\n".join("    " * line.depth + line.text for line in outline(spec))
    assert tree == BRANCHES_TREE.strip()
    there = [line.node for line in outline(spec) if line.node is not None]
    assert sorted(there) == list(range(len(spec.nodes)))


def test_branches_are_frames_of_a_flowchart_that_come_together_behind_it(
    define: Callable[[str], ModuleType],
) -> None:
    spec = define(BRANCHES).flow.spec
    lines = [line.strip() for line in mermaid(spec).splitlines()]
    outer, inner = (number for number, node in enumerate(spec.nodes) if isinstance(node, GatherNode))
    frames = [line for line in lines if line.startswith("subgraph branch")]
    assert frames == [
        f'subgraph branch{outer}_1["branch 1"]',
        f'subgraph branch{inner}_1["branch 1"]',
        f'subgraph branch{inner}_2["branch 2"]',
        f'subgraph branch{outer}_2["branch 2"]',
    ]
    assert sum(line.startswith("subgraph ") for line in lines) == lines.count("end")
    for gather in (outer, inner):
        following = spec.nodes[gather].next
        arrows = [line.split() for line in lines if line.endswith(f" n{following}") and "-->" in line]
        ends = [int(arrow[0][1:]) for arrow in arrows]
        assert len(ends) == 2
        assert all(isinstance(spec.nodes[end], ReturnNode) for end in ends)


def test_branches_stand_side_by_side_in_a_picture_and_above_what_follows(
    define: Callable[[str], ModuleType],
) -> None:
    spec = define(BRANCHES).flow.spec
    graph = FlowGraph(spec)
    outer = next(number for number, node in enumerate(spec.nodes) if isinstance(node, GatherNode))
    places = {title: (x, y) for title, x, y, _, _ in boxes_of(spec)}
    node = spec.nodes[outer]
    assert isinstance(node, GatherNode)

    def place(number: int) -> tuple[float, float]:
        at = spec.nodes[number]
        return places[f"{at.line}  {node_text(spec, at)}"]

    first, second = (place(branch.entry) for branch in node.branches)
    assert first[0] < second[0]
    assert first[1] == second[1] == place(outer)[1] + BOX_HEIGHT + GAP_Y
    ends = [number for number, lanes in graph.lanes.items() if lanes and lanes[-1].gather == outer]
    assert place(node.next)[1] > max(place(end)[1] for end in ends)


def test_a_node_that_two_branches_share_is_drawn_once() -> None:
    """A spec that no compiler wrote: both branches, and the workflow itself, end at one node."""
    steps = (GatherNode((Branch(1), Branch(1), Branch(2)), 2), SleepNode(Name("x"), 2), ReturnNode())
    spec = WorkflowSpec(1, "shared", (), NONE, steps)
    lines = outline(spec)
    assert sorted(line.node for line in lines if line.node is not None) == [0, 1, 2]
    assert sum(line.strip().startswith("n2(") for line in mermaid(spec).splitlines()) == 1
    assert len(boxes_of(spec)) == 3


def test_a_tree_that_is_too_deep_is_refused() -> None:
    count = 3_000
    steps = [BranchNode(Name("x"), number + 1, count) for number in range(count)]
    spec = WorkflowSpec(1, "deep", (), NONE, (*steps, SleepNode(Name("x"), count + 1), ReturnNode()))
    with pytest.raises(BadSpec, match="too deep to be shown"):
        outline(spec)


# -- pictures --------------------------------------------------------------------------------------
def test_a_picture_has_every_node_and_none_above_another(shop: ModuleType) -> None:
    spec = shop.process_order.spec
    picture = ET.fromstring(svg(spec))
    boxes = [box for _, *box in boxes_of(spec)]
    assert len(boxes) == len(spec.nodes)
    apart = all(
        a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
        for at, a in enumerate(boxes)
        for b in boxes[:at]
    )
    assert apart
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    assert all(x >= 0 and x + w <= width and y + h <= height for x, y, w, h in boxes)


def test_a_flowchart_has_every_node_once(shop: ModuleType) -> None:
    spec = shop.process_order.spec
    lines = [line.strip() for line in mermaid(spec).splitlines()]
    for number in range(len(spec.nodes)):
        assert sum(line.startswith((f"n{number}[", f"n{number}(", f"n{number}{{")) for line in lines) == 1


# -- changes ---------------------------------------------------------------------------------------
def test_each_change_of_a_spec_is_told(shop: ModuleType) -> None:
    spec: WorkflowSpec = shop.process_order.spec
    assert changes(spec, spec) == []
    for name in ("params", "nodes", "scopes", "variables", "tasks", "failures", "types", "description"):
        part = getattr(spec, name)
        less = msgspec.structs.replace(spec, **{name: part[:-1]})
        if name not in ("nodes", "scopes"):
            told = changes(spec, less)
            assert told, name
            assert {each.kind for each in told} <= {"removed", "changed"}, name
    renumbered = msgspec.structs.replace(spec, nodes=(*spec.nodes, ReturnNode()))
    assert [each.name for each in changes(spec, renumbered)] == ["digest"]


def test_a_change_in_a_branch_is_told_where_it_stands(define: Callable[[str], ModuleType]) -> None:
    before = define(BRANCHES).flow.spec
    text = BRANCHES.replace("sleep(5)", "sleep(6)").replace("except ExceptionGroup", "except Exception")
    after = define(text)
    told = [str(each) for each in changes(before, after.flow.spec)]
    assert any("branch 2 with $4 = 6:" in each for each in told)
    assert any(each.startswith("+") and "except Exception:" in each for each in told)
    assert any(each.startswith("-") and "except ExceptionGroup:" in each for each in told)


DECLARED = """\
from typing import Any, NamedTuple, TypedDict
from dataclasses import dataclass
from dressage.flow import gather, task, workflow

@dataclass
class Size:
    width: int

@task
async def measure(x: int) -> Size: ...

async def doubled(x: int) -> int:
    y = x * 2
    await measure(y)
    return y

@workflow
async def flow(x: int) -> int:
    z = x + 1
    size = await measure(z)
    y = await doubled(z)
    return y + size.width
"""


def test_what_no_step_shows_is_told_in_words(define: Callable[[str], ModuleType]) -> None:
    def told(*edits: tuple[str, str]) -> set[str]:
        text = DECLARED
        for before, after in edits:
            assert before in text
            text = text.replace(before, after)
        found = changes(define(DECLARED).flow.spec, define(text).flow.spec)
        return {f"{each.part} {each}" for each in found if each.part != "steps"}

    assert told(("z = x", "z: int = x")) == {"variables ~ z: int -> declared as int"}
    assert told(("@dataclass\nclass Size:", "class Size(NamedTuple):")) == {
        "types ~ Size: record -> record, as a tuple"
    }
    as_dict = ("@dataclass\nclass Size:", "class Size(TypedDict):"), ("size.width", "size['width']")
    assert told(*as_dict) == {"types ~ Size: record -> record, as a dict"}
    branches = told(("y = await doubled(z)", "y, _ = await gather(doubled(z), doubled(z))"))
    assert "variables ~ doubled.y: int -> int, each of 2 branches has its own" in branches


def test_a_step_of_a_function_of_another_file_has_the_line_of_the_call(
    define: Callable[[str], ModuleType],
) -> None:
    elsewhere = define(f"{chr(10) * 200}{DECLARED}")
    text = (
        DECLARED.replace("Size", "Extent")
        .replace("def measure", "def extent")
        .replace("await measure", "await extent")
    )
    text = text.replace("await doubled(", "await elsewhere.doubled(")
    spec: WorkflowSpec = define(f"import {elsewhere.__name__} as elsewhere\n{text}").flow.spec
    lines = {line.text: line.line for line in outline(spec)}
    call = 1 + text[: text.index("await elsewhere")].count("\n") + 1
    assert lines["doubled.y = doubled.x * 2"] == lines["await measure(x=doubled.y)"] == call
    assert max(lines.values()) == call + 1


def test_other_lines_are_no_change(shop: ModuleType) -> None:
    spec: WorkflowSpec = shop.process_order.spec
    moved = tuple(msgspec.structs.replace(node, line=node.line + 7) for node in spec.nodes)
    assert changes(spec, msgspec.structs.replace(spec, nodes=moved, first_line=80, module="other")) == []


TIMED = """\
from datetime import timedelta
from dressage.flow import task, workflow

@task({options})
async def work(n: int) -> int: ...

@workflow
async def flow(n: int) -> int:
    return await work.options(deadline=timedelta(hours=1))(n)
"""


def test_times_of_a_task_are_shown_and_told_when_they_change(define: Callable[[str], ModuleType]) -> None:
    before = define(TIMED.format(options="timeout=timedelta(minutes=1), deadline=timedelta(days=1)")).flow
    after = define(TIMED.format(options="heartbeat=timedelta(seconds=5), not_retried=(ValueError,)")).flow
    shown = [line.text for line in outline(before.spec)]
    assert any("# an attempt within 60 s, done within 3600 s" in text for text in shown)
    said = {each.name: each.after for each in changes(before.spec, after.spec) if each.part == "tasks"}
    assert said["work times"] == "silent for 5 s at most"
    assert said["work not retried"] == "ValueError"
