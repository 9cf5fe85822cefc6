"""External events in the fold: the earliest unclaimed first, each to one wait, once, and checked as it comes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.limits.specs import Run, expr, failure_of, raw, spec_of  # pyright: ignore[reportMissingImports]

from dressage.orchestrator.fold.effects import CancelTimer, SetTimer
from dressage.orchestrator.fold.limits import POSTED_MAX, STATE_BYTES_MAX, UNCLAIMED_BYTES_MAX
from dressage.orchestrator.fold.outcome import Outcome
from dressage.orchestrator.fold.state import decode_state, encode_state
from dressage.protocol.commands import CancelRun, PostEvent, TimerFired
from dressage.protocol.events import EventExpired, EventPosted, EventReceived, EventTimedOut
from dressage.protocol.spec import (
    Branch,
    EventDef,
    EventNode,
    GatherNode,
    Handler,
    Limits,
    Node,
    ReturnNode,
    Scope,
    WorkflowSpec,
)
from dressage.protocol.types import ANY, MaskedOf, Scalar, TypeRef

INT: TypeRef = Scalar("int")


def waiting(
    count: int = 1,
    of: TypeRef = INT,
    timeout: str | None = None,
    expires_s: float | None = None,
    **parts: Any,
) -> WorkflowSpec:
    """Waits for event `e` so many times, and returns the last payload."""
    given = expr(timeout) if timeout is not None else None
    nodes: list[Node] = [EventNode("e", n + 1, given, target="a") for n in range(count)]
    return spec_of([*nodes, ReturnNode(expr("a"))], events=(EventDef("e", of, expires_s),), **parts)


def sleeping_first(
    *, expires_s: float | None = None, of: TypeRef = ANY, limits: Limits | None = None
) -> WorkflowSpec:
    """Waits for event `go`, then for `e`."""
    nodes: list[Node] = [EventNode("go", 1), EventNode("e", 2, target="a"), ReturnNode(expr("a"))]
    events = (EventDef("go", ANY), EventDef("e", of, expires_s))
    return spec_of(nodes, events=events, limits=limits)


def post(run: Run, payload: Any, event_id: str, event: str = "e") -> Outcome:
    return run.apply(PostEvent(event, event_id, raw(payload), "ann"))


def test_an_event_wakes_the_wait_and_gives_its_payload() -> None:
    run = Run(waiting())
    run.start()
    outcome = post(run, 7, "one")
    assert outcome.run is not None
    assert outcome.run.output == raw(7)
    assert [type(each) for each in outcome.events[:2]] == [EventPosted, EventReceived]
    assert outcome.actor == "ann"


def test_events_that_come_before_their_wait_are_taken_in_the_order_in_which_they_came() -> None:
    run = Run(sleeping_first())
    run.start()
    for number in range(3):
        post(run, number, f"id-{number}")
    outcome = post(run, None, "go", "go")
    assert outcome.run is not None
    assert outcome.run.output == raw(0)
    assert outcome.run.unclaimed == []


def test_one_event_feeds_one_wait() -> None:
    run = Run(waiting(3))
    run.start()
    assert post(run, 1, "a").run.status == "running"  # type: ignore[union-attr]
    assert post(run, 2, "b").run.status == "running"  # type: ignore[union-attr]
    assert post(run, 3, "c").run.output == raw(3)  # type: ignore[union-attr]


def test_the_same_id_is_the_same_event_also_when_the_run_has_ended() -> None:
    run = Run(waiting(2))
    run.start()
    post(run, 1, "a")
    again = post(run, 1, "a")
    assert (again.code, again.existing, again.events) == (None, True, [])
    post(run, 2, "b")
    late = post(run, 1, "a")
    assert (late.code, late.existing) == (None, True)
    assert post(run, 3, "c").code == "RUN_FINISHED"


def test_of_several_waits_the_one_that_began_first_gets_it() -> None:
    branches = (Branch(2, {}, ("b",)), Branch(4, {}, ("c",)))
    nodes: list[Node] = [
        GatherNode(branches, 1, target="a"),
        ReturnNode(expr("list(a)")),
        *(EventNode("go", 3), EventNode("e", 6, target="b")),
        *(EventNode("e", 5, target="c"), ReturnNode(expr("c"))),
        ReturnNode(expr("b")),
    ]
    run = Run(spec_of(nodes, events=(EventDef("e", INT), EventDef("go", ANY))))
    run.start()
    post(run, None, "go", "go")
    post(run, 1, "a")
    outcome = post(run, 2, "b")
    assert outcome.run is not None
    # The first branch came to its wait later than the second.
    assert outcome.run.output == raw([2, 1])


def test_a_wait_with_a_timeout_has_a_timer_that_goes_with_it() -> None:
    run = Run(waiting(timeout="5"))
    started = run.start()
    (timer,) = [effect for effect in started.effects if isinstance(effect, SetTimer)]
    assert started.state is not None
    assert timer.due_ms == started.state.time_ms + 5000
    assert CancelTimer(timer.timer_id) in post(run, 1, "a").effects


def test_a_timeout_is_pythons_own_error() -> None:
    run = Run(waiting(timeout="5"))
    run.start()
    assert run.state is not None
    outcome = run.apply(TimerFired(run.state.threads[0].timers[0]))
    assert isinstance(outcome.events[0], EventTimedOut)
    failure = failure_of(outcome)
    assert (failure.kind, failure.family) == ("timeout", ("TimeoutError", "OSError", "Exception"))
    assert failure.message == "event e did not come within 5 s"


@pytest.mark.parametrize(
    ("name", "caught"), [("TimeoutError", True), ("OSError", True), ("LookupError", False)]
)
def test_a_handler_takes_a_timeout_by_its_class(name: str, *, caught: bool) -> None:
    nodes: list[Node] = [
        EventNode("e", 1, expr("5"), "a", scope=0),
        ReturnNode(expr("a")),
        ReturnNode(expr("'late'")),
    ]
    run = Run(spec_of(nodes, events=(EventDef("e", ANY),), scopes=(Scope((Handler((name,), 2),)),)))
    run.start()
    assert run.state is not None
    outcome = run.apply(TimerFired(run.state.threads[0].timers[0]))
    assert outcome.run is not None
    assert outcome.run.status == ("completed" if caught else "failed")


def test_an_event_and_a_timeout_that_cross_each_other_end_one_wait() -> None:
    run = Run(waiting(2, timeout="5"))
    run.start()
    assert run.state is not None
    timer_id = run.state.threads[0].timers[0]
    post(run, 1, "a")
    assert run.apply(TimerFired(timer_id)).code == "RESULT_STALE"


@pytest.mark.parametrize(
    ("event", "payload", "code", "said"),
    [
        ("e", "seven", "EVENT_INVALID", "payload of event 'e': value: Expected int, got str"),
        ("other", 7, "EVENT_UNKNOWN", "does not wait for event 'other': it waits for e"),
    ],
)
def test_what_the_run_cannot_take_is_refused_to_whoever_posts_it(
    event: str, payload: Any, code: str, said: str
) -> None:
    run = Run(waiting())
    before = run.start().run
    outcome = post(run, payload, "a", event)
    assert outcome.code == code
    assert said in outcome.message
    assert outcome.run is before


def test_an_event_without_an_id_is_refused() -> None:
    run = Run(waiting())
    run.start()
    assert post(run, 1, "").code == "EVENT_INVALID"


def test_an_event_for_no_run_is_refused() -> None:
    assert post(Run(waiting()), 1, "a").code == "RUN_UNKNOWN"


def test_an_unclaimed_event_expires() -> None:
    run = Run(sleeping_first(expires_s=2.5))
    run.start()
    post(run, "early", "a")
    for number in range(3):
        # Each command comes a second later.
        assert post(run, number, f"n-{number}").code is None
    outcome = post(run, None, "go", "go")
    assert outcome.run is not None
    assert [each.event_id for each in outcome.events if isinstance(each, EventExpired)] == ["a", "n-0"]
    assert outcome.run.output == raw(1)


def test_a_masked_payload_is_hidden_in_the_event() -> None:
    run = Run(waiting(of=MaskedOf(Scalar("str"))))
    run.start()
    outcome = post(run, "secret", "a")
    assert all(b"secret" not in bytes(getattr(each, "payload", b"")) for each in outcome.events)
    posted = outcome.events[0]
    assert isinstance(posted, EventPosted)
    assert posted.payload == raw("***")


def test_a_run_that_ends_forgets_what_nobody_claimed() -> None:
    run = Run(sleeping_first())
    run.start()
    post(run, 1, "a")
    outcome = run.apply(CancelRun("c"))
    assert outcome.run is not None
    assert outcome.run.unclaimed == []


def test_a_state_with_events_is_read_as_it_was_written() -> None:
    run = Run(sleeping_first())
    run.start()
    state = post(run, {"a": [1]}, "a").run
    assert state is not None
    assert decode_state(encode_state(state)) == state


# -- limits ----------------------------------------------------------------------------------------
@pytest.mark.limit("orchestrator.fold.limits.POSTED_MAX")
def test_a_run_takes_so_many_events() -> None:
    run = Run(waiting(POSTED_MAX + 2))
    run.start()
    for number in range(POSTED_MAX):
        assert post(run, number, f"id-{number}").code is None
    full = post(run, 1, "another")
    assert (full.code, "(limit posted-events)" in full.message) == ("EVENTS_FULL", True)
    assert post(run, 1, "id-0").existing


@pytest.mark.limit("orchestrator.fold.limits.UNCLAIMED_BYTES_MAX")
def test_unclaimed_events_take_so_many_bytes() -> None:
    run = Run(sleeping_first())
    run.start()
    assert post(run, "x" * (UNCLAIMED_BYTES_MAX - 2), "a").code is None
    full = post(run, 1, "b")
    assert (full.code, "(limit unclaimed-events)" in full.message) == ("EVENTS_FULL", True)
    post(run, None, "go", "go")
    assert run.state is not None
    assert run.state.status == "completed"


@pytest.mark.limit("event-size")
def test_a_payload_takes_as_much_as_a_value() -> None:
    run = Run(waiting(2, of=ANY, limits=Limits(value_bytes=100)))
    run.start()
    assert post(run, "x" * 98, "a").code is None
    beyond = post(run, "x" * 99, "b")
    assert (beyond.code, "(limit event-size)" in beyond.message) == ("EVENT_INVALID", True)


def test_an_event_that_would_make_the_state_too_large_is_refused_and_the_run_goes_on() -> None:
    limits = Limits(value_bytes=448 * 1024, variables_bytes=640 * 1024)
    run = Run(sleeping_first(limits=limits))
    run.start(b'{"p":"%b"}' % (b"x" * 457_000))
    full = post(run, "y" * (STATE_BYTES_MAX - 2 * 457_000), "a")
    assert (full.code, "state-size" in full.message) == ("EVENTS_FULL", True)
    assert post(run, None, "go", "go").code is None


def test_a_run_that_has_all_its_output_events_takes_no_more() -> None:
    run = Run(sleeping_first(limits=Limits(history_events=4)))
    run.start()
    assert post(run, 1, "a").code is None
    assert post(run, 2, "b").code is None
    full = post(run, 3, "c")
    assert (full.code, "(limit history-limit)" in full.message) == ("EVENTS_FULL", True)
