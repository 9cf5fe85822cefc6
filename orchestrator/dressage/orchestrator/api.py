"""The engine as a NATS micro service (ADR-32): JSON in and out, for any language, discoverable by `$SRV`.

Operations, each on `dressage.<ns>.api.<operation>`: start, get, wait, cancel, stop, resume, delete, hold, release,
settle-task, post, user-tasks, act, set-schedule, get-schedule, tell-schedule, task-limit, history, result (of a task),
put-workflow, check-workflow, get-workflow, get-versions, tell-workflow, list-workflows, plan-migration,
check-migration, migrate, shards. An answer is `{"ok": true, ...}` or `{"ok": false, "code", "message", "retryable"}`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Final, Literal, Self, TypeVar

import msgspec

from dressage.brokers.interface import Broker, Connection
from dressage.brokers.registry import Allow, Change
from dressage.client import Client
from dressage.client.client import START_TIMEOUT_S
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.overview import MemberView, ShardView, read_overview
from dressage.orchestrator.turn.definitions import make_definition
from dressage.protocol.alignment import Step
from dressage.protocol.commands import KeyView, RunView, RunWaits, TaskResult
from dressage.protocol.errors import BadInput, DressageError
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.migrations import Migration
from dressage.protocol.names import Names, is_reply_subject
from dressage.protocol.nesting import COMMAND_DEPTH_MAX, SPEC_DEPTH_MAX, nests_deeper
from dressage.protocol.permits import LimiterView
from dressage.protocol.schedules import Overlap, ScheduleSpec, ScheduleView
from dressage.protocol.spec import RegisteredWorkflow, WorkflowSpec
from dressage.protocol.spec_reading import read_spec
from dressage.protocol.user_tasks import Action, UserTaskView
from dressage.protocol.versions import LATEST, VERSIONS_SHOWN, VersionRef, VersionsView

_log = logging.getLogger("dressage.orchestrator")

QUEUE: Final = "dressage-api"
VERSION: Final = "0.1.0"
HISTORY_MAX: Final = 5000


Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class StartRequest(msgspec.Struct, forbid_unknown_fields=True):
    workflow: str
    input: msgspec.Raw = msgspec.Raw(b"{}")
    run_id: str | None = None
    version: VersionRef | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class RunRequest(msgspec.Struct, forbid_unknown_fields=True):
    run_id: str


class WaitRequest(msgspec.Struct, forbid_unknown_fields=True):
    run_id: str
    timeout_s: Seconds = 30.0


class CancelRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of a run all, or one of its run threads."""

    run_id: str
    reason: str = ""
    at_once: bool = False
    thread: int | None = None
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class StopRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of a run all, or one of its run threads."""

    run_id: str
    reason: str = ""
    thread: int = 0
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class ResumeRequest(msgspec.Struct, forbid_unknown_fields=True):
    run_id: str
    thread: int = 0
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class DeleteRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of a run that has ended; with `events` also its output events in the stream."""

    run_id: str
    reason: str = ""
    events: bool = False
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class HoldRequest(msgspec.Struct, forbid_unknown_fields=True):
    run_id: str
    reason: str = ""
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class ReleaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    run_id: str
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class SettleTaskRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of a dead task: it is retried, or fails."""

    run_id: str
    task_id: str
    do: Literal["retry", "fail"]
    reason: str = ""
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class PlanMigrationRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of runs of version `before`: where they go on in version `after`."""

    workflow: str
    before: VersionRef
    after: VersionRef
    lines: dict[int, int] = {}
    variables: dict[str, str] = {}
    values: dict[str, msgspec.Raw] = {}


class CheckMigrationRequest(msgspec.Struct, forbid_unknown_fields=True):
    run_id: str
    migration: Migration


class MigrateRequest(msgspec.Struct, forbid_unknown_fields=True):
    run_id: str
    migration: Migration
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class PostRequest(msgspec.Struct, forbid_unknown_fields=True):
    """To a run, or to a correlation key: exactly one of the two is given."""

    event: str
    run_id: str = ""
    key: str = ""
    payload: msgspec.Raw = msgspec.Raw(b"null")
    event_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class KeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    event: str
    key: str


class UserTasksRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of a run all that are open, or one of them."""

    run_id: str
    user_task_id: str = ""


class ActRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Something that somebody does with a user task: `action` is one of `dressage.protocol.user_tasks`."""

    run_id: str
    user_task_id: str
    action: Action
    action_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class SetScheduleRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    spec: ScheduleSpec
    new: bool = False
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class ScheduleRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class TaskLimitRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The limit of the calls of a task that name no key, or of those that name this one."""

    task: str
    key: str = ""


class TellScheduleRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`do` it; a backfill is from `first` to `last`, moments in RFC 3339."""

    name: str
    do: Literal["pause", "resume", "fire", "backfill", "delete"]
    reason: str = ""
    first: datetime | None = None
    last: datetime | None = None
    overlap: Overlap | None = None
    command_id: str | None = None
    actor: str = ""


class HistoryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`after` is the index of the last event that the caller has."""

    run_id: str
    after: int = -1
    limit: Annotated[int, msgspec.Meta(ge=1)] = 500


class ResultRequest(msgspec.Struct, forbid_unknown_fields=True):
    run_id: str
    result: TaskResult


class PutWorkflowRequest(msgspec.Struct, forbid_unknown_fields=True):
    spec: msgspec.Raw
    actor: str = ""
    allow: Allow = "all"
    build: str = ""


class CheckWorkflowRequest(msgspec.Struct, forbid_unknown_fields=True):
    spec: msgspec.Raw
    build: str = ""


class GetWorkflowRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    version: VersionRef = LATEST


class GetVersionsRequest(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    limit: Annotated[int, msgspec.Meta(ge=1, le=VERSIONS_SHOWN)] = VERSIONS_SHOWN


class TellWorkflowRequest(msgspec.Struct, forbid_unknown_fields=True):
    """`do` it: with a `version` for a version, with an `alias` for an alias."""

    name: str
    do: Literal["retire", "restore", "archive", "unarchive", "set-alias", "remove-alias"]
    version: VersionRef = ""
    alias: str = ""
    actor: str = ""


class ListRequest(msgspec.Struct, forbid_unknown_fields=True):
    pass


class Started(msgspec.Struct):
    run_id: str
    seq: int
    existing: bool
    ok: bool = True


class RunAnswer(msgspec.Struct):
    run: RunView
    ok: bool = True


class WaitsAnswer(msgspec.Struct):
    waits: RunWaits
    ok: bool = True


class HistoryAnswer(msgspec.Struct):
    events: list[ReceivedEvent]
    more: bool
    ok: bool = True


class Accepted(msgspec.Struct):
    seq: int
    ok: bool = True


class PlanMigrationAnswer(msgspec.Struct):
    migration: Migration
    steps: tuple[Step, ...]
    ok: bool = True


class CheckMigrationAnswer(msgspec.Struct):
    reasons: tuple[str, ...]
    moved: bool
    ok: bool = True


class KeyAnswer(msgspec.Struct):
    key: KeyView
    ok: bool = True


class UserTasksAnswer(msgspec.Struct):
    """`forms` are the JSON Schemas of the forms by the names of the user tasks."""

    user_tasks: list[UserTaskView]
    forms: dict[str, Any]
    ok: bool = True


class ScheduleAnswer(msgspec.Struct):
    schedule: ScheduleView
    ok: bool = True


class TaskLimitAnswer(msgspec.Struct):
    limit: LimiterView
    ok: bool = True


class PostAnswer(msgspec.Struct):
    event_id: str
    seq: int
    existing: bool
    early: bool = False
    ok: bool = True


class WorkflowAnswer(msgspec.Struct):
    workflow: RegisteredWorkflow
    created: bool = False
    ok: bool = True


class PlanAnswer(msgspec.Struct):
    """What a registration would come to; `breaks` is what of it breaks those who use the workflow."""

    version: int
    label: str
    change: Change
    breaks: tuple[str, ...]
    ok: bool = True


class VersionsAnswer(msgspec.Struct):
    versions: VersionsView
    ok: bool = True


class NamesAnswer(msgspec.Struct):
    workflows: list[str]
    ok: bool = True


class ShardsAnswer(msgspec.Struct):
    shards: list[ShardView]
    members: list[MemberView]
    generation: int
    previous: int | None
    ok: bool = True


class Failed(msgspec.Struct):
    code: str
    message: str
    retryable: bool = False
    ok: bool = False


_Request = TypeVar("_Request")


def _read_usable(data: msgspec.Raw) -> WorkflowSpec:
    """A spec that is well formed may still hold what cannot be evaluated: refuse it before any run meets it."""
    spec = read_spec(bytes(data))
    make_definition(RegisteredWorkflow(spec, 0, ""))
    return spec


def read_request(operation: str, kind: type[_Request], data: bytes) -> _Request:
    """What is asked of an operation. Raises `BadInput` for anything that is no request of its kind."""
    code, levels, limit = "REQUEST_MALFORMED", COMMAND_DEPTH_MAX, "command-depth"
    if operation == "put-workflow":
        code, levels, limit = "SPEC_INVALID", SPEC_DEPTH_MAX, "spec-size"
    if nests_deeper(data, levels):
        raise BadInput(
            f"the request for {operation!r} nests deeper than {levels} levels: make it flatter (limit {limit})",
            code=code,
        )
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the request for {operation!r} does not decode: {error}", code=code) from error


@dataclass(slots=True)
class EndpointStats:
    """What `$SRV.STATS` tells of one operation; times are nanoseconds."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    took_ns: int = 0

    def count(self, took_ns: int, error: str) -> None:
        self.requests += 1
        self.took_ns += took_ns
        if error:
            self.errors += 1
            self.last_error = error

    def shown(self, name: str, subject: str) -> dict[str, Any]:
        return {
            "name": name,
            "subject": subject,
            "queue_group": QUEUE,
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": self.took_ns,
            "average_processing_time": self.took_ns // max(1, self.requests),
        }


