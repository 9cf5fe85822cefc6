"""`dressage shards` and `dressage doctor` on an engine of their own, with and without an orchestrator."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import nats
import pytest
from click.testing import CliRunner, Result
from nats.js import JetStreamContext

from dressage.cli.main import main
from dressage.orchestrator.overview import ShardView
from dressage.protocol.names import Names, run_token, shard_of

if TYPE_CHECKING:
    from tests.conftest import Program, Start  # pyright: ignore[reportMissingImports]

T = TypeVar("T")
Eventually = Callable[[Callable[[], bool], str], None]
PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "sharding.md").read_text()
SHARDS: Final = 3
NAMES: Final = Names()


@pytest.fixture
def server(start: Start, tmp_path: Path) -> str:
    """A server whose own engine serves another namespace, so that the default one is the tests' alone."""
    program = start(
        "dev", "--port", "0", "--no-analytics", "--data", str(tmp_path / "data"), "--namespace", "elsewhere"
    )
    program.says("ready")
    return program.says("server").split()[1].rstrip(",")


def with_jetstream(server: str, use: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    async def work() -> T:
        client = await nats.connect(server)
        try:
            return await use(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(work())


def call(server: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--server", server])


def shards(server: str) -> list[dict[str, Any]]:
    result = call(server, "shards", "--json")
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["shards"]
    return found


def doctor(server: str) -> tuple[int, dict[str, str]]:
    result = call(server, "doctor", "--json")
    return result.exit_code, {each["code"]: each["level"] for each in json.loads(result.stdout)["findings"]}


def orchestrator(start: Start, server: str) -> Program:
    return start("orchestrator", "--server", server, "--shards", str(SHARDS))


def served(server: str) -> bool:
    result = call(server, "shards", "--json")
    return result.exit_code == 0 and all(
        view["state"] == "serving" for view in json.loads(result.stdout)["shards"]
    )


def test_it_shows_owners_and_without_them_the_streams(
    server: str, start: Start, eventually: Eventually
) -> None:
    program = orchestrator(start, server)
    eventually(lambda: served(server), "all shards are served")
    views = shards(server)
    assert [view["shard"] for view in views] == list(range(SHARDS))
    assert all(view["where"].endswith(f":{program.pid}") for view in views)
    assert all(view["epoch"] > 0 and view["commands_s"] is not None for view in views)
    assert program.drain() == 0
    wrong = shard_of("lost", SHARDS)
    with_jetstream(server, lambda js: js.publish(NAMES.command(wrong, run_token("lost")), b"{}"))
    for view in shards(server):
        assert view["state"] == "unserved"
        assert view["member"] == ""
        assert view["commands_s"] is None
        assert view["epoch"] > 0
        assert view["lag"] == (view["shard"] == wrong)
    table = call(server, "shards")
    assert table.exit_code == 0
    assert "nobody serves shard 0, 1, 2: start an orchestrator" in table.output


def test_an_owner_that_died_is_not_shown_as_serving(
    server: str, start: Start, eventually: Eventually
) -> None:
    program = orchestrator(start, server)
    eventually(lambda: served(server), "all shards are served")
    program.process.kill()
    program.ended()
    assert {view["state"] for view in shards(server)} == {"silent"}
    exit_code, found = doctor(server)
    assert exit_code == 1
    assert found["SHARD_SILENT"] == "problem"


def test_the_doctor_says_what_is_wrong_and_exits_with_1(
    server: str, start: Start, eventually: Eventually
) -> None:
    exit_code, found = doctor(server)
    assert (exit_code, found) == (1, {"NAMESPACE_UNKNOWN": "problem"})
    program = orchestrator(start, server)
    eventually(lambda: served(server), "all shards are served")
    exit_code, found = doctor(server)
    assert (exit_code, found) == (0, {})
    with_jetstream(server, lambda js: js.publish(NAMES.command(0, run_token("nobody")), b"no command"))
    eventually(lambda: "DEAD_LETTERS" in doctor(server)[1], "the dead letter is found")
    assert doctor(server)[0] == 0, "a warning is no failure"
    assert program.drain() == 0
    exit_code, found = doctor(server)
    assert exit_code == 1
    assert found["SHARD_UNSERVED"] == "problem"
    with_jetstream(server, lambda js: js.delete_stream(NAMES.shard_stream(1)))
    assert doctor(server)[1]["STREAM_MISSING"] == "problem"


def test_the_doctor_counts(server: str, start: Start, eventually: Eventually) -> None:
    orchestrator(start, server)
    eventually(lambda: served(server), "all shards are served")
    counts = json.loads(call(server, "doctor", "--json").stdout)["counts"]
    streams = with_jetstream(server, lambda js: js.streams_info())
    ours = [each for each in streams if re.search(r"dressage_default_", str(each.config.name))]
    assert counts["streams"] == len(ours) == SHARDS + 6
    assert counts["consumers"] == sum(each.state.consumer_count for each in ours)
    assert counts["account_streams"] == len(streams)
    assert counts["raft_groups"] == 0, "nothing is replicated on a single server"


def test_a_server_that_is_not_there_is_a_finding() -> None:
    exit_code, found = doctor("nats://127.0.0.1:9")
    assert exit_code == 1
    assert found == {"SERVER_UNREACHABLE": "problem"}


def test_it_can_be_watched(server: str, start: Start, eventually: Eventually) -> None:
    orchestrator(start, server)
    eventually(lambda: served(server), "all shards are served")
    watching = start("shards", "--watch", "--json", "--server", server)
    eventually(lambda: watching.said.count('"shards"') >= 2, "it is shown again")
    assert watching.drain() == 0


def test_it_grows_and_the_growth_is_finished(server: str, start: Start, eventually: Eventually) -> None:
    orchestrator(start, server)
    eventually(lambda: served(server), "all shards are served")
    grown = call(server, "shards", "grow", str(SHARDS + 2))
    assert grown.exit_code == 0, grown.output
    assert grown.output == f"growing from {SHARDS} to {SHARDS + 2} shards\n"
    eventually(lambda: served(server) and len(shards(server)) == SHARDS + 2, "the new shards are served")
    assert "growing from" in call(server, "shards").output
    assert doctor(server) == (0, {"GROWTH_UNFINISHED": "warning"})
    again = call(server, "shards", "grow", str(SHARDS + 3))
    assert again.exit_code == 1
    assert again.stderr.startswith("GROWTH_UNFINISHED: ")

    def finished() -> bool:
        result = call(server, "shards", "retire", "--json")
        return result.exit_code == 0 and json.loads(result.stdout)["older"] == [SHARDS]

    eventually(finished, "the growth is finished")
    assert doctor(server) == (0, {})
    assert call(server, "shards", "retire").output == f"{SHARDS + 2} shards, nothing to finish\n"
    fewer = call(server, "shards", "grow", "1")
    assert fewer.stderr.startswith("SHARDS_FEWER: ")


def test_the_documented_fields_are_those_that_there_are() -> None:
    documented = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("## Looking") : PAGE.index("## Asking")]))
    assert set(ShardView.__struct_fields__) - {"shard"} <= documented


def test_every_finding_is_documented() -> None:
    source = Path(__file__).resolve().parents[2] / "orchestrator/dressage/orchestrator/doctor.py"
    codes = set(re.findall(r'"([A-Z]+_[A-Z_]+)"', source.read_text()))
    assert codes
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()
