"""Publishing: what a run publishes is what Python does, in its order, and what nobody may publish fails in both."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from tests.limits.specs import Run, expr, failure_of, spec_of  # pyright: ignore[reportMissingImports]

from dressage.flow import Limits, Masked, TaskError, gather, publish, task, workflow
from dressage.flow.drawing.outline import outline
from dressage.flow.models import to_plain
from dressage.orchestrator.fold.effects import Publish
from dressage.protocol.errors import BadSpec
from dressage.protocol.names import SUBJECT_BYTES_MAX
from dressage.protocol.spec import PublishNode, ReturnNode, WorkflowSpec
from dressage.testing import Published, WorkflowTest


class Tier(Enum):
    GOLD = "gold"


@dataclass
class Line:
    item: str
    price: Decimal = Decimal("1.50")


@dataclass
class Order:
    id: str
    region: str = "eu"
    tier: Tier = Tier.GOLD
    lines: list[Line] = field(default_factory=list[Line])


@task
async def ship(order_id: str) -> str:
    raise NotImplementedError


@workflow
async def told(order: Order) -> str:
    await publish(f"orders.{order.region}.received", order)
    parcel = await ship(order.id)
    for number, line in enumerate(order.lines, 1):
        await publish(subject=f"orders.{order.region}.line-{number}", data={"item": line.item, "in": parcel})
    await publish("orders.done", None)
    return parcel


ORDER = Order("o-1", lines=[Line("lamp"), Line("chair", Decimal("20"))])
TOLD = [
    (
        "orders.eu.received",
        {
            "id": "o-1",
            "region": "eu",
            "tier": "gold",
            "lines": [{"item": "lamp", "price": "1.50"}, {"item": "chair", "price": "20"}],
        },
    ),
    ("orders.eu.line-1", {"item": "lamp", "in": "p-1"}),
    ("orders.eu.line-2", {"item": "chair", "in": "p-1"}),
    ("orders.done", None),
]


def plain(data: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(data, enc_hook=to_plain))


def test_a_run_publishes_what_python_does() -> None:
    test = WorkflowTest(told)
    test.task(ship).returns("p-1")
    run = test.run(ORDER)
    assert run.result == "p-1"
    assert [(each.subject, each.data) for each in run.published] == TOLD
    seen: list[Any] = []
    with ship.faked(lambda order_id: "p-1"), publish.faked(lambda *told: seen.append(told)):
        assert asyncio.run(told(ORDER)) == "p-1"
    assert [(subject, plain(data)) for subject, data in seen] == TOLD
    assert seen[0] == ("orders.eu.received", ORDER)


def test_the_history_tells_what_was_published() -> None:
    test = WorkflowTest(told)
    test.task(ship).returns("p-1")
    events = [event for event in test.run(ORDER).events if event.kind == "published"]
    assert [(event.data["subject"], event.data["data"]) for event in events] == TOLD


def test_what_a_branch_publishes_is_told_of_the_branch() -> None:
    @workflow
    async def w() -> None:
        await gather(publish("a", 1), publish("b", 2))
        await gather(*(publish(f"c.{n}", n) for n in range(2)))

    run = WorkflowTest(w).run()
    began = datetime(2030, 1, 1, tzinfo=UTC)
    assert run.published == [
        Published("a", 1, began, ((0, 0),)),
        Published("b", 2, began, ((0, 1),)),
        Published("c.0", 0, began, ((1, 0),)),
        Published("c.1", 1, began, ((1, 1),)),
    ]


def test_every_value_goes_out_as_a_task_would_get_it() -> None:
    values: dict[str, Any] = {
        "when": datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC),
        "took": timedelta(hours=1),
        "who": UUID(int=5),
        "raw": b"ab",
        "pair": (1, "x"),
        "kinds": {3, 1, 2},
    }

    @workflow
    async def w() -> None:
        await publish(
            "all",
            {
                "when": datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC),
                "took": timedelta(hours=1),
                "who": UUID("00000000-0000-0000-0000-000000000005"),
                "raw": b"ab",
                "pair": (1, "x"),
                "kinds": {3, 1, 2},
            },
        )

    (found,) = WorkflowTest(w).run().published
    assert found.data == {**plain(values), "kinds": [1, 2, 3]}


BAD_SUBJECTS = {
    "empty": "",
    "a space": "a b",
    "a line break": "a\nb",
    "an empty token": "a..b",
    "an empty token at its end": "a.",
    "an empty token at its start": ".a",
    "a wildcard": "a.*",
    "a wildcard for the rest": "a.>",
    "a wildcard inside": "a.b*",
    "the broker's": "$JS.API.STREAM.DELETE.x",
    "an inbox": "_INBOX.abc",
    "the engine's": "dressage.default.0.cmd.x",
    "too long": "a" * (SUBJECT_BYTES_MAX + 1),
    "too long in bytes": "ä" * (SUBJECT_BYTES_MAX // 2 + 1),
}
GOOD_SUBJECTS = ["a", "orders.eu.shipped", "Dressage.x", "größe.ü", "a" * SUBJECT_BYTES_MAX, "a-b_c.1"]


@workflow
async def saying(subject: str) -> str:
    try:
        await publish(subject, 1)
    except ValueError as error:
        return f"{error}"
    return "published"


@pytest.mark.parametrize("name", BAD_SUBJECTS)
def test_a_bad_subject_is_a_value_error_in_the_run_as_in_python(name: str) -> None:
    subject = BAD_SUBJECTS[name]
    run = WorkflowTest(saying).run(subject)
    assert "subject" in run.result
    assert run.published == []
    with publish.faked(lambda subject, data: None):
        assert asyncio.run(saying(subject)) == run.result


@pytest.mark.parametrize("subject", GOOD_SUBJECTS)
def test_a_plain_subject_is_good(subject: str) -> None:
    run = WorkflowTest(saying).run(subject)
    assert run.result == "published"
    assert [each.subject for each in run.published] == [subject]


def test_a_subject_of_another_type_is_a_type_error() -> None:
    @workflow
    async def w(given: dict[str, Any]) -> str:
        try:
            await publish(given["subject"], 1)
        except TypeError as error:
            return f"{error}"
        return "published"

    said = WorkflowTest(w).run({"subject": 5}).result
    assert said == "publish() takes a subject of type str, not int"
    with publish.faked(lambda subject, data: None):
        assert asyncio.run(w({"subject": 5})) == said


UNSAYABLE = {"nan": "float('nan')", "infinity inside": "[1, {'a': float('inf')}]", "keys": "{(1, 2): 3}"}


@pytest.mark.parametrize("name", UNSAYABLE)
def test_data_that_json_cannot_say_is_a_type_error(name: str, define: Any) -> None:
    module = define(
        "from dressage.flow import publish, workflow\n"
        "@workflow\nasync def w() -> str:\n"
        f"    try:\n        await publish('a', {UNSAYABLE[name]})\n"
        "    except TypeError as error:\n        return f'{error}'\n"
        "    return 'published'\n"
    )
    run = WorkflowTest(module.w).run()
    assert run.result.startswith("publish() takes data that JSON can say: ")
    assert run.published == []
    with publish.faked(lambda subject, data: None):
        assert asyncio.run(module.w()).startswith("publish() takes data that JSON can say: ")


def test_a_masked_value_that_no_type_shows_is_not_published() -> None:
    @workflow
    async def w(secrets: dict[str, Any], secret: Masked[str]) -> str:
        found: Any = secrets["a"] if "a" in secrets else secret  # noqa: SIM401  # get() would look at it
        try:
            await publish("a", [found])
        except TypeError as error:
            return f"{error}"
        return "published"

    assert WorkflowTest(w).run({}, "s").result == "a masked value cannot be published"
    assert WorkflowTest(w).run({"a": 1}, "s").result == "published"


def test_nothing_is_published_in_plain_python_unless_a_test_says_where_to() -> None:
    with pytest.raises(NotImplementedError, match=r"publish\.faked"):
        asyncio.run(saying("a"))


def test_the_fakes_of_a_test_end_with_it() -> None:
    outer: list[Any] = []
    inner: list[Any] = []
    with publish.faked(lambda *told: outer.append(told)):
        with publish.faked(lambda *told: inner.append(told)):
            asyncio.run(saying("a"))
        asyncio.run(saying("b"))
    assert (outer, inner) == ([("b", 1)], [("a", 1)])


def test_what_was_published_before_a_failure_stays_published() -> None:
    @workflow
    async def w() -> str:
        await publish("before", 1)
        try:
            await ship("o")
        except TaskError:
            await publish("caught", 2)
        return str(1 // 0)

    test = WorkflowTest(w)
    test.task(ship).raises(OSError("down"))
    run = test.run()
    assert run.status == "failed"
    assert [each.subject for each in run.published] == ["before", "caught"]


def test_a_definition_shows_what_is_published_and_where() -> None:
    lines = [line.text for line in outline(told.spec)]
    assert "await publish(f'orders.{order.region}.received', order)" in lines


def test_a_spec_of_another_compiler_publishes() -> None:
    read = msgspec.json.decode(told.spec.encode(), type=WorkflowSpec)
    assert [type(node) for node in read.nodes].count(PublishNode) == 3
    assert read.digest() == told.spec.digest()
    nowhere = msgspec.structs.replace(read, nodes=(PublishNode(expr("'a'"), expr("1"), 7), ReturnNode()))
    with pytest.raises(BadSpec, match="leads to node 7"):
        Run(nowhere).start()


def test_a_loop_that_publishes_is_ended_by_the_work_of_a_command() -> None:
    """A publish is no wait: what one command may publish is bounded as all that it may do."""

    @workflow(limits=Limits(steps_per_command=50_000, variables_bytes=640 * 1024))
    async def w() -> None:
        text = "x" * 200_000
        while True:
            await publish("a", text)

    run = WorkflowTest(w).run()
    assert run.failure is not None
    assert run.failure.name == "work-per-command"
    assert 10 < len(run.published) < 60


def test_the_index_of_what_is_published_is_that_of_its_event() -> None:
    spec = spec_of(
        [PublishNode(expr("'a'"), expr("1"), 1), PublishNode(expr("'b'"), expr("2"), 2), ReturnNode()]
    )
    outcome = Run(spec).start()
    assert outcome.run is not None
    assert outcome.run.status == "completed"
    published = [effect for effect in outcome.effects if isinstance(effect, Publish)]
    assert [(effect.subject, effect.index) for effect in published] == [("a", 1), ("b", 2)]


def test_an_expression_that_fails_publishes_nothing() -> None:
    outcome = Run(spec_of([PublishNode(expr("'a'"), expr("1 / 0"), 1), ReturnNode()])).start()
    assert failure_of(outcome).message.startswith("line 0: ZeroDivisionError")
    assert outcome.effects == []
