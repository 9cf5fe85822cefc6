"""What the demo counts as accounted for: each kind of gap is found, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from dressage.cli.demo.accounting import DeadLetter, Found, Published, differences
from online_retail.expected import Outcome

PAID = Outcome("FULFILLED", None, {"price": 1, "charge": 2})
DECLINED = Outcome("DECLINED", "card-declined", {"price": 1})


@dataclass
class Books:
    """Two orders, one of them published twice, and one event that could not be mapped: all is well."""

    published: Published
    found: Found
    letters: list[DeadLetter]

    def wrong(self) -> list[str]:
        expected = {"1": PAID, "2": DECLINED}
        return list(differences(expected, 1, self.published, self.found, self.letters, "order-"))


@pytest.fixture
def books() -> Books:
    return Books(
        Published({"1": [1, 2], "2": [3]}, frozenset({4})),
        Found(
            {
                "order-1": [("completed", "FULFILLED", None)],
                "order-2": [("failed", "DECLINED", "card-declined")],
            },
            {"order-1": {"price": 1, "charge": 2}, "order-2": {"price": 1}},
        ),
        [DeadLetter(4, "EVENT_NOT_JSON", "it is empty")],
    )


def test_all_is_well_when_everything_is_there(books: Books) -> None:
    assert books.wrong() == []


def test_a_run_that_is_missing(books: Books) -> None:
    del books.found.runs["order-2"]
    assert books.wrong() == ["order-2 has 0 runs instead of one"]


def test_a_second_run_of_one_order(books: Books) -> None:
    books.found.runs["order-1"] *= 2
    assert books.wrong() == ["order-1 has 2 runs instead of one"]


def test_a_run_that_has_not_ended(books: Books) -> None:
    books.found.runs["order-1"] = [("running", "RECEIVED", None)]
    (wrong,) = books.wrong()
    assert wrong.startswith("order-1 ended as ('running', 'RECEIVED', None) instead of ")


def test_another_status(books: Books) -> None:
    books.found.runs["order-1"] = [("completed", "CANCELLED", None)]
    assert len(books.wrong()) == 1


def test_another_failure(books: Books) -> None:
    books.found.runs["order-2"] = [("failed", "DECLINED", "type-error")]
    assert len(books.wrong()) == 1


def test_an_attempt_too_many(books: Books) -> None:
    books.found.attempts["order-1"]["charge"] = 3
    (wrong,) = books.wrong()
    assert wrong.startswith("order-1 took the attempts {'price': 1, 'charge': 3} instead of ")


def test_a_run_of_no_order(books: Books) -> None:
    books.found.runs["order-3"] = [("completed", "FULFILLED", None)]
    assert books.wrong() == ["run order-3 belongs to no invoice"]


def test_events_that_do_not_follow_one_another(books: Books) -> None:
    books.found.broken = 2
    assert len(books.wrong()) == 1


def with_published(change: dict[str, Any]) -> Callable[[Books], None]:
    def apply(books: Books) -> None:
        books.published = replace(books.published, **change)

    return apply


def test_an_invoice_that_was_not_published(books: Books) -> None:
    with_published({"orders": {"1": [1, 2]}})(books)
    assert books.wrong() == ["invoice 2 was not published"]


def test_an_unreadable_event_that_was_not_published(books: Books) -> None:
    with_published({"unreadable": frozenset[int]()})(books)
    assert "1 unreadable events were meant to be published, 0 were" in books.wrong()


def test_a_dead_letter_that_is_missing(books: Books) -> None:
    books.letters.clear()
    assert books.wrong() == ["event 4 of the shop cannot be mapped, and is no dead letter"]


def test_a_dead_letter_of_an_order(books: Books) -> None:
    books.letters.append(DeadLetter(1, "INPUT_INVALID", ""))
    assert books.wrong() == ["event 1 of the shop is an order, and is a dead letter"]


def test_a_dead_letter_twice(books: Books) -> None:
    books.letters *= 2
    assert books.wrong() == ["event 4 of the shop is 2 dead letters"]
