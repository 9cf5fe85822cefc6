"""The edges of docs/limits.md as a user meets them: so much is taken, one more is refused by figure and name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import nats.errors
import pytest

from dressage.brokers.embedded import EmbeddedServer
from dressage.client import Client, RunFailed
from dressage.expressions.limits import VALUE_MAX_WEIGHT
from dressage.flow import App, Limits, sleep, workflow
from dressage.protocol.errors import DressageError
from dressage.protocol.names import NAME_CHARS_MAX, RUN_ID_BYTES_MAX

if TYPE_CHECKING:
    from tests.acceptance.conftest import Engine, Scraped  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

STEPS: Final = 100
HISTORY: Final = 8
VALUE_BYTES: Final = 2_000
LONGEST_NAME: Final = "n" * NAME_CHARS_MAX
LONGEST_RUN_IDS: Final = ["é" * (RUN_ID_BYTES_MAX // 2), "*" * RUN_ID_BYTES_MAX, ".> " * 42 + "\r\n"]

app = App(LONGEST_NAME)


@app.task
async def repeated(text: str, times: int) -> str:
    return text * times


@workflow
async def whatever(value: Any) -> Any:
    return value


@workflow(limits=Limits(steps_per_command=STEPS))
async def stepping(rounds: int) -> int:
    while rounds > 0:
        rounds = rounds - 1
    return rounds


@workflow(limits=Limits(value_bytes=VALUE_BYTES))
async def frugal(text: str, times: int) -> str:
    return text * times


@workflow(limits=Limits(value_bytes=VALUE_BYTES))
async def asking(text: str, times: int) -> int:
    answer = await repeated(text, times)
    return len(answer)


@workflow(limits=Limits(history_events=HISTORY))
async def waiting(naps: int) -> int:
    while naps > 0:
        await sleep(0.001)
        naps = naps - 1
    return naps


@workflow(name=LONGEST_NAME)
async def longest(text: str) -> str:
    return await repeated(text, 1)


@workflow
async def napping(seconds: float) -> str:
    await sleep(seconds)
    return "rested"


@workflow
async def doubling(seed: str) -> int:
    text = seed
    while True:
        text = text + text


@workflow
async def multiplying(seed: str) -> int:
    times = 10
    while True:
        times = times * times


@workflow
async def nesting(seed: str) -> int:
    items: list[Any] = []
    while True:
        items = [items, items]


@workflow
async def spinning(seed: str) -> int:
    rounds = 0
    while seed != "":
        rounds = 1 - rounds
    return rounds


@pytest.fixture
async def client(shared: Engine) -> Client:
    return await shared.registered(
        whatever,
        stepping,
        frugal,
        asking,
        waiting,
        longest,
        napping,
        doubling,
        multiplying,
        nesting,
        spinning,
    )


async def goes_on(client: Client) -> None:
    assert await (await client.start(whatever, {"value": "still here"})).result(10) == "still here"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# -- what starts a run -----------------------------------------------------------------------------
INPUT_BYTES: Final = 256 * 1024


def plain(output: object) -> Any:
    assert isinstance(output, msgspec.Raw), output
    return msgspec.json.decode(output)


def compact(request: dict[str, Any]) -> bytes:
    """JSON without the spaces that Python writes otherwise: what is sent is what is counted."""
    return msgspec.json.encode(request)


@dataclass(frozen=True)
class Edge:
    """A request that is just taken, the same with one more, and what the refusal must say."""

    limit: str
    figure: int
    request: Callable[[int], dict[str, Any]]
    """A start whose size is `figure`, or one more."""


def sized(size: int) -> dict[str, Any]:
    """An input of exactly so many bytes of JSON."""
    empty = len(msgspec.json.encode({"value": ""}))
    return {"workflow": "whatever", "input": {"value": "x" * (size - empty)}}


EDGES: Final = [
    Edge("input-size", INPUT_BYTES, sized),
    Edge("run-id-size", RUN_ID_BYTES_MAX, lambda size: {**sized(50), "run_id": "." * size}),
    Edge(
        "run-id-size", RUN_ID_BYTES_MAX, lambda size: {**sized(50), "run_id": "é" * 63 + "." * (size - 126)}
    ),
    Edge("actor-size", 512, lambda size: {**sized(50), "actor": "é" * size}),
    Edge("value-depth", 64, lambda levels: {"workflow": "whatever", "input": {"value": nested(levels - 1)}}),
]


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.limit)
async def test_a_start_at_its_limit_is_taken_and_beyond_it_refused_by_name_and_figure(
    shared: Engine, client: Client, edge: Edge
) -> None:
    taken = await shared.call("start", compact(edge.request(edge.figure)))
    assert taken["ok"], taken
    view = await client.wait(taken["run_id"], timeout_s=10)
    assert view.status == "completed", view.failure
    beyond = await shared.call("start", compact(edge.request(edge.figure + 1)))
    assert not beyond["ok"], "one more than the limit was taken"
    assert f"(limit {edge.limit})" in beyond["message"]
    assert str(edge.figure) in beyond["message"]
    assert not beyond["retryable"]
    refused = edge.request(edge.figure + 1)
    with pytest.raises(DressageError) as caught:
        await client.start(
            refused["workflow"],
            refused["input"],
            run_id=refused.get("run_id"),
            actor=refused.get("actor", ""),
        )
    assert caught.value.code == beyond["code"], "the client and the micro service agree"
    await goes_on(client)


# -- what a run does -------------------------------------------------------------------------------
async def fails_at(client: Client, started: Any, **arguments: Any) -> str:
    with pytest.raises(RunFailed) as caught:
        await (await client.start(started, arguments)).result(10)
    assert caught.value.failure.kind == "limit"
    message = caught.value.failure.message
    assert f"(limit {caught.value.failure.name})" in message
    return message


async def edge_of(passes: Callable[[int], Any], low: int, high: int) -> int:
    """The largest size that passes, between one that does and one that does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if await passes(middle) else (low, middle)
    return low


