"""Commands: messages that ask the orchestrator to change one run, and the answers to them.

A command travels on `dressage.<ns>.<shard>.cmd.<run>`; the subject says which run, the payload what to do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from dressage.protocol.errors import BadInput
from dressage.protocol.migrations import Migration, MigrationCheck
from dressage.protocol.names import ACTOR_CHARS_MAX
from dressage.protocol.permits import LimiterView, TaskLimit
from dressage.protocol.schedules import Overlap, ScheduleSpec, ScheduleView
from dressage.protocol.user_tasks import Action, UserTaskView

REPLY_HEADER = "Dressage-Reply"
"""Header of a command that names the subject on which its sender awaits `Answer`."""

MSG_ID_HEADER = "Nats-Msg-Id"

Json = msgspec.Raw | msgspec.UnsetType
"""JSON that is passed on as it is, or UNSET. (With None as the absent value msgspec takes no JSON at all.)"""

Short = Annotated[str, msgspec.Meta(max_length=ACTOR_CHARS_MAX)]
"""An id, or who did something: it is repeated in the state and in every event."""

FailureKind = Literal[
    "failure", "task-error", "expression-error", "type-error", "timeout", "group", "cancelled", "limit"
]


class FailureInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A business failure (`kind` is "failure", `name` is the author's) or a technical error (every other kind).

    `family` is by what it can be caught beside its name: the wire names of a business failure's ancestors, the Python
    classes of a technical error, the nearest first. A "group" is what several branches failed with, its `causes`.
    """

    name: str
    message: str = ""
    kind: FailureKind = "failure"
    details: Json = msgspec.UNSET
    family: tuple[str, ...] = ()
    causes: tuple[FailureInfo, ...] = ()


class WorkerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who ran an attempt and how long it took there, by the worker's monotonic clock; `build` is what its application
    calls its version, `log` what the handler has logged with the attempt."""

    worker: Short
    duration_ms: float
    build: Short = ""
    log: str = ""


class Parent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The run that has started another one, the wait of it that is told of the end, and how many are above that.

    One that does not wait for the end is told when a `detached` run begins, and of its end if it is `told`.
    """

    run_id: str
    wait_id: Short
    depth: int = 1
    detached: bool = False
    told: bool = True


