"""Each limit of a run at its edge: exactly as much is well, one more ends the run, by the name of the limit."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import msgspec
import pytest
from tests.limits.specs import (  # pyright: ignore[reportMissingImports]
    TELLING,
    Run,
    calling,
    expr,
    failure_of,
    for_ever,
    in_turn,
    raw,
    spec_of,
)

from dressage.expressions import LimitExceeded, TypeTable, compile_expression, parse_expression
from dressage.expressions.formatting import check_spec
from dressage.expressions.frame import WORK_MAX, Frame
from dressage.expressions.groups import group_of
from dressage.expressions.limits import (
    COLLISIONS_MAX,
    DIGITS_MAX,
    FORMAT_SPEC_CHARS_MAX,
    FORMAT_WIDTH_MAX,
    INT_BITS_MAX,
    ITEM_WEIGHT,
    POWER_DIGITS_MAX,
    TEXT_MAX_CHARS,
    VALUE_MAX_DEPTH,
    VALUE_MAX_WEIGHT,
    weigh,
)
from dressage.flow import App, Limits, workflow
from dressage.orchestrator.fold.effects import SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.limits import (
    BRANCH_DEPTH_MAX,
    DETAILS_BYTES_MAX,
    ERROR_NAME_CHARS_MAX,
    FAMILY_NAMES_MAX,
    FAMILY_SHORT_MAX,
    GROUP_BYTES_MAX,
    GROUP_CUT,
    MESSAGE_CHARS_MAX,
    MESSAGE_CUT,
    RUN_THREADS_MAX,
    STATE_BYTES_MAX,
    bounded,
    limit_state,
    stored_bytes,
)
from dressage.orchestrator.fold.nodes.sleep import SLEEP_S_MAX, TIME_MS_MAX
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import encode_state
from dressage.protocol.commands import FailureInfo, StartRun, TimerFired
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Const, Make
from dressage.protocol.names import SUBJECT_BYTES_MAX
from dressage.protocol.spec import (
    LIMITS_MAX,
    Branch,
    GatherNode,
    Handler,
    PublishNode,
    RaiseNode,
    ReturnNode,
    Scope,
    SleepNode,
    WorkflowSpec,
)
from dressage.protocol.types import ANY, DictOf, Field, Scalar, SetOf

DEFAULT = Limits()


def ended(outcome: Outcome) -> str:
    """How the run ended: its status, or the name of its failure."""
    assert outcome.run is not None, outcome.message
    return outcome.run.failure.name if outcome.run.failure else outcome.run.status


def text_of(size: int) -> str:
    """An expression for a text that takes `size` bytes in JSON, quotes included."""
    return f"'x' * {size - 2}"


# -- of the workflow -------------------------------------------------------------------------------
@pytest.mark.limit("steps-per-command")
@pytest.mark.parametrize("steps", [DEFAULT.steps_per_command, 50, LIMITS_MAX.steps_per_command])
def test_steps_per_command(steps: int) -> None:
    limits = Limits(steps_per_command=steps)
    # Two steps for each round, one before them, and at the end the test and the return.
    rounds = (steps - 3) // 2
    spec = for_ever([("a", "0")], ("a", "a + 1"), test=f"a < {rounds}", limits=limits)
    used = 3 + 2 * rounds
    assert ended(Run(spec).start()) == "completed"
    less = msgspec.structs.replace(spec, limits=Limits(steps_per_command=used))
    assert ended(Run(less).start()) == "completed"
    one_less = msgspec.structs.replace(spec, limits=Limits(steps_per_command=used - 1))
    failure = failure_of(Run(one_less).start())
    assert (failure.name, failure.kind) == ("steps-per-command", "limit")
    assert str(used - 1) in failure.message
    assert "let a task do the loop" in failure.message


@pytest.mark.limit("output-size")
@pytest.mark.parametrize("size", [DEFAULT.value_bytes, 1000, LIMITS_MAX.value_bytes])
def test_the_size_of_an_output(size: int) -> None:
    limits = Limits(value_bytes=size)
    assert ended(Run(spec_of([ReturnNode(expr(text_of(size)))], limits=limits)).start()) == "completed"
    failure = failure_of(Run(spec_of([ReturnNode(expr(text_of(size + 1)))], limits=limits)).start())
    assert (failure.name, failure.kind) == ("output-size", "limit")
    assert f"{size + 1} bytes of {size} allowed" in failure.message


@pytest.mark.limit("arguments-size")
@pytest.mark.parametrize("size", [DEFAULT.value_bytes, 1000, LIMITS_MAX.value_bytes])
def test_the_size_of_arguments(size: int) -> None:
    limits = Limits(value_bytes=size)
    around = len('{"x":}')
    assert Run(calling({"x": text_of(size - around)}, limits=limits)).start().effects
    outcome = Run(calling({"x": text_of(size - around + 1)}, limits=limits)).start()
    assert not outcome.effects
    failure = failure_of(outcome)
    assert (failure.name, failure.kind) == ("arguments-size", "limit")
    assert f"{size + 1} bytes of {size} allowed" in failure.message


@pytest.mark.limit("published-size")
@pytest.mark.parametrize("size", [DEFAULT.value_bytes, 1000, LIMITS_MAX.value_bytes])
def test_the_size_of_what_is_published(size: int) -> None:
    def publishing(size_of_data: int) -> Outcome:
        node = PublishNode(expr("'a'"), expr(text_of(size_of_data)), 1)
        return Run(spec_of([node, ReturnNode()], limits=Limits(value_bytes=size))).start()

    assert publishing(size).effects
    outcome = publishing(size + 1)
    assert not outcome.effects
    failure = failure_of(outcome)
    assert (failure.name, failure.kind) == ("published-size", "limit")
    assert f"what is published to a takes {size + 1} bytes of {size} allowed" in failure.message


@pytest.mark.limit("protocol.names.SUBJECT_BYTES_MAX")
def test_the_size_of_a_subject() -> None:
    def publishing(size: int) -> Outcome:
        return Run(spec_of([PublishNode(expr(f"'s' * {size}"), expr("1"), 1), ReturnNode()])).start()

    assert ended(publishing(SUBJECT_BYTES_MAX)) == "completed"
    failure = failure_of(publishing(SUBJECT_BYTES_MAX + 1))
    assert failure.kind == "expression-error"
    assert f"takes {SUBJECT_BYTES_MAX + 1} bytes of {SUBJECT_BYTES_MAX} allowed" in failure.message


@pytest.mark.limit("result-size")
@pytest.mark.parametrize("size", [DEFAULT.value_bytes, 1000, LIMITS_MAX.value_bytes])
def test_the_size_of_a_result(size: int) -> None:
    limits = Limits(value_bytes=size, variables_bytes=size + 100)
    fits = Run(calling({}, limits=limits))
    fits.start()
    assert ended(fits.report(output=raw("x" * (size - 2)))) == "completed"
    beyond = Run(calling({}, limits=limits))
    beyond.start()
    failure = failure_of(beyond.report(output=raw("x" * (size - 1))))
    assert (failure.name, failure.kind) == ("result-size", "limit")
    assert f"the result of task work takes {size + 1} bytes of {size} allowed" in failure.message


@pytest.mark.limit("input-size")
@pytest.mark.parametrize("size", [DEFAULT.value_bytes, 1000, LIMITS_MAX.value_bytes])
def test_the_size_of_an_input(size: int) -> None:
    spec = in_turn(limits=Limits(value_bytes=size, variables_bytes=LIMITS_MAX.variables_bytes))
    data = b'{"p":"%b"}' % (b"x" * (size - len(b'{"p":""}')))
    assert ended(Run(spec).start(data)) == "completed"
    refused = Run(spec).start(data[:-1] + b" }")
    assert refused.code == "INPUT_INVALID"
    assert f"{size + 1} bytes of {size} allowed" in refused.message
    assert refused.message.endswith("(limit input-size)")
    assert refused.state is None


def test_an_input_that_grows_by_its_defaults() -> None:
    long = Field("q", ANY, False, raw("x" * 900))
    spec = in_turn(params=(Field("p", ANY), long), limits=Limits(value_bytes=1000))
    assert Run(spec).start(b'{"p":1}').code is None
    refused = Run(spec).start(b'{"p":"%b"}' % (b"x" * 200))
    assert refused.code == "INPUT_INVALID"
    assert refused.message.endswith("(limit input-size)")


@pytest.mark.limit("variables-size")
@pytest.mark.parametrize("size", [DEFAULT.variables_bytes, 1000, LIMITS_MAX.variables_bytes])
def test_the_size_of_variables(size: int) -> None:
    beside = len("p") + len("null") + len("a")
    limits = Limits(variables_bytes=size)
    run = Run(in_turn(("a", text_of(size - beside)), end=SleepNode(expr("1"), 0), limits=limits))
    outcome = run.start()
    assert outcome.code is None
    assert run.state is not None
    assert stored_bytes(run.state.variables) == size
    failure = failure_of(
        Run(in_turn(("a", text_of(size - beside + 1)), end=SleepNode(expr("1"), 0), limits=limits)).start()
    )
    assert (failure.name, failure.kind) == ("variables-size", "limit")
    assert f"{size + 1} bytes of {size} allowed" in failure.message


def test_an_input_whose_variables_are_too_large_is_refused() -> None:
    # In stored form each Decimal says what it is, so it takes several times its bytes on the wire.
    spec = in_turn(params=(Field("p", DictOf(Scalar("str"), Scalar("decimal"))),))
    data = msgspec.json.encode({"p": {str(number): Decimal(number) for number in range(12_000)}})
    assert len(data) < DEFAULT.value_bytes
    refused = Run(spec).start(data)
    assert refused.code == "INPUT_INVALID"
    assert "limit variables-size" in refused.message


def test_a_failed_run_keeps_what_fits() -> None:
    run = Run(in_turn(("a", "1"), ("b", text_of(200_000)), ("c", text_of(200_000))))
    run.start()
    assert run.state is not None
    assert run.state.failure is not None
    assert list(run.state.variables) == ["p", "a", "b"]


@pytest.mark.limit("history-limit")
@pytest.mark.parametrize("events", [10, DEFAULT.history_events])
def test_the_history(events: int) -> None:
    """A run may have as many output events as the limit says, its end included."""
    count = for_ever([("a", "0")], ("a", "a + 1"), test="a < 16", limits=Limits(history_events=events))
    run = Run(count)
    outcome = run.start()
    assert run.state is not None
    if events > 10:
        assert ended(outcome) == "completed"
        exact = run.state.events
        limited = msgspec.structs.replace(count, limits=Limits(history_events=exact))
        assert ended(Run(limited).start()) == "completed"
        limited = msgspec.structs.replace(count, limits=Limits(history_events=exact - 1))
        outcome = Run(limited).start()
    failure = failure_of(outcome)
    assert (failure.name, failure.kind) == ("history-limit", "limit")
    assert "start another run" in failure.message


def test_a_run_does_not_grow_for_ever_by_waiting() -> None:
    limits = Limits(history_events=100)
    run = Run(spec_of([SleepNode(expr("1"), 0)], limits=limits))
    run.start()
    assert run.state is not None
    while not run.state.finished:
        run.apply(TimerFired(run.state.threads[0].timers[0]))
    assert failure_of(Outcome(run.state)).name == "history-limit"
    assert run.state.events <= limits.history_events + 3


def test_a_run_does_not_grow_for_ever_by_retries() -> None:
    limits = Limits(history_events=100)
    spec = calling({}, limits=limits)
    tasks = tuple(
        msgspec.convert(msgspec.to_builtins(task) | {"retry": {"retries": 10_000}}, type(task))
        for task in spec.tasks
    )
    run = Run(msgspec.structs.replace(spec, tasks=tasks))
    run.start()
    assert run.state is not None
    while not run.state.finished:
        run.report(error=FailureInfo("OSError", "no", "task-error"))
    assert run.state.events <= limits.history_events + 3


def test_a_state_of_parts_that_fit_alone() -> None:
    limits = Limits(value_bytes=LIMITS_MAX.value_bytes, variables_bytes=LIMITS_MAX.variables_bytes)
    data = b'{"p":"%b"}' % (b"x" * 400_000)
    fits = STATE_BYTES_MAX - 2 * 400_000 - 100
    for size, end in [(fits, "completed"), (fits + 200, "state-size")]:
        run = Run(in_turn(("a", text_of(size)), end=ReturnNode(Const(raw(1))), limits=limits))
        assert ended(run.start(data)) == end
        assert run.state is not None
        assert len(encode_state(run.state)) < 1024 * 1024


@pytest.mark.limit("orchestrator.fold.limits.STATE_BYTES_MAX")
def test_the_size_of_a_state() -> None:
    limit_state(STATE_BYTES_MAX)
    with pytest.raises(LimitExceeded, match=rf"{STATE_BYTES_MAX} allowed.*\(limit state-size\)$"):
        limit_state(STATE_BYTES_MAX + 1)


def test_the_largest_state_fits_into_a_message() -> None:
    """With a failure of the worst kind on top."""
    limits = Limits(value_bytes=LIMITS_MAX.value_bytes, variables_bytes=LIMITS_MAX.variables_bytes)
    data = b'{"p":"%b"}' % (b"x" * 300_000)
    run = Run(
        in_turn(
            ("a", text_of(320_000)),
            end=RaiseNode("boom", expr("'\\x00' * 100000"), Make("Boom", {"text": expr("'y' * 32000")})),
            limits=limits,
            **TELLING,
        )
    )
    assert ended(run.start(data)) == "boom"
    assert run.state is not None
    assert len(run.state.input) + stored_bytes(run.state.variables) > STATE_BYTES_MAX - 50_000
    assert len(encode_state(run.state)) < 1024 * 1024 - 4096


# -- of the engine ---------------------------------------------------------------------------------
def evaluate(text: str) -> object:
    return compile_expression(parse_expression(text, []), TypeTable())({})


EDGES: dict[str, tuple[str, str, str]] = {
    "text-size": (f"len('x' * {TEXT_MAX_CHARS})", f"len('x' * {TEXT_MAX_CHARS + 1})", str(TEXT_MAX_CHARS)),
    "int-size": (f"(1 << {INT_BITS_MAX - 1}) % 7", f"(1 << {INT_BITS_MAX}) % 7", str(INT_BITS_MAX)),
    "number-digits": (
        f"len(str(Decimal('9' * {DIGITS_MAX})))",
        f"Decimal('9' * {DIGITS_MAX + 1})",
        str(DIGITS_MAX),
    ),
    "value-size": (
        f"len([1] * {VALUE_MAX_WEIGHT // (2 * ITEM_WEIGHT)})",
        f"len([1] * {VALUE_MAX_WEIGHT // (2 * ITEM_WEIGHT) + 1})",
        str(VALUE_MAX_WEIGHT),
    ),
    "value-depth": (
        "[" * VALUE_MAX_DEPTH + "1" + "]" * VALUE_MAX_DEPTH,
        "[" * (VALUE_MAX_DEPTH + 1) + "1" + "]" * (VALUE_MAX_DEPTH + 1),
        str(VALUE_MAX_DEPTH),
    ),
}


@pytest.mark.parametrize(
    "limit",
    [
        pytest.param("text-size", marks=pytest.mark.limit("expressions.limits.TEXT_MAX_CHARS")),
        pytest.param("int-size", marks=pytest.mark.limit("expressions.limits.INT_BITS_MAX")),
        pytest.param("number-digits", marks=pytest.mark.limit("expressions.limits.DIGITS_MAX")),
        pytest.param("value-size", marks=pytest.mark.limit("expressions.limits.VALUE_MAX_WEIGHT")),
        pytest.param("value-depth", marks=pytest.mark.limit("expressions.limits.VALUE_MAX_DEPTH")),
    ],
)
def test_the_evaluators_limits(limit: str) -> None:
    well, beyond, figure = EDGES[limit]
    evaluate(well)
    with pytest.raises(LimitExceeded, match=rf"\(limit {limit}\)$") as failed:
        evaluate(beyond)
    assert failed.value.limit == limit
    assert figure in failed.value.message


@pytest.mark.limit("expressions.limits.VALUE_MAX_WEIGHT")
def test_the_weight_of_a_value() -> None:
    assert weigh("x" * (VALUE_MAX_WEIGHT - ITEM_WEIGHT)) == VALUE_MAX_WEIGHT
    with pytest.raises(LimitExceeded, match=rf"{VALUE_MAX_WEIGHT} is allowed.*\(limit value-size\)$"):
        weigh("x" * (VALUE_MAX_WEIGHT - ITEM_WEIGHT + 1))


@pytest.mark.limit("expressions.frame.WORK_MAX")
def test_the_work_of_a_command() -> None:
    frame = Frame({})
    frame.spend(WORK_MAX)
    with pytest.raises(LimitExceeded, match=rf"more than {WORK_MAX} units.*\(limit work-per-command\)$"):
        frame.spend(1)


@pytest.mark.limit("expressions.limits.POWER_DIGITS_MAX")
def test_the_digits_of_a_power() -> None:
    nines = "9" * (POWER_DIGITS_MAX - 1)
    evaluate(f"Decimal('1.{nines}') ** Decimal('1.5')")
    with pytest.raises(LimitExceeded, match="number-digits"):
        evaluate(f"Decimal('1.{nines}9') ** Decimal('1.5')")


@pytest.mark.limit("expressions.limits.FORMAT_WIDTH_MAX")
def test_the_width_of_a_format() -> None:
    assert evaluate(f"len(f'{{1:>{FORMAT_WIDTH_MAX}}}')") == FORMAT_WIDTH_MAX
    with pytest.raises(DefinitionError, match="format-width"):
        evaluate(f"len(f'{{1:>{FORMAT_WIDTH_MAX + 1}}}')")


@pytest.mark.limit("expressions.limits.FORMAT_SPEC_CHARS_MAX")
def test_the_text_of_a_format() -> None:
    signs = "-" * FORMAT_SPEC_CHARS_MAX
    check_spec(signs)
    with pytest.raises(DefinitionError, match=rf"at most {FORMAT_SPEC_CHARS_MAX} .*\(limit format-width\)"):
        evaluate(f"f'{{1:{signs}-}}'")


@pytest.mark.limit("expressions.limits.COLLISIONS_MAX")
def test_keys_that_share_their_hash() -> None:
    """Python's hash of an int is the remainder by this prime, so all multiples of it collide."""
    prime = 2**61 - 1
    codec = TypeTable().codec(SetOf(Scalar("int")))
    codec.decode(raw([number * prime for number in range(COLLISIONS_MAX + 1)]))
    with pytest.raises(Exception, match=r"\(limit hash-collisions\)"):
        codec.decode(raw([number * prime for number in range(1, COLLISIONS_MAX + 3)]))
    assert len(codec.decode(raw(list(range(20_000))))) == 20_000
    assert codec.decode(raw([1] * 20_000)) == {1}


