"""Every example of docs/api.md and docs/protocol.md is real: sent to a real engine, run as a program, or decoded."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, get_args

import jsonschema
import msgspec
import nats
import pytest

from dressage.analytics import AnalyticsService
from dressage.brokers.embedded import EmbeddedServer
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.provision import (
    EVENTS_AGE_S,
    MEMBER_TTL_S,
    TASK_ACK_WAIT_S,
    TASKS_PENDING_MAX,
    Namespace,
)
from dressage.client import Client
from dressage.client.feed import WINDOW
from dressage.client.history import LOOK_S
from dressage.connectors.http.app import HttpApp
from dressage.connectors.metrics import Metrics
from dressage.connectors.webhooks.metrics import Metrics as WebhookMetrics
from dressage.flow import App, Limits
from dressage.orchestrator.api_messages import WorkflowAnswer
from dressage.orchestrator.api_schema import api_reference, api_schema, operation_schema
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.service import OrchestratorConfig, run_beside
from dressage.orchestrator.turn.behind import (
    EVENTS_LINGER_BELOW,
    EVENTS_LINGER_S,
    STATES_LINGER_BELOW,
    STATES_LINGER_S,
)
from dressage.orchestrator.turn.committing import SINGLES_MAX
from dressage.outbox.relay.metrics import RelayMetrics
from dressage.protocol.commands import (
    REASON_BYTES_MAX,
    Answer,
    Ask,
    AskAnswer,
    AttemptProgress,
    CancelRun,
    CancelThread,
    DeleteRun,
    EditVariables,
    ForkRun,
    HoldRun,
    MigrateRun,
    PostEvent,
    RefusalCode,
    ReleaseRun,
    RescueRun,
    ResumeRun,
    SetSchedule,
    SettleTask,
    StartRun,
    StopRun,
    TaskMessage,
    TaskResult,
    UserTaskAction,
)
from dressage.protocol.events import KIND, DomainEvent, OutputEvent, decode_data, decode_event
from dressage.protocol.large import Reference
from dressage.protocol.names import Names, run_token
from dressage.protocol.spec import WorkflowSpec
from dressage.protocol.versions import Versions
from dressage.telemetry import SECONDS, Counter, Gauge, Histogram, NoMeters
from dressage.worker import Worker

pytestmark = pytest.mark.anyio

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
API: Final = (DOCS / "api.md").read_text()
PROTOCOL: Final = (DOCS / "protocol.md").read_text()
OPERATIONS: Final = (DOCS / "operations.md").read_text()
PROGRAM_S: Final = 40.0
ADDRESS: Final = "nats://127.0.0.1:4222"

FIGURES: Final = {
    *(
        "member",
        "where",
        "epoch",
        "position",
        "lag",
        "backlog",
        "behind",
        "open_runs",
        "commands_s",
        "tasks_s",
    ),
    "fold_version",
}
VARIES: Final = {
    "at",
    "born",
    "digest",
    "registered_at",
    *(
        "started_at",
        "updated_at",
        "ended_at",
        "opened_at",
        "closed_at",
        "time",
        "since",
        "made_at",
        "changed_at",
        "duration_ms",
        "waited_ms",
        "seq",
        "command",
    ),
    *FIGURES,
}
"""Fields of an answer whose value is another each time: their type is compared."""


class Block(NamedTuple):
    language: str
    name: str
    text: str


def blocks(page: str) -> list[Block]:
    found = re.findall(r"^```(\w+)(?: ([^\n]+))?\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [Block(*each) for each in found]


def block(page: str, language: str, name: str) -> str:
    (found,) = [each.text for each in blocks(page) if each[:2] == (language, name)]
    return found


def output_after(page: str, program: str) -> str:
    """The first text block behind a program says what it prints."""
    behind = page[page.index(program) :]
    return next(each.text for each in blocks(behind) if each.language == "text")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """An engine on a server of its own, so that its namespace can be the documented one."""
    async with EmbeddedServer(tmp_path / "nats") as running:
        orchestrator, task = await run_beside(JetStreamBroker(running.url), OrchestratorConfig())
        async with AnalyticsService(running.url, "default", tmp_path / "events.duckdb"):
            yield running
        orchestrator.stop()
        await task


@pytest.fixture
def hello(tmp_path: Path) -> ModuleType:
    path = tmp_path / "hello.py"
    path.write_text(block(API, "python", "hello.py"))
    spec = importlib.util.spec_from_file_location("hello", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shape(value: Any, name: str = "") -> Any:
    """The value, with a type in place of what is another each time."""
    if name in VARIES:
        return float if isinstance(value, int | float) else type(value)
    if isinstance(value, dict):
        return {key: shape(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return value


# -- the micro service -----------------------------------------------------------------------------
async def test_the_micro_service_answers_as_documented(server: EmbeddedServer, hello: ModuleType) -> None:
    async with Client(server.url) as author:
        await author.register(hello.signing)
        await author.register(hello.approving)
        await author.register(hello.mailing)
    client = await nats.connect(server.url)
    examples = [each for each in blocks(API) if each.language == "json"]
    last = ""
    for language, name, text in examples:
        kind, operation = name.split()
        assert language == "json"
        if kind == "request":
            end = asyncio.get_running_loop().time() + PROGRAM_S
            while True:
                reply = await client.request(f"dressage.default.api.{operation}", text.encode(), timeout=35)
                last = reply.data.decode()
                asked = "LIMIT_UNKNOWN" not in last  # The run was started just before.
                if asked or asyncio.get_running_loop().time() > end:
                    break
                await asyncio.sleep(0.05)
            assert json.loads(last)["ok"] is ("moon" not in text), last
        elif operation == "unknown-operation":
            reply = await client.request("dressage.default.api.dance", b"{}", timeout=5)
            assert json.loads(reply.data) == json.loads(text)
        else:
            assert shape(json.loads(last)) == shape(json.loads(text))
    await client.close()


async def test_every_operation_has_an_example(server: EmbeddedServer) -> None:
    client = await nats.connect(server.url)
    for subject in ("$SRV.INFO", "$SRV.INFO.dressage"):
        info = json.loads((await client.request(subject, b"", timeout=5)).data)
        offered = {endpoint["name"] for endpoint in info["endpoints"]}
        assert offered == {each.name.split()[1] for each in blocks(API) if each.name.startswith("request ")}
        assert info["metadata"] == {"namespace": "default"}
        assert {endpoint["queue_group"] for endpoint in info["endpoints"]} == {"dressage-api"}
    ping = json.loads((await client.request("$SRV.PING.dressage", b"", timeout=5)).data)
    assert ping["type"] == "io.nats.micro.v1.ping_response"
    await client.close()


def test_the_page_of_all_operations_is_what_the_command_prints() -> None:
    assert (DOCS / "api-reference.md").read_text() == api_reference(Names("default")), (
        "write it anew: dressage api reference > docs/api-reference.md"
    )


async def test_requests_and_answers_are_as_their_schemas_say(
    server: EmbeddedServer, hello: ModuleType
) -> None:
    """The examples, by a validator that has nothing to do with the code that makes and reads them."""
    schema = api_schema(Names("default"))
    for each in blocks(API):
        kind, _, operation = each.name.partition(" ")
        if each.language != "json" or operation not in schema["operations"]:
            continue
        value, side = json.loads(each.text), kind
        if kind == "answer" and not value["ok"]:
            wanted = schema["error"]
        else:
            wanted = schema["operations"][operation][side]
        jsonschema.validate(value, {**wanted, "$defs": schema["$defs"]})
    for operation in schema["operations"]:
        alone = operation_schema(Names("default"), operation)
        jsonschema.Draft202012Validator.check_schema({"$defs": alone["$defs"], **alone["request"]})
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"nobody": 1}, {**alone["request"], "$defs": alone["$defs"]})


async def test_the_documented_spec_is_what_the_compiler_makes(hello: ModuleType) -> None:
    request = json.loads(block(API, "json", "request put-workflow"))
    spec = msgspec.convert(request["spec"], WorkflowSpec)
    assert spec.digest() == hello.greeting.spec.digest()
    versions = msgspec.json.decode(block(PROTOCOL, "json", "Versions"), type=Versions)
    assert versions.digest == spec.digest()
    assert [str(versions.label(number)) for number in range(1, 5)] == ["1.0", "1.1", "1.2", "2.0"]


async def test_get_workflow_answers_like_put_workflow(server: EmbeddedServer) -> None:
    client = await nats.connect(server.url)
    for operation in ("put-workflow", "get-workflow"):
        request = block(API, "json", f"request {operation}").encode()
        reply = await client.request(f"dressage.default.api.{operation}", request, timeout=10)
        answer = msgspec.json.decode(reply.data, type=WorkflowAnswer)
        assert answer.workflow.version == 1
        assert answer.created is (operation == "put-workflow")
    await client.close()


REFUSED: Final = [
    ("start", '{"workflow": "greeting", "inptu": {}}', "REQUEST_MALFORMED"),
    ("start", "{", "REQUEST_MALFORMED"),
    ("start", '{"workflow": "nobody"}', "WORKFLOW_UNKNOWN"),
    ("start", '{"workflow": "greeting", "version": 9, "input": {"name": "a"}}', "WORKFLOW_UNKNOWN"),
    ("start", '{"workflow": "a.*"}', "NAME_INVALID"),
    ("start", '{"workflow": "greeting", "input": {"name": 3}}', "INPUT_INVALID"),
    ("start", '{"workflow": "greeting", "input": {"name": "a"}, "run_id": ""}', "RUN_ID_INVALID"),
    ("put-workflow", '{"spec": {"format": 1}}', "SPEC_INVALID"),
    ("get", '{"run_id": "nobody"}', "RUN_UNKNOWN"),
    ("wait", '{"run_id": "nobody"}', "RUN_UNKNOWN"),
    ("cancel", '{"run_id": "nobody"}', "RUN_UNKNOWN"),
    (
        "result",
        '{"run_id": "nobody", "result": {"type": "task-result", "task_id": "1",'
        ' "by": {"worker": "w", "duration_ms": 1}, "output": 1}}',
        "RUN_UNKNOWN",
    ),
    ("dance", "{}", "OPERATION_UNKNOWN"),
]


async def test_errors_are_told_by_the_documented_codes(server: EmbeddedServer) -> None:
    client = await nats.connect(server.url)
    put = block(API, "json", "request put-workflow").encode()
    await client.request("dressage.default.api.put-workflow", put, timeout=10)
    for operation, request, code in REFUSED:
        reply = await client.request(f"dressage.default.api.{operation}", request.encode(), timeout=35)
        assert json.loads(reply.data)["code"] == code, request
        assert f"| `{code}` |" in API
    await client.close()


def test_every_code_of_a_refusal_is_explained() -> None:
    assert [code for code in get_args(RefusalCode) if f"| `{code}` |" not in API] == []


# -- programs --------------------------------------------------------------------------------------
@contextlib.asynccontextmanager
async def program(
    folder: Path, name: str, source: str, url: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A documented program as a process of its own; only the server's address differs."""
    assert ADDRESS in source
    path = folder / name
    path.write_text(source.replace(ADDRESS, url))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", str(path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def printed(process: asyncio.subprocess.Process) -> str:
    out, error = await asyncio.wait_for(process.communicate(), PROGRAM_S)
    assert process.returncode == 0, error.decode()
    return out.decode()