class Api:
    """Serves the operations in one queue group of all orchestrators."""

    def __init__(self, broker: Broker, connection: Connection, names: Names, metrics: EngineMetrics) -> None:
        self._client = Client(broker, namespace=names.namespace)
        self._connection = connection
        self._names = names
        self._metrics = metrics
        self._id = uuid.uuid4().hex
        self._stack = AsyncExitStack()
        self._running: set[asyncio.Task[None]] = set()
        self._started = datetime.now(UTC).isoformat()
        self._operations: dict[str, tuple[type[Any], Callable[[Any], Awaitable[Any]]]] = {
            "start": (StartRequest, self._start),
            "get": (RunRequest, self._get),
            "wait": (WaitRequest, self._wait),
            "waits": (RunRequest, self._waits),
            "cancel": (CancelRequest, self._cancel),
            "stop": (StopRequest, self._stop),
            "resume": (ResumeRequest, self._resume),
            "delete": (DeleteRequest, self._delete),
            "hold": (HoldRequest, self._hold),
            "release": (ReleaseRequest, self._release),
            "settle-task": (SettleTaskRequest, self._settle_task),
            "post": (PostRequest, self._post),
            "key": (KeyRequest, self._key),
            "user-tasks": (UserTasksRequest, self._user_tasks),
            "act": (ActRequest, self._act),
            "set-schedule": (SetScheduleRequest, self._set_schedule),
            "get-schedule": (ScheduleRequest, self._get_schedule),
            "tell-schedule": (TellScheduleRequest, self._tell_schedule),
            "task-limit": (TaskLimitRequest, self._task_limit),
            "history": (HistoryRequest, self._history),
            "result": (ResultRequest, self._result),
            "put-workflow": (PutWorkflowRequest, self._put_workflow),
            "get-workflow": (GetWorkflowRequest, self._get_workflow),
            "check-workflow": (CheckWorkflowRequest, self._check_workflow),
            "get-versions": (GetVersionsRequest, self._get_versions),
            "tell-workflow": (TellWorkflowRequest, self._tell_workflow),
            "list-workflows": (ListRequest, self._list_workflows),
            "plan-migration": (PlanMigrationRequest, self._plan_migration),
            "check-migration": (CheckMigrationRequest, self._check_migration),
            "migrate": (MigrateRequest, self._migrate),
            "shards": (ListRequest, self._shards),
        }
        self._stats = {name: EndpointStats() for name in self._operations}

    async def __aenter__(self) -> Self:
        await self._client.connect()
        self._stack.push_async_callback(self._client.close)
        served = await self._connection.serve(self._names.api("*"), self._on_request, QUEUE)
        self._stack.push_async_callback(served.close)
        await self._discoverable()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # -- requests ----------------------------------------------------------------------------------
    async def _on_request(self, subject: str, data: bytes, reply: str) -> None:
        """Each request is a task of its own: one that waits for a run must not hold up the others."""
        task = asyncio.create_task(self._handle(subject.rsplit(".", 1)[1], data, reply))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _handle(self, operation: str, data: bytes, reply: str) -> None:
        began = time.perf_counter_ns()
        answer = await self._answer(operation, data)
        code = answer.code if isinstance(answer, Failed) else "OK"
        known = operation if operation in self._operations else "unknown"
        if known in self._stats:
            self._stats[known].count(time.perf_counter_ns() - began, "" if code == "OK" else code)
        self._metrics.requests.labels(known, code).inc()
        if not is_reply_subject(reply):
            return
        payload = msgspec.json.encode(answer)
        if len(payload) > self._connection.payload_bytes_max:
            message = (
                f"the answer takes {len(payload)} bytes, more than the server's max_payload: ask for less"
            )
            payload = msgspec.json.encode(Failed("PAYLOAD_TOO_LARGE", message))
        await self._connection.tell(reply, payload)

    async def _answer(self, operation: str, data: bytes) -> Any:
        known = self._operations.get(operation)
        if known is None:
            offered = ", ".join(self._operations)
            return Failed("OPERATION_UNKNOWN", f"there is no operation {operation!r}: use one of {offered}")
        kind, handle = known
        try:
            request = read_request(operation, kind, data)
            return await handle(request)
        except DressageError as error:
            return Failed(error.code, error.message, error.retryable)
        except Exception:
            _log.exception("API operation %s failed", operation)
            return Failed(
                "ENGINE_FAULT", "the engine failed on this request; its log has the traceback", True
            )

    async def _start(self, request: StartRequest) -> Started:
        handle = await self._client.start(
            request.workflow,
            request.input,
            run_id=request.run_id,
            version=request.version,
            timeout_s=request.timeout_s,
            actor=request.actor,
        )
        return Started(handle.run_id, handle.seq, handle.existing)

    async def _get(self, request: RunRequest) -> RunAnswer:
        return RunAnswer(await self._client.get(request.run_id))

    async def _wait(self, request: WaitRequest) -> RunAnswer:
        return RunAnswer(await self._client.wait(request.run_id, timeout_s=request.timeout_s))

    async def _waits(self, request: RunRequest) -> WaitsAnswer:
        return WaitsAnswer(await self._client.waits(request.run_id))

    async def _cancel(self, request: CancelRequest) -> Accepted:
        return Accepted(
            await self._client.cancel(
                request.run_id,
                request.reason,
                at_once=request.at_once,
                thread=request.thread,
                command_id=request.command_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        )

    async def _stop(self, request: StopRequest) -> Accepted:
        return Accepted(
            await self._client.stop(
                request.run_id,
                request.reason,
                thread=request.thread,
                command_id=request.command_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        )

    async def _resume(self, request: ResumeRequest) -> Accepted:
        return Accepted(
            await self._client.resume(
                request.run_id,
                thread=request.thread,
                command_id=request.command_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        )

    async def _delete(self, request: DeleteRequest) -> Accepted:
        return Accepted(
            await self._client.delete(
                request.run_id,
                request.reason,
                events=request.events,
                command_id=request.command_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        )

    async def _hold(self, request: HoldRequest) -> Accepted:
        return Accepted(
            await self._client.hold(
                request.run_id,
                request.reason,
                command_id=request.command_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        )

    async def _release(self, request: ReleaseRequest) -> Accepted:
        return Accepted(
            await self._client.release(
                request.run_id,
                command_id=request.command_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        )

    async def _settle_task(self, request: SettleTaskRequest) -> Accepted:
        settle = self._client.retry_task if request.do == "retry" else self._client.fail_task
        return Accepted(
            await settle(
                request.run_id,
                request.task_id,
                reason=request.reason,
                command_id=request.command_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        )

    async def _plan_migration(self, request: PlanMigrationRequest) -> PlanMigrationAnswer:
        found = await self._client.plan_migration(
            f"{request.workflow}@{request.before}",
            f"{request.workflow}@{request.after}",
            lines=request.lines,
            variables=request.variables,
            values=request.values,
        )
        return PlanMigrationAnswer(found.migration, found.steps)

    async def _check_migration(self, request: CheckMigrationRequest) -> CheckMigrationAnswer:
        found = await self._client.check_migration(request.run_id, request.migration)
        return CheckMigrationAnswer(found.reasons, found.moved)

    async def _migrate(self, request: MigrateRequest) -> Accepted:
        return Accepted(
            await self._client.migrate(
                request.run_id,
                request.migration,
                command_id=request.command_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        )

    async def _post(self, request: PostRequest) -> PostAnswer:
        if bool(request.run_id) == bool(request.key):
            raise BadInput("give either a run_id or a key", code="REQUEST_MALFORMED")
        if request.key:
            posted = await self._client.post_by_key(
                request.event,
                request.key,
                request.payload,
                event_id=request.event_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        else:
            posted = await self._client.post(
                request.run_id,
                request.event,
                request.payload,
                event_id=request.event_id,
                timeout_s=request.timeout_s,
                actor=request.actor,
            )
        return PostAnswer(posted.event_id, posted.seq, posted.existing, posted.early)

    async def _key(self, request: KeyRequest) -> KeyAnswer:
        return KeyAnswer(await self._client.key(request.event, request.key))

    async def _user_tasks(self, request: UserTasksRequest) -> UserTasksAnswer:
        views = await self._client.user_tasks(request.run_id, user_task_id=request.user_task_id)
        forms = {each.user_task: each.form for each in views}
        return UserTasksAnswer([msgspec.structs.replace(each, form={}) for each in views], forms)

    async def _act(self, request: ActRequest) -> Accepted:
        return Accepted(
            await self._client.act(
                request.run_id,
                request.user_task_id,
                request.action,
                action_id=request.action_id,
                actor=request.actor,
                timeout_s=request.timeout_s,
            )
        )

    async def _set_schedule(self, request: SetScheduleRequest) -> ScheduleAnswer:
        schedule = await self._client.put_schedule(
            request.name,
            request.spec,
            new=request.new,
            command_id=request.command_id,
            actor=request.actor,
            timeout_s=request.timeout_s,
        )
        return ScheduleAnswer(await schedule.view())

    async def _get_schedule(self, request: ScheduleRequest) -> ScheduleAnswer:
        return ScheduleAnswer(await self._client.get_schedule(request.name))

    async def _task_limit(self, request: TaskLimitRequest) -> TaskLimitAnswer:
        return TaskLimitAnswer(await self._client.task_limit(request.task, key=request.key))

    async def _tell_schedule(self, request: TellScheduleRequest) -> Accepted:
        schedule, command_id = self._client.schedule(request.name, actor=request.actor), request.command_id
        match request.do:
            case "pause":
                return Accepted(await schedule.pause(request.reason, command_id=command_id))
            case "resume":
                return Accepted(await schedule.resume(command_id=command_id))
            case "fire":
                return Accepted(await schedule.fire(command_id=command_id))
            case "delete":
                return Accepted(await schedule.delete(command_id=command_id))
            case "backfill":
                if request.first is None or request.last is None:
                    raise BadInput("a backfill has a first and a last moment", code="REQUEST_MALFORMED")
                return Accepted(
                    await schedule.backfill(
                        request.first, request.last, overlap=request.overlap, command_id=command_id
                    )
                )

    async def _history(self, request: HistoryRequest) -> HistoryAnswer:
        events: list[ReceivedEvent] = []
        limit = min(request.limit, HISTORY_MAX)
        async with aclosing(self._client.history(request.run_id, after=request.after)) as history:
            async for event in history:
                if len(events) == limit:
                    return HistoryAnswer(events, more=True)
                events.append(event)
        return HistoryAnswer(events, more=False)

    async def _result(self, request: ResultRequest) -> Accepted:
        return Accepted(await self._client.report(request.run_id, request.result))

    async def _put_workflow(self, request: PutWorkflowRequest) -> WorkflowAnswer:
        spec = _read_usable(request.spec)
        registered, created = await self._client.registry.put(
            spec, request.actor, allow=request.allow, build=request.build
        )
        return WorkflowAnswer(registered, created)

    async def _get_workflow(self, request: GetWorkflowRequest) -> WorkflowAnswer:
        return WorkflowAnswer(await self._client.registry.get(request.name, request.version))

    async def _check_workflow(self, request: CheckWorkflowRequest) -> PlanAnswer:
        plan = await self._client.registry.plan(_read_usable(request.spec), build=request.build)
        return PlanAnswer(plan.version, str(plan.label), plan.change, plan.breaks)

    async def _get_versions(self, request: GetVersionsRequest) -> VersionsAnswer:
        return VersionsAnswer(await self._client.registry.view(request.name, request.limit))

    async def _tell_workflow(self, request: TellWorkflowRequest) -> VersionsAnswer:
        registry, name, version = self._client.registry, request.name, request.version
        if request.do in ("retire", "restore", "set-alias") and not version:
            raise BadInput(f"say with version which one to {request.do}", code="REQUEST_MALFORMED")
        match request.do:
            case "retire":
                await registry.retire(name, version)
            case "restore":
                await registry.restore(name, version)
            case "archive" | "unarchive":
                await registry.archive(name, archived=request.do == "archive")
            case "set-alias":
                await registry.set_alias(name, request.alias, version, request.actor)
            case "remove-alias":
                await registry.remove_alias(name, request.alias)
        return VersionsAnswer(await registry.view(name))

    async def _list_workflows(self, _: ListRequest) -> NamesAnswer:
        return NamesAnswer(await self._client.registry.names())

    async def _shards(self, _: ListRequest) -> ShardsAnswer:
        overview = await read_overview(self._connection, self._names)
        return ShardsAnswer(overview.shards, overview.members, overview.generation, overview.previous)

    # -- discovery ---------------------------------------------------------------------------------
    async def _discoverable(self) -> None:
        """Answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, as ADR-32 has it."""
        name = "dressage"
        for verb in ("PING", "INFO", "STATS"):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{self._id}"):
                served = await self._connection.serve(subject, self._on_discovery)
                self._stack.push_async_callback(served.close)

    async def _on_discovery(self, subject: str, _: bytes, reply: str) -> None:
        verb = subject.split(".")[1]
        answer: dict[str, Any] = {
            "type": f"io.nats.micro.v1.{verb.lower()}_response",
            "name": "dressage",
            "id": self._id,
            "version": VERSION,
            "metadata": {"namespace": self._names.namespace},
        }
        if verb == "INFO":
            answer["description"] = "Dressage: durable workflows on JetStream"
            answer["endpoints"] = [
                {"name": name, "subject": self._names.api(name), "queue_group": QUEUE}
                for name in self._operations
            ]
        if verb == "STATS":
            answer["started"] = self._started
            answer["endpoints"] = [
                self._stats[name].shown(name, self._names.api(name)) for name in self._operations
            ]
        if reply:
            await self._connection.tell(reply, msgspec.json.encode(answer))
