"""Same id = same run, other input = a conflict, and every bad start is refused with a code."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from dressage.flow import App, workflow
from dressage.protocol.errors import BadInput, DressageError, NotFound, Refused

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

    from dressage.client import Client

app = App("starting")


@app.task
async def double(n: int) -> int:
    return n * 2


@workflow
async def doubled(n: int) -> int:
    return await double(n)


@workflow
async def echoed(text: str, amount: Decimal = Decimal("1.50")) -> str:
    return f"{text} {amount}"


@workflow
async def quoted(text: str) -> str:
    return text


async def test_the_same_id_and_input_again_is_the_same_run(sharded: Engine) -> None:
    client = await sharded.registered(doubled)
    await sharded.worker(app)
    first = await client.start(doubled, {"n": 1}, run_id="order-1")
    again = await client.start(doubled, {"n": 1}, run_id="order-1")
    assert (first.existing, again.existing) == (False, True)
    assert await again.result(5) == await first.result(5) == 2
    assert len([e async for e in client.history("order-1") if e.kind == "run-started"]) == 1


async def test_the_same_id_after_the_end_is_the_same_run(sharded: Engine) -> None:
    client = await sharded.registered(echoed)
    first = await client.start(echoed, {"text": "a"}, run_id="done")
    await first.result(5)
    again = await client.start(echoed, {"text": "a"}, run_id="done")
    assert again.existing
    assert await again.result(5) == "a 1.50"


async def test_fifty_concurrent_starts_of_one_id_from_five_clients_are_one_run(sharded: Engine) -> None:
    client = await sharded.registered(doubled)
    await sharded.worker(app)
    clients = [await sharded.client(f"client-{n}") for n in range(5)]
    handles = await asyncio.gather(
        *(clients[n % 5].start(doubled, {"n": 21}, run_id="race") for n in range(50))
    )
    assert sum(not handle.existing for handle in handles) == 1
    assert set(await asyncio.gather(*(handle.result(5) for handle in handles))) == {42}
    kinds = [event.kind async for event in client.history("race")]
    assert kinds.count("run-started") == kinds.count("task-scheduled") == kinds.count("run-completed") == 1


async def test_the_same_id_across_a_restart_of_the_orchestrator_is_the_same_run(sharded: Engine) -> None:
    client = await sharded.registered(doubled)
    await client.start(doubled, {"n": 1}, run_id="kept")
    await sharded.down()
    await sharded.up()
    again = await client.start(doubled, {"n": 1}, run_id="kept")
    assert again.existing
    await sharded.worker(app)
    assert await again.result(5) == 2


async def test_other_input_across_a_restart_of_the_orchestrator_is_a_conflict(sharded: Engine) -> None:
    client = await sharded.registered(echoed)
    await (await client.start(echoed, {"text": "a"}, run_id="kept")).result(5)
    await sharded.down()
    await sharded.up()
    with pytest.raises(Refused, match="kept") as caught:
        await client.start(echoed, {"text": "b"}, run_id="kept")
    assert caught.value.code == "RUN_ID_CONFLICT"


async def test_other_input_for_the_same_id_is_a_conflict(sharded: Engine) -> None:
    client = await sharded.registered(echoed)
    await client.start(echoed, {"text": "a"}, run_id="one")
    with pytest.raises(Refused) as caught:
        await client.start(echoed, {"text": "b"}, run_id="one")
    assert caught.value.code == "RUN_ID_CONFLICT"
    assert not caught.value.retryable


async def test_another_workflow_for_the_same_id_is_a_conflict(engine: Engine) -> None:
    client = await engine.registered(echoed, quoted)
    await client.start(echoed, {"text": "a"}, run_id="one")
    with pytest.raises(Refused) as caught:
        await client.start(quoted, {"text": "a"}, run_id="one")
    assert caught.value.code == "RUN_ID_CONFLICT"


async def test_the_order_of_keys_in_the_input_makes_no_conflict(engine: Engine) -> None:
    client = await engine.registered(echoed)
    await client.start(echoed, {"text": "a", "amount": "2.00"}, run_id="one")
    again = await client.start(echoed, {"amount": "2.00", "text": "a"}, run_id="one")
    assert again.existing


async def test_a_typed_input_value_and_its_wire_form_are_the_same_input(engine: Engine) -> None:
    client = await engine.registered(echoed)
    await client.start(echoed, {"text": "a", "amount": Decimal("2.00")}, run_id="one")
    again = await client.start("echoed", {"text": "a", "amount": "2.00"}, run_id="one")
    assert again.existing


async def test_a_run_of_an_older_version_is_found_by_a_start_of_the_same_input(engine: Engine) -> None:
    """Same id with the same workflow and input is the same run, also when a newer version was registered since."""

    def versions() -> list[Any]:
        @workflow(name="grown")
        async def one(n: int) -> int:
            return n + 1

        @workflow(name="grown")
        async def two(n: int) -> int:
            return n + 2

        return [one, two]

    one, two = versions()
    client = await engine.registered(one)
    first = await client.start("grown", {"n": 1}, run_id="same")
    await client.register(two)
    again = await client.start("grown", {"n": 1}, run_id="same")
    assert again.existing
    assert await again.result(5) == await first.result(5) == 2


async def test_a_start_without_an_id_gets_a_new_one_each_time(engine: Engine) -> None:
    client = await engine.registered(echoed)
    first = await client.start(echoed, {"text": "a"})
    second = await client.start(echoed, {"text": "a"})
    assert first.run_id != second.run_id


GOOD_RUN_IDS = [
    "a.b.c",
    "with space",
    "*",
    ">",
    "new\nline",
    "größe-日本-🐎",
    "x" * 128,
    "=2E",
    "UPPER",
    "a~b",
    "\t",
    "$SYS",
]


@pytest.mark.parametrize("run_id", GOOD_RUN_IDS, ids=[ascii(run_id)[:20] for run_id in GOOD_RUN_IDS])
async def test_a_run_id_is_free_text_up_to_128_bytes(shared: Engine, run_id: str) -> None:
    client = await shared.registered(quoted)
    handle = await client.start(quoted, {"text": "fine"}, run_id=run_id)
    assert await handle.result(5) == "fine"
    assert (await client.get(run_id)).run_id == run_id
    assert [event.subject async for event in client.history(run_id)] == [run_id] * (
        await client.get(run_id)
    ).events


BAD_RUN_IDS = ["", "x" * 129, "é" * 65, "\ud800"]


@pytest.mark.parametrize(
    "run_id", BAD_RUN_IDS, ids=["empty", "129-bytes", "130-bytes-of-65-letters", "surrogate"]
)
async def test_an_unusable_run_id_is_refused_by_every_call(shared: Engine, run_id: str) -> None:
    client = await shared.registered(quoted)

    async def history() -> None:
        async for _ in client.history(run_id):
            pass

    for call in (
        client.start(quoted, {"text": "no"}, run_id=run_id),
        client.get(run_id),
        client.wait(run_id, timeout_s=2),
        history(),
    ):
        with pytest.raises(BadInput) as caught:
            await call
        assert caught.value.code == "RUN_ID_INVALID"


async def test_a_run_id_of_129_bytes_is_refused_with_its_size_and_the_limit(shared: Engine) -> None:
    client = await shared.registered(quoted)
    with pytest.raises(BadInput, match="129") as caught:
        await client.start(quoted, {"text": "no"}, run_id="x" * 129)
    assert "128" in caught.value.message
    assert caught.value.message.endswith("(limit run-id-size)")


async def test_an_unknown_workflow_is_not_found_and_named(shared: Engine) -> None:
    client = await shared.client()
    with pytest.raises(NotFound, match="no-such-workflow"):
        await client.start("no-such-workflow", {})


async def test_an_unknown_version_is_refused_and_named(shared: Engine) -> None:
    client = await shared.registered(quoted)
    with pytest.raises(DressageError, match="99") as caught:
        await client.start(quoted, {"text": "a"}, version=99)
    assert caught.value.code in {"NOT_FOUND", "WORKFLOW_UNKNOWN"}


@pytest.mark.parametrize("name", ["a.b", "a b", "a*", ">", "Upper", "", "-a", "x" * 64, "ä"])
async def test_a_workflow_name_outside_the_rule_is_refused(shared: Engine, name: str) -> None:
    client = await shared.client()
    with pytest.raises(BadInput) as caught:
        await client.start(name, {})
    assert caught.value.code == "NAME_INVALID"


BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "wrong-type": ({"n": "one"}, "n"),
    "float-for-int": ({"n": 1.5}, "n"),
    "bool-for-int": ({"n": True}, "n"),
    "null": ({"n": None}, "n"),
    "unknown-parameter": ({"n": 1, "other": 2}, "other"),
    "missing-parameter": ({}, "n"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
async def test_input_that_does_not_fit_the_signature_is_refused_by_parameter(
    shared: Engine, case: str
) -> None:
    client = await shared.registered(doubled)
    given, named = BAD_INPUTS[case]
    with pytest.raises(DressageError, match=rf"\b{named}\b") as caught:
        await client.start("doubled", given, run_id=f"bad-{case}")
    assert caught.value.code == "INPUT_INVALID"
    with pytest.raises(NotFound):
        await client.get(f"bad-{case}")


async def test_a_refused_start_leaves_its_id_free(shared: Engine) -> None:
    client = await shared.registered(quoted)
    with pytest.raises(DressageError):
        await client.start("quoted", {"text": 1}, run_id="second-chance")
    assert not (await client.start("quoted", {"text": "a"}, run_id="second-chance")).existing


@pytest.mark.parametrize("given", [[1], "text", 5], ids=["list", "text", "number"])
async def test_input_that_is_no_object_is_refused(shared: Engine, given: Any) -> None:
    client = await shared.registered(doubled)
    with pytest.raises(DressageError) as caught:
        await client.start("doubled", given)
    assert caught.value.code in {"INPUT_INVALID", "BAD_INPUT", "VALUE_INVALID"}


async def test_input_that_json_cannot_say_is_refused(shared: Engine) -> None:
    client = await shared.registered(quoted)
    with pytest.raises(DressageError) as caught:
        await client.start("quoted", {"text": object()})
    assert caught.value.code in {"INPUT_INVALID", "BAD_INPUT", "VALUE_INVALID"}


async def test_an_input_of_2_mb_is_refused_at_once_as_too_large(shared: Engine) -> None:
    client = await shared.registered(quoted)
    with pytest.raises(DressageError) as caught:
        await asyncio.wait_for(client.start(quoted, {"text": "x" * 2_000_000}, run_id="huge"), 5)
    assert caught.value.code == "PAYLOAD_TOO_LARGE"
    assert (await (await client.start(quoted, {"text": "small"}, run_id="huge")).result(5)) == "small"


async def how_it_ended(client: Client, size: int) -> str:
    """The status of a run with an input of `size`, or the code that says why there is none."""
    try:
        await client.start(quoted, {"text": "x" * size}, run_id="large", timeout_s=4)
    except DressageError as error:
        return error.code
    view = await client.wait("large", timeout_s=3)
    return view.status if view.failure is None else view.failure.kind


@pytest.mark.parametrize("size", [200_000, 300_000, 400_000, 600_000, 900_000, 1_040_000])
async def test_a_large_input_ends_with_a_result_or_a_named_limit_and_the_shard_goes_on(
    engine: Engine, size: int
) -> None:
    client = await engine.registered(quoted)
    try:
        assert await how_it_ended(client, size) in {
            "completed",
            "limit",
            "PAYLOAD_TOO_LARGE",
            "INPUT_INVALID",
        }
        await engine.down()
        await engine.up()
        after = await client.start(quoted, {"text": "after"}, timeout_s=3)
        assert await after.result(3) == "after"
    finally:
        crash = engine.crash()
    assert crash is None
