"""What a user meets where waits, correlation keys, races and batches come together, through the public API."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest

from dressage.flow import (
    App,
    Event,
    Saga,
    Searchable,
    TaskError,
    Workflow,
    WorkflowFailure,
    first_completed,
    first_successful,
    gather,
    publish,
    sleep,
    workflow,
)
from dressage.protocol.errors import BadInput, EventConflict, NotFound, Refused
from dressage.protocol.events import Published, decode_data
from dressage.testing import WorkflowTest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine, Scraped  # pyright: ignore[reportMissingImports]

    from dressage.client import Client, RunHandle

pytestmark = pytest.mark.anyio

Until = Callable[..., Awaitable[None]]
SHORT_S: Final = 0.3

app = App("reviewed")
calls: Counter[str] = Counter()
hold = asyncio.Event()

paid = Event("paid", of=int)
called_off = Event("called-off", of=str)
go = Event("go")
brief = Event("brief", of=int, expires=timedelta(seconds=SHORT_S))
notice = Event("notice", of=int, expires=timedelta(hours=1), lasting=True)
fading = Event("fading", of=int, expires=timedelta(seconds=SHORT_S), lasting=True)


class Declined(WorkflowFailure):
    number: int = 0


@dataclass
class View:
    status: Searchable[str] = "NEW"
    count: int = 0


@app.task
async def work(name: str, number: int) -> int:
    calls[name] += 1
    if number % 10 == 7:
        raise Declined(f"{number} is declined", number=number)
    if number % 10 == 8:
        raise OSError("down")
    return number


@app.task
async def long_work(name: str, number: int) -> int:
    calls[f"{name} {number}"] += 1
    await hold.wait()
    return number


@app.task
def tidy(name: str) -> None:
    calls[f"tidy {name}"] += 1


@app.task
def undo(name: str) -> None:
    calls[f"undo {name}"] += 1


# -- helpers -----------------------------------------------------------------------------------------
async def told(handle: RunHandle[Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(event.kind, msgspec.json.decode(event.data)) async for event in handle.history()]


async def waiting_at(client: Client, event: Event[Any], key: str, count: int, until: Until) -> None:
    async def fact() -> bool:
        try:
            return len((await client.key(event, key)).waiting) == count
        except NotFound:
            return count == 0

    await until(fact, f"{count} wait for {event.name} at {key}")


async def waits_for(handle: RunHandle[Any], what: str, until: Until) -> None:
    async def fact() -> bool:
        return what in (await handle.state()).waiting_for

    await until(fact, f"run {handle.run_id} waits for {what}")


# -- many keys in one run ----------------------------------------------------------------------------
@workflow
async def all_paid(numbers: list[str]) -> list[int]:
    return list(await gather(*(paid.wait(key=number) for number in numbers)))


@workflow
async def any_paid(numbers: list[str]) -> str:
    place, amount = await first_completed(*(paid.wait(key=number) for number in numbers))
    return f"{numbers[place]} {amount}"


async def test_a_batch_of_waits_at_keys_of_all_shards_gives_the_payloads_in_order(
    sharded: Engine, until: Until
) -> None:
    client = await sharded.registered(all_paid)
    numbers = [f"n-{n}" for n in range(30)]
    for n in range(0, 30, 2):
        await client.post_by_key(paid, numbers[n], n)
    handle = await client.start(all_paid, {"numbers": numbers})
    await waits_for(handle, "event paid at key n-29", until)
    await asyncio.gather(*(client.post_by_key(paid, numbers[n], n) for n in range(29, 0, -2)))
    assert await handle.result(10) == list(range(30))


async def test_who_loses_a_race_of_keys_leaves_them_all_to_others(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(any_paid)
    numbers = [f"n-{n}" for n in range(12)]
    handle = await client.start(any_paid, {"numbers": numbers})
    for number in numbers:
        await waiting_at(client, paid, number, 1, until)
    await client.post_by_key(paid, "n-5", 5)
    assert await handle.result(10) == "n-5 5"
    for number in numbers:
        await waiting_at(client, paid, number, 0, until)
    others = [n for n in range(12) if n != 5]
    await asyncio.gather(*(client.post_by_key(paid, numbers[n], n) for n in others))
    for n in others:
        later = await client.start(any_paid, {"numbers": [numbers[n]]})
        assert await later.result(10) == f"n-{n} {n}"


async def test_the_last_of_hundreds_of_keys_may_win_a_race(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(any_paid)
    numbers = [f"n-{n}" for n in range(250)]
    handle = await client.start(any_paid, {"numbers": numbers})
    await waiting_at(client, paid, "n-249", 1, until)
    await client.post_by_key(paid, "n-249", 9)
    assert await handle.result(10) == "n-249 9"
    await waiting_at(client, paid, "n-248", 0, until)
    tested = WorkflowTest(any_paid).comes(paid, 9, key="n-249", after=timedelta(seconds=1))
    assert tested.run(numbers).result == "n-249 9"


@workflow
async def same_key(number: str) -> list[int]:
    return list(await gather(paid.wait(key=number), paid.wait(key=number)))


async def test_all_branches_of_a_run_that_wait_at_one_key_take_what_comes(
    sharded: Engine, until: Until
) -> None:
    client = await sharded.registered(same_key)
    handle = await client.start(same_key, {"number": "o"}, run_id="r")
    await waiting_at(client, paid, "o", 2, until)
    await client.post_by_key(paid, "o", 1)
    assert await handle.result(5) == [1, 1]
    tested = WorkflowTest(same_key).comes(paid, 1, key="o", after=timedelta(seconds=1))
    assert tested.run("o").result == [1, 1]


# -- keys, time and races ----------------------------------------------------------------------------
@workflow
async def polled(number: str, seconds: float) -> int:
    try:
        return await paid.wait(key=number, timeout=seconds)
    except TimeoutError:
        return -1


@workflow
async def polled_direct(seconds: float) -> int:
    await go.wait()
    try:
        return await paid.wait(timeout=seconds)
    except TimeoutError:
        return -1


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_wait_that_has_no_time_takes_what_is_there(engine: Engine, seconds: int) -> None:
    client = await engine.registered(polled_direct)
    handle = await client.start(polled_direct, {"seconds": seconds})
    await handle.post(paid, 5)
    await handle.post(go)
    assert await handle.result(5) == 5
    empty = await client.start(polled_direct, {"seconds": seconds})
    await empty.post(go)
    assert await empty.result(5) == -1


async def test_an_event_and_a_timeout_at_once_lose_nothing(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(polled)
    count = 60
    names = [f"n-{n}" for n in range(count)]
    handles = await asyncio.gather(
        *(client.start(polled, {"number": name, "seconds": 0.25}) for name in names)
    )

    async def post(n: int) -> None:
        await asyncio.sleep(0.001 * 3 * n)
        await client.post_by_key(paid, names[n], n)

    await asyncio.gather(*(post(n) for n in range(count)))
    first = [await handle.result(10) for handle in handles]
    second = [
        await (await client.start(polled, {"number": name, "seconds": 0.3})).result(10)
        for name in names
        if first[names.index(name)] == -1
    ]
    assert sorted([n for n in first if n != -1] + second) == list(range(count))


@workflow
async def rescued(number: str) -> list[str]:
    said: list[str] = []

    async def payment() -> str:
        try:
            return f"paid {await paid.wait(key=number, timeout=60)}"
        finally:
            await tidy(number)

    async def either() -> str:
        async with Saga() as saga:
            saga.undo(undo, number)
            _, text = await first_completed(payment(), called_off.wait(key=number))
        return text

    place, text = await first_completed(either(), go.wait())
    said = [*said, f"{place} {text}"]
    return [*said, f"then {await paid.wait(key=number)}"]


async def test_a_race_in_a_race_that_is_lost_lets_go_of_its_keys_and_tidies_up(
    sharded: Engine, until: Until
) -> None:
    client = await sharded.registered(rescued)
    await sharded.worker(app)
    calls.clear()
    number = f"o-{sharded.namespace}"
    handle = await client.start(rescued, {"number": number})
    await waiting_at(client, paid, number, 1, until)
    await waiting_at(client, called_off, number, 1, until)
    await handle.post(go)
    await waiting_at(client, called_off, number, 0, until)
    await waits_for(handle, f"event paid at key {number}", until)
    await client.post_by_key(paid, number, 3)
    assert await handle.result(10) == ["1 None", "then 3"]
    assert calls == Counter({f"tidy {number}": 1, f"undo {number}": 1})


@workflow
async def timed_race(number: str) -> str:
    try:
        place, amount = await first_successful(
            paid.wait(key=number, timeout=0.1), paid.wait(key=f"{number}-b", timeout=60)
        )
    except ExceptionGroup as group:
        return f"{group}"
    return f"{place} {amount}"


@workflow
async def both_late(number: str) -> str:
    said = "none"
    try:
        await first_successful(paid.wait(key=number, timeout=0.1), called_off.wait(timeout=0.15))
    except* TimeoutError as late:
        said = f"{len(late.exceptions)}"
    return said


async def test_a_wait_that_is_late_is_a_failure_in_a_race_of_successes(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(timed_race, both_late)
    late = await client.start(both_late, {"number": "z"})
    handle = await client.start(timed_race, {"number": "o"})
    await waiting_at(client, paid, "o", 0, until)
    await waiting_at(client, paid, "o-b", 1, until)
    await client.post_by_key(paid, "o-b", 9)
    assert await handle.result(10) == "1 9"
    assert await late.result(10) == "2"


# -- how long events are kept ------------------------------------------------------------------------
@workflow
async def brief_direct(n: int) -> int:
    await go.wait()
    try:
        return await brief.wait(timeout=0)
    except TimeoutError:
        return -n


@workflow
async def twice_noticed(place: str) -> list[int]:
    first = await notice.wait(key=place)
    second = await notice.wait(key=place)
    return [first, second]


@workflow
async def faded(place: str) -> int:
    try:
        return await fading.wait(key=place, timeout=0.5)
    except TimeoutError:
        return -1


async def test_what_is_posted_to_a_run_expires_also_before_the_run_exists(sharded: Engine) -> None:
    client = await sharded.registered(brief_direct)
    for run_id in ("a", "b", "c"):
        kept = await client.start(brief_direct, {"n": 1}, run_id=run_id)
        await kept.post(brief, 5)
        await kept.post(go)
        assert await kept.result(5) == 5
    late = await client.start(brief_direct, {"n": 1})
    await client.post(late.run_id, brief, 5, event_id="x")
    assert (await client.post("early", brief, 5, event_id="x")).early
    await asyncio.sleep(SHORT_S + 0.15)
    assert (await client.post(late.run_id, brief, 6, event_id="x")).existing
    await late.post(go)
    early = await client.start(brief_direct, {"n": 2}, run_id="early")
    again = await client.post("early", brief, 6, event_id="x")
    await early.post(go)
    assert [await late.result(5), await early.result(5)] == [-1, -2], again


async def test_a_run_takes_each_lasting_event_once_and_later_runs_take_all(
    sharded: Engine, until: Until
) -> None:
    client = await sharded.registered(twice_noticed)
    await client.post_by_key(notice, "p", 1)
    first = await client.start(twice_noticed, {"place": "p"}, run_id="first")
    await waiting_at(client, notice, "p", 1, until)
    await client.post_by_key(notice, "p", 2)
    assert await first.result(5) == [1, 2]
    for run_id in ("second", "third", "fourth"):
        assert await (await client.start(twice_noticed, {"place": "p"}, run_id=run_id)).result(5) == [1, 2]
    tested = WorkflowTest(twice_noticed).comes(notice, 1, key="p").start("p")
    assert tested.waiting_for == "event notice at key p"
    assert tested.post(notice, 2, key="p").result == [1, 2]


async def test_a_lasting_event_does_not_outlast_its_time(sharded: Engine) -> None:
    client = await sharded.registered(faded)
    await client.post_by_key(fading, "p", 1)
    assert await (await client.start(faded, {"place": "p"})).result(5) == 1
    await asyncio.sleep(SHORT_S + 0.1)
    assert await (await client.start(faded, {"place": "p"})).result(5) == -1
    tested = WorkflowTest(faded).comes(fading, 1, key="p")
    assert tested.run("p").result == 1


# -- what is not taken -----------------------------------------------------------------------------------
@workflow
async def two_kinds(n: int) -> list[str]:
    amount = await paid.wait()
    return [f"{amount}", await called_off.wait()]


async def test_an_early_event_that_its_run_does_not_take_is_told(sharded: Engine) -> None:
    client = await sharded.registered(two_kinds, all_paid, brief_direct)
    assert (await client.post("r", brief, 1, event_id="e")).early
    assert (await client.post("r", paid, 1)).early
    handle = await client.start(two_kinds, {"n": 1}, run_id="r")
    await handle.post(called_off, "x")
    assert await handle.result(5) == ["1", "x"]
    refused = [data for kind, data in await told(handle) if kind == "event-refused"]
    assert [(each["event"], each["event_id"]) for each in refused] == [("brief", "e")]


async def test_ids_that_nobody_claims_are_refused_before_their_key_is_too_large(engine: Engine) -> None:
    """Beyond the size of a message the shard could not store the key, and nothing on it would go on."""
    client = await engine.registered(any_paid)

    refused: list[str] = []

    async def post(n: int) -> bool:
        try:
            await client.post_by_key(paid, "many", n, event_id=f"{n:04}".ljust(512, "x"))
        except Refused as error:
            refused.append(f"{error}")
            return False
        return True

    taken = await asyncio.gather(*(post(n) for n in range(2000)))
    assert 100 < taken.count(True) < 2000
    assert all("EVENTS_FULL" in each and "(limit unclaimed-events)" in each for each in refused)
    handle = await client.start(any_paid, {"numbers": ["many"]})
    assert taken[int((await handle.result(5)).removeprefix("many "))]
    assert await post(3000)
    with pytest.raises(BadInput, match="event id 'xxx"):
        await client.post_by_key(paid, "many", 1, event_id="x" * 513)


# -- ends that are nobody's ----------------------------------------------------------------------------
@workflow
async def runs_wild(number: str) -> str:
    async def waits() -> None:
        await paid.wait(key=number)

    async def spins() -> None:
        await go.wait()
        n = 0
        while n >= 0:
            n += 1

    await gather(waits(), spins())
    return "never"


async def test_a_run_that_passes_a_limit_waits_at_no_key_any_more(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(runs_wild, any_paid)
    handle = await client.start(runs_wild, {"number": "o"})
    await waiting_at(client, paid, "o", 1, until)
    await handle.post(go)
    view = await client.wait(handle.run_id, timeout_s=10)
    assert view.failure is not None
    assert view.failure.kind == "limit"
    await waiting_at(client, paid, "o", 0, until)
    await client.post_by_key(paid, "o", 4)
    assert await (await client.start(any_paid, {"numbers": ["o"]})).result(5) == "o 4"


# -- batches -----------------------------------------------------------------------------------------
@workflow
async def raced_batch(name: str, count: int) -> list[str]:
    async def batch() -> int:
        async def one(n: int) -> int:
            try:
                return await long_work(name, n)
            finally:
                await publish(f"{name}.tidied", n)

        return sum(await gather(*(one(n) for n in range(count)), limit=3))

    place, got = await first_completed(batch(), paid.wait(key=name))
    return [f"{place}", f"{got}"]


async def test_a_batch_that_loses_begins_no_more_and_tidies_up_what_it_began(
    sharded: Engine, until: Until
) -> None:
    calls.clear()
    hold.clear()
    name = f"batch-{sharded.namespace}"
    nats = await sharded.nats()
    await nats.jetstream().add_stream(name=name, subjects=[f"{name}.>"])
    client = await sharded.registered(raced_batch)
    await sharded.worker(app)
    handle = await client.start(raced_batch, {"name": name, "count": 2000})
    await until(lambda: calls.total() == 3, "three have begun")
    await client.post_by_key(paid, name, 3)
    assert await handle.result(10) == ["1", "3"]
    hold.set()
    await asyncio.sleep(0.2)
    assert calls.total() == 3
    history = await told(handle)
    begun = [data for kind, data in history if kind == "branch-started"]
    ended = [data for kind, data in history if kind == "branch-ended"]
    assert len(begun) == len(ended) == 5
    info = await nats.jetstream().stream_info(name)
    assert info.state.messages == 3
    assert (await client.get(handle.run_id)).status == "completed"


@workflow
async def mixed_batch(name: str, numbers: list[int]) -> dict[str, int]:
    declined, down = 0, 0
    try:
        await gather(*(work(name, number) for number in numbers), limit=len(numbers) // 2)
    except* Declined as group:
        declined = len(group.exceptions)
    except* TaskError as group:
        down = len(group.exceptions)
    return {"declined": declined, "down": down}


async def test_a_batch_fails_in_parts_of_which_each_is_counted(shared: Engine) -> None:
    client = await shared.registered(mixed_batch)
    await shared.worker(app)
    numbers, expected = [1, 7, 8, 17, 18, 27, 3], {"declined": 3, "down": 2}
    handle = await client.start(mixed_batch, {"name": "mixed", "numbers": numbers})
    assert await handle.result(10) == expected
    assert WorkflowTest(mixed_batch, app).run("mixed", numbers).result == expected
    assert await mixed_batch("mixed", numbers) == expected


@workflow
async def paid_in_turn(count: int) -> int:
    return sum(await gather(*(paid.wait(key=f"turn-{n}") for n in range(count)), limit=3))


async def test_how_far_a_batch_has_come_is_seen_by_all_who_read(sharded: Engine, until: Until) -> None:
    client = await sharded.registered(paid_in_turn)
    handle = await client.start(paid_in_turn, {"count": 6}, run_id="r")
    for n in (1, 2):
        await client.post_by_key(paid, f"turn-{n}", n)
    await waits_for(handle, "branches, of which 2 of 6 have ended", until)
    view = await sharded.call("get", {"run_id": "r"})
    assert "branches, of which 2 of 6 have ended" in view["run"]["waiting_for"]
    for n in (5, 4, 3, 0):
        await client.post_by_key(paid, f"turn-{n}", n)
    assert await handle.result(5) == 15


# -- what clients wait for -----------------------------------------------------------------------------
@workflow
async def telling(subject: str, times: int) -> int:
    view = View()
    for n in range(times):
        amount = await paid.wait()
        await publish(f"{subject}.{n}", {"amount": amount})
        view.status = f"TOLD-{n}"
    return times


async def test_a_published_event_is_waited_for_by_what_it_says_across_owners_and_clients(
    sharded: Engine,
) -> None:
    client = await sharded.registered(telling)
    subject = f"told-{sharded.namespace}"
    await (await sharded.nats()).jetstream().add_stream(name=subject, subjects=[f"{subject}.>"])
    handle = await client.start(telling, {"subject": subject, "times": 3}, run_id="r")

    def says(amount: int) -> Callable[[Any], bool]:
        def holds(event: Any) -> bool:
            data = decode_data(event) if event.kind == "published" else None
            return isinstance(data, Published) and msgspec.json.decode(data.data) == {"amount": amount}

        return holds

    await handle.post(paid, 5)
    first = await handle.wait_for_event(says(5), timeout_s=5)
    waiting = asyncio.create_task(client.wait_for_event("r", says(7), timeout_s=20))
    state = asyncio.create_task(
        client.wait_for_state("r", lambda run: run.search.get("status") == "TOLD-2", timeout_s=20)
    )
    await sharded.down()
    other = await sharded.client("restarted")
    kept = asyncio.create_task(other.wait_for_event("r", "published", after=first.index, timeout_s=20))
    await sharded.up()
    await other.post("r", paid, 6)
    assert says(6)(await kept)
    await other.post("r", paid, 7)
    assert says(7)(await waiting)
    assert (await state).search == {"status": "TOLD-2"}
    assert await client.handle("r").result(5) == 3


# -- the order of a script -------------------------------------------------------------------------------
east, west, south = Event("east", of=int), Event("west", of=int), Event("south", of=int)


@workflow
async def scripted(n: int) -> list[str]:
    said: list[str] = []
    view = View()

    async def counted() -> str:
        try:
            return f"{await east.wait()}"
        finally:
            view.count += 1

    async def pair() -> str:
        place, number = await first_completed(west.wait(), south.wait())
        return f"{place}:{number}"

    while len(said) < 3:
        match await first_completed(counted(), pair(), sleep(timedelta(seconds=0.9))):
            case 0, text:
                said = [*said, f"east {text}"]
            case 1, text:
                said = [*said, f"pair {text}"]
            case _:
                said = [*said, "nobody"]
    return [*said, f"{view.count}"]


def in_python(order: tuple[str, ...]) -> Iterator[Any]:
    """Fakes of the three events that come one after another in this order, each taken once."""
    places = {name: place for place, name in enumerate(order)}
    loop = asyncio.get_running_loop()
    begun = loop.time()
    left = set(order)

    def fake(name: str) -> Any:
        async def came(timeout: Any) -> int:
            if name not in left:
                await loop.create_future()
            await asyncio.sleep(begun + 0.03 * (places[name] + 1) - loop.time())
            left.remove(name)
            return places[name]

        return came

    for event in (east, west, south):
        yield event.faked(fake(event.name))


@pytest.mark.parametrize("order", list(itertools.permutations(["east", "west", "south"])), ids="-".join)
async def test_events_in_the_order_of_a_script_mean_the_same_everywhere(
    order: tuple[str, ...], shared: Engine
) -> None:
    events = {"east": east, "west": west, "south": south}
    test = WorkflowTest(scripted)
    for place, name in enumerate(order):
        test.comes(events[name], place, after=timedelta(milliseconds=30 * (place + 1)))
    tested = test.run(3)
    client = await shared.registered(scripted)
    handle = await client.start(scripted, {"n": 3})
    for place, name in enumerate(order):
        await handle.post(events[name], place)
    fakes = list(in_python(order))
    with fakes[0], fakes[1], fakes[2]:
        plain = await scripted(3)
    assert plain == tested.result == await handle.result(10)
    ours = [(kind, data.get("event"), data.get("branch")) for kind, data in await told(handle)]
    assert ours == [
        (event.kind, event.data.get("event"), event.data.get("branch")) for event in tested.events
    ]


# -- killed between the two sides ------------------------------------------------------------------------
@workflow
async def correlated(number: str) -> int:
    amount = await paid.wait(key=number)
    return amount + await paid.wait(key=f"{number}-b", timeout=600)


async def test_an_owner_that_is_killed_between_the_two_sides_of_a_key(scraped: Scraped, until: Until) -> None:
    engine = scraped.engine
    client = await engine.registered(correlated)
    numbers = [f"o-{n}" for n in range(5)]
    handles = [await client.start(correlated, {"number": number}) for number in numbers]
    for number in numbers:
        await waiting_at(client, paid, number, 1, until)
        await client.post_by_key(paid, f"{number}-b", 10, event_id="b")
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    posts = [
        asyncio.create_task(client.post_by_key(paid, number, n, event_id="a"))
        for n, number in enumerate(numbers)
    ]
    await asyncio.sleep(0.3)
    await engine.up()
    assert not any(posted.existing for posted in await asyncio.gather(*posts))
    assert [await handle.result(20) for handle in handles] == [10 + n for n in range(5)]
    for number in numbers:
        assert (await client.post_by_key(paid, number, 99, event_id="a")).existing
        assert (await client.post_by_key(paid, f"{number}-b", 99, event_id="b")).existing
        assert (await client.key(paid, number)).unclaimed == ()


async def test_an_owner_that_is_killed_while_many_runs_are_given_one_event(
    scraped: Scraped, until: Until
) -> None:
    engine = scraped.engine
    client = await engine.registered(all_paid, any_paid)
    handles = await asyncio.gather(
        *(client.start(all_paid, {"numbers": ["o", "p"]}, run_id=f"r-{n}") for n in range(60))
    )
    await waiting_at(client, paid, "o", 60, until)
    await client.post_by_key(paid, "o", 7, event_id="a")
    scraped.program.process.kill()
    await asyncio.to_thread(scraped.program.process.wait)
    again = asyncio.create_task(client.post_by_key(paid, "o", 8, event_id="a"))
    await asyncio.sleep(0.1)
    await engine.up()
    assert (await again).existing
    await client.post_by_key(paid, "p", 1)
    assert [await handle.result(20) for handle in handles] == [[7, 1]] * 60
    for handle in handles:
        kinds = Counter(kind for kind, _ in await told(handle))
        assert kinds["event-posted"] == kinds["event-received"] == 2
    assert (await client.key(paid, "o")).unclaimed == ()


# -- who decides -----------------------------------------------------------------------------------------
@workflow
async def polled_later(number: str) -> int:
    await go.wait()
    try:
        return await paid.wait(key=number, timeout=0)
    except TimeoutError:
        return -1


def test_a_wait_at_a_key_that_has_no_time_takes_what_is_there_in_a_unit_test() -> None:
    run = WorkflowTest(polled_later).start("o")
    run.post(paid, 5, key="o")
    assert run.post(go).finish().result == 5
    assert WorkflowTest(polled_later).start("o").post(go).finish().result == -1


@workflow
async def polled_at_once(number: str) -> int:
    try:
        return await paid.wait(key=number, timeout=0)
    except TimeoutError:
        return -1


async def test_a_wait_at_a_key_that_has_no_time_takes_what_is_there(sharded: Engine) -> None:
    """Keys of all shards: the timer may well fire before the key could be asked."""
    client = await sharded.registered(polled_at_once)
    for number in range(0, 60, 2):
        await client.post_by_key(paid, f"n-{number}", number)
    handles = [await client.start(polled_at_once, {"number": f"n-{number}"}) for number in range(60)]
    taken = [await handle.result(20) for handle in handles]
    assert taken == [-1 if number % 2 else number for number in range(60)]


async def test_one_id_of_two_kinds_of_events_is_two_events(engine: Engine) -> None:
    """As it is at correlation keys: an order's number may be the id of both."""
    client = await engine.registered(two_kinds)
    handle = await client.start(two_kinds, {"n": 1})
    await client.post(handle.run_id, paid, 1, event_id="order-7")
    assert not (await client.post(handle.run_id, called_off, "x", event_id="order-7")).existing
    assert await handle.result(2) == ["1", "x"]


