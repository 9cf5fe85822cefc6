"""What is wrong with a file is told with its file, its key and a code."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from dressage.connectors import ConfigInvalid, load_triggers, parse_triggers
from dressage.connectors.config import PostTarget, StartTarget

GOOD = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS" }
workflow = "process-order"
run_id = 'event["id"]'
"""


def problems(text: str) -> list[tuple[str, str]]:
    """Key and code of everything that is wrong."""
    with pytest.raises(ConfigInvalid) as caught:
        parse_triggers(text)
    return [(problem.key, problem.code) for problem in caught.value.problems]


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_smallest_trigger_starts_at_the_first_event() -> None:
    (trigger,) = parse_triggers(GOOD)
    assert isinstance(trigger.target, StartTarget)
    assert (trigger.name, trigger.start, trigger.when) == ("orders", "all", None)
    assert (trigger.target.version, trigger.target.input) == (None, {})


def test_everything_a_trigger_can_say_is_read() -> None:
    (trigger,) = parse_triggers(
        GOOD.replace('"ORDERS"', '"ORDERS", subject = "orders.*.new"')
        + """
version = 3
when = 'event["total"] > 0'
start = 17

[trigger.input]
order = "event"
"""
    )
    assert (trigger.source.stream, trigger.source.subject) == ("ORDERS", "orders.*.new")
    assert isinstance(trigger.target, StartTarget)
    assert (trigger.target.version, trigger.start, trigger.target.input["order"].text) == (3, 17, "event")


EVENT = """
[[trigger]]
name = "payments"
source = { stream = "PAYMENTS" }
event = "payment-arrived"
"""


def test_a_trigger_may_post_an_external_event_to_a_key() -> None:
    (trigger,) = parse_triggers(
        EVENT + """key = 'event["order"]'\npayload = "event"\nevent_id = "subject"\n"""
    )
    assert isinstance(trigger.target, PostTarget)
    assert (trigger.target.event, trigger.target.run_id) == ("payment-arrived", None)
    assert trigger.target.key
    assert trigger.target.key.text == 'event["order"]'


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ("", ("key", "KEY_MISSING")),
        ("key = 'subject'\nrun_id = 'subject'", ("key", "KEY_MISSING")),
        ("key = 'subject'\nworkflow = 'bill'", ("event", "VALUE_INVALID")),
        ("key = 'subject'\nversion = 1", ("version", "KEY_UNKNOWN")),
        ("key = 'nothing'", ("key", "EXPRESSION_INVALID")),
    ],
)
def test_what_is_wrong_with_a_trigger_that_posts_is_told(more: str, wrong: tuple[str, str]) -> None:
    assert problems(EVENT + more) == [(f'trigger "payments": {wrong[0]}', wrong[1])]


def test_a_source_may_be_a_subject_without_a_stream() -> None:
    (found,) = parse_triggers(changed('{ stream = "ORDERS" }', '{ subject = "orders.*", core = true }'))
    assert (found.source.subject, found.source.core, found.source.stream) == ("orders.*", True, None)


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("{ core = true }", ("source.subject", "KEY_MISSING")),
        ('{ subject = "a", stream = "A", core = true }', ("source.stream", "VALUE_INVALID")),
        ('{ subject = "a", ordered = true, core = true }', ("source.ordered", "VALUE_INVALID")),
        ('{ subject = "a", core = true }\nstart = "new"', ("start", "VALUE_INVALID")),
        *(
            (f'{{ subject = "{subject}", core = true }}', ("source.subject", "NAME_INVALID"))
            for subject in (">", "*.created", "dressage.>", "$JS.>", "_INBOX.>")
        ),
    ],
)
def test_what_is_wrong_with_a_subject_without_a_stream_is_told(source: str, wrong: tuple[str, str]) -> None:
    found = problems(changed('{ stream = "ORDERS" }', source))
    assert (f'trigger "orders": {wrong[0]}', wrong[1]) in found


def test_a_source_may_be_ordered() -> None:
    (trigger,) = parse_triggers(changed('{ stream = "ORDERS" }', '{ stream = "ORDERS", ordered = true }'))
    assert trigger.source.ordered
    assert problems(changed('{ stream = "ORDERS" }', '{ stream = "ORDERS", ordered = 1 }')) == [
        ('trigger "orders": source.ordered', "VALUE_INVALID")
    ]
    assert problems(changed('{ stream = "ORDERS" }', "{ ordered = true }")) == [
        ('trigger "orders": source', "KEY_MISSING")
    ]


@pytest.mark.parametrize("start", ["2026-11-29T20:00:00Z", '"2026-11-29T20:00:00Z"'])
def test_a_trigger_may_begin_at_a_time(start: str) -> None:
    (trigger,) = parse_triggers(GOOD + f"start = {start}\n")
    assert trigger.start == datetime(2026, 11, 29, 20, tzinfo=UTC)


