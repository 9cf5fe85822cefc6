"""The workflow on virtual time: no broker, and two hours take a millisecond."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

from orders import Order, SoldOut, View, app, order, paid, release, reserve

from dressage.testing import WorkflowTest

LANTERN = Order("lantern", Decimal("3.39"))


def test_what_is_paid_is_sent() -> None:
    test = WorkflowTest(order, app)
    test.comes(paid, Decimal("3.39"), after=timedelta(minutes=5))
    run = test.run(LANTERN)
    assert run.result == "parcel with shelf 7, lantern"
    assert run.view == View("SENT")
    assert run.elapsed == timedelta(minutes=5)


def test_what_is_not_paid_goes_back_on_the_shelf() -> None:
    test = WorkflowTest(order, app)
    run = test.run(LANTERN)
    assert run.result == "not paid in time"
    assert run.elapsed == timedelta(hours=2)
    assert test.task(release).was_called_with("shelf 7, lantern")


def test_a_shelf_that_does_not_answer_is_asked_again() -> None:
    test = WorkflowTest(order, app)
    test.task(reserve).raises(OSError("the shelf is down")).then_returns("shelf 8, lantern")
    test.comes(paid, Decimal("3.39"))
    assert test.run(LANTERN).result == "parcel with shelf 8, lantern"


def test_what_is_sold_out_fails_the_run() -> None:
    run = WorkflowTest(order, app).run(Order("unicorn", Decimal("9")))
    assert run.failed_with(SoldOut)