@pytest.mark.limit("orchestrator.fold.nodes.sleep.SLEEP_S_MAX")
def test_a_sleep() -> None:
    century = Run(spec_of([SleepNode(expr(str(SLEEP_S_MAX)), 1), ReturnNode()]))
    assert century.start().effects
    longer = Run(spec_of([SleepNode(expr(f"{SLEEP_S_MAX} + 0.001"), 1), ReturnNode()]))
    assert failure_of(longer.start()).name == "sleep-length"


@pytest.mark.limit("orchestrator.fold.nodes.sleep.TIME_MS_MAX")
def test_the_end_of_a_sleep() -> None:
    spec = spec_of([SleepNode(expr("1.5"), 1), ReturnNode()])
    definition = Run(spec).definition
    command = StartRun(spec.name, 1, msgspec.Raw(b"{}"), "c")
    last = fold(None, command, "r", Stamp(1, TIME_MS_MAX - 1500), definition)
    assert [effect.due_ms for effect in last.effects if isinstance(effect, SetTimer)] == [TIME_MS_MAX]
    failure = failure_of(fold(None, command, "r", Stamp(1, TIME_MS_MAX - 1499), definition))
    assert (failure.name, failure.kind) == ("sleep-length", "limit")
    assert "year 9000" in failure.message