class Fork(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a run begins that is made of another one, `run_id`: at `node`, with these variables, in stored form."""

    run_id: str
    node: int
    variables: dict[str, msgspec.Raw]


class StartRun(msgspec.Struct, tag="start-run", tag_field="type", frozen=True, omit_defaults=True):
    """Starts a run of exactly this version. The same run id again is the same run.

    `input` is a JSON object of parameters by name. `command_id` tells a repeated send of one start from another
    start with the same id. A child run is told its `parent`, and one that a `schedule` starts tells that how it ended.
    `keep_ms` is for how long it is kept when it has ended, by what holds of its workflow now; None: for ever. One with
    a `fork` is told by another run how it begins. `traceparent` is the W3C trace context of who starts it.
    """

    workflow: str
    version: int
    input: msgspec.Raw
    command_id: Short
    actor: Short = ""
    parent: Parent | None = None
    schedule: Short = ""
    keep_ms: int | None = None
    fork: Fork | None = None
    traceparent: str = ""


class TaskResult(msgspec.Struct, tag="task-result", tag_field="type", frozen=True, omit_defaults=True):
    """What became of one attempt: `output` on success, else `failure` (business) or `error` (technical, retried)."""

    task_id: Short
    by: WorkerInfo
    output: Json = msgspec.UNSET
    failure: FailureInfo | None = None
    error: FailureInfo | None = None
    actor: Short = ""


class AttemptProgress(
    msgspec.Struct, tag="attempt-progress", tag_field="type", frozen=True, omit_defaults=True
):
    """A worker has an attempt, and has come so far with it: `progress` is any JSON of the handler's, kept for other
    executions of the call; without it what was kept stays.

    One that `begins` has the attempt from now on, whoever had it before: what that says is refused.
    """

    task_id: Short
    worker: Short
    progress: Json = msgspec.UNSET
    begins: bool = False
    actor: Short = ""


class CancelRun(msgspec.Struct, tag="cancel-run", tag_field="type", frozen=True, omit_defaults=True):
    """Cancels a run, once: `CancelledError` is raised where it waits, its `finally` clauses and sagas tidy up, and then
    it ends. A run that is being cancelled, or is cancelled already, stays so, and the command is accepted.

    `at_once` ends it where it stands, also while it tidies up. A worker that has an attempt of it is told to stop; a
    result of it is refused. `reason` is for people, at most `REASON_BYTES_MAX` bytes of UTF-8. `command_id` is the
    same in each repeat of one cancel. One that names a `parent` is for a child of that wait, and no other run, as long
    as that has not rescued it more than `times` times; one that names a `schedule` for a run that this has started.
    """

    command_id: Short
    reason: str = ""
    actor: Short = ""
    at_once: bool = False
    parent: Parent | None = None
    schedule: Short = ""
    times: int = 0


class CancelThread(msgspec.Struct, tag="cancel-thread", tag_field="type", frozen=True, omit_defaults=True):
    """Cancels a branch, with all that it has started, and no more of the run: `CancelledError` is raised where it
    waits. What waits for its result is told that it has none. One that is being cancelled stays so, and the command is
    accepted. `reason` and `command_id` are as of a `CancelRun`.

    (A command of its own: an engine that does not know it refuses it, and cancels nothing else.)
    """

    command_id: Short
    thread: int
    reason: str = ""
    actor: Short = ""


def cancel_of(
    command_id: str, reason: str, actor: str, at_once: bool, thread: int | None
) -> CancelRun | CancelThread:
    """The command that cancels a run, or a thread of it. Raises `BadInput` for a thread that is to end at once."""
    if thread is None:
        return CancelRun(command_id, reason, actor, at_once)
    if at_once:
        raise BadInput(
            f"run thread {thread} cannot be ended at once, as the run that goes on would have the half of it: cancel "
            "it without at_once, and it tidies up; or end the run at once, and name no thread",
            code="CANCEL_INVALID",
        )
    return CancelThread(command_id, thread, reason, actor)


StoppedBy = Literal["somebody", "parent"]
"""Who has stopped a run: somebody who may, or, of a child run, its parent, which was stopped itself."""


class StopRun(msgspec.Struct, tag="stop-run", tag_field="type", frozen=True, omit_defaults=True):
    """Stops a run, or one run thread of it with all that this has started: until it is resumed nothing of it goes on.

    What is on its way is not taken back: attempts are executed, timers fire, events come, people do their work. What
    they come to is kept, and counts when it goes on. One that is stopped stays so, and the command is accepted.
    `reason` is for people, at most `REASON_BYTES_MAX` bytes of UTF-8. `command_id` is the same in each repeat of one
    stop. One that names a `parent` is for a child of that wait, which was stopped itself.
    """

    command_id: Short
    reason: str = ""
    actor: Short = ""
    thread: int = 0
    parent: Parent | None = None


class ResumeRun(msgspec.Struct, tag="resume-run", tag_field="type", frozen=True, omit_defaults=True):
    """Lets a run, or one run thread of it, go on that was stopped. One that was not goes on anyway, and the command is
    accepted.

    Somebody's resume undoes somebody's stop, and that of a `parent` undoes the parent's: who was stopped by both waits
    for both. `command_id` is the same in each repeat of one resume.
    """

    command_id: Short
    actor: Short = ""
    thread: int = 0
    parent: Parent | None = None


class SettleTask(msgspec.Struct, tag="settle-task", tag_field="type", frozen=True, omit_defaults=True):
    """Somebody says what becomes of a call whose last attempt, `task_id`, has failed, and which waits for that: it is
    retried, or fails. `command_id` is the same in each repeat."""

    task_id: Short
    do: Literal["retry", "fail"]
    command_id: Short
    reason: str = ""
    actor: Short = ""


class MigrateRun(msgspec.Struct, tag="migrate-run", tag_field="type", frozen=True, omit_defaults=True):
    """Lets a run go on in another version of its workflow, where `migration` says, or refuses that and says why. A run
    that has moved there is left as it is. `command_id` is the same in each repeat of one migration."""

    migration: Migration
    command_id: Short
    actor: Short = ""


class RescueRun(msgspec.Struct, tag="rescue-run", tag_field="type", frozen=True, omit_defaults=True):
    """Lets a run go on that has failed, or that a fault of the engine has ended: at the step where what it failed with
    was raised, or at `node`; with `skip` behind that, as if it had given `value`. `variables` are set before, by their
    names, each in JSON. One that goes on already stays so, and the command is accepted.

    Where a child run was what failed, that is rescued, and waited for once more: it is told so by its `parent`, which
    has done so `times` times. A child
    whose parent has taken its failure is not rescued by itself. `command_id` is the same in each repeat of one rescue.
    """

    command_id: Short
    reason: str = ""
    actor: Short = ""
    node: int | None = None
    skip: bool = False
    value: Json = msgspec.UNSET
    variables: dict[str, msgspec.Raw] = {}
    parent: Parent | None = None
    times: int = 0


class ForkRun(msgspec.Struct, tag="fork-run", tag_field="type", frozen=True, omit_defaults=True):
    """Starts run `run_id` as another one of the same workflow, which goes on with the variables that a run has ended
    with: at `node`, or where that has failed. `variables` are others, by their names, each in JSON. The same
    `command_id` again is the same run. `keep_ms` is as of a `StartRun`."""

    run_id: str
    command_id: Short
    node: int | None = None
    variables: dict[str, msgspec.Raw] = {}
    actor: Short = ""
    keep_ms: int | None = None


class EditVariables(msgspec.Struct, tag="edit-variables", tag_field="type", frozen=True, omit_defaults=True):
    """Sets variables of a run that has not ended, by their names, each in JSON, as they are seen by run thread
    `thread`. What waits for a condition looks at them. `command_id` is the same in each repeat of one edit."""

    command_id: Short
    variables: dict[str, msgspec.Raw]
    thread: int = 0
    reason: str = ""
    actor: Short = ""


class GoOn(msgspec.Struct, tag="go-on", tag_field="type", frozen=True, omit_defaults=True):
    """A run that was resumed tells itself that more of it is to go on."""


class DeleteRun(msgspec.Struct, tag="delete-run", tag_field="type", frozen=True, omit_defaults=True):
    """Deletes a run that has ended, with the child runs that it has waited for, or that ended with it: its state, and
    what it has in the object store; with `events` also its output events in the stream.

    One that runs is refused, and so is one that is held. `command_id` is the same in each repeat of one deletion. One
    that names a `parent` is for a child of that wait: if it cannot be deleted now, it is as soon as that is possible.
    `orphan` says of a child that its parent is not there, and `policy` that the time is over for which it was kept.
    """

    command_id: Short
    reason: str = ""
    actor: Short = ""
    events: bool = False
    parent: Parent | None = None
    orphan: bool = False
    policy: bool = False


class HoldRun(msgspec.Struct, tag="hold-run", tag_field="type", frozen=True, omit_defaults=True):
    """Keeps a run, which may have ended or not, from being deleted, until it is released. One that is held stays so,
    and the command is accepted. `command_id` is the same in each repeat."""

    command_id: Short
    reason: str = ""
    actor: Short = ""


class ReleaseRun(msgspec.Struct, tag="release-run", tag_field="type", frozen=True, omit_defaults=True):
    """Holds a run no longer: what is overdue of its deletion happens. `command_id` is the same in each repeat."""

    command_id: Short
    actor: Short = ""


class ReviewRun(msgspec.Struct, tag="review-run", tag_field="type", frozen=True, omit_defaults=True):
    """The time is over for which a run was to be kept, as far as that was known when it was started: whether it is now
    is looked up. `timer_id` is that of the timer that has sent it."""

    timer_id: Short


class ForgetRun(msgspec.Struct, tag="forget-run", tag_field="type", frozen=True, omit_defaults=True):
    """Nothing needs to be known any more of a run that the command with sequence `deletion` has deleted."""

    deletion: int


class PostEvent(msgspec.Struct, tag="post-event", tag_field="type", frozen=True, omit_defaults=True):
    """Posts an external event, to a run or to a correlation key. The same `event_id` again is the same event, however
    late it comes.

    `payload` is JSON of the event's type. The run's earliest wait for the event takes it, now or later; of a key, all
    that wait take it, or else the first that comes. `version` is that of the event's definition by which the payload is
    checked where no run can tell: at a key, and for a run that does not exist yet.
    """

    event: str
    event_id: Short
    payload: msgspec.Raw = msgspec.Raw(b"null")
    actor: Short = ""
    version: int = 0


class UserTaskAction(
    msgspec.Struct, tag="user-task-action", tag_field="type", frozen=True, omit_defaults=True
):
    """Somebody does something with a user task. The same `action_id` again is the same action, however late it comes,
    as long as there is the run."""

    user_task_id: Short
    action_id: Short
    action: Action
    actor: Short = ""


class SetSchedule(msgspec.Struct, tag="set-schedule", tag_field="type", frozen=True, omit_defaults=True):
    """Makes a schedule, or changes it. `version` is that of the workflow by which its input is checked.

    One that is `new` is refused where there is another one of that name. The same `command_id` again is the same.
    """

    spec: ScheduleSpec
    version: int
    command_id: Short
    new: bool = False
    actor: Short = ""


class PauseSchedule(msgspec.Struct, tag="pause-schedule", tag_field="type", frozen=True, omit_defaults=True):
    """Lets a schedule fire no more, or again from now on: what was due meanwhile is not made up for."""

    command_id: Short
    paused: bool = True
    reason: str = ""
    actor: Short = ""


class DeleteSchedule(
    msgspec.Struct, tag="delete-schedule", tag_field="type", frozen=True, omit_defaults=True
):
    """Takes a schedule away. Runs that it has started go on."""

    command_id: Short
    actor: Short = ""


class FireSchedule(msgspec.Struct, tag="fire-schedule", tag_field="type", frozen=True, omit_defaults=True):
    """Fires a schedule now, also one that is paused; or makes up for all moments from `first_ms` to `last_ms`. Without
    an `overlap` the schedule's holds."""

    command_id: Short
    first_ms: int = 0
    last_ms: int = 0
    overlap: Overlap | None = None
    actor: Short = ""


class ScheduledEnded(
    msgspec.Struct, tag="scheduled-ended", tag_field="type", frozen=True, omit_defaults=True
):
    """A run that a schedule has started by `command_id` tells it how it ended; or that it was refused, with a
    `code`."""

    command_id: Short
    status: Literal["completed", "failed", "cancelled", "engine-fault", "refused"]
    code: str = ""


class KeepMoment(msgspec.Struct, tag="keep-moment", tag_field="type", frozen=True, omit_defaults=True):
    """A schedule asks its timetable for a `TimerFired` with this id at `due_ms`, in place of another one then."""

    schedule: str
    timer_id: Short
    due_ms: int


class DropMoment(msgspec.Struct, tag="drop-moment", tag_field="type", frozen=True, omit_defaults=True):
    """A schedule takes back what it has asked its timetable for."""

    schedule: str
    timer_id: Short
    due_ms: int


class TimetableFull(msgspec.Struct, tag="timetable-full", tag_field="type", frozen=True, omit_defaults=True):
    """A timetable has no room: the schedule sets a timer of its own."""

    timer_id: Short


class KeyedEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An external event of a correlation key, the `number`th that was posted there, with its payload as it was posted.

    It is kept until `until_ms`, or without an end; one that is `lasting` also for those that come later.
    """

    event: str
    event_id: Short
    number: int
    posted_ms: int
    payload: msgspec.Raw
    until_ms: int = 0
    lasting: bool = False
    actor: Short = ""


class AwaitEvent(msgspec.Struct, tag="await-event", tag_field="type", frozen=True, omit_defaults=True):
    """A run tells a correlation key that it waits there. Of lasting events it has had those up to `seen`."""

    run_id: str
    wait_id: Short
    seen: int = 0


class WithdrawWait(msgspec.Struct, tag="withdraw-wait", tag_field="type", frozen=True, omit_defaults=True):
    """A run tells a correlation key that it waits no more. A wait whose time is over `asks` whether nothing came."""

    run_id: str
    wait_id: Short
    asks: bool = False


class DeliverEvent(msgspec.Struct, tag="deliver-event", tag_field="type", frozen=True, omit_defaults=True):
    """A correlation key gives a run what it waits for there."""

    wait_id: Short
    key: str
    given: KeyedEvent


class ReturnEvent(msgspec.Struct, tag="return-event", tag_field="type", frozen=True, omit_defaults=True):
    """A run gives back to a correlation key what it has no wait for any more."""

    run_id: str
    wait_id: Short
    given: KeyedEvent


class RefuseWait(msgspec.Struct, tag="refuse-wait", tag_field="type", frozen=True, omit_defaults=True):
    """A correlation key tells a run that it cannot wait there, as too many do."""

    wait_id: Short
    message: str


class EndWait(msgspec.Struct, tag="end-wait", tag_field="type", frozen=True, omit_defaults=True):
    """A correlation key tells a run, whose time is over, that nothing had come to this wait before."""

    wait_id: Short


class KeepMarks(msgspec.Struct, tag="keep-marks", tag_field="type", frozen=True, omit_defaults=True):
    """A correlation key, or a part of its marks, has no room for these marks of events that it has had."""

    marks: tuple[Short, ...]


class MarksKept(msgspec.Struct, tag="marks-kept", tag_field="type", frozen=True, omit_defaults=True):
    """These marks are kept now, and can be forgotten where they came from."""

    marks: tuple[Short, ...]


class AskMark(msgspec.Struct, tag="ask-mark", tag_field="type", frozen=True, omit_defaults=True):
    """A correlation key asks whether it has had an event before. `number` is that of the question."""

    number: int
    mark: Short


class TellMark(msgspec.Struct, tag="tell-mark", tag_field="type", frozen=True, omit_defaults=True):
    """The answer to an `AskMark`."""

    number: int
    known: bool = False


class ChildEnded(msgspec.Struct, tag="child-ended", tag_field="type", frozen=True, omit_defaults=True):
    """A child run tells its parent how it ended: with an output, or with a failure, also if it is `absent`: it was not
    started, or cannot be rescued. `times` is the last that its parent has said in a rescue."""

    wait_id: Short
    output: Json = msgspec.UNSET
    failure: FailureInfo | None = None
    absent: bool = False
    times: int = 0


class ChildBegun(msgspec.Struct, tag="child-begun", tag_field="type", frozen=True, omit_defaults=True):
    """A detached child run tells its parent that there it is."""

    wait_id: Short


class AskPermit(msgspec.Struct, tag="ask-permit", tag_field="type", frozen=True, omit_defaults=True):
    """A run asks a limiter to let it dispatch an attempt. The same attempt again is the same.

    `limit` is that of the version of its workflow, which was registered at `since`: the limiter has that of the latest
    one that has asked. Those of a higher `priority` come first.
    """

    run_id: str
    task_id: Short
    limit: TaskLimit
    since: Short = ""
    priority: int = 0


class GivePermit(msgspec.Struct, tag="give-permit", tag_field="type", frozen=True, omit_defaults=True):
    """The limiter of `task`, or of a `key` of it, lets a run dispatch an attempt."""

    task_id: Short
    task: str
    key: str = ""


class DeferPermit(msgspec.Struct, tag="defer-permit", tag_field="type", frozen=True, omit_defaults=True):
    """A limiter for which too many wait does not know this attempt any more: its run asks again, `again_ms` later."""

    task_id: Short
    again_ms: int


class ReturnPermit(msgspec.Struct, tag="return-permit", tag_field="type", frozen=True, omit_defaults=True):
    """A run needs no permit for an attempt any more, whether it has one or has asked for it."""

    run_id: str
    task_id: Short


class TimerFired(msgspec.Struct, tag="timer-fired", tag_field="type", frozen=True, omit_defaults=True):
    """The broker's scheduler turned a timer into this command."""

    timer_id: Short
    actor: Short = "timer"


REASON_BYTES_MAX = 4096
"""Bytes of what a run, or a user task, is cancelled for, or a run stopped."""

PROGRESS_BYTES_MAX = 16 * 1024
"""Bytes of what one call of a task tells of its progress."""

ToKey = AwaitEvent | WithdrawWait | ReturnEvent
"""What runs tell a correlation key."""

FromKey = DeliverEvent | RefuseWait | EndWait
"""What a correlation key tells a run."""

OfMarks = KeepMarks | MarksKept | AskMark | TellMark
"""What a correlation key and the parts of its marks tell each other."""

ToLimiter = AskPermit | ReturnPermit
"""What runs tell a limiter."""

FromLimiter = GivePermit | DeferPermit
"""What a limiter tells a run."""

OfRun = (
    StartRun
    | TaskResult
    | AttemptProgress
    | CancelRun
    | CancelThread
    | StopRun
    | ResumeRun
    | SettleTask
    | MigrateRun
    | RescueRun
    | EditVariables
    | ForkRun
    | GoOn
    | DeleteRun
    | HoldRun
    | ReleaseRun
    | ReviewRun
    | ForgetRun
    | PostEvent
    | UserTaskAction
    | TimerFired
    | ChildBegun
    | ChildEnded
)
"""What changes a run, from wherever it comes."""

OfSchedule = SetSchedule | PauseSchedule | DeleteSchedule | FireSchedule | ScheduledEnded | TimetableFull
"""What changes a schedule, beside its timer."""

OfTimetable = KeepMoment | DropMoment
"""What schedules ask of a timetable."""

Command = OfRun | ToKey | FromKey | OfMarks | OfSchedule | OfTimetable | ToLimiter | FromLimiter

RefusalCode = Literal[
    "COMMAND_MALFORMED",
    "WORKFLOW_UNKNOWN",
    "INPUT_INVALID",
    "RUN_ID_CONFLICT",
    "RUN_UNKNOWN",
    "RUN_FINISHED",
    "RUN_OPEN",
    "RUN_HELD",
    "RUN_OWNED",
    "RUN_DELETED",
    "RUN_ELSEWHERE",
    "REASON_TOO_LONG",
    "THREAD_UNKNOWN",
    "CANCEL_INVALID",
    "TASK_UNKNOWN",
    "MIGRATION_REFUSED",
    "RESCUE_REFUSED",
    "EDIT_REFUSED",
    "OPEN_RUNS",
    "RESULT_STALE",
    "RESULT_MALFORMED",
    "PROGRESS_INVALID",
    "ATTEMPT_TAKEN",
    "EVENT_UNKNOWN",
    "EVENT_INVALID",
    "EVENTS_FULL",
    "SCHEDULE_UNKNOWN",
    "SCHEDULE_EXISTS",
    "SCHEDULE_INVALID",
    "USER_TASK_UNKNOWN",
    "USER_TASK_TAKEN",
    "USER_TASK_INVALID",
    "USER_TASK_FULL",
    "ENGINE_FAULT",
    "SPEC_INVALID",
    "NAME_INVALID",
    "RUN_ID_INVALID",
    "SHARD_WRONG",
    "PAYLOAD_TOO_LARGE",
    "OPERATION_UNKNOWN",
    "REQUEST_MALFORMED",
    "NOT_FOUND",
]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer to a command, sent once its turn is committed. `existing` is true if the run was there before, or the
    event; `early` if an event came before its run.

    `seq` is in the stream of `shard`, where the run lives. `generation` is that of the shard map: a sender that knows
    an older one reads the namespace's definition again.
    """

    accepted: bool
    seq: int = 0
    code: str = ""
    message: str = ""
    existing: bool = False
    shard: int = 0
    generation: int = 1
    early: bool = False


class TaskMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One attempt, as a worker receives it on `dressage.<ns>.<shard>.task.<queue>`.

    `args` is a JSON object of parameters by name. The result goes, as a `TaskResult` with the same `task_id`,
    to the subject `reply`. `call_id` is the same for all attempts of one call, and for no other call of the run:
    with `run_id` it makes the idempotency key for what the handler does elsewhere.

    Its handler may take `timeout_s` and be silent for `heartbeat_s`; 0: as long as it wants. A worker that begins an
    attempt which `tells_start` sends an `AttemptProgress` first. `progress` is what was kept last of how far attempts
    of the call before this one had come. `traceparent` is the run's W3C trace
    context, if it is in a trace.
    """

    task: str
    task_id: str
    call_id: str
    run_id: str
    workflow: str
    version: int
    attempt: int
    args: msgspec.Raw
    reply: str
    scheduled_at: str = ""
    timeout_s: float = 0.0
    heartbeat_s: float = 0.0
    tells_start: bool = False
    progress: Json = msgspec.UNSET
    traceparent: str = ""


class AttemptStopped(msgspec.Struct, frozen=True, omit_defaults=True):
    """Told once on `dressage.<ns>.stop.<queue>` to whoever listens: the run does not wait for this attempt any more."""

    run_id: str
    task_id: str


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question to a shard's owner on `dressage.<ns>.ask.<shard>`.

    `get` answers with the state now; `wait` holds the answer until the run ends, at most `hold_s` seconds, and
    then says how it stands. `not_before` is a command's stream sequence that the answer must reflect. `revealed` asks
    for the output with its masked parts in clear, for the caller who awaits the result. `attempt` asks for the attempt
    `task_id` of the run, `user-tasks` for those of its user tasks that are open, or the one with `task_id`,
    `schedule` for the schedule of this name, which stands in `run_id`, and `limiter` for that of the task of this name,
    of the key `key` if it has one. `migration` asks whether the run could move as the `migration` says, `waits` what
    each of its run threads waits for.
    """

    op: Literal["get", "wait", "key", "attempt", "user-tasks", "schedule", "limiter", "migration", "waits"]
    run_id: str
    not_before: int = 0
    hold_s: float = 0.0
    revealed: bool = False
    event: str = ""
    task_id: str = ""
    migration: Migration | None = None
    key: str = ""


RunStatus = Literal["running", "completed", "failed", "cancelled", "engine-fault"]


class StopView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who has stopped a run `since` when, or run thread `thread` of it."""

    by: StoppedBy
    since: str
    thread: int = 0
    reason: str = ""
    actor: str = ""


class HoldView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Since when a run is held, so that it is not deleted, and by whom."""

    since: str
    reason: str = ""
    actor: str = ""


class DeadTaskView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A call whose last attempt, `task_id`, has failed with `failure`, and which waits `since` then for somebody who
    retries it, or lets it fail."""

    task: str
    task_id: str
    attempt: int
    since: str
    failure: FailureInfo
    thread: int = 0


class ForkView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of which run another one was made, by which command, and at which node it began."""

    run_id: str
    node: int
    command_id: str


class RunView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run as readers see it. `variables`, `search`, `input` and `output` are in their wire form.

    `reason` is what a cancelled run was cancelled for, or one that is `cancelling`: it tidies up before it ends.
    `parent` is the run that has started it, and is told of its end if it is `awaited`. Nothing goes on of what
    `stops` tell, and `dead_tasks` wait for somebody. While it is `held` nobody deletes it; if it is to be deleted
    at a time, that is `kept_until`, as far as is known. `born` is the sequence of the command that began it: where
    an id was deleted before, it tells one run from another. One that has failed is rescued at `failed_node`, if
    that is known, with child run `failed_child` if it was that which has failed there. One that was `forked` begins
    as another one has ended.
    """

    run_id: str
    workflow: str
    version: int
    status: RunStatus
    seq: int
    events: int
    started_at: str
    updated_at: str
    input: Any = None
    variables: dict[str, Any] = {}
    search: dict[str, Any] = {}
    output: Json = msgspec.UNSET
    failure: FailureInfo | None = None
    reason: str = ""
    cancelling: bool = False
    waiting_for: str = ""
    ended_at: str = ""
    actor: str = ""
    shard: int = 0
    parent: str = ""
    stops: tuple[StopView, ...] = ()
    dead_tasks: tuple[DeadTaskView, ...] = ()
    held: HoldView | None = None
    kept_until: str = ""
    born: int = 0
    failed_node: int | None = None
    failed_child: str = ""
    awaited: bool = False
    forked: ForkView | None = None


class KeyView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A correlation key as readers see it: the runs that wait there, and the ids of the events that nobody has claimed.

    `posted` is how many events it has had.
    """

    event: str
    key: str
    seq: int
    waiting: tuple[str, ...] = ()
    unclaimed: tuple[str, ...] = ()
    posted: int = 0
    shard: int = 0


class AttemptView(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attempt as its worker sees it: whether its run still waits for it, which worker has said last that it has it,
    and the last progress that was told of."""

    awaited: bool
    progress: Json = msgspec.UNSET
    worker: str = ""


WaitKind = Literal[
    "task",
    "dead-task",
    "limit",
    "sleep",
    "condition",
    "event",
    "user-task",
    "child",
    "child-begin",
    "held",
    "turn",
]


class WaitView(msgspec.Struct, frozen=True, omit_defaults=True):
    """What run thread `thread` waits for, at node `node`, which stands in `line` of its file.

    `what` is the name of the task, the event, the user task or the workflow, or the text of the condition. `since` is
    when the wait began, and `until` when it ends by itself; both are empty where that is not known, or never. `id` is
    that of the attempt, the user task or the child run, `key` a correlation key or that of a limit, `who` has the user
    task, `worker` has said that it has the attempt. A thread that is `interrupted` goes on when the handler has ended;
    one that is `held` has what it waited for and may not go on, `turn` is a handler whose turn it is not.
    """

    kind: WaitKind
    node: int
    what: str = ""
    since: str = ""
    until: str = ""
    thread: int = 0
    line: int = 0
    id: str = ""
    key: str = ""
    attempt: int = 0
    queue: str = ""
    worker: str = ""
    who: str = ""
    interrupted: bool = False


class QueueDemand(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asks for the tasks of a queue, on one shard: `asking` requests of workers are open, `waiting` attempts wait
    to be asked for, and `under_way` were handed out and have no result yet."""

    queue: str
    shard: int
    asking: int = 0
    waiting: int = 0
    under_way: int = 0


class RunWaits(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a run stands, without its variables, and what each of its run threads waits for; `more` of them are not told.

    `queues` are those of the attempts among them.
    """

    run: RunView
    waits: tuple[WaitView, ...] = ()
    more: int = 0
    queues: tuple[QueueDemand, ...] = ()


class AskAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The owner's reply to an `Ask`.

    `run` is absent with `code` NOT_FOUND, with RETRY when it cannot tell yet, and with ELSEWHERE when `shard` is to be
    asked instead, with this `not_before`.
    """

    run: RunView | None = None
    code: str = ""
    message: str = ""
    shard: int = 0
    not_before: int = 0
    generation: int = 1
    key: KeyView | None = None
    attempt: AttemptView | None = None
    user_tasks: tuple[UserTaskView, ...] | None = None
    forms: dict[str, Any] = {}
    schedule: ScheduleView | None = None
    migration: MigrationCheck | None = None
    limiter: LimiterView | None = None
    waits: tuple[WaitView, ...] = ()
    more: int = 0


_command_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)
encoder = msgspec.json.Encoder()


def decode_command(payload: bytes) -> Command:
    """The command in a payload. Raises `msgspec.MsgspecError` (or `UnicodeDecodeError`) for anything else."""
    return _command_decoder.decode(payload)
