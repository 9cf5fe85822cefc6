"""What is kept for a correlation key: nothing lost, nothing twice, whatever comes first and whatever comes again."""

from __future__ import annotations

import itertools
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.limits.specs import expr, raw, spec_of  # pyright: ignore[reportMissingImports]
from tests.orchestrator.mailboxes import INT, KEY, System, output, remembering, waiting  # pyright: ignore[reportMissingImports]

from dressage.orchestrator.fold.definition import EventDefinition
from dressage.orchestrator.fold.effects import CancelTimer, Effect, SendCommand
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.limits import (
    GIVEN_MAX,
    KEPT_BYTES_MAX,
    KEYED_BYTES_MAX,
    MARKS_MAX,
    RETURNED_BYTES_MAX,
    UNCLAIMED_BYTES_MAX,
    WAITS_BYTES_MAX,
    WAITS_MAX,
    kept_bytes,
)
from dressage.orchestrator.fold.mailbox import fold_key, post_early
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp
from dressage.orchestrator.fold.state import (
    EventWait,
    KeyedWait,
    Mailbox,
    RunState,
    State,
)
from dressage.protocol.commands import (
    AwaitEvent,
    CancelRun,
    DeliverEvent,
    EndWait,
    PostEvent,
    RefuseWait,
    ReturnEvent,
    StartRun,
    TimerFired,
    WithdrawWait,
)
from dressage.protocol.errors import BadInput, BadRunId
from dressage.protocol.events import EventExpired, EventRefused
from dressage.protocol.names import (
    KEY_BYTES_MAX,
    RUN_ID_BYTES_MAX,
    check_key,
    is_key,
    key_of,
    key_token,
    place_of,
    run_id_of,
    run_token,
)
from dressage.protocol.spec import (
    EventDef,
    EventNode,
    Node,
    RegisteredEvent,
    ReturnNode,
    WorkflowSpec,
)
from dressage.protocol.types import ANY, TypeRef


# -- either side first ---------------------------------------------------------------------------------
def test_a_wait_that_comes_first_is_given_what_is_posted() -> None:
    system = System(waiting())
    system.start("a")
    system.settle()
    assert [each.run_id for each in system.mailbox.waits] == ["a"]
    assert system.post("1", 7).code is None
    system.settle()
    assert (system.run("a").status, output(system.run("a"))) == ("completed", 7)
    assert system.mailbox.waits == []
    assert system.mailbox.unclaimed == []


def test_an_event_that_comes_first_is_kept_and_goes_to_the_first_run_that_waits() -> None:
    system = System(waiting())
    system.post("1", 7)
    system.post("2", 8)
    for run_id in ("a", "b", "c"):
        system.start(run_id)
        system.settle()
    assert [output(system.run(run_id)) for run_id in ("a", "b")] == [7, 8]
    assert system.run("c").status == "running"


def test_all_that_wait_get_it() -> None:
    system = System(waiting())
    for run_id in ("a", "b", "c"):
        system.start(run_id)
    system.settle()
    system.post("1", 7)
    system.settle()
    assert [system.run(run_id).status for run_id in ("a", "b", "c")] == ["completed"] * 3
    system.start("d")
    system.settle()
    assert system.run("d").status == "running"


def test_the_same_event_again_changes_nothing_however_late() -> None:
    system = System(waiting())
    system.start("a")
    system.settle()
    assert not system.post("1", 7).existing
    system.settle()
    assert system.post("1", 7).existing
    system.start("b")
    system.settle()
    assert system.run("b").status == "running"


# -- what comes back ------------------------------------------------------------------------------------
def test_what_comes_too_late_for_a_wait_is_there_for_the_next() -> None:
    system = System(waiting())
    system.start("a")
    system.settle()
    system.post("1", 7)  # It is on its way to a ...
    system.apply("a", CancelRun("c"))  # ... which waits no more.
    system.settle()
    assert [each.event_id for each in system.mailbox.unclaimed] == ["1"]
    system.start("b")
    system.settle()
    assert output(system.run("b")) == 7


