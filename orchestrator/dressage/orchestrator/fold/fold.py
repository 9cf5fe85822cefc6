"""The fold: (state, command, definition) to (state, effects, events). Pure: no clock, no I/O, no randomness."""

from __future__ import annotations

import msgspec

from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.expressions.masked import encode_sorted
from dressage.expressions.values import encode_stored
from dressage.orchestrator.fold import (
    cancelling,
    forking,
    limiter,
    migrating,
    pausing,
    rescuing,
    retention,
    schedule,
)
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import STEP_WORK, STEPS_UNSEEN, Definition, EventDefinition
from dressage.orchestrator.fold.effects import Effect, SendCommand
from dressage.orchestrator.fold.invariants import check
from dressage.orchestrator.fold.limits import (
    failure_of,
    stored_bytes,
    too_large,
    type_error,
    variables_too_large,
)
from dressage.orchestrator.fold.mailbox import post_early
from dressage.orchestrator.fold.nodes import ENTER, LOOK, child, event, held, permit, turn, user_task
from dressage.orchestrator.fold.nodes.event import is_posted, on_ended, on_post, on_refused
from dressage.orchestrator.fold.nodes.task import on_permit, on_progress, on_result, on_settled
from dressage.orchestrator.fold.nodes.timers import on_timer
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp, check_reason
from dressage.orchestrator.fold.state import (
    STATE_FORMAT,
    Forked,
    Gone,
    HeldWait,
    Mailbox,
    RunState,
    RunThread,
    State,
    TurnWait,
)
from dressage.protocol.commands import (
    AskPermit,
    AttemptProgress,
    CancelRun,
    CancelThread,
    ChildBegun,
    ChildEnded,
    Command,
    DeferPermit,
    DeliverEvent,
    EditVariables,
    EndWait,
    ForkRun,
    GivePermit,
    GoOn,
    MigrateRun,
    PostEvent,
    RefuseWait,
    RescueRun,
    ResumeRun,
    ScheduledEnded,
    SettleTask,
    StartRun,
    StopRun,
    TaskResult,
    TimerFired,
    UserTaskAction,
)
from dressage.protocol.errors import BadRunId, BadValue
from dressage.protocol.events import RunFaulted, RunStarted
from dressage.protocol.names import check_run_id, run_token
from dressage.protocol.traces import usable_trace

FOLD_VERSION = 22
"""Changes whenever the same state and command may fold to something else; recorded in the cursor."""


Told = RefuseWait | EndWait | ChildBegun | ChildEnded | DeferPermit
"""What keys, child runs and limiters tell a run."""

GoesOn = (
    TaskResult
    | AttemptProgress
    | TimerFired
    | CancelRun
    | CancelThread
    | StopRun
    | ResumeRun
    | SettleTask
    | EditVariables
    | GoOn
    | PostEvent
    | UserTaskAction
    | Told
)
"""Commands for a run that there is."""


def fold(
    state: State | None,
    command: Command,
    run_id: str,
    stamp: Stamp,
    definition: Definition | EventDefinition | None,
    after: Definition | None = None,
    keeping: retention.Keeping = retention.UNKNOWN,
    *,
    of_deleted: bool = False,
) -> Outcome:
    """Applies one command to one run.

    `definition` is the version of the workflow that the state names, or for a start the one that the command names; for
    an event that comes before its run exists it is the version of the event that the post names. None if there is no
    such version. `after` is the version to which a `MigrateRun` moves the run, and `keeping` says for how long a run is
    kept, where that is asked for. `of_deleted` says that the command was meant for a run that was deleted on another
    shard. The state that is passed in is never changed.
    """
    if isinstance(state, Gone) and state.forgotten:
        state = None  # As for the next owner of the shard, who finds nothing.
    try:
        late = retention.after_deletion(state, command, run_id) if of_deleted else None
        if late is not None:
            outcome = late
        elif isinstance(command, retention.Asked):
            outcome = retention.change(state, command, run_id, stamp, keeping)
        else:
            outcome = _outcome(state, command, run_id, stamp, definition, after, keeping)
    except RefuseCommand as refusal:
        told = not_started(command, refusal.code, refusal.message)
        return Outcome(state, told, code=refusal.code, message=refusal.message)
    check(state, outcome)
    return outcome