@pytest.mark.parametrize("duration", ["1e300", "10 ** 400", "float('inf')", "timedelta(days=99999999)"])
def test_a_sleep_without_end(duration: str) -> None:
    assert (
        failure_of(Run(spec_of([SleepNode(expr(duration), 1), ReturnNode()])).start()).name == "sleep-length"
    )


@pytest.mark.parametrize("duration", ["-1", "-1e300", "-(10 ** 400)", "float('-inf')", "timedelta(days=-1)"])
def test_a_sleep_into_the_past_is_none(duration: str) -> None:
    run = Run(spec_of([SleepNode(expr(duration), 1), ReturnNode()]))
    run.start()
    assert run.state is not None
    assert run.apply(TimerFired(run.state.threads[0].timers[0])).code is None


def test_timers_fired_by_hand_do_not_lead_out_of_the_calendar() -> None:
    run = Run(spec_of([SleepNode(expr(str(SLEEP_S_MAX)), 0)]))
    run.start()
    assert run.state is not None
    while not run.state.finished:
        run.apply(TimerFired(run.state.threads[0].timers[0]))
    assert failure_of(Outcome(run.state)).name == "sleep-length"


def caught(handler_at: int = 1) -> tuple[Scope, ...]:
    return (Scope((Handler(("workflow-failure",), handler_at, "f"),)),)


