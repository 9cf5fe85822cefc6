"""Runs by HTTP: a real server, a real engine, and httpx as whoever calls; and what docs/http.md says of it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import io
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import jsonschema
import msgspec
import pytest
from fastapi import FastAPI
from tests.connectors.conftest import eventually  # pyright: ignore[reportMissingImports]
from tests.connectors.webhooks.conftest import served  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.connectors.http.app import HttpApp, HttpOptions
from dressage.connectors.http.openapi import openapi
from dressage.connectors.http.routes import ROUTES, status_of
from dressage.flow import Event, workflow
from dressage.orchestrator.api_messages import Failed
from dressage.orchestrator.operations import Operations
from dressage.protocol.errors import BadInput
from dressage.telemetry import PrometheusMeters

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]

PAGE: Final = (Path(__file__).resolve().parents[3] / "docs" / "http.md").read_text()
paid = Event("http-paid", of=str)
TOKEN: Final = "s3cret"


@workflow(name="http-order")
async def an_order(total: int) -> str:
    how = await paid.wait()
    return f"{total} {how}"


@workflow(name="http-keyed")
async def keyed(key: str) -> str:
    return await paid.wait(key=key)


@pytest.fixture
async def engine(shop: Shop) -> AsyncIterator[Client]:
    async with shop.engine() as client:
        for each in (an_order, keyed):
            await client.register(each)
        yield client


class Caller:
    def __init__(self, http: httpx.AsyncClient, meters: PrometheusMeters) -> None:
        self.http = http
        self.meters = meters

    async def says(self, method: str, path: str, body: Any = None, **how: Any) -> tuple[int, Any]:
        content = {} if body is None else {"json": body}
        answer = await self.http.request(method, path, **content, **how)
        return answer.status_code, answer.json()


@pytest.fixture
async def caller(shop: Shop, engine: Client) -> AsyncIterator[Caller]:
    meters = PrometheusMeters()
    app = HttpApp(shop.server.url, options=HttpOptions((TOKEN, "older")), meters=meters)
    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        http.headers["Authorization"] = f"Bearer {TOKEN}"

        async def is_ready() -> bool:
            return not app.unready()

        await eventually(is_ready, "it is connected")
        yield Caller(http, meters)


async def test_a_run_is_started_read_and_told(caller: Caller, engine: Client) -> None:
    start = {"workflow": "http-order", "input": {"total": 5}, "run_id": "a/b ü"}
    code, said = await caller.says("POST", "/runs", start, headers={"Dressage-Actor": "ann"})
    assert (code, said["run_id"], said["existing"]) == (201, "a/b ü", False)
    code, said = await caller.says("POST", "/runs", start)
    assert (code, said["existing"]) == (200, True)
    path = "/runs/a%2Fb%20%C3%BC"
    code, said = await caller.says("GET", path)
    assert (code, said["run"]["status"], said["run"]["actor"]) == (200, "running", "ann")
    code, said = await caller.says("GET", f"{path}/result?timeout_s=0.1")
    assert (code, said["run"]["status"]) == (202, "running")
    for existing in (False, True):
        code, said = await caller.says("POST", f"{path}/events/http-paid?event_id=e%201", "cash")
        assert (code, said["event_id"]) == (200, "e 1")
        assert said["existing"] is existing
        if not existing:
            code, said = await caller.says("GET", f"{path}/result")
            assert (code, said["run"]["output"]) == (200, "5 cash")
    assert (await engine.get("a/b ü")).actor == "ann"


async def test_a_key_of_idempotency_is_the_run_id(caller: Caller) -> None:
    start = {"workflow": "http-order", "input": {"total": 5}}
    for code in (201, 200):
        found, said = await caller.says("POST", "/runs", start, headers={"Idempotency-Key": "k-1"})
        assert (found, said["run_id"]) == (code, "k-1")
    other = {"workflow": "http-order", "input": {"total": 6}}
    code, said = await caller.says("POST", "/runs", other, headers={"Idempotency-Key": "k-1"})
    assert (code, said["code"]) == (409, "RUN_ID_CONFLICT")
    for nothing in (None, ""):
        unnamed = {**start, "run_id": nothing, "actor": ""}
        code, said = await caller.says("POST", "/runs", unnamed, headers={"Idempotency-Key": "k-1"})
        assert (code, said["run_id"]) == (200, "k-1")
    named = {**start, "run_id": "n-1"}
    code, said = await caller.says("POST", "/runs", named, headers={"Idempotency-Key": "k-1"})
    assert (code, said["run_id"]) == (201, "n-1")


async def test_an_event_goes_to_a_key(caller: Caller, engine: Client) -> None:
    run = await engine.start(keyed, {"key": "o/1"}, run_id="keyed")
    code, said = await caller.says("POST", "/events/http-paid/o%2F1?event_id=e-1", "by card")
    assert (code, said["existing"]) == (200, False)
    assert await run.result(20) == "by card"


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "status"),
    [
        ("POST", "/runs", {"workflow": "http-order", "input": {"total": "x"}}, "INPUT_INVALID", 400),
        ("POST", "/runs", {"workflow": "nobody", "input": {}}, "WORKFLOW_UNKNOWN", 404),
        ("POST", "/runs", {"workflow": "http-order", "inptu": {}}, "REQUEST_MALFORMED", 400),
        ("POST", "/runs", [1], "REQUEST_MALFORMED", 400),
        ("POST", "/runs", {"workflow": "http-order", "version": 7}, "WORKFLOW_UNKNOWN", 404),
        ("GET", "/runs/nobody", None, "RUN_UNKNOWN", 404),
        ("GET", "/runs/nobody/result", None, "RUN_UNKNOWN", 404),
        ("GET", "/runs/nobody?deep=1", None, "REQUEST_MALFORMED", 400),
        ("GET", "/runs/nobody/result?timeout_s=soon", None, "REQUEST_MALFORMED", 400),
        ("GET", "/runs/nobody/result?timeout_s=nan", None, "REQUEST_MALFORMED", 400),
        ("GET", "/runs/nobody/result?timeout_s=-1", None, "REQUEST_MALFORMED", 400),
        ("GET", "/runs/nobody/result?timeout_s=1&timeout_s=2", None, "REQUEST_MALFORMED", 400),
        ("GET", f"/runs/{'x' * 200}", None, "RUN_ID_INVALID", 400),
        ("POST", "/runs/nobody/events/no-such-event", None, "RUN_UNKNOWN", 404),
        ("POST", "/events/no-such-event/k", 5, "EVENT_UNKNOWN", 404),
        ("GET", "/", None, "PATH_UNKNOWN", 404),
        ("GET", "/runs/a/b/c", None, "PATH_UNKNOWN", 404),
        ("DELETE", "/runs/a", None, "METHOD_NOT_ALLOWED", 405),
        ("PUT", "/runs", {}, "METHOD_NOT_ALLOWED", 405),
    ],
)
async def test_what_is_wrong_is_said_by_its_code(
    caller: Caller, method: str, path: str, body: Any, code: str, status: int
) -> None:
    found, said = await caller.says(method, path, body)
    assert (found, said["code"]) == (status, code), said
    assert said["message"]


async def test_a_body_that_is_no_json_or_too_large_is_refused(caller: Caller) -> None:
    for content, code, status in (
        (b"{", "REQUEST_MALFORMED", 400),
        (b"\xff", "REQUEST_MALFORMED", 400),
        (b"[" * 100_000, "REQUEST_MALFORMED", 400),
        (b'"' + b"x" * 600_000 + b'"', "BODY_TOO_LARGE", 413),
    ):
        for path in ("/runs", "/events/http-paid/k"):
            answer = await caller.http.post(path, content=content)
            assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_without_a_token_nothing_is_done(caller: Caller, engine: Client) -> None:
    start = {"workflow": "http-order", "input": {"total": 5}, "run_id": "secret-1"}
    for shown in ("", "Bearer", "Bearer other", f"Basic {TOKEN}", f"Bearer {TOKEN}x"):
        code, said = await caller.says("POST", "/runs", start, headers={"Authorization": shown})
        assert (code, said["code"]) == (401, "TOKEN_INVALID")
    code, _ = await caller.says("GET", "/openapi.json", headers={"Authorization": ""})
    assert code == 200
    code, said = await caller.says("POST", "/runs", start, headers={"Authorization": "bearer older"})
    assert (code, said["existing"]) == (201, False)


@pytest.mark.limit("connectors.http.routes.WAIT_S_MAX")
async def test_a_wait_has_its_end(
    shop: Shop, engine: Client, monkeypatch: pytest.MonkeyPatch, caller: Caller
) -> None:
    monkeypatch.setattr("dressage.connectors.http.app.WAIT_S_MAX", 0.2)
    await engine.start(an_order, {"total": 5}, run_id="long")
    code, said = await caller.says("GET", "/runs/long/result?timeout_s=3600")
    assert (code, said["run"]["status"]) == (202, "running")


async def test_requests_are_counted_and_too_many_are_sent_away(shop: Shop, engine: Client) -> None:
    meters = PrometheusMeters()
    app = HttpApp(shop.server.url, options=HttpOptions(in_flight=1), meters=meters)
    await engine.start(an_order, {"total": 5}, run_id="slow")
    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:

        async def is_ready() -> bool:
            return not app.unready()

        await eventually(is_ready, "it is connected")
        waiting = asyncio.create_task(http.get("/runs/slow/result", params={"timeout_s": 10}))

        async def is_full() -> bool:
            return app._in_flight == 1

        await eventually(is_full, "the one that waits takes all the room")
        answer = await http.get("/runs/slow")
        assert (answer.status_code, answer.json()["code"]) == (503, "TOO_BUSY")
        await engine.post("slow", paid, "x")
        assert (await waiting).json()["run"]["output"] == "5 x"
    sample = meters.registry.get_sample_value
    assert sample("dressage_http_requests_total", {"op": "wait", "status": "200"}) == 1
    assert (sample("dressage_http_requests_total", {"op": "get", "status": "503"}) or 0) >= 1


async def test_without_an_engine_it_says_so_and_goes_on_when_there_is_one(shop: Shop) -> None:
    app = HttpApp(shop.server.url)
    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        answer = await http.get("/runs/a")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert app.unready()
        async with shop.engine() as client:
            await client.register(an_order)

            async def starts() -> bool:
                start = {"workflow": "http-order", "input": {"total": 5}, "run_id": "a"}
                return (await http.post("/runs", json=start)).status_code in (200, 201)

            await eventually(starts, "the run is started")
            assert not app.unready()
    assert (await in_process(app, "/runs/a"))[0] == 503


async def in_process(app: HttpApp, path: str) -> tuple[int, Any]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app") as http:
        answer = await http.get(path)
        return answer.status_code, answer.json()


async def test_mounted_it_connects_with_the_first_request(shop: Shop, engine: Client) -> None:
    """Whether the outer app tells it that it begins, or not; and wherever it is mounted."""
    inner = HttpApp(shop.server.url)
    outer = FastAPI()
    outer.mount("/to/{tenant}", inner)
    start = {"workflow": "http-order", "input": {"total": 5}, "run_id": "m/1"}
    async with served(outer, lifespan="off") as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        assert (await http.post("/to/a%20b/runs", json=start)).status_code == 201
        assert (await http.get("/to/%C3%BC/runs/m%2F1")).json()["run"]["run_id"] == "m/1"
        assert (await http.get("/to/x/openapi.json")).json()["servers"] == [{"url": "/to/x"}]
    await inner.close()


async def test_without_tokens_no_page_of_somebody_else_starts_runs(shop: Shop, engine: Client) -> None:
    async with served(HttpApp(shop.server.url)) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        body = b'{"workflow": "http-order", "input": {"total": 5}, "run_id": "csrf"}'
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = await http.post("/runs", content=body, headers={"Content-Type": kind} if kind else {})
            assert (answer.status_code, answer.json()["code"]) == (415, "TYPE_UNSUPPORTED")
        answer = await http.post(
            "/runs", content=body, headers={"Content-Type": "Application/JSON; charset=utf-8"}
        )
        assert answer.status_code == 201


async def test_a_wait_ends_with_its_client(shop: Shop, engine: Client) -> None:
    app = HttpApp(shop.server.url)
    await engine.start(an_order, {"total": 5}, run_id="left")
    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/runs/left/result", params={"timeout_s": 60}, timeout=0.5)

        async def is_free() -> bool:
            return app._in_flight == 0

        await eventually(is_free, "nobody is waited for")


def test_a_token_that_anybody_could_guess_is_none() -> None:
    for tokens in ("s3cret", ("",), (" ", "s3cret")):
        with pytest.raises(BadInput) as wrong:
            HttpOptions(tokens)
        assert wrong.value.code == "TOKEN_INVALID"


async def test_an_answer_that_is_lost_names_what_it_was_for(
    caller: Caller, engine: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends it again under this id starts no other run."""

    async def lost(self: Operations, operation: str, data: bytes) -> Failed:
        return Failed("NO_ANSWER", "nobody answers", retryable=True)

    monkeypatch.setattr(Operations, "answer", lost)
    code, said = await caller.says("POST", "/runs", {"workflow": "http-order"})
    assert (code, len(said["run_id"])) == (503, 36)
    code, said = await caller.says("POST", "/runs/a/events/http-paid", "x")
    assert (code, said["run_id"], len(said["event_id"])) == (503, "a", 36)


