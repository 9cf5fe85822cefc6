"""Output events: immutable records of what happened in a run, as CloudEvents 1.0 in structured JSON mode.

All kinds are enumerated here. The events of a run are numbered from 0 without a gap by `index`; an event's
`id` is `<run id>/<index>`, so it is the same however often it is computed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dressage.protocol.commands import FailureInfo, RunStatus, StoppedBy
from dressage.protocol.schedules import FireOutcome, ScheduleSpec

RUN_HEADER = "Dressage-Run"
"""Header of every output event: the encoded run id (`names.run_token`)."""

SUBJECT_HEADER = "Dressage-Subject"
"""Header of a domain event that waits in its shard's stream, or is a dead letter: the user's subject."""

ID_HEADER = "Dressage-Msg-Id"
"""Header of the same: the message id with which it is published."""

CONTENT_TYPE = "application/cloudevents+json"
TYPE_PREFIX = "dressage."


class RunStarted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-started: with this `input`, or as a fork of run `forked_from`, which began at `node`."""

    input: msgspec.Raw
    forked_from: str = ""
    node: int = 0


class VariableChanged(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind variable-changed: `value` is the wire form; `searchable` marks an attribute of the run's view.

    `paths` are what can be searched for inside of the value, as `customer.address.city` of attribute `customer`.
    `thread` is the branch whose own variable it is; 0 is the run itself.
    """

    name: str
    value: msgspec.Raw
    searchable: bool = False
    paths: tuple[str, ...] = ()
    thread: int = 0


class PermitAwaited(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind permit-awaited: an attempt of a task that has a limit waits until the task's limiter lets it be scheduled.

    The limiter is that of the `key`, if there is one; it is asked behind a backoff of `delay_s`.
    """

    task: str
    task_id: str
    node: int
    attempt: int
    key: str = ""
    priority: int = 0
    delay_s: float = 0.0


class TaskScheduled(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind task-scheduled: an attempt was handed to the queue; `delay_s` is the backoff before it."""

    task: str
    task_id: str
    node: int
    attempt: int
    queue: str
    delay_s: float = 0.0


class TaskStarted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind task-started: a worker has told that it has the attempt, `waited_ms` after it was scheduled.

    Workers tell it of attempts that have a start timeout, and of those whose progress they tell.
    """

    task: str
    task_id: str
    node: int
    attempt: int
    worker: str
    waited_ms: float


class TaskCompleted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind task-completed: `waited_ms` from scheduled to result, `duration_ms` inside the handler.

    `build` is what the worker's application calls its version, `log` what the handler has logged with the attempt.
    """

    task: str
    task_id: str
    node: int
    attempt: int
    worker: str
    duration_ms: float
    waited_ms: float
    output: msgspec.Raw
    build: str = ""
    log: str = ""


class TaskFailed(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind task-failed: the attempt ended in a business failure or a technical error.

    `retry` says whether another attempt follows. Where the engine has ended the attempt, as it was not done in time,
    `worker` is the one that had told of it, if one had.
    """

    task: str
    task_id: str
    node: int
    attempt: int
    worker: str
    duration_ms: float
    waited_ms: float
    failure: FailureInfo
    retry: bool = False
    build: str = ""
    log: str = ""


class FailureCaught(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind failure-caught: a handler of the workflow took the failure."""

    node: int
    failure: FailureInfo


class BranchStarted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind branch-started: run thread `parent` started run thread `thread`, at place `branch` of its gather."""

    node: int
    branch: int
    thread: int
    parent: int = 0


class BranchEnded(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind branch-ended: with the failure that nothing in the branch took, or else with a result.

    `cancelled` says that it had lost a race, or that somebody cancelled it, and that it ended as it was told to.
    """

    node: int
    branch: int
    thread: int
    failure: FailureInfo | None = None
    cancelled: bool = False


class BranchCancelling(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind branch-cancelling: somebody (the event's actor) cancelled the branch, and no more of the run than this and
    what it has started; `reason` is what they said. It tidies up from here on."""

    node: int
    branch: int
    thread: int
    reason: str = ""


class ChildStarted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind child-started: a run of another workflow was asked for."""

    node: int
    workflow: str
    version: int
    run_id: str
    wait_id: str


class ChildBegun(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind child-begun: a child run that is not waited for has begun, and the run goes on."""

    node: int
    workflow: str
    run_id: str
    wait_id: str
    waited_ms: float


class ChildCompleted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind child-completed"""

    node: int
    workflow: str
    run_id: str
    wait_id: str
    waited_ms: float
    output: msgspec.Raw


class ChildRescued(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind child-rescued: a child run that had failed is waited for once more, as its parent was rescued."""

    node: int
    workflow: str
    run_id: str
    wait_id: str


class ChildFailed(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind child-failed: it failed, was cancelled, or was not started."""

    node: int
    workflow: str
    run_id: str
    wait_id: str
    waited_ms: float
    failure: FailureInfo


class SleepStarted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind sleep-started: until a moment that has passed nothing sleeps, and nothing is told."""

    node: int
    timer_id: str
    until: str


class SleepMoved(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind sleep-moved: it sleeps until another moment now, and timer `timer_id` took the place of `replaced`.

    A moment that has passed takes no timer: the sleep ends.
    """

    node: int
    replaced: str
    until: str
    timer_id: str = ""


class SleepEnded(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind sleep-ended"""

    node: int
    timer_id: str


class ConditionAwaited(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind condition-awaited: it does not hold yet. With a timeout the wait ends at `until`, by timer `timer_id`."""

    node: int
    condition: str
    until: str = ""
    timer_id: str = ""


class ConditionMet(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind condition-met: it holds, `waited_ms` after the wait began."""

    node: int
    condition: str
    waited_ms: float = 0.0


class ConditionTimedOut(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind condition-timed-out: it did not hold in time."""

    node: int
    condition: str
    timer_id: str


class EventPosted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind event-posted: an external event came to the run, from the event's actor; by way of a correlation `key`, if
    there is one."""

    event: str
    event_id: str
    payload: msgspec.Raw
    key: str = ""


class TaskDead(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind task-dead: its last attempt has failed, and it waits for somebody who retries it, or lets it fail."""

    task: str
    task_id: str
    node: int
    attempt: int
    failure: FailureInfo


class TaskSettled(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind task-settled: somebody retries a dead task, or lets it fail; or nobody needs to, as it is cancelled, or its
    time is over."""

    task: str
    task_id: str
    node: int
    do: Literal["retry", "fail", "cancel", "timeout"]
    reason: str = ""


class EventAwaited(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind event-awaited: there is no unclaimed event, or, with a `key`, whether there is one is asked there.

    With a timeout the wait ends at `until`, by timer `timer_id`. `thread` is the branch that waits; 0 is the run
    itself.
    """

    node: int
    event: str
    until: str = ""
    timer_id: str = ""
    key: str = ""
    thread: int = 0


class EventReceived(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind event-received: the wait at `node` claimed this event, `waited_ms` after it began."""

    node: int
    event: str
    event_id: str
    waited_ms: float = 0.0


class EventTimedOut(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind event-timed-out: none came in time."""

    node: int
    event: str
    timer_id: str


class EventExpired(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind event-expired: nothing had claimed it when its time was over; told when the run looks at it again."""

    event: str
    event_id: str


class EventReturned(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind event-returned: what it was to interrupt was cancelled before it had its turn, and so nothing has claimed
    it; one that came by a correlation `key` is that key's again."""

    node: int
    event: str
    event_id: str
    key: str = ""


class EventRefused(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind event-refused: it came before the run existed, and is none that its workflow takes."""

    event: str
    event_id: str
    reason: str


class UserTaskOpened(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind user-task-opened: work for people, to be done by `due`; what is not done by `until` is over."""

    node: int
    user_task: str
    user_task_id: str
    user: str = ""
    group: str = ""
    notes: str = ""
    due: str = ""
    until: str = ""


class UserTaskAssigned(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind user-task-assigned: it is for others now, as the event's actor said, or as it was with the same people for
    too long (`how`)."""

    node: int
    user_task: str
    user_task_id: str
    epoch: int
    how: Literal["claimed", "assigned", "released", "escalated"]
    user: str = ""
    group: str = ""


class UserTaskCommented(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind user-task-commented: a comment was added, has another text, or was deleted."""

    node: int
    user_task: str
    user_task_id: str
    number: int
    user: str
    how: Literal["added", "edited", "deleted"]
    text: str = ""


class UserTaskSaved(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind user-task-saved: these fields are filled in so far."""

    node: int
    user_task: str
    user_task_id: str
    user: str
    values: msgspec.Raw


class UserTaskReminded(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind user-task-reminded: it has been with the same people for a while, this often."""

    node: int
    user_task: str
    user_task_id: str
    number: int
    user: str = ""
    group: str = ""


class UserTaskOverdue(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind user-task-overdue: it was not done when it was due."""

    node: int
    user_task: str
    user_task_id: str
    user: str = ""
    group: str = ""


class UserTaskCompleted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind user-task-completed: `user` has done it, `waited_ms` after it was given to people."""

    node: int
    user_task: str
    user_task_id: str
    user: str
    waited_ms: float
    values: msgspec.Raw


class UserTaskCancelled(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind user-task-cancelled: nobody is to do it any more, as somebody said, as its time is over, or as the run does
    not wait for it any more."""

    node: int
    user_task: str
    user_task_id: str
    how: Literal["cancelled", "timed-out", "withdrawn"]
    user: str = ""
    reason: str = ""


class ScheduleSet(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind schedule-set: a schedule was made, or changed; `next` is its next moment."""

    schedule: str
    spec: ScheduleSpec
    next: str = ""


class SchedulePaused(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind schedule-paused: it fires no more, or, not `paused`, again; `next` is its next moment then."""

    schedule: str
    paused: bool
    reason: str = ""
    next: str = ""


class ScheduleFired(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind schedule-fired: it fired for a `moment`, `late_ms` behind when that was due, and what comes of it; one that
    was queued fires again, as started. `next` is its next moment."""

    schedule: str
    moment: str
    outcome: FireOutcome
    run_id: str = ""
    late_ms: float = 0.0
    by_hand: bool = False
    next: str = ""


class ScheduleRunEnded(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind schedule-run-ended: a run that it had started has ended, or was refused, with a `code`."""

    schedule: str
    run_id: str
    outcome: FireOutcome
    code: str = ""


class ScheduleDeleted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind schedule-deleted"""

    schedule: str


class Published(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind published: the run publishes this domain event, whose `id` is that of this output event.

    `thread` is the branch that does; 0 is the run itself.
    """

    node: int
    subject: str
    data: msgspec.Raw
    thread: int = 0


class RunCompleted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-completed"""

    output: msgspec.Raw
    duration_ms: float


class RunFailed(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-failed"""

    failure: FailureInfo
    duration_ms: float


class InterruptStarted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind interrupt-started: the handler of an event has its turn, in run thread `thread`; what is interrupted at
    `node` pauses."""

    node: int
    thread: int


class InterruptEnded(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind interrupt-ended: the handler has ended, and the next one has its turn, or what was interrupted goes on."""

    node: int
    thread: int


class RunStopped(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-stopped: nothing of the run goes on until it is resumed, or of this `thread` and what it has started.

    `by` says who wants that: "somebody" (the event's actor), or the "parent" of a child run. `reason` is what they
    said.
    """

    by: StoppedBy
    thread: int = 0
    reason: str = ""


class RunResumed(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-resumed: who has stopped the run, or this `thread` of it, wants that no more.

    It goes on if nobody else does.
    """

    by: StoppedBy
    thread: int = 0


class RunMigrated(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-migrated: the run goes on in version `after` of its workflow, and no longer in version `before`.

    Nodes that are named from here on are those of `after`, as the version in the envelope says.
    """

    before: int
    after: int


class RunRescued(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-rescued: the run, which had ended as `status`, goes on at `node`; or behind it, as if that had been
    done, if it is `skipped`.

    `reason` is what somebody (the event's actor) said, or "its parent" that was rescued with it.
    """

    node: int
    status: RunStatus
    skipped: bool = False
    reason: str = ""


class VariablesEdited(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind variables-edited: somebody (the event's actor) sets these variables, as run thread `thread` sees them. How
    they are then is told behind that."""

    names: tuple[str, ...]
    thread: int = 0
    reason: str = ""


class RunCancelling(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-cancelling: somebody (the event's actor) cancelled the run; `reason` is what they said.

    It tidies up from here on. A run that has nothing of the kind ends at once, and there is no such event of it.
    """

    reason: str = ""


class RunCancelled(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-cancelled: the run has ended as somebody cancelled it; `reason` is what they said.

    The event's actor is whoever cancelled it, or, where it tidied up before, whoever was waited for last.
    """

    duration_ms: float
    reason: str = ""


class RunFaulted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-faulted: a bug of the engine; the command is in the dead letters."""

    command_seq: int
    error: str


class RunHeld(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-held: nobody deletes the run until it is released; it may have ended before."""

    reason: str = ""


class RunReleased(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-released: the run can be deleted again."""


class RunDeleted(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """kind run-deleted: the last event of a run, which says nothing of what was in it. `events` says whether those
    before it are removed from the stream, and `policy` that the time was over for which it was kept.

    Of `children_left` more child runs than a run remembers nobody knows any more that they were its own. Another run of
    the same id counts its events from 0 again; those of the deleted one have lower `command`s.
    """

    reason: str = ""
    policy: bool = False
    events: bool = False
    children_left: int = 0


EventData = (
    RunStarted
    | VariableChanged
    | PermitAwaited
    | TaskScheduled
    | TaskStarted
    | TaskCompleted
    | TaskFailed
    | TaskDead
    | TaskSettled
    | FailureCaught
    | BranchStarted
    | BranchCancelling
    | BranchEnded
    | ChildStarted
    | ChildBegun
    | ChildCompleted
    | ChildFailed
    | ChildRescued
    | SleepStarted
    | SleepMoved
    | SleepEnded
    | ConditionAwaited
    | ConditionMet
    | ConditionTimedOut
    | EventPosted
    | EventAwaited
    | EventReceived
    | EventTimedOut
    | EventExpired
    | EventReturned
    | EventRefused
    | UserTaskOpened
    | UserTaskAssigned
    | UserTaskCommented
    | UserTaskSaved
    | UserTaskReminded
    | UserTaskOverdue
    | UserTaskCompleted
    | UserTaskCancelled
    | ScheduleSet
    | SchedulePaused
    | ScheduleFired
    | ScheduleRunEnded
    | ScheduleDeleted
    | Published
    | InterruptStarted
    | InterruptEnded
    | RunStopped
    | RunResumed
    | RunMigrated
    | RunRescued
    | VariablesEdited
    | RunCancelling
    | RunCompleted
    | RunFailed
    | RunCancelled
    | RunFaulted
    | RunHeld
    | RunReleased
    | RunDeleted
)

KIND: dict[type[EventData], str] = {
    RunStarted: "run-started",
    VariableChanged: "variable-changed",
    PermitAwaited: "permit-awaited",
    TaskScheduled: "task-scheduled",
    TaskStarted: "task-started",
    TaskCompleted: "task-completed",
    TaskFailed: "task-failed",
    TaskDead: "task-dead",
    TaskSettled: "task-settled",
    FailureCaught: "failure-caught",
    BranchStarted: "branch-started",
    BranchCancelling: "branch-cancelling",
    BranchEnded: "branch-ended",
    ChildStarted: "child-started",
    ChildBegun: "child-begun",
    ChildCompleted: "child-completed",
    ChildFailed: "child-failed",
    ChildRescued: "child-rescued",
    SleepStarted: "sleep-started",
    SleepMoved: "sleep-moved",
    SleepEnded: "sleep-ended",
    ConditionAwaited: "condition-awaited",
    ConditionMet: "condition-met",
    ConditionTimedOut: "condition-timed-out",
    EventPosted: "event-posted",
    EventAwaited: "event-awaited",
    EventReceived: "event-received",
    EventTimedOut: "event-timed-out",
    EventExpired: "event-expired",
    EventReturned: "event-returned",
    EventRefused: "event-refused",
    UserTaskOpened: "user-task-opened",
    UserTaskAssigned: "user-task-assigned",
    UserTaskCommented: "user-task-commented",
    UserTaskSaved: "user-task-saved",
    UserTaskReminded: "user-task-reminded",
    UserTaskOverdue: "user-task-overdue",
    UserTaskCompleted: "user-task-completed",
    UserTaskCancelled: "user-task-cancelled",
    ScheduleSet: "schedule-set",
    SchedulePaused: "schedule-paused",
    ScheduleFired: "schedule-fired",
    ScheduleRunEnded: "schedule-run-ended",
    ScheduleDeleted: "schedule-deleted",
    Published: "published",
    InterruptStarted: "interrupt-started",
    InterruptEnded: "interrupt-ended",
    RunStopped: "run-stopped",
    RunResumed: "run-resumed",
    RunMigrated: "run-migrated",
    RunRescued: "run-rescued",
    VariablesEdited: "variables-edited",
    RunCancelling: "run-cancelling",
    RunCompleted: "run-completed",
    RunFailed: "run-failed",
    RunCancelled: "run-cancelled",
    RunFaulted: "run-faulted",
    RunHeld: "run-held",
    RunReleased: "run-released",
    RunDeleted: "run-deleted",
}
KINDS = frozenset(KIND.values())
END_KINDS = frozenset(KIND[end] for end in (RunCompleted, RunFailed, RunCancelled, RunFaulted))
"""A run ends with an event of one of these kinds. Others may follow: it is held, deleted, or rescued and goes on."""


class OutputEvent(msgspec.Struct, frozen=True, gc=False):
    """The envelope. `time` is the broker's (RFC 3339, UTC); `subject` is the run id; `data` one of `EventData`.

    `command` is the stream sequence of the command that caused it, as text because a CloudEvents integer has
    32 bits only. `traceparent` is that of the run, if it is in a trace.
    """

    id: str
    source: str
    type: str
    time: str
    subject: str
    workflow: str
    version: int
    index: int
    command: str
    data: EventData
    actor: str | msgspec.UnsetType = msgspec.UNSET
    specversion: str = "1.0"
    datacontenttype: str = "application/json"
    traceparent: str | msgspec.UnsetType = msgspec.UNSET


class DomainEvent(msgspec.Struct, frozen=True, gc=False):
    """What a workflow publishes, as it stands on the user's subject; `type` is that subject, `subject` the run id.

    `source` and `id` together are unique for ever, and the same however often it is published. `id` is that of the
    run's output event which tells of it. `traceparent` is that of the run, if it is in a trace.
    """

    id: str
    source: str
    type: str
    time: str
    subject: str
    workflow: str
    version: int
    data: msgspec.Raw
    specversion: str = "1.0"
    datacontenttype: str = "application/json"
    traceparent: str | msgspec.UnsetType = msgspec.UNSET


class ReceivedEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output event as a reader decodes it: `data` is still JSON, its shape given by `kind`."""

    id: str
    source: str
    type: str
    time: str
    subject: str
    workflow: str
    version: int
    index: int
    command: str
    data: msgspec.Raw
    # A default that is made is not left out: who reads an answer in JSON finds an actor in each event.
    actor: str = msgspec.field(default_factory=str)
    traceparent: str = ""

    @property
    def kind(self) -> str:
        return self.type.removeprefix(TYPE_PREFIX)


_decoder = msgspec.json.Decoder(ReceivedEvent)
encoder = msgspec.json.Encoder()
_data_decoders: dict[str, msgspec.json.Decoder[EventData]] = {
    kind: msgspec.json.Decoder(data) for data, kind in KIND.items()
}


def decode_event(payload: bytes) -> ReceivedEvent:
    """Raises `msgspec.MsgspecError` for anything that is no output event."""
    return _decoder.decode(payload)


def decode_data(event: ReceivedEvent) -> EventData:
    """The typed data of an event. Raises `KeyError` for a kind that this version does not know."""
    return _data_decoders[event.kind].decode(event.data)
