"""The dashboard that the compose file shows asks Prometheus for nothing but what the processes tell it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import prometheus_client
import pytest
from tests.faults.processes import Family, free_ports  # pyright: ignore[reportMissingImports]

from dressage.analytics.metrics import Metered
from dressage.connectors.connect.metrics import Metrics as ConnectorMetrics
from dressage.connectors.http.app import HttpApp
from dressage.connectors.metrics import Metrics
from dressage.connectors.webhooks.metrics import Metrics as WebhookMetrics
from dressage.flow import App
from dressage.orchestrator.metrics import EngineMetrics
from dressage.outbox.relay.metrics import RelayMetrics
from dressage.telemetry import PrometheusMeters
from dressage.worker import Worker

REPOSITORY: Final = Path(__file__).resolve().parents[2]
BOARD: Final[dict[str, Any]] = json.loads(
    (REPOSITORY / "deploy" / "grafana" / "dashboards" / "dressage.json").read_text()
)
COMPOSE: Final = (REPOSITORY / "docker-compose.yml").read_text()
NOWHERE: Final = "nats://127.0.0.1:1"
DEADLINE_S: Final = 60.0

TARGETS: Final[list[tuple[str, str, str]]] = [
    (panel["title"], target["expr"], target["legendFormat"])
    for panel in BOARD["panels"]
    for target in panel.get("targets", ())
]


@pytest.fixture(scope="module")
def meters() -> PrometheusMeters:
    """The meters of every role in one process, each of them with a value for each of its labels."""
    meters = PrometheusMeters()
    EngineMetrics(meters)
    Metrics(meters)
    ConnectorMetrics(meters)
    WebhookMetrics(meters)
    HttpApp(NOWHERE, meters=meters)
    RelayMetrics(meters)
    Metered(meters)
    Worker(NOWHERE, App("nobody"), meters=meters)
    for meter in list(meters.registry._collector_to_names):
        assert isinstance(
            meter, prometheus_client.Counter | prometheus_client.Gauge | prometheus_client.Histogram
        )
        if meter._labelnames:
            meter.labels(
                *("failed" if name in ("status", "outcome") else "some" for name in meter._labelnames)
            )
    return meters


def test_the_dashboard_names_no_metric_that_there_is_not(meters: PrometheusMeters) -> None:
    text = prometheus_client.generate_latest(meters.registry).decode()
    told = set(re.findall(r"^(dressage_\w+)", text, re.MULTILINE))
    asked = {name for _, expression, _ in TARGETS for name in re.findall(r"dressage_\w+", expression)}
    assert asked
    assert asked - told == set()


def test_every_role_is_on_the_dashboard() -> None:
    asked = " ".join(expression for _, expression, _ in TARGETS)
    roles = ("runs", "worker", "api", "http", "outbox", "trigger", "webhook", "connector", "analytics")
    assert [role for role in roles if f"dressage_{role}_" not in asked] == []


def test_every_panel_is_described_and_has_its_place() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"], panel["title"]
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(numbers)) == len(numbers)


def test_the_compose_file_mounts_what_grafana_is_told_to_read() -> None:
    provider = (REPOSITORY / "deploy/grafana/provisioning/dashboards/dressage.yml").read_text()
    source = (REPOSITORY / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text()
    folder = re.search(r"path: (\S+)", provider)
    assert folder is not None
    assert f"./deploy/grafana/dashboards:{folder[1]}:ro" in COMPOSE
    assert f"{folder[1]}/dressage.json" in COMPOSE
    assert "./deploy/grafana/provisioning:/etc/grafana/provisioning:ro" in COMPOSE
    scraped = (REPOSITORY / "deploy" / "prometheus.yml").read_text()
    interval = re.search(r"scrape_interval: (\w+)", scraped)
    assert interval is not None
    assert f"timeInterval: {interval[1]}\n" in source


# -- a real Prometheus -----------------------------------------------------------------------------
@pytest.fixture(scope="module")
def prometheus(meters: PrometheusMeters, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """It scrapes the meters, twice at the least."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no `prometheus` here: it is in Debian's package of that name")
    folder = tmp_path_factory.mktemp("prometheus")
    target = meters.serve(0)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 500ms}\n"
        "scrape_configs:\n"
        f"  - {{job_name: all, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}\n"
    )
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with Family(folder) as family, httpx.Client(base_url=f"http://{address}") as client:
        server = family.program(
            "prometheus",
            program,
            f"--web.listen-address={address}",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
        )
        server.start()
        deadline = time.monotonic() + DEADLINE_S
        while not _scraped(client):
            assert server.alive, server.log()
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.2)
        yield client


def _scraped(client: httpx.Client) -> bool:
    try:
        answer = client.get("/api/v1/query", params={"query": "count_over_time(up[1m])"})
    except httpx.TransportError:
        return False
    if answer.status_code != 200:
        return False
    found = answer.json()["data"]["result"]
    return bool(found) and int(found[0]["value"][1]) >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "expression", "legend"), TARGETS, ids=[f"{title}-{legend}" for title, _, legend in TARGETS]
)
def test_prometheus_answers_what_the_dashboard_asks(
    prometheus: httpx.Client, title: str, expression: str, legend: str
) -> None:
    asked = expression.replace("$__rate_interval", "1m").replace("$__range", "1m")
    assert "$" not in asked, title
    answer = prometheus.get("/api/v1/query", params={"query": asked})
    assert answer.status_code == 200, answer.text
    found = answer.json()["data"]["result"]
    assert found, f"nothing is found for {title}: {asked}"
    names = re.findall(r"\{\{(\w+)\}\}", legend)
    assert [name for series in found for name in names if not series["metric"].get(name)] == []


@pytest.mark.slow
def test_prometheus_takes_the_configuration_of_the_compose_file() -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("there is no `promtool` here: it is in Debian's package `prometheus`")
    command = [program, "check", "config", str(REPOSITORY / "deploy" / "prometheus.yml")]
    check = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stdout + check.stderr
