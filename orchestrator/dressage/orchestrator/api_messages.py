"""What the operations of the micro service are asked, and what they answer.

Whoever reads or writes these in another language finds them as JSON Schemas: `dressage api schema`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from dressage.brokers.registry import Allow, Change
from dressage.client.client import START_TIMEOUT_S
from dressage.client.finding import Counted, FoundRun, FoundSchedule, FoundUserTask, RunQuery
from dressage.client.finding.query import ROWS_DEFAULT, TIMEOUT_DEFAULT_S
from dressage.client.finding.runs import LIMIT, NEWEST, TIMEOUT_S, RunStatus
from dressage.client.finding.schedules import SCHEDULES_LIMIT
from dressage.client.finding.user_tasks import UserTaskState
from dressage.orchestrator.overview import MemberView, ShardView
from dressage.protocol.alignment import Step
from dressage.protocol.commands import KeyView, RunView, RunWaits, TaskResult
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.migrations import Migration
from dressage.protocol.permits import LimiterView
from dressage.protocol.schedules import Overlap, ScheduleSpec, ScheduleView
from dressage.protocol.spec import RegisteredWorkflow
from dressage.protocol.user_tasks import Action, UserTaskView
from dressage.protocol.uses import Use, Used
from dressage.protocol.versions import LATEST, VERSIONS_SHOWN, VersionRef, VersionsView

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]


class StartRequest(msgspec.Struct, forbid_unknown_fields=True):
    workflow: str
    input: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    run_id: str | None = None
    version: VersionRef | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S
    traceparent: str = ""


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


class RescueRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of a run that has failed: where it has, or at a `line` of the workflow's file; with `skip` behind that step, as
    if it had given `value`. `variables` are set before, by their names."""

    run_id: str
    line: int | None = None
    skip: bool = False
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    variables: dict[str, msgspec.Raw] = {}
    reason: str = ""
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class ForkRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of a run that has ended: another one, `new_id`, goes on with what it has ended with, where it has failed, or at a
    `line` of the workflow's file. `variables` are set before, by their names."""

    run_id: str
    new_id: str | None = None
    line: int | None = None
    variables: dict[str, msgspec.Raw] = {}
    command_id: str | None = None
    actor: str = ""
    timeout_s: Seconds = START_TIMEOUT_S


class EditRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Of a run that has not ended: these variables, as run thread `thread` sees them."""

    run_id: str
    variables: dict[str, msgspec.Raw]
    thread: int = 0
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
    payload: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
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


class RunsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What runs have to be like; what is not said of them may be anything."""

    workflow: str = ""
    version: int | None = None
    status: tuple[RunStatus, ...] = ()
    failure: str = ""
    run_id: str = ""
    actor: str = ""
    stopped: bool | None = None
    started_from: datetime | None = None
    started_until: datetime | None = None
    ended_from: datetime | None = None
    ended_until: datetime | None = None
    where: tuple[str, ...] = ()

    def asked(self) -> RunQuery:
        return RunQuery(**{name: getattr(self, name) for name in RunQuery.__struct_fields__})


class SearchRequest(RunsRequest, forbid_unknown_fields=True):
    """Runs that fit all that is said, as `dressage search` finds them. Moments are RFC 3339 with a zone; `..._from` is
    included, `..._until` is not. `where` are conditions on searchable attributes, such as `total > 100`. `sort` is
    `started_at`, `ended_at`, `duration_ms`, `run_id`, `workflow` or an attribute, with `-` in front downwards; `after`
    is the `next` of the page before."""

    sort: str = NEWEST
    limit: int = LIMIT
    after: str = ""
    timeout_s: Seconds = TIMEOUT_S


class CountRequest(RunsRequest, forbid_unknown_fields=True):
    """How many runs fit, as of `search`: all together, or `by` status, workflow, version, failure, actor or an
    attribute, the most frequent value first."""

    by: str = ""
    limit: int = LIMIT
    timeout_s: Seconds = TIMEOUT_S


class QueryRequest(msgspec.Struct, forbid_unknown_fields=True):
    """SQL that only reads, or the name of a question; `params` go to `$1`, `$2` (a list) or `$name` (an object).
    An answer that is `fresh` reflects all that had been told when it is asked."""

    sql: str
    params: list[Any] | dict[str, Any] | None = None
    limit_rows: int = ROWS_DEFAULT
    fresh: bool = False
    timeout_s: Seconds = TIMEOUT_DEFAULT_S


class FindUserTasksRequest(msgspec.Struct, forbid_unknown_fields=True):
    """User tasks of all runs that fit all that is said, the most urgent first."""

    user: str = ""
    group: str = ""
    state: UserTaskState = "open"
    user_task: str = ""
    workflow: str = ""
    due_before: datetime | None = None
    limit: int = LIMIT
    timeout_s: Seconds = TIMEOUT_S


class ListSchedulesRequest(msgspec.Struct, forbid_unknown_fields=True):
    workflow: str = ""
    limit: int = SCHEDULES_LIMIT
    timeout_s: Seconds = TIMEOUT_S


class FindUsesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Which workflows use a task, an event, a queue, a user task, or a workflow as a child."""

    what: Used
    name: str
    all_versions: bool = False


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


class RescuedAnswer(msgspec.Struct):
    """`run_id` is the run that was rescued: the one that was asked for, or the one above it that has failed with it."""

    run_id: str
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


class UsesAnswer(msgspec.Struct):
    uses: list[Use]
    ok: bool = True


class SearchAnswer(msgspec.Struct):
    """`next` is what gives the page behind this one as `after`; empty if there is none."""

    runs: list[FoundRun]
    next: str
    ok: bool = True


class CountAnswer(msgspec.Struct):
    """Without `by` one value, null."""

    counts: list[Counted]
    ok: bool = True


class QueryAnswer(msgspec.Struct):
    """`truncated` means that there are more rows than were asked for, or than a message holds."""

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    truncated: bool
    ok: bool = True


class FoundUserTasksAnswer(msgspec.Struct):
    user_tasks: list[FoundUserTask]
    more: bool
    ok: bool = True


class SchedulesAnswer(msgspec.Struct):
    schedules: list[FoundSchedule]
    more: bool
    ok: bool = True


class Failed(msgspec.Struct):
    code: str
    message: str
    retryable: bool = False
    ok: bool = False