@pytest.mark.parametrize(
    ("name", "figure", "most"),
    [("stepping", STEPS, STEPS), ("waiting", HISTORY, HISTORY), ("frugal", VALUE_BYTES, VALUE_BYTES * 2)],
)
async def test_a_run_ends_at_one_exact_figure_which_its_failure_names(
    client: Client, name: str, figure: int, most: int
) -> None:
    def arguments(size: int) -> dict[str, Any]:
        each: dict[str, dict[str, Any]] = {
            "stepping": {"rounds": size},
            "waiting": {"naps": size},
            "frugal": {"text": "x", "times": size},
        }
        return each[name]

    async def passes(size: int) -> bool:
        handle = await client.start(name, arguments(size))
        return (await client.wait(handle.run_id, timeout_s=10)).status == "completed"

    assert await passes(0)
    assert not await passes(most)
    largest = await edge_of(passes, 0, most)
    assert await passes(largest), "the same again comes to the same end"
    assert str(figure) in (await fails_at(client, name, **arguments(largest + 1))).replace(",", "")
    if name == "frugal":
        assert largest == figure - len('""'), "the output's JSON has exactly as many bytes as its limit"
    await goes_on(client)


async def test_arguments_and_results_at_their_limit_and_beyond(shared: Engine, client: Client) -> None:
    await shared.worker(app)
    most = VALUE_BYTES - len('""')
    assert await (await client.start(asking, {"text": "x", "times": most})).result(10) == most
    message = await fails_at(client, asking, text="x", times=most + 1)
    assert "result-size" in message
    assert str(VALUE_BYTES) in message
    around = len(json.dumps({"text": "", "times": 1}, separators=(",", ":")))
    fits = "y" * (VALUE_BYTES - around)
    assert await (await client.start(asking, {"text": fits, "times": 1})).result(10) == len(fits)
    # The input has the same limit and the same names, so it is refused before the call could be.
    beyond = await shared.call("start", {"workflow": "asking", "input": {"text": fits + "y", "times": 1}})
    assert (beyond["ok"], beyond["code"]) == (False, "INPUT_INVALID")
    assert str(VALUE_BYTES) in beyond["message"]


# -- names and ids that are as long as they may be --------------------------------------------------
@pytest.fixture
async def longest_namespace(server: EmbeddedServer) -> AsyncIterator[Engine]:
    from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

    made = Engine(server.url, 2, namespace=LONGEST_NAME)
    await made.up()
    yield made
    await made.close()


async def test_the_longest_names_and_run_ids_work_together(longest_namespace: Engine) -> None:
    client = await longest_namespace.registered(longest)
    await longest_namespace.worker(app)
    for run_id in LONGEST_RUN_IDS:
        handle = await client.start(longest, {"text": run_id}, run_id=run_id)
        assert await handle.result(10) == run_id
        events = [event async for event in client.history(run_id)]
        assert {event.subject for event in events} == {run_id}
        assert (await longest_namespace.call("get", {"run_id": run_id}))["run"]["run_id"] == run_id
    await longest_namespace.down()
    await longest_namespace.up()
    for run_id in LONGEST_RUN_IDS:
        assert plain((await client.get(run_id)).output) == run_id


