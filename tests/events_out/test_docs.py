"""The examples of docs/events-out.md run as they stand there, and its commands say what the page says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner
from fastapi import Response
from tests.connecting import eventually, workflow  # pyright: ignore[reportMissingImports]
from tests.events_out.conftest import SECRET, make_stream  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.events_out.conftest import Got, Receiver, StartConnector  # pyright: ignore[reportMissingImports]

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "events-out.md").read_text()
COMMON: Final = (ROOT / "docs" / "connectors.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_SECRET", SECRET)


async def test_the_example_publishes_and_posts_what_the_receiver_of_the_page_takes_for_genuine(
    place: Place, receiver: Receiver, connector: StartConnector
) -> None:
    await make_stream(place.server)
    async with place.engine(workflow("process-order"), workflow("other")) as client:
        for name in ("process-order", "other"):
            await (await client.start(name, {"order": {"id": 7}}, run_id=f"{name}-7")).result()
        count = len(await place.events(2))
        connector(block("toml").replace("https://crm.example/hooks/dressage", receiver.url))

        async def told() -> bool:
            return len(receiver.taken) == count and len(await place.stored("SHOP", "shop.>")) == 1

        await eventually(told, "both have what is theirs")
    (ended,) = await place.stored("SHOP", "shop.>")
    assert ended.subject == "shop.orders.process-order-7.ended"
    module: dict[str, Any] = {}
    exec(block("python"), module)
    is_genuine: Callable[[dict[str, str], bytes, str], bool] = module["is_genuine"]
    for got in receiver.taken:
        assert is_genuine(got.headers, got.body, SECRET)
        assert not is_genuine(got.headers, got.body + b" ", SECRET)
        assert not is_genuine(got.headers, got.body, "another")
        old = {**got.headers, "webhook-timestamp": str(int(got.headers["webhook-timestamp"]) - 1_000)}
        assert not is_genuine(old, got.body, SECRET)


def test_validate_says_what_the_page_says(tmp_path: Path) -> None:
    file = tmp_path / "connectors.toml"
    file.write_text(block("toml"))
    result = CliRunner().invoke(main, ["connect", "validate", str(file)])
    assert result.exit_code == 0, result.output
    assert f"$ dressage connect validate connectors.toml\n{result.output}" in PAGE


async def test_dead_letters_are_shown_and_replayed_as_the_page_of_connectors_says(
    place: Place,
    receiver: Receiver,
    connector: StartConnector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_such_order(got: Got, count: int) -> Response | None:
        return Response("no such order", 400) if got.event["id"] == "order-7/1" else None

    await make_stream(place.server)
    monkeypatch.chdir(tmp_path)
    text = block("toml").replace("https://crm.example/hooks/dressage", receiver.url)
    (tmp_path / "connectors.toml").write_text(text)
    deploy = ["connect", "deploy", "connectors.toml", "--server", place.server.url]
    receiver.answer = no_such_order
    async with place.engine(workflow("process-order")) as client:
        assert (await asyncio.to_thread(CliRunner().invoke, main, deploy)).exit_code == 0
        await (await client.start("process-order", {"order": {"id": 7}}, run_id="order-7")).result()
        head, *_, crm = text.split("[[connector]]")
        running = connector(f"{head}[[connector]]{crm}")
        await running.reaches("dead_letters_total", 1, code="HTTP_400")
        (letter,) = await place.dead_letters("crm")
        receiver.answer = lambda got, count: None
        (said,) = re.findall(r"## Dead letters\n.*?```console\n(.*?)```", COMMON, re.DOTALL)
        for command, output in re.findall(r"^\$ dressage (.*)\n((?:[^$].*\n)*)", said, re.MULTILINE):
            words = [*command.replace(" 17", f" {letter.seq}").split(), "--server", place.server.url]
            done = await asyncio.to_thread(CliRunner().invoke, main, words)
            assert done.exit_code == 0, done.output
            assert comparable(done.output, letter.seq) == comparable(output, 17), command
    assert await place.dead_letters("crm") == []


def comparable(output: str, seq: int) -> list[list[str]]:
    """The words of each line, without what is another one each time."""
    lines = re.sub(r"\d{4}-\S+Z", "TIME", output).splitlines()
    return [re.sub(rf"^{seq}\b", "SEQ", line).split() for line in lines]


def test_every_code_of_dead_letters_is_one_that_the_code_has() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "connectors").rglob("*.py"))
    (section,) = re.findall(r"## Dead letters\n(.*?)\n## ", COMMON, re.DOTALL)
    told = re.findall(r"`([A-Z]+_[A-Z_]+)`", section)
    assert told
    assert not [each for each in told if f'"{each}"' not in code]


def test_every_metric_of_the_page_exists() -> None:
    source = (ROOT / "connectors/dressage/connectors/connect/metrics.py").read_text()
    told = set(re.findall(r"`dressage_(connector_\w+)` \|", COMMON))
    assert told == set(re.findall(r'"(connector_\w+)"', source))
