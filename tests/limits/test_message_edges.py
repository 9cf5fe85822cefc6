"""Each limit of names, ids, texts and messages at its edge: as much is taken, one more is refused or cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest
from tests.limits.specs import expr  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import Delivery
from dressage.brokers.provision import Namespace
from dressage.connectors.dead_letter import HEADERS_BYTES_MAX, REASON_CHARS_MAX, dead_letter
from dressage.orchestrator.api_messages import StartRequest
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.outcome import Stamp
from dressage.orchestrator.growth import require_more
from dressage.orchestrator.operations import read_request
from dressage.orchestrator.service import PAYLOAD_BYTES_MIN, require_payload
from dressage.orchestrator.turn.asking import read_ask
from dressage.orchestrator.turn.reading import Unreadable, read_command, read_place
from dressage.protocol.commands import (
    REASON_BYTES_MAX,
    CancelRun,
    StartRun,
    TaskResult,
    WorkerInfo,
    encoder,
)
from dressage.protocol.errors import BadInput, BadName, BadRunId, DressageError
from dressage.protocol.names import (
    ACTOR_CHARS_MAX,
    NAME_CHARS_MAX,
    REPLY_CHARS_MAX,
    RUN_ID_BYTES_MAX,
    Names,
    check_actor,
    check_name,
    check_run_id,
    is_name,
    is_reply_subject,
    run_id_of,
    run_token,
)
from dressage.protocol.nesting import COMMAND_DEPTH_MAX
from dressage.protocol.shardmap import SHARDS_MAX, ShardMap
from dressage.protocol.spec import RegisteredWorkflow, ReturnNode, SleepNode, WorkflowSpec
from dressage.protocol.types import ANY
from dressage.worker.calls import MESSAGE_CHARS_MAX, TRACEBACK_CHARS_MAX, technical

NULL: Final = msgspec.Raw(b"null")


def delivery(data: bytes, headers: dict[str, str] | None = None) -> Delivery:
    return Delivery("dressage.default.0.cmd.r", data, headers, 5, 1, 1, 10**18, "$JS.ACK")


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


# -- names and ids ---------------------------------------------------------------------------------
@pytest.mark.limit("protocol.names.NAME_CHARS_MAX")
def test_a_name() -> None:
    assert check_name("a" * NAME_CHARS_MAX, "workflow") == "a" * NAME_CHARS_MAX
    assert not is_name("a" * (NAME_CHARS_MAX + 1))
    with pytest.raises(BadName, match=rf"1 to {NAME_CHARS_MAX} characters.*\(limit name-size\)$"):
        check_name("a" * (NAME_CHARS_MAX + 1), "workflow")


@pytest.mark.limit("protocol.names.RUN_ID_BYTES_MAX")
@pytest.mark.parametrize("letter", ["a", "é", " ", "*"])
def test_a_run_id(letter: str) -> None:
    """In UTF-8, however long its token in a subject is."""
    run_id = letter * (RUN_ID_BYTES_MAX // len(letter.encode()))
    assert check_run_id(run_id) == run_id
    assert run_id_of(run_token(run_id)) == run_id
    for wrong in (run_id + "a", ""):
        with pytest.raises(BadRunId, match=rf"{RUN_ID_BYTES_MAX} .*\(limit run-id-size\)$"):
            check_run_id(wrong)
    token = "".join(f"={byte:02X}" if letter != "a" else chr(byte) for byte in (letter * 129).encode())
    with pytest.raises(Unreadable, match=r"\(limit run-id-size\)$") as refused:
        read_place(token)
    assert refused.value.code == "RUN_ID_INVALID"


@pytest.mark.limit("protocol.names.ACTOR_CHARS_MAX")
def test_an_actor() -> None:
    longest = "é" * ACTOR_CHARS_MAX
    assert check_actor(longest) == longest
    with pytest.raises(BadInput, match=rf"at most {ACTOR_CHARS_MAX} .*\(limit actor-size\)$") as refused:
        check_actor(longest + "é")
    assert refused.value.code == "ACTOR_INVALID"


IDS: Final[dict[str, Callable[[str], Any]]] = {
    "the actor of a start": lambda text: StartRun("w", 1, NULL, "c", text),
    "the id of a start": lambda text: StartRun("w", 1, NULL, text),
    "the id of an attempt": lambda text: TaskResult(text, WorkerInfo("w", 1.0), NULL),
    "the identity of a worker": lambda text: TaskResult("t", WorkerInfo(text, 1.0), NULL),
    "the id of a cancel": CancelRun,
}


@pytest.mark.limit("protocol.names.ACTOR_CHARS_MAX")
@pytest.mark.parametrize("case", IDS)
def test_an_id_in_a_command(case: str) -> None:
    """Who sends commands without our client is told the same limit."""
    fits = IDS[case]("é" * ACTOR_CHARS_MAX)
    assert read_command(delivery(encoder.encode(fits))) == fits
    with pytest.raises(Unreadable, match=rf"<= {ACTOR_CHARS_MAX} .*\(limit actor-size\)$") as refused:
        read_command(delivery(encoder.encode(IDS[case]("é" * (ACTOR_CHARS_MAX + 1)))))
    assert refused.value.code == "COMMAND_MALFORMED"


@pytest.mark.limit("protocol.commands.REASON_BYTES_MAX")
def test_the_reason_of_a_cancel() -> None:
    spec = WorkflowSpec(1, "w", (), ANY, (SleepNode(expr("1"), 1), ReturnNode()))
    definition = Definition(RegisteredWorkflow(spec, 1, spec.digest()))
    state = fold(None, StartRun("w", 1, msgspec.Raw(b"{}"), "c"), "r", Stamp(1, 1), definition).state
    longest = "é" * (REASON_BYTES_MAX // 2)
    refused = fold(state, CancelRun("d", longest + "e"), "r", Stamp(2, 2), definition)
    assert refused.code == "REASON_TOO_LONG"
    assert refused.message.endswith("(limit reason-size)")
    assert str(REASON_BYTES_MAX) in refused.message
    assert fold(state, CancelRun("d", longest), "r", Stamp(3, 3), definition).code is None


@pytest.mark.limit("protocol.names.REPLY_CHARS_MAX")
def test_the_subject_of_an_answer() -> None:
    assert is_reply_subject("a" * REPLY_CHARS_MAX)
    assert not is_reply_subject("a" * (REPLY_CHARS_MAX + 1))


# -- a namespace -----------------------------------------------------------------------------------
@pytest.mark.limit("protocol.shardmap.SHARDS_MAX")
def test_the_shards_of_a_namespace() -> None:
    require_more(Namespace(1), SHARDS_MAX)
    with pytest.raises(BadInput, match=rf"more than {SHARDS_MAX}.*\(limit shards\)$") as refused:
        require_more(Namespace(1), SHARDS_MAX + 1)
    assert refused.value.code == "SHARDS_MANY"


@pytest.mark.limit("protocol.shardmap.SHARDS_MAX")
def test_the_shards_of_a_map_that_somebody_sent() -> None:
    text = '{{"generation":2,"shards":{}}}'
    fits = msgspec.json.decode(text.format(SHARDS_MAX).encode(), type=ShardMap)
    assert fits.shards == SHARDS_MAX
    with pytest.raises(msgspec.ValidationError, match=f"<= {SHARDS_MAX}"):
        msgspec.json.decode(text.format(SHARDS_MAX + 1).encode(), type=ShardMap)


# -- messages --------------------------------------------------------------------------------------
@pytest.mark.limit("orchestrator.service.PAYLOAD_BYTES_MIN")
def test_a_servers_max_payload() -> None:
    require_payload(PAYLOAD_BYTES_MIN)
    with pytest.raises(
        DressageError, match=rf"below the {PAYLOAD_BYTES_MIN} .*limit payload-size"
    ) as refused:
        require_payload(PAYLOAD_BYTES_MIN - 1)
    assert refused.value.code == "PAYLOAD_LIMIT_TOO_SMALL"


@pytest.mark.limit("protocol.nesting.COMMAND_DEPTH_MAX")
def test_how_deep_a_command_nests() -> None:
    command = b'{"type":"task-result","task_id":"t","by":{"worker":"w","duration_ms":1.0},"output":%b}'
    fits = read_command(delivery(command % nested(COMMAND_DEPTH_MAX - 1)))
    assert isinstance(fits, TaskResult)
    with pytest.raises(Unreadable, match=rf"{COMMAND_DEPTH_MAX} levels.*\(limit command-depth\)$") as refused:
        read_command(delivery(command % nested(COMMAND_DEPTH_MAX)))
    assert refused.value.code == "COMMAND_MALFORMED"


@pytest.mark.limit("protocol.nesting.COMMAND_DEPTH_MAX")
def test_how_deep_a_request_nests() -> None:
    request = b'{"workflow":"w","input":%b}'
    assert read_request("start", StartRequest, request % nested(COMMAND_DEPTH_MAX - 1)).workflow == "w"
    with pytest.raises(BadInput, match=rf"{COMMAND_DEPTH_MAX} levels.*\(limit command-depth\)$") as refused:
        read_request("start", StartRequest, request % nested(COMMAND_DEPTH_MAX))
    assert refused.value.code == "REQUEST_MALFORMED"


@pytest.mark.limit("protocol.nesting.COMMAND_DEPTH_MAX")
def test_how_deep_a_question_nests() -> None:
    question = b'{"op":"get","run_id":"r","more":%b}'
    assert read_ask(question % nested(COMMAND_DEPTH_MAX - 1))[1] == "r"
    with pytest.raises(BadInput, match=rf"{COMMAND_DEPTH_MAX} levels.*\(limit command-depth\)$"):
        read_ask(question % nested(COMMAND_DEPTH_MAX))


# -- what is cut -----------------------------------------------------------------------------------
def letter(reason: str = "", headers: dict[str, str] | None = None) -> dict[str, str]:
    message = dead_letter(
        Names(), "t", "S", delivery(b"{", headers), "CODE", reason, payload_bytes_max=1024 * 1024
    )
    return dict(message.headers or {})


@pytest.mark.limit("connectors.dead_letter.REASON_CHARS_MAX")
def test_the_reason_of_a_dead_letter() -> None:
    longest = "x" * REASON_CHARS_MAX
    assert letter(longest)["Dressage-Reason"] == longest
    assert letter(longest + "x")["Dressage-Reason"] == longest[:-3] + "..."


@pytest.mark.limit("connectors.dead_letter.HEADERS_BYTES_MAX")
def test_the_headers_of_a_dead_letter() -> None:
    around = len("Dressage-Original-A") + len(": \r\n")
    fits = letter(headers={"A": "x" * (HEADERS_BYTES_MAX - around)})
    assert len(fits["Dressage-Original-A"]) + around == HEADERS_BYTES_MAX
    assert "Dressage-Headers-Dropped" not in fits
    beyond = letter(headers={"A": "x" * (HEADERS_BYTES_MAX - around + 1)})
    assert beyond["Dressage-Headers-Dropped"] == "1"
    assert "Dressage-Original-A" not in beyond


@pytest.mark.limit("worker.calls.MESSAGE_CHARS_MAX")
def test_the_message_of_an_exception() -> None:
    assert technical(ValueError("x" * MESSAGE_CHARS_MAX)).message == "x" * MESSAGE_CHARS_MAX
    cut = technical(ValueError("x" * (MESSAGE_CHARS_MAX + 1))).message
    assert len(cut) == MESSAGE_CHARS_MAX
    assert cut.endswith("...")


@pytest.mark.limit("worker.calls.TRACEBACK_CHARS_MAX")
def test_the_traceback_of_an_exception() -> None:
    """Its end is kept: that is where it happened."""
    whole = json.loads(bytes(technical(ValueError("x")).details))["traceback"]  # type: ignore[arg-type]
    room = TRACEBACK_CHARS_MAX - len(whole) + 1
    fits = json.loads(bytes(technical(ValueError("x" * room)).details))["traceback"]  # type: ignore[arg-type]
    assert len(fits) == TRACEBACK_CHARS_MAX
    assert fits.startswith("ValueError: x")
    cut = json.loads(bytes(technical(ValueError("x" * (room + 1))).details))["traceback"]  # type: ignore[arg-type]
    assert len(cut) == TRACEBACK_CHARS_MAX
    assert cut.startswith("...")
