"""The examples of docs/user-tasks.md run, and what it says of limits is so."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from dressage.client.user_tasks import UserTaskHandle
from dressage.protocol.names import ACTOR_CHARS_MAX
from dressage.protocol.spec import USER_TASK_ARGS
from dressage.protocol.user_tasks import (
    COMMENT_BYTES_MAX,
    COMMENTS_MAX,
    NOTES_BYTES_MAX,
    REMINDERS_MAX,
    Action,
)
from dressage.simulation.programs import define

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "user-tasks.md").read_text()
SOURCE: Final = "\n\n".join(re.findall(r"(?s)```python\n(.*?)```", PAGE))
TESTS: Final = re.findall(r"^(?:async )?def (test_\w+)", SOURCE, re.MULTILINE)

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def examples() -> dict[str, Callable[[], Any]]:
    module = define(SOURCE)
    return {name: getattr(module, name) for name in TESTS}


@pytest.mark.parametrize("name", TESTS)
async def test_an_example_of_the_page_passes(examples: dict[str, Callable[[], Any]], name: str) -> None:
    done = examples[name]()
    if inspect.isawaitable(done):
        await done


def test_everything_that_can_be_said_and_done_is_on_the_page() -> None:
    assert [name for name in USER_TASK_ARGS if f"`{name}`" not in PAGE] == []
    methods = [name for name in vars(UserTaskHandle) if not name.startswith("_") and name != "view"]
    assert len(methods) == len(get_args(Action))
    assert [name for name in methods if f"`{name}(" not in PAGE] == []
    for figure in (
        f"at most {NOTES_BYTES_MAX // 1024} KiB",
        f"at most {REMINDERS_MAX} times",
        f"above {COMMENT_BYTES_MAX // 1024} KiB, and above {COMMENTS_MAX} comments",
        f"more than {ACTOR_CHARS_MAX} characters",
    ):
        assert figure in PAGE