def timed_out(system: System, run_id: str) -> None:
    """The timer that the run has set fires."""
    (timer_id,) = [timer for token, timer in system.timers if token == run_token(run_id)]
    system.apply(run_token(run_id), system.timers[run_token(run_id), timer_id])


def test_what_the_key_gave_before_it_was_told_that_time_is_over_is_in_time() -> None:
    system = System(waiting(timeout="5"))
    system.start("a")
    system.settle()
    system.post("1", 7)  # It is on its way to a ...
    timed_out(system, "a")  # ... whose timer fires.
    assert system.run("a").status == "running"
    system.settle()
    assert output(system.run("a")) == 7
    assert not system.mailbox.unclaimed
    assert system.apply("a", EndWait("0-0-1")).code == "RUN_FINISHED"


def test_what_was_at_the_key_is_in_time_for_a_wait_that_has_none() -> None:
    system = System(waiting(timeout="0"))
    system.post("1", 7)
    system.start("a")
    timed_out(system, "a")  # Before the key could be asked.
    system.settle()
    assert output(system.run("a")) == 7


def test_a_wait_whose_time_is_over_ends_once_the_key_says_that_nothing_came() -> None:
    system = System(waiting(timeout="5"))
    system.start("a")
    system.settle()
    timed_out(system, "a")
    (timer_id,) = [timer for _, timer in system.timers]
    assert system.apply("a", TimerFired(timer_id)).code == "RESULT_STALE", "it fires twice"
    system.forward("a")
    system.post("1", 7)  # The key knows of the end, and the run does not yet.
    system.settle()
    assert output(system.run("a")) == "late"
    assert [each.event_id for each in system.mailbox.unclaimed] == ["1"]


def test_a_run_that_is_cancelled_while_it_asks_for_the_end_of_its_wait_leaves_nothing() -> None:
    system = System(waiting(timeout="5"))
    system.start("a")
    system.settle()
    timed_out(system, "a")
    outcome = system.apply("a", CancelRun("c"))
    assert not any(isinstance(effect, CancelTimer) for effect in outcome.effects)
    system.settle()
    assert system.run("a").status == "cancelled"
    assert system.mailbox.waits == []


@pytest.mark.parametrize("run_id", ["", "x" * (RUN_ID_BYTES_MAX + 1)])
def test_no_run_without_a_name_is_told_of_the_end_of_its_wait(run_id: str) -> None:
    system = System(waiting())
    assert system.apply(KEY, WithdrawWait(run_id, "0-0-1", asks=True)).code == "RUN_ID_INVALID"


def test_a_cancelled_run_waits_no_more() -> None:
    system = System(waiting())
    system.start("a")
    system.settle()
    outcome = system.apply("a", CancelRun("c"))
    assert [effect.command for effect in outcome.effects if isinstance(effect, SendCommand)] == [
        WithdrawWait("a", "0-0-1")
    ]
    system.settle()
    assert system.mailbox.waits == []


def test_an_event_that_came_back_keeps_its_place() -> None:
    system = System(waiting(timeout="5"))
    system.start("a")
    system.settle()
    system.post("1", 7)
    system.post("2", 8)
    system.apply("a", CancelRun("c"))
    system.settle()
    assert [each.event_id for each in system.mailbox.unclaimed] == ["1", "2"]


def test_of_several_that_got_it_one_that_gives_it_back_changes_nothing() -> None:
    system = System(waiting())
    system.start("a")
    system.start("b")
    system.settle()
    system.post("1", 7)
    system.apply("a", CancelRun("c"))
    system.settle()
    assert system.run("b").status == "completed"
    assert system.mailbox.unclaimed == []


