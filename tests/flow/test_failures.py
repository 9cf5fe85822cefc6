"""The fields that a failure's class declares: checked where it is raised and where it is received, read by type."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
import pytest

from dressage.flow import App, Masked, TaskError, WorkflowFailure, task, workflow
from dressage.protocol.errors import BadSpec, BadValue, DefinitionError
from dressage.protocol.spec import RaiseNode, WorkflowSpec
from dressage.protocol.spec_check import check_spec
from dressage.testing import WorkflowTest


@dataclass
class Shelf:
    aisle: int
    items: list[str] = field(default_factory=list[str])


class Missing(WorkflowFailure):
    count: int
    price: Decimal = Decimal("1.50")
    shelves: list[Shelf] = field(default_factory=list[Shelf])
    again_in: timedelta | None = None
    kinds: ClassVar[int] = 3


class MissingForGood(Missing):
    reason: str


class HalfMade(WorkflowFailure):
    def __init__(self) -> None: ...


app = App("failures")


# -- the class -------------------------------------------------------------------------------------
def test_the_fields_are_attributes_and_json() -> None:
    failure = Missing("none left", count=2, shelves=[Shelf(4, ["a"])])
    assert (failure.count, failure.price, failure.again_in) == (2, Decimal("1.50"), None)
    assert failure.details == {
        "count": 2,
        "price": "1.50",
        "shelves": [{"aisle": 4, "items": ["a"]}],
        "again_in": None,
    }
    assert msgspec.json.decode(failure.info().details) == failure.details  # type: ignore[arg-type]


def test_a_failure_without_fields_has_no_details() -> None:
    class Plain(WorkflowFailure): ...

    assert Plain("no").details == {}
    assert Plain("no").info().details is msgspec.UNSET
    assert WorkflowFailure("no").details == {}


def test_a_subclass_inherits_fields() -> None:
    failure = MissingForGood("gone", count=1, reason="sold out")
    assert list(failure.details) == ["count", "price", "shelves", "again_in", "reason"]
    assert isinstance(failure, Missing)


def test_a_default_is_no_others() -> None:
    first, second = Missing(count=1), Missing(count=1)
    first.shelves.append(Shelf(1))
    assert second.shelves == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Missing misses its field count"),
        (
            {"count": 1, "colour": "red"},
            "Missing has no field colour: declare it in the class, as `colour: str`",
        ),
        ({"count": "1"}, "Missing.count: expected int, got str"),
        ({"count": True}, "Missing.count: expected int, got bool"),
        ({"count": 1, "price": 1.5}, "Missing.price: expected Decimal, got float"),
        ({"count": 1, "shelves": [{"aisle": 1}]}, r"Missing.shelves\[0\]: expected Shelf, got dict"),
        ({"count": 1, "again_in": object()}, "Missing.again_in: a object is no constant"),
    ],
)
def test_what_does_not_fit_is_a_type_error(given: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Missing("no", **given)


def test_a_field_that_was_set_to_another_type_is_found_when_it_is_sent() -> None:
    failure = Missing("no", count=1)
    failure.count = "two"  # type: ignore[assignment]
    with pytest.raises(BadValue, match=r"Missing\.count"):
        failure.info()


def test_a_failure_can_be_pickled() -> None:
    copied = pickle.loads(pickle.dumps(MissingForGood("gone", count=1, reason="sold out")))
    assert type(copied) is MissingForGood
    assert (copied.message, copied.count, copied.reason) == ("gone", 1, "sold out")


@pytest.mark.parametrize("name", ["message", "details", "info", "args", "family", "exceptions", "_kept"])
def test_a_name_that_is_taken_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=f"cannot have a field {name}"):
        type("Odd", (WorkflowFailure,), {"__annotations__": {name: int}})


@pytest.mark.parametrize(
    ("kind", "said"),
    [(object, "type object is not supported"), (Masked[str], "masked"), (float | Decimal, "guessing")],
)
def test_a_type_that_nobody_could_be_told_is_refused(kind: Any, said: str) -> None:
    odd = type("Odd", (WorkflowFailure,), {"__annotations__": {"x": kind}})
    with pytest.raises(DefinitionError, match=said):
        odd("no", x=1)


def test_a_mutable_default_is_refused_as_in_a_dataclass() -> None:
    with pytest.raises(ValueError, match="mutable default"):
        type("Odd", (WorkflowFailure,), {"__annotations__": {"x": list[int]}, "x": []})


# -- in a run --------------------------------------------------------------------------------------
@task
async def take(count: int) -> int:
    raise NotImplementedError


@workflow
async def fetch(count: int) -> str:
    try:
        taken = await take(count)
    except MissingForGood as failure:
        return f"{failure.reason} {failure.count * failure.price}"
    except Missing as failure:
        later = failure.again_in or timedelta(hours=1)
        return f"{failure.count} {later} {[shelf.aisle + 1 for shelf in failure.shelves]}"
    except TaskError as error:
        return f"{error}"
    if taken < 0:
        raise MissingForGood("sold out", count=taken, reason=f"sold {-taken}")
    return f"{taken}"


def test_a_caught_failure_has_the_fields_of_its_class() -> None:
    test = WorkflowTest(fetch)
    test.task(take).fails(MissingForGood("gone", count=4, reason="sold out"))
    assert test.run(4).result == "sold out 6.00"
    test.task(take).fails(Missing(count=4, shelves=[Shelf(7)], again_in=timedelta(days=2)))
    assert test.run(4).result == "4 2 days, 0:00:00 [8]"


def test_a_failure_that_a_run_ends_with_has_its_fields() -> None:
    test = WorkflowTest(fetch)
    test.task(take).returns(-3)
    failure = test.run(4).failure
    assert failure is not None
    assert msgspec.json.decode(failure.details)["reason"] == "sold 3"  # type: ignore[arg-type]


def test_the_fields_of_a_failure_that_the_workflow_does_not_know_are_its_ancestors() -> None:
    class Elsewhere(Missing):
        city: str

    test = WorkflowTest(fetch)
    test.task(take).fails(Elsewhere("there are some", count=9, city="Ghent"))
    assert test.run(4).result == "9 1:00:00 []"


def test_a_worker_that_reports_other_fields_has_made_an_error() -> None:
    other: Callable[..., WorkflowFailure] = type(
        "Missing", (WorkflowFailure,), {"__annotations__": {"count": str}}
    )
    test = WorkflowTest(fetch)
    test.task(take).fails(other("no", count="four"))
    run = test.run(4)
    assert len(run.calls) == 1, "a wrong type is wrong every time"
    assert run.result == (
        "worker test reported failure missing with other fields than it declares: value.count: Expected int, got str"
        " (task take, attempt 1 of 1)"
    )


@app.task
def spoil(count: int) -> int:
    failure = Missing("no", count=count)
    failure.count = "two"  # type: ignore[assignment]
    raise failure


@app.task
def halve(count: int) -> int:
    raise HalfMade


@workflow
async def ask_both(count: int) -> str:
    try:
        await spoil(count)
    except TaskError as error:
        first = f"{error}"
    else:
        first = ""
    try:
        await halve(count)
    except TaskError:
        return f"{first}, and a half"
    return first


def test_an_attempt_ends_whatever_became_of_its_failure() -> None:
    run = WorkflowTest(ask_both).run(1)
    assert run.result == (
        "failure 'missing': Missing.count: expected int, got str (task spoil, attempt 1 of 1), and a half"
    )


def test_fields_that_are_too_large_end_the_run_by_the_name_of_the_limit() -> None:
    test = WorkflowTest(fetch)
    test.task(take).fails(Missing("no", count=1, shelves=[Shelf(1, ["x" * 33_000])]))
    failure = test.run(4).failure
    assert failure is not None
    assert failure.name == "failure-details"


# -- in a spec -------------------------------------------------------------------------------------
def test_the_spec_names_the_record() -> None:
    assert {each.name: each.record for each in fetch.spec.failures} == {
        "missing": "Missing",
        "missing-for-good": "MissingForGood",
    }
    check_spec(fetch.spec)


def _with(spec: WorkflowSpec, **changes: Any) -> WorkflowSpec:
    return msgspec.structs.replace(spec, **changes)


def test_a_spec_that_contradicts_itself_is_refused() -> None:
    spec = fetch.spec
    unknown = tuple(msgspec.structs.replace(each, record="Nothing") for each in spec.failures)
    with pytest.raises(
        BadSpec, match="'missing-for-good' has the record 'Nothing', which the spec does not define"
    ):
        check_spec(_with(spec, failures=unknown[:1]))
    bare = tuple(
        msgspec.structs.replace(node, details=None) if isinstance(node, RaiseNode) else node
        for node in spec.nodes
    )
    with pytest.raises(BadSpec, match="raises failure 'missing-for-good' without its fields"):
        check_spec(_with(spec, nodes=bare))