def not_started(command: Command, code: str, message: str) -> list[Effect]:
    """Tells whoever waits for a run that it cannot be started; and whoever waits for a permit that a limiter does not
    know it, and has to be asked again. Nothing for any other command."""
    if isinstance(command, AskPermit):
        try:
            return [SendCommand(run_token(command.run_id), DeferPermit(command.task_id, limiter.LATER_MS))]
        except BadRunId:
            return []  # No engine has sent it.
    return [*child.refused(command, code, message), *schedule.refused(command, code)]


def _outcome(
    state: State | None,
    command: Command,
    run_id: str,
    stamp: Stamp,
    definition: Definition | EventDefinition | None,
    after: Definition | None,
    keeping: retention.Keeping,
) -> Outcome:
    early = state if isinstance(state, Mailbox) else None
    gone = state if isinstance(state, Gone) else None
    run = state if isinstance(state, RunState) else None
    of_event = definition if isinstance(definition, EventDefinition) else None
    of_workflow = definition if isinstance(definition, Definition) else None
    match command:
        case StartRun():
            return _start(run, early or gone, command, run_id, stamp, of_workflow)
        case PostEvent() if gone is not None:
            raise retention.nothing_kept(run_id)
        case PostEvent() if run is None:
            return post_early(early, command, run_id, stamp, of_event)
        case DeliverEvent() if run is not None:
            return _deliver(run, command, stamp, of_workflow)
        case GivePermit():
            return _permit(run, state, command, run_id, stamp, of_workflow)
        case DeliverEvent():
            return Outcome(state, [event.give_back(run_id, command)])
        case ChildBegun() | ChildEnded() if run is not None and run.finished:
            return Outcome(run, existing=True)
        case MigrateRun() if run is not None:
            return _migrate(run, command, stamp, of_workflow, after)
        case ForkRun() if run is not None:
            return forking.fork(run, command, stamp, of_workflow)
        case RescueRun() if run is not None:
            return _rescue(run, command, stamp, of_workflow, keeping)
        case _ if isinstance(command, GoesOn) and run is not None:
            return _go_on(run, command, stamp, of_workflow)
        case _:
            raise RefuseCommand("RUN_UNKNOWN", f"there is no run {run_id!r}")


def fault(state: RunState, stamp: Stamp, error: str) -> Outcome:
    """What becomes of a run when folding its command raised: it stops where it was, and says so."""
    faulted = state.copy()
    faulted.seq, faulted.time_ms = stamp.seq, max(state.time_ms, stamp.time_ms)
    faulted.status, faulted.cancelling = "engine-fault", False
    faulted.ended_ms = faulted.time_ms
    faulted.events += 1
    told = schedule.tell(state.schedule, ScheduledEnded(state.command_id, "engine-fault", "ENGINE_FAULT"))
    return Outcome(
        faulted,
        [*told, *limiter.returns(state.run_id, state.threads), *retention.at_end(faulted)],
        events=[RunFaulted(stamp.seq, error)],
        first_event=state.events,
        actor="orchestrator",
        code="ENGINE_FAULT",
        message=f"the engine failed on this command; the run is kept for rescue: {error.splitlines()[-1]}",
    )


