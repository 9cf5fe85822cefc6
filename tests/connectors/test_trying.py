"""A dry run of triggers against recorded events. No server."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from dressage.cli.main import main
from dressage.connectors import parse_triggers
from dressage.connectors.trying import try_events
from dressage.protocol.errors import BadInput

CONFIG = """
[[trigger]]
name = "orders"
source = { stream = "ORDERS", subject = "orders.*.created" }
workflow = "process-order"
when = 'event["total"] > 0'
run_id = '''f"order-{event['id']}"'''
[trigger.input]
order = "event"

[[trigger]]
name = "payments"
source = { stream = "PAYMENTS" }
event = "paid"
key = "event['order']"
"""


def tried(*lines: str) -> list[tuple[int, str, str, str]]:
    found = try_events(parse_triggers(CONFIG), [line.encode() for line in lines])
    return [(each.line, each.trigger, each.would, each.says) for each in found]


def test_an_event_would_start_a_run() -> None:
    line = '{"subject": "orders.eu.created", "stream": "ORDERS", "data": {"id": 7, "total": 1}}'
    assert tried(line) == [
        (1, "orders", "start", 'run order-7 of process-order with {"order":{"id":7,"total":1}}')
    ]


def test_an_event_would_be_posted() -> None:
    line = '{"subject": "any", "stream": "PAYMENTS", "payload": "{\\"order\\": \\"o\\"}"}'
    assert tried(line) == [(1, "payments", "post", 'event paid to key o with {"order":"o"}')]


def test_an_event_may_be_left_out_or_be_nobodys() -> None:
    assert tried(
        '{"subject": "orders.eu.created", "stream": "ORDERS", "data": {"total": 0}}',
        "",
        '{"subject": "orders.eu.paid", "stream": "ORDERS", "data": {}}',
    ) == [
        (1, "orders", "skip", "`when` leaves it out"),
        (3, "", "nothing", "no trigger takes orders.eu.paid"),
    ]


def test_an_event_would_be_a_dead_letter_with_the_reason() -> None:
    (one,) = tried('{"subject": "orders.eu.created", "stream": "ORDERS", "data": {"id": 7}}')
    assert one[2] == "dead-letter"
    assert one[3].startswith("EXPRESSION_FAILED: when: ")


@pytest.mark.parametrize(
    "line", ["{", '{"data": 1}', '{"subject": "a", "dat": 1}', '{"subject":"a","payload_base64":"?"}']
)
def test_a_line_that_is_no_event_is_refused_with_its_number(line: str) -> None:
    with pytest.raises(BadInput, match="line 2 is no recorded event") as caught:
        tried("", line)
    assert caught.value.code == "EVENT_UNREADABLE"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "triggers.toml"
    path.write_text(CONFIG)
    return path


def called(file: Path, events: str, *more: str) -> Result:
    path = file.with_name("events.jsonl")
    path.write_text(events)
    return CliRunner().invoke(main, ["trigger", "test", str(file), str(path), *more])


GOOD = '{"subject": "orders.eu.created", "stream": "ORDERS", "data": {"id": 7, "total": 1}}\n'


def test_the_exit_code_tells_of_dead_letters(file: Path) -> None:
    done = called(file, GOOD)
    assert (done.exit_code, done.output) == (
        0,
        '1: orders: start: run order-7 of process-order with {"order":{"id":7,"total":1}}\n',
    )
    assert called(file, GOOD + GOOD.replace('"id": 7, ', "")).exit_code == 1


def test_programs_get_json(file: Path) -> None:
    (line,) = called(file, GOOD, "--json").output.splitlines()
    assert msgspec.json.decode(line)["would"] == "start"


BATCHES = """
[[trigger]]
name = "invoices"
source = { stream = "ORDERS" }
when = "event['total'] > 0"
batch = { size = 2, within = "5s" }
workflow = "invoice"
run_id = "f'invoice-{batch}'"
[trigger.input]
ids = "[each['id'] for each in events]"
"""


def test_events_join_a_batch_until_it_is_full_or_no_line_is_left() -> None:
    events = "\n".join(
        f'{{"subject": "orders.paid", "data": {{"id": {number}, "total": {total}}}}}'
        for number, total in ((1, 1), (2, 0), (3, 1), (4, 1))
    )
    found = list(try_events(parse_triggers(BATCHES), events.encode().splitlines()))
    assert [(each.line, each.would, each.says) for each in found] == [
        (1, "joins", "number 1 of a batch"),
        (2, "skip", "`when` leaves it out"),
        (3, "start", 'run invoice-ORDERS-1-0 of invoice with {"ids":[1,3]}'),
        (4, "joins", "number 1 of a batch"),
        (4, "start", 'run invoice-ORDERS-4-0 of invoice with {"ids":[4]}'),
    ]


def test_an_order_that_is_no_text_is_a_dead_letter() -> None:
    config = CONFIG.replace("[[trigger]]", "[[trigger]]\norder_by = \"event['id']\"", 1)
    (found,) = try_events(parse_triggers(config), [GOOD.encode()])
    assert (found.would, "KEY_INVALID: order_by" in found.says) == ("dead-letter", True)
