"""An event of a correlation key counts once however late it comes again: where the marks of earlier ones go."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.limits.specs import raw  # pyright: ignore[reportMissingImports]
from tests.orchestrator.mailboxes import (  # pyright: ignore[reportMissingImports]
    KEY,
    System,
    output,
    remembering,
    waiting,
)

from dressage.orchestrator.fold.archive import fold_marks
from dressage.orchestrator.fold.definition import EventDefinition
from dressage.orchestrator.fold.effects import Effect, SendCommand
from dressage.orchestrator.fold.limits import (
    GIVEN_MAX,
    KEPT_BYTES_MAX,
    MARKS_MAX,
    REMEMBERED_MAX,
    RETURNED_BYTES_MAX,
    WAITS_BYTES_MAX,
    WAITS_MAX,
    kept_bytes,
)
from dressage.orchestrator.fold.mailbox import fold_key
from dressage.orchestrator.fold.marks import mark_of_event, mark_of_wait, path_of
from dressage.orchestrator.fold.outcome import RefuseCommand, Stamp
from dressage.orchestrator.fold.state import (
    MAILBOX_FORMAT,
    Held,
    KeyedWait,
    Mailbox,
    Marks,
    State,
    encode_state,
)
from dressage.protocol.commands import (
    AskMark,
    CancelRun,
    KeepMarks,
    KeyedEvent,
    MarksKept,
    PostEvent,
    TellMark,
    WithdrawWait,
)
from dressage.protocol.errors import BadRunId
from dressage.protocol.names import (
    RUN_ID_BYTES_MAX,
    is_key,
    key_of,
    key_token,
    marks_of,
    marks_token,
    place_of,
    run_id_of,
)
from dressage.protocol.spec import EventDef, RegisteredEvent
from dressage.protocol.types import ANY

EVENT = EventDefinition(RegisteredEvent(EventDef("e", ANY), (), 1, ""))
SHORT = EventDef("e", ANY, 0.001)
"""An event that nobody claims is gone at once."""


def test_of_thousands_of_events_each_counts_once_however_late_it_comes_again() -> None:
    system = System(waiting(), SHORT)
    with remembering(32):
        for number in range(3_000):
            system.now_ms += 2
            assert not system.post(str(number)).existing
            system.settle()
        parts = [state for state in system.states.values() if isinstance(state, Marks)]
        assert len(parts) > 16 + 16
        assert max(len(part.marks) for part in parts) <= 32
        assert len(system.mailbox.posted) <= 32
        for number in range(3_000):
            system.now_ms += 2
            system.post(str(number))
            system.settle()
    assert system.mailbox.number == 3_000
    assert system.mailbox.held == []


@pytest.mark.limit("orchestrator.fold.limits.MARKS_MAX")
def test_the_key_asks_once_its_state_has_no_room() -> None:
    event = EventDefinition(RegisteredEvent(SHORT, (), 1, ""))
    state: State | None = None
    effects: list[Effect] = []
    for number in range(MARKS_MAX + 1):
        assert not effects
        post = PostEvent("e", str(number), version=1)
        outcome = fold_key(state, post, KEY, Stamp(number + 1, number + 1), event)
        state, effects = outcome.state, outcome.effects
    assert isinstance(state, Mailbox)
    assert state.archived
    moves = [effect.command for effect in effects if isinstance(effect, SendCommand)]
    moved = {mark for move in moves if isinstance(move, KeepMarks) for mark in move.marks}
    assert moved == {mark_of_event("e", str(number)) for number in range(MARKS_MAX // 2)}


def test_events_keep_their_order_though_their_questions_do_not() -> None:
    system = System(waiting())
    chance = random.Random(7)
    with remembering(2):
        for number in range(40):
            system.post(str(number), number)
            if system.mailbox.archived and chance.random() < 0.4:
                continue
            while lanes := [lane for lane, sent in system.lanes.items() if sent]:
                system.forward(chance.choice(lanes))
        while lanes := [lane for lane, sent in system.lanes.items() if sent]:
            system.forward(chance.choice(lanes))
    assert [each.event_id for each in system.mailbox.unclaimed] == [str(number) for number in range(40)]
    assert [each.number for each in system.mailbox.unclaimed] == list(range(1, 41))


def archived(timeout: str | None = None) -> System:
    """A key that has had more events than it has room for the marks of; nobody has claimed the last one."""
    system = System(waiting(timeout=timeout), SHORT)
    with remembering(2):
        for number in range(3):
            system.now_ms += 2
            system.post(str(number))
            system.settle()
    system.now_ms += 2
    system.event = EVENT
    return system


def test_an_event_that_is_asked_about_is_in_time_for_who_waits_then() -> None:
    system = archived("5")
    system.start("a")
    system.settle()
    system.post("new", 7)
    ((token, timer_id),) = system.timers
    system.apply(token, system.timers[token, timer_id])
    system.forward("a")  # The run asks the key whether nothing came.
    assert system.run("a").status == "running"
    assert [bool(held.wait) for held in system.mailbox.held] == [False, True]
    system.settle()
    assert output(system.run("a")) == 7
    assert system.mailbox.held == []


def test_a_wait_ends_behind_a_question_about_what_was_there_before() -> None:
    system = archived("5")
    system.start("a")
    system.settle()
    system.post("0", 7)
    ((token, timer_id),) = system.timers
    system.apply(token, system.timers[token, timer_id])
    system.settle()
    assert output(system.run("a")) == "late"
    assert system.mailbox.waits == []


def test_of_a_wait_that_is_withdrawn_while_its_end_is_held_nothing_is_left() -> None:
    system = archived("5")
    system.start("a")
    system.settle()
    system.post("new", 7)
    ((token, timer_id),) = system.timers
    system.apply(token, system.timers[token, timer_id])
    system.apply("a", CancelRun("c"))
    system.settle()
    assert (system.mailbox.waits, system.mailbox.held) == ([], [])
    assert [each.event_id for each in system.mailbox.unclaimed] == ["new"]


def test_of_those_that_came_to_wait_since_it_was_posted_the_first_takes_it() -> None:
    system = archived()
    system.post("new", 7)
    for run_id in ("a", "b"):
        system.start(run_id)
        system.forward(run_id)
    system.settle()
    assert output(system.run("a")) == 7
    assert system.run("b").status == "running"
    assert [each.run_id for each in system.mailbox.waits] == ["b"]


def test_those_that_waited_when_it_was_posted_take_it_all() -> None:
    system = archived()
    for run_id in ("a", "b"):
        system.start(run_id)
    system.settle()
    system.post("new", 7)
    system.start("c")
    system.forward("c")
    system.settle()
    assert [system.run(each).status for each in "abc"] == ["completed", "completed", "running"]


def test_an_event_that_expires_while_it_is_asked_about_is_gone() -> None:
    system = archived()
    system.event = EventDefinition(RegisteredEvent(EventDef("e", ANY, 60.0), (), 1, ""))
    system.post("new", 7)
    system.now_ms += 61_000
    system.start("a")
    system.forward("a")
    system.settle()
    assert system.run("a").status == "running"
    assert system.mailbox.unclaimed == []
    assert system.post("new", 7).existing


def test_the_end_of_a_wait_that_is_asked_for_again_is_held_once() -> None:
    system = archived("5")
    system.start("a")
    system.settle()
    system.post("new", 7)
    for _ in range(2):
        system.apply(KEY, WithdrawWait("a", system.mailbox.waits[0].wait_id, asks=True))
    assert len(system.mailbox.held) == 2


def test_an_event_that_is_asked_about_is_there_already() -> None:
    system = archived()
    assert not system.post("new", 7).existing
    assert system.post("new", 7).existing
    system.settle()
    assert [each.event_id for each in system.mailbox.unclaimed] == ["new"]


def test_an_answer_that_comes_again_says_nothing_of_a_later_question() -> None:
    system = archived()
    system.post("new", 7)
    number = system.mailbox.asked
    system.settle()
    assert system.apply(KEY, TellMark(number)).existing
    system.post("newer", 8)
    assert system.apply(KEY, TellMark(number)).existing
    assert [held.event.event_id for held in system.mailbox.held if held.event] == ["newer"]


def test_marks_stay_until_they_are_kept_elsewhere() -> None:
    system = System(waiting(), SHORT)
    with remembering(2):
        for number in range(3):
            system.post(str(number))
        assert len(system.mailbox.posted) == 3
        assert system.post("0").existing, "its mark is on its way"
        system.settle()
        assert len(system.mailbox.posted) == 2
    assert system.apply(KEY, MarksKept((mark_of_event("e", "0"),))).existing


def test_a_part_that_is_full_knows_its_marks_until_smaller_parts_keep_them() -> None:
    numbers = (str(number) for number in itertools.count())
    marks = tuple(itertools.islice((m for n in numbers if path_of(m := mark_of_event("e", n))[0] == "0"), 3))
    token = marks_token("e", "k", "0")
    with remembering(2):
        outcome = fold_key(None, KeepMarks(marks), token, Stamp(1, 1), None)
        first, *moved = [effect for effect in outcome.effects if isinstance(effect, SendCommand)]
        assert (first.token, first.command) == (KEY, MarksKept(marks))
        assert {each.token for each in moved} == {marks_token("e", "k", path_of(mark)[:2]) for mark in marks}
        asked = fold_key(outcome.state, AskMark(5, marks[0]), token, Stamp(2, 2), None)
        assert asked.effects == [SendCommand(KEY, TellMark(5, known=True))]
        kept = fold_key(outcome.state, MarksKept(marks[:1]), token, Stamp(2, 2), None)
        asked = fold_key(kept.state, AskMark(5, marks[0]), token, Stamp(3, 3), None)
        assert asked.effects == [
            SendCommand(marks_token("e", "k", path_of(marks[0])[:2]), AskMark(5, marks[0]))
        ]
        again = fold_key(kept.state, KeepMarks(marks[:1]), token, Stamp(3, 3), None)
        assert [effect.command for effect in again.effects if isinstance(effect, SendCommand)] == [
            MarksKept(marks[:1]),
            KeepMarks(marks[:1]),
        ]


@pytest.mark.parametrize("mark", ["", "x", "=" * 16, "a" * 15, mark_of_event("e", "1")])
def test_what_is_no_mark_of_a_part_is_refused(mark: str) -> None:
    path = "0" if path_of(mark)[:1] != "0" else "1"
    token = marks_token("e", "k", path)
    for command in (KeepMarks((mark,)), AskMark(1, mark)):
        outcome = fold_key(None, command, token, Stamp(1, 1), None)
        assert (outcome.code, outcome.state) == ("EVENT_INVALID", None)


def test_a_part_takes_so_many_marks_at_a_time() -> None:
    numbers = (str(number) for number in itertools.count())
    marks = tuple(
        itertools.islice(
            (m for n in numbers if path_of(m := mark_of_event("e", n))[0] == "0"), REMEMBERED_MAX + 1
        )
    )
    token = marks_token("e", "k", "0")
    assert fold_key(None, KeepMarks(marks[1:]), token, Stamp(1, 1), None).code is None
    assert fold_key(None, KeepMarks(marks), token, Stamp(1, 1), None).code == "EVENT_INVALID"


def test_a_part_of_marks_takes_nothing_else() -> None:
    with pytest.raises(RefuseCommand, match="stands for marks") as refused:
        fold_marks(None, PostEvent("e", "1"), marks_token("e", "k", "0"), Stamp(1, 1))
    assert refused.value.code == "RUN_UNKNOWN"


@pytest.mark.limit("orchestrator.fold.limits.REMEMBERED_MAX")
def test_a_key_whose_marks_are_not_stored_elsewhere_takes_no_more() -> None:
    posted = [mark_of_event("e", str(number)) for number in range(REMEMBERED_MAX - 1)]
    mailbox = Mailbox(
        MAILBOX_FORMAT, "e", "k", 1, 1, len(posted), posted=posted, archived=True, leaving=MARKS_MAX // 2
    )
    last = fold_key(mailbox, PostEvent("e", "a", version=1), KEY, Stamp(2, 2), EVENT)
    assert last.code is None
    outcome = fold_key(last.state, PostEvent("e", "b", version=1), KEY, Stamp(3, 3), EVENT)
    assert outcome.code == "EVENTS_FULL"
    assert "in some seconds" in outcome.message
    assert fold_key(last.state, PostEvent("e", "7", version=1), KEY, Stamp(3, 3), EVENT).existing


def test_all_that_a_key_may_hold_fits_into_one_message() -> None:
    def full(size: int, made: list[KeyedEvent]) -> list[KeyedEvent]:
        room = size - kept_bytes([*made, KeyedEvent("e", "last", 9, 9, raw(""))])
        return [*made, KeyedEvent("e", "last", 9, 9, raw("x" * room))]

    waits = [
        KeyedWait(f"{n:04}".ljust(RUN_ID_BYTES_MAX, "\1"), "0-0-1")
        for n in range(WAITS_BYTES_MAX // (6 * RUN_ID_BYTES_MAX))
    ]
    waits += [KeyedWait(f"w{n}", "0-0-1") for n in range(WAITS_MAX - len(waits))]
    mailbox = Mailbox(
        MAILBOX_FORMAT,
        "e",
        "k" * 128,
        10**12,
        10**13,
        10**12,
        waits=waits,
        unclaimed=full(RETURNED_BYTES_MAX - KEPT_BYTES_MAX // 2, []),
        posted=[mark_of_event("e", str(n)) for n in range(REMEMBERED_MAX)],
        given={mark_of_event("e", str(n)): (mark_of_wait(str(n), "0-0-1"),) for n in range(GIVEN_MAX)},
        archived=True,
        leaving=MARKS_MAX,
        asked=10**12,
        held=[
            *(Held(10**12, 10**12, each, new=True) for each in full(KEPT_BYTES_MAX // 2, [])),
            *(Held(wait=mark_of_wait(each.run_id, each.wait_id)) for each in waits),
        ],
    )
    assert 900_000 < len(encode_state(mailbox)) < 1024 * 1024 - 4096


@given(
    st.from_regex("[a-z0-9][a-z0-9-]{0,20}", fullmatch=True),
    st.text(min_size=1, max_size=8),
    st.from_regex("[0-9a-f]{1,24}", fullmatch=True),
)
def test_a_part_of_marks_is_one_token_that_no_key_and_no_run_makes(event: str, key: str, path: str) -> None:
    token = marks_token(event, key, path)
    assert marks_of(token) == (event, key, path)
    assert marks_of(key_token(event, key)) == (event, key, "")
    assert is_key(token)
    assert place_of(token) == token
    assert not set(token) & set(".*> \t\r\n")
    for read in (key_of, run_id_of):
        with pytest.raises(BadRunId):
            read(token)