def _start(
    state: RunState | None,
    before: Mailbox | Gone | None,
    command: StartRun,
    run_id: str,
    stamp: Stamp,
    definition: Definition | None,
) -> Outcome:
    if command.parent is not None:
        try:
            check_run_id(command.parent.run_id)
        except BadRunId as error:
            raise RefuseCommand("RUN_ID_INVALID", error.message) from error
    if definition is None:
        raise RefuseCommand(
            "WORKFLOW_UNKNOWN",
            f"workflow {command.workflow!r} has no version {command.version}: register it first",
        )
    if state is not None and (state.workflow != command.workflow or not _may_be(state, command)):
        raise _conflict(state, command)
    try:
        given, variables = _input(bytes(command.input), definition)
    except (BadValue, LimitExceeded) as error:
        raise RefuseCommand(
            "INPUT_INVALID", f"input of workflow {command.workflow!r}: {error.message}"
        ) from error
    if state is not None:
        return _start_again(state, command, given)
    gone = before if isinstance(before, Gone) else None
    if retention.was_deleted(gone, command.command_id):
        raise retention.started_deleted(run_id)
    fork, entry = command.fork, definition.spec.entry
    if fork is not None:
        forking.check_fork(definition, fork)
        entry, variables = fork.node, dict(fork.variables)
    time_ms = stamp.time_ms if before is None else max(before.time_ms, stamp.time_ms)
    fresh = RunState(
        format=STATE_FORMAT,
        run_id=run_id,
        workflow=command.workflow,
        version=command.version,
        seq=stamp.seq,
        time_ms=time_ms,
        started_ms=time_ms,
        command_id=command.command_id,
        input=given,
        actor=command.actor,
        variables=variables,
        parent=command.parent,
        schedule=command.schedule,
        born=stamp.seq,
        keep_ms=None if command.parent is not None and command.parent.told else command.keep_ms,
        deletions=() if gone is None else gone.deletions,
        forked=None if fork is None else Forked(fork.run_id, fork.node),
        trace=usable_trace(command.traceparent),
    )
    advance = Advance(fresh, definition, stamp)
    shown = msgspec.Raw(definition.params.shown(bytes(given)))
    if fork is None:
        advance.emit(RunStarted(shown))
    else:
        advance.emit(RunStarted(shown, fork.run_id, fork.node))
        try:
            forking.tell_variables(advance)
        except (BadValue, LimitExceeded) as error:
            raise RefuseCommand(rescuing.REFUSED, error.message) from error
    advance.begin(RunThread(id=0, node=entry))
    if command.parent is not None and command.parent.detached:
        told = ChildBegun(command.parent.wait_id)
        advance.effects.append(SendCommand(run_token(command.parent.run_id), told))
    if isinstance(before, Mailbox):
        event.take_over(advance, before)
    return _finish(advance, command.actor)


def _input(data: bytes, definition: Definition) -> tuple[msgspec.Raw, dict[str, msgspec.Raw]]:
    """The input with its defaults, and the variables that a run begins with. Raises `BadValue` or `LimitExceeded`."""
    if len(data) > definition.limits.value_bytes:
        raise too_large("input-size", "it", data, definition.limits)
    arguments = definition.params.decode(data)
    given = encode_sorted(arguments)
    if len(given) > definition.limits.value_bytes:
        raise too_large("input-size", "with its defaults it", given, definition.limits)
    variables = {name: msgspec.Raw(encode_stored(value)) for name, value in arguments.items()}
    size = stored_bytes(variables)
    if size > definition.limits.variables_bytes:
        raise variables_too_large(size, definition.limits)
    return msgspec.Raw(given), variables


def _start_again(state: RunState, command: StartRun, given: msgspec.Raw) -> Outcome:
    """The same id is the same run, whoever asks and however often; other input is a conflict."""
    if bytes(state.input) != bytes(given):
        raise _conflict(state, command)
    existing = (state.command_id, state.schedule) != (command.command_id, command.schedule)
    told: list[Effect] = []
    if existing:
        told = schedule.refused(command, "RUN_ID_CONFLICT")  # Somebody else has started it.
    elif state.status != "running":
        told = schedule.tell(command.schedule, ScheduledEnded(command.command_id, state.status))
    return Outcome(state, told, existing=existing)


def _may_be(state: RunState, command: StartRun) -> bool:
    """Whether a start may be that of this run: nobody becomes the parent of one that somebody else has started."""
    return command.parent is None or state.parent == command.parent


