"""Functions without `async` mean in an expression of a run what they mean in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest
from tests.flow.both_ways import both_ways  # pyright: ignore[reportMissingImports]

from dressage.flow import Masked, gather, task, workflow
from dressage.protocol.errors import DefinitionError
from dressage.protocol.spec_sizes import EXPRESSION_PARTS_MAX

RATE = 3


@dataclass
class Line:
    sku: str
    count: int
    price: Decimal


@task
async def number(x: int) -> int:
    raise NotImplementedError


FAKES: dict[Any, Any] = {number: lambda x: x}


def cost(line: Line, *, discount: Decimal = Decimal(0)) -> Decimal:
    """What a line costs."""
    return line.price * line.count - discount


def scaled(x: int, by: int = 2) -> int:
    return x * by * RATE


def twice_scaled(x: int) -> int:
    return scaled(scaled(x), by=1)


def pair(first: Any, second: Any) -> list[Any]:
    return [second, first, second]


def ignoring(x: object) -> int:
    return 1


@workflow
async def total(lines: list[Line]) -> str:
    dearest = max(lines, key=lambda line: cost(line, discount=Decimal(1)))
    return f"{sum((cost(line) for line in lines), Decimal(0)):.1f} {dearest.sku}"


@workflow
async def everywhere(x: int) -> list[Any]:
    if scaled(x) > 10 and (y := scaled(x, by=0)) == 0:
        x = twice_scaled(x) + y
    out = [scaled(each) for each in range(scaled(1)) if scaled(each, 1) < 9]
    for each in pair(x, scaled(x)):
        out = [*out, each]
    match x:
        case int() as found if scaled(found) > 90:
            out = [*out, -1]
        case _:
            pass
    return [*out, f"{scaled(x):>{scaled(2)}}", pair(scaled(scaled(1)), pair(x, x))]


@workflow
async def awaiting(x: int) -> list[Any]:
    return pair(await number(scaled(x)), second=scaled(await number(1)) + await number(scaled(2)))


@workflow
async def nested(x: int) -> list[int]:
    step = 1

    def moved(by: int) -> int:
        return x + by * step

    async def apart(x: int) -> int:
        def far(by: int) -> int:
            return moved(by) + 10 * x

        return far(await number(x))

    one = moved(2)
    step = 5
    left, right = await gather(apart(1), apart(2))
    return [one, moved(2), left, right, *[moved(each) for each in range(2)]]


@workflow
async def failing(x: int) -> list[Any]:
    return pair(second=1 // x, first=[0][x])


@workflow
async def unused(x: int) -> int:
    return ignoring(1 // x)


def half(x: int) -> float:
    return 1 / x


@workflow
async def left_out(x: int) -> bool:
    return x > 0 and half(x) > 0


@workflow
async def hidden(secret: Masked[str]) -> bool:
    def listed(value: Any) -> list[Any]:
        return [value, 1]

    return listed(secret)[0] is None


def test_it_stands_in_any_expression() -> None:
    lines = [Line("a", 2, Decimal("1.25")), Line("b", 1, Decimal("9"))]
    assert both_ways(total, FAKES, lines) == ("11.5 b", [])
    for x in (0, 1, 2, 40):
        assert both_ways(everywhere, FAKES, x)[0][-1][1] == 36


def test_its_arguments_are_awaited_in_their_order() -> None:
    result, calls = both_ways(awaiting, FAKES, 7)
    assert result == [18, 42, 18]
    assert [given["x"] for _, given in calls] == [42, 1, 12]


def test_a_nested_one_reads_the_variables_around_it_as_they_are() -> None:
    assert both_ways(nested, FAKES, 100)[0] == [102, 110, 115, 130, 100, 105]


def test_each_argument_is_computed_once_in_the_order_written_and_also_if_unused() -> None:
    assert both_ways(failing, FAKES, 0)[0] == "ZeroDivisionError"
    assert both_ways(failing, FAKES, 5)[0] == "IndexError"
    assert both_ways(unused, FAKES, 0)[0] == "ZeroDivisionError"
    assert both_ways(unused, FAKES, 2)[0] == 1


def test_what_python_leaves_out_is_left_out() -> None:
    assert both_ways(left_out, FAKES, 0) == (False, [])
    assert both_ways(left_out, FAKES, 4) == (True, [])


def test_a_masked_value_can_be_handed_through_it() -> None:
    assert both_ways(hidden, FAKES, "s") == (False, [])


def test_what_is_wrong_in_one_of_another_file_is_shown_there(define: Callable[[str], ModuleType]) -> None:
    helpers = define("RATE = 3\n\ndef broken(x: int) -> int:\n    return x * nothing(x)\n")
    with pytest.raises(DefinitionError) as refused:
        define(
            "from dressage.flow import workflow\n"
            f"import {helpers.__name__} as helpers\n\n"
            "@workflow\nasync def flow(x: int) -> int:\n    return helpers.broken(x)\n"
        )
    place, line, caret, _ = refused.value.message.split("\n")
    assert place.startswith(f"{helpers.__name__}.py:4: name nothing is not known")
    assert line == "    return x * nothing(x)"
    assert line[caret.index("^")] == "n"


def test_one_that_grows_without_end_is_refused(define: Callable[[str], ModuleType]) -> None:
    doubling = "".join(f"def f{n}(x): return f{n - 1}(x) + f{n - 1}(x)\n" for n in range(1, 25))
    with pytest.raises(
        DefinitionError, match=rf"more than {EXPRESSION_PARTS_MAX} parts .*\(limit spec-size\)"
    ):
        define(
            "from dressage.flow import workflow\ndef f0(x): return x\n"
            f"{doubling}@workflow\nasync def flow(x: int) -> int:\n    return f24(x)\n"
        )


BODIES = {
    "a name": "    return await one(‸nothing)",
    "a variable without value": "    if x:\n        y = 1\n    return await one(x) + ‸y",
    "a field, behind an await": "    z = await item(x)\n    return await one(await one(1) + z.‸nope)",
    "in place": "    y = [1]\n    ‸y += [2]\n    return 1",
    "a branch": "    z = await item(x)\n    a, b = await gather(one(z.‸nope), one(2))\n    return a",
    "a type": "    y: ‸complex = 1\n    return 1",
    "no way there": "    return 1\n    ‸x = 2",
}


@pytest.mark.parametrize("name", BODIES)
def test_what_is_wrong_in_an_awaited_function_of_another_file_is_shown_there(
    name: str, define: Callable[[str], ModuleType]
) -> None:
    head = (
        "from dataclasses import dataclass\nfrom dressage.flow import gather, task, workflow\n"
        "@dataclass\nclass Item:\n    sku: str\n@task\nasync def one(x: int) -> int: ...\n"
        "@task\nasync def item(x: int) -> Item: ...\nasync def helper(x: int) -> int:\n"
    )
    before, after = (head + BODIES[name]).split("‸")
    elsewhere = define(f"{before}{after}\n")
    with pytest.raises(DefinitionError) as refused:
        define(
            f"from dressage.flow import workflow\nimport {elsewhere.__name__} as elsewhere\n"
            "@workflow\nasync def flow(x: int) -> int:\n    return await elsewhere.helper(x) + 1\n"
        )
    place, line, caret, _ = refused.value.message.split("\n")
    number = before.count("\n") + 1
    shown = f"{before}{after}".splitlines()[number - 1]
    assert place.startswith(f"{elsewhere.__name__}.py:{number}: ")
    assert line.strip() == shown.strip()
    assert caret.index("^") - 4 <= len(before.rpartition("\n")[2].lstrip())