async def test_run_ids_that_look_like_subjects_are_runs_of_their_own(shared: Engine, client: Client) -> None:
    """If one of them were read as a wildcard or as another's encoding, two would meet."""
    strange = [
        "a.b",
        "a.*",
        "a.>",
        "*",
        ">",
        "a b",
        "a",
        "=2E",
        "a=2Eb",
        "a\x00b",
        "a\tb",
        "A",
        "$JS.API",
        "../a",
    ]
    for number, run_id in enumerate(strange):
        await client.start(whatever, {"value": number}, run_id=f"meet:{run_id}")
    for number, run_id in enumerate(strange):
        found = await shared.call("wait", {"run_id": f"meet:{run_id}"})
        assert (found["ok"], found["run"]["run_id"], found["run"]["output"]) == (
            True,
            f"meet:{run_id}",
            number,
        )
        history = await shared.call("history", {"run_id": f"meet:{run_id}"})
        assert {event["subject"] for event in history["events"]} == {f"meet:{run_id}"}


@pytest.mark.parametrize("run_id", ["", "x" * (RUN_ID_BYTES_MAX + 1), "\ud800", 7, None, ["a"]])
async def test_what_is_no_run_id_is_refused_by_every_operation(
    shared: Engine, client: Client, run_id: Any
) -> None:
    is_text = isinstance(run_id, str) and run_id != "\ud800"
    for operation in ("get", "wait", "history", "cancel"):
        answer = await shared.call(operation, {"run_id": run_id})
        assert not answer["ok"], operation
        assert answer["code"] == ("RUN_ID_INVALID" if is_text else "REQUEST_MALFORMED"), operation
    if isinstance(run_id, str):
        with pytest.raises(DressageError) as caught:
            await client.get(run_id)
        assert caught.value.code == "RUN_ID_INVALID"


@pytest.mark.parametrize("name", ["a.b", "*", ">", "a b", "$JS", "", "x" * 64, "A", "a\nb", "\u202e"])
def test_a_namespace_outside_the_rule_is_refused_by_the_client(name: str) -> None:
    with pytest.raises(DressageError, match=rf"{NAME_CHARS_MAX} characters .*\(limit name-size\)"):
        Client("nats://127.0.0.1:1", namespace=name)


# -- more than a message ---------------------------------------------------------------------------
def test_an_input_beyond_the_message_limit_is_refused_to_who_typed_it(
    server: EmbeddedServer, start: Start, tmp_path: Path, served: Engine
) -> None:
    (tmp_path / "input.json").write_text(json.dumps({"value": "x" * (3 * 1024 * 1024)}))
    program = start(
        *("run", "start", "whatever", "--input", f"@{tmp_path / 'input.json'}", "--run-id", "too-much"),
        *("--server", server.url, "--namespace", served.namespace),
    )
    assert program.ended() == 1
    assert program.said.startswith("PAYLOAD_TOO_LARGE: ")
    assert "(limit payload-size)" in program.said
    assert "Traceback" not in program.said


async def test_a_request_beyond_the_message_limit_never_leaves_its_sender(
    shared: Engine, client: Client
) -> None:
    connection = await shared.nats()
    with pytest.raises(nats.errors.MaxPayloadError):
        await shared.call("start", {"workflow": "whatever", "input": {"value": "x" * connection.max_payload}})
    await goes_on(client)


@pytest.mark.parametrize("spare", [0, 1, 100, 5_000])
async def test_a_raw_command_that_just_fits_into_a_message_is_answered(
    shared: Engine, client: Client, spare: int
) -> None:
    """The engine's own messages repeat it and have headers of their own: it must not choke on what it let in."""
    connection = await shared.nats()
    inbox = connection.new_inbox()
    headers = len(f"NATS/1.0\r\nDressage-Reply: {inbox}\r\n\r\n")
    command = {
        "type": "start-run",
        "workflow": "whatever",
        "version": 1,
        "command_id": "c",
        "input": {"value": ""},
    }
    room = connection.max_payload - headers - len(compact(command)) - spare
    command["input"] = {"value": "x" * room}
    answer = await shared.send_raw(f"just-fits-{spare}", compact(command))
    assert (answer["accepted"], answer["code"]) == (False, "INPUT_INVALID")
    assert "(limit input-size)" in answer["message"]
    await goes_on(client)


ODD_REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "start": {"version": [0, -1, 10**30, 1.5, "A"], "timeout_s": [-1, "x", -1e308], "priority": [1]},
    "wait": {"timeout_s": [-1, "x"]},
    "history": {"after": ["0", 1.5], "limit": [0, -1]},
}