def _go_through(data: st.DataObject, system: System, most: int) -> int:
    """Returns how many events were posted."""
    runs, posted, started = ["a", "b", "c"], 0, set[str]()
    for _ in range(data.draw(st.integers(5, 40 if most < 10 else 80))):
        sources = [source for source, lane in system.lanes.items() if lane]
        match data.draw(st.sampled_from(["start", "post", "forward", "repeat", "timer", "cancel", "again"])):
            case "start":
                run_id = data.draw(st.sampled_from(runs))
                started.add(run_id)
                system.start(run_id)
            case "post" if posted < most:
                posted += 1
                system.post(str(posted), posted)
            case "again" if posted:
                again = system.post(str(data.draw(st.integers(1, posted))), 0)
                assert again.existing or most >= 10
            case "forward" if sources:
                system.forward(data.draw(st.sampled_from(sources)))
            case "repeat" if system.old:
                system.repeat(data.draw(st.sampled_from(sorted(system.old))), data.draw(st.integers(1, 3)))
            case "timer" if system.timers:
                token, timer_id = data.draw(st.sampled_from(sorted(system.timers)))
                system.apply(token, system.timers.pop((token, timer_id)))
            case "cancel" if started:
                system.apply(data.draw(st.sampled_from(sorted(started))), CancelRun("c"))
            case _:
                continue
    return posted


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_event_is_taken_once_or_kept_whatever_comes_again(data: st.DataObject) -> None:
    """Three runs, five events, deliveries of any lane at any time, repeats after take-overs, timeouts and cancels."""
    system = System(waiting(count=2, timeout="5"))
    few = data.draw(st.booleans())
    with remembering(2 if few else MARKS_MAX):
        posted = _go_through(data, system, 15 if few else 5)
        system.settle()
    if posted:
        assert system.mailbox.number == posted, "one of them counted twice, or not at all"
        assert system.mailbox.held == []
    claimed = Counter(event_id for event_id, _ in system.taken)
    kept = [each.event_id for each in system.mailbox.unclaimed] if KEY in system.states else []
    assert len(set(kept)) == len(kept)
    for number in range(1, posted + 1):
        # Taken by all that waited at one moment, or kept: never both, never neither.
        assert (claimed[str(number)] > 0) != (str(number) in kept), (number, claimed, kept)
    pairs = Counter(system.taken)
    per_run = Counter(token for _, token in system.taken)
    assert all(count <= 2 for count in per_run.values())
    assert all(count <= 2 for count in pairs.values())
    if KEY in system.states:
        alive = {(each.run_id, each.wait_id) for each in system.mailbox.waits}
        wanted = {
            (run.run_id, thread.wait.wait_id)
            for run in system.states.values()
            if isinstance(run, RunState)
            for thread in run.threads
            if isinstance(thread.wait, EventWait)
        }
        assert wanted <= alive, "a run waits, and its key does not know"


# -- lasting events -------------------------------------------------------------------------------------
def test_a_lasting_event_is_there_for_runs_that_come_later_until_it_expires() -> None:
    system = System(waiting(lasting=True))
    system.start("a")
    system.settle()
    system.post("1", 7)
    system.settle()
    system.start("b")
    system.settle()
    assert [output(system.run(each)) for each in ("a", "b")] == [7, 7]
    system.now_ms += 61_000
    system.start("c")
    system.settle()
    assert system.run("c").status == "running"
    assert system.mailbox.unclaimed == []


def test_a_run_takes_a_lasting_event_once() -> None:
    system = System(waiting(count=2, lasting=True))
    system.post("1", 7)
    system.start("a")
    system.settle()
    assert system.run("a").status == "running"
    system.post("2", 8)
    system.settle()
    assert output(system.run("a")) == 8


# -- what is refused ------------------------------------------------------------------------------------
def test_the_poster_is_told_of_a_payload_of_another_type() -> None:
    system = System(waiting(of=INT))
    outcome = system.post("1", "seven")
    assert (outcome.code, outcome.state) == ("EVENT_INVALID", None)
    assert "e" in outcome.message


def test_an_event_without_a_definition_is_refused() -> None:
    outcome = fold_key(None, PostEvent("e", "1", version=3), KEY, Stamp(1, 1), None)
    assert outcome.code == "EVENT_UNKNOWN"


