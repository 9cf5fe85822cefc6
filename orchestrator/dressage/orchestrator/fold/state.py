"""The state of a run: small, typed, and without history (history is the output events).

The structs are outside the garbage collector (`gc=False`): they hold no cycles, and an owner keeps tens of thousands
of them in memory, which a full collection would walk through again and again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from dressage.orchestrator.fold.shared import as_stored
from dressage.protocol.commands import DeleteRun, FailureInfo, Json, KeyedEvent, Parent, RunStatus, StoppedBy
from dressage.protocol.permits import TaskLimit
from dressage.protocol.schedules import Fire, ScheduleSpec
from dressage.protocol.spec import ParentClose
from dressage.protocol.traces import trace_of_run
from dressage.protocol.user_tasks import Comment

STATE_FORMAT: Literal[1] = 1
MAILBOX_FORMAT: Literal[1] = 1
MARKS_FORMAT: Literal[1] = 1
SCHEDULE_FORMAT: Literal[1] = 1
TIMETABLE_FORMAT: Literal[1] = 1
LIMITER_FORMAT: Literal[1] = 1
GONE_FORMAT: Literal[1] = 1


class TaskWait(msgspec.Struct, tag="task", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits for the result of exactly one attempt: the one with this `task_id`.

    `args` are kept in wire form, so that a retry gets what the first attempt got. `timer_id` names the timer that
    delays a retry; it may have fired. At `until_ms` the call is over, when `deadline_id` fires; `start_id` is the timer
    that fires if no worker takes the attempt. `worker` and `progress` are what was told last of who has the attempt,
    and of how far the call has come.

    A `dead` one has failed so, at `dead_ms`, and waits for somebody who retries it, or lets it fail; the last time that
    was so behind `spent` attempts.

    Where the task has a limit, the `permit` of the attempt is "asked" for at the limiter (of the `key`, if there is
    one; higher priorities come first), "held", or asked for "later", when `timer_id` fires. It is dispatched when it is
    held, and waits for its limiter before.
    """

    task_id: str
    call_id: str
    task: str
    queue: str
    node: int
    attempt: int
    scheduled_ms: int
    args: msgspec.Raw
    timer_id: str = ""
    until_ms: int = 0
    deadline_id: str = ""
    start_id: str = ""
    worker: str = ""
    progress: Json = msgspec.UNSET
    dead: FailureInfo | None = None
    dead_ms: int = 0
    spent: int = 0
    permit: Literal["", "later", "asked", "held"] = ""
    key: str = ""
    priority: int = 0

    @property
    def timers(self) -> tuple[str, ...]:
        """All that may be set for it."""
        return tuple(filter(None, (self.timer_id, self.start_id, self.deadline_id)))


