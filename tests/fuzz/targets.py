"""Every decoder of bytes from outside, as a function that anything may be given to.

A target raises only when a promise is broken: an error that is none of ours, or a value that comes back as another.
Hypothesis runs the targets in the test suite, and atheris runs them guided by coverage (`make fuzz`).
"""

from __future__ import annotations

import contextlib
import hmac
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from dressage.brokers.interface import Delivery, StoredMessage
from dressage.brokers.jetstream.wire import LazyHeaders, parse_headers
from dressage.connectors.config import parse_triggers
from dressage.connectors.mapping import EventMapping, Start, Unmappable
from dressage.connectors.tables import ConfigInvalid
from dressage.connectors.webhooks.config import parse_webhooks
from dressage.connectors.webhooks.verify import HmacSha256, Standard, Stripe
from dressage.expressions import (
    ExpressionFailed,
    LimitExceeded,
    TypeTable,
    compile_expression,
    decode_stored,
    encode_stored,
    parse_expression,
)
from dressage.expressions.large import LargeValue
from dressage.expressions.masked import MaskedValue
from dressage.expressions.opaque import OpaqueValue
from dressage.flow import App
from dressage.orchestrator.api_messages import PutWorkflowRequest
from dressage.orchestrator.fold.definition import Definition, EventDefinition
from dressage.orchestrator.fold.effects import SendCommand
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.mailbox import fold_key
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import RunState, State, decode_state, encode_state
from dressage.orchestrator.membership import decode_heartbeat
from dressage.orchestrator.operations import OPERATIONS, read_request
from dressage.orchestrator.turn.asking import read_ask
from dressage.orchestrator.turn.definitions import load_definition, load_event
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.reading import Unreadable, read_command, read_place, token_of
from dressage.orchestrator.turn.records import decode_cursor, decode_fence, decode_position, encode
from dressage.orchestrator.turn.routing import route
from dressage.orchestrator.turn.runs import read_state
from dressage.protocol.commands import (
    AskAnswer,
    AwaitEvent,
    Command,
    PostEvent,
    ReturnEvent,
    StartRun,
    TaskMessage,
    TaskResult,
    encoder,
)
from dressage.protocol.errors import (
    BadInput,
    BadName,
    BadRunId,
    BadSpec,
    BadValue,
    BrokerError,
    DefinitionError,
)
from dressage.protocol.events import decode_event
from dressage.protocol.large import LARGE_VALUE_BYTES_MAX, Reference, reference_json, reference_of
from dressage.protocol.names import (
    Names,
    check_name,
    check_run_id,
    is_reply_subject,
    key_token,
    marks_token,
    place_of,
    run_id_of,
    run_token,
    shard_of,
)
from dressage.protocol.nesting import nests_deeper
from dressage.protocol.shardmap import ShardMap, decode_map, forwarded_generation
from dressage.protocol.spec import (
    AssignNode,
    EventDef,
    RegisteredEvent,
    RegisteredWorkflow,
    ReturnNode,
    TaskDef,
    TaskNode,
    WorkflowSpec,
)
from dressage.protocol.spec_reading import read_registered, read_spec
from dressage.protocol.traces import trace_of_run, usable_trace
from dressage.protocol.types import (
    ANY,
    NONE,
    DictOf,
    EnumMember,
    EnumType,
    Field,
    LargeOf,
    ListOf,
    LiteralOf,
    MaskedOf,
    Named,
    RecordType,
    Scalar,
    SetOf,
    TupleOf,
    TypeRef,
    UnionOf,
)

Target = Callable[[bytes], None]
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What a plain msgspec decoder may raise; whoever uses one of these catches all three."""


def must(holds: bool, what: str) -> None:
    """For promises about an error that was raised."""
    if not holds:
        raise AssertionError(what)


def delivered(data: bytes, subject: str = "dressage.x.0.cmd.r", headers: bytes = b"") -> Delivery:
    return Delivery(subject, data, LazyHeaders(headers) if headers else None, 5, 1, 1, 10**18, "$JS.ACK")


def same(left: Any, right: Any) -> bool:
    """Equal, of equal types throughout; a nan is itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, OpaqueValue):
        return same(left.inside, right.inside)
    if isinstance(left, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, Decimal):
        return str(left) == str(right)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(*pair) for pair in zip(left, right, strict=True))
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            same(*pair) for pair in zip(left.items(), right.items(), strict=True)
        )
    if isinstance(left, msgspec.Struct):
        return all(same(getattr(left, name), getattr(right, name)) for name in left.__struct_fields__)
    if isinstance(left, set):
        return {repr(item) for item in left} == {repr(item) for item in right}
    return bool(left == right)


