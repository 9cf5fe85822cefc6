"""`dressage tail`: what happens in all runs, as it happens."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Engine  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]


@pytest.fixture
def greet(engine: Engine) -> Callable[[str], str]:
    def start(name: str) -> str:
        run_id = f"tail-{uuid.uuid4().hex}"
        given = json.dumps({"name": name})
        engine.invoke("run", "start", "greeting", "--input", given, "--run-id", run_id, "--wait")
        return run_id

    return start


def tailed(engine: Engine, *arguments: str) -> list[dict[str, Any]]:
    done = engine.invoke("tail", "--since", "all", "--json", *arguments)
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_it_shows_the_events_of_a_run_as_its_history_does(
    engine: Engine, greet: Callable[[str], str]
) -> None:
    run_id = greet("Ada")
    history = engine.invoke("run", "history", run_id, "--json").stdout.splitlines()
    shown = tailed(engine, "--run", run_id, "--count", str(len(history)))
    assert shown == [json.loads(line) for line in history]


def test_it_shows_events_of_the_kinds_and_workflows_that_are_asked_for(
    engine: Engine, greet: Callable[[str], str]
) -> None:
    ended, failed = greet("Ada"), greet("")
    kinds = ["--kind", "run-completed", "--kind", "run-failed"]
    found = tailed(engine, *kinds, "--workflow", "greeting", "--run", ended, "--run", failed, "--count", "2")
    assert [(each["subject"], each["type"]) for each in found] == [
        (ended, "dressage.run-completed"),
        (failed, "dressage.run-failed"),
    ]


def test_without_a_beginning_it_shows_what_happens_from_now_on_until_it_is_stopped(
    engine: Engine, greet: Callable[[str], str], start: Start
) -> None:
    before = greet("Ada")
    following = start("tail", "--kind", "run-failed", "--kind", "run-completed", env=engine.env)
    while True:
        # It does not say when it has begun: runs are started until one is shown.
        run_id = greet("")
        line = following.said.strip().splitlines()
        if line:
            break
    assert before not in following.said
    assert "run-failed" in line[0]
    assert line[0].endswith("no-name: say who")
    assert line[0].split()[1] == "greeting"
    following.says(run_id)
    following.process.send_signal(signal.SIGINT)
    assert following.ended() == 130


def test_it_begins_with_what_happened_since_a_time(engine: Engine, greet: Callable[[str], str]) -> None:
    first, second = greet("Ada"), greet("Bob")
    (completed,) = tailed(engine, "--run", first, "--kind", "run-completed", "--count", "1")
    options = ["--json", "--kind", "run-completed", "--count", "1", "--workflow", "greeting"]
    late = engine.invoke("tail", "--since", completed["time"], "--run", second, *options)
    assert json.loads(late.stdout)["subject"] == second
    hour = engine.invoke("tail", "--since", "1h", "--run", first, *options)
    assert json.loads(hour.stdout) == completed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "yesterday"], "10m"),
        (["--since", "2026-11-29T20:00:00"], "zone"),
        (["--kind", "run-exploded"], "run-failed"),
        (["--count", "0"], "1"),
    ],
)
def test_what_it_cannot_show_is_told(engine: Engine, arguments: list[str], says: str) -> None:
    done = engine.invoke("tail", *arguments)
    assert done.exit_code == 2
    assert says in done.output


def test_a_name_that_no_workflow_can_have_is_refused(engine: Engine) -> None:
    done = engine.invoke("tail", "--workflow", "a.>")
    assert (done.exit_code, "NAME_INVALID" in done.output) == (1, True)
