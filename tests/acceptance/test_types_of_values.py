"""Every kind of type that an author may declare: what a worker gets of it, and what a wrong value meets."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NotRequired
from uuid import UUID

import msgspec
import pydantic
import pytest
from typing_extensions import TypedDict

from dressage.client.client import RunFailed
from dressage.flow import App, Searchable, workflow
from dressage.protocol.commands import FailureInfo, TaskResult, WorkerInfo
from dressage.protocol.errors import BadValue, Refused

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Address(TypedDict):
    city: str
    zip: NotRequired[str]


class Point(NamedTuple):
    x: float
    y: float = 0.5


@dataclass
class Item:
    sku: str
    price: Decimal = Decimal("1.50")


class Parcel(msgspec.Struct):
    grams: int


class Customer(pydantic.BaseModel):
    name: str
    score: float = 1.0
    photo: bytes = b"\xff\x00"
    home: Address | None = None
    items: list[Item] = pydantic.Field(default_factory=list, description="what was bought")


@dataclass
class Everything:
    customer: Customer
    at: Point
    address: Address
    color: Color
    kind: Literal["a", "b"]
    when: datetime
    day: date
    wait: timedelta
    price: Decimal
    id: UUID
    raw: bytes
    parcel: Parcel
    maybe: int | None = None
    either: int | str = "x"
    tags: set[str] = field(default_factory=set)


GIVEN: dict[str, Any] = {
    "customer": {"name": "Ada", "score": 2, "items": [{"sku": "s"}]},
    "at": [3],
    "address": {"city": "Bonn"},
    "color": "blue",
    "kind": "b",
    "when": "2026-03-04T05:06:07Z",
    "day": "2026-03-04",
    "wait": "P1D",
    "price": "10.50",
    "id": "12345678-1234-5678-1234-567812345678",
    "raw": "/w==",
    "parcel": {"grams": 3},
    "tags": ["t"],
}
EXPECTED = Everything(
    customer=Customer(name="Ada", score=2.0, items=[Item("s")]),
    at=Point(3.0),
    address={"city": "Bonn"},
    color=Color.BLUE,
    kind="b",
    when=datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
    day=date(2026, 3, 4),
    wait=timedelta(days=1),
    price=Decimal("10.50"),
    id=UUID("12345678-1234-5678-1234-567812345678"),
    raw=b"\xff",
    parcel=Parcel(3),
    tags={"t"},
)

app = App("kinds")
seen: list[Any] = []


@app.task
def look(everything: Everything) -> Everything:
    seen.append(everything)
    return everything


@app.task
async def locate(name: str) -> Point:
    return Point(1.5, 2)


@app.task
async def settle(customer: Customer, address: Address) -> Customer:
    seen.append((customer, address))
    return customer.model_copy(update={"home": address})


@workflow
async def pass_on(everything: Everything) -> Everything:
    known: Everything = await look(everything)
    return known


@workflow
async def move(name: str, score: int) -> tuple[Customer, str, float, bool]:
    x, y = await locate(name)
    here = await locate(name)
    address = Address(city="Bonn")
    if here.y > 1 and len(here) == 2 and here[0] == here.x and here == (x, y):
        address = Address(city=address["city"], zip="53111")
    customer = await settle(Customer(name=name, score=score), address)
    home = customer.home
    zipped = "none" if home is None else home.get("zip", "")
    return customer, zipped + address.get("zip", "?"), x + y, "zip" in address


@dataclass
class Place:
    city: Searchable[str] = "nowhere"
    zip: str = ""


@dataclass
class Shipment:
    to: Place
    first: Searchable[Color | None] = None


@dataclass
class View:
    shipment: Shipment
    status: Searchable[str] = "NEW"
    labels: Searchable[list[str]] = field(default_factory=list)


@workflow
async def searched(city: str) -> str:
    view = View(Shipment(Place(city)))
    view.labels = ["a", city]
    view.shipment = Shipment(Place(city + "!"), Color.RED)
    return view.status


@app.task
async def anything() -> Any:
    return 5


@workflow
async def declares(wanted: str) -> int:
    number: int = await anything()
    text: str = await anything()
    return number + len(text)


@workflow
async def assigns(wanted: str) -> str:
    given = await anything()
    text: str = given
    return text


@workflow
async def returns_other(wanted: str) -> str:
    given: Any = await anything()
    return str(given) if wanted == "text" else given


async def test_a_worker_and_the_caller_get_the_authors_own_classes(shared: Engine) -> None:
    client = await shared.registered(pass_on)
    await shared.worker(app)
    handle = await client.start(pass_on, {"everything": GIVEN})
    assert await handle.result(timeout_s=8) == EXPECTED
    got = seen.pop()
    assert got == EXPECTED
    assert [type(got.customer), type(got.at), type(got.customer.items[0]), type(got.address)] == [
        *(Customer, Point, Item, dict)
    ]
    assert type(got.at.x) is float


async def test_records_of_every_form_mean_what_they_mean_in_python(shared: Engine) -> None:
    client = await shared.registered(move)
    await shared.worker(app)
    handle = await client.start(move, {"name": "Ada", "score": 7})
    result = await handle.result(timeout_s=8)
    assert result == await move("Ada", 7)
    assert result[0].score == 7.0
    assert type(result[0].score) is float
    assert seen[-1] == seen[-2]
    seen.clear()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "enum": ({"color": "green"}, "everything.color"),
    "literal": ({"kind": "c"}, "everything.kind"),
    "datetime": ({"when": "yesterday"}, "everything.when"),
    "date": ({"day": 5}, "everything.day"),
    "timedelta": ({"wait": "soon"}, "everything.wait"),
    "decimal": ({"price": "much"}, "everything.price"),
    "uuid": ({"id": "7"}, "everything.id"),
    "bytes": ({"raw": "ü"}, "everything.raw"),
    "optional": ({"maybe": "x"}, "everything.maybe"),
    "union": ({"either": 1.5}, "everything.either"),
    "set": ({"tags": [1]}, "everything.tags[0]"),
    "typed dict": ({"address": {"zip": "1"}}, "everything.address"),
    "named tuple": ({"at": [1, "x"]}, "everything.at[1]"),
    "dataclass in a model": (
        {"customer": {"name": "A", "items": [{"sku": 3}]}},
        "everything.customer.items[0].sku",
    ),
    "model": ({"customer": {"name": None}}, "everything.customer.name"),
    "struct": ({"parcel": {"grams": "3"}}, "everything.parcel.grams"),
    "missing": ({"customer": {}}, "everything.customer"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_wrong_input_is_refused_by_its_path(name: str, shared: Engine) -> None:
    client = await shared.registered(pass_on)
    change, path = BAD[name]
    with pytest.raises(Refused) as refused:
        await client.start("pass-on", {"everything": GIVEN | change})
    assert refused.value.code == "INPUT_INVALID"
    assert f"parameter {path}: " in refused.value.message


@pytest.mark.parametrize("name", BAD)
async def test_a_wrong_result_of_a_task_fails_the_run_by_its_path(name: str, shared: Engine) -> None:
    client = await shared.registered(pass_on)
    handle = await client.start("pass-on", {"everything": GIVEN})
    change, path = BAD[name]
    started = [event async for event in handle.history() if event.kind == "task-scheduled"]
    task_id = msgspec.json.decode(started[0].data)["task_id"]
    output = msgspec.Raw(msgspec.json.encode(GIVEN | change))
    await client.report(handle.run_id, TaskResult(task_id, output=output, by=WorkerInfo("w", 1.0)))
    with pytest.raises(RunFailed) as failed:
        await handle.result(timeout_s=8)
    assert failed.value.failure.kind == "type-error"
    assert path.replace("everything", "value") in failed.value.failure.message


@pytest.mark.parametrize(
    ("flow", "said"),
    [
        (declares, "variable text: expected str, got int"),
        (assigns, "variable text: expected str, got int"),
        (returns_other, "value: expected str, got int"),
    ],
)
async def test_what_is_not_of_its_declared_type_ends_the_run(flow: Any, said: str, shared: Engine) -> None:
    client = await shared.registered(flow)
    await shared.worker(app)
    handle = await client.start(flow, {"wanted": "x"})
    with pytest.raises(RunFailed) as failed:
        await handle.result(timeout_s=8)
    failure: FailureInfo = failed.value.failure
    assert failure.kind == "type-error"
    assert failure.message.startswith("line ")
    assert said in failure.message


async def test_what_can_be_searched_for_is_marked_in_events_and_shown_by_its_path(shared: Engine) -> None:
    client = await shared.registered(searched)
    handle = await client.start(searched, {"city": "Bonn"})
    await handle.result(timeout_s=8)
    assert (await handle.state()).search == {
        "shipment.to.city": "Bonn!",
        "shipment.first": "red",
        "status": "NEW",
        "labels": ["a", "Bonn"],
    }
    changes = [
        msgspec.json.decode(event.data)
        async for event in handle.history()
        if event.kind == "variable-changed"
    ]
    marks = {each["name"]: (each.get("searchable", False), each.get("paths", [])) for each in changes}
    assert marks == {
        "shipment": (False, ["shipment.to.city", "shipment.first"]),
        "status": (True, []),
        "labels": (True, []),
    }


def test_a_wrong_field_of_a_model_is_refused_before_it_is_sent() -> None:
    with pytest.raises(BadValue, match="name"):
        pass_on.signature.decode_args(msgspec.json.encode({"everything": GIVEN | {"customer": {"name": 3}}}))