# -- commands --------------------------------------------------------------------------------------
def commands(data: bytes) -> None:
    try:
        command = read_command(delivered(data))
    except Unreadable as refused:
        must(refused.code == "COMMAND_MALFORMED", refused.code)
        return
    assert read_command(delivered(encoder.encode(command))) == command


def headers(data: bytes) -> None:
    found = parse_headers(data) or {}
    lazy = LazyHeaders(data)
    assert dict(lazy) == found
    for name in ("Dressage-Reply", "Dressage-Forwarded"):
        value = lazy.get(name)
        assert forwarded_generation(value) >= 0
        if value is not None and is_reply_subject(value):
            assert not set(value) & set(" \t\r\n*>\x00")
            assert not value.startswith(("$", "dressage."))
            assert ".." not in value


ORDER: Final = RecordType(
    "Order",
    (
        Field("id", Scalar("str")),
        Field("price", Scalar("decimal"), False, msgspec.Raw(b'{"$decimal":"1"}')),
        Field("tags", SetOf(Scalar("int")), False, msgspec.Raw(b'{"$set":[]}')),
        Field("at", UnionOf((Scalar("datetime"), Scalar("none"))), False, msgspec.Raw(b"null")),
    ),
)
COLOR: Final = EnumType("Color", (EnumMember("RED", "red"), EnumMember("BLUE", "blue")))
PAIR: Final = RecordType(
    "Pair",
    (Field("x", Scalar("float")), Field("at", Scalar("date"), False, msgspec.Raw(b'{"$date":"2026-01-01"}'))),
    "tuple",
)
KEYS: Final = RecordType(
    "Keys",
    (
        Field("pin", MaskedOf(Scalar("decimal"))),
        Field("pair", UnionOf((Named("Pair"), NONE)), required=False),
    ),
    "dict",
)
TABLE: Final = TypeTable((ORDER, COLOR, PAIR, KEYS))
SPEC: Final = WorkflowSpec(
    1,
    "fuzzed",
    (
        Field("order", Named("Order")),
        Field("rest", ANY, False, msgspec.Raw(b"null")),
        Field("keys", UnionOf((Named("Keys"), NONE)), False, msgspec.Raw(b"null")),
    ),
    ANY,
    (
        TaskNode("work", {"x": parse_expression("order", ["order"])}, 1, target="r"),
        AssignNode("s", parse_expression("f'{r} {order.price:.2f}'", ["r", "order"]), 2),
        ReturnNode(parse_expression("[s, r, rest]", ["s", "r", "rest"])),
    ),
    tasks=(TaskDef("work", (Field("x", Named("Order")),), UnionOf((Scalar("int"), ListOf(ANY)))),),
    types=(ORDER, COLOR, PAIR, KEYS),
)
DEFINITION: Final = Definition(RegisteredWorkflow(SPEC, 1, SPEC.digest()))
STARTED: Final = fold(
    None,
    StartRun("fuzzed", 1, msgspec.Raw(b'{"order":{"id":"a"}}'), "c"),
    "r",
    Stamp(1, 1000),
    DEFINITION,
).run
NAMES: Final = Names("fuzzed")
KEY: Final = key_token("fuzzed", "k")
KEYED: Final = EventDefinition(RegisteredEvent(EventDef("fuzzed", ANY), (), 1, ""))
MARKED: Final = marks_token("fuzzed", "k", "6")
WAITED_AT: Final = fold_key(None, AwaitEvent("r", "0-0-1"), KEY, Stamp(1, 1000), None).state


def folded(state: RunState | None, command: Command) -> None:
    looked_at(fold(state, command, "r", Stamp(2, 2000), DEFINITION))
    if state is None:
        looked_at(fold(None, command, "r", Stamp(2, 2000), KEYED))