@pytest.mark.limit("orchestrator.fold.limits.MESSAGE_CHARS_MAX")
def test_a_message_that_is_too_long_is_cut_and_says_so() -> None:
    longest = "x" * MESSAGE_CHARS_MAX
    assert bounded(FailureInfo("boom", longest)).message == longest
    cut = bounded(FailureInfo("boom", longest + "x"))
    assert len(cut.message) == MESSAGE_CHARS_MAX
    assert cut.message == longest[: -len(MESSAGE_CUT)] + MESSAGE_CUT
    assert MESSAGE_CUT.endswith("limit failure-message)")
    assert bounded(cut) == cut


@pytest.mark.limit("orchestrator.fold.limits.DETAILS_BYTES_MAX")
def test_details_that_are_too_large_are_replaced_by_the_limits_name() -> None:
    largest = raw("y" * (DETAILS_BYTES_MAX - 2))
    assert bounded(FailureInfo("boom", "no", details=largest)).details == largest
    beyond = bounded(FailureInfo("boom", "no", details=raw("y" * (DETAILS_BYTES_MAX - 1)))).details
    assert beyond == raw({"dropped": f"details above {DETAILS_BYTES_MAX} bytes (limit failure-details)"})


@pytest.mark.limit("orchestrator.fold.limits.GROUP_BYTES_MAX")
def test_a_group_that_is_too_large_keeps_names_and_families_of_the_rest() -> None:
    room = GROUP_BYTES_MAX // 4
    frame = len(msgspec.json.encode(FailureInfo("boom", "x", family=("big",)))) - 1
    fits = FailureInfo("boom", "x" * (room - frame), family=("big",))
    beyond = FailureInfo("boom", "x" * (room - frame + 1), family=("big",))
    whole = group_of([fits] * 4, "branches failed")
    assert bounded(whole).causes == (fits,) * 4
    cut = bounded(group_of([fits, fits, fits, beyond], "branches failed")).causes
    assert cut[:3] == (fits,) * 3
    assert (cut[3].name, cut[3].family, cut[3].message) == ("boom", ("big",), GROUP_CUT)
    assert GROUP_CUT.endswith("limit failure-group)")


