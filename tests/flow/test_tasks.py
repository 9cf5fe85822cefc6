"""Tasks, failures and applications: names, contracts, handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from types import ModuleType

import msgspec
import pytest

from dressage.flow import App, Exponential, WorkflowFailure, task
from dressage.protocol.errors import BadName, BadValue, DefinitionError
from dressage.protocol.spec import Backoff, RetryOptions
from dressage.protocol.types import Scalar


@dataclass
class Parcel:
    id: str
    weight: Decimal = Decimal("1.5")


@task(retries=3, backoff=Exponential(base=timedelta(seconds=5), limit=timedelta(minutes=2)))
async def weigh_parcel(parcel: Parcel, unit: str = "kg") -> Decimal:
    return parcel.weight


# -- names and contracts ---------------------------------------------------------------------------
def test_a_task_is_named_for_its_function() -> None:
    assert weigh_parcel.definition.name == "weigh-parcel"
    assert weigh_parcel.definition.queue == "default"


def test_a_contract_has_types_defaults_and_retries() -> None:
    definition = weigh_parcel.definition
    assert [field.name for field in definition.params] == ["parcel", "unit"]
    assert [field.required for field in definition.params] == [True, False]
    assert bytes(definition.params[1].default) == b'"kg"'  # type: ignore[arg-type]
    assert definition.output == Scalar("decimal")
    assert definition.retry == RetryOptions(retries=3, backoff=Backoff(base_s=5.0, factor=2.0, limit_s=120.0))


@pytest.mark.parametrize("name", ["Weigh", "-a", "a.b", "a*", "x" * 64])
def test_a_name_outside_the_rule_is_refused(name: str) -> None:
    def body() -> None: ...

    with pytest.raises(BadName):
        task(name=name)(body)


@pytest.mark.parametrize(
    ("identifier", "name"),
    [("CardDeclined", "card-declined"), ("HTTPError", "http-error"), ("Rejected2", "rejected2")],
)
def test_a_failure_is_named_for_its_class(identifier: str, name: str) -> None:
    kind: type[WorkflowFailure] = type(identifier, (WorkflowFailure,), {})
    assert kind.name == name


def test_a_failure_may_choose_its_name_and_knows_its_family() -> None:
    class Late(WorkflowFailure):
        name = "too-late"

    class VeryLate(Late):
        days: int

    assert VeryLate.name == "very-late"
    assert VeryLate.family == ("too-late",)
    info = VeryLate("by a day", days=1).info()
    assert (info.name, info.message, info.family, info.kind) == (
        "very-late",
        "by a day",
        ("too-late",),
        "failure",
    )
    assert msgspec.json.encode(info.details) == b'{"days":1}'


def test_a_backoff_must_make_sense() -> None:
    with pytest.raises(DefinitionError):
        Exponential(base=timedelta(minutes=2), limit=timedelta(minutes=1))
    with pytest.raises(DefinitionError):
        Exponential(factor=0.5)
    with pytest.raises(DefinitionError):
        task(retries=-1)


# -- running as plain Python -----------------------------------------------------------------------
def test_a_call_runs_the_body() -> None:
    assert asyncio.run(weigh_parcel(Parcel("p", Decimal(2)))) == Decimal(2)


def test_a_fake_takes_the_place_of_the_body_inside_its_block() -> None:
    async def both() -> tuple[Decimal, Decimal]:
        with weigh_parcel.faked(lambda parcel, unit="kg": Decimal(9)):
            faked = await weigh_parcel.options(retries=1)(Parcel("p"))
        return faked, await weigh_parcel(Parcel("p"))

    assert asyncio.run(both()) == (Decimal(9), Decimal("1.5"))


# -- applications ----------------------------------------------------------------------------------
def test_the_queue_of_an_applications_task_is_the_application() -> None:
    app = App("scales")

    @app.task
    def tare(grams: int) -> int:
        return grams

    @app.handles(weigh_parcel)
    def weigh(parcel: Parcel, unit: str = "kg") -> Decimal:
        return parcel.weight

    assert tare.definition.queue == "scales"
    assert app.queues == ("default", "scales")
    assert {name: handler.is_async for name, handler in app.handlers.items()} == {
        "tare": False,
        "weigh-parcel": False,
    }
    assert app.handlers["weigh-parcel"].definition is weigh_parcel.definition


def test_arguments_are_decoded_to_the_authors_types() -> None:
    app = App("scales")
    app.register(weigh_parcel, weigh_parcel.function)
    handler = app.handlers["weigh-parcel"]
    args = handler.decode_args(b'{"parcel": {"id": "p", "weight": 2.50}, "unit": null}')
    assert args == {"parcel": Parcel("p", Decimal("2.50")), "unit": "kg"}
    assert handler.encode_result(Decimal("2.50")) == b'"2.50"'


@pytest.mark.parametrize(
    "raw", [b"{}", b"[]", b"{", b'{"parcel": 1}', b'{"parcel": {"id": 1}}', b'{"other": 1}']
)
def test_wrong_arguments_are_refused(raw: bytes) -> None:
    with pytest.raises(BadValue, match="weigh_parcel"):
        weigh_parcel.signature.decode_args(raw)


@pytest.mark.parametrize("value", ["heavy", object(), None])
def test_a_wrong_result_is_refused(value: object) -> None:
    with pytest.raises(BadValue, match="weigh_parcel"):
        weigh_parcel.signature.encode_result(value)


def test_a_handler_has_the_tasks_parameters() -> None:
    with pytest.raises(DefinitionError, match="give it the task's parameters: parcel, unit"):
        App("scales").register(weigh_parcel, lambda parcel: Decimal(1))


def test_a_task_is_registered_once() -> None:
    app = App("scales")
    app.register(weigh_parcel, weigh_parcel.function)
    with pytest.raises(DefinitionError, match="already handles"):
        app.register(weigh_parcel, weigh_parcel.function)


def test_classes_around_a_nested_definition_are_found(define: Callable[[str], ModuleType]) -> None:
    module = define(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from dressage.flow import task\n"
        "def made():\n"
        "    @dataclass\n"
        "    class Local:\n"
        "        x: int\n"
        "    @task\n"
        "    def t(local: Local) -> Local: ...\n"
        "    return t\n"
    )
    assert module.made().definition.params[0].type.name == "Local"