def folded_key(state: State | None, command: Command) -> None:
    """And what is posted there afterwards goes to whoever waits by then."""
    outcome = fold_key(state, command, KEY, Stamp(2, 2000), KEYED)
    looked_at(outcome)
    looked_at(fold_key(outcome.state, PostEvent("fuzzed", "1"), KEY, Stamp(3, 3000), KEYED))
    looked_at(fold_key(None, command, MARKED, Stamp(2, 2000), None))


def looked_at(outcome: Outcome) -> None:
    for effect in outcome.effects:
        if isinstance(effect, SendCommand):
            place_of(effect.token)
    if outcome.state is not None:
        written = encode_state(outcome.state)
        assert len(written) < 1024 * 1024
        assert encode_state(decode_state(written)) == written
    for event in outcome.events:
        msgspec.json.decode(encoder.encode(event))


def folds(data: bytes) -> None:
    """A command that can be read is folded or refused, whatever it says, on a run that waits and on none."""
    assert STARTED is not None
    try:
        command = read_command(delivered(data))
    except Unreadable:
        return
    wait = STARTED.threads[0].wait
    assert wait is not None
    for state in (None, STARTED):
        folded(state, command)
    for mailbox in (None, WAITED_AT):
        folded_key(mailbox, command)
    match command:
        case StartRun():
            folded(None, msgspec.structs.replace(command, workflow="fuzzed", version=1))
        case TaskResult():
            folded(STARTED, msgspec.structs.replace(command, task_id=getattr(wait, "task_id", "")))
        case PostEvent():
            folded(STARTED, msgspec.structs.replace(command, event="fuzzed"))
            folded_key(WAITED_AT, msgspec.structs.replace(command, event="fuzzed"))
        case ReturnEvent():
            folded_key(WAITED_AT, msgspec.structs.replace(command, run_id="r", wait_id="0-0-1"))
        case _:
            pass


def inputs(data: bytes) -> None:
    """The bytes as an input, as a result, and as the details of a failure."""
    raw = msgspec.Raw(data)
    try:
        text = encoder.encode(StartRun("fuzzed", 1, raw, "c"))
        folds(text)
        folds(b'{"type":"task-result","task_id":"t","by":{"worker":"w","duration_ms":1},"output":%b}' % data)
        folds(
            b'{"type":"task-result","task_id":"t","by":{"worker":"w","duration_ms":1},'
            b'"failure":{"name":"a","details":%b}}' % data
        )
    except ValueError:
        return


# -- specs -----------------------------------------------------------------------------------------
def specs(data: bytes) -> None:
    try:
        spec = read_spec(data)
    except BadInput:
        return
    assert read_spec(spec.encode()) == spec
    assert read_spec(spec.encode()).digest() == spec.digest()
    stored = RegisteredWorkflow(spec, 1, spec.digest())
    try:
        definition = load_definition(spec.name, 1, msgspec.json.encode(stored))
    except BadSpec:
        return
    start = StartRun(spec.name, 1, msgspec.Raw(b"{}"), "c")
    outcome = fold(None, start, "r", Stamp(1, 1000), definition)
    if outcome.state is not None:
        assert len(encode_state(outcome.state)) < 1024 * 1024


def versions(data: bytes) -> None:
    with contextlib.suppress(BadSpec):
        load_definition("fuzzed", 1, data)
    with contextlib.suppress(BadSpec):
        load_event("fuzzed", 1, data)
    with contextlib.suppress(BadInput):
        read_registered(data)


# -- expressions -----------------------------------------------------------------------------------
VARIABLES: Final[dict[str, Any]] = {
    "a": 7,
    "b": "text",
    "c": [1, "two", None, 2.5],
    "d": {"k": 1, "l": {"m": 2}},
    "e": Decimal("1.50"),
    "f": datetime(2026, 1, 1, tzinfo=UTC),
    "g": timedelta(days=1),
    "h": (1, (2, 3)),
    "i": {1, 2, 3},
    "j": b"bytes",
    "k": True,
    "l": None,
    "m": 2**70,
    "n": float("nan"),
    "o": UUID(int=5),
    "p": date(2026, 1, 1),
    "q": TABLE.record("Order").make({"id": "x"}),
    "r": TABLE.member("Color", "RED"),
    "s": TABLE.record("Pair").make({"x": 1.5}),
    "t": MaskedValue("hidden"),
    "u": {"pin": MaskedValue(Decimal(1))},
    "v": LargeValue(b"[1]"),
}


