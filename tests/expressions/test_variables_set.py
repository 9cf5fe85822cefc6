"""`(name := value)`, from the compiler to the fold: a variable of the run like any other."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import dedent
from types import ModuleType

import msgspec
import pytest
from tests.limits.specs import Run, for_ever, in_turn  # pyright: ignore[reportMissingImports]

from dressage.expressions import ExpressionFailed, TypeTable, compile_expression, parse_expression
from dressage.protocol.errors import BadSpec, DefinitionError
from dressage.protocol.events import VariableChanged
from dressage.protocol.expressions import Bind, Call, Comprehension, Const, Expr, Lambda, Name, Target
from dressage.protocol.expressions import Clause as For
from dressage.protocol.types import Scalar
from dressage.simulation import programs


@pytest.fixture
def compiled() -> Callable[[str], ModuleType]:
    def define(body: str) -> ModuleType:
        lines = dedent(body).strip().splitlines()
        text = "\n".join(["from dressage.flow import workflow", "@workflow", *lines])
        return programs.define(text)

    return define


def test_the_variable_is_set_and_told_of(compiled: Callable[[str], ModuleType]) -> None:
    module = compiled(
        """
        async def count(words: list[str]) -> str:
            if (n := len(words)) > 2 and (first := words[0]):
                return f"{first} and {n - 1} more"
            return f"{n}"
        """
    )
    spec = module.count.spec
    assert {each.name: each.type for each in spec.variables} == {"n": Scalar("int"), "first": Scalar("str")}
    run = Run(spec)
    outcome = run.start(b'{"words": ["a", "b", "c"]}')
    assert outcome.run is not None
    assert outcome.run.output == msgspec.Raw(b'"a and 2 more"')
    changed = [(each.name, bytes(each.value)) for each in outcome.events if isinstance(each, VariableChanged)]
    assert changed == [("n", b"3"), ("first", b'"a"')]


def test_it_is_set_although_the_expression_fails_behind_it() -> None:
    one = Const(msgspec.Raw(b"1"))
    failing: Expr = Call("round", (Bind("b", one), Name("nowhere")))
    outcome = Run(in_turn(("a", failing))).start()
    assert outcome.run is not None
    assert outcome.run.failure is not None
    assert outcome.run.failure.message.endswith("NameError: variable nowhere has no value")
    assert [each.name for each in outcome.events if isinstance(each, VariableChanged)] == ["b"]


def test_what_is_set_again_and_again_ends_at_the_budget() -> None:
    value: Expr = Bind("b", Call("range", (Const(msgspec.Raw(b"9")),)))
    with pytest.raises(BadSpec, match="consumed at once"):
        Run(in_turn(("a", value)))
    outcome = Run(for_ever([], ("a", Bind("b", Const(msgspec.Raw(b'"%b"' % (b"x" * 90_000))))))).start()
    assert outcome.run is not None
    assert outcome.run.failure is not None
    assert outcome.run.failure.name == "work-per-command"


@pytest.mark.parametrize(
    "around",
    [
        lambda inner: Comprehension("list", inner, (For(Target("x"), Const(msgspec.Raw(b"[1]"))),)),
        lambda inner: Call("sorted", (Const(msgspec.Raw(b"[1]")),), {"key": Lambda("x", inner)}),
    ],
)
def test_a_spec_that_sets_one_inside_a_comprehension_or_lambda_is_refused(
    around: Callable[[Expr], Expr],
) -> None:
    with pytest.raises(BadSpec, match="set it outside"):
        compile_expression(around(Bind("n", Name("x"))), TypeTable())


def test_where_there_is_no_run_nothing_is_set() -> None:
    with pytest.raises(DefinitionError, match="no variables to be set"):
        parse_expression("(n := 1)", [])
    with pytest.raises(ExpressionFailed, match="no run that it belongs to"):
        compile_expression(Bind("n", Const(msgspec.Raw(b"1"))), TypeTable())({})


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[n * 2 for n in numbers]", "list[int]"),
        ("{n: str(n) for n in numbers}", "dict[int, str]"),
        ("[(a, b) for a, b in prices.items()]", "list[tuple[str, float]]"),
        ("sorted(prices.items(), key=lambda pair: pair[1])", "list[tuple[str, float]]"),
        ("list(zip(numbers, prices))", "list[tuple[int, str]]"),
        ("dict(zip(prices, numbers))", "dict[str, int]"),
        ("{*numbers} - {1}", "set[int]"),
        ("[*numbers, 'x']", "list[int | str]"),
        ("{**prices, 'x': 1.0}", "dict[str, float]"),
        ("numbers[1:]", "list[int]"),
        ("list(enumerate(prices.values()))", "list[tuple[int, float]]"),
        ("max((n / 2 for n in numbers), default=None)", "float | None"),
        ("'a b'.split()", "list[str]"),
        ("divmod(numbers[0], 2)", "tuple[int, int]"),
        ("sum(prices.values())", "int | float"),
        ("(n := numbers)[0]", "int"),
        ("[prices for prices in numbers]", "list[int]"),
    ],
)
def test_the_type_of_what_is_made_is_known(
    text: str, kind: str, compiled: Callable[[str], ModuleType]
) -> None:
    def definition(body: str, declared: str) -> ModuleType:
        return compiled(
            f"""
            async def typed(numbers: list[int], prices: dict[str, float]) -> int:
                {declared} = {body}
                return 1
            """
        )

    def of(module: ModuleType) -> object:
        return next(each.type for each in module.typed.spec.variables if each.name == "made")

    assert of(definition(text, "made")) == of(definition(text, f"made: {kind}"))