@pytest.mark.limit("orchestrator.fold.limits.FAMILY_SHORT_MAX")
def test_a_failure_beyond_the_room_of_its_group_keeps_the_nearest_of_its_family() -> None:
    names = tuple(f"name-{number}" for number in range(FAMILY_SHORT_MAX + 1))
    full = FailureInfo("boom", "x" * 8_000)
    for family in (names[:-1], names):
        last = FailureInfo("bang", "x" * 8_000, family=family)
        group = group_of([full, full, full, full, last], "branches failed")
        assert bounded(group).causes[-1].family == names[:-1]


def of_branches(*counts: int) -> WorkflowSpec:
    """A branch for each count, with so many branches of its own, which sleep."""
    first, sleeping = 2, 2 + len(counts)
    inner = [GatherNode(tuple(Branch(sleeping) for _ in range(count)), 1) for count in counts]
    outer = GatherNode(tuple(Branch(first + place) for place in range(len(counts))), 1)
    return spec_of([outer, ReturnNode(), *inner, SleepNode(expr("100"), 1)])


@pytest.mark.limit("orchestrator.fold.limits.RUN_THREADS_MAX")
def test_a_run_has_as_many_run_threads_as_the_limit_and_no_more() -> None:
    largest = Run(of_branches(249, 249, 249, 248)).start()
    assert ended(largest) == "running"
    assert largest.run is not None
    assert len(largest.run.threads) == RUN_THREADS_MAX
    assert ended(Run(of_branches(249, 249, 249, 249)).start()) == "open-branches"