def test_another_event_or_a_start_is_none_for_this_key() -> None:
    system = System(waiting())
    assert fold_key(None, PostEvent("f", "1"), KEY, Stamp(1, 1), system.event).code == "EVENT_INVALID"
    assert fold_key(None, StartRun("w", 1, raw({}), "c"), KEY, Stamp(1, 1), None).code == "RUN_UNKNOWN"


def test_an_event_that_the_workflow_cannot_read_fails_its_wait() -> None:
    system = System(waiting(of=INT), EventDef("e", ANY))
    system.start("a")
    system.settle()
    system.post("1", "seven")
    system.settle()
    failure = system.run("a").failure
    assert failure is not None
    assert failure.kind == "type-error"


@pytest.mark.limit("orchestrator.fold.limits.KEYED_BYTES_MAX")
def test_a_payload_has_a_size() -> None:
    system = System(waiting())
    assert system.post("1", "x" * (KEYED_BYTES_MAX - 2)).code is None
    refused = system.post("2", "x" * (KEYED_BYTES_MAX - 1))
    assert refused.code == "EVENT_INVALID"
    assert "(limit keyed-event-size)" in refused.message


def test_unclaimed_events_of_a_key_have_a_size_together() -> None:
    system = System(waiting())
    for number in range(UNCLAIMED_BYTES_MAX // KEYED_BYTES_MAX):
        assert system.post(str(number), "x" * (KEYED_BYTES_MAX - 2)).code is None
    refused = system.post("one more", 1)
    assert refused.code == "EVENTS_FULL"
    assert "(limit unclaimed-events)" in refused.message


@pytest.mark.limit("orchestrator.fold.limits.KEPT_BYTES_MAX")
@pytest.mark.parametrize("key", [KEY, ""], ids=["of a key", "of a run to come"])
def test_unclaimed_events_take_with_their_ids_no_more_than_a_message_has(key: str) -> None:
    """Ids of the largest size with the smallest of payloads, of the characters that take most in JSON."""
    event = EventDefinition(RegisteredEvent(EventDef("e", ANY), (), 1, ""))
    mailbox: Mailbox | None = None

    def post(event_id: str, actor: str = "") -> Outcome:
        command, stamp = PostEvent("e", event_id, raw(1), actor, 1), Stamp(1, 1)
        if key:
            return fold_key(mailbox, command, key, stamp, event)
        try:
            return post_early(mailbox, command, "r", stamp, event)
        except RefuseCommand as refusal:
            return Outcome(mailbox, code=refusal.code, message=refusal.message)

    for number in itertools.count():
        outcome = post(f"{number:0512}", "\1" * 512)
        if outcome.code is not None:
            break
        assert isinstance(outcome.state, Mailbox)
        mailbox = outcome.state
    assert mailbox is not None
    one = post("x").state
    assert isinstance(one, Mailbox)
    room = KEPT_BYTES_MAX - kept_bytes(one.unclaimed)
    assert post("x" * (room + 1)).code is None
    refused = post("x" * (room + 2))
    assert refused.code == "EVENTS_FULL"
    assert "(limit unclaimed-events)" in refused.message


@pytest.mark.limit("orchestrator.fold.limits.WAITS_MAX")
def test_so_many_may_wait_at_one_key() -> None:
    mailbox: State | None = None
    for number in range(WAITS_MAX):
        outcome = fold_key(mailbox, AwaitEvent(f"r{number}", "0-0-1"), KEY, Stamp(number + 1, 1), None)
        mailbox = outcome.state
    system = System(waiting())
    assert mailbox is not None
    system.states[KEY], system.seq = mailbox, WAITS_MAX
    system.start("a")
    system.settle()
    failure = system.run("a").failure
    assert failure is not None
    assert (failure.name, failure.kind) == ("keyed-waits", "limit")


# -- before the run exists --------------------------------------------------------------------------------
def early_spec(of: TypeRef = INT) -> WorkflowSpec:
    nodes: list[Node] = [EventNode("e", 1, target="a"), ReturnNode(expr("a"))]
    return spec_of(nodes, events=(EventDef("e", of, 60.0),))


def test_what_is_posted_before_the_run_exists_counts() -> None:
    system = System(early_spec())
    assert system.post("1", 7, "a").code is None
    assert system.post("1", 7, "a").existing
    assert system.apply("a", CancelRun("c")).code == "RUN_UNKNOWN"
    system.start("a")
    assert output(system.run("a")) == 7
    assert system.post("1", 7, "a").existing


def test_what_is_posted_before_the_run_exists_expires() -> None:
    system = System(early_spec())
    system.post("1", 7, "a")
    system.now_ms += 60_000
    outcome = system.start("a")
    assert EventExpired("e", "1") in outcome.events
    assert system.run("a").status == "running"


def test_what_the_workflow_does_not_take_is_told() -> None:
    system = System(early_spec(), EventDef("e", ANY))
    system.post("1", "seven", "a")
    outcome = system.start("a")
    refused = next(event for event in outcome.events if isinstance(event, EventRefused))
    assert (refused.event, refused.event_id) == ("e", "1")
    assert "int" in refused.reason


def test_without_a_version_a_run_has_to_be_there() -> None:
    assert fold(None, PostEvent("e", "1"), "a", Stamp(1, 1), None).code == "RUN_UNKNOWN"


def test_a_timer_for_what_is_no_run_is_refused() -> None:
    system = System(early_spec())
    system.post("1", 7, "a")
    assert system.apply("a", TimerFired("0-1-1")).code == "RUN_UNKNOWN"


# -- what is remembered --------------------------------------------------------------------------------------
def given_to(
    mailbox: State | None, event_id: str, wait: AwaitEvent, seq: int
) -> tuple[Mailbox, DeliverEvent]:
    """An event that a wait was given."""
    event = EventDefinition(RegisteredEvent(EventDef("e", ANY), (), 1, ""))
    kept = fold_key(mailbox, PostEvent("e", event_id, version=1), KEY, Stamp(seq, 1), event).state
    outcome = fold_key(kept, wait, KEY, Stamp(seq + 1, 1), None)
    assert isinstance(outcome.state, Mailbox)
    (sent,) = outcome.effects
    assert isinstance(sent, SendCommand)
    assert isinstance(sent.command, DeliverEvent)
    return outcome.state, sent.command


@pytest.mark.limit("orchestrator.fold.limits.GIVEN_MAX")
def test_so_many_waits_may_give_back_what_they_were_given() -> None:
    waits = [AwaitEvent(f"r{number}", "0-0-1") for number in range(GIVEN_MAX + 1)]
    mailbox: State | None = None
    given: list[DeliverEvent] = []
    for number, wait in enumerate(waits):
        mailbox, delivered = given_to(mailbox, str(number), wait, 2 * number + 1)
        given.append(delivered)
    for number, comes_back in ((0, False), (1, True), (GIVEN_MAX, True)):
        back = ReturnEvent(waits[number].run_id, "0-0-1", given[number].given)
        outcome = fold_key(mailbox, back, KEY, Stamp(99_999, 1), None)
        assert isinstance(outcome.state, Mailbox)
        assert bool(outcome.state.unclaimed) == comes_back


@pytest.mark.limit("orchestrator.fold.limits.RETURNED_BYTES_MAX")
def test_what_comes_back_has_a_size_with_what_is_there() -> None:
    payload = raw("x" * (KEYED_BYTES_MAX - 2))
    event = EventDefinition(RegisteredEvent(EventDef("e", ANY), (), 1, ""))
    mailbox: State | None = None
    given: list[ReturnEvent] = []
    for number in range(RETURNED_BYTES_MAX // KEYED_BYTES_MAX + 1):
        wait, seq = AwaitEvent(f"r{number}", "0-0-1"), 2 * number + 1
        mailbox = fold_key(mailbox, wait, KEY, Stamp(seq, 1), None).state
        outcome = fold_key(
            mailbox, PostEvent("e", str(number), payload, version=1), KEY, Stamp(seq + 1, 1), event
        )
        mailbox = outcome.state
        (sent,) = outcome.effects
        assert isinstance(sent, SendCommand)
        assert isinstance(sent.command, DeliverEvent)
        given.append(ReturnEvent(wait.run_id, "0-0-1", sent.command.given))
    # What is left behind the last payload that fits is filled up to the last byte, and by one more.
    for more in (0, 1):
        kept = mailbox
        for number, back in enumerate(given[:-1]):
            kept = fold_key(kept, back, KEY, Stamp(10_000 + number, 1), None).state
            assert isinstance(kept, Mailbox)
        assert isinstance(kept, Mailbox)
        there = [each.given for each in given[: len(kept.unclaimed)]]
        last = given[-1].given
        room = RETURNED_BYTES_MAX - kept_bytes([*there, msgspec.structs.replace(last, payload=raw(""))])
        fitting = msgspec.structs.replace(last, payload=raw("x" * (room + more)))
        back = ReturnEvent(given[-1].run_id, "0-0-1", fitting)
        after = fold_key(kept, back, KEY, Stamp(20_000, 1), None).state
        assert isinstance(after, Mailbox)
        assert len(after.unclaimed) == len(there) + (not more)


@pytest.mark.limit("orchestrator.fold.limits.WAITS_BYTES_MAX")
def test_waits_take_no_more_than_a_message_has() -> None:
    mailbox: State | None = None
    effects: list[Effect] = []
    for number in range(WAITS_MAX):
        run_id = f"{number:04}".ljust(RUN_ID_BYTES_MAX, "\1")
        outcome = fold_key(mailbox, AwaitEvent(run_id, "0-0-1"), KEY, Stamp(number + 1, 1), None)
        if effects := outcome.effects:
            break
        mailbox = outcome.state
    (sent,) = effects
    assert isinstance(sent, SendCommand)
    assert isinstance(sent.command, RefuseWait)
    assert isinstance(mailbox, Mailbox)
    assert 100 < len(mailbox.waits) < WAITS_MAX
    room = WAITS_BYTES_MAX - kept_bytes([*mailbox.waits, KeyedWait("r", "", seq=9_999)])
    for size, refused in ((room, False), (room + 1, True)):
        outcome = fold_key(mailbox, AwaitEvent("r", "w" * size), KEY, Stamp(9_999, 1), None)
        assert bool(outcome.effects) == refused


def test_nothing_is_remembered_of_a_wait_that_has_given_back_what_it_had() -> None:
    wait = AwaitEvent("r", "0-0-1")
    mailbox, delivered = given_to(None, "1", wait, 1)
    assert mailbox.given
    outcome = fold_key(mailbox, ReturnEvent("r", "0-0-1", delivered.given), KEY, Stamp(3, 1), None)
    assert isinstance(outcome.state, Mailbox)
    assert (len(outcome.state.unclaimed), outcome.state.given) == (1, {})


@pytest.mark.limit("protocol.names.KEY_BYTES_MAX")
def test_a_key_is_a_text_of_so_many_bytes() -> None:
    assert check_key("ä" * (KEY_BYTES_MAX // 2))
    for wrong in ("", "ä" * (KEY_BYTES_MAX // 2) + "x", 7, None, "\ud800"):
        with pytest.raises(BadInput, match="correlation key"):
            check_key(wrong)


@given(st.from_regex("[a-z0-9][a-z0-9-]{0,20}", fullmatch=True), st.text(min_size=1, max_size=8))
def test_a_key_is_one_token_that_no_run_id_makes(event: str, key: str) -> None:
    token = key_token(event, key)
    assert key_of(token) == (event, key)
    assert is_key(token)
    assert not set(token) & set(".*> \t\r\n")
    with pytest.raises(BadRunId):
        run_id_of(token)
    assert not is_key(run_token(token))
    assert place_of(token) == token
    assert place_of(run_token(key)) == key