async def test_the_python_client_prints_what_is_documented(
    server: EmbeddedServer, hello: ModuleType, tmp_path: Path
) -> None:
    source = block(API, "python", "client")
    async with program(tmp_path, "client.py", source, server.url) as process:
        assert await printed(process) == output_after(API, source)


async def test_who_follows_a_run_is_told_what_is_documented(
    server: EmbeddedServer, hello: ModuleType, tmp_path: Path
) -> None:
    source = block(API, "python", "following")
    async with program(tmp_path, "following.py", source, server.url) as process:
        assert await printed(process) == output_after(API, source)


def test_what_is_said_of_following_holds() -> None:
    assert f"Every {LOOK_S:g} s without an event" in API
    assert f"bounded, {WINDOW} messages" in API
    assert f"{EVENTS_AGE_S / 86_400:g} days" in API


async def test_a_worker_and_a_client_that_know_nothing_of_dressage(
    server: EmbeddedServer, hello: ModuleType, tmp_path: Path
) -> None:
    worker, source = (block(PROTOCOL, "python", f"plain-{part}") for part in ("worker", "client"))
    assert "dressage." not in "".join(line for line in worker.splitlines() if "import" in line)
    async with Client(server.url) as client:
        await client.register(hello.greeting)
    async with (
        program(tmp_path, "worker.py", worker, server.url),
        program(tmp_path, "client.py", source, server.url) as process,
    ):
        assert await printed(process) == output_after(PROTOCOL, source)


