"""One fold in progress: the working copy of a run's state, and what nodes may do to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from dressage.expressions.errors import ExpressionFailed, LimitExceeded
from dressage.expressions.frame import OPERATION_WORK, WORK_MAX
from dressage.expressions.limits import parts_of_value
from dressage.expressions.masked import HIDDEN, encode_hidden, has_masked
from dressage.expressions.values import Record, encode_stored
from dressage.orchestrator.fold import pausing, retention, schedule
from dressage.orchestrator.fold.branches import Branches
from dressage.orchestrator.fold.definition import STEP_WORK, Definition, ReadyNode
from dressage.orchestrator.fold.effects import CancelTimer, Effect, SendCommand, SetTimer
from dressage.orchestrator.fold.limits import (
    at_end,
    bounded,
    events_bytes,
    fitting,
    limit_state,
    stored_bytes,
    too_large,
    type_error,
    variables_too_large,
)
from dressage.orchestrator.fold.outcome import Stamp
from dressage.orchestrator.fold.scope import BranchScope, Scope
from dressage.orchestrator.fold.state import (
    ChildWait,
    EventWait,
    GatherWait,
    HeldWait,
    OpenChild,
    Raised,
    RunState,
    RunThread,
    UserWait,
    Wait,
)
from dressage.orchestrator.fold.threads import Ready, Threads
from dressage.orchestrator.fold.watches import Watches
from dressage.protocol.commands import (
    CancelRun,
    ChildEnded,
    FailureInfo,
    Parent,
    ReturnEvent,
    ScheduledEnded,
    WithdrawWait,
)
from dressage.protocol.errors import BadValue
from dressage.protocol.events import (
    EventData,
    EventReturned,
    FailureCaught,
    RunCancelled,
    RunCancelling,
    RunCompleted,
    RunFailed,
    UserTaskCancelled,
    VariableChanged,
)
from dressage.protocol.expressions import variables_in
from dressage.protocol.names import key_token, run_token
from dressage.protocol.spec import CANCELLED_ERROR, RaiseNode, catches_named

EVENT_WORK = 300
"""Units of work of an output event, beside the bytes of the value in it."""

SMALL_BYTES = 1024
"""A value of so many bytes is stored, and told, for the work of its event."""

CAUGHT_KEPT: Final = 16
"""Of so many failures that are caught is known where they were raised."""

ENDED: Final = -1
"""The node of a branch that has ended: it is at none."""


class Advance:
    """Holds the copy being changed, the events and effects so far, and the way failures take."""

    steps = 0
    """Nodes that this fold was allowed to pass so far."""

    stored = False
    """Whether this fold has set a variable."""

    turned = False
    """Whether this fold has begun a handler that interrupts something."""

    child: ChildWait | None = None
    """The wait for a child run whose end this fold applies, and which can be asked for that again."""

    ended: Sequence[RunThread] = ()
    """The run threads that there were when this fold has ended the run."""

    _paid_events = 0
    _paid_steps = 0

    def __init__(self, state: RunState, definition: Definition, stamp: Stamp) -> None:
        self.state = state
        self.definition = definition
        self.stamp = stamp
        self.effects: list[Effect] = []
        self.events: list[EventData] = []
        self.root = self.scope = Scope(state.variables, definition)
        self.root.left = WORK_MAX
        self.first_event = state.events
        self.threads = Threads(state)
        self.ready = Ready()
        self.releasing = deque[int]()
        """The threads that go on with what was kept for them, one after the other, when no other one can."""

        self.branches = Branches(self)
        self.watches = Watches(self)
        self.moving: RunThread | None = None
        self._scopes: dict[int, Scope] = {}
        self._thread: RunThread | None = None

    # -- threads -----------------------------------------------------------------------------------
    def turn_to(self, thread: RunThread) -> None:
        """From now on variables are those that `thread` sees."""
        self._thread = None if thread.parent is None else thread
        self.scope = self.root if thread.parent is None else self._scope_of(thread)

    def begin(self, thread: RunThread) -> None:
        """A new thread, which moves when those before it have."""
        self.threads.add(thread)
        self.ready.add(thread)

    def forget(self, thread: RunThread) -> None:
        """A thread has ended."""
        self.threads.remove(thread)
        if self.state.stops:
            self.state.stops = [stop for stop in self.state.stops if stop.thread != thread.id]
        self._scopes.pop(thread.id, None)
        self.ready.discard(thread)
        thread.node = ENDED

    def _scope_of(self, thread: RunThread) -> Scope:
        if thread.parent is None:
            return self.root
        found = self._scopes.get(thread.id)
        if found is None:
            around = self._scope_of(self._parent(thread.parent))
            found = self._scopes[thread.id] = BranchScope(thread.variables, self.definition, around)
        return found

    def _parent(self, number: int) -> RunThread:
        found = self.threads.find(number)
        assert found is not None, "a branch outlives its gather"
        return found

    def thread(self, number: int) -> RunThread:
        """The thread with this id, as this fold may change it."""
        return self.threads.own(self._parent(number))

    def go_on(self, thread: RunThread, node: int) -> None:
        """Lets a thread go on at `node`, whether it waited or not."""
        if self.holds(thread) and thread.wait is not None:
            self.hold(thread, HeldWait(thread.wait.node, self.stamp.seq))
            return
        thread = self.threads.own(thread)
        thread.node, thread.wait = node, None
        if thread is not self.moving:
            self.ready.add(thread)
        self.turn_to(thread)

    def go_on_with(self, thread: RunThread, waited: int, node: int, target: str | None, value: Any) -> None:
        """Lets a thread that waited at node `waited` go on with what it waited for. Raises `LimitExceeded`."""
        if self.holds(thread):
            kept = msgspec.UNSET if target is None else msgspec.Raw(encode_stored(value))
            self.scope.spend(len(kept) if kept else 0)
            self.hold(thread, HeldWait(waited, self.stamp.seq, kept))
            return
        self.go_on(thread, node)
        try:
            if target is not None:
                self.assign(target, value)
        except LimitExceeded:
            self.threads.own(thread).node = waited  # It has not come further.
            raise
        except BadValue as wrong:
            self.fail(thread, type_error(wrong, self.definition.spec.nodes[waited].line), waited)

    def paused(self, thread: RunThread) -> bool:
        """Whether somebody has stopped it, or what has started it, or interrupts them."""
        return self.stopped(thread) or (self.definition.interruptible and self._interrupted(thread))

    def stopped(self, thread: RunThread) -> bool:
        """Whether somebody has stopped it, or what has started it."""
        if not self.state.stops:
            return False
        stopped = {stop.thread for stop in self.state.stops}
        return any(each.id in stopped for each in self.with_parents(thread))

    def _interrupted(self, thread: RunThread) -> bool:
        for each in self.with_parents(thread):
            wait = None if each.parent is None else self._parent(each.parent).wait
            if isinstance(wait, GatherWait) and wait.interrupts(each.branch):
                return True
        return False

    def with_parents(self, thread: RunThread) -> Iterator[RunThread]:
        """A thread, the one that has started it, and so on to the main thread."""
        yield thread
        while thread.parent is not None:
            thread = self._parent(thread.parent)
            yield thread

    def holds(self, thread: RunThread) -> bool:
        """Whether what comes to a thread, which waits, is kept for later."""
        return thread is not self.moving and self.paused(thread)

    def hold(self, thread: RunThread, what: HeldWait) -> None:
        """Keeps what has come to a thread."""
        thread = self.threads.own(thread)
        thread.wait, self.stored = what, True
        self.turn_to(thread)

    # -- what nodes use ----------------------------------------------------------------------------
    def evaluate(self, ready: ReadyNode, expression: str) -> Any:
        """Raises `ExpressionFailed` or `LimitExceeded`."""
        try:
            return ready.expressions[expression](self.scope)
        finally:
            # Also where the expression failed behind it: a handler may read it.
            if self.scope.bound:
                self._store_bound()

    def emit(self, event: EventData) -> None:
        self.events.append(event)
        self.state.events += 1

    @property
    def history_full(self) -> bool:
        """Whether the run has all the output events that it may have, its end apart."""
        return self.state.events >= self.definition.limits.history_events

    def check_history(self) -> None:
        """Raises `LimitExceeded` if nothing more may happen that is told."""
        if self.history_full:
            raise LimitExceeded(
                "history-limit",
                f"the run has {self.definition.limits.history_events} output events, all that are allowed: start "
                "another run for the rest, or raise history_events of the workflow's limits",
            )

    def attempt_id(self, thread: RunThread, node: int, attempt: int) -> str:
        """Names one attempt for ever: a loop or a retry has another command sequence, a branch another thread."""
        return f"{thread.id}-{node}-{self.stamp.seq}-{attempt}"

    def begun_id(self, thread: RunThread, node: int) -> str:
        """Names what this fold begins at a node: a timer, or a call with all its attempts."""
        return f"{thread.id}-{node}-{self.stamp.seq}"

    def withdraw(self, wait: Wait | None, *, asks: bool = False) -> None:
        """Tells the correlation key that somebody waited at, if it is one, that nobody does any more."""
        if isinstance(wait, EventWait) and wait.key:
            told = WithdrawWait(self.state.run_id, wait.wait_id, asks)
            self.effects.append(SendCommand(key_token(wait.event, wait.key), told))

    def return_taken(self, thread: RunThread) -> None:
        """An event whose handler has not begun, and is not to begin any more, was claimed by nobody."""
        taken, state = thread.taken, self.state
        if taken is None:
            return
        if taken.own is not None:
            self.emit(EventReturned(thread.node, taken.own.event, taken.own.event_id))
            state.unclaimed.insert(0, taken.own)  # It was the earliest of its name.
        if taken.given is not None:
            given, token = taken.given, key_token(taken.given.event, taken.key)
            self.emit(EventReturned(thread.node, given.event, given.event_id, taken.key))
            if state.seen.get(token) == given.number:
                state.seen[token] = given.number - 1
            self.effects.append(SendCommand(token, ReturnEvent(state.run_id, taken.wait_id, given)))

    def cancel_child(self, child: ChildWait | OpenChild, *, at_once: bool = False) -> None:
        """Cancels a child run that somebody waited for, or that ends with this one."""
        ended = isinstance(child, OpenChild)
        reason = f"run {self.state.run_id} {'has ended' if ended else 'waits for it no more'}"
        parent = Parent(self.state.run_id, child.wait_id)
        times = 0 if isinstance(child, OpenChild) else child.times
        told = CancelRun(child.wait_id, reason, self.state.actor, at_once, parent, times=times)
        self.effects.append(SendCommand(run_token(child.run_id), told))

    def forget_child(self, wait_id: str) -> bool:
        """A child run is none any more that ends with this one; whether it was."""
        left = [child for child in self.state.children if child.wait_id != wait_id]
        known, self.state.children = len(left) < len(self.state.children), left
        return known

    def timer_id(self, thread: RunThread) -> str:
        """Names a timer for ever, also where this fold sets several at one node: an event tells of each of them."""
        return f"{self.begun_id(thread, thread.node)}-{self.state.events}"

    def drop_timers(self, thread: RunThread) -> None:
        """Nothing waits for the timers of this thread any more."""
        for timer_id in thread.timers:
            self.drop_timer(timer_id)

    def drop_timer(self, timer_id: str) -> None:
        """Nothing waits for this timer any more, if it is one. What this very fold asked for is not asked for."""
        if timer_id and timer_id.split("-")[2] == str(self.stamp.seq):
            self.scope.spend(OPERATION_WORK * len(self.effects))
            left = [
                each
                for each in self.effects
                if not (isinstance(each, SetTimer) and each.timer_id == timer_id)
            ]
            if len(left) < len(self.effects):
                self.effects = left
                return
        if timer_id:
            self.effects.append(CancelTimer(timer_id))

    def admitted(self, name: str, value: Any) -> Any:
        """What a variable takes of `value`. Raises `BadValue` for what is not of its declared type, or no view."""
        declared = self.definition.declared.get(name)
        if declared is not None:
            value = declared.admit(value, f"variable {name}")
        if name in self.definition.views and not isinstance(value, Record):
            # Only a spec that no compiler wrote can assign it.
            raise BadValue(f"{name} is the run's view: it takes a record")
        return value

    def assign(self, name: str, value: Any) -> None:
        """Raises `LimitExceeded`, or `BadValue` as `admitted` does."""
        value = self.admitted(name, value)
        owner = self._store(name, value)
        if name in self.definition.views:
            self._view_changed(value)
        elif name not in self.definition.temporaries:
            self.emit(VariableChanged(name, msgspec.Raw(wire(value)), thread=owner))

    def _store_bound(self) -> None:
        bound, self.scope.bound = self.scope.bound, []
        for name, value in bound:
            self.assign(name, value)

    def assign_quietly(self, name: str, value: Any) -> None:
        """For what the author did not write as a variable, such as the failure that a handler holds."""
        self._store(name, value)

    def assign_attribute(self, name: str, attribute: str, value: Any) -> None:
        """Replaces one field of a view; the record itself stays a value. Raises `BadValue` for a wrong type."""
        record = self.definition.types.with_field(self.variable(name), attribute, value, self.scope)
        self._store(name, record)
        self._field_changed(attribute, getattr(record, attribute))

    def variable(self, name: str) -> Any:
        """The value of a variable. Raises `ExpressionFailed` where it has none."""
        try:
            return self.scope[name]
        except KeyError:
            raise ExpressionFailed(f"NameError: variable {name} has no value") from None

    def check_sizes(self, output: bytes = b"") -> None:
        """Raises `LimitExceeded` for variables or a state that would not fit."""
        state, definition = self.state, self.definition
        of_threads, rest = self.threads.held(self.moving)
        variables = stored_bytes(state.variables) + of_threads
        if variables > definition.limits.variables_bytes:
            raise variables_too_large(variables, definition.limits)
        if not definition.state_fits or len(state.threads) > 1 or state.stops:
            limit_state(variables + len(state.input) + rest + len(output) + events_bytes(state))

    def pay(self) -> None:
        """Takes the work of events and steps since the last time, and looks at what is stored.

        Raises `LimitExceeded`.
        """
        told, passed = len(self.events) - self._paid_events, self.steps - self._paid_steps
        self._paid_events, self._paid_steps = len(self.events), self.steps
        self.scope.spend(EVENT_WORK * told + STEP_WORK * passed)
        if self.stored:
            self.check_sizes()

    def _store(self, name: str, value: Any) -> int:
        """Gives the thread whose variable it is. Raises `LimitExceeded`."""
        data = encode_stored(value)
        if len(data) > SMALL_BYTES:
            self._pay_for_storing(len(data))
        self.stored = True
        if name in self.definition.watched_variables:
            self.watches.changed.add(name)
        owner = self.owner_of(name)
        if owner is None:
            self.state.variables[name] = msgspec.Raw(data)
            self.root.remember(name, value)
            return 0
        self.threads.own(owner).variables[name] = msgspec.Raw(data)
        self._scope_of(owner).remember(name, value)
        return owner.id

    def owner_of(self, name: str) -> RunThread | None:
        """The branch, of that which moves and those around it, whose own variable this is; None for one of the run."""
        thread = self._thread
        while thread is not None and thread.parent is not None:
            owned = self.definition.branch_variables
            if name in (owned.get((thread.gather, thread.branch)) or owned[thread.gather, 0]):
                return thread
            thread = self._parent(thread.parent)
        return None

    def _pay_for_storing(self, size: int) -> None:
        limits = self.definition.limits
        if size > limits.variables_bytes:
            raise variables_too_large(size, limits)
        # Twice: once for the state, once for the events that tell of it, whose wire form is never longer.
        self.scope.spend(2 * size)

    def tell_view(self, name: str) -> None:
        """Tells all fields of a view, as if it had just been set."""
        self._view_changed(self.variable(name))

    def _view_changed(self, record: Record) -> None:
        for field in record.__struct_fields__:
            self._field_changed(field, getattr(record, field))

    def _field_changed(self, field: str, value: Any) -> None:
        paths = self.definition.searchable.get(field, ())
        inside = () if paths == (field,) else paths
        self.emit(VariableChanged(field, msgspec.Raw(wire(value)), paths == (field,), inside))

    # -- ends --------------------------------------------------------------------------------------
    def complete(self, output: bytes, shown: bytes) -> None:
        """`shown` is what readers see of the output. Raises `LimitExceeded`."""
        if len(output) > self.definition.limits.value_bytes:
            raise too_large("output-size", "the run's output", output, self.definition.limits)
        if self.stored or not self.definition.state_fits:
            self.check_sizes(output)
        self.scope.spend(len(output))
        state = self.state
        state.output = msgspec.Raw(output)
        self._end("completed")
        self.emit(RunCompleted(msgspec.Raw(shown), state.ended_ms - state.started_ms))

    def fail(
        self, thread: RunThread, failure: FailureInfo, node: int, child: ChildWait | None = None
    ) -> None:
        """The failure looks for a handler in the scopes around `node`, from the inside out. Raises `LimitExceeded`.

        Without one it ends its thread: the run, or a branch, whose gather raises it when the others have ended, too.
        A `child` run that has failed with it can be rescued.
        """
        failure = bounded(failure)
        if self.holds(thread):
            self.hold(thread, HeldWait(node, self.stamp.seq, failure=failure, child=child))
            return
        thread = self.threads.own(thread)
        thread.wait = None
        spec = self.definition.spec
        if thread.parent is None:
            self.state.raised = self._origin(node, child)
        family = self._family(failure)
        scope = spec.nodes[node].scope
        while scope is not None:
            for handler in spec.scopes[scope].handlers:
                self.scope.spend(OPERATION_WORK * len(handler.names) * (1 + len(family)))
                if catches_named(handler, failure, family):
                    self.go_on(thread, handler.node)
                    if handler.bind is not None:
                        self.assign_quietly(handler.bind, failure)
                        if thread.parent is None:
                            self._remember_caught(handler.bind)
                    if not handler.passing:
                        self.emit(FailureCaught(node, failure))
                    return
            scope = spec.scopes[scope].parent
        if thread.parent is not None:
            self.branches.end(thread, failure)
        elif failure.kind == "cancelled":
            self.cancel_run(self.state.reason)
        else:
            self._fail_run(failure)

    def _origin(self, number: int, child: ChildWait | None) -> Raised | None:
        """Where the failure was raised that is raised at a node of the main thread: where a handler raises again what
        it holds, or in a group, that is elsewhere. None: nobody knows."""
        node, caught = self.definition.spec.nodes[number], self.state.caught
        if isinstance(node, RaiseNode) and node.reraise is not None:
            return caught.get(node.reraise)
        if isinstance(node, RaiseNode) and node.group is not None:
            known = (caught[name] for name in sorted(variables_in(node.group)) if name in caught)
            return next(known, None)
        return Raised(number, child)

    def _remember_caught(self, name: str) -> None:
        """The failure that this variable holds was raised where the last one was."""
        caught, raised = self.state.caught, self.state.raised
        caught.pop(name, None)
        if raised is not None:
            caught[name] = raised
        if len(caught) > CAUGHT_KEPT:
            del caught[next(iter(caught))]

    def _family(self, failure: FailureInfo) -> tuple[str, ...]:
        """By what it can be caught. The spec knows families of business failures: an error of such a name is none."""
        if failure.kind == "failure" and not failure.family:
            return self.definition.families.get(failure.name, ())
        return failure.family

    def fail_run(self, failure: FailureInfo) -> None:
        """What no handler of the workflow is asked about was raised where the main thread stands."""
        main, child = self.threads.find(0), self.child
        if main is not None and main.node >= 0:
            self.state.raised = Raised(main.node, child if child and child.node == main.node else None)
        else:
            self.state.raised = None
        self._fail_run(failure)

    def _fail_run(self, failure: FailureInfo) -> None:
        if self.stored or not self.definition.state_fits:
            fit = fitting(self.state, self.definition.limits)
            self.state.dropped = len(fit) < len(self.state.variables)
            self.state.variables = fit
        self.state.failure = failure = at_end(bounded(failure))
        self._end("failed")
        self.emit(RunFailed(failure, self.state.ended_ms - self.state.started_ms))

    def cancel(self, reason: str) -> None:
        """Raises `CancelledError` where the run waits; it ends when that has passed all that takes it.

        Raises `LimitExceeded`.
        """
        self.state.reason, self.state.cancelling = reason, True
        self.emit(RunCancelling(reason))
        stopped = pausing.lift(self)
        self.branches.cancel_all()
        pausing.resume_children(self, stopped)
        pausing.go_on(self)

    def cancel_run(self, reason: str) -> None:
        """Ends the run where it stands. No handler of the workflow is asked."""
        self.state.reason = reason
        self._end("cancelled")
        self.emit(RunCancelled(self.state.ended_ms - self.state.started_ms, reason))

    def _end(self, status: Any) -> None:
        """The one way to end: the threads go, and with them the timers that they wait for."""
        self.give_up(at_once=status == "cancelled")
        self.state.status, self.state.cancelling = status, False
        if status != "cancelled":
            self.state.reason = ""  # It was cancelled in vain, as the history tells.
        if status != "failed":
            self.state.raised = None
        self.state.caught = {}
        self.state.ended_ms = self.state.time_ms
        self.ended, self.state.threads = self.state.threads, []
        self.ready.clear()
        self.releasing.clear()
        if self.state.parent is not None and self.state.parent.told:
            self.effects.append(how_ended(self.state, self.state.parent, self.state.times))
        self.effects += schedule.tell(self.state.schedule, ScheduledEnded(self.state.command_id, status))
        self.effects += retention.at_end(self.state)

    def give_up(self, *, at_once: bool) -> None:
        """Nothing is waited for any more, by any run thread, and all that ends with the run is cancelled."""
        self.effects += [CancelTimer(each) for thread in self.state.threads for each in thread.timers]
        for thread in self.state.threads:
            self.withdraw(thread.wait)
            self.return_taken(thread)
            if isinstance(thread.wait, UserWait):
                wait = thread.wait
                self.emit(UserTaskCancelled(wait.node, wait.user_task, wait.wait_id, "withdrawn"))
            if isinstance(thread.wait, ChildWait) and not thread.wait.detached:
                self.cancel_child(thread.wait, at_once=at_once)
        for child in self.state.children:
            self.cancel_child(child, at_once=child.close == "cancel")
        self.state.children, self.state.stops, self.state.unclaimed = [], [], []


def how_ended(state: RunState, parent: Parent, times: int) -> SendCommand:
    """Tells the run that waits for this one, for the `times`-th time once more, how it has ended."""
    failure = state.failure if state.status == "failed" else None
    if state.status == "cancelled":
        failure = FailureInfo("cancelled", state.reason, "cancelled", family=(CANCELLED_ERROR,))
    return SendCommand(
        run_token(parent.run_id), ChildEnded(parent.wait_id, state.output, failure, times=times)
    )


def wire(value: Any) -> bytes:
    """A value as readers of events see it: plain JSON, or the stored form where JSON has no word for its keys.

    What is masked is hidden; in a value that JSON cannot say, all of it is.
    """
    try:
        return encode_hidden(value)
    except TypeError:
        return encode_hidden(HIDDEN) if has_masked(value, parts_of_value) else encode_stored(value)
