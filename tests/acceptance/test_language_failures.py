"""Failures as issue 4 lists them: raised by workers and workflows, taken by real runs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

from dressage.client import RunFailed
from dressage.flow import App, Saga, TaskError, WorkflowFailure, gather, sleep, workflow
from dressage.protocol.errors import DefinitionError, DressageError

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine, Run  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio


app = App("language-failures")
calls: list[str] = []


class Reason(Enum):
    STOLEN = "stolen"
    EMPTY = "empty"


@dataclass
class Limit:
    amount: Decimal
    days: list[int] = field(default_factory=list[int])


class PaymentFailed(WorkflowFailure):
    code: str


class CardDeclined(PaymentFailed):
    reason: Reason = Reason.EMPTY
    limit: Limit | None = None
    again_in: timedelta = timedelta(seconds=5)


class OutOfStock(WorkflowFailure):
    name = "no-stock"
    item: str
    left: int = 0


class GaveUp(WorkflowFailure): ...


@app.task
def charge(card: str) -> str:
    calls.append(f"charge {card}")
    if card == "stolen":
        raise CardDeclined(
            "card is stolen", code="S1", reason=Reason.STOLEN, limit=Limit(Decimal("9.50"), [1, 2])
        )
    if card == "unreadable":
        raise PaymentFailed("cannot read it", code="U1")
    if card == "terminal":
        raise OSError("terminal is down")
    return f"receipt {card}"


@app.task
def reserve(item: str) -> str:
    calls.append(f"reserve {item}")
    if item == "gold":
        raise OutOfStock(f"no {item}", item=item, left=3)
    return f"one {item}"


@app.task
def release(item: str, note: str = "") -> None:
    calls.append(f"release {item}{note}")


@app.task
def refund(card: str) -> None:
    calls.append(f"refund {card}")
    if card == "closed":
        raise OSError("account is closed")


@app.task
def log(text: str) -> str:
    calls.append(text)
    return text


@app.task
def wrong_type(text: str) -> int:
    return text  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


@app.task(retries=2)
def flaky(text: str) -> str:
    calls.append(text)
    if len(calls) < 3:
        raise ConnectionError("not yet")
    return f"at last {text}"


@app.task(retries=3)
def declining(text: str) -> str:
    calls.append(text)
    raise GaveUp(text)


@app.task
async def slow(text: str, wait_s: float) -> str:
    await asyncio.sleep(wait_s)
    calls.append(text)
    return text


@workflow
async def f_by_name(card: str) -> str:
    try:
        return await charge(card)
    except CardDeclined as failure:
        limit = failure.limit
        if limit is None:
            return "no limit"
        return (
            f"{failure.name} {failure.message} {failure.code} {failure.reason.value}"
            f" {limit.amount} {limit.days} {failure.again_in.total_seconds():.0f}"
        )


async def test_a_failure_of_a_worker_arrives_with_message_and_typed_fields(run: Run) -> None:
    assert await run(f_by_name, card="good") == "receipt good"
    said = await run(f_by_name, card="stolen")
    assert said == "card-declined card is stolen S1 stolen 9.50 [1, 2] 5"


async def test_a_failure_of_another_name_passes_by(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_by_name, card="unreadable")
    assert caught.value.failure.name == "payment-failed"


@workflow
async def f_family(card: str) -> str:
    try:
        return await charge(card)
    except PaymentFailed as failure:
        return f"{failure.name} {failure.code}: {failure}"


async def test_a_family_takes_its_base_and_its_members(run: Run) -> None:
    assert await run(f_family, card="stolen") == "card-declined S1: card is stolen"
    assert await run(f_family, card="unreadable") == "payment-failed U1: cannot read it"


@workflow
async def f_either(card: str, item: str) -> str:
    try:
        reserved = await reserve(item)
        return f"{reserved}, {await charge(card)}"
    except (CardDeclined, OutOfStock) as failure:
        return f"{failure.name}: {failure.message} {failure.details}"


async def test_one_clause_takes_several_names(run: Run) -> None:
    said = await run(f_either, card="good", item="gold")
    assert said == "no-stock: no gold {'item': 'gold', 'left': 3}"
    assert "'code': 'S1'" in await run(f_either, card="stolen", item="tin")


@workflow
async def f_order(card: str, item: str) -> str:
    try:
        await reserve(item)
        return await charge(card)
    except CardDeclined:
        return "declined"
    except PaymentFailed:
        return "payment"
    except WorkflowFailure as failure:
        return f"business: {failure.name}"
    except Exception as failure:
        return f"technical: {failure}"


@pytest.mark.parametrize(
    ("card", "item", "said"),
    [
        ("stolen", "tin", "declined"),
        ("unreadable", "tin", "payment"),
        ("good", "gold", "business: no-stock"),
        ("terminal", "tin", "technical: terminal is down (task charge, attempt 1 of 1)"),
        ("good", "tin", "receipt good"),
    ],
)
async def test_the_first_clause_that_fits_takes_a_failure(run: Run, card: str, item: str, said: str) -> None:
    assert await run(f_order, card=card, item=item) == said


@workflow
async def f_raise(item: str, left: int) -> str:
    if left == 0:
        raise OutOfStock(f"nothing of {item}", item=item, left=left - 1)
    raise GaveUp


async def test_a_failure_of_the_workflow_ends_the_run_with_name_message_and_details(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_raise, item="tin", left=0)
    failure = caught.value.failure
    assert (failure.name, failure.message) == ("no-stock", "nothing of tin")


async def test_the_client_reads_the_details_of_a_failure(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_raise, item="tin", left=0)
    assert caught.value.details == {"item": "tin", "left": -1}


async def test_a_failure_may_be_raised_as_a_class(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_raise, item="tin", left=1)
    assert (caught.value.failure.name, caught.value.failure.message) == ("gave-up", "")


@workflow
async def f_wrong_field(rest: dict[str, Any]) -> str:
    try:
        raise OutOfStock("typed", item=rest["item"])
    except TypeError as error:
        return f"TypeError {error}"
    except OutOfStock as failure:
        return failure.item


async def test_a_field_of_a_wrong_type_is_a_type_error_where_it_is_raised(run: Run) -> None:
    assert await run(f_wrong_field, rest={"item": "x"}) == "x"
    assert (await run(f_wrong_field, rest={"item": 5})).startswith("TypeError ")


async def without_item(item: str) -> str:
    raise OutOfStock(f"no {item}")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def with_colour(item: str) -> str:
    raise OutOfStock("no", item=item, colour="red")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(("function", "field_name"), [(without_item, "item"), (with_colour, "colour")])
def test_a_failure_with_a_missing_or_unknown_field_is_refused(function: Any, field_name: str) -> None:
    with pytest.raises(DressageError, match=field_name) as refused:
        workflow(function)
    assert "test_language_failures.py:" in str(refused.value)


@workflow
async def f_task_failure(text: str) -> str:
    try:
        return f"{await wrong_type(text)}"
    except TaskError as error:
        return f"caught {error}"


async def test_a_result_of_a_wrong_type_is_a_task_failure(run: Run) -> None:
    said = await run(f_task_failure, text="x")
    assert said.startswith("caught ")
    assert "int" in said


@workflow
async def f_flaky(text: str) -> str:
    return await flaky(text)


async def test_a_technical_error_is_retried(run: Run) -> None:
    assert await run(f_flaky, text="x") == "at last x"
    assert calls == ["x", "x", "x"]


@workflow
async def f_declining(text: str) -> str:
    return await declining(text)


async def test_a_business_failure_is_not_retried(run: Run) -> None:
    with pytest.raises(RunFailed, match="no use"):
        await run(f_declining, text="no use")
    assert calls == ["no use"]


@workflow
async def f_expression(numbers: list[int], prices: dict[str, int], text: str) -> str:
    try:
        return f"{numbers[0] // numbers[1]} {prices[text]} {int(text)}"
    except ZeroDivisionError as error:
        return f"zero: {error}"
    except IndexError as error:
        return f"index: {error}"
    except KeyError as error:
        return f"key: {error}"
    except ValueError as error:
        return f"value: {error}"


@pytest.mark.parametrize(
    ("numbers", "prices", "text", "said"),
    [
        ([1, 0], {}, "1", "zero: integer division or modulo by zero"),
        ([1], {}, "1", "index: list index out of range"),
        ([4, 2], {}, "1", "key: '1'"),
        ([4, 2], {"x": 1}, "x", "value: invalid literal for int() with base 10: 'x'"),
        ([4, 2], {"1": 7}, "1", "2 7 1"),
    ],
)
async def test_expression_errors_are_taken_by_the_class_that_python_has(
    run: Run, numbers: list[int], prices: dict[str, int], text: str, said: str
) -> None:
    assert await run(f_expression, numbers=numbers, prices=prices, text=text) == said


@workflow
async def f_expression_family(numbers: list[int], place: int) -> str:
    try:
        return str(numbers[place] / numbers[0])
    except ArithmeticError:
        return "arithmetic"
    except LookupError:
        return "lookup"


async def test_expression_errors_are_taken_by_family(run: Run) -> None:
    assert await run(f_expression_family, numbers=[0], place=0) == "arithmetic"
    assert await run(f_expression_family, numbers=[0], place=1) == "lookup"


async def test_an_expression_error_that_nobody_takes_ends_the_run(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_uncaught, number=0)
    assert caught.value.failure.kind == "expression-error"
    assert "ZeroDivisionError: division by zero" in caught.value.failure.message


@workflow
async def f_uncaught(number: int) -> float:
    return 1 / number


@workflow
async def f_else_finally(card: str) -> str:
    said = ""
    try:
        receipt = await charge(card)
    except PaymentFailed as failure:
        said += f"failed {failure.code}, "
    else:
        said += f"{receipt}, "
    finally:
        await log("finally")
        said += "closed"
    return said


async def test_else_runs_without_failure_and_finally_always(run: Run) -> None:
    assert await run(f_else_finally, card="good") == "receipt good, closed"
    assert await run(f_else_finally, card="unreadable") == "failed U1, closed"
    with pytest.raises(RunFailed, match="terminal is down"):
        await run(f_else_finally, card="terminal")
    assert calls.count("finally") == 3


@workflow
async def f_else_fails(item: str, card: str) -> str:
    try:
        try:
            await reserve(item)
        except WorkflowFailure:
            return "inner"
        else:
            return await charge(card)
    except PaymentFailed:
        return "outer"


async def test_a_failure_in_else_is_not_taken_by_the_clauses_beside_it(run: Run) -> None:
    assert await run(f_else_fails, item="tin", card="unreadable") == "outer"
    assert await run(f_else_fails, item="gold", card="unreadable") == "inner"


@workflow
async def f_finally_ways(cards: list[str]) -> str:
    for card in cards:
        try:
            if card == "skip":
                continue
            if card == "stop":
                break
            if card == "leave":
                return "left"
            await charge(card)
        finally:
            await log(f"done {card}")
    return "end"


async def test_finally_runs_on_continue_break_and_return(run: Run) -> None:
    assert await run(f_finally_ways, cards=["skip", "a", "stop", "b"]) == "end"
    assert calls == ["done skip", "charge a", "done a", "done stop"]
    assert await run(f_finally_ways, cards=["leave", "b"]) == "left"
    assert calls[4:] == ["done leave"]


@workflow
async def f_reraise(card: str) -> str:
    try:
        return await charge(card)
    except CardDeclined as failure:
        await log(f"note {failure.code}")
        raise


async def test_raise_alone_raises_the_same_failure_again(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_reraise, card="stolen")
    failure = caught.value.failure
    assert (failure.name, failure.message) == ("card-declined", "card is stolen")
    details: Any = failure.details
    assert json.loads(bytes(details)) == {
        "code": "S1",
        "reason": "stolen",
        "limit": {"amount": "9.50", "days": [1, 2]},
        "again_in": "PT5S",
    }
    assert calls == ["charge stolen", "note S1"]


@workflow
async def f_reraise_named(card: str) -> str:
    try:
        return await charge(card)
    except TaskError as error:
        await log("note")
        raise error


async def test_a_caught_technical_error_is_raised_again_by_its_name(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_reraise_named, card="terminal")
    assert caught.value.failure.kind == "task-error"
    assert caught.value.failure.message == "terminal is down (task charge, attempt 1 of 1)"


@workflow
async def f_raise_from(card: str) -> str:
    try:
        return await charge(card)
    except Exception as error:
        raise GaveUp(f"because {error}") from error


async def test_raise_from_raises_another_failure(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_raise_from, card="stolen")
    failure = caught.value.failure
    assert (failure.name, failure.message) == ("gave-up", "because card is stolen")


async def test_the_history_has_what_another_failure_was_raised_from(shared: Engine) -> None:
    await shared.worker(app)
    client = await shared.registered(f_raise_from)
    handle = await client.start(f_raise_from, {"card": "stolen"})
    with pytest.raises(RunFailed):
        await handle.result(10)
    caught = [bytes(event.data) async for event in handle.history() if event.kind == "failure-caught"]
    assert b"card-declined" in caught[0]


@workflow
async def f_handler_fails(card: str, item: str) -> str:
    try:
        try:
            return await charge(card)
        except PaymentFailed:
            return await reserve(item)
        finally:
            await log("finally")
    except OutOfStock as failure:
        return f"handler failed: {failure.item}"


async def test_a_failure_of_a_handler_takes_the_place_of_the_first(run: Run) -> None:
    assert await run(f_handler_fails, card="stolen", item="gold") == "handler failed: gold"
    assert calls == ["charge stolen", "reserve gold", "finally"]


@workflow
async def f_handler_fails_same(card: str) -> str:
    try:
        return await charge(card)
    except PaymentFailed:
        return await charge("stolen")


async def test_a_handler_is_not_guarded_by_its_own_clauses(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_handler_fails_same, card="unreadable")
    assert caught.value.failure.name == "card-declined"


@workflow
async def f_finally_fails(card: str) -> str:
    try:
        return await charge(card)
    finally:
        await reserve("gold")


async def test_a_failure_in_finally_takes_the_place_of_result_and_failure(run: Run) -> None:
    for card in ("good", "stolen"):
        with pytest.raises(RunFailed) as caught:
            await run(f_finally_fails, card=card)
        assert caught.value.failure.name == "no-stock"


@workflow
async def f_branches(card: str, item: str) -> str:
    try:
        receipt, one, _ = await gather(charge(card), reserve(item), slow("slow", 0.1))
    except ExceptionGroup as group:
        said = ""
        for each in group.exceptions:
            said += f"[{each}]"
        return said
    return f"{receipt} {one}"


async def test_failures_of_branches_surface_together_in_their_order(run: Run) -> None:
    assert await run(f_branches, card="good", item="tin") == "receipt good one tin"
    said = await run(f_branches, card="terminal", item="gold")
    assert said == "[terminal is down (task charge, attempt 1 of 1)][no gold]"
    assert calls.count("slow") == 2


@workflow
async def f_branch_parts(card: str, item: str) -> str:
    said = ""
    try:
        await gather(charge(card), reserve(item))
    except* PaymentFailed as failures:
        said += f"payment {len(failures.exceptions)} "
    except* OutOfStock:
        said += f"stock {await log('counted')}"
    return said.strip()


async def test_except_star_takes_families_out_of_a_group_and_leaves_the_rest(run: Run) -> None:
    assert await run(f_branch_parts, card="stolen", item="gold") == "payment 1 stock counted"
    with pytest.raises(RunFailed) as caught:
        await run(f_branch_parts, card="terminal", item="gold")
    assert caught.value.failure.kind == "group"
    assert [cause.kind for cause in caught.value.failure.causes] == ["task-error"]


@workflow
async def f_nested_groups() -> str:
    async def pair() -> str:
        receipt, _ = await gather(charge("stolen"), reserve("gold"))
        return receipt

    receipt, _ = await gather(pair(), charge("unreadable"))
    return receipt


async def test_a_group_inside_of_a_group_is_kept(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_nested_groups)
    inner, other = caught.value.failure.causes
    assert [cause.name for cause in inner.causes] == ["card-declined", "no-stock"]
    assert other.name == "payment-failed"


@workflow
async def f_saga(card: str, items: list[str]) -> str:
    async with Saga() as saga:
        receipt = await charge(card)
        saga.undo(refund, card)
        for item in items:
            await reserve(item)
            saga.undo(release, item, note="!")
        await sleep(timedelta(milliseconds=10))
        if len(items) > 2:
            raise GaveUp("too many")
    return receipt


async def test_a_saga_that_succeeds_undoes_nothing(run: Run) -> None:
    assert await run(f_saga, card="good", items=["tin"]) == "receipt good"
    assert calls == ["charge good", "reserve tin"]


async def test_a_saga_undoes_in_reverse_and_raises_the_failure(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_saga, card="good", items=["tin", "lead", "gold"])
    assert caught.value.failure.name == "no-stock"
    assert calls[-3:] == ["release lead!", "release tin!", "refund good"]


async def test_a_saga_undoes_for_a_failure_of_the_workflow_itself(run: Run) -> None:
    with pytest.raises(RunFailed, match="too many"):
        await run(f_saga, card="good", items=["a", "b", "c"])
    assert calls[-4:] == ["release c!", "release b!", "release a!", "refund good"]


async def test_a_saga_with_nothing_registered_raises_the_failure_alone(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_saga, card="terminal", items=[])
    assert caught.value.failure.kind == "task-error"
    assert calls == ["charge terminal"]


@workflow
async def f_saga_undo_fails() -> str:
    async with Saga() as saga:
        await reserve("tin")
        saga.undo(release, "tin")
        await charge("closed")
        saga.undo(refund, "closed")
        await reserve("lead")
        saga.undo(release, "lead")
        await reserve("gold")
    return "never"


async def test_an_undo_that_fails_does_not_keep_the_others_from_running(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_saga_undo_fails)
    assert calls[-3:] == ["release lead", "refund closed", "release tin"]
    failure = caught.value.failure
    assert failure.kind == "group"
    assert [cause.message for cause in failure.causes] == [
        "no gold",
        "account is closed (task refund, attempt 1 of 1)",
    ]


@workflow
async def f_saga_caught(card: str) -> str:
    try:
        async with Saga() as saga:
            await reserve("tin")
            saga.undo(release, "tin")
            await charge(card)
    except PaymentFailed as failure:
        return f"undone: {failure.code}"
    return "kept"


async def test_the_failure_of_a_saga_can_be_caught_around_it(run: Run) -> None:
    assert await run(f_saga_caught, card="unreadable") == "undone: U1"
    assert calls[-1] == "release tin"
    assert await run(f_saga_caught, card="good") == "kept"


@workflow
async def f_saga_branches(item: str) -> str:
    async with Saga() as saga:
        first, second = await gather(reserve("tin"), reserve("lead"))
        saga.undo(release, first)
        saga.undo(release, second)
        await gather(reserve(item), charge("good"))
    return first


async def test_a_saga_undoes_for_a_group_of_branches(run: Run) -> None:
    with pytest.raises(RunFailed) as caught:
        await run(f_saga_branches, item="gold")
    assert caught.value.failure.kind == "group"
    assert calls[-2:] == ["release one lead", "release one tin"]


@workflow
async def f_saga_ahead() -> str:
    async with Saga() as saga:
        saga.undo(release, "tin")
        one, _ = await gather(reserve("tin"), reserve("gold"))
    return one


async def test_an_undo_may_be_registered_ahead_of_branches(run: Run) -> None:
    with pytest.raises(RunFailed):
        await run(f_saga_ahead)
    assert calls[-1] == "release tin"


async def kept(saga: Saga, item: str) -> str:
    reserved = await reserve(item)
    saga.undo(release, item)
    return reserved


def test_a_branch_is_told_where_to_register_its_undo() -> None:
    with pytest.raises(DefinitionError, match="in the block of `async with Saga"):

        @workflow
        async def f_saga_in_branches() -> str:
            async with Saga() as saga:
                one, _ = await gather(kept(saga, "tin"), kept(saga, "gold"))
            return one


@workflow
async def f_saga_around_branches() -> str:
    async with Saga() as saga:
        saga.undo(release, "tin")
        saga.undo(release, "gold")
        one, _ = await gather(reserve("tin"), reserve("gold"))
    return one


async def test_an_undo_is_registered_before_its_branches_begin(run: Run) -> None:
    with pytest.raises(RunFailed):
        await run(f_saga_around_branches)
    assert calls[-2:] == ["release gold", "release tin"]


@workflow
async def f_saga_in_saga(card: str) -> str:
    async with Saga() as outer:
        await reserve("tin")
        outer.undo(release, "tin")
        async with Saga() as inner:
            await reserve("lead")
            inner.undo(release, "lead")
            await charge(card)
    return "kept"


async def test_a_saga_in_a_saga_undoes_from_the_inside(run: Run) -> None:
    with pytest.raises(RunFailed, match="cannot read it"):
        await run(f_saga_in_saga, card="unreadable")
    assert calls[-2:] == ["release lead", "release tin"]


@workflow
async def f_saga_waits(item: str) -> str:
    async with Saga() as saga:
        await reserve("tin")
        saga.undo(release, "tin")
        await sleep(timedelta(seconds=1))
        await reserve(item)
    return "never"


async def test_what_a_saga_has_to_undo_survives_the_engine(engine: Engine) -> None:
    calls.clear()
    client = await engine.registered(f_saga_waits)
    await engine.worker(app)
    handle = await client.start(f_saga_waits, {"item": "gold"})
    while "reserve tin" not in calls:
        await asyncio.sleep(0.02)
    await engine.down()
    await engine.up()
    with pytest.raises(RunFailed, match="no gold"):
        await handle.result(20)
    assert calls == ["reserve tin", "reserve gold", "release tin"]
