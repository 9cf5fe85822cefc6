"""The example of docs/kafka.md runs as it stands there, and its commands say what the page says."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner
from tests.connecting import eventually  # pyright: ignore[reportMissingImports]
from tests.kafka.conftest import needs_eviction  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.protocol.spec import ReturnNode, Variable, WorkflowSpec
from dressage.protocol.types import ANY, Field, Scalar

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.kafka.conftest import Kafka, StartConnector  # pyright: ignore[reportMissingImports]

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "kafka.md").read_text()

PROCESS_ORDER: Final = WorkflowSpec(
    format=1,
    name="process-order",
    params=(Field("order", ANY), Field("region", Scalar("str"))),
    output=ANY,
    nodes=(ReturnNode(),),
    variables=(Variable("order"), Variable("region")),
)


@pytest.fixture
def example() -> str:
    found = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


async def test_the_example_starts_runs_and_writes_their_events(
    kafka: Kafka, place: Place, connector: StartConnector, example: str
) -> None:
    needs_eviction(kafka)
    orders, events = await kafka.topic(), await kafka.topic()
    text = example.replace('"orders"]', f'"{orders}"]').replace('"run-events"]', f'"{events}"]')
    async with place.engine(PROCESS_ORDER) as client:
        connector(text.replace("localhost:9092", kafka.bootstrap))
        await kafka.produce(orders, {"id": 1, "total": 5}, {"id": 2, "total": 0}, headers={"region": b"us"})
        await place.has_started("order-1")
        assert (await client.get("order-1")).input == {"order": {"id": 1, "total": 5}, "region": "US"}

        async def written() -> bool:
            return len(await kafka.read(events)) >= len(await place.events(1))

        await eventually(written, "the events of the run are in the topic")


def test_validate_says_what_the_page_says(tmp_path: Path, example: str) -> None:
    file = tmp_path / "connectors.toml"
    file.write_text(example)
    result = CliRunner().invoke(main, ["connect", "validate", str(file)])
    assert result.exit_code == 0, result.output
    assert f"$ dressage connect validate connectors.toml\n{result.output}" in PAGE


def test_validate_tells_all_that_is_wrong_and_no_secret(tmp_path: Path, example: str) -> None:
    file = tmp_path / "connectors.toml"
    file.write_text(
        example.replace('"bootstrap.servers"', '"sasl.password" = "hunter2"\n"bootstrap.server"', 1)
    )
    result = CliRunner().invoke(main, ["connect", "validate", str(file)])
    assert result.exit_code == 1
    assert "kafka.sasl.password: VALUE_INVALID" in result.output
    assert "kafka.bootstrap.servers: KEY_MISSING" in result.output
    assert "hunter2" not in result.output


async def test_offsets_tell_how_far_each_connector_is(
    kafka: Kafka, place: Place, connector: StartConnector, example: str, tmp_path: Path
) -> None:
    orders, events = await kafka.topic(), await kafka.topic()
    text = example.replace('"orders"]', f'"{orders}"]').replace('"run-events"]', f'"{events}"]')
    # Names of this test's own, as what Kafka has of others would count.
    text = text.replace('name = "orders"', f'name = "{orders}"').replace(
        'name = "run-events"', f'name = "{events}"'
    )
    file = tmp_path / "connectors.toml"
    file.write_text(text.replace("localhost:9092", kafka.bootstrap))
    await kafka.produce(orders, {"id": 1, "total": 5})
    async with place.engine(PROCESS_ORDER):
        before = await asked(place, file)
        assert f"{orders} {orders}/0: - of 1, lag 1" in before
        running = connector(file.read_text())
        await place.has_started("order-1")

        async def all_done() -> bool:
            return (await asked(place, file)).count("lag 0") == 2

        await eventually(all_done, "nothing is left")
        await running.stop()


async def asked(place: Place, file: Path) -> str:
    arguments = ["connect", "offsets", str(file), "--server", place.server.url]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_every_code_of_logging_in_is_one_that_the_code_has() -> None:
    code = (ROOT / "connectors/dressage/connectors/kafka/causes.py").read_text()
    told = re.findall(r"^\| `(KAFKA_[A-Z_]+)` \|", PAGE, re.MULTILINE)
    assert set(told) == set(re.findall(r'"(KAFKA_[A-Z_]+)"', code))


def test_validate_takes_the_login_of_the_page(
    tmp_path: Path, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2")
    (login,) = re.findall(r"## Logging in\n\n```toml\n(.*?)```", PAGE, re.DOTALL)
    assert '"ssl.ca.location" = ' in login
    login = "\n".join(line for line in login.splitlines() if "ssl.ca.location" not in line)
    file = tmp_path / "connectors.toml"
    file.write_text(example.replace('[connector.kafka]\n"bootstrap.servers" = "localhost:9092"', login))
    result = CliRunner().invoke(main, ["connect", "validate", str(file)])
    assert result.exit_code == 0, result.output
    assert "hunter2" not in result.output