def _conflict(state: RunState, command: StartRun) -> RefuseCommand:
    if not _may_be(state, command):
        message = f"run {state.run_id!r} exists, and was started by another: no run waits for it"
        return RefuseCommand("RUN_ID_CONFLICT", message)
    what = "workflow" if state.workflow != command.workflow else "input"
    return RefuseCommand(
        "RUN_ID_CONFLICT",
        f"run {state.run_id!r} of workflow {state.workflow!r} exists with another {what}: choose another run id",
    )


def _go_on(
    state: RunState,
    command: GoesOn,
    stamp: Stamp,
    definition: Definition | None,
) -> Outcome:
    if isinstance(command, CancelRun):
        return _cancel(state, command, stamp, definition)
    if isinstance(command, PostEvent) and is_posted(state, command):
        return Outcome(state, existing=True)
    if isinstance(command, UserTaskAction) and user_task.is_done(state, command):
        return Outcome(state, existing=True)
    if isinstance(command, CancelThread | StopRun | ResumeRun | SettleTask | EditVariables):
        if pausing.is_done(state, command):
            return Outcome(state, existing=True)
    advance = _begin(state, stamp, definition)
    actor = "orchestrator" if isinstance(command, Told | GoOn) else command.actor
    try:
        match command:
            case TimerFired():
                on_timer(advance, command)
            case PostEvent():
                on_post(advance, command)
            case UserTaskAction():
                actor = actor or user_task.who(command.action)
                user_task.on_action(advance, command)
            case CancelThread():
                cancelling.cancel(advance, command)
            case StopRun():
                pausing.stop(advance, command)
            case ResumeRun():
                pausing.resume(advance, command)
            case SettleTask():
                on_settled(advance, command)
            case EditVariables():
                rescuing.edit(advance, command)
            case GoOn():
                pausing.go_on(advance)
            case RefuseWait():
                on_refused(advance, command)
            case EndWait():
                on_ended(advance, command)
            case DeferPermit():
                permit.on_deferred(advance, command)
            case ChildBegun():
                child.on_begun(advance, command)
            case ChildEnded():
                child.on_ended(advance, command)
            case TaskResult():
                actor = actor or command.by.worker
                on_result(advance, command)
            case AttemptProgress():
                actor = actor or command.worker
                on_progress(advance, command)
    except LimitExceeded as error:
        advance.fail_run(failure_of(error))
    return _finish(advance, actor)


def _deliver(state: RunState, command: DeliverEvent, stamp: Stamp, definition: Definition | None) -> Outcome:
    """What a correlation key gives goes to its wait, or back if that is over, also when the run has ended."""
    if event.is_given(state, command):
        return Outcome(state, existing=True)
    if state.finished or event.waiter(state, command) is None:
        return Outcome(state, [event.give_back(state.run_id, command)])
    advance = _begin(state, stamp, definition)
    thread = event.waiter(advance.state, command)
    assert thread is not None
    try:
        event.on_deliver(advance, thread, command)
    except LimitExceeded as error:
        advance.fail_run(failure_of(error))
    return _finish(advance, command.given.actor)


def _permit(
    run: RunState | None,
    state: State | None,
    command: GivePermit,
    run_id: str,
    stamp: Stamp,
    definition: Definition | None,
) -> Outcome:
    """What a limiter gives goes to the wait of its attempt, or back if that is over, also when there is no such run."""
    found = None if run is None or run.finished else permit.waiter(run, command)
    if run is None or found is None:
        return Outcome(state, [limiter.give_back(run_id, command)])
    if found[1].permit == "held":
        return Outcome(run, existing=True)
    advance = _begin(run, stamp, definition)
    thread, wait = found
    try:
        on_permit(advance, thread, wait)
    except LimitExceeded as error:
        advance.fail_run(failure_of(error))
    return _finish(advance, "orchestrator")