# -- messages --------------------------------------------------------------------------------------
STRUCTS: Final[Mapping[str, Any]] = {
    struct.__name__: struct
    for struct in (
        *(Namespace, Versions, TaskMessage, TaskResult, AttemptProgress, StartRun, CancelRun, PostEvent),
        UserTaskAction,
        SetSchedule,
        CancelThread,
        StopRun,
        ResumeRun,
        SettleTask,
        MigrateRun,
        *(RescueRun, ForkRun, EditVariables),
        *(DeleteRun, HoldRun, ReleaseRun),
        *(Answer, Ask, AskAnswer, DomainEvent, Reference),
    )
}


@pytest.mark.parametrize("example", [each for each in blocks(PROTOCOL) if each.language == "json"])
def test_a_message_of_the_protocol_decodes_and_is_written_like_that(example: Block) -> None:
    given = json.loads(example.text)
    if example.name == "OutputEvent":
        received = decode_event(example.text.encode())
        event = OutputEvent(**(given | {"data": decode_data(received)}))
        assert json.loads(msgspec.json.encode(event)) == given
        return
    decoded = msgspec.json.decode(example.text, type=STRUCTS[example.name])
    assert json.loads(msgspec.json.encode(decoded)) == given


def test_every_kind_of_event_is_described_with_its_fields() -> None:
    for data, kind in KIND.items():
        (line,) = [line for line in PROTOCOL.splitlines() if line.startswith("| `") and f"`{kind}`" in line]
        fields = [field for field in data.__struct_fields__ if f"`{field}`" not in line]
        assert fields == [], kind