@pytest.mark.parametrize(
    ("operation", "member", "value"),
    [
        (operation, member, value)
        for operation, members in ODD_REQUESTS.items()
        for member, values in members.items()
        for value in values
    ],
)
async def test_a_request_with_a_figure_that_means_nothing_is_refused(
    shared: Engine, client: Client, operation: str, member: str, value: Any
) -> None:
    await client.start(whatever, {"value": 1}, run_id="odd")
    request: dict[str, Any] = {"run_id": "odd", member: value}
    if operation == "start":
        request = {"workflow": "whatever", "input": {"value": 2}, member: value}
    answer = await shared.call(operation, request)
    assert not answer["ok"], answer
    assert answer["code"] != "INTERNAL"
    assert answer["message"]
    await goes_on(client)


# -- specs that burn -------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["doubling", "multiplying", "nesting", "spinning"])
async def test_what_burns_cpu_or_memory_fails_alone_and_the_same_way_each_time(
    shared: Engine, client: Client, name: str
) -> None:
    rested = [await client.start(napping, {"seconds": 0.05}) for _ in range(6)]
    burning = await asyncio.gather(*(client.start(name, {"seed": "x"}) for _ in range(6)))
    beside = [await client.start(whatever, {"value": number}) for number in range(6)]
    assert await asyncio.gather(*(each.result(20) for each in beside)) == list(range(6))
    assert await asyncio.gather(*(each.result(20) for each in rested)) == ["rested"] * 6
    ends = [await client.wait(each.run_id, timeout_s=20) for each in burning]
    assert {end.status for end in ends} == {"failed"}
    failures = {(end.failure.kind, end.failure.name, end.failure.message) for end in ends if end.failure}
    assert len(failures) == 1, "where it stops depends on the spec alone"
    ((kind, limit, message),) = failures
    assert kind == "limit"
    assert f"(limit {limit})" in message
    assert any(letter.isdigit() for letter in message), "the figure"


def peak_bytes(pid: int) -> int:
    """The most memory that the process has ever had."""
    (line,) = [
        each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


async def test_an_orchestrator_keeps_its_size_whatever_runs_make_of_their_variables(scraped: Scraped) -> None:
    """Many times what one value may weigh, and far below what the loops would make if nobody stopped them."""
    client = await scraped.engine.registered(whatever, doubling, multiplying, nesting, spinning)
    for number in range(50):
        await client.start(whatever, {"value": "x" * 100_000}, run_id=f"before-{number}")
    before = peak_bytes(scraped.program.pid)
    for _ in range(3):
        handles = [
            await client.start(each, {"seed": "x"}) for each in (doubling, multiplying, nesting, spinning)
        ]
        for handle in handles:
            assert (await client.wait(handle.run_id, timeout_s=20)).status == "failed"
    assert peak_bytes(scraped.program.pid) - before < 100 * VALUE_MAX_WEIGHT
    assert scraped.program.process.poll() is None
    await goes_on(client)


# -- open runs -------------------------------------------------------------------------------------
async def test_as_many_runs_may_be_open_as_was_said_and_one_more_when_one_has_ended(
    engine: Engine, start: Start
) -> None:
    client = await engine.registered(napping)

    def limit(figure: int) -> None:
        program = start(
            *("shards", "limit", "--open-runs", str(figure)),
            *("--server", engine.url, "--namespace", engine.namespace),
        )
        assert program.ended() == 0, program.said

    await asyncio.to_thread(limit, 3)
    refused: DressageError | None = None
    opened: list[str] = []
    async with asyncio.timeout(20):
        while refused is None:  # The limit holds from the next heartbeat on.
            try:
                opened.append((await client.start(napping, {"seconds": 3600})).run_id)
                await asyncio.sleep(0.1)
            except DressageError as error:
                refused = error
    assert refused.code == "OPEN_RUNS"
    assert "(limit open-runs)" in refused.message
    assert "3" in refused.message
    answer = await engine.call("start", {"workflow": "napping", "input": {"seconds": 1}, "run_id": "again"})
    assert (answer["ok"], answer["code"]) == (False, "OPEN_RUNS")
    again = await engine.call(
        "start", {"workflow": "napping", "input": {"seconds": 3600}, "run_id": opened[0]}
    )
    assert (again["ok"], again["existing"]) == (True, True), "one that runs already is no further run"
    for run_id in opened:
        await client.cancel(run_id)
    for number in range(3):
        await client.start(napping, {"seconds": 3600}, run_id="again" if number == 0 else f"again-{number}")
    with pytest.raises(DressageError) as caught:
        await client.start(napping, {"seconds": 3600}, run_id="one-more")
    assert caught.value.code == "OPEN_RUNS"
