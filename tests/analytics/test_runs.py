"""Runs are found by what is known of them, and counted; a page begins where the one before has ended."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
import msgspec
import pytest

from dressage.analytics import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.interface import Message
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.jetstream.connection import JetStreamConnection
from dressage.client.finding import FoundRun, RunQuery, condition, count_runs, parse_condition, runs
from dressage.client.finding.conditions import CONDITIONS_MAX, VALUES_MAX
from dressage.client.finding.runs import PAGE_MAX
from dressage.protocol.commands import FailureInfo, RunStatus
from dressage.protocol.errors import BadInput
from dressage.protocol.events import (
    EventData,
    RunCancelled,
    RunCompleted,
    RunDeleted,
    RunFailed,
    RunFaulted,
    RunMigrated,
    RunRescued,
    RunStarted,
    VariableChanged,
)
from dressage.protocol.names import Names

if TYPE_CHECKING:
    from tests.analytics.conftest import EventsStream, MakeEvents, Start  # pyright: ignore[reportMissingImports]

EPOCH: Final = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
COUNT: Final = 300
TEXTS: Final = [
    "Berlin",
    "Bern",
    "berlin",
    "",
    "007",
    "7",
    "7.50",
    'it\'s "so"',
    "ü*>",
    "true",
    "null",
    "inf",
    "1e3",
]
MOMENTS: Final = [
    "2026-01-02T03:04:05Z",
    "2026-01-02T04:04:05+01:00",
    "2026-01-02T03:04:05.5Z",
    "2026-02-01T00:00:00Z",
]


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


@dataclass
class Told:
    """What was published of one run, and what is to be found of it."""

    run_id: str
    workflow: str
    version: int
    actor: str
    at_ms: int
    status: str = "running"
    failure: str | None = None
    duration_ms: float | None = None
    search: dict[str, Any] = field(default_factory=dict[str, Any])
    happened: list[EventData] = field(default_factory=list[EventData])

    @property
    def started(self) -> datetime:
        return EPOCH + timedelta(milliseconds=self.at_ms)

    @property
    def ended(self) -> datetime | None:
        """When its last event was."""
        if self.status == "running":
            return None
        return self.started + timedelta(milliseconds=len(self.happened) - 1)

    def has(self, name: str, value: Any) -> None:
        """An attribute, or, of a path, what is inside of one that is a record."""
        self.search[name] = value
        outer, _, inner = name.partition(".")
        if inner:
            self.happened.append(VariableChanged(outer, raw({inner: value, "x": 1}), paths=(name,)))
        else:
            self.happened.append(VariableChanged(name, raw(value), searchable=True))

    def messages(self, events: EventsStream) -> list[Message]:
        said: dict[str, Any] = {"workflow": self.workflow, "version": self.version, "actor": self.actor}
        return [
            events.event(self.run_id, index, data, at_ms=self.at_ms + index, **said)
            for index, data in enumerate(self.happened)
        ]


def some_value(chance: random.Random) -> Any:
    return chance.choice(
        [
            chance.choice(TEXTS),
            chance.choice(MOMENTS),
            chance.choice([0, 7, 8, -3, 10**17, 7.5, 1e300, True, False, None]),
            chance.choice(["7.00", "12.34", "-0.5", "2026-01-02"]),
            chance.choice([[], ["a", "b"], ["7", 7], [True, "it's"]]),
        ]
    )


ENDED_BEFORE: Final[list[tuple[EventData, RunStatus]]] = [
    (RunFaulted(1, "a bug"), "engine-fault"),
    (RunFailed(FailureInfo("timeout", "no"), 9.0), "failed"),
]


def some_runs(chance: random.Random) -> list[Told]:
    told: list[Told] = []
    for number in range(COUNT):
        run = Told(
            f"{chance.choice(['order', 'refund'])}-{number}",
            chance.choice(["process-order", "refund"]),
            chance.choice([1, 2]),
            chance.choice(["ann", "bob"]),
            chance.randrange(0, 40_000, 500),
        )
        run.happened.append(RunStarted(raw({})))
        run.happened.append(VariableChanged("hidden", raw("secret")))
        for name in ("one", "two", "deep.ünder"):
            for _ in range(chance.choice([0, 1, 1, 2])):
                run.has(name, some_value(chance))
        status = chance.choice(["running", "completed", "failed", "cancelled", "engine-fault"])
        took = chance.choice([1.5, 2.0, 700.0])
        for _ in range(chance.choice([0, 0, 1, 2])):  # It has ended before, and was rescued.
            ended, how = chance.choice(ENDED_BEFORE)
            run.happened += [ended, RunRescued(3, how)]
        if status == "engine-fault":
            run.happened.append(RunFaulted(1, "a bug"))
        elif status == "completed":
            run.happened.append(RunCompleted(raw(1), took))
        elif status == "failed":
            run.failure = chance.choice(["card-declined", "timeout"])
            run.happened.append(RunFailed(FailureInfo(run.failure, "no"), took))
        elif status == "cancelled":
            run.happened.append(RunCancelled(took, "enough"))
        run.status = status
        run.failure = "engine-fault" if status == "engine-fault" else run.failure
        run.duration_ms = took if run.status in ("completed", "failed", "cancelled") else None
        told.append(run)
    return told


class Place:
    """Someone who asks, and what is there to be found, in the order of its starts in the stream."""

    def __init__(self, connection: JetStreamConnection, names: Names, told: list[Told]) -> None:
        self.connection = connection
        self.names = names
        self.told = told

    async def pages(self, asked: RunQuery, sort: str, limit: int) -> list[list[FoundRun]]:
        pages: list[list[FoundRun]] = []
        after = ""
        while True:
            page = await runs(self.connection, self.names, asked, sort=sort, limit=limit, after=after)
            pages.append(page.runs)
            after = page.next
            if not after:
                return pages

    async def ids(self, *where: str, **said: Any) -> list[str]:
        page = await runs(
            self.connection, self.names, RunQuery(where=where, **said), limit=1_000, sort="run_id"
        )
        return [each.run_id for each in page.runs]

    async def count(self, asked: RunQuery, by: str) -> dict[Any, int]:
        counted = await count_runs(self.connection, self.names, asked, by=by, limit=1_000)
        assert all(one.runs >= other.runs for one, other in pairwise(counted))
        return {msgspec.json.encode(each.value).decode(): each.runs for each in counted}

    async def refusal(self, asked: RunQuery, **said: Any) -> BadInput:
        with pytest.raises(BadInput) as caught:
            await runs(self.connection, self.names, asked, **said)
        return caught.value


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory, make_events: MakeEvents) -> AsyncIterator[Place]:
    names, folder = Names("found"), tmp_path_factory.mktemp("found")
    told = some_runs(random.Random(7))
    async with EmbeddedServer(folder / "nats", sync="lazy") as server:
        connection = await JetStreamBroker(server.url).connect("test", reconnect=True)
        events = make_events(connection, names)
        await events.create()
        for run in told:
            await events.publish(run.messages(events))
        async with AnalyticsService(server.url, names.namespace, folder / "found.duckdb"):
            yield Place(connection, names, told)
        await connection.close()


# -- what fits, said once more in plain Python ---------------------------------------------------------------------
def number_of(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and (
        not value or not set(value) <= set("0123456789.-") or value.lstrip("-")[:2] == "00"
    ):
        return None
    try:
        return Decimal(str(value))
    except InvalidOperation:
        return None


def moment_of(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) and "T" in value else None
    except ValueError:
        return None


def equal(value: Any, wanted: str) -> bool:
    match value:
        case None | list():
            return False
        case bool():
            return wanted == str(value).lower()
        case str() if value == wanted:
            return True
        case _:
            pass
    for seen in (number_of, moment_of):
        left, right = seen(value), seen(wanted)
        if left is not None and right is not None:
            return left == right
    return False


def before(value: Any, wanted: str) -> bool | None:
    """None: one of them has no place in the order of the other."""
    if isinstance(value, bool | list) or value is None:
        return None
    for seen in (number_of, moment_of):
        right = seen(wanted)
        if right is not None:
            left = seen(value)
            return None if left is None else left < right  # type: ignore[operator]
    return value < wanted if isinstance(value, str) else None


OPERATORS: Final[dict[str, Callable[[Any, str], bool]]] = {
    "=": equal,
    "!=": lambda value, wanted: value is not None and not equal(value, wanted),
    "<": lambda value, wanted: before(value, wanted) is True,
    ">=": lambda value, wanted: before(value, wanted) is False,
    "<=": lambda value, wanted: (
        before(value, wanted) is True or (before(value, wanted) is False and equal(value, wanted))
    ),
    ">": lambda value, wanted: before(value, wanted) is False and not equal(value, wanted),
    "^=": lambda value, wanted: isinstance(value, str) and value.startswith(wanted),
    "has": lambda value, wanted: isinstance(value, list) and any(equal(each, wanted) for each in value),
}
WANTED: Final = [
    "7",
    "7.5",
    "007",
    "-3",
    "Ber",
    "Berlin",
    "b",
    "true",
    "ü",
    "2026-01-02T03:04:05Z",
    "2026-01-02",
    "inf",
]


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("wanted", WANTED)
async def test_a_condition_finds_what_it_says(place: Place, operator: str, wanted: str) -> None:
    for name in ("one", "deep.ünder"):
        expected = [each.run_id for each in place.told if OPERATORS[operator](each.search.get(name), wanted)]
        said = f'"{wanted}"' if wanted == "007" else wanted
        assert await place.ids(f"{name} {operator} {said}") == sorted(expected)


async def test_one_of_several_values_null_and_not_null(place: Place) -> None:
    async def is_found(text: str, fits: Callable[[Any], bool]) -> None:
        expected = sorted(each.run_id for each in place.told if fits(each.search.get("one")))
        assert await place.ids(text) == expected, text
        assert expected

    await is_found(
        'one in 7, Bern, "it\'s \\"so\\""',
        lambda value: any(equal(value, each) for each in ("7", "Bern", TEXTS[7])),
    )
    await is_found("one is null", lambda value: value is None)
    await is_found("one  is  not  null", lambda value: value is not None)
    await is_found('one = "7"', lambda value: value == "7")
    await is_found('one = ""', lambda value: value == "")
    await is_found("one=Bern", lambda value: value == "Bern")


async def test_all_conditions_hold_at_once_and_nothing_that_is_not_searchable_is_found(place: Place) -> None:
    expected = [
        each.run_id
        for each in place.told
        if equal(each.search.get("one"), "7") and each.search.get("two") is None and each.workflow == "refund"
    ]
    assert await place.ids("one = 7", "two is null", workflow="refund") == sorted(expected)
    assert await place.ids("hidden = secret") == []
    assert await place.ids("hidden is null") == sorted(each.run_id for each in place.told)


class Tier(Enum):
    GOLD = "Bern"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "one = 7"),
        (Decimal("7.50"), "one = 7.5"),
        (True, "one = true"),
        ("Berlin", 'one = "Berlin"'),
        (Tier.GOLD, 'one = "Bern"'),
        (date(2026, 1, 2), 'one = "2026-01-02"'),
        (datetime(2026, 1, 2, 5, 4, 5, tzinfo=timezone(timedelta(hours=2))), "one = 2026-01-02T03:04:05Z"),
    ],
)
async def test_values_of_python_are_what_they_are(place: Place, value: Any, text: str) -> None:
    page = await runs(
        place.connection,
        place.names,
        RunQuery(where=[condition("one", "=", value)]),
        limit=1_000,
        sort="run_id",
    )
    found = [each.run_id for each in page.runs]
    assert found
    if isinstance(value, bool | int | Decimal):
        # A text that looks like it is none of them, unless it is a decimal.
        assert set(found) <= set(await place.ids(text))
    else:
        assert found == await place.ids(text)


async def test_how_runs_stand_when_they_were_and_who_has_started_them(place: Place) -> None:
    half = EPOCH + timedelta(seconds=20)

    async def is_found(fits: Callable[[Told], bool], **said: Any) -> None:
        expected = sorted(each.run_id for each in place.told if fits(each))
        assert await place.ids(**said) == expected, said
        assert expected
        assert (await count_runs(place.connection, place.names, RunQuery(**said)))[0].runs == len(expected)

    await is_found(lambda each: True)
    await is_found(lambda each: each.status == "running", status=["running"])
    await is_found(lambda each: each.status in ("running", "failed"), status=["running", "failed"])
    await is_found(lambda each: each.status == "engine-fault", status=["engine-fault"])
    await is_found(lambda each: each.status == "completed", status=["completed"])
    await is_found(lambda each: each.failure == "timeout", failure="timeout")
    await is_found(lambda each: each.workflow == "refund" and each.version == 2, workflow="refund", version=2)
    await is_found(lambda each: each.run_id.startswith("order-1"), run_id="order-1")
    await is_found(lambda each: each.actor == "ann", actor="ann")
    await is_found(lambda each: each.started >= half, started_from=half)
    await is_found(lambda each: each.started < half, started_until=half)
    await is_found(lambda each: each.ended is not None and each.ended >= half, ended_from=half)
    await is_found(
        lambda each: each.ended is not None and each.ended < half and each.status == "failed",
        ended_until=half,
        status=["failed"],
    )


async def test_a_run_is_found_with_all_that_is_told_of_it(place: Place) -> None:
    page = await runs(place.connection, place.names, RunQuery(), limit=1_000)
    found = {each.run_id: each for each in page.runs}
    assert page.next == ""
    assert len(found) == COUNT
    for told in place.told:
        each = found[told.run_id]
        assert (each.workflow, each.version, each.status, each.actor) == (
            told.workflow,
            told.version,
            told.status,
            told.actor,
        )
        assert (each.failure_name, each.duration_ms, each.search) == (
            told.failure,
            told.duration_ms,
            told.search,
        )
        assert datetime.fromisoformat(each.started_at) == told.started
        assert each.ended_at == (None if told.ended is None else f"{told.ended:%Y-%m-%dT%H:%M:%S.%fZ}")


# -- order and pages -----------------------------------------------------------------------------------------------
def key_of(told: Told, sort: str) -> Any:
    match sort:
        case "started_at":
            return told.started
        case "ended_at":
            return told.ended
        case "duration_ms":
            return told.duration_ms
        case "run_id" | "workflow":
            return getattr(told, sort)
        case name:
            return told.search.get(name)


@pytest.mark.parametrize("sort", ["started_at", "ended_at", "duration_ms", "run_id", "workflow"])
@pytest.mark.parametrize("down", [False, True])
async def test_pages_are_in_order_and_have_each_run_once(place: Place, sort: str, down: bool) -> None:
    number = {each.run_id: (key_of(each, sort), at) for at, each in enumerate(place.told)}
    known = [each.run_id for each in place.told if key_of(each, sort) is not None]
    unknown = [each.run_id for each in place.told if key_of(each, sort) is None]
    expected = sorted(known, key=number.__getitem__, reverse=down) + (unknown[::-1] if down else unknown)
    pages = await place.pages(RunQuery(), f"{'-' if down else ''}{sort}", 37)
    assert [each.run_id for page in pages for each in page] == expected
    assert {len(page) for page in pages[:-1]} == {37}


@pytest.mark.parametrize("down", [False, True])
async def test_an_attribute_sorts_numbers_then_texts_and_runs_without_it_come_last(
    place: Place, down: bool
) -> None:
    pages = await place.pages(RunQuery(), f"{'-' if down else ''}one", 41)
    found = [each.search.get("one") for page in pages for each in page]
    assert len(found) == COUNT
    assert len({each.run_id for page in pages for each in page}) == COUNT
    values = [each for each in found if each is not None]
    assert found[len(values) :] == (COUNT - len(values)) * [None]
    numbers = [float(number) for each in values if (number := number_of(each)) is not None]
    assert numbers == sorted(numbers, reverse=down)
    assert len(numbers) > 20
    texts = [each for each in values if each in ("", "Berlin", "Bern", "berlin", "ü*>")]
    assert texts == sorted(texts, reverse=down)


async def test_pages_go_on_while_runs_start(
    server: EmbeddedServer, connection: JetStreamConnection, events: EventsStream, tmp_path: Path
) -> None:
    names = events.names
    await events.publish_orders(20)
    async with AnalyticsService(server.url, names.namespace, tmp_path / "pages.duckdb"):
        seen: list[str] = []
        after, published = "", 20
        while len(seen) < 20 or after:
            page = await runs(connection, names, RunQuery(), sort="-started_at", limit=6, after=after)
            seen += [each.run_id for each in page.runs]
            after = page.next
            if published < 40:
                await events.publish_orders(5, published)
                published += 5
        assert seen == [f"order-{number}" for number in reversed(range(20))]


async def test_it_is_counted_by_whatever_is_known(place: Place) -> None:
    def counted(values: list[Any]) -> dict[str, int]:
        return dict(Counter(msgspec.json.encode(each).decode() for each in values))

    everything = RunQuery()
    assert await place.count(everything, "status") == counted([each.status for each in place.told])
    assert await place.count(everything, "workflow") == counted([each.workflow for each in place.told])
    assert await place.count(everything, "version") == counted([each.version for each in place.told])
    assert await place.count(everything, "failure") == counted([each.failure for each in place.told])
    assert await place.count(everything, "actor") == counted([each.actor for each in place.told])
    refunds = [each for each in place.told if each.workflow == "refund"]
    found = await place.count(RunQuery(workflow="refund"), "deep.ünder")
    assert found == counted([each.search.get("deep.ünder") for each in refunds])


# -- runs that moved, and ids that came back -----------------------------------------------------------------------
async def test_a_run_that_moved_is_of_its_new_version_and_one_that_came_back_of_its_own(
    server: EmbeddedServer, connection: JetStreamConnection, events: EventsStream, tmp_path: Path
) -> None:
    names = events.names

    async def found(**said: Any) -> list[tuple[str, int, str, dict[str, Any]]]:
        page = await runs(connection, names, RunQuery(**said), sort="run_id")
        return [(each.run_id, each.version, each.status, each.search) for each in page.runs]

    started = RunStarted(raw({}))
    moved: list[EventData] = [
        started,
        VariableChanged("one", raw(1), searchable=True),
        RunMigrated(1, 2),
        RunCompleted(raw(1), 1.0),
    ]
    told = [
        events.event("moves", n, each, at_ms=n, version=1 if n < 2 else 2) for n, each in enumerate(moved)
    ]
    await events.publish(told + events.run("stays", [started]))
    async with AnalyticsService(server.url, names.namespace, tmp_path / "moved.duckdb"):
        assert await found(version=2) == [("moves", 2, "completed", {"one": 1})]
        assert await found(version=1) == [("stays", 1, "running", {})]
        await events.publish([events.event("moves", 4, RunDeleted("tidy"))])
        assert await found() == [("stays", 1, "running", {})]
        await events.publish(events.run("moves", [started]))
        assert await found(run_id="moves") == [("moves", 1, "running", {})]
        assert await found(where=["one = 1"]) == []


async def test_a_file_of_an_earlier_release_learns_what_is_inside_of_records(
    events: EventsStream, start: Start, db_path: Path
) -> None:
    def paths() -> list[tuple[str, str]]:
        return process.rows(
            "SELECT run_id, value FROM variable_changes WHERE name = 'deep.one' ORDER BY stream_seq"
        )

    changed = VariableChanged("deep", raw({"one": "a", "x": 1}), paths=("deep.one", "deep.x"))
    last = await events.publish(events.run("r", [RunStarted(raw({})), changed]))
    process = start()
    await process.until(last)
    told = paths()
    assert told == [("r", '"a"')]
    await process.stop()
    for known in (1, 2):
        with duckdb.connect(str(db_path)) as file:  # As it was before.
            if known == 1:
                file.execute("DELETE FROM variable_changes WHERE contains(name, '.')")
            for table in ("run_starts", "run_moves", "run_ends", "variable_changes"):
                file.execute(f"ALTER TABLE {table} DROP COLUMN run_key")
            file.execute("UPDATE positions SET format = $1", [known])
        for _ in range(2):
            process = start()
            assert paths() == told
            assert process.rows("SELECT count(*), count(DISTINCT run_key) FROM variable_changes") == [(3, 1)]
            assert process.rows("SELECT run_key = md5_number_lower('r') FROM run_starts") == [(True,)]
            assert process.rows("SELECT run_id, status FROM runs") == [("r", "running")]
            await process.stop()


async def test_a_file_of_an_earlier_release_learns_which_runs_were_rescued(
    events: EventsStream, start: Start, db_path: Path
) -> None:
    """An earlier release has kept the events, and has no table for them."""
    failed = RunFailed(FailureInfo("timeout", "no"), 5.0)
    last = await events.publish(events.run("r", [RunStarted(raw({})), failed, RunRescued(2, "failed")]))
    process = start()
    await process.until(last)
    await process.stop()
    with duckdb.connect(str(db_path)) as file:
        file.execute("DROP TABLE run_rescues")
        file.execute("UPDATE positions SET format = 3")
    for _ in range(2):
        process = start()
        assert process.rows("SELECT run_id, node FROM run_rescues") == [("r", 2)]
        assert process.rows("SELECT status FROM runs") == [("running",)]
        await process.stop()


# -- nonsense ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "text",
    ["", "one", "one =", "= 5", "one == 5", "one is 5", "one is null 5", "one in", "one in a,,b", 'one = "a', "1 = 1",
     "one > 1e3", "one > 1,000", "one < +5", "one <= 007",
     "one; DROP TABLE runs", "one ~ 5", "one in \"a\" \"b\"", "a..b = 1", "one is nullish"],
)  # fmt: skip
def test_what_is_no_condition_is_refused_with_how_one_is_written(text: str) -> None:
    with pytest.raises(BadInput, match="NAME = VALUE") as caught:
        parse_condition(text)
    assert caught.value.code == "CONDITION_INVALID"


@pytest.mark.parametrize(
    ("operator", "values"),
    [("=", ()), ("=", (1, 2)), ("in", ()), ("is null", (1,)), ("<", (True,)), ("^=", (5,)), ("=", (None,)), ("~", (1,)),
     ("=", (datetime(2026, 1, 1),)), ("=", (float("nan"),)), ("=", (10**40,))],  # noqa: DTZ001
)  # fmt: skip
def test_values_that_cannot_be_compared_are_refused(operator: Any, values: tuple[Any, ...]) -> None:
    with pytest.raises(BadInput) as caught:
        condition("one", operator, *values)
    assert caught.value.code == "CONDITION_INVALID"


async def test_texts_are_never_sql(place: Place) -> None:
    for text in ("'; DROP TABLE runs; --", '"', "$p0", "\\", "%", "\0", "')"):
        assert await place.ids(f"one = {msgspec.json.encode(text).decode()}") == []
        assert await place.ids(run_id=text) == []
        assert await place.ids(failure=text) == []
    assert len(await place.ids()) == COUNT


async def test_what_no_run_can_be_is_refused(place: Place) -> None:
    refused: list[tuple[RunQuery, dict[str, Any], str]] = [
        (RunQuery(status=["dead"]), {}, "dead"),  # type: ignore[list-item]
        (RunQuery(status=["running"], failure="timeout"), {}, "running"),
        (RunQuery(started_from=datetime(2026, 1, 1)), {}, "time zone"),  # noqa: DTZ001
        (RunQuery(), {"sort": "no such thing"}, "attribute"),
        (RunQuery(), {"after": "nonsense"}, "next"),
        (RunQuery(), {"limit": 0}, "from 1"),
    ]
    for asked, said, why in refused:
        error = await place.refusal(asked, **said)
        assert (error.code, why in error.message) == ("SEARCH_INVALID", True), error.message
    page = await runs(place.connection, place.names, RunQuery(), limit=1)
    error = await place.refusal(RunQuery(), sort="run_id", after=page.next)
    assert "sorted by -started_at, not by run_id" in error.message
    with pytest.raises(BadInput, match=r"nor an attribute"):
        await count_runs(place.connection, place.names, RunQuery(), by="no such thing")


@pytest.mark.limit("client.finding.conditions.CONDITIONS_MAX")
async def test_so_many_conditions_and_no_more(place: Place) -> None:
    assert await place.ids(*(CONDITIONS_MAX * ["one = nowhere"])) == []
    error = await place.refusal(RunQuery(where=(CONDITIONS_MAX + 1) * ["one = 5"]))
    assert (error.code, "(limit search-conditions)" in error.message) == ("SEARCH_INVALID", True)


@pytest.mark.limit("client.finding.conditions.VALUES_MAX")
async def test_so_many_values_of_one_condition_and_no_more(place: Place) -> None:
    assert await place.ids(f"one in {', '.join(VALUES_MAX * ['nowhere'])}") == []
    with pytest.raises(BadInput, match=r"\(limit search-values\)"):
        parse_condition(f"one in {', '.join((VALUES_MAX + 1) * ['nowhere'])}")


@pytest.mark.limit("client.finding.runs.PAGE_MAX")
async def test_a_page_of_so_many_runs_and_no_more(place: Place) -> None:
    assert len((await runs(place.connection, place.names, RunQuery(), limit=PAGE_MAX)).runs) == COUNT
    error = await place.refusal(RunQuery(), limit=PAGE_MAX + 1)
    assert (error.code, "(limit search-page)" in error.message) == ("SEARCH_INVALID", True)
