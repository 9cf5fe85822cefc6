"""What the micro service does, operation by operation: each takes a request, and gives an answer.

They are served on NATS subjects (`api`), and some of them by HTTP.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from dressage.client import Client
from dressage.client.finding.questions import sql_of
from dressage.client.finding.schedules import schedules_page
from dressage.client.finding.user_tasks import user_tasks_page
from dressage.orchestrator.api_messages import (
    Accepted,
    ActRequest,
    CancelRequest,
    CheckMigrationAnswer,
    CheckMigrationRequest,
    CheckWorkflowRequest,
    CountAnswer,
    CountRequest,
    DeleteRequest,
    EditRequest,
    Failed,
    FindUserTasksRequest,
    FindUsesRequest,
    ForkRequest,
    FoundUserTasksAnswer,
    GetVersionsRequest,
    GetWorkflowRequest,
    HistoryAnswer,
    HistoryRequest,
    HoldRequest,
    KeyAnswer,
    KeyRequest,
    ListRequest,
    ListSchedulesRequest,
    MigrateRequest,
    NamesAnswer,
    PlanAnswer,
    PlanMigrationAnswer,
    PlanMigrationRequest,
    PostAnswer,
    PostRequest,
    PutWorkflowRequest,
    QueryAnswer,
    QueryRequest,
    ReleaseRequest,
    RescuedAnswer,
    RescueRequest,
    ResultRequest,
    ResumeRequest,
    RunAnswer,
    RunRequest,
    ScheduleAnswer,
    ScheduleRequest,
    SchedulesAnswer,
    SearchAnswer,
    SearchRequest,
    SetScheduleRequest,
    SettleTaskRequest,
    ShardsAnswer,
    Started,
    StartRequest,
    StopRequest,
    TaskLimitAnswer,
    TaskLimitRequest,
    TellScheduleRequest,
    TellWorkflowRequest,
    UserTasksAnswer,
    UserTasksRequest,
    UsesAnswer,
    VersionsAnswer,
    WaitRequest,
    WaitsAnswer,
    WorkflowAnswer,
)
from dressage.orchestrator.overview import read_overview
from dressage.orchestrator.turn.definitions import make_definition
from dressage.protocol.errors import BadInput, DressageError
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.nesting import COMMAND_DEPTH_MAX, SPEC_DEPTH_MAX, nests_deeper
from dressage.protocol.spec import RegisteredWorkflow, WorkflowSpec
from dressage.protocol.spec_reading import read_spec

_log = logging.getLogger("dressage.orchestrator")

HISTORY_MAX: Final = 5000

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


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: what it does, what it is asked, what it answers if all goes well, and who does it."""

    about: str
    request: type[msgspec.Struct]
    answer: type[msgspec.Struct]
    handle: Callable[[Operations, Any], Awaitable[Any]]