def nested(depth: int) -> WorkflowSpec:
    """A branch that has a branch, and so on; the last one sleeps."""
    inner = [GatherNode((Branch(number + 3),), 1) for number in range(depth - 1)]
    return spec_of(
        [GatherNode((Branch(2),), 1), ReturnNode(), *inner, SleepNode(expr("100"), 1)],
    )


@pytest.mark.limit("orchestrator.fold.limits.BRANCH_DEPTH_MAX")
def test_branches_have_branches_down_to_the_limit_and_no_further() -> None:
    deepest = Run(nested(BRANCH_DEPTH_MAX)).start()
    assert ended(deepest) == "running"
    assert deepest.run is not None
    assert len(deepest.run.threads) == BRANCH_DEPTH_MAX + 1
    assert ended(Run(nested(BRANCH_DEPTH_MAX + 1)).start()) == "branch-depth"
    assert ended(Run(spec_of([GatherNode((Branch(0),), 1), ReturnNode()])).start()) == "branch-depth"


@pytest.mark.limit("expressions.limits.VALUE_MAX_DEPTH")
def test_details_that_are_too_deep_are_replaced_by_the_limits_name() -> None:
    deepest = msgspec.Raw(b"[" * VALUE_MAX_DEPTH + b"]" * VALUE_MAX_DEPTH)
    assert bounded(FailureInfo("boom", "no", details=deepest)).details == deepest
    beyond = msgspec.Raw(b"[" * (VALUE_MAX_DEPTH + 1) + b"]" * (VALUE_MAX_DEPTH + 1))
    assert bounded(FailureInfo("boom", "no", details=beyond)).details == raw(
        {"dropped": f"details above {VALUE_MAX_DEPTH} levels (limit failure-details)"}
    )