def test_a_time_without_a_zone_is_refused() -> None:
    assert problems(GOOD + "start = 2026-11-29T20:00:00\n") == [('trigger "orders": start', "VALUE_INVALID")]


def test_a_file_may_hold_several_triggers() -> None:
    names = [each.name for each in parse_triggers(GOOD + GOOD.replace('"orders"', '"returns"'))]
    assert names == ["orders", "returns"]


ORDERS = 'trigger "orders"'


@pytest.mark.parametrize(
    ("text", "key", "code"),
    [
        (GOOD + 'colour = "red"', f"{ORDERS}: colour", "KEY_UNKNOWN"),
        (changed("stream =", "streem ="), f"{ORDERS}: source.streem", "KEY_UNKNOWN"),
        (changed('workflow = "process-order"', ""), f"{ORDERS}: workflow", "KEY_MISSING"),
        (changed("run_id = 'event[\"id\"]'", ""), f"{ORDERS}: run_id", "KEY_MISSING"),
        (changed('source = { stream = "ORDERS" }', ""), f"{ORDERS}: source", "KEY_MISSING"),
        (changed('{ stream = "ORDERS" }', "{}"), f"{ORDERS}: source", "KEY_MISSING"),
        (changed('name = "orders"', ""), "trigger number 1: name", "KEY_MISSING"),
        (changed('"orders"', '"Orders!"'), 'trigger "Orders!": name', "NAME_INVALID"),
        (changed('"process-order"', '"process.order"'), f"{ORDERS}: workflow", "NAME_INVALID"),
        (changed('"ORDERS"', '"OR DERS"'), f"{ORDERS}: source.stream", "NAME_INVALID"),
        (changed('stream = "ORDERS"', 'subject = "a..b"'), f"{ORDERS}: source.subject", "NAME_INVALID"),
        (changed('stream = "ORDERS"', 'subject = ">.b"'), f"{ORDERS}: source.subject", "NAME_INVALID"),
        (GOOD + GOOD, f"{ORDERS}: name", "NAME_TAKEN"),
        (GOOD + "version = 0", f"{ORDERS}: version", "VALUE_INVALID"),
        (GOOD + "version = true", f"{ORDERS}: version", "VALUE_INVALID"),
        (GOOD + 'start = "yesterday"', f"{ORDERS}: start", "VALUE_INVALID"),
        (GOOD + "start = 0", f"{ORDERS}: start", "VALUE_INVALID"),
        (GOOD + "when = true", f"{ORDERS}: when", "VALUE_INVALID"),
        (GOOD + "when = 'event['", f"{ORDERS}: when", "EXPRESSION_INVALID"),
        (GOOD + "when = 'open(subject)'", f"{ORDERS}: when", "EXPRESSION_INVALID"),
        (changed("'event[\"id\"]'", "'\"always\"'"), f"{ORDERS}: run_id", "EXPRESSION_INVALID"),
        (GOOD + "[trigger.input]\namount = 5", f"{ORDERS}: input.amount", "VALUE_INVALID"),
        (GOOD + "[trigger.input]\namount = 'evnt'", f"{ORDERS}: input.amount", "EXPRESSION_INVALID"),
        (GOOD + "[trigger.input]\n'a-b' = 'event'", f"{ORDERS}: input.a-b", "NAME_INVALID"),
        ('trigger = "orders"', "trigger", "KEY_MISSING"),
        ("", "trigger", "KEY_MISSING"),
        ("[[trigger]", "", "TOML_INVALID"),
    ],
)
def test_a_mistake_is_told_with_its_key_and_code(text: str, key: str, code: str) -> None:
    assert problems(text) == [(key, code)]


def test_all_mistakes_of_a_file_are_told_at_once() -> None:
    assert len(problems(changed('"process-order"', '"?"') + "version = 0\nwhen = '1 +'")) == 3


def test_a_bad_expression_is_shown_with_a_caret() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse_triggers(GOOD + "when = 'event[\"total\"] > limit'", "shop.toml")
    assert 'shop.toml: trigger "orders": when: EXPRESSION_INVALID: name limit is not known' in str(
        caught.value
    )
    assert '    event["total"] > limit\n                     ^' in str(caught.value)


def test_a_misspelt_key_is_answered_with_the_right_one() -> None:
    with pytest.raises(ConfigInvalid, match="did you mean 'workflow'"):
        parse_triggers(GOOD + 'workflwo = "process-order"')


def test_a_file_that_is_not_there_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"orders\.toml: FILE_UNREADABLE"):
        load_triggers(tmp_path / "orders.toml")
