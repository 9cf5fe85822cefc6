"""Statements mean on the engine's fold what they mean in Python, run both ways against the same fake tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from tests.flow.both_ways import both_ways  # pyright: ignore[reportMissingImports]

from dressage.flow import Saga, TaskError, WorkflowFailure, gather, task, workflow


class Declined(WorkflowFailure): ...


class Stolen(Declined): ...


@dataclass
class Point:
    x: int
    y: int = 0


@task
async def number(x: int) -> int:
    raise NotImplementedError


@task
async def note(text: str) -> None:
    raise NotImplementedError


@task
async def book(what: str) -> int:
    raise NotImplementedError


@task
async def cancel(what: str, booking: int) -> None:
    raise NotImplementedError


@task
async def drop(booking: int) -> None:
    raise NotImplementedError


def answer(x: int) -> int:
    """7 is declined, 8 is a technical error, 9 is stolen; any other number is itself."""
    if x == 7:
        raise Declined("seven")
    if x == 8:
        raise OSError("eight")
    if x == 9:
        raise Stolen("nine")
    return x


def fails_for(this: bool, x: int) -> None:
    if this:
        answer(x)


FAKES: dict[Any, Any] = {number: answer, note: lambda text: None}


# -- loops -----------------------------------------------------------------------------------------
@workflow
async def walks(items: list[int], names: dict[str, int], stop: int) -> str:
    out = ""
    for item in items:
        if item == stop:
            out += "stop "
            break
        out += f"{await number(item)} "
    else:
        out += "all "
    for place, (name, count) in enumerate(names.items(), start=1):
        out += f"{place}{name}{count} "
    for left, right in zip(range(10, 0, -3), reversed(items), strict=False):
        if right == 0:
            continue
        out += f"{left}/{right} "
    for letter in "ab":
        for name in names:
            out += letter + name
    tries = 0
    while tries < stop:
        tries += 1
        if tries == 2:
            break
    else:
        out += " not two"
    return f"{out} {tries}"


@pytest.mark.parametrize("stop", [0, 1, 2, 5])
@pytest.mark.parametrize("items", [[], [3], [1, 2, 0, 4]])
def test_loops_go_through_their_items_as_in_python(items: list[int], stop: int) -> None:
    result, calls = both_ways(walks, FAKES, items, {"k": 1, "l": 2}, stop)
    assert len(calls) == (items.index(stop) if stop in items else len(items))
    assert "1k1 2l2" in result


@workflow
async def strictly(left: list[int], right: list[int]) -> int:
    total = 0
    for one, other in zip(left, right, strict=True):
        total += await number(one * other)
    return total


@pytest.mark.parametrize("right", [[1, 2], [1], [1, 2, 3]])
def test_a_strict_zip_fails_behind_its_last_pair(right: list[int]) -> None:
    result, calls = both_ways(strictly, FAKES, [2, 3], right)
    assert result == (8 if len(right) == 2 else "ValueError")
    assert len(calls) == min(2, len(right))


@workflow
async def far(count: int) -> int:
    last = 0
    for last in range(count, 10**12):
        if last > count + 2:
            break
    return last


def test_a_range_is_never_made_into_a_list() -> None:
    assert both_ways(far, FAKES, 5)[0] == 8


@workflow
async def unpacks(pair: list[int], text: str) -> str:
    first, *rest = pair
    *others, last = text  # type: ignore[str-unpack]
    (a, b), c = (first, last), rest
    d = e = len(others)
    return f"{a} {b} {c} {d} {e} {others}"


@pytest.mark.parametrize(("pair", "text"), [([1, 2, 3], "abc"), ([1], "a"), ([], "a"), ([1], "")])
def test_values_are_taken_apart_as_in_python(pair: list[int], text: str) -> None:
    both_ways(unpacks, FAKES, pair, text)


# -- failures --------------------------------------------------------------------------------------
@workflow
async def guarded(x: int, divisor: int) -> str:
    out = ""
    try:
        try:
            out += f"{await number(x) // divisor} "
        except Stolen as error:
            out += f"{error.name} "
            raise
        except (Declined, ZeroDivisionError) as error:
            out += f"{error} "
        else:
            out += "else "
        finally:
            await note(f"inner {out}")
            out += "inner "
    except TaskError:
        out += "task "
    except Exception:
        out += "any "
    finally:
        await note(f"outer {out}")
    return out


@pytest.mark.parametrize(("x", "divisor"), [(6, 3), (6, 0), (7, 1), (8, 1), (9, 1)])
def test_a_failure_takes_the_way_that_it_takes_in_python(x: int, divisor: int) -> None:
    _, calls = both_ways(guarded, FAKES, x, divisor)
    assert [name for name, _ in calls] == ["number", "note", "note"]


async def _told(x: int) -> str:
    try:
        return f"returned {await number(x)}"
    finally:
        await note("told")


@workflow
async def leaves(x: int) -> str:
    for turn in range(3):
        try:
            if turn == x:
                continue
            if turn + x == 10:
                break
            if turn * x == 4:
                return await _told(x)
            await number(turn + x)
        finally:
            await note(f"turn {turn}")
    return "end"


@pytest.mark.parametrize("x", [0, 1, 2, 4, 7, 8, 9, 10])
def test_every_way_out_passes_finally(x: int) -> None:
    _, calls = both_ways(leaves, FAKES, x)
    assert ("note", {"text": "turn 0"}) in calls


async def _tidied(x: int, by: int) -> int:
    try:
        return await number(x)
    finally:
        await number(by)


@workflow
async def returns_late(x: int, by: int) -> str:
    found = -1
    try:
        found = await _tidied(x, by)
    except (WorkflowFailure, TaskError) as error:
        return f"{found} {error}"
    return f"{found}"


@pytest.mark.parametrize(("x", "by"), [(1, 2), (1, 8), (8, 1), (8, 9)])
def test_what_a_function_returns_counts_only_behind_its_finally(x: int, by: int) -> None:
    result, _ = both_ways(returns_late, FAKES, x, by)
    assert result.startswith("-1") == (8 in (x, by))


@workflow
async def family(numbers: list[int], key: str) -> str:
    try:
        return str(numbers[len(key)] // len(key)) + {"k": "v"}[key]
    except ArithmeticError as error:
        return f"arithmetic: {error}"
    except LookupError as error:
        return f"lookup: {error}"


@pytest.mark.parametrize(("numbers", "key"), [([1, 2], "k"), ([1], ""), ([], "k"), ([1, 2], "x")])
def test_errors_of_expressions_are_caught_by_family_and_have_pythons_text(
    numbers: list[int], key: str
) -> None:
    both_ways(family, FAKES, numbers, key)


# -- functions and branches ------------------------------------------------------------------------
async def _pair(x: int, n: int) -> tuple[int, int]:
    left, right = await gather(number(x), number(x + n))
    return left, right


@workflow
async def parallel(a: int, b: int) -> str:
    async def doubled(n: int, plus: int = 1) -> int:
        found = await number(n)
        return found * 2 + plus + a

    try:
        one, (two, three), four = await gather(doubled(a), _pair(b, n=1), number(b))
    except ExceptionGroup as group:
        return f"{group}: " + ", ".join(f"{error}" for error in group.exceptions)
    return f"{one} {two} {three} {four} {await doubled(one, 0)}"


@pytest.mark.parametrize(("a", "b"), [(1, 2), (7, 2), (2, 9), (7, 6)])
def test_branches_give_their_results_in_order_or_all_their_failures(a: int, b: int) -> None:
    result, calls = both_ways(parallel, FAKES, a, b)
    assert len(calls) == (5 if a == 1 else 4)
    assert result.startswith("branches failed") == (a != 1)


@workflow
async def all_of(x: int) -> str:
    try:
        await gather(number(x), number(8), number(9), number(x), number(x), number(1))
    except ExceptionGroup as group:
        declined = [error for error in group.exceptions if f"{error}" == "seven"]
        return f"{len(declined)} of {f'{group}'.removeprefix('branches failed ')}"
    return "none"


def test_the_branches_of_a_failed_gather_run_to_their_end() -> None:
    result, calls = both_ways(all_of, FAKES, 7)
    assert result == "3 of (5 sub-exceptions)"
    assert [args["x"] for _, args in calls] == [7, 8, 9, 7, 7, 1]


@workflow
async def inside(x: int, y: int, flag: bool) -> str:
    total = 1 // x + await number(x) * (await number(y) if flag else await number(3))
    if await number(x) > 2 and (flag or await number(y) > 1):
        total += await number(await number(total % 7))
    while (left := await number(total)) > 9:
        total -= left - 1
    return f"{total} {[await number(x), y][await number(0)]} {await number(y) < x}"


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize(("x", "y"), [(0, 1), (3, 1), (3, 2), (7, 1), (1, 9), (5, 4)])
def test_an_await_inside_an_expression_happens_when_it_does_in_python(x: int, y: int, flag: bool) -> None:
    both_ways(inside, FAKES, x, y, flag)


@workflow
async def in_parts(numbers: list[int], divisor: int) -> str:
    out = ""
    try:
        try:
            out += f"{numbers[0] // divisor} "
            await gather(number(numbers[0]), _pair(numbers[1], n=numbers[2]), number(numbers[3]))
        except* Stolen as group:
            out += f"stolen{group} "
            if divisor == 2:
                raise Declined("new") from None
        except* (Declined, ZeroDivisionError) as group:
            out += f"declined{len(group.exceptions)} "
            if divisor == 2:
                await number(8)
        else:
            out += "else "
        finally:
            out += "finally "
    except Exception as error:
        out += f"left {error}" if divisor else "left"
        raise
    return out


def _makes_groups_of_one() -> bool:
    try:
        try:
            raise ExceptionGroup("", [ValueError()])
        except* ValueError:
            raise KeyError from None
    except BaseException as error:
        return isinstance(error, BaseExceptionGroup)


NUMBERS = [[1, 2, 0, 3], [7, 2, 0, 3], [7, 7, 2, 8], [9, 6, 1, 8], [9, 7, 1, 9], [8, 8, 0, 8]]


@pytest.mark.parametrize("divisor", [0, 1, 2])
@pytest.mark.parametrize("numbers", NUMBERS)
def test_each_clause_takes_its_part_of_a_group(numbers: list[int], divisor: int) -> None:
    if divisor == 2 and _makes_groups_of_one():
        pytest.skip("the first releases of Python 3.11 make a group of the one failure that a clause raises")
    both_ways(in_parts, FAKES, numbers, divisor)


# -- patterns --------------------------------------------------------------------------------------
@workflow
async def matched(value: Any, point: Point | None = None) -> str:
    match point:
        case Point(x=1):
            return "x is 1"
        case Point(2, y) if y > 3:
            return f"2 and {y}"
        case Point(x, 7 | 8 as y):
            return f"{x} and {y}"
        case None | Point():
            pass
    match value:
        case 1 | "one":
            return "one"
        case True:
            return "true"
        case [a, [b, *_], *rest, last] if a != 0:
            return f"{a} {b} {rest} {last}"
        case {"k": k, "z": 1 | 2 as z, **more}:
            return f"{k} {z} {more}"
        case str(text):
            return f"text {text}"
        case [x] | {"x": x}:
            return f"x {x}"
        case float() | int():
            return "number"
        case _:
            return "collection" if isinstance(value, (list, dict)) else "other"


VALUES: list[Any] = [
    *(1, "one", True, [1, [2, 3], 4, 5], [1, [2], 3], [0, [1], 2], {"k": 1, "z": 2, "q": 3}),
    *({"k": 1}, {"k": 1, "z": 3}, "s", [3], {"x": 4}, 2.5, 7, None, [], [1, 2], {"z": 1}),
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_matches_the_case_that_it_matches_in_python(value: Any) -> None:
    both_ways(matched, FAKES, value)


@pytest.mark.parametrize(
    "point", [Point(1, 2), Point(2, 4), Point(2, 3), Point(9, 7), Point(2, 8), Point(5, 5)]
)
def test_an_instance_matches_by_its_fields(point: Point) -> None:
    both_ways(matched, FAKES, 7, point)


# -- sagas -----------------------------------------------------------------------------------------
@workflow
async def trip(way: str) -> str:
    try:
        async with Saga() as saga:
            for what in ("flight", "hotel", "car"):
                booking = await book(what)
                saga.undo(cancel, what, booking=booking)
                if booking % 2:
                    saga.undo(drop, booking)
            if way == "fail":
                raise Declined("no card")
            if way == "return":
                return "early"
    except Declined as error:
        return f"undone: {error}"
    return "done"


BOOKINGS = {"flight": 1, "hotel": 2, "car": 3}
FULL_HOTEL: dict[Any, Any] = {book: lambda what: answer(9 if what == "hotel" else BOOKINGS[what])}
NO_CANCEL: dict[Any, Any] = {cancel: lambda what, booking: fails_for(what == "hotel", 8)}
NO_DROP: dict[Any, Any] = {drop: lambda booking: fails_for(booking == 3, 7)}


def _trip(way: str, *changes: dict[Any, Any]) -> tuple[Any, list[str]]:
    fakes: dict[Any, Any] = {
        book: lambda what: BOOKINGS[what],
        cancel: lambda what, booking: None,
        drop: lambda booking: None,
    }
    for change in changes:
        fakes |= change
    result, calls = both_ways(trip, fakes, way)
    return result, [f"{name} {next(iter(args.values()))}" for name, args in calls]


BOOKED = ["book flight", "book hotel", "book car"]
UNDONE = ["drop 3", "cancel car", "cancel hotel", "drop 1", "cancel flight"]


def test_what_succeeds_is_not_undone() -> None:
    assert _trip("on") == ("done", BOOKED)
    assert _trip("return") == ("early", BOOKED)


def test_what_was_done_is_undone_in_reverse_and_the_failure_goes_on() -> None:
    assert _trip("fail") == ("undone: no card", BOOKED + UNDONE)
    assert _trip("on", FULL_HOTEL) == ("undone: nine", [*BOOKED[:2], "drop 1", "cancel flight"])


def test_an_undo_that_fails_keeps_no_other_from_being_called() -> None:
    result, calls = _trip("fail", NO_CANCEL, NO_DROP)
    assert result == [("declined", "no card"), ("declined", "seven"), "TaskError"]
    assert calls == BOOKED + UNDONE


# -- details of failures ---------------------------------------------------------------------------
class Overdrawn(WorkflowFailure):
    missing: Decimal
    items: list[str] = field(default_factory=list[str])
    anything: Any = None


class Frozen(Overdrawn):
    until: datetime


@workflow
async def overdrawn(value: list[Any]) -> str:
    try:
        raise Overdrawn("no", missing=Decimal(len(value)), anything=value)
    except Overdrawn as failure:
        more = failure.missing + Decimal("0.50")
        return f"{more} {failure.items} {failure.anything} {failure.details}"


@workflow
async def frozen(days: int) -> str:
    view, start = [f"{days}"], datetime(2026, 1, 2, tzinfo=UTC)
    try:
        raise Frozen("cold", missing=Decimal(1), items=[*view, "b"], until=start + timedelta(days=days))
    except Frozen as failure:
        first = f"{failure.until - start} {failure.items[0]}"
    try:
        raise Frozen("cold", missing=Decimal(1), until=start)
    except Overdrawn as failure:
        return f"{first} {failure.name} {failure.missing} {failure.items}"


@workflow
async def told(x: int) -> str:
    kept: list[Any] = [(x, 1)]
    try:
        raise Overdrawn("no", missing=Decimal(1), anything=kept[0] if x else kept)
    except Overdrawn as failure:
        return failure.message


@workflow
async def wrongly(value: list[Any]) -> str:
    try:
        raise Overdrawn("no", missing=value[0])
    except TypeError:
        return "a type error"


def test_the_fields_of_a_failure_have_their_types() -> None:
    result, _ = both_ways(overdrawn, {}, [1, "a"])
    assert result == "2.50 [] [1, 'a'] {'missing': '2', 'items': [], 'anything': [1, 'a']}"
    assert both_ways(frozen, {}, 3) == ("3 days, 0:00:00 3 frozen 1 []", [])
    assert both_ways(wrongly, {}, [1]) == ("a type error", [])


def test_a_field_of_any_type_is_json_or_an_error() -> None:
    assert both_ways(told, {}, 0) == ("TypeError", [])
    assert both_ways(told, {}, 1) == ("TypeError", [])


# -- defaults --------------------------------------------------------------------------------------
@dataclass
class Basket:
    owner: str
    skus: list[str] = field(default_factory=list[str])
    counts: dict[str, int] = field(default_factory=dict[str, int])


@workflow
async def fills(owner: str) -> str:
    basket = Basket(owner)
    other = Basket(owner, counts={"a": 1})
    return f"{basket.skus} {basket.counts} {other.skus} {len(other.counts)}"


def test_a_default_may_name_its_types() -> None:
    assert both_ways(fills, {}, "ann") == ("[] {} [] 1", [])


@workflow
async def rebinds(x: int) -> str:
    a, b = 1, 2
    a = a + await number(a := x)
    seen = [a, await number(b := 5), b, (b := 6), b]
    text = f"{b} {await number(b := 3)} {b}"
    return f"{a} {seen} {text}"


def test_what_is_set_inside_an_await_is_not_seen_before_it() -> None:
    result, _ = both_ways(rebinds, FAKES, 4)
    assert result == "5 [5, 5, 5, 6, 6] 6 3 3"
