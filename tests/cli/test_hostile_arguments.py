"""Arguments with wildcards, control characters, no characters or too many: told what is wrong, never a traceback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Engine  # pyright: ignore[reportMissingImports]

UNDECODED: Final = "\udcff"
"""What Python makes of an argument's byte that is no UTF-8."""

STRANGE: Final = [
    *("a.b", "*", ">", "a b", "a\tb", "a\r\nb", "../x", "$JS.API", "a\x00b", "a\u202eb", "größe", "=2E"),
    *("x" * 100_000, "", " ", UNDECODED),
]
IDS: Final = [ascii(text)[:16] for text in STRANGE]


@pytest.mark.parametrize("text", STRANGE, ids=IDS)
def test_a_strange_name_is_refused_with_the_rule(engine: Engine, text: str) -> None:
    for arguments in (
        ("run", "start", "--", text),
        ("workflow", "show", "--", text),
        ("run", "get", "--namespace", text, "x"),
        ("orchestrator", "--namespace", text),
        ("shards", "--namespace", text),
    ):
        done = engine.invoke(*arguments)
        assert done.exit_code in {1, 2}, (arguments[:2], done.output)
        assert "Traceback" not in done.output
        assert isinstance(done.exception, SystemExit)
        assert len(done.stderr) < 2_000
        if done.exit_code == 1:
            assert done.stderr.startswith("NAME_INVALID: ")


@pytest.mark.parametrize("text", STRANGE, ids=IDS)
def test_a_strange_run_id_is_one_run_or_refused(engine: Engine, text: str) -> None:
    usable = 0 < len(text.encode(errors="replace")) <= 128 and UNDECODED not in text
    started = engine.invoke(
        "run", "start", "greeting", "--input", '{"name":"Ada"}', "--run-id", text, "--json"
    )
    assert "Traceback" not in started.output
    if usable:
        assert json.loads(started.stdout) == {"run_id": text, "existing": False}
        assert json.loads(engine.invoke("run", "get", "--json", "--", text).stdout)["run_id"] == text
        return
    for done in (
        started,
        engine.invoke("run", "get", "--", text),
        engine.invoke("run", "wait", "--", text),
        engine.invoke("run", "cancel", "--", text),
        engine.invoke("run", "history", "--", text),
        engine.invoke("run", "follow", "--", text),
    ):
        assert isinstance(done.exception, SystemExit)
        assert done.exit_code in {1, 2}
        assert "RUN_ID_INVALID" in done.stderr or done.exit_code == 2


@pytest.mark.parametrize("given", ['{"name": NaN}', "[" * 50_000, '{"name":1e999}', UNDECODED, '"\\ud800"'])
def test_an_input_that_is_no_json_is_told(engine: Engine, given: str) -> None:
    done = engine.invoke("run", "start", "greeting", "--input", given)
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code in {1, 2}
    assert "Traceback" not in done.output
    assert len(done.stderr) < 2_000


def test_a_reason_that_is_no_text_is_told(engine: Engine) -> None:
    engine.invoke("run", "start", "napping", "--input", '{"seconds":60}', "--run-id", "told")
    done = engine.invoke("run", "cancel", "told", "--reason", UNDECODED)
    assert isinstance(done.exception, SystemExit)
    assert done.stderr.startswith("TEXT_INVALID: ")
    assert engine.invoke("run", "cancel", "told", "--reason", "a\r\nb\u202e").exit_code == 0