paid_by = Event("paid", of=str)


@workflow
async def of_another_team(number: str) -> str:
    return await paid_by.wait(key=number)


async def test_another_workflow_that_names_an_event_the_same_is_refused(engine: Engine) -> None:
    """Or a payload that its poster was not refused would fail the run that waits for another type."""
    client = await engine.registered(order_of_one)
    handle = await client.start(order_of_one, {"number": "o"})
    with pytest.raises(EventConflict, match=r"event 'paid' of workflow .* 'order-of-one'"):
        await client.register(of_another_team)
    with pytest.raises(NotFound):
        await client.start("of-another-team", {})
    with pytest.raises(Refused, match="Expected int"):
        await client.post_by_key("paid", "o", "Ann")
    await client.post_by_key("paid", "o", 7)
    assert await handle.result(5) == 7


@workflow
async def order_of_one(number: str) -> int:
    return await paid.wait(key=number)


@workflow
async def of_no_key(text: str, seconds: list[int]) -> str:
    try:
        await paid.wait(key=text, timeout=seconds[3])
    except LookupError:
        return "no such second"
    return "came"


async def test_all_that_a_wait_is_given_is_evaluated_before_any_of_it_is_checked() -> None:
    """As Python evaluates the arguments of a call."""
    assert await of_no_key("", [1]) == "no such second"
    assert WorkflowTest(of_no_key).run("", [1]).result == "no such second"


async def test_of_two_workflows_that_mean_different_events_at_once_one_is_refused(sharded: Engine) -> None:
    """Whoever is first, and also if each of them is registered twice at the same time."""
    client = await sharded.client()
    asked: list[Workflow[..., Any]] = [order_of_one, of_another_team, order_of_one, of_another_team]
    ended = await asyncio.gather(*(client.register(each) for each in asked), return_exceptions=True)
    refused = [isinstance(each, EventConflict) for each in ended]
    assert refused in ([False, True, False, True], [True, False, True, False]), ended
    assert all(isinstance(each, EventConflict) or not isinstance(each, BaseException) for each in ended)


async def test_workflows_that_share_an_event_are_all_known_to_it_if_they_come_at_once(engine: Engine) -> None:
    client = await engine.client()
    await asyncio.gather(client.register(order_of_one), client.register(polled_at_once))
    with pytest.raises(EventConflict):
        await client.register(of_another_team)