def expressions(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        tree = parse_expression(text, VARIABLES)
    except DefinitionError:
        return
    raw = msgspec.json.encode(tree)
    assert msgspec.json.encode(msgspec.json.decode(raw, type=type(tree))) == raw
    try:
        evaluate = compile_expression(tree, TABLE)
    except BadSpec:
        return
    try:
        value = evaluate(VARIABLES)
    except (ExpressionFailed, BadValue):
        return
    try:
        assert same(decode_stored(encode_stored(value), TABLE), value)
    except (BadValue, LimitExceeded):
        return


def stored_values(data: bytes) -> None:
    try:
        value = decode_stored(data, TABLE)
        written = encode_stored(value)
    except (BadValue, LimitExceeded):
        return
    again = decode_stored(written, TABLE)
    assert same(again, value), (again, value)
    assert encode_stored(again) == written


TYPES: Final[list[TypeRef]] = [
    ANY,
    *(Named(name) for name in ("Pair", "Keys")),
    ListOf(MaskedOf(UnionOf((Named("Pair"), NONE)))),
    *(Scalar(name) for name in ("bool", "int", "float", "str", "bytes", "decimal")),
    *(Scalar(name) for name in ("datetime", "date", "timedelta", "uuid")),
    ListOf(Scalar("float")),
    SetOf(Scalar("uuid")),
    SetOf(Scalar("decimal")),
    DictOf(Scalar("int"), ListOf(ANY)),
    DictOf(Scalar("str"), Named("Order")),
    TupleOf((Scalar("int"), Scalar("str"))),
    UnionOf((Scalar("int"), Scalar("str"), Scalar("none"), ListOf(Scalar("int")))),
    LiteralOf(("a", 1, None)),
    Named("Order"),
    Named("Color"),
    LargeOf(Named("Order")),
    ListOf(LargeOf(ANY)),
    DictOf(Scalar("int"), LargeOf(UnionOf((Scalar("decimal"), NONE)))),
]
CODECS: Final = [TABLE.codec(ref) for ref in TYPES]


def wire_values(data: bytes) -> None:
    """The first byte says which type is expected."""
    if not data:
        return
    codec = CODECS[data[0] % len(CODECS)]
    try:
        value = codec.decode(data[1:])
    except BadValue as wrong:
        must(len(wrong.message) < 2_000 or len(data) > 500, "a message beyond all bounds")
        return
    written = codec.encode(value)
    assert same(codec.decode(written), value)
    assert same(decode_stored(encode_stored(value), TABLE), value)


def references(data: bytes) -> None:
    """A reference to a large value, and the names under which that is stored."""
    try:
        reference = reference_of(data)
    except BadValue as wrong:
        must(len(wrong.message) < 2_000, "a message beyond all bounds")
        reference = None
    if reference is not None:
        assert 0 <= reference.size <= LARGE_VALUE_BYTES_MAX
        assert reference_of(reference_json(reference)) == reference
        info = NAMES.object_info("r", reference.sha256)
        assert NAMES.object_of_info(info) == ("r", reference.sha256)
    subject = data.decode(errors="replace")
    for found in (NAMES.object_of_info(subject), NAMES.object_of_chunks(subject)):
        assert found is None or len(found) == 2


# -- what an owner writes about itself, and reads back ---------------------------------------------
def states(data: bytes) -> None:
    try:
        state = read_state(StoredMessage("$KV.x", 1, data, None))
    except Doubt:
        return
    assert decode_state(encode_state(state)) == state


def records(data: bytes) -> None:
    for decode in (decode_cursor, decode_position, decode_fence):
        try:
            record = decode(data)
        except BrokerError as error:
            must(error.code == "RECORD_UNREADABLE", error.code)
        else:
            assert decode(encode(record)) == record
    decode_heartbeat(data)


def maps(data: bytes) -> None:
    try:
        found = decode_map(data)
    except UNREADABLE:
        return
    for shard in range(3):
        with contextlib.suppress(Unreadable):
            assert 0 <= route(found, "a", shard).shard < 1024
    assert decode_map(msgspec.json.encode(found)) == found


def events(data: bytes) -> None:
    try:
        event = decode_event(data)
    except UNREADABLE:
        return
    assert decode_event(msgspec.json.encode(event)) == event


# -- requests --------------------------------------------------------------------------------------
def requests(data: bytes) -> None:
    for operation, served in OPERATIONS.items():
        kind = served.request
        try:
            request = read_request(operation, kind, data)
        except BadInput as error:
            must(error.code in {"REQUEST_MALFORMED", "SPEC_INVALID"}, error.code)
            continue
        if isinstance(request, PutWorkflowRequest):
            specs(bytes(request.spec))
        elif not any(isinstance(getattr(request, name), msgspec.Raw) for name in request.__struct_fields__):
            assert read_request(operation, kind, msgspec.json.encode(request)) == request


def asks(data: bytes) -> None:
    try:
        ask, token = read_ask(data)
    except BadInput:
        return
    assert run_id_of(token) == ask.run_id
    with contextlib.suppress(*UNREADABLE):
        msgspec.json.decode(data, type=AskAnswer)


APP: Final = App("fuzz")


@APP.task
async def work(order: str, price: Decimal, at: datetime | None = None, rest: Any = None) -> int:
    return 1


def task_messages(data: bytes) -> None:
    try:
        found = msgspec.json.decode(data, type=TaskMessage)
    except UNREADABLE:
        return
    try:
        arguments(bytes(found.args))
        run_token(found.run_id)
    except BadRunId:
        return


def arguments(data: bytes) -> None:
    """What a handler is given, as the worker reads it."""
    handler = APP.handlers["work"]
    try:
        given = handler.decode_args(data)
    except BadValue:
        return
    written = handler.signature.encode_args((), given)
    assert handler.decode_args(written) == given


# -- configuration, names --------------------------------------------------------------------------
def triggers(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = parse_triggers(text)
    except ConfigInvalid as error:
        must(bool(error.problems), "nothing is wrong with it")
        return
    for trigger in found:
        check_name(trigger.name, "trigger")
        EventMapping(trigger)


MAPPING: Final = EventMapping(
    parse_triggers(
        """
[[trigger]]
name = "orders"
source = { stream = "ORDERS" }
workflow = "order"
when = "event.get('kind', 'x') != 'no'"
run_id = "f'{subject}-{event[\\"id\\"]}'"
input = { order = "event", mark = "headers.get('X-Mark', '')" }
"""
    )[0]
)


def mappings(data: bytes) -> None:
    """The bytes as payload, and as subject and headers beside a good one."""
    odd = data.decode("utf-8", "surrogateescape")
    for event in (
        delivered(data),
        delivered(b'{"id":1}', subject=odd),
        delivered(b'{"id":1}', headers=b"NATS/1.0\r\nX-Mark: " + data),
    ):
        try:
            start = MAPPING.asked_by(event, "id")
        except Unmappable:
            continue
        if isinstance(start, Start):
            check_run_id(start.run_id)
            msgspec.json.decode(start.input)


def webhooks(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = parse_webhooks(text)
    except ConfigInvalid as error:
        must(bool(error.problems), "nothing is wrong with it")
        return
    for webhook in found:
        check_name(webhook.name, "webhook")
        EventMapping(webhook)


SIGNED_AT: Final = 1_614_265_330
SIGNED_BODY: Final = b'{"test": 2432232314}'
SIGNED_STANDARD: Final = (
    b"webhook-id:msg_p5jXN8AQM9LWM0D4loKWxJek\nwebhook-timestamp:1614265330\n"
    b"webhook-signature:v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\n\n" + SIGNED_BODY
)
SIGNED_STRIPE: Final = (
    b"stripe-signature:t=1614265330,v1=%b\n\n"
    % (hmac.digest(b"k", b"1614265330." + SIGNED_BODY, "sha256").hex().encode())
    + SIGNED_BODY
)
SIGNED_PLAIN: Final = (
    b"x-sign:sha256=%b\n\n" % hmac.digest(b"k", SIGNED_BODY, "sha256").hex().encode() + SIGNED_BODY
)
VERIFIERS: Final = (
    Standard(["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]),
    Stripe(["k"]),
    HmacSha256(["k"], "X-Sign", "sha256="),
)


def signatures(data: bytes) -> None:
    """Headers as lines, and a body: no other body is accepted than that which was signed."""
    head, _, body = data.partition(b"\n\n")
    headers = [(name, value) for name, _, value in (line.partition(b":") for line in head.split(b"\n"))]
    for verifier in VERIFIERS:
        if verifier.accepts(headers, body, SIGNED_AT):
            assert body == SIGNED_BODY


def names(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        token = run_token(text)
    except BadRunId:
        pass
    else:
        assert run_id_of(token) == text
        assert token.isascii()
        assert not set(token) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=")
        assert 0 <= shard_of(text, 7) < 7
    try:
        run_id = run_id_of(text)
    except BadRunId:
        pass
    else:
        assert run_token(run_id) == text
    with contextlib.suppress(Unreadable):
        assert read_place(token_of(delivered(b"", subject=f"a.b.{text}")))
    try:
        space = Names(text)
    except BadName:
        return
    assert space.root == f"dressage.{text}"
    assert space.command(0, "r").split(".") == ["dressage", text, "0", "cmd", "r"]


def traces(data: bytes) -> None:
    """What is taken is a context of this version, and a run's is one in the same trace."""
    text = data.decode("latin-1")
    usable = usable_trace(text)
    of_run = trace_of_run(text, "r", 1)
    must(bool(usable) == bool(of_run), "a run takes what nobody may use, or does not take what they may")
    if usable:
        must(usable_trace(usable) == usable, "it is not read as it was written")
        must(len(usable) == len(of_run) == 55, "it is longer than a context is")
        must(of_run[:36] == usable[:36] and of_run[-3:] == usable[-3:], "the run is in another trace")


def nesting(data: bytes) -> None:
    """The fast count is right wherever there is JSON to count in."""
    try:
        value = msgspec.json.decode(data)
    except UNREADABLE:
        nests_deeper(data, 5)
        return
    levels = depth(value)
    assert not nests_deeper(data, levels)
    assert levels == 0 or nests_deeper(data, levels - 1)


def depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@dataclass(frozen=True)
class Fuzzed:
    """A target, and what a good input looks like: where a fuzzer begins."""

    target: Target
    seeds: tuple[bytes, ...]


RESULT: Final = (
    b'{"type":"task-result","task_id":"0-0-1-1","by":{"worker":"w","duration_ms":1.5},"output":[1],'
    b'"failure":{"name":"a","message":"m","kind":"failure","details":{"x":1},"family":["b"]}}'
)
CANCEL: Final = b'{"type":"cancel-run","command_id":"c","reason":"r","actor":"a"}'
TIMER: Final = b'{"type":"timer-fired","timer_id":"0-0-1"}'
_GIVEN: Final = (
    b'{"event":"fuzzed","event_id":"1","number":1,"posted_ms":5,'
    b'"payload":{"x":[1]},"until_ms":9,"lasting":true}'
)
KEYED_COMMANDS: Final = (
    b'{"type":"post-event","event":"fuzzed","event_id":"1","payload":7,"version":1,"actor":"a"}',
    b'{"type":"await-event","run_id":"r","wait_id":"0-0-1","seen":2}',
    b'{"type":"withdraw-wait","run_id":"r","wait_id":"0-0-1"}',
    b'{"type":"deliver-event","wait_id":"0-0-1","key":"k","given":%b}' % _GIVEN,
    b'{"type":"return-event","run_id":"r","wait_id":"0-0-1","given":%b}' % _GIVEN,
    b'{"type":"refuse-wait","wait_id":"0-0-1","message":"m"}',
    b'{"type":"keep-marks","marks":["b07YPqi+LjPHmbYF"]}',
    b'{"type":"marks-kept","marks":["b07YPqi+LjPHmbYF"]}',
    b'{"type":"ask-mark","number":1,"mark":"b07YPqi+LjPHmbYF"}',
    b'{"type":"tell-mark","number":1,"known":true}',
    b'{"type":"child-ended","wait_id":"0-0-1","output":7}',
    b'{"type":"child-ended","wait_id":"0-0-1","failure":{"name":"a","family":["b"]}}',
    b'{"type":"start-run","workflow":"fuzzed","version":1,"input":{"order":{"id":"a"}},"command_id":"0-0-1",'
    b'"parent":{"run_id":"p","wait_id":"0-0-1","depth":2}}',
)
START: Final = encoder.encode(StartRun("fuzzed", 1, msgspec.Raw(b'{"order":{"id":"a"}}'), "c", "ann"))
EXPRESSIONS: Final = (
    b"a + 1 if b else c[0]",
    b"f'{e:>10.2f} {b!r} {c}'",
    b"[a, (b, e), {'k': d['k'], **d} | d]",
    b"min(c) < max(1, 2) <= sum([1, 2.5], start=e) and not k",
    b"b.upper().strip('T') in d.get('k', 'x')",
    b"2 ** 100 // 3 % 7 << 4 >> 2 & ~m | 5 ^ 1",
    b"int('7', 8) + round(2.567, 2) * Decimal('1E+5')",
    b"timedelta(days=1, hours=a) + g * 2",
    b"q.price + e if r.name == 'RED' else h[1][0]",
    b"[x * y for x, *z in [h, c] for y in z if x][::-1] + [*i, *c]",
    b"{k: v for k, v in sorted(d.items(), key=lambda p: p[0]) if any(k in x for x in b.split('e'))}",
    b"dict(zip(b, range(a, 20, 3), strict=a > 1)) | {**d, **dict(x=1)}",
    b"{*i, a} | {x % 3 for x in i} & set(c[:2]) ^ {1}",
    b"f'{a:>{a * 3}} {b!r:{\"^\"}{20}}' + ','.join(repr(x) for x in reversed(c))",
    b"f.replace(year=a + 2000, tzinfo=timezone.utc) - datetime.fromisoformat('2026-01-01T00:00:00Z')",
    b"e.quantize(Decimal('0.1'), rounding='ROUND_UP') + sum(enumerate(j, 1), (0,))[0] + pow(a, 3, 5)",
    b"b.rsplit('x', 1)[0].center(20, '*').replace('*', b, 3).encode('utf-8').hex('-').partition('-')",
)
REFERENCE: Final = reference_json(Reference("0" * 64, 5))
STORED: Final = (
    b'{"$decimal":"1.50"}',
    b'[{"$tuple":[1,{"$set":[1,2]}]},{"$dict":[[1,{"$float":"nan"}]]}]',
    b'{"$record":["Order",{"id":"a","price":"1","tags":[1],"at":null}]}',
    b'{"$enum":["Color","RED"]}',
    b'{"$bytes":"eA=="}',
    b'{"$failure":{"name":"a","message":"m"}}',
    b'{"$datetime":"2026-01-01T00:00:00Z","a":1}',
    b'{"$uuid":"00000000-0000-0000-0000-000000000005"}',
    b'[{"$large":[1]},{"$large":%b}]' % REFERENCE,
)
STATE: Final = encode_state(STARTED) if STARTED is not None else b""
CONFIG: Final = b"""
[[trigger]]
name = "orders"
source = { stream = "ORDERS", subject = "orders.>" }
workflow = "process-order"
version = 2
when = "event['total'] > 5"
run_id = "event['id']"
start = "new"
[trigger.input]
order = "event"
"""
WEBHOOK: Final = b"""
[[webhook]]
name = "paid"
path = "/paid"
signature = "hmac-sha256"
header = "X-Sign"
prefix = "sha256="
secret = ["${env:A}"]
event = "paid"
key = "event['order']"
"""
EVENT: Final = (
    b'{"id":"r/0","source":"/dressage/x/0","type":"dressage.run-started","time":"2026-01-01T00:00:00.000Z",'
    b'"subject":"r","workflow":"w","version":1,"index":0,"command":"1","data":{"input":{}},"specversion":"1.0"}'
)
TASK: Final = (
    b'{"task":"work","task_id":"0-0-1-1","call_id":"0-0-1","run_id":"r","workflow":"w","version":1,"attempt":1,'
    b'"args":{"order":"a","price":"1.5","at":"2026-01-01T00:00:00","rest":[1]},"reply":"dressage.x.0.cmd.r"}'
)
WIRE: Final = (
    b"1.5",
    b'"a"',
    b"[1,2]",
    b'{"1":[]}',
    b'{"id":"a","tags":[1],"price":"1.0"}',
    b'"2026-01-01T00:00:00Z"',
    REFERENCE,
)

TRACE: Final = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

TARGETS: Final[dict[str, Fuzzed]] = {
    "traces": Fuzzed(traces, (TRACE, b"01" + TRACE[2:] + b"-more", TRACE.upper(), b"ff" + TRACE[2:])),
    "commands": Fuzzed(commands, (START, RESULT, CANCEL, TIMER)),
    "headers": Fuzzed(
        headers, (b"NATS/1.0\r\nDressage-Reply: _INBOX.a\r\nDressage-Forwarded: 2.0.5\r\n\r\n",)
    ),
    "folds": Fuzzed(folds, (START, RESULT, CANCEL, TIMER, *KEYED_COMMANDS)),
    "inputs": Fuzzed(
        inputs, (b'{"order":{"id":"a","price":"1.5","tags":[1,2]},"rest":[[{}]]}', b"[1]", b"null")
    ),
    "specs": Fuzzed(specs, (SPEC.encode(),)),
    "versions": Fuzzed(
        versions,
        (
            msgspec.json.encode(RegisteredWorkflow(SPEC, 1, "d")),
            msgspec.json.encode(RegisteredEvent(EventDef("fuzzed", Named("Order")), SPEC.types, 1, "d")),
        ),
    ),
    "expressions": Fuzzed(expressions, EXPRESSIONS),
    "stored values": Fuzzed(stored_values, STORED),
    "wire values": Fuzzed(wire_values, tuple(bytes([n]) + text for n in range(len(TYPES)) for text in WIRE)),
    "references": Fuzzed(references, (REFERENCE, b"$O.b.C.r.00.x", NAMES.object_info("r", "00").encode())),
    "states": Fuzzed(states, (STATE,)),
    "records": Fuzzed(
        records, (b'{"epoch":5,"seq":7,"effects":1,"fold_version":1,"fence":true,"since":3}', b'{"epoch":1}')
    ),
    "maps": Fuzzed(
        maps, (msgspec.json.encode(ShardMap(2, 3, 1)), b'{"generation":3,"shards":4,"older":[2,1]}')
    ),
    "events": Fuzzed(events, (EVENT,)),
    "requests": Fuzzed(
        requests,
        (
            b'{"workflow":"w","input":{"a":1},"run_id":"r","version":1,"actor":"a","timeout_s":5}',
            b'{"run_id":"r","timeout_s":5}',
            b'{"run_id":"r","after":1,"limit":2}',
            b'{"spec":%b,"actor":"a"}' % SPEC.encode(),
            b'{"run_id":"r","result":%b}' % RESULT,
        ),
    ),
    "asks": Fuzzed(
        asks, (b'{"op":"wait","run_id":"r","not_before":5,"hold_s":1.5}', b'{"run":null,"code":"RETRY"}')
    ),
    "task messages": Fuzzed(task_messages, (TASK,)),
    "arguments": Fuzzed(arguments, (b'{"order":"a","price":"1.5","at":"2026-01-01T00:00:00","rest":[1]}',)),
    "triggers": Fuzzed(triggers, (CONFIG,)),
    "mappings": Fuzzed(mappings, (b'{"id":"a","kind":"x"}', b"orders.created")),
    "webhooks": Fuzzed(webhooks, (WEBHOOK,)),
    "signatures": Fuzzed(signatures, (SIGNED_STANDARD, SIGNED_STRIPE, SIGNED_PLAIN)),
    "names": Fuzzed(names, (b"order-4711", b"a=2Eb", "größe ".encode(), b"=2e", b"default")),
    "nesting": Fuzzed(nesting, (b'[{"a":["[",{"b\\"]":[]}]}]', b"[[[]]]")),
}


def all_targets(data: bytes) -> None:
    """The first byte chooses the target: for a short look at all of them."""
    if data:
        chosen = list(TARGETS.values())[data[0] % len(TARGETS)]
        chosen.target(data[1:])


EVERY: Final = Fuzzed(
    all_targets,
    tuple(bytes([n]) + seed for n, fuzzed in enumerate(TARGETS.values()) for seed in fuzzed.seeds),
)
