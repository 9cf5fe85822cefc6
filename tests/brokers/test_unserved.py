"""When a connection leaves a server that answers without reaching a leader."""

from __future__ import annotations

from dressage.brokers.jetstream.unserved import UNSERVED_S, Unserved


def test_a_server_that_answers_nothing_is_left_after_a_while() -> None:
    unserved = Unserved()
    assert not unserved.too_long(1_000.0)
    unserved.failed(10.0, write=False)
    unserved.failed(12.0, write=True)
    assert not unserved.too_long(10.0 + UNSERVED_S - 0.1)
    assert unserved.too_long(10.0 + UNSERVED_S)
    unserved.forget()
    assert not unserved.too_long(1_000.0)


def test_after_a_read_any_answer_proves_the_server() -> None:
    unserved = Unserved()
    unserved.failed(10.0, write=False)
    unserved.answered(stored=False)
    assert unserved.certain
    assert not unserved.too_long(1_000.0)


def test_after_a_write_only_a_stored_one_does() -> None:
    """A former leader that stood still reads and refuses as if it were one."""
    unserved = Unserved()
    unserved.failed(10.0, write=True)
    unserved.answered(stored=False)
    unserved.failed(11.0, write=False)
    unserved.answered(stored=False)
    assert unserved.too_long(10.0 + UNSERVED_S)
    unserved.answered(stored=True)
    assert unserved.certain
