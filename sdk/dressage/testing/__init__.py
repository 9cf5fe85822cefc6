"""Unit tests of workflows: the compiled workflow on the engine's own fold, with fake tasks and virtual time.

::

    from dressage.testing import WorkflowTest

    def test_an_order_is_charged() -> None:
        test = WorkflowTest(process_order)
        test.task(charge_card).returns("receipt-1")
        run = test.run(Order("o-1", "lamp"))
        assert run.result == "receipt-1"

There is no broker, no server and no waiting: a sleep of seven days takes a millisecond.
"""

from dressage.testing.fakes import Branch, FakeTask, TaskCall
from dressage.testing.run import Published, Run, RunEvent, Sleep
from dressage.testing.workflow_test import WorkflowTest

__all__ = ["Branch", "FakeTask", "Published", "Run", "RunEvent", "Sleep", "TaskCall", "WorkflowTest"]