def test_what_is_said_of_names_and_consumers_holds() -> None:
    assert "`order 7/a` is `order=207=2Fa`" in PROTOCOL
    assert run_token("order 7/a") == "order=207=2Fa"
    assert f"`ack_wait` {TASK_ACK_WAIT_S:g} s" in PROTOCOL
    assert f"`max_ack_pending` {TASKS_PENDING_MAX:,}" in PROTOCOL


# -- metrics ---------------------------------------------------------------------------------------
class Noting(NoMeters):
    """Remembers which meters are made, and with which labels."""

    def __init__(self) -> None:
        self.made: dict[str, list[str]] = {}

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        self.made[name] = list(labels)
        return super().counter(name, about, labels)

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        self.made[name] = list(labels)
        return super().gauge(name, about, labels)

    def histogram(
        self, name: str, about: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        self.made[name] = list(labels)
        return super().histogram(name, about, labels, buckets)


async def test_the_metrics_are_those_that_exist() -> None:
    noting = Noting()
    EngineMetrics(noting)
    Metrics(noting)
    WebhookMetrics(noting)
    HttpApp(ADDRESS, meters=noting)
    RelayMetrics(noting)
    Worker(ADDRESS, App("nobody"), meters=noting)
    rows = re.findall(r"^\| `dressage_(\w+)` \|([^|]*)\|", API, re.MULTILINE)
    assert {name: re.findall(r"`(\w+)`", labels) for name, labels in rows} == noting.made


# -- operations ------------------------------------------------------------------------------------
def test_limits_and_waits_are_those_of_the_code() -> None:
    default = Limits()
    assert f"| {default.value_bytes // 1024} KiB each, unless" in OPERATIONS
    assert f"| variables of a run | {default.variables_bytes // 1024} KiB together" in OPERATIONS
    assert f"| {default.steps_per_command:,} steps" in OPERATIONS
    assert f"| output events of a run | {default.history_events:,}, unless" in OPERATIONS
    assert f"at most {default.value_bytes // 1024} KiB, unless the workflow says otherwise" in PROTOCOL
    assert f"at\nmost {REASON_BYTES_MAX:,} bytes" in API
    assert f"{MEMBER_TTL_S:g} s after its last sign of life" in OPERATIONS
    group_commit = (DOCS / "decisions" / "0008-group-commit.md").read_text()
    assert f"**Events**: fewer than {EVENTS_LINGER_BELOW} wait {EVENTS_LINGER_S * 1000:g} ms" in group_commit
    assert f"**States**: fewer than {STATES_LINGER_BELOW:,} wait {STATES_LINGER_S:g} s" in group_commit
    forms = (DOCS / "decisions" / "0004-two-commit-forms.md").read_text()
    assert f"up to {SINGLES_MAX} effects (`SINGLES_MAX`)" in forms


async def test_the_streams_are_those_that_are_documented(server: EmbeddedServer) -> None:
    client = await nats.connect(server.url)
    streams = await client.jetstream().streams_info()
    names = {str(stream.config.name) for stream in streams}
    assert names == {
        "dressage_default_0",
        "dressage_default_events",
        "dressage_default_dead",
        "OBJ_dressage_default_objects",
        "KV_dressage_default_runs",
        "KV_dressage_default_definitions",
        "KV_dressage_default_members",
    }
    for name in names:
        assert f"`{name.replace('default', '<ns>').replace('_0', '_<shard>')}`" in OPERATIONS, name
    await client.close()


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: str(page.relative_to(DOCS)))
def test_every_link_of_the_documentation_leads_to_something(page: Path) -> None:
    text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", page.read_text())
    links = re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?[^)]*\)", text)
    assert [link for link, _ in links if not (page.parent / link).exists()] == []
    pages = [(page.parent / link if link else page, heading) for link, heading in links if heading]
    missing = [
        (str(found.name), heading)
        for found, heading in pages
        if found.suffix == ".md" and heading not in headings(found)
    ]
    assert missing == []


def headings(page: Path) -> set[str]:
    """What links to its headings are called, as forges call them: small letters, and a hyphen for each space."""
    text = re.sub(r"(?s)```.*?```", "", page.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}
