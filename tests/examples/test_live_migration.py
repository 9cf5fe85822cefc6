"""The example of a live migration, in a unit test: members whose trial began before there were reminders.

On the engine it is tested in tests/acceptance/test_migrations.py.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.examples.cases import EXAMPLES  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]

from dressage.testing import Run, WorkflowTest

import live_migration.after as later  # isort: skip
import live_migration.before as first  # isort: skip


def waiting() -> Run[str]:
    run = WorkflowTest(first.membership, first.app).start("ann").advance(timedelta(days=40))
    return run.migrate(WorkflowTest(later.membership, later.app), values={"answer": ""})


@pytest.mark.parametrize(("reminders", "euros"), [(0, 20), (1, 18), (2, 16)])
def test_a_member_who_decides_pays_less_for_each_reminder(reminders: int, euros: int) -> None:
    run = waiting().advance(timedelta(days=14 * reminders + 1))
    assert run.view == later.MembershipView("TRIAL", reminders)
    assert run.post(later.decided, "stay").result == f"ann pays {euros}"


def test_one_who_never_says_anything_has_left() -> None:
    run = waiting().finish()
    assert run.result == "card of ann is void"
    assert (run.view.status, run.view.reminders) == ("LEFT", 3)
    assert [call.task for call in run.calls] == ["welcome", "remind", "remind", "remind"]


def test_a_trial_that_began_with_reminders_does_the_same() -> None:
    test = WorkflowTest(later.membership, later.app)
    assert test.run("bob").result == "card of bob is void"
