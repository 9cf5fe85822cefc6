"""External events by correlation key, and before their run exists, through the public API."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]
from tests.conftest import Start  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.flow import Event, Masked, first_completed, gather, sleep, workflow
from dressage.orchestrator.fold.limits import MARKS_MAX
from dressage.protocol.errors import BadInput, BadValue, NotFound, Refused
from dressage.testing import WorkflowTest

pytestmark = pytest.mark.anyio


@dataclass
class Payment:
    amount: int
    by: str = "card"


paid = Event("paid", of=Payment)
price = Event("price", of=int, expires=timedelta(hours=1), lasting=True)
short = Event("short", of=int, expires=timedelta(seconds=0.3))
secret = Event("secret", of=Masked[str])


@workflow
async def order(number: str) -> int:
    payment = await paid.wait(key=number)
    return payment.amount


@workflow
async def hurried(number: str, seconds: float) -> int:
    try:
        payment = await paid.wait(key=number, timeout=seconds)
    except TimeoutError:
        return -1
    return payment.amount


@workflow
async def twice(number: str) -> list[int]:
    first = await paid.wait(key=number)
    second = await paid.wait(key=number)
    return [first.amount, second.amount]


@workflow
async def side_by_side(number: str) -> list[int]:
    first, second = await gather(paid.wait(key=number), paid.wait(key=f"{number}-b"))
    return [first.amount, second.amount]


@workflow
async def raced(number: str) -> str:
    match await first_completed(paid.wait(key=number), sleep(timedelta(seconds=0.2))):
        case 0, payment:
            return f"paid {payment.amount}"
        case _:
            return "gave up"


@workflow
async def priced(item: str) -> int:
    return await price.wait(key=item)


@workflow
async def brief(item: str) -> int:
    return await short.wait(key=item)


@workflow
async def hiding(number: str) -> Masked[str]:
    return await secret.wait(key=number)


@workflow
async def direct(number: str) -> int:
    payment = await paid.wait()
    return payment.amount


async def waiting_at(client: Client, event: Event[Payment], key: str, count: int = 1) -> None:
    async def fact() -> bool:
        try:
            return len((await client.key(event, key)).waiting) == count
        except NotFound:
            return count == 0

    await until(fact, f"{count} wait for {event.name} at {key}")


# -- either side first ---------------------------------------------------------------------------------
async def test_runs_that_wait_are_woken_wherever_their_key_lives(sharded: Engine) -> None:
    client = await sharded.registered(order)
    numbers = [f"o/{n} ~ä.*" for n in range(8)]
    handles = [await client.start(order, {"number": number}, run_id=f"r{number}") for number in numbers]
    for number in numbers:
        await waiting_at(client, paid, number)
    for amount, number in enumerate(numbers):
        posted = await client.post_by_key(paid, number, Payment(amount))
        assert (posted.existing, posted.early) == (False, False)
    assert [await handle.result(5) for handle in handles] == list(range(8))


async def test_what_was_posted_first_is_taken_by_the_runs_that_come(sharded: Engine) -> None:
    client = await sharded.registered(order)
    numbers = [f"o-{n}" for n in range(8)]
    for amount, number in enumerate(numbers):
        await client.post_by_key(paid, number, Payment(amount))
        assert len((await client.key(paid, number)).unclaimed) == 1
    handles = [await client.start(order, {"number": number}) for number in numbers]
    assert [await handle.result(5) for handle in handles] == list(range(8))


async def test_both_sides_at_once(sharded: Engine) -> None:
    client = await sharded.registered(order)
    numbers = [f"o-{n}" for n in range(40)]
    starts = [client.start(order, {"number": number}) for number in numbers]
    posts = [client.post_by_key(paid, number, Payment(n)) for n, number in enumerate(numbers)]
    handles = await asyncio.gather(*starts)
    await asyncio.gather(*posts)
    assert [await handle.result(10) for handle in handles] == list(range(40))


async def test_point_7_all_that_wait_take_it_and_one_that_comes_later_does_not(sharded: Engine) -> None:
    client = await sharded.registered(order)
    handles = [await client.start(order, {"number": "o"}, run_id=f"r-{n}") for n in range(5)]
    await waiting_at(client, paid, "o", 5)
    await client.post_by_key(paid, "o", Payment(7))
    assert [await handle.result(5) for handle in handles] == [7] * 5
    later = await client.start(order, {"number": "o"}, run_id="later")
    await waiting_at(client, paid, "o", 1)
    await client.post_by_key(paid, "o", Payment(8))
    assert await later.result(5) == 8


async def test_the_earliest_comes_first(engine: Engine) -> None:
    client = await engine.registered(twice)
    for amount in (1, 2, 3):
        await client.post_by_key(paid, "o", Payment(amount))
    handle = await client.start(twice, {"number": "o"})
    assert await handle.result(5) == [1, 2]
    assert len((await client.key(paid, "o")).unclaimed) == 1


async def test_branches_wait_at_keys_of_their_own(sharded: Engine) -> None:
    client = await sharded.registered(side_by_side)
    handle = await client.start(side_by_side, {"number": "o"})
    await client.post_by_key(paid, "o-b", Payment(2))
    await client.post_by_key(paid, "o", Payment(1))
    assert await handle.result(5) == [1, 2]


# -- once ------------------------------------------------------------------------------------------------
async def test_the_same_event_counts_once_however_late(sharded: Engine) -> None:
    client = await sharded.registered(order)
    first = await client.start(order, {"number": "o"}, run_id="first")
    for repeat in range(3):
        posted = await client.post_by_key(paid, "o", Payment(7), event_id="mail 1")
        assert posted.existing == (repeat > 0)
    assert await first.result(5) == 7
    await sharded.down()
    await sharded.up()
    other = await sharded.client("somebody else")
    assert (await other.post_by_key("paid", "o", {"amount": 9}, event_id="mail 1")).existing
    second = await client.start(order, {"number": "o"}, run_id="second")
    await waiting_at(client, paid, "o")
    assert not (await client.post_by_key(paid, "o", Payment(8), event_id="mail 2")).existing
    assert await second.result(5) == 8


async def test_an_event_counts_once_after_thousands_of_others(sharded: Engine) -> None:
    client = await sharded.registered(brief)
    numbers = iter(range(MARKS_MAX + 200))

    async def post_all() -> None:
        for number in numbers:
            await client.post_by_key(short, "apple", number, event_id=f"mail {number}")

    await asyncio.gather(*(post_all() for _ in range(50)))

    async def posted() -> int:
        return (await client.key(short, "apple")).posted

    async def all_there() -> bool:
        return await posted() == MARKS_MAX + 200

    await until(all_there, "all are there")
    again = [client.post_by_key(short, "apple", -1, event_id=f"mail {number}") for number in range(100)]
    await asyncio.sleep(0.4)
    await sharded.down()
    posting = asyncio.gather(*again)
    await sharded.up()
    await posting
    handle = await client.start(brief, {"item": "apple"})
    await client.post_by_key(short, "apple", 7, event_id="mail x")
    assert await handle.result(10) == 7
    assert await posted() == MARKS_MAX + 201


async def test_what_nobody_waited_for_in_time_is_there_for_the_next(sharded: Engine) -> None:
    client = await sharded.registered(hurried, order)
    handle = await client.start(hurried, {"number": "o", "seconds": 0.2})
    assert await handle.result(5) == -1
    await waiting_at(client, paid, "o", 0)
    await client.post_by_key(paid, "o", Payment(7))
    assert await (await client.start(order, {"number": "o"})).result(5) == 7


async def test_a_cancelled_run_and_a_loser_of_a_race_wait_no_more(sharded: Engine) -> None:
    client = await sharded.registered(order, raced)
    waiting = await client.start(order, {"number": "o"})
    await waiting_at(client, paid, "o")
    await client.cancel(waiting.run_id)
    await waiting_at(client, paid, "o", 0)
    assert await (await client.start(raced, {"number": "o"})).result(5) == "gave up"
    await waiting_at(client, paid, "o", 0)
    await client.post_by_key(paid, "o", Payment(7))
    assert await (await client.start(raced, {"number": "o"})).result(5) == "paid 7"


async def test_a_wait_and_an_event_meet_across_a_restart(sharded: Engine) -> None:
    client = await sharded.registered(order)
    numbers = [f"o-{n}" for n in range(6)]
    handles = [await client.start(order, {"number": number}) for number in numbers]
    await sharded.down()
    posts = [
        asyncio.create_task(client.post_by_key(paid, number, Payment(n))) for n, number in enumerate(numbers)
    ]
    await asyncio.sleep(0.3)
    await sharded.up()
    await asyncio.gather(*posts)
    assert [await handle.result(10) for handle in handles] == list(range(6))


# -- how long ------------------------------------------------------------------------------------------
async def test_a_lasting_event_is_there_for_all_that_come(sharded: Engine) -> None:
    client = await sharded.registered(priced)
    await client.post_by_key(price, "apple", 3)
    for _ in range(3):
        assert await (await client.start(priced, {"item": "apple"})).result(5) == 3


async def test_an_event_that_nobody_claims_expires(sharded: Engine) -> None:
    client = await sharded.registered(brief)
    await client.post_by_key(short, "apple", 3)
    await asyncio.sleep(0.4)
    handle = await client.start(brief, {"item": "apple"})

    async def waits() -> bool:
        return (await client.key(short, "apple")).waiting == (handle.run_id,)

    await until(waits, "the run waits")
    await client.post_by_key(short, "apple", 4)
    assert await handle.result(5) == 4


# -- before the run exists -------------------------------------------------------------------------------
async def test_what_is_posted_to_a_run_before_it_exists_counts(sharded: Engine) -> None:
    client = await sharded.registered(direct)
    for n in range(6):
        posted = await client.post(f"early-{n}", paid, Payment(n), event_id="1")
        assert (posted.existing, posted.early) == (False, True)
        assert (await client.post(f"early-{n}", paid, Payment(n), event_id="1")).existing
        with pytest.raises(NotFound, match="RUN_UNKNOWN"):
            await client.get(f"early-{n}")
    await sharded.down()
    await sharded.up()
    for n in range(6):
        handle = await client.start(direct, {"number": "o"}, run_id=f"early-{n}")
        assert await handle.result(5) == n
        assert (await client.post(f"early-{n}", paid, Payment(n), event_id="1")).existing


# -- what is refused ---------------------------------------------------------------------------------------
async def test_the_poster_is_told(sharded: Engine) -> None:
    client = await sharded.registered(order)
    with pytest.raises(BadValue, match="event paid"):
        await client.post_by_key(paid, "o", {"amount": "much"})  # type: ignore[misc]
    with pytest.raises(Refused, match=r"EVENT_INVALID: payload of event 'paid': value\.amount: Expected int"):
        await client.post_by_key("paid", "o", {"amount": "much"})
    with pytest.raises(
        NotFound, match="EVENT_UNKNOWN: no workflow that is registered waits for event 'unheard'"
    ):
        await client.post_by_key("unheard", "o")
    with pytest.raises(Refused, match="EVENT_INVALID: payload of event 'paid'"):
        await client.post("a run to come", "paid", {"amount": "much"})
    for key in ("", "x" * 129, "\ud800"):
        with pytest.raises(BadInput, match="KEY_INVALID"):
            await client.post_by_key(paid, key, Payment(1))
    with pytest.raises(NotFound, match="KEY_UNKNOWN: there is no event 'paid' of correlation key 'o'"):
        await client.key(paid, "o")


async def test_a_key_that_is_none_fails_in_the_run(engine: Engine) -> None:
    client = await engine.registered(order)
    handle = await client.start(order, {"number": ""})
    view = await client.wait(handle.run_id, timeout_s=5)
    assert view.failure is not None
    assert (view.failure.name, view.failure.family[0]) == ("ValueError", "ValueError") or (
        "ValueError" in view.failure.family
    )
    assert "1 to 128 bytes" in view.failure.message


# -- what is told ------------------------------------------------------------------------------------------
async def test_the_history_names_the_key_and_hides_what_is_masked(engine: Engine) -> None:
    client = await engine.registered(hiding)
    handle = await client.start(hiding, {"number": "o"}, run_id="r")
    await until(lambda: _waits(client), "it waits")
    assert (await client.get("r")).waiting_for == "event secret at key o"
    await client.post_by_key(secret, "o", "4711", event_id="e-1", actor="bank")
    assert await handle.result(5) == "4711"
    events = [event async for event in client.history("r")]
    told = {event.kind: msgspec.json.decode(event.data) for event in events}
    assert told["event-awaited"] == {"node": 0, "event": "secret", "key": "o"}
    assert told["event-posted"] == {"event": "secret", "event_id": "e-1", "payload": "***", "key": "o"}
    assert "bank" in {event.actor for event in events if event.kind == "event-posted"}
    assert all(b"4711" not in bytes(event.data) for event in events)


async def _waits(client: Client) -> bool:
    return bool((await client.get("r")).waiting_for)


async def test_the_micro_service_and_the_command_line(engine: Engine, start: Start, tmp_path: Path) -> None:
    client = await engine.registered(order)
    handles = [await client.start(order, {"number": each}, run_id=each) for each in ("api", "cli")]
    for each in ("api", "cli"):
        await waiting_at(client, paid, each)
    answer = await engine.call("post", {"key": "api", "event": "paid", "payload": {"amount": 1}})
    assert (answer["ok"], answer["existing"]) == (True, False)
    wrong = await engine.call("post", {"event": "paid"})
    assert (wrong["ok"], wrong["code"]) == (False, "REQUEST_MALFORMED"), wrong
    where = ("--server", engine.url, "--namespace", engine.namespace)
    shown = start("event", "get", "paid", "cli", *where, cwd=tmp_path)
    assert await asyncio.to_thread(shown.ended) == 0, shown.said
    assert "waiting: cli" in shown.said
    program = start("event", "post", "paid", "cli", '{"amount": 2}', *where, cwd=tmp_path)
    assert await asyncio.to_thread(program.ended) == 0, program.said
    assert [await handle.result(5) for handle in handles] == [1, 2]
    view = await engine.call("key", {"event": "paid", "key": "cli"})
    assert (view["key"]["posted"], view["key"].get("waiting", [])) == (1, [])


# -- the same in a unit test ---------------------------------------------------------------------------------
def test_a_unit_test_posts_to_keys() -> None:
    test = WorkflowTest(twice)
    run = test.comes(paid, Payment(1), key="o", after=timedelta(days=1)).start("o")
    run.advance(timedelta(days=2))
    assert run.waiting_for == "event paid at key o"
    run.post(paid, Payment(2), key="o")
    assert run.result == [1, 2]


async def test_plain_python_asks_for_the_key() -> None:
    with paid.faked(lambda timeout, key: Payment(len(key))):
        assert await twice("four") == [4, 4]
        with pytest.raises(ValueError, match="1 to 128 bytes"):
            await twice("")
