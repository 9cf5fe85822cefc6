"""`dressage run`, against a real engine."""

from __future__ import annotations

import json
import signal
import uuid
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Engine  # pyright: ignore[reportMissingImports]
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

ADA = '{"name": "Ada"}'


@pytest.fixture
def run_id() -> str:
    return str(uuid.uuid4())


@pytest.fixture
def ended(engine: Engine, run_id: str) -> str:
    """The id of a run that has completed."""
    assert (
        engine.invoke("run", "start", "greeting", "--input", ADA, "--run-id", run_id, "--wait").exit_code == 0
    )
    return run_id


def test_start_prints_the_run_id_alone(engine: Engine, run_id: str) -> None:
    done = engine.invoke("run", "start", "greeting", "--input", ADA, "--run-id", run_id)
    assert done.stdout == f"{run_id}\n"


def test_start_and_wait_prints_the_output_alone(engine: Engine) -> None:
    assert engine.invoke("run", "start", "greeting", "--input", ADA, "--wait").stdout == '"Hello Ada"\n'


def test_input_comes_from_a_file(engine: Engine) -> None:
    (engine.folder / "ada.json").write_text(ADA)
    done = engine.invoke("run", "start", "greeting", "--input", "@ada.json", "--wait")
    assert done.stdout == '"Hello Ada"\n'


def test_input_comes_from_standard_input(engine: Engine) -> None:
    done = engine.invoke("run", "start", "greeting", "--input", "-", "--wait", stdin=ADA)
    assert done.stdout == '"Hello Ada"\n'


@pytest.mark.parametrize("given", ["{", "[1]", "@no-such-file.json"])
def test_input_that_is_no_object_is_a_usage_error(engine: Engine, given: str) -> None:
    done = engine.invoke("run", "start", "greeting", "--input", given)
    assert done.exit_code == 2
    assert "Invalid value for '--input'" in done.stderr


def test_the_same_start_again_is_the_same_run(engine: Engine, ended: str) -> None:
    done = engine.invoke("run", "start", "greeting", "--input", ADA, "--run-id", ended, "--json")
    assert json.loads(done.stdout) == {"run_id": ended, "existing": True}


def test_the_same_id_with_other_input_is_a_conflict(engine: Engine, ended: str) -> None:
    done = engine.invoke("run", "start", "greeting", "--input", '{"name": "Bob"}', "--run-id", ended)
    assert done.exit_code == 1
    assert done.stderr.startswith("RUN_ID_CONFLICT: ")


def test_a_run_that_fails_exits_with_1_and_the_failure(engine: Engine) -> None:
    done = engine.invoke("run", "start", "greeting", "--input", '{"name": ""}', "--wait")
    assert done.exit_code == 1
    assert "RUN_FAILED: " in done.stderr
    assert "no-name: say who" in done.stderr


def test_input_of_another_type_is_refused(engine: Engine) -> None:
    done = engine.invoke("run", "start", "greeting", "--input", '{"name": 7}')
    assert done.exit_code == 1
    assert done.stderr.startswith("INPUT_INVALID: ")


def test_a_workflow_that_is_not_registered_is_named(engine: Engine) -> None:
    done = engine.invoke("run", "start", "greetign")
    assert done.exit_code == 1
    assert done.stderr.startswith("WORKFLOW_UNKNOWN: workflow 'greetign' is not registered")


def test_get_shows_who_asked_for_the_run(engine: Engine, ended: str) -> None:
    assert json.loads(engine.invoke("run", "get", ended, "--json").stdout)["actor"] == "tests"


def test_get_shows_the_output(engine: Engine, ended: str) -> None:
    assert '"Hello Ada"' in engine.invoke("run", "get", ended).stdout


def test_wait_prints_the_output_of_a_run_that_ended_before(engine: Engine, ended: str) -> None:
    assert engine.invoke("run", "wait", ended).stdout == '"Hello Ada"\n'


def test_history_begins_with_the_start_and_ends_with_the_end(engine: Engine, ended: str) -> None:
    lines = engine.invoke("run", "history", ended, "--json").stdout.splitlines()
    kinds = [json.loads(line)["type"] for line in lines]
    assert kinds[0] == "dressage.run-started"
    assert kinds[-1] == "dressage.run-completed"


def test_history_as_a_table_has_a_line_for_each_event(engine: Engine, ended: str) -> None:
    events = engine.invoke("run", "history", ended, "--json").stdout.splitlines()
    table = engine.invoke("run", "history", ended).stdout.splitlines()
    assert len(table) == len(events) + 1