class Operations:
    """Does what is asked, with a client that is connected."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def answer(self, operation: str, data: bytes) -> Any:
        """What is answered: that of the operation, or `Failed`."""
        known = OPERATIONS.get(operation)
        if known is None:
            offered = ", ".join(OPERATIONS)
            return Failed("OPERATION_UNKNOWN", f"there is no operation {operation!r}: use one of {offered}")
        try:
            request = read_request(operation, known.request, data)
            return await known.handle(self, request)
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
            traceparent=request.traceparent,
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

    async def _rescue(self, request: RescueRequest) -> RescuedAnswer:
        rescued = await self._client.rescue(
            request.run_id,
            line=request.line,
            skip=request.skip,
            value=request.value,
            variables=request.variables,
            reason=request.reason,
            command_id=request.command_id,
            timeout_s=request.timeout_s,
            actor=request.actor,
        )
        return RescuedAnswer(rescued.run_id, rescued.seq)

    async def _fork(self, request: ForkRequest) -> Started:
        handle = await self._client.fork(
            request.run_id,
            request.new_id,
            line=request.line,
            variables=request.variables,
            command_id=request.command_id,
            timeout_s=request.timeout_s,
            actor=request.actor,
        )
        return Started(handle.run_id, handle.seq, handle.existing)

    async def _edit(self, request: EditRequest) -> Accepted:
        return Accepted(
            await self._client.edit(
                request.run_id,
                request.variables,
                thread=request.thread,
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

    async def _find_uses(self, request: FindUsesRequest) -> UsesAnswer:
        registry = self._client.registry
        return UsesAnswer(await registry.uses(request.what, request.name, all_versions=request.all_versions))

    async def _list_workflows(self, _: ListRequest) -> NamesAnswer:
        return NamesAnswer(await self._client.registry.names())

    async def _search(self, request: SearchRequest) -> SearchAnswer:
        """A page that does not fit into a message is asked for again, with fewer runs: `next` goes on behind them."""
        limit = request.limit
        while True:
            page = await self._client.search(
                request.asked(),
                sort=request.sort,
                limit=limit,
                after=request.after,
                timeout_s=request.timeout_s,
            )
            answer = SearchAnswer(page.runs, page.next)
            if (
                len(page.runs) < 2
                or len(msgspec.json.encode(answer)) <= self._client.connection.payload_bytes_max
            ):
                return answer
            limit = len(page.runs) // 2

    async def _count(self, request: CountRequest) -> CountAnswer:
        counted = await self._client.count(
            request.asked(), by=request.by, limit=request.limit, timeout_s=request.timeout_s
        )
        return CountAnswer(counted)

    async def _query(self, request: QueryRequest) -> QueryAnswer:
        result = await self._client.query(
            sql_of(request.sql),
            request.params,
            limit_rows=request.limit_rows,
            fresh=request.fresh,
            timeout_s=request.timeout_s,
        )
        return QueryAnswer(result.columns, result.types, result.rows, result.truncated)

    async def _find_user_tasks(self, request: FindUserTasksRequest) -> FoundUserTasksAnswer:
        found, more = await user_tasks_page(
            self._client.connection,
            self._client.names,
            user=request.user,
            group=request.group,
            state=request.state,
            user_task=request.user_task,
            workflow=request.workflow,
            due_before=request.due_before,
            limit=request.limit,
            timeout_s=request.timeout_s,
        )
        return FoundUserTasksAnswer(found, more)

    async def _list_schedules(self, request: ListSchedulesRequest) -> SchedulesAnswer:
        found, more = await schedules_page(
            self._client.connection, self._client.names, request.workflow, request.limit, request.timeout_s
        )
        return SchedulesAnswer(found, more)

    async def _shards(self, _: ListRequest) -> ShardsAnswer:
        overview = await read_overview(self._client.connection, self._client.names)
        return ShardsAnswer(overview.shards, overview.members, overview.generation, overview.previous)

    OPERATIONS: ClassVar[dict[str, Operation]] = {
        "start": Operation("Start a run", StartRequest, Started, _start),
        "get": Operation("Read a run as it is committed", RunRequest, RunAnswer, _get),
        "wait": Operation("Wait until a run has ended", WaitRequest, RunAnswer, _wait),
        "waits": Operation("What each run thread of a run waits for", RunRequest, WaitsAnswer, _waits),
        "cancel": Operation("Cancel a run, or one run thread of it", CancelRequest, Accepted, _cancel),
        "stop": Operation(
            "Stop a run, or one run thread of it, until it is resumed", StopRequest, Accepted, _stop
        ),
        "resume": Operation("Let a stopped run go on", ResumeRequest, Accepted, _resume),
        "rescue": Operation("Let a run go on that has failed", RescueRequest, RescuedAnswer, _rescue),
        "fork": Operation("Start another run as one has ended", ForkRequest, Started, _fork),
        "edit": Operation("Set variables of a run that has not ended", EditRequest, Accepted, _edit),
        "delete": Operation("Delete a run that has ended", DeleteRequest, Accepted, _delete),
        "hold": Operation("Keep a run from being deleted", HoldRequest, Accepted, _hold),
        "release": Operation("Let a held run be deleted", ReleaseRequest, Accepted, _release),
        "settle-task": Operation(
            "Retry a dead task, or let it fail", SettleTaskRequest, Accepted, _settle_task
        ),
        "post": Operation(
            "Post an external event to a run, or to a correlation key", PostRequest, PostAnswer, _post
        ),
        "key": Operation(
            "What waits at a correlation key, and what is kept there", KeyRequest, KeyAnswer, _key
        ),
        "user-tasks": Operation("The user tasks of a run", UserTasksRequest, UserTasksAnswer, _user_tasks),
        "act": Operation(
            "Do something with a user task: claim, assign, save, complete, ...", ActRequest, Accepted, _act
        ),
        "set-schedule": Operation(
            "Make a schedule, or change it", SetScheduleRequest, ScheduleAnswer, _set_schedule
        ),
        "get-schedule": Operation("Read a schedule", ScheduleRequest, ScheduleAnswer, _get_schedule),
        "tell-schedule": Operation(
            "Pause, resume, fire, backfill or delete a schedule",
            TellScheduleRequest,
            Accepted,
            _tell_schedule,
        ),
        "task-limit": Operation(
            "How much of a task's limit is taken", TaskLimitRequest, TaskLimitAnswer, _task_limit
        ),
        "history": Operation("The output events of a run", HistoryRequest, HistoryAnswer, _history),
        "result": Operation("Report the result of a task attempt", ResultRequest, Accepted, _result),
        "put-workflow": Operation("Register a workflow", PutWorkflowRequest, WorkflowAnswer, _put_workflow),
        "get-workflow": Operation(
            "Read a version of a workflow", GetWorkflowRequest, WorkflowAnswer, _get_workflow
        ),
        "check-workflow": Operation(
            "What registering a workflow would come to", CheckWorkflowRequest, PlanAnswer, _check_workflow
        ),
        "get-versions": Operation(
            "The versions and aliases of a workflow", GetVersionsRequest, VersionsAnswer, _get_versions
        ),
        "tell-workflow": Operation(
            "Retire, restore or archive, and set aliases", TellWorkflowRequest, VersionsAnswer, _tell_workflow
        ),
        "list-workflows": Operation("The names of all workflows", ListRequest, NamesAnswer, _list_workflows),
        "plan-migration": Operation(
            "How runs of one version would go on in another",
            PlanMigrationRequest,
            PlanMigrationAnswer,
            _plan_migration,
        ),
        "check-migration": Operation(
            "Whether a run can be migrated as it stands",
            CheckMigrationRequest,
            CheckMigrationAnswer,
            _check_migration,
        ),
        "migrate": Operation("Move a run to another version", MigrateRequest, Accepted, _migrate),
        "shards": Operation(
            "Shards, who serves them, and the orchestrators", ListRequest, ShardsAnswer, _shards
        ),
        "search": Operation("Find runs", SearchRequest, SearchAnswer, _search),
        "count": Operation("Count runs", CountRequest, CountAnswer, _count),
        "query": Operation(
            "Ask SQL of the events, or a question by its name", QueryRequest, QueryAnswer, _query
        ),
        "find-user-tasks": Operation(
            "Find user tasks of all runs", FindUserTasksRequest, FoundUserTasksAnswer, _find_user_tasks
        ),
        "list-schedules": Operation("Find schedules", ListSchedulesRequest, SchedulesAnswer, _list_schedules),
        "find-uses": Operation(
            "Which workflows use a task, an event, a queue, ...", FindUsesRequest, UsesAnswer, _find_uses
        ),
    }


OPERATIONS: Final = Operations.OPERATIONS
"""What is served, by name."""