# -- how it is described -------------------------------------------------------------------------------
async def test_answers_are_as_the_description_says(caller: Caller) -> None:
    described = (await caller.http.get("/openapi.json")).json()
    assert described == msgspec.json.decode(openapi())
    schemas = {"components": described["components"]}
    assert {(path, method.upper()) for path, each in described["paths"].items() for method in each} == {
        (route.path, route.method) for route in ROUTES
    }

    def fits(path: str, method: str, status: str, value: Any) -> None:
        answers = described["paths"][path][method]["responses"]
        schema = answers[status]["content"]["application/json"]["schema"]
        jsonschema.validate(value, {**schema, **schemas})

    start = {"workflow": "http-order", "input": {"total": 5}, "run_id": "d-1"}
    body = described["paths"]["/runs"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    jsonschema.validate(start, {**body, **schemas})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"inptu": 1}, {**body, **schemas})
    fits("/runs", "post", "201", (await caller.says("POST", "/runs", start))[1])
    fits("/runs/{run_id}", "get", "200", (await caller.says("GET", "/runs/d-1"))[1])
    fits("/runs/{run_id}", "get", "default", (await caller.says("GET", "/runs/nobody"))[1])
    waited = await caller.says("GET", "/runs/d-1/result?timeout_s=0.05")
    fits("/runs/{run_id}/result", "get", "202", waited[1])
    told = await caller.says("POST", "/runs/d-1/events/http-paid", "x")
    fits("/runs/{run_id}/events/{event}", "post", "200", told[1])
    told = await caller.says("POST", "/events/http-paid/k", "x")
    fits("/events/{event}/{key}", "post", "200", told[1])


