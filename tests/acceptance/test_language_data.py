"""Data as issue 4 lists it: each type as input, variable and output of a real run, and through a real worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NotRequired, Optional, TypedDict
from uuid import UUID

import msgspec
import pytest
from pydantic import BaseModel

from dressage.client import RunFailed
from dressage.flow import App, Masked, Searchable, Workflow, workflow
from dressage.protocol.errors import DefinitionError, DressageError

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine, Run  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio


app = App("language-data")
calls: list[Any] = []


class Tier(Enum):
    BASIC = "basic"
    GOLD = "gold"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Line:
    sku: str
    count: int = 1
    tags: list[str] = field(default_factory=list[str])


@dataclass
class Order:
    id: UUID
    lines: list[Line]
    tier: Tier = Tier.BASIC


class Shipment(msgspec.Struct):
    weight: float
    to: str = "home"


class Person(BaseModel):
    name: str
    born: date
    nick: str | None = None


class Counts(BaseModel):
    by_number: dict[int, int] = {}
    by_tier: dict[Tier, int] = {}
    by_name: dict[str, int] = {}


class Address(TypedDict):
    city: str
    zip: NotRequired[str]


class Size(NamedTuple):
    width: int
    height: int = 7


@app.task
def see_line(value: Line) -> Line:
    calls.append(value)
    return value


@app.task
def see_order(value: Order) -> Order:
    calls.append(value)
    return value


@app.task
def see_shipment(value: Shipment) -> Shipment:
    calls.append(value)
    return value


@app.task
def see_person(value: Person) -> Person:
    calls.append(value)
    return value


@app.task
def see_counts(value: Counts) -> Counts:
    calls.append(value)
    return value


@app.task
def see_address(value: Address) -> Address:
    calls.append(value)
    return value


@app.task
def see_size(value: Size) -> Size:
    calls.append(value)
    return value


@app.task
def see_tier(value: Tier) -> Tier:
    calls.append(value)
    return value


@app.task
def see_datetime(value: datetime) -> datetime:
    calls.append(value)
    return value


@app.task
def see_timedelta(value: timedelta) -> timedelta:
    calls.append(value)
    return value


@app.task
def see_decimal(value: Decimal) -> Decimal:
    calls.append(value)
    return value


@app.task
def see_uuid(value: UUID) -> UUID:
    calls.append(value)
    return value


@app.task
def see_bytes(value: bytes) -> bytes:
    calls.append(value)
    return value


@app.task
def see_masked(value: Masked[str]) -> Masked[str]:
    calls.append(value)
    return f"{value}-token"


@app.task
def loose(value: Any) -> Any:
    return value


@workflow
async def d_line(value: Line) -> Line:
    held: Line = await see_line(value)
    return Line(held.sku.upper(), held.count + 1, [*held.tags, "new"])


@workflow
async def d_order(value: Order) -> Order:
    held = await see_order(value)
    return Order(id=held.id, lines=held.lines[:1], tier=Tier.GOLD)


@workflow
async def d_shipment(value: Shipment) -> Shipment:
    held: Shipment = await see_shipment(value)
    return Shipment(held.weight * 2, to=f"{held.to}!")


@workflow
async def d_person(value: Person) -> Person:
    held: Person = await see_person(value)
    return Person(name=held.name, born=held.born + timedelta(days=1))


@workflow
async def d_address(value: Address) -> Address:
    held: Address = await see_address(value)
    return Address(city=held["city"], zip=held.get("zip", "none"))


@workflow
async def d_size(value: Size) -> Size:
    width, height = await see_size(value)
    held: Size = Size(height, width)
    return held


@workflow
async def d_tier(value: Tier) -> Tier:
    held: Tier = await see_tier(value)
    return Tier.GOLD if held is Tier.BASIC else held


@workflow
async def d_level(value: Level) -> Level:
    held: Level = value
    return Level.HIGH if held is Level.LOW else held


@workflow
async def d_datetime(value: datetime) -> datetime:
    held: datetime = await see_datetime(value)
    return held + timedelta(days=1)


@workflow
async def d_timedelta(value: timedelta) -> timedelta:
    held: timedelta = await see_timedelta(value)
    return held * 2


@workflow
async def d_decimal(value: Decimal) -> Decimal:
    held: Decimal = await see_decimal(value)
    return held + Decimal("0.10")


@workflow
async def d_uuid(value: UUID) -> UUID:
    held: UUID = await see_uuid(value)
    return held


@workflow
async def d_bytes(value: bytes) -> bytes:
    held: bytes = await see_bytes(value)
    return held + b"\x00"


@workflow
async def d_optional(value: Optional[int]) -> int | None:  # noqa: UP045
    held: int | None = value
    return None if held is None else held + 1


@workflow
async def d_union(value: int | str | list[int]) -> str | int:
    held: int | str | list[int] = value
    if isinstance(held, str):
        return held.upper()
    if isinstance(held, list):
        return sum(held)
    return held + 1


@workflow
async def d_literal(value: Literal["slow", "fast", 3]) -> Literal["slow", "fast", 3]:
    held: Literal["slow", "fast", 3] = value
    return "fast" if held == "slow" else held


@workflow
async def d_containers(value: dict[str, list[tuple[int, str]]]) -> dict[str, set[int]]:
    return {name: {number for number, _ in pairs} for name, pairs in value.items()}


@app.task
def see_tiers(value: dict[Tier, int]) -> dict[Tier, int]:
    calls.append(value)
    return value


@workflow
async def d_keys_enum(value: dict[Tier, int]) -> int:
    return value[Tier.GOLD]


@workflow
async def d_keys_int(value: dict[int, int]) -> int:
    return value[5]


@workflow
async def d_keys_level(value: dict[Level, int]) -> int:
    return value[Level.HIGH]


@workflow
async def d_keys_date(value: dict[date, int]) -> int:
    return value[date(2030, 1, 1)]


@workflow
async def d_keys_uuid(value: dict[UUID, int]) -> int:
    return sum(value.values())


@workflow
async def d_keys_decimal(value: dict[Decimal, int]) -> int:
    return sum(value.values())


@workflow
async def d_keys_made(count: int) -> dict[Tier, int]:
    held: dict[Tier, int] = {Tier.GOLD: count, Tier.BASIC: 1}
    return held | {Tier.BASIC: 2}


@workflow
async def d_keys_task(count: int) -> dict[Tier, int]:
    return await see_tiers({Tier.GOLD: count})


@workflow
async def d_keys_output(count: int) -> dict[int, date]:
    return {count: date(2030, 1, 1)}


ID = UUID("6f1b2d9e-0000-4000-8000-000000000001")
WHEN = datetime(2030, 2, 28, 23, 30, 0, 250000, tzinfo=UTC)

SAME: list[tuple[Workflow[..., Any], Any, Any]] = [
    (d_line, Line("a", 2), Line("A", 3, ["new"])),
    (d_order, Order(ID, [Line("a"), Line("b")]), Order(ID, [Line("a")], Tier.GOLD)),
    (d_shipment, Shipment(1.5), Shipment(3.0, "home!")),
    (d_address, {"city": "Bonn"}, {"city": "Bonn", "zip": "none"}),
    (d_size, Size(3), Size(7, 3)),
    (d_tier, Tier.BASIC, Tier.GOLD),
    (d_level, Level.LOW, Level.HIGH),
    (d_datetime, WHEN, WHEN + timedelta(days=1)),
    (d_timedelta, timedelta(days=1, microseconds=5), timedelta(days=2, microseconds=10)),
    (d_decimal, Decimal("10.50"), Decimal("10.60")),
    (d_uuid, ID, ID),
    (d_bytes, b"\xff", b"\xff\x00"),
    (d_optional, None, None),
    (d_optional, 1, 2),
    (d_union, "a", "A"),
    (d_union, [1, 2], 3),
    (d_union, 1, 2),
    (d_literal, "slow", "fast"),
    (d_literal, 3, 3),
    (d_containers, {"gold": [(1, "a"), (1, "b"), (2, "c")]}, {"gold": {1, 2}}),
]


@pytest.mark.parametrize(("definition", "given", "expected"), SAME)
async def test_a_value_comes_back_as_an_instance_of_its_own_class(
    run: Run, definition: Workflow[..., Any], given: object, expected: object
) -> None:
    result = await run(definition, value=given)
    assert result == expected
    assert type(result) is type(expected)
    assert str(result) == str(expected)
    assert calls == ([given] if calls else [])
    assert [type(each) for each in calls] == [type(given) for _ in calls]


@pytest.mark.parametrize(
    ("definition", "given"),
    [
        (d_keys_enum, {"gold": 7}),
        (d_keys_int, {"5": 7}),
        (d_keys_level, {"2": 7}),
        (d_keys_date, {"2030-01-01": 7}),
        (d_keys_uuid, {str(ID): 7}),
        (d_keys_decimal, {"1.50": 7}),
    ],
)
async def test_keys_of_a_dict_in_the_input_may_be_scalars_or_members(
    run: Run, definition: Workflow[..., Any], given: object
) -> None:
    assert await run(definition, value=given) == 7


@workflow
async def d_default_keys(name: str, counts: dict[int, int] = {5: 7}) -> int:  # noqa: B006  # pyright: ignore[reportCallInDefaultInitializer]
    return counts[5]


async def test_a_default_may_be_a_dict_with_ints_as_keys(run: Run) -> None:
    assert await run(d_default_keys, name="x") == 7


@workflow
async def d_numbers(value: set[int]) -> list[int]:
    return sorted(value)


@workflow
async def d_dates(value: set[date]) -> int:
    return len(value)


@workflow
async def d_tiers(value: set[Tier]) -> bool:
    return Tier.GOLD in value


async def test_input_may_be_a_set(run: Run) -> None:
    assert await run(d_numbers, value={3, 1}) == [1, 3]
    assert await run(d_dates, value=["2030-01-02", "2030-01-01"]) == 2
    assert await run(d_tiers, value={Tier.GOLD}) is True


async def test_input_may_be_a_set_of_two_members(run: Run) -> None:
    assert await run(d_tiers, value=["gold", "basic"]) is True


@workflow
async def d_mixed(value: set[int | str]) -> int:
    return len(value)


async def test_input_may_be_a_set_of_ints_and_texts(run: Run) -> None:
    assert await run(d_mixed, value=["a", 1]) == 2


@workflow
async def d_optional_set(value: set[int | None]) -> int:
    return len(value)


async def test_input_may_be_a_set_with_none(run: Run) -> None:
    assert await run(d_optional_set, value=[None, 1]) == 2


@workflow
async def d_counts_by_number(count: int) -> Counts:
    return await see_counts(Counts(by_number={5: count}))


@workflow
async def d_counts_by_tier(count: int) -> Counts:
    return await see_counts(Counts(by_tier={Tier.GOLD: count}, by_name={"a": 1}))


async def test_a_pydantic_model_may_have_dicts_with_members_as_keys(run: Run) -> None:
    assert await run(d_counts_by_tier, count=7) == Counts(by_tier={Tier.GOLD: 7}, by_name={"a": 1})


async def test_a_pydantic_model_may_have_dicts_with_ints_as_keys(run: Run) -> None:
    assert await run(d_counts_by_number, count=7) == Counts(by_number={5: 7})


def test_keys_of_a_dict_are_no_bools() -> None:
    with pytest.raises(DefinitionError, match="keys of type bool: JSON has text as keys only"):

        @workflow
        async def d_bools(value: int) -> dict[bool, int]:
            return {value > 1: value}


@workflow
async def d_literals(value: set[Literal["a", 1]]) -> int:
    return len(value)


async def test_input_may_be_a_set_of_literals(run: Run) -> None:
    assert await run(d_literals, value=["a", 1]) == 2


async def test_keys_of_a_dict_that_a_workflow_makes_may_be_members(run: Run) -> None:
    assert await run(d_keys_made, count=7) == {Tier.GOLD: 7, Tier.BASIC: 2}
    assert await run(d_keys_output, count=5) == {5: date(2030, 1, 1)}


async def test_keys_of_a_dict_for_a_task_may_be_members(run: Run) -> None:
    assert await run(d_keys_task, count=7) == {Tier.GOLD: 7}
    assert calls == [{Tier.GOLD: 7}]


async def test_a_pydantic_model_arrives_as_an_instance(run: Run) -> None:
    given = {"name": "ann", "born": "2000-02-28", "nick": "a"}
    assert await run(d_person, value=given) == Person(name="ann", born=date(2000, 2, 29))
    assert calls == [Person(name="ann", born=date(2000, 2, 28), nick="a")]


async def test_a_pydantic_model_may_be_given_as_input_as_a_dataclass_may(run: Run) -> None:
    given = Person(name="ann", born=date(2000, 2, 28))
    assert await run(d_person, value=given) == Person(name="ann", born=date(2000, 2, 29))


async def test_input_may_be_plain_json(run: Run) -> None:
    assert await run(d_order, value={"id": str(ID), "lines": [{"sku": "a"}]}) == Order(
        ID, [Line("a")], Tier.GOLD
    )
    assert await run(d_size, value=[3, 4]) == Size(4, 3)
    assert await run(d_timedelta, value="PT1H") == timedelta(hours=2)
    assert await run(d_bytes, value="/w==") == b"\xff\x00"


@pytest.mark.parametrize(
    ("definition", "given", "path"),
    [
        (d_line, {"sku": 5}, "value.sku"),
        (d_line, {"count": 5}, "sku"),
        (d_line, {"sku": "a", "count": True}, "value.count"),
        (d_line, {"sku": "a", "tags": ["x", 1]}, "value.tags[1]"),
        (d_order, {"id": "no uuid", "lines": []}, "value.id"),
        (d_order, {"id": str(ID), "lines": [{"sku": "a"}, {"sku": None}]}, "value.lines[1].sku"),
        (d_order, {"id": str(ID), "lines": [], "tier": "silver"}, "value.tier"),
        (d_shipment, {"weight": "heavy"}, "value.weight"),
        (d_person, {"name": "ann", "born": "yesterday"}, "value.born"),
        (d_person, {"name": "ann"}, "born"),
        (d_address, {"zip": "5"}, "city"),
        (d_size, ["wide"], "value[0]"),
        (d_size, [1, 2, 3], "value"),
        (d_tier, "silver", "value"),
        (d_level, 3, "value"),
        (d_datetime, "2030-13-01T00:00:00Z", "value"),
        (d_timedelta, "an hour", "value"),
        (d_decimal, "ten", "value"),
        (d_decimal, [], "value"),
        (d_uuid, "x", "value"),
        (d_bytes, "***", "value"),
        (d_optional, "x", "value"),
        (d_union, 1.5, "value"),
        (d_union, ["x"], "value[0]"),
        (d_literal, "medium", "value"),
        (d_keys_enum, {"silver": 1}, "value"),
        (d_keys_int, {"five": 1}, "value"),
        (d_containers, {"gold": [[1]]}, "value"),
    ],
)
async def test_a_wrong_input_is_refused_with_its_path(
    run: Run, definition: Workflow[..., Any], given: object, path: str
) -> None:
    with pytest.raises(DressageError) as refused:
        await run(definition, value=given)
    assert refused.value.code == "INPUT_INVALID"
    assert path in str(refused.value)


async def test_a_missing_parameter_is_refused_by_its_name(run: Run) -> None:
    with pytest.raises(DressageError, match="value") as refused:
        await run(d_line)
    assert refused.value.code == "INPUT_INVALID"


async def test_an_unknown_parameter_is_refused_by_its_name(run: Run) -> None:
    with pytest.raises(DressageError, match="volume") as refused:
        await run(d_line, value={"sku": "a"}, volume=5)
    assert refused.value.code == "INPUT_INVALID"


@workflow
async def d_defaults(
    name: str,
    count: int = 3,
    tier: Tier = Tier.GOLD,
    wait: timedelta = timedelta(hours=1),
    line: Line = Line("default", 9),  # noqa: B008  # pyright: ignore[reportCallInDefaultInitializer]
    note: str | None = None,
) -> str:
    return f"{name} {count} {tier.value} {wait} {line.sku}{line.count} {note}"


async def test_defaults_stand_in_for_what_is_missing(run: Run) -> None:
    assert await run(d_defaults, name="a") == "a 3 gold 1:00:00 default9 None"
    assert await run(d_defaults, name="a", count=None, note="n") == "a 3 gold 1:00:00 default9 n"
    with pytest.raises(DressageError, match="name"):
        await run(d_defaults, count=1)


@workflow
async def d_default_result(value: int) -> Order:
    return Order(ID, [Line("a")] * value)


async def test_defaults_of_fields_are_there_when_a_workflow_builds_a_record(run: Run) -> None:
    assert await run(d_default_result, value=1) == Order(ID, [Line("a", 1, [])], Tier.BASIC)


@workflow
async def d_wrong_output(value: Any) -> int:
    held: int = await loose(value)
    return held


async def test_a_variable_of_a_wrong_type_ends_the_run_with_a_type_error(run: Run) -> None:
    assert await run(d_wrong_output, value=5) == 5
    with pytest.raises(RunFailed, match="held") as caught:
        await run(d_wrong_output, value="x")
    assert caught.value.failure.kind == "type-error"


@workflow
async def d_wrong_result(value: Any) -> Line:
    found: Line = await loose(value)
    return found


async def test_a_dict_is_no_record(run: Run) -> None:
    with pytest.raises(RunFailed, match="expected Line, got dict"):
        await run(d_wrong_result, value={"sku": "a"})


def test_a_default_of_a_wrong_type_is_refused_at_the_definition() -> None:
    async def wrong(count: int = "three") -> int:  # type: ignore[assignment]  # pyright: ignore[reportArgumentType]
        return count

    with pytest.raises(DressageError, match=r"test_language_data\.py:\d+") as refused:
        workflow(wrong)
    assert "count" in str(refused.value)


def test_a_type_that_json_cannot_carry_is_refused_at_the_definition() -> None:
    async def wrong(number: complex) -> str:
        return f"{number}"

    with pytest.raises(DressageError, match="complex") as refused:
        workflow(wrong)
    assert "test_language_data.py:" in str(refused.value)


def test_a_union_that_json_cannot_tell_apart_is_refused_at_the_definition() -> None:
    async def wrong(number: Decimal | str) -> str:
        return f"{number}"

    with pytest.raises(DressageError, match="number") as refused:
        workflow(wrong)
    assert "test_language_data.py:" in str(refused.value)


@dataclass
class Place:
    street: str = ""
    city: Searchable[str | None] = None


@dataclass
class View:
    place: Place
    tags: Searchable[list[str]]
    status: Searchable[str] = "NEW"
    tier: Searchable[Tier] = Tier.BASIC
    price: Searchable[Decimal] = Decimal(0)
    due: Searchable[date | None] = None
    secret: Masked[str | None] = None
    note: str = "hidden from search"


@workflow
async def d_search(city: str, tags: list[str]) -> str:
    view = View(Place(), tags)
    view.place = Place(city=city)
    view.status = "DONE"
    view.tier, view.price = Tier.GOLD, Decimal("9.50")
    view.due = date(2030, 1, 1) + timedelta(days=1)
    return view.status


async def test_searchable_scalars_lists_and_paths_are_shown_with_the_run(shared: Engine) -> None:
    client = await shared.registered(d_search)
    handle = await client.start(d_search, {"city": "Bonn", "tags": ["a", "b"]})
    await handle.result(10)
    found: Any = (await handle.state()).search
    shown = msgspec.json.decode(msgspec.json.encode(found))
    assert shown == {
        "place.city": "Bonn",
        "tags": ["a", "b"],
        "status": "DONE",
        "tier": "gold",
        "price": "9.50",
        "due": "2030-01-02",
    }


SECRET = "4111-1111-secret"


@workflow
async def d_masked(card: Masked[str], holder: str) -> Masked[str]:
    view = View(Place(), [])
    token: Masked[str] = await see_masked(card)
    view.secret = token
    view.status = holder
    return token


async def test_masked_values_reach_worker_and_caller_and_nobody_who_reads(shared: Engine) -> None:
    calls.clear()
    await shared.worker(app)
    client = await shared.registered(d_masked)
    handle = await client.start(d_masked, {"card": SECRET, "holder": "visible ann"})
    assert await handle.result(10) == f"{SECRET}-token"
    assert calls == [SECRET]
    state = msgspec.json.encode(await handle.state()).decode()
    events = [event async for event in handle.history()]
    told = b"".join(bytes(event.data) for event in events).decode()
    answer = str(await shared.call("get", {"run_id": handle.run_id}))
    for text in (state, told, answer):
        assert "visible ann" in text
        assert "***" in text
        assert SECRET not in text


async def test_a_wrong_masked_input_is_refused_without_showing_it(shared: Engine) -> None:
    client = await shared.registered(d_masked)
    with pytest.raises(DressageError) as refused:
        await client.start(d_masked, {"card": [SECRET], "holder": "ann"})
    assert refused.value.code == "INPUT_INVALID"
    assert SECRET not in str(refused.value)


def test_a_look_at_a_masked_value_is_refused_at_the_definition() -> None:
    async def peeks(card: Masked[str]) -> str:
        return card[-4:]

    with pytest.raises(DressageError, match=r"[Mm]asked"):
        workflow(peeks)


def test_a_masked_field_cannot_be_searchable() -> None:
    @dataclass
    class Both:
        card: Searchable[Masked[str]]

    async def shows(card: Masked[str]) -> str:
        view = Both(card)
        view.card = card
        return "done"

    with pytest.raises(DressageError, match=r"[Mm]asked|[Ss]earchable"):
        workflow(shows)