class SleepWait(msgspec.Struct, tag="sleep", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Sleeps until `until_ms`, when `timer_id` fires.

    `begun` is set where the moment is watched: it is the same as that of a condition.
    """

    timer_id: str
    node: int
    until_ms: int
    begun: int = 0


class ConditionWait(
    msgspec.Struct, tag="condition", tag_field="kind", frozen=True, omit_defaults=True, gc=False
):
    """Waits until the condition at `node` holds, since `since_ms`; with a timeout, until `until_ms`, when `timer_id`
    fires.

    `begun` orders the waits of a run that look at variables: it counts the output events before each of them.
    """

    node: int
    begun: int
    since_ms: int
    timer_id: str = ""
    until_ms: int = 0


class EventWait(msgspec.Struct, tag="event", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits for an external event, since `since_ms`; with a timeout, until `until_ms`, when `timer_id` fires.

    `begun` orders the waits of a run: the earliest takes what is posted. One that waits at a correlation `key` is known
    there by its `wait_id`, and takes only what comes from there. When its time is over it has `asked` the key about it.
    """

    event: str
    node: int
    begun: int
    since_ms: int
    timer_id: str = ""
    until_ms: int = 0
    key: str = ""
    wait_id: str = ""
    asked: bool = False


class ChildWait(msgspec.Struct, tag="child", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits for the end of child run `run_id`, since `since_ms`; its end names this `wait_id`, and how many `times` it
    was waited for once more. Of a `detached` one it is the begin that is waited for."""

    run_id: str
    wait_id: str
    workflow: str
    node: int
    since_ms: int
    detached: bool = False
    times: int = 0


class UserWait(msgspec.Struct, tag="user-task", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits since `since_ms` until people have done a user task, which is known to them by `wait_id`.

    It is for `user`, or for whoever of `group` takes it, and went to others `epoch` times. At `due_ms` it should be
    done, which `due_id` looks at; at `until_ms`, when `timer_id` fires, it is over. `remind_id` and `escalate_id` are
    timers of this assignment: every `remind_ms` those who have it are reminded, for the `reminders`-th time last, and
    `escalate_ms` after it began it goes to `escalate_to`, or to the whole group. `values` are the fields that were
    saved, a JSON object, and `saved` marks of the last saves.
    """

    user_task: str
    wait_id: str
    node: int
    since_ms: int
    user: str = ""
    group: str = ""
    notes: str = ""
    epoch: int = 0
    due_ms: int | None = None
    due_id: str = ""
    overdue: bool = False
    remind_ms: int = 0
    remind_id: str = ""
    reminders: int = 0
    escalate_ms: int | None = None
    escalate_id: str = ""
    escalate_to: str = ""
    timer_id: str = ""
    until_ms: int = 0
    values: Json = msgspec.UNSET
    saved: tuple[str, ...] = ()
    comments: tuple[Comment, ...] = ()

    @property
    def timers(self) -> tuple[str, ...]:
        """All that are set for it."""
        return tuple(filter(None, (self.due_id, self.remind_id, self.escalate_id, self.timer_id)))


class GatherWait(msgspec.Struct, tag="gather", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits for the branches of the gather at `node`; of those that have ended it holds the result, in stored form,
    or what they failed with, by their place.

    `won` is the place of the branch that has won a race. Of `dropped` branches that have ended nothing is kept.
    `given` has what those are given, in stored form, that have not begun, as there is a `limit` to how many run at a
    time; 0: there is none. `held` is how many bytes of results, failures and such there are. While thread `handler` has
    the turn, nothing goes on of the branch that it interrupts; `turns` are those that wait for it.
    """

    node: int
    branches: int
    outputs: Mapping[int, msgspec.Raw] = {}
    failures: Mapping[int, FailureInfo] = {}
    won: int | None = None
    dropped: int = 0
    given: Sequence[msgspec.Raw] = []
    limit: int = 0
    held: int = 0
    handler: int = 0
    turns: tuple[int, ...] = ()

    @property
    def ended(self) -> int:
        """How many of the branches have ended."""
        return len(self.outputs) + len(self.failures) + self.dropped

    def interrupts(self, branch: int) -> bool:
        """Whether the branch at this place pauses, as a handler has the turn."""
        return bool(self.handler) and branch == self.branches - 1


class HeldWait(msgspec.Struct, tag="held", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Is stopped, or interrupted, and what it waited for at `node` has come with the command of sequence `seq`: a
    `value`, in stored form, a `failure`, that of a `child` run perhaps, or the time of another attempt, which is to be
    made as `again` says, `delay_ms` later. Without any of them it goes on behind the node; one that `begins`, at it.
    """

    node: int
    seq: int
    value: Json = msgspec.UNSET
    failure: FailureInfo | None = None
    child: ChildWait | None = None
    again: TaskWait | None = None
    delay_ms: int = 0
    begins: bool = False


class TurnWait(msgspec.Struct, tag="turn", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits at `node` until other handlers have ended that interrupt what this one is to interrupt, or has the turn,
    and takes it with the next command."""

    node: int


Leaf = TaskWait | SleepWait | ConditionWait | EventWait | UserWait | ChildWait | HeldWait | TurnWait
"""What a thread waits for that has no branches."""

Wait = Leaf | GatherWait


class Taken(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An event that a thread has taken, and whose handler has not begun: one of the run's own, or one that `key` has
    `given` to the wait `wait_id`."""

    own: Unclaimed | None = None
    given: KeyedEvent | None = None
    key: str = ""
    wait_id: str = ""


class RunThread(msgspec.Struct, omit_defaults=True, gc=False):
    """A path of control: at `node`, and waiting there if `wait` is set.

    A branch was started by thread `parent` as the branch at place `branch` of its gather at node `gather`, and has
    `variables` of its own, in stored form. One that is to be cancelled is "asked", until `CancelledError` is "raised"
    in it, which happens once: where it waits, but behind its own branches if it waits for such. One that somebody
    cancelled is `cancelled_for` what they said.
    """

    id: int
    node: int
    wait: Wait | None = None
    parent: int | None = None
    gather: int = 0
    branch: int = 0
    variables: dict[str, msgspec.Raw] = {}
    cancel: Literal["", "asked", "raised"] = ""
    taken: Taken | None = None
    cancelled_for: str | None = None

    def copy(self) -> RunThread:
        """A copy that can be changed without touching this one."""
        return msgspec.structs.replace(self, variables=dict(self.variables))

    @property
    def timers(self) -> tuple[str, ...]:
        """The timers that this thread waits for, or that are set for what it waits for."""
        match self.wait:
            case None | GatherWait() | ChildWait() | EventWait(asked=True):
                return ()
            case HeldWait(again=again):
                return () if again is None else again.timers
            case TurnWait():
                return ()
            case TaskWait() | UserWait() as wait:
                return wait.timers
            case wait:
                return (wait.timer_id,) if wait.timer_id else ()

    @property
    def step_id(self) -> str:
        """The attempt, the timer, or the wait at a key or for a child run that this thread waits for; else empty."""
        match self.wait:
            case (
                TaskWait(task_id=step_id)
                | EventWait(wait_id=step_id)
                | UserWait(wait_id=step_id)
                | ChildWait(wait_id=step_id)
            ) if step_id:
                return step_id
            case HeldWait() | TurnWait():
                return ""
            case _:
                return next(iter(self.timers), "")


def begun_by(step_id: str, seq: int) -> bool:
    """Whether an attempt, a timer or a wait was begun by the command with this sequence."""
    return step_id != "" and step_id.split("-")[2] == str(seq)


class RunThreads(list[RunThread]):
    """The run threads of a state in the order of their ids; `held` is what they take in it (`limits.thread_bytes`),
    if that is known."""

    __slots__ = ("held",)

    def __init__(self, threads: Iterable[RunThread] = ()) -> None:
        super().__init__(threads)
        self.held: tuple[int, int] | None = threads.held if isinstance(threads, RunThreads) else None


class Raised(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Where a failure was raised in the main thread of a run: at `node`, as the `child` run that it waited for there
    has failed, if it was that."""

    node: int
    child: ChildWait | None = None


class Forked(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Of which run this one was made, and at which node it began."""

    run_id: str
    node: int


class OpenChild(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A child run that was started by the wait `wait_id`, is not waited for, and is cancelled when its parent ends."""

    run_id: str
    wait_id: str
    close: ParentClose


class Stop(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who wants since `since_ms` that a run thread does not go on, nor anything that it has started."""

    by: StoppedBy
    since_ms: int
    thread: int = 0
    reason: str = ""
    actor: str = ""


class Hold(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who keeps a run from being deleted since `since_ms`, and for what."""

    since_ms: int
    reason: str = ""
    actor: str = ""


class Deletion(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The command with sequence `seq`, and this id, has deleted a run that the command with the id `begun_by` had
    started."""

    seq: int
    command_id: str
    begun_by: str


class Unclaimed(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An external event that no wait has claimed yet. `payload` is in stored form."""

    event: str
    event_id: str
    posted_ms: int
    payload: msgspec.Raw


class RunState(msgspec.Struct, omit_defaults=True, gc=False):
    """Everything the fold knows of a run.

    `seq` is the stream sequence of the last command folded into it, `time_ms` the run's own time (broker time
    that never runs backwards), `events` the number of output events so far. `variables` are in stored form.
    `threads_made` is how many run threads it has had: each has an id of its own.
    `unclaimed` are external events in the order in which they came, `posted` marks of the ids of all that ever came.
    `seen` is the number of the last lasting event that it has had of a correlation key, by the key's token.
    `reason` is what a cancelled run was cancelled for, or one that is `cancelling`, and tidies up.
    `parent` is told how it ended, and so is the `schedule` that has started it. `children` are runs that go on beside
    it, and are cancelled when it ends. `stops` say what of it does not go on, and `stopping` are marks of the last
    commands of people about that. One that has moved to another version `began` with this one. `raised` is where the
    failure was raised that it has ended with, or, as long as it runs, the last one; `caught` says it of those that
    variables hold. One that was `forked` began as another run has ended. Its parent has rescued it so many `times`.
    Of one that has failed the largest variables were `dropped` if they were too large to be kept.

    `born` is the sequence of the command that began it. `owned` are the child runs that are deleted with it, the last
    ones of them, and `disowned` counts the others; one that `abandons` has started
    some that live on without it. When it has ended it is kept for `keep_ms`, which the timer
    `keep_id` is set for, unless it is `held`; one that is `doomed` is deleted at the next opportunity. `deletions` are
    those of runs of the same id a moment before it, the last ones. `trace` is the W3C `traceparent` of who has
    started it.
    """

    format: Literal[1]
    run_id: str
    workflow: str
    version: int
    seq: int
    time_ms: int
    started_ms: int
    command_id: str
    input: msgspec.Raw
    status: RunStatus = "running"
    events: int = 0
    threads: list[RunThread] = []
    threads_made: int = 1
    variables: dict[str, msgspec.Raw] = {}
    unclaimed: list[Unclaimed] = []
    posted: list[str] = []
    seen: dict[str, int] = {}
    output: Json = msgspec.UNSET
    failure: FailureInfo | None = None
    reason: str = ""
    cancelling: bool = False
    ended_ms: int = 0
    actor: str = ""
    parent: Parent | None = None
    children: list[OpenChild] = []
    schedule: str = ""
    stops: list[Stop] = []
    stopping: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    began: int = 0
    raised: Raised | None = None
    caught: dict[str, Raised] = {}
    times: int = 0
    dropped: bool = False
    forked: Forked | None = None
    born: int = 0
    owned: list[str] = []
    disowned: int = 0
    abandons: bool = False
    keep_ms: int | None = None
    keep_id: str = ""
    held: Hold | None = None
    doomed: DeleteRun | None = None
    deletions: tuple[Deletion, ...] = ()
    trace: str = ""

    def copy(self) -> RunState:
        """A copy that can be changed without touching this one. The values inside are immutable, and the run threads
        are shared: who changes one copies it first (`Threads.own`).
        """
        return msgspec.structs.replace(
            self,
            threads=RunThreads(self.threads),
            variables=dict(self.variables),
            unclaimed=list(self.unclaimed),
            posted=list(self.posted),
            seen=dict(self.seen),
            children=list(self.children),
            stops=list(self.stops),
            owned=list(self.owned),
            caught=dict(self.caught),
        )

    @property
    def finished(self) -> bool:
        return self.status != "running"

    @property
    def traceparent(self) -> str:
        """What it passes on, as a span of its own in the trace of who has started it; empty without one."""
        return trace_of_run(self.trace, self.run_id, self.born)


class Gone(msgspec.Struct, omit_defaults=True, gc=False):
    """What is left of a run that was deleted, for as long as something of it may still come: nothing of what was in it.

    `seq` is the sequence of the command that changed this last. `deletions` are those of runs of this id, the last
    ones, that of this run the very last. It `abandons` child runs that live on. `owned` are the child runs that are
    told to go with it and may use what is stored for it, and `disowned` counts those of which it does not know any
    more. It was `late` if its parent went first: it was held then, or still tidied up. Of one that is `forgotten`
    nothing is stored any more.
    """

    gone_format: Literal[1]
    run_id: str
    workflow: str
    version: int
    seq: int
    time_ms: int
    deletions: tuple[Deletion, ...]
    abandons: bool = False
    forgotten: bool = False
    owned: list[str] = []
    disowned: int = 0
    late: bool = False

    @property
    def finished(self) -> bool:
        """It runs no more."""
        return True


class KeyedWait(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A run that waits at a correlation key, since the command with sequence `seq`. Of the lasting events there it has
    had those up to `seen`."""

    run_id: str
    wait_id: str
    seen: int = 0
    seq: int = 0


class Held(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a correlation key does only when it knows whether it has had an earlier event before.

    It is that `event`, posted by the command with sequence `seq`, of which it asks with this `number`, and which is
    `new` when the answer says so; or the end of a wait, of which the mark stands here.
    """

    number: int = 0
    seq: int = 0
    event: KeyedEvent | None = None
    new: bool = False
    wait: str = ""


class Mailbox(msgspec.Struct, omit_defaults=True, gc=False):
    """What is kept for a correlation key, or for a run that does not exist yet: who waits, and what nobody has claimed.

    `event` and `key` are those of a correlation key; for a run `event` is empty, and `key` its id. `number` counts the
    events, `posted` are marks of the ids of the last ones, and `given` says of those that were claimed to which waits
    they went, also by marks: from there an event may come back. A key that has had more events than that has entries
    for the marks of the earlier ones (`archived`): `leaving` of `posted` are on their way there, `asked` counts its
    questions to them, and `held` waits for the answers.
    """

    mailbox: Literal[1]
    event: str
    key: str
    seq: int
    time_ms: int
    number: int = 0
    waits: list[KeyedWait] = []
    unclaimed: list[KeyedEvent] = []
    posted: list[str] = []
    given: dict[str, tuple[str, ...]] = {}
    archived: bool = False
    leaving: int = 0
    asked: int = 0
    held: list[Held] = []

    def copy(self) -> Mailbox:
        """A copy that can be changed without touching this one."""
        return msgspec.structs.replace(
            self,
            waits=list(self.waits),
            unclaimed=list(self.unclaimed),
            posted=list(self.posted),
            given=dict(self.given),
            held=list(self.held),
        )

    @property
    def finished(self) -> bool:
        """Never: more may come as long as there is the key."""
        return False


class Marks(msgspec.Struct, omit_defaults=True, gc=False):
    """A part of the marks of a correlation key's events.

    One that is `divided` hands them on to sixteen smaller ones, and holds those that are on their way.
    """

    marks_format: Literal[1]
    seq: int
    time_ms: int
    marks: list[str] = []
    divided: bool = False

    def copy(self) -> Marks:
        """A copy that can be changed without touching this one."""
        return msgspec.structs.replace(self, marks=list(self.marks))

    @property
    def finished(self) -> bool:
        """Never, as the key."""
        return False


class OpenFire(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A run of a schedule that has not ended, by the id of the command that has started it."""

    command_id: str
    run_id: str


class QueuedFire(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A fire that waits until no run of its schedule is open."""

    moment_ms: int
    by_hand: bool = False


class Schedule(msgspec.Struct, omit_defaults=True, gc=False):
    """A schedule. `next_ms` is its next moment, for which `timer_id` is set; 0: there is none, or it is paused.
    `kept_ms` is when the timer is due, where its timetable keeps it.

    `open` are its runs that have not ended, `queued` the fires that wait for that. `fires` are the last ones, and
    `by_hand_ms` is what the last one by hand was for. `done` are the ids of commands of people that were folded last.
    `events` counts its output events. One that was `deleted` stays, as its runs still end.
    """

    schedule_format: Literal[1]
    name: str
    seq: int
    time_ms: int
    spec: ScheduleSpec
    made_ms: int
    changed_ms: int
    next_ms: int = 0
    timer_id: str = ""
    paused: bool = False
    reason: str = ""
    open: list[OpenFire] = []
    queued: list[QueuedFire] = []
    by_hand_ms: int = 0
    fires: list[Fire] = []
    fired: int = 0
    skipped: int = 0
    missed: int = 0
    done: list[str] = []
    events: int = 0
    actor: str = ""
    deleted: bool = False
    kept_ms: int = 0

    def copy(self) -> Schedule:
        """A copy that can be changed without touching this one."""
        return msgspec.structs.replace(
            self,
            open=list(self.open),
            queued=list(self.queued),
            fires=list(self.fires),
            done=list(self.done),
        )

    @property
    def run_id(self) -> str:
        """What stands in its output events where others have the id of their run."""
        return f"schedule {self.name}"

    @property
    def workflow(self) -> str:
        return self.spec.workflow

    @property
    def version(self) -> int:
        """0 where it is another one at each fire."""
        return self.spec.version if isinstance(self.spec.version, int) else 0

    @property
    def finished(self) -> bool:
        """Never, as a key: one of its name may come again."""
        return False


class Moment(msgspec.Struct, frozen=True, gc=False):
    """One timer of a timetable, and the schedules that are due then, each with the id that it knows its timer by."""

    timer_id: str
    schedules: dict[str, str]


class Timetable(msgspec.Struct, omit_defaults=True, gc=False):
    """The moments at which schedules are due, those whose timetable this is. `kept` counts what is asked for."""

    timetable_format: Literal[1]
    seq: int
    time_ms: int
    moments: dict[int, Moment] = {}
    kept: int = 0

    def copy(self) -> Timetable:
        """A copy that can be changed without touching this one."""
        return msgspec.structs.replace(self, moments=dict(self.moments))

    @property
    def finished(self) -> bool:
        """Never, as its schedules."""
        return False


class Limiter(msgspec.Struct, omit_defaults=True, gc=False):
    """The limiter of a task, or of one `key` of its calls. Its `limit` is that of the version registered at `since`.

    `taken` says since when who has a permit: an attempt, named by its id and the token of its run. Of those that wait,
    in the order in which they get theirs, `runs` has the tokens, `attempts` the ids, and `ranks` what orders them: the
    priority, negative, and the round in which it is the turn of that run. All these take `size` bytes.

    `given` counts what the rate has let begin of late, by the end of the slice of time in which that was. At `timer_ms`
    it lets another one begin, for which `timer_id` is set. Who is deferred comes again at `later_ms`, or behind that.
    """

    limiter_format: Literal[1]
    task: str
    key: str
    seq: int
    time_ms: int
    limit: TaskLimit
    since: str = ""
    taken: dict[str, int] = {}
    runs: list[str] = []
    attempts: list[str] = []
    ranks: list[tuple[int, int]] = []
    size: int = 0
    given: list[tuple[int, int]] = []
    timer_id: str = ""
    timer_ms: int = 0
    later_ms: int = 0

    def copy(self) -> Limiter:
        """A copy that can be changed without touching this one."""
        return msgspec.structs.replace(
            self,
            taken=dict(self.taken),
            runs=list(self.runs),
            attempts=list(self.attempts),
            ranks=list(self.ranks),
            given=list(self.given),
        )

    @property
    def finished(self) -> bool:
        """Never, as a key."""
        return False


State = RunState | Gone | Mailbox | Marks | Schedule | Timetable | Limiter
"""What one command changes, and what has a key of its own in the bucket."""

_encoder = msgspec.json.Encoder(enc_hook=as_stored)
_decoder = msgspec.json.Decoder(RunState)
_mailbox_decoder = msgspec.json.Decoder(Mailbox)
_marks_decoder = msgspec.json.Decoder(Marks)
_schedule_decoder = msgspec.json.Decoder(Schedule)
_timetable_decoder = msgspec.json.Decoder(Timetable)
_limiter_decoder = msgspec.json.Decoder(Limiter)
_gone_decoder = msgspec.json.Decoder(Gone)
_MAILBOX = b'{"mailbox":'
"""How a stored mailbox begins; a run's state begins with its format."""

_MARKS = b'{"marks_format":'
_SCHEDULE = b'{"schedule_format":'
_TIMETABLE = b'{"timetable_format":'
_LIMITER = b'{"limiter_format":'
_GONE = b'{"gone_format":'


def encode_state(state: State) -> bytes:
    return _encoder.encode(state)


def decode_state(payload: bytes) -> State:
    """Raises `msgspec.MsgspecError` for what no release has written."""
    if payload.startswith(_MAILBOX):
        return _mailbox_decoder.decode(payload)
    if payload.startswith(_MARKS):
        return _marks_decoder.decode(payload)
    if payload.startswith(_SCHEDULE):
        return _schedule_decoder.decode(payload)
    if payload.startswith(_TIMETABLE):
        return _timetable_decoder.decode(payload)
    if payload.startswith(_LIMITER):
        return _limiter_decoder.decode(payload)
    if payload.startswith(_GONE):
        return _gone_decoder.decode(payload)
    return _decoder.decode(payload)