@pytest.mark.limit("orchestrator.fold.limits.FAMILY_NAMES_MAX")
def test_a_family_that_is_too_long_is_cut() -> None:
    names = tuple(f"name-{number}" for number in range(FAMILY_NAMES_MAX + 1))
    assert bounded(FailureInfo("boom", "no", family=names[:-1])).family == names[:-1]
    assert bounded(FailureInfo("boom", "no", family=names)).family == names[:-1]


@pytest.mark.limit("orchestrator.fold.limits.ERROR_NAME_CHARS_MAX")
def test_the_name_of_an_error_that_is_too_long_is_cut() -> None:
    for size in (ERROR_NAME_CHARS_MAX, ERROR_NAME_CHARS_MAX + 1):
        run = Run(calling({}))
        run.start()
        outcome = run.report(error=FailureInfo("E" * size, "no", "type-error"))
        assert failure_of(outcome).name == "E" * ERROR_NAME_CHARS_MAX


def test_what_a_worker_reports_is_cut_wherever_it_is_too_long() -> None:
    run = Run(calling({}))
    run.start()
    family = tuple(f"name-{number}" for number in range(FAMILY_NAMES_MAX + 1))
    details = raw({"a": "y" * DETAILS_BYTES_MAX})
    reported = FailureInfo("boom", "x" * (MESSAGE_CHARS_MAX + 1), details=details, family=family)
    assert failure_of(run.report(failure=reported)) == bounded(reported)


