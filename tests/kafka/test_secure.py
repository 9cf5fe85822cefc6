"""Connectors log in to a real Kafka by SASL, over TLS; what it refuses is told once, without a secret."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from click.testing import CliRunner
from tests.connecting import eventually, run_orders  # pyright: ignore[reportMissingImports]
from tests.kafka.broker import fetch_jars  # pyright: ignore[reportMissingImports]
from tests.kafka.conftest import SINK, SOURCE, Kafka  # pyright: ignore[reportMissingImports]
from tests.kafka.secure import SecureKafka  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.client import Client

if TYPE_CHECKING:
    from tests.connecting import Place  # pyright: ignore[reportMissingImports]
    from tests.kafka.conftest import StartConnector  # pyright: ignore[reportMissingImports]

USER = "shop"
PASSWORD = "hunter2-is-right"
WRONG = "hunter3-is-wrong"

PAGE: Final = (Path(__file__).resolve().parents[2] / "docs" / "kafka.md").read_text()


def login(password: str, user: str, ca: Path) -> str:
    """As docs/kafka.md writes it, with what is this test's own."""
    (found,) = re.findall(r"## Logging in\n\n```toml\n.*?bootstrap.servers.*?\n(.*?)```", PAGE, re.DOTALL)
    for old, new in (("${env:KAFKA_PASSWORD}", password), ("dressage", user), ("/etc/kafka/ca.pem", str(ca))):
        assert f'"{old}"' in found
        found = found.replace(f'"{old}"', f'"{new}"')
    return f'{found}"broker.address.family" = "v4"\n'


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """One for all tests of this file."""
    jars = fetch_jars()
    if isinstance(jars, str):
        pytest.skip(f"only Apache Kafka has SASL and TLS here, and {jars}")
    broker = SecureKafka(tmp_path_factory.mktemp("secure-kafka"), jars)
    try:
        broker.start()
        broker.let_in(USER, PASSWORD)
        print(f"\nKafka tests with SASL and TLS run on {broker.described}")
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def kafka(secure: SecureKafka) -> Kafka:
    return Kafka(secure)


def config(
    template: str, topic: str, secure: SecureKafka, password: str, *, user: str = USER, ca: Path | None = None
) -> str:
    """A connector that is named for its topic."""
    told = {"bootstrap": secure.secure_bootstrap, "session_ms": secure.session_ms}
    return template.format(name=topic, topic=topic, **told) + login(password, user, ca or secure.ca)


async def offsets(place: Place, tmp_path: Path, text: str) -> tuple[int, str]:
    file = tmp_path / "connectors.toml"
    file.write_text(text)
    arguments = ["connect", "offsets", str(file), "--server", place.server.url]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    return result.exit_code, result.output


def waits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if " waits: " in each.getMessage()]


async def test_source_and_sink_log_in_with_secrets_of_environment_and_file(
    secure: SecureKafka,
    kafka: Kafka,
    place: Place,
    client: Client,
    connector: StartConnector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_TEST_PASSWORD", PASSWORD)
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    orders, out = await kafka.topic(), await kafka.topic()
    await kafka.produce(orders, {"id": 1}, {"id": 2})
    by_environment = config(SOURCE, orders, secure, "${env:KAFKA_TEST_PASSWORD}")
    by_file = config(SINK, out, secure, f"${{file:{tmp_path / 'password'}}}")
    source, sink = connector(by_environment), connector(by_file)
    await place.has_started(f"{orders}/{orders}/0/0", f"{orders}/{orders}/0/1")
    events = await place.events(2)
    await sink.reaches("records_total", len(events))
    assert Counter(each.value() for each in await kafka.read(out)) == Counter(each.data for each in events)
    await source.stop()
    assert await kafka.committed(f"dressage.default.{orders}", orders) == 2
    code, said = await offsets(place, tmp_path, by_environment + by_file)
    assert (code, said.count("lag 0")) == (0, 2), said


async def test_a_wrong_password_is_told_once_without_it_and_waited_for(
    secure: SecureKafka,
    kafka: Kafka,
    place: Place,
    client: Client,
    connector: StartConnector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "dressage")
    monkeypatch.setenv("KAFKA_TEST_PASSWORD", WRONG)
    secure.let_in("late", PASSWORD)
    orders, out = await kafka.topic(), await kafka.topic()
    await kafka.produce(orders, {"id": 1})
    wrong = [
        config(template, topic, secure, "${env:KAFKA_TEST_PASSWORD}", user="late")
        for template, topic in ((SOURCE, orders), (SINK, out))
    ]
    source, sink = (connector(each) for each in wrong)
    await source.reaches("faulty", 1)
    # It has tried again, and says nothing new.
    await sink.reaches("retries_total", 2, code="KAFKA_LOGIN_REFUSED")
    for text in wrong:
        code, said = await offsets(place, tmp_path, text)
        assert (code, said.startswith("KAFKA_LOGIN_REFUSED: connector")) == (1, True), said
        assert WRONG not in said
    assert not source.task.done()
    secure.let_in("late", WRONG)
    await place.has_started(f"{orders}/{orders}/0/0")
    await sink.reaches("records_total", len(await place.events(1)))

    async def well_again() -> bool:
        return (source.metric("faulty"), sink.metric("faulty")) == (0, 0)

    await eventually(well_again, "both faults are over")
    for name in (orders, out):
        (told,) = [each for each in waits(caplog) if repr(name) in each]
        assert "KAFKA_LOGIN_REFUSED: Kafka refuses the login" in told
    assert WRONG not in caplog.text


async def test_a_certificate_of_an_unknown_authority_is_told_once_and_waited_for(
    secure: SecureKafka,
    kafka: Kafka,
    place: Place,
    client: Client,
    connector: StartConnector,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "dressage")
    monkeypatch.setenv("KAFKA_TEST_PASSWORD", PASSWORD)
    ca = tmp_path / "ca.pem"
    ca.write_bytes(secure.another_ca.read_bytes())
    orders, out = await kafka.topic(), await kafka.topic()
    await kafka.produce(orders, {"id": 1})
    texts = [
        config(template, topic, secure, "${env:KAFKA_TEST_PASSWORD}", ca=ca)
        for template, topic in ((SOURCE, orders), (SINK, out))
    ]
    source, sink = (connector(each) for each in texts)
    await source.reaches("faulty", 1)
    await sink.reaches("retries_total", 2, code="KAFKA_TLS_FAILED")
    for text in texts:
        code, said = await offsets(place, tmp_path, text)
        assert (code, said.startswith("KAFKA_TLS_FAILED: connector")) == (1, True), said
    for name in (orders, out):
        (told,) = [each for each in waits(caplog) if repr(name) in each]
        assert "KAFKA_TLS_FAILED: there is no TLS with Kafka" in told
        assert "ssl.ca.location" in told
    assert not source.task.done()
    assert await place.starts() == Counter()
    assert PASSWORD not in caplog.text
    # A certificate is read by who connects: the source is started again.
    ca.write_bytes(secure.ca.read_bytes())
    await source.stop()
    again = connector(texts[0])
    await again.reaches("done_total", 1)
    await run_orders(client, 1)
    await sink.reaches("records_total", len(await place.events(2)))
