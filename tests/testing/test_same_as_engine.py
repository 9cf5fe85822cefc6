"""`WorkflowTest`, the engine on a real server, and plain Python: a workflow with the same tasks comes to the same.

Ids, times and the spread of backoffs are another each time, and are left out. The engine sleeps in real time, so its
timers are fired by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import inspect
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec
import pytest

from dressage.client import Client
from dressage.client.client import RunFailed
from dressage.flow import App, Workflow, WorkflowFailure
from dressage.protocol.commands import FailureInfo, TimerFired
from dressage.protocol.errors import Refused
from dressage.testing import WorkflowTest
from dressage.worker import Worker, WorkerConfig, current_task

pytestmark = pytest.mark.anyio

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"
VARIES: Final = {"task_id", "timer_id", "until", "duration_ms", "waited_ms", "delay_s", "traceback"}
DEADLINE_S: Final = 30.0


@dataclass
class Seen:
    """What came of a run: its end, its output events, and the attempts that its tasks saw."""

    status: str = ""
    result: Any = None
    failure: tuple[str, str, str] | None = None
    events: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    calls: list[tuple[str, dict[str, Any], int]] = field(
        default_factory=list[tuple[str, dict[str, Any], int]]
    )


@dataclass
class Case:
    """A workflow with its arguments, and an application that is made anew for each way to run it.

    `plain` is whether Python alone can run it: it retries no task.
    """

    workflow: Workflow[..., Any]
    arguments: tuple[Any, ...]
    make: Callable[[], App]
    plain: bool = True


# -- the cases -------------------------------------------------------------------------------------
def shop_cases(shop: ModuleType) -> Iterator[tuple[str, Case]]:
    def bank(*answers: Exception | None) -> Callable[[], App]:
        def make() -> App:
            left = list(answers)
            app = App("shop")
            app.register(shop.fetch_price, shop.fetch_price.function)
            app.register(shop.reserve_stock, shop.reserve_stock.function)

            app.register(shop.release_stock, release)

            def charge(order: Any, price: Decimal) -> Any:
                answer = left.pop(0) if left else None
                if answer is not None:
                    raise answer
                return shop.Receipt(order.id, price)

            app.register(shop.charge_card, charge)
            return app

        return make

    def release(reservation: str) -> None:
        assert reservation.startswith("reservation-")

    order = shop.Order("o-1", "lamp", 3)
    declined = shop.CardDeclined("no cover", balance=1)
    yield "paid", Case(shop.process_order, (order,), bank())
    yield "paid at the second try", Case(shop.process_order, (order,), bank(declined))
    yield "declined for ever", Case(shop.process_order, (order,), bank(declined, declined, declined))
    yield "stolen", Case(shop.process_order, (order,), bank(shop.CardStolen("reported")))
    yield "too much", Case(shop.process_order, (shop.Order("o-2", "lamp", 2_000),), bank())
    urgent = shop.Order("o-3", "lamp", 2_000, shop.Priority.HIGH)
    yield "much and urgent", Case(shop.process_order, (urgent,), bank())
    yield "a fault, then paid", Case(shop.process_order, (order,), bank(OSError("down")), plain=False)


def retail_cases() -> Iterator[tuple[str, Case]]:
    """An invoice for each way that an order can end, and one whose payment needs several attempts."""
    worker = importlib.import_module("online_retail.worker")
    orders = importlib.import_module("online_retail.orders")
    outcomes = importlib.import_module("online_retail.expected").outcomes()
    chosen: dict[str, Any] = {}
    for invoice in orders.read_invoices():
        outcome = outcomes[invoice.number]
        again = " at a later attempt" if outcome.attempts.get("charge", 0) > 1 else ""
        chosen.setdefault(f"{outcome.failure or outcome.status.lower()}{again}", (invoice, outcome))
    for name, (invoice, outcome) in chosen.items():
        order = {
            "invoice": invoice.number,
            "customer": invoice.customer,
            "country": invoice.country,
            "lines": invoice.lines,
        }
        arguments = worker.process_order.signature.decode_args(msgspec.json.encode({"order": order}))
        # The gateway asks which attempt it is, and Python alone knows of none.
        plain = "charge" not in outcome.attempts
        yield f"retail: {name}", Case(worker.process_order, (arguments["order"],), lambda: worker.app, plain)


# -- the ways --------------------------------------------------------------------------------------
def watched(app: App, seen: Seen, attempt: Callable[[], int]) -> App:
    """The same application, whose attempts are written down."""
    copy = App(app.name)
    for handler in app.handlers.values():
        watch = _watched(handler.function, handler.definition.name, seen, attempt)
        copy._handlers[handler.definition.name] = dataclasses.replace(handler, function=watch)
    return copy


def _watched(
    function: Callable[..., Any], task: str, seen: Seen, attempt: Callable[[], int]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def watch(*given: Any, **arguments: Any) -> Any:
        bound = inspect.signature(function).bind(*given, **arguments)
        bound.apply_defaults()
        seen.calls.append((task, dict(bound.arguments), attempt()))
        return function(*given, **arguments)

    return watch


def now() -> int:
    return current_task().attempt


def steady(value: Any) -> Any:
    """JSON without what is another each time."""
    if isinstance(value, dict):
        return {key: steady(each) for key, each in value.items() if key not in VARIES}
    return [steady(each) for each in value] if isinstance(value, list) else value


def shown(failure: FailureInfo | None) -> tuple[str, str, str] | None:
    return None if failure is None else (failure.name, failure.message, failure.kind)


def by_harness(case: Case) -> Seen:
    seen = Seen()
    run = WorkflowTest(case.workflow, watched(case.make(), seen, now)).run(*case.arguments)
    seen.status, seen.failure = run.status, shown(run.failure)
    seen.result = run.result if run.status == "completed" else None
    seen.events = [(event.kind, steady(event.data)) for event in run.events]
    assert [(call.task, call.arguments, call.attempt) for call in run.calls] == seen.calls
    return seen


async def by_engine(case: Case, server: str) -> Seen:
    seen = Seen()
    app = watched(case.make(), seen, now)
    async with Client(server) as client, Worker(server, app, WorkerConfig(identity="test")):
        await client.register(case.workflow)
        given = msgspec.Raw(case.workflow.encode_input(*case.arguments))
        handle = await client.start(case.workflow, given, run_id=uuid.uuid4().hex)
        async with asyncio.timeout(DEADLINE_S):
            while (view := await handle.state()).status == "running":
                await _fire_timers(client, handle.run_id)
                await asyncio.sleep(0.02)
        seen.status, seen.failure = view.status, shown(view.failure)
        with contextlib.suppress(RunFailed):
            seen.result = await handle.result()
        seen.events = [
            (event.kind, steady(msgspec.json.decode(event.data))) async for event in handle.history()
        ]
    return seen


async def _fire_timers(client: Client, run_id: str) -> None:
    """What the run sleeps for has passed."""
    begun: dict[str, bool] = {}
    async for event in client.history(run_id):
        if event.kind in ("sleep-started", "sleep-ended"):
            begun[msgspec.json.decode(event.data)["timer_id"]] = event.kind == "sleep-started"
    for timer_id in [each for each, waits in begun.items() if waits]:
        with contextlib.suppress(Refused):
            await client.send(run_id, TimerFired(timer_id))


async def by_python(case: Case, monkeypatch: pytest.MonkeyPatch) -> Seen:
    seen = Seen()
    pause = asyncio.sleep
    monkeypatch.setattr("dressage.flow.sleeping.asyncio.sleep", lambda _: pause(0))
    with contextlib.ExitStack() as fakes:
        app = watched(case.make(), seen, lambda: 1)
        for name, task in case.workflow.tasks.items():
            fakes.enter_context(task.faked(app.handlers[name].function))
        try:
            seen.result, seen.status = await case.workflow(*case.arguments), "completed"
        except WorkflowFailure as failure:
            seen.failure, seen.status = shown(failure.info()), "failed"
    return seen


# -- the same --------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def cases(shop: ModuleType) -> dict[str, Case]:
    return dict([*shop_cases(shop), *retail_cases()])


async def test_every_case_comes_to_the_same_on_the_engine(cases: dict[str, Case], engine: str) -> None:
    for name, case in cases.items():
        assert by_harness(case) == await by_engine(case, engine), name


async def test_every_case_comes_to_the_same_in_plain_python(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {name: case for name, case in cases.items() if case.plain}
    assert len(plain) > 8
    for name, case in plain.items():
        harness = by_harness(case)
        harness.events = []
        assert await by_python(case, monkeypatch) == harness, name


def test_the_cases_end_in_every_way(cases: dict[str, Case]) -> None:
    ends = {name: by_harness(case) for name, case in cases.items()}
    assert {seen.status for seen in ends.values()} == {"completed", "failed"}
    kinds = {kind for seen in ends.values() for kind, _ in seen.events}
    assert kinds >= {"task-failed", "failure-caught", "sleep-started", "sleep-ended", "run-failed"}


def test_every_workflow_of_the_examples_has_a_case(cases: dict[str, Case]) -> None:
    modules = [
        importlib.import_module(".".join(path.relative_to(EXAMPLES).with_suffix("").parts))
        for path in sorted(EXAMPLES.rglob("*.py"))
        if "@workflow" in path.read_text()
    ]
    there = {found for module in modules for found in vars(module).values() if isinstance(found, Workflow)}
    assert there
    assert {found.name for found in there - {case.workflow for case in cases.values()}} == set()