def _cancel(state: RunState, command: CancelRun, stamp: Stamp, definition: Definition | None) -> Outcome:
    """Once a run is cancelled every cancel of it is accepted, a repeat of the first and one by somebody else alike.

    Where there is nothing to tidy up, and where nothing more could be told of it, it ends here.
    """
    if command.parent is not None and not pausing.is_child(state, command.parent):
        raise RefuseCommand(
            "RESULT_STALE",
            f"run {state.run_id!r} was not started by run {command.parent.run_id!r}: it goes on",
        )
    if command.schedule and command.schedule != state.schedule:
        raise RefuseCommand("RESULT_STALE", f"run {state.run_id!r} was started by somebody else: it goes on")
    if command.parent is not None and command.times < state.times:
        return Outcome(state, existing=True)  # It comes once more, and the run was rescued meanwhile.
    if pausing.is_done(state, command):
        return Outcome(state, existing=True)
    if state.status == "cancelled" or (state.cancelling and not (command.at_once or state.stops)):
        return Outcome(state, existing=True)
    advance = _begin(state, stamp, definition)
    check_reason(command.reason)
    pausing.remember(advance.state, command)
    # Beside its begin something has to be told of what is tidied up.
    untold = state.events + 2 > advance.definition.limits.history_events
    if command.at_once or untold or not advance.definition.tidies:
        advance.cancel_run(command.reason or state.reason)
        return _finish(advance, command.actor)
    try:
        if state.cancelling:
            # It tidied up when somebody stopped it.
            pausing.resume_children(advance, pausing.lift(advance))
            pausing.go_on(advance)
        else:
            advance.cancel(command.reason)
    except LimitExceeded as error:
        advance.fail_run(failure_of(error))
    return _finish(advance, command.actor)


def _migrate(
    state: RunState, command: MigrateRun, stamp: Stamp, before: Definition | None, after: Definition | None
) -> Outcome:
    """A run that is where it is to be, or was there before by this command, stays as it is."""
    wanted = command.migration.workflow, command.migration.after
    if (state.workflow, state.version) == wanted or pausing.is_done(state, command):
        return Outcome(state, existing=True)
    try:
        found = migrating.moved(state, command.migration, before, after)
    except migrating.CannotMove as cannot:
        raise RefuseCommand("MIGRATION_REFUSED", f"run {state.run_id!r} cannot move: {cannot}") from cannot
    pausing.remember(found.state, command)
    try:
        advance = migrating.migrate(found, stamp)
    except LimitExceeded as error:
        raise RefuseCommand("MIGRATION_REFUSED", f"run {state.run_id!r}: {error.message}") from error
    outcome = _finish(advance, command.actor)
    outcome.threads = None  # All of them: each stands elsewhere.
    return outcome


def _rescue(
    state: RunState,
    command: RescueRun,
    stamp: Stamp,
    definition: Definition | None,
    keeping: retention.Keeping,
) -> Outcome:
    advance = rescuing.rescue(state, command, stamp, definition, elsewhere=keeping.elsewhere)
    if isinstance(advance, Outcome):
        return advance
    outcome = _finish(advance, command.actor)
    outcome.threads = None  # All of them: it has others.
    return outcome


def _begin(state: RunState, stamp: Stamp, definition: Definition | None) -> Advance:
    if state.finished:
        raise RefuseCommand(
            "RUN_FINISHED", f"run {state.run_id!r} is {state.status}: nothing can change it any more"
        )
    if definition is None:
        raise LookupError(f"definition {state.workflow} version {state.version} is missing")
    changed = state.copy()
    changed.seq = stamp.seq
    changed.time_ms = max(state.time_ms, stamp.time_ms)
    return Advance(changed, definition, stamp)