@pytest.mark.parametrize(
    "details",
    [b"1e9999", b'"\xff"', b'{"a":1e400}'],
    ids=lambda each: ascii(each)[:12],
)
def test_details_that_nobody_could_read_are_dropped(details: bytes) -> None:
    """A decoder lets them through as they are, for nobody looks inside; a reader of events would."""
    run = Run(calling({}))
    run.start()
    outcome = run.report(failure=FailureInfo("boom", "no", details=msgspec.Raw(details)))
    assert failure_of(outcome).details == raw({"dropped": "details that cannot be read"})


@pytest.mark.parametrize("text", ["{}['x' * 1000000]", "int('x' * 4000)", "'x' * 4000 + 1"])
def test_an_error_that_quotes_what_it_was_given_is_cut(text: str) -> None:
    failure = failure_of(Run(in_turn(("a", text))).start())
    assert failure.name == "expression-error"
    assert len(failure.message) <= MESSAGE_CHARS_MAX


# -- how an author says it -------------------------------------------------------------------------
app = App("limits")


@app.task
async def nothing() -> None:
    return None


@workflow
async def plain() -> None:
    await nothing()


@workflow(name="plain", limits=Limits())
async def spelled_out() -> None:
    await nothing()


@workflow(name="limited", limits=Limits(steps_per_command=2, history_events=5))
async def limited(n: int) -> int:
    while n > 0:
        n = n - 1
    return n


def test_limits_that_are_the_default_make_no_other_version() -> None:
    assert plain.spec.limits is None
    assert spelled_out.spec.limits is None
    assert plain.spec.digest() == spelled_out.spec.digest()
    assert b'"limits":' not in plain.spec.encode()


def test_an_authors_limits_hold() -> None:
    assert limited.spec.limits == Limits(steps_per_command=2, history_events=5)
    assert ended(Run(limited.spec).start(b'{"n":0}')) == "completed"
    assert ended(Run(limited.spec).start(b'{"n":1}')) == "steps-per-command"


def refused(**limits: int) -> Callable[[], WorkflowSpec]:
    return lambda: workflow(limits=Limits(**limits))(plain.function).spec


@pytest.mark.limit("steps-per-command", "input-size", "variables-size", "history-limit")
@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_limits_that_no_engine_grants_are_refused(name: str) -> None:
    most = getattr(LIMITS_MAX, name)
    workflow(limits=Limits(**{name: most}))(plain.function)
    for wrong in (0, -1, most + 1, 10**30):
        with pytest.raises(DefinitionError, match=f"limit {name} is .*: give 1 to {most}"):
            refused(**{name: wrong})()


def test_a_run_keeps_the_limits_of_its_version() -> None:
    small = msgspec.structs.replace(limited.spec, limits=None)
    assert ended(Run(small).start(b'{"n":1}')) == "completed"