def test_an_error_has_its_status() -> None:
    known = {
        "ENGINE_FAULT": 500,
        "NO_ANSWER": 503,
        "OPEN_RUNS": 503,
        "RUN_UNKNOWN": 404,
        "RUN_ID_CONFLICT": 409,
        "PAYLOAD_TOO_LARGE": 413,
        "INPUT_INVALID": 400,
        "NAMESPACE_UNKNOWN": 503,
    }
    retryable = {"NO_ANSWER", "OPEN_RUNS"}
    assert {code: status_of(Failed(code, "", code in retryable)) for code in known} == known


# -- the command, and the page --------------------------------------------------------------------------
async def test_the_command_serves_and_the_program_of_the_page_prints_what_it_says(
    shop: Shop, engine: Client, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRESSAGE_HTTP_TOKENS", f"older, {TOKEN}")
    program = start("http", "--port", "0", "--server", shop.server.url)
    address = re.search(
        r"http: (http://127.0.0.1:\d+)/openapi.json", await asyncio.to_thread(program.says, "openapi")
    )
    assert address is not None, program.said
    source = re.findall(r"(?s)```python\n(.*?)```", PAGE)[0].replace("http://127.0.0.1:8080", address[1])
    (wanted,) = re.findall(r"(?s)It prints:\n\n```text\n(.*?)```", PAGE)
    printed = io.StringIO()

    def run() -> None:
        path = tmp_path / "caller.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("caller", path)
        assert spec is not None
        assert spec.loader is not None
        with contextlib.redirect_stdout(printed):
            spec.loader.exec_module(importlib.util.module_from_spec(spec))

    await asyncio.to_thread(run)
    seq = re.compile(r"'seq': \d+")
    assert seq.sub("", printed.getvalue()) == seq.sub("", wanted)
    await engine.start(an_order, {"total": 5}, run_id="long")
    async with httpx.AsyncClient(base_url=address[1], headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        waiting = asyncio.create_task(http.get("/runs/long/result", params={"timeout_s": 60}, timeout=60))
        await asyncio.sleep(0.5)
        program.process.send_signal(signal.SIGTERM)
        # It stands as it stands: who waits is not cut off.
        assert (await waiting).status_code == 202
    assert await asyncio.to_thread(program.ended) == 0
    assert "http: stopped, nothing left in flight" in program.said


def test_it_serves_nobody_knows_whom_on_loopback_only(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRESSAGE_HTTP_TOKENS", raising=False)
    program = start("http", "--host", "0.0.0.0", "--port", "0")
    assert program.ended() == 1
    assert program.said.startswith("TOKEN_MISSING")


def test_the_page_names_every_path() -> None:
    told = set(re.findall(r"^\| `(GET|POST) ([^`?]+)", PAGE, re.MULTILINE))
    assert told == {(route.method, route.path) for route in ROUTES} | {("GET", "/openapi.json")}
    (mounted,) = re.findall(r"(?s)```python\n(from fastapi.*?)```", PAGE)
    names: dict[str, Any] = {}
    exec(mounted, names)
    assert any(getattr(route, "path", "") == "/dressage" for route in names["api"].routes)
