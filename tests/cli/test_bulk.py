"""What `dressage bulk` does to one run when answers are lost, or the run is over meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dressage.cli.bulk import TRIES, Told, tell_one
from dressage.client import Client
from dressage.protocol.errors import DressageError, NoAnswer, Refused


class Act:
    """Answers so, one after the other; `ids` are those of the commands."""

    def __init__(self, answers: Sequence[DressageError | None]) -> None:
        self.answers = list(answers)
        self.ids: list[str] = []

    async def __call__(self, client: Client, run_id: str, command_id: str) -> int:
        self.ids.append(command_id)
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer
        return 1


LOST = NoAnswer("nobody has answered")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([None], Told(done=1)),
        ([LOST, LOST, None], Told(done=1)),
        ([LOST, Refused("it has ended", code="RUN_FINISHED")], Told(over=1)),
        ([Refused("it is gone", code="RUN_UNKNOWN")], Told(over=1)),
        (TRIES * [LOST], Told(refused={"NO_ANSWER": 1}, examples={"NO_ANSWER": ["r"]})),
        ([Refused("no", code="RUN_HELD")], Told(refused={"RUN_HELD": 1}, examples={"RUN_HELD": ["r"]})),
    ],
)
async def test_one_run_is_told_under_one_id_until_it_is_known_what_became_of_it(
    answers: list[DressageError | None], expected: Told
) -> None:
    act, told = Act(answers), Told()
    await tell_one(Client("nats://127.0.0.1:1"), "r", act, told)
    assert told == expected
    assert act.answers == []
    assert len(set(act.ids)) == 1