def _finish(advance: Advance, actor: str) -> Outcome:
    """Moves every thread on until all of them wait and none has a reason to look again, then hands everything over."""
    thread: RunThread | None
    while not advance.state.finished:
        thread = None
        try:
            thread = advance.ready.take()
            if thread is not None:
                _go_on_with(advance, thread)
                continue
            thread = advance.watches.next()
            if thread is not None and thread.wait is not None:
                _look(advance, thread, thread.wait.node)
                continue
            if not advance.releasing:
                break
            thread = advance.threads.find(advance.releasing.popleft())
            if thread is not None:
                _go_on_with(advance, thread)
        except LimitExceeded as error:
            # A branch that has ended stands nowhere: then it was its gather that could not go on.
            stands = thread is not None and thread.node >= 0
            line = advance.definition.spec.nodes[thread.node].line if thread and stands else None
            advance.fail_run(failure_of(error, line))
    if (advance.stored or not advance.definition.state_fits) and not advance.state.finished:
        try:
            advance.check_sizes()
        except LimitExceeded as error:
            advance.fail_run(failure_of(error))
    advance.threads.settle()
    if advance.definition.limited:
        advance.effects += permit.returned(advance)
    return Outcome(
        advance.state,
        advance.effects,
        advance.events,
        advance.first_event,
        actor=actor,
        threads=advance.threads.changed,
    )


def _go_on_with(advance: Advance, thread: RunThread) -> None:
    """Raises `LimitExceeded`."""
    match thread.wait:
        case None if advance.paused(thread):
            pausing.hold_back(advance, thread)
        case None:
            _move(advance, thread)
        case HeldWait() as wait if not advance.paused(thread):
            held.release(advance, thread, wait)
        case TurnWait() if not advance.paused(thread):
            turn.go_on(advance, thread)
        case _:
            pass  # It was to go on, and has been interrupted since.


def _move(advance: Advance, thread: RunThread) -> None:
    """Raises `LimitExceeded`, which no handler of the workflow can catch."""
    definition, state = advance.definition, advance.state
    nodes = definition.nodes
    advance.moving = thread = advance.threads.own(thread)
    advance.branches.unbegun.discard(thread.id)
    advance.turn_to(thread)
    while thread.wait is None and thread.node >= 0 and not state.finished:
        far = not advance.steps and state.events < definition.events_near
        granted = STEPS_UNSEEN if far else _room(advance)
        for passed in range(1, granted + 1):
            number = thread.node
            ready = nodes[number]
            if ready.work:
                advance.scope.left -= ready.work
            try:
                ENTER[type(ready.node)](advance, thread, ready)
            except LimitExceeded:
                raise
            except ExpressionFailed as error:
                advance.fail(thread, failure_of(error, ready.node.line), number)
            except BadValue as error:
                advance.fail(thread, type_error(error, ready.node.line), number)
            if thread.wait is not None or thread.node < 0 or state.status != "running":
                # A branch that waits at once has passed what it passed, and not what it was granted.
                advance.steps += passed
                break
        else:
            advance.steps += granted
        if thread.cancel == "asked" and thread.wait is not None and not state.finished:
            advance.branches.raise_cancelled(thread)
            if thread.node >= 0:
                advance.turn_to(thread)
    advance.moving = None


def _look(advance: Advance, thread: RunThread, number: int) -> None:
    """Lets a thread that waits look at variables that were set: it may go on. Raises `LimitExceeded`."""
    ready = advance.definition.nodes[number]
    advance.turn_to(thread)
    advance.check_history()
    advance.scope.spend(STEP_WORK + ready.work)
    try:
        LOOK[type(ready.node)](advance, thread, ready)
    except LimitExceeded:
        raise
    except ExpressionFailed as error:
        advance.drop_timers(thread)
        advance.fail(thread, failure_of(error, ready.node.line), number)


def _room(advance: Advance) -> int:
    """How many steps may follow before the limits are looked at again. Raises `LimitExceeded`."""
    advance.pay()
    limits = advance.definition.limits
    steps = limits.steps_per_command - advance.steps
    if steps <= 0:
        message = f"more than {limits.steps_per_command} steps without waiting: {_LESS_STEPS}"
        raise LimitExceeded("steps-per-command", message)
    advance.check_history()
    far = steps >= STEPS_UNSEEN and advance.state.events < advance.definition.events_near
    return STEPS_UNSEEN if far else 1


_LESS_STEPS = "let a task do the loop, sleep in between, or raise steps_per_command of the workflow's limits"