def test_following_an_ended_run_shows_its_whole_history(engine: Engine, ended: str) -> None:
    done = engine.invoke("run", "follow", ended, "--json")
    assert done.exit_code == 0
    assert done.stdout == engine.invoke("run", "history", ended, "--json").stdout


def test_following_shows_a_line_for_each_event(engine: Engine, ended: str) -> None:
    lines = engine.invoke("run", "follow", ended).stdout.splitlines()
    kinds = [line.split()[2] for line in lines]
    assert (kinds[0], kinds[-1]) == ("run-started", "run-completed")
    assert [line.split()[0] for line in lines] == [str(number) for number in range(len(lines))]
    assert lines[-1].endswith('"Hello Ada"')


def test_following_begins_behind_the_event_that_one_has(engine: Engine, ended: str) -> None:
    lines = engine.invoke("run", "follow", ended).stdout.splitlines()
    assert engine.invoke("run", "follow", ended, "--after", "1").stdout.splitlines() == lines[2:]
    assert engine.invoke("run", "follow", ended, "--after", str(len(lines))).stdout == ""
    assert engine.invoke("run", "follow", ended, "--after", "-2").exit_code == 2


def test_following_a_run_that_failed_is_no_error(engine: Engine, run_id: str) -> None:
    engine.invoke("run", "start", "greeting", "--input", '{"name": ""}', "--run-id", run_id, "--wait")
    done = engine.invoke("run", "follow", run_id)
    assert done.exit_code == 0
    assert "no-name: say who" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_following_is_stopped_by_a_signal_and_says_how_to_go_on(
    engine: Engine, run_id: str, start: Start, number: signal.Signals
) -> None:
    engine.invoke("run", "start", "napping", "--input", '{"seconds": 3600}', "--run-id", run_id)
    following = start("run", "follow", run_id, env=engine.env)
    index = following.says("sleep-started").split()[0]
    following.process.send_signal(number)
    assert following.ended() == 130
    assert following.said.splitlines()[-1] == f"stopped: --after {index} goes on from here"
    again = start("run", "follow", run_id, "--after", index, env=engine.env)
    engine.invoke("run", "cancel", run_id)
    assert again.ended() == 0
    assert [line.split()[2] for line in again.said.splitlines()] == ["run-cancelled"]


@pytest.fixture
def cancelled(engine: Engine, run_id: str) -> str:
    """The id of a run that was cancelled in its sleep."""
    engine.invoke("run", "start", "napping", "--input", '{"seconds": 3600}', "--run-id", run_id)
    done = engine.invoke("run", "cancel", run_id, "--reason", "no [bold]longer[/bold] wanted")
    assert (done.exit_code, done.output) == (0, "")
    return run_id


def test_a_cancelled_run_says_so_and_why(engine: Engine, cancelled: str) -> None:
    view = json.loads(engine.invoke("run", "get", cancelled, "--json").stdout)
    assert (view["status"], view["reason"]) == ("cancelled", "no [bold]longer[/bold] wanted")
    assert "no [bold]longer[/bold] wanted" in engine.invoke("run", "get", cancelled).stdout
    last = engine.invoke("run", "history", cancelled).stdout.splitlines()[-1]
    assert "run-cancelled" in last
    assert "no [bold]longer[/bold] wanted" in last


def test_to_wait_for_a_cancelled_run_is_an_error_of_its_own(engine: Engine, cancelled: str) -> None:
    done = engine.invoke("run", "wait", cancelled)
    assert done.exit_code == 1
    assert done.stderr.startswith("RUN_CANCELLED: ")


def test_to_cancel_a_cancelled_run_again_is_no_error(engine: Engine, cancelled: str) -> None:
    assert engine.invoke("run", "cancel", cancelled).exit_code == 0


def test_a_run_that_has_ended_cannot_be_cancelled(engine: Engine, ended: str) -> None:
    done = engine.invoke("run", "cancel", ended)
    assert done.exit_code == 1
    assert done.stderr.startswith("RUN_FINISHED: ")


@pytest.mark.parametrize("command", ["get", "wait", "history", "follow", "cancel"])
def test_a_run_that_is_not_there_is_named(engine: Engine, command: str) -> None:
    done = engine.invoke("run", command, "no-such-run")
    assert done.exit_code == 1
    assert done.stderr.startswith("RUN_UNKNOWN: ")


def test_no_answer_in_time_is_an_error_of_its_own(engine: Engine) -> None:
    done = engine.invoke("run", "get", "any", "--server", "nats://127.0.0.1:9")
    assert done.exit_code == 1
    assert done.stderr.startswith("SERVER_UNREACHABLE: no NATS server answered at nats://127.0.0.1:9")
