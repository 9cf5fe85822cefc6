"""A schedule: starts runs at the moments of its calendar, and knows what became of them.

Each fire sets a timer for the next one; one that comes too early is set again. The id of a run is that of its schedule
and its moment, so that a fire that is folded again, or made up for, starts no second run. What was due while nobody
served the schedule is looked at when the timer's command comes at last: all that is not too old fires then, in its
order.
"""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec.structs import replace

from dressage.expressions.calendar import Calendar, check_schedule, due_ms
from dressage.expressions.errors import LimitExceeded
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import CancelTimer, Effect, SendCommand, SetTimer
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp, check_reason
from dressage.orchestrator.fold.state import SCHEDULE_FORMAT, OpenFire, QueuedFire, Schedule, State
from dressage.orchestrator.fold.times import rfc3339
from dressage.protocol.commands import (
    CancelRun,
    Command,
    DeleteSchedule,
    DropMoment,
    FireSchedule,
    KeepMoment,
    PauseSchedule,
    ScheduledEnded,
    SetSchedule,
    StartRun,
    TimerFired,
    TimetableFull,
)
from dressage.protocol.errors import BadInput, BadRunId, BadValue
from dressage.protocol.events import (
    EventData,
    ScheduleDeleted,
    ScheduleFired,
    SchedulePaused,
    ScheduleRunEnded,
    ScheduleSet,
)
from dressage.protocol.names import (
    check_run_id,
    is_name,
    run_token,
    schedule_of,
    schedule_token,
    timetable_token,
)
from dressage.protocol.schedules import (
    BACKFILL_MAX,
    FIRES_KEPT,
    FIRES_PER_COMMAND,
    INPUT_BYTES_MAX,
    OPEN_MAX,
    QUEUED_MAX,
    Fire,
    FireOutcome,
    Overlap,
    ScheduleSpec,
)

UNKNOWN_MS = 60_000
"""After so long a schedule is looked at again of whose zone this host knows nothing."""

SHARED_MS = 1_000
"""What is due at a whole second shares its timer with others that are due then. Calendars have whole seconds."""

DONE_KEPT = 100
"""Commands of people whose ids a schedule remembers, the last ones; each is repeated for seconds."""


def fold_schedule(
    state: State | None,
    command: Command,
    token: str,
    stamp: Stamp,
    definition: Definition | None,
    version: int,
    keep_ms: int | None = None,
) -> Outcome:
    """Applies one command to one schedule.

    `definition` is the version of the workflow that a `SetSchedule` names; None if there is no such version. `version`
    is the one that runs are started of at this moment, 0 if there is none, and `keep_ms` for how long they are kept,
    for ever if it is None: nothing in the state that comes of this depends on them. The state that is passed in is
    never changed.
    """
    name, before = schedule_of(token), state if isinstance(state, Schedule) else None
    try:
        match command:
            case SetSchedule():
                return _set(before, command, name, stamp, definition, keep_ms)
            case PauseSchedule() | DeleteSchedule() | FireSchedule() if (
                before is not None and command.command_id in before.done
            ):
                return Outcome(before, existing=True)
            case ScheduledEnded() if before is None:
                return Outcome(state, existing=True)
            case _ if before is None or (before.deleted and not isinstance(command, ScheduledEnded)):
                raise RefuseCommand("SCHEDULE_UNKNOWN", f"there is no schedule {name!r}")
            case _:
                return _Change(before, stamp, version, keep_ms).apply(command)
    except RefuseCommand as refusal:
        return Outcome(state, code=refusal.code, message=refusal.message)


def refused(command: Command, code: str) -> list[Effect]:
    """Tells the schedule of a run that it cannot be started; nothing for any other command."""
    if not isinstance(command, StartRun):
        return []
    return tell(command.schedule, ScheduledEnded(command.command_id, "refused", code))


def tell(schedule: str, ended: ScheduledEnded) -> list[Effect]:
    """Tells a schedule what became of a run; nothing where it was started by none."""
    return [SendCommand(schedule_token(schedule), ended)] if is_name(schedule) else []


def _set(
    before: Schedule | None,
    command: SetSchedule,
    name: str,
    stamp: Stamp,
    definition: Definition | None,
    keep_ms: int | None,
) -> Outcome:
    if before is not None and command.command_id in before.done:
        return Outcome(before, existing=True)
    old = None if before is None or before.deleted else before
    if old is not None and command.new:
        raise RefuseCommand(
            "SCHEDULE_EXISTS", f"there is a schedule {name!r}: change it, or choose another name"
        )
    spec, time_ms = command.spec, max(stamp.time_ms, 0 if before is None else before.time_ms)
    _check(command, definition)
    made_ms = time_ms if old is None else old.made_ms
    try:
        calendar = check_schedule(spec, made_ms)
    except BadInput as error:
        raise RefuseCommand("SCHEDULE_INVALID", error.message) from error
    if calendar.after(-1) is None:
        between = (
            f"from {spec.timing.begins or 'when it is made'} until {spec.timing.until or 'the year 2200'}"
        )
        raise RefuseCommand("SCHEDULE_INVALID", f"it would never fire: there is no moment of it {between}")
    if before is None:
        before = Schedule(SCHEDULE_FORMAT, name, stamp.seq, time_ms, spec, made_ms, time_ms)
        change = _Change(before, stamp, command.version, keep_ms)
    else:
        change = _Change(before, stamp, command.version, keep_ms)
        if before.deleted:
            change.after.paused, change.after.reason, change.after.deleted = False, "", False
            change.after.fires, change.after.queued, change.after.open = [], [], []
            change.after.fired = change.after.skipped = change.after.missed = 0
    after = change.after
    same = old is not None and (old.spec.timing, old.spec.jitter_s) == (spec.timing, spec.jitter_s)
    if old is None or old.spec != spec:
        after.spec, after.made_ms, after.changed_ms, after.actor = spec, made_ms, time_ms, command.actor
    after.done = [*after.done, command.command_id][-DONE_KEPT:]
    if same and after.timer_id:
        # What is due, or was to be while nobody served it, still fires.
        change.arm(after.next_ms)
    elif spec.timing.at and not same:
        change.arm_once()
    elif not spec.timing.at:
        change.arm(change.calendar.after(time_ms))
    if old is None or old.spec != spec:
        change.emit(ScheduleSet(name, spec, change.next))
    if old is not None and old.spec.overlap != spec.overlap:
        # Under the same one what waits stays: a backfill may have been given a policy of its own.
        change.take_policy()
    return change.outcome(command.actor)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _check(command: SetSchedule, definition: Definition | None) -> None:
    spec = command.spec
    if definition is None:
        raise RefuseCommand(
            "WORKFLOW_UNKNOWN",
            f"workflow {spec.workflow!r} has no version {command.version}: register it first",
        )
    if isinstance(spec.version, int) and spec.version not in (0, command.version):
        raise RefuseCommand(
            "SCHEDULE_INVALID",
            f"it is for version {spec.version}, and the command for version {command.version}",
        )
    if len(spec.input) > INPUT_BYTES_MAX:
        raise RefuseCommand(
            "INPUT_INVALID",
            f"the input takes {len(spec.input)} bytes of {INPUT_BYTES_MAX} allowed: pass a reference to it "
            "(limit schedule-input)",
        )
    try:
        if spec.moment_as in _members(bytes(spec.input)) - {""}:
            raise BadValue(f"parameter {spec.moment_as} is given, and is to be given the moment")
        definition.params.decode(bytes(_input(spec, 0)))
        if spec.run_id:
            check_run_id(spec.run_id)
    except (BadValue, LimitExceeded) as error:
        raise RefuseCommand(
            "INPUT_INVALID", f"input of workflow {spec.workflow!r}: {error.message}"
        ) from error
    except BadRunId as error:
        raise RefuseCommand("RUN_ID_INVALID", error.message) from error


def _members(data: bytes) -> set[str]:
    """The names that a JSON object has. Raises `BadValue` for what is none."""
    try:
        return set(_object(data))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadValue(f"it is a JSON object: {error}") from error


def _input(spec: ScheduleSpec, moment_ms: int) -> msgspec.Raw:
    """What the run for a moment is given."""
    if not spec.moment_as:
        return spec.input
    given = _object(bytes(spec.input))
    given[spec.moment_as] = msgspec.Raw(msgspec.json.encode(rfc3339(moment_ms)))
    return msgspec.Raw(msgspec.json.encode(given))


_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class _Change:
    """One fold in progress: the copy that is changed, its effects and events."""

    def __init__(self, before: Schedule, stamp: Stamp, version: int, keep_ms: int | None) -> None:
        self.after = before.copy()
        self.after.seq, self.after.time_ms = stamp.seq, max(before.time_ms, stamp.time_ms)
        self.effects: list[Effect] = []
        self.events: list[EventData] = []
        self._first = before.events
        self._version = version
        self._keep_ms = keep_ms
        self._cancelled: set[str] = set()
        self._calendar: Calendar | None = None

    @property
    def calendar(self) -> Calendar:
        """Only for what needs it: that of a zone which only a newer host knows is none here. Raises `BadInput`."""
        if self._calendar is None:
            self._calendar = check_schedule(self.after.spec, self.after.made_ms)
        return self._calendar

    @property
    def next(self) -> str:
        return rfc3339(self.after.next_ms) if self.after.next_ms else ""

    def emit(self, event: EventData) -> None:
        self.events.append(event)
        self.after.events += 1

    def outcome(self, actor: str) -> Outcome:
        return Outcome(self.after, self.effects, self.events, self._first, actor=actor)

    def apply(self, command: Command) -> Outcome:
        after = self.after
        actor = "orchestrator"
        match command:
            case TimerFired():
                if not after.timer_id or command.timer_id != after.timer_id:
                    raise RefuseCommand(
                        "RESULT_STALE", f"schedule {after.name!r} does not wait for this timer"
                    )
                actor = command.actor
                self._fire_due()
            case TimetableFull():
                self._set_timer(command)
            case ScheduledEnded():
                self._ended(command)
            case PauseSchedule():
                actor = command.actor
                self._pause(command)
            case FireSchedule():
                actor = command.actor
                self._by_hand(command)
            case DeleteSchedule():
                actor = command.actor
                self.arm(None)
                after.deleted = True
                self._skip_queued()
                self.emit(ScheduleDeleted(after.name))
            case _:
                raise RefuseCommand("RUN_UNKNOWN", f"{after.name!r} is a schedule, and no run")
        if isinstance(command, PauseSchedule | DeleteSchedule | FireSchedule):
            after.done = [*after.done, command.command_id][-DONE_KEPT:]
        return self.outcome(actor)

    # -- when --------------------------------------------------------------------------------------
    def arm_once(self) -> None:
        """For the one moment of a schedule that has one. If it has passed it fires late, as it would if nobody had
        served it. Raises `RefuseCommand` where that is too long ago."""
        after, spec = self.after, self.after.spec
        moment = self.calendar.after(after.time_ms - _ms(spec.catch_up_s) - 1)
        if moment is None:
            raise RefuseCommand(
                "SCHEDULE_INVALID",
                f"{spec.timing.at} is over for longer than {spec.catch_up_s:g} s, for which it may be late",
            )
        unfired = ("missed", "skipped", "refused")
        fired = any(
            each.moment_ms == moment and not each.by_hand and each.outcome not in unfired
            for each in after.fires
        )
        self.arm(None if fired else moment)

    def arm(self, moment_ms: int | None, not_before_ms: int = 0) -> None:
        """Sets the timer for a moment, in place of the one before."""
        after = self.after
        if after.timer_id and after.kept_ms:
            dropped = DropMoment(after.name, after.timer_id, after.kept_ms)
            self.effects.append(SendCommand(timetable_token(after.name), dropped))
        elif after.timer_id:
            self.effects.append(CancelTimer(after.timer_id))
        after.next_ms, after.timer_id, after.kept_ms = 0, "", 0
        if moment_ms is None or after.paused or after.deleted:
            return
        after.next_ms, after.timer_id = moment_ms, f"0-0-{after.seq}"
        due = max(due_ms(after.name, after.spec, moment_ms), after.time_ms, not_before_ms)
        if due % SHARED_MS == 0 and due > after.time_ms:
            after.kept_ms = due
            kept = KeepMoment(after.name, after.timer_id, due)
            self.effects.append(SendCommand(timetable_token(after.name), kept))
        else:
            self.effects.append(SetTimer(after.timer_id, due, TimerFired(after.timer_id)))

    def _set_timer(self, command: TimetableFull) -> None:
        """For what its timetable has no room for."""
        after = self.after
        if not after.kept_ms or command.timer_id != after.timer_id:
            raise RefuseCommand("RESULT_STALE", f"schedule {after.name!r} has not asked for this timer")
        due, after.kept_ms = max(after.kept_ms, after.time_ms), 0
        self.effects.append(SetTimer(after.timer_id, due, TimerFired(after.timer_id)))

    def _fire_due(self) -> None:
        """All moments that are due, and no more than one command should take."""
        after, moment = self.after, cast("int | None", self.after.next_ms)
        after.timer_id, after.kept_ms = "", 0  # It has fired.
        if due_ms(after.name, after.spec, after.next_ms) > after.time_ms:
            # Only where somebody else has sent it, or where what it was set for was found with other rules of zones.
            self.arm(moment)
            return
        try:
            calendar = self.calendar
        except BadInput:
            # Another host may know its zone, or this one when it is as new.
            self.arm(moment, not_before_ms=after.time_ms + UNKNOWN_MS)
            return
        late: list[int] = []
        while moment is not None and due_ms(after.name, after.spec, moment) <= after.time_ms:
            late.append(moment)
            moment = calendar.after(moment)
            if len(late) == FIRES_PER_COMMAND:
                break
        self.arm(moment)
        for each in late:
            # With a jitter the moment before may be due behind it, and it waits for that: late is only what comes later
            # than any of its time could.
            latest_ms = each + _ms(after.spec.jitter_s)
            if after.time_ms - latest_ms > max(_ms(after.spec.catch_up_s), 1000):
                self._note(each, "missed")
            else:
                self._fire(each)

    # -- what --------------------------------------------------------------------------------------
    def _fire(self, moment_ms: int, *, by_hand: bool = False, overlap: Overlap | None = None) -> None:
        after, overlap = self.after, overlap or self.after.spec.overlap
        if after.open and overlap == "skip":
            self._note(moment_ms, "skipped", by_hand=by_hand)
        elif after.open and overlap == "queue":
            self._queue(moment_ms, by_hand=by_hand)
        elif after.open and overlap == "cancel":
            for run in after.open:
                if run.command_id in self._cancelled:
                    continue
                self._cancelled.add(run.command_id)
                reason = f"schedule {after.name} starts the next one"
                actor = f"schedule:{after.name}"
                told = CancelRun(f"{run.command_id} next", reason, actor, schedule=after.name)
                self.effects.append(SendCommand(run_token(run.run_id), told))
            self._skip_queued()
            self._queue(moment_ms, by_hand=by_hand)
        elif len(after.open) >= OPEN_MAX:
            self._note(moment_ms, "skipped", by_hand=by_hand)
        else:
            self._start(moment_ms, by_hand=by_hand)

    def _queue(self, moment_ms: int, *, by_hand: bool) -> None:
        if len(self.after.queued) >= QUEUED_MAX:
            self._note(moment_ms, "skipped", by_hand=by_hand)
            return
        self.after.queued.append(QueuedFire(moment_ms, by_hand))
        self._note(moment_ms, "queued", by_hand=by_hand)

    def _start(self, moment_ms: int, *, by_hand: bool = False) -> None:
        after = self.after
        spec, run_id = after.spec, self._run_id(moment_ms, by_hand=by_hand)
        command_id = self._command_id(moment_ms, by_hand=by_hand)
        if any(each.command_id == command_id for each in after.open):
            return  # It is open.
        start = StartRun(
            spec.workflow,
            self._version,
            _input(spec, moment_ms),
            command_id,
            f"schedule:{after.name}",
            schedule=after.name,
            keep_ms=self._keep_ms,
        )
        self.effects.append(SendCommand(run_token(run_id), start))
        after.open.append(OpenFire(command_id, run_id))
        after.fired += 1
        self._note(moment_ms, "started", run_id, by_hand=by_hand)

    def _command_id(self, moment_ms: int, *, by_hand: bool = False) -> str:
        """The same for the same moment: to start its run again is to repeat that."""
        return f"schedule {self.after.name} {moment_ms}{' by hand' if by_hand else ''}"

    def _run_id(self, moment_ms: int, *, by_hand: bool) -> str:
        after = self.after
        if after.spec.run_id and not by_hand:
            return after.spec.run_id
        return f"{after.name}-{rfc3339(moment_ms).replace('.000Z', 'Z')}{'-by-hand' if by_hand else ''}"

    def _note(self, moment_ms: int, outcome: FireOutcome, run_id: str = "", *, by_hand: bool = False) -> None:
        after = self.after
        after.skipped += outcome == "skipped"
        after.missed += outcome == "missed"
        late_ms = float(max(0, after.time_ms - due_ms(after.name, after.spec, moment_ms)))
        moment = rfc3339(moment_ms)
        self.emit(ScheduleFired(after.name, moment, outcome, run_id, late_ms, by_hand, self.next))
        fire = Fire(moment_ms, after.time_ms, outcome, run_id, by_hand)
        queued = Fire(moment_ms, 0, "queued", by_hand=by_hand)
        known = [place for place, each in enumerate(after.fires) if replace(each, fired_ms=0) == queued]
        if known:
            after.fires[known[0]] = fire
        else:
            after.fires = [*after.fires, fire][-FIRES_KEPT:]

    def take_policy(self) -> None:
        """What waits is skipped, or started, as the schedule says by now."""
        after = self.after
        if after.spec.overlap == "skip":
            self._skip_queued()
        while after.queued and not after.paused and after.spec.overlap == "allow":
            self._start_queued()
        self._let_go()

    def _let_go(self) -> None:
        """The next one that waits is started, if it may be: behind the end of a run where all may run side by side.

        While it is paused only what somebody has fired by hand is.
        """
        after = self.after
        if after.queued and (not after.open or after.spec.overlap == "allow"):
            if not after.paused or after.queued[0].by_hand:
                self._start_queued()

    def _start_queued(self) -> None:
        waiting = self.after.queued.pop(0)
        self._start(waiting.moment_ms, by_hand=waiting.by_hand)

    def _skip_queued(self) -> None:
        waiting, self.after.queued = self.after.queued, []
        for each in waiting:
            self._note(each.moment_ms, "skipped", by_hand=each.by_hand)

    def _ended(self, command: ScheduledEnded) -> None:
        after = self.after
        run = next((each for each in after.open if each.command_id == command.command_id), None)
        if run is None:
            raise RefuseCommand("RESULT_STALE", f"schedule {after.name!r} has no such open run")
        after.open = [each for each in after.open if each is not run]
        after.fires = [
            replace(each, outcome=command.status)
            if each.run_id == run.run_id and each.outcome == "started"
            else each
            for each in after.fires
        ]
        self.emit(ScheduleRunEnded(after.name, run.run_id, command.status, command.code))
        self._let_go()

    # -- by hand -----------------------------------------------------------------------------------
    def _pause(self, command: PauseSchedule) -> None:
        after = self.after
        check_reason(command.reason)
        if command.paused == after.paused:
            return
        after.paused, after.reason = command.paused, command.reason if command.paused else ""
        self.arm(None if command.paused else self.calendar.after(after.time_ms))
        self.emit(SchedulePaused(after.name, command.paused, command.reason, self.next))
        self._let_go()

    def _by_hand(self, command: FireSchedule) -> None:
        after = self.after
        if not command.first_ms and not command.last_ms:
            after.by_hand_ms = max(after.time_ms, after.by_hand_ms + 1)  # It names the run.
            self._fire(after.by_hand_ms, by_hand=True, overlap=command.overlap)
            return
        last_ms = min(command.last_ms, after.time_ms)
        moments: list[int] = []
        for moment in self.calendar.between(max(0, command.first_ms), last_ms):
            if len(moments) == BACKFILL_MAX:
                raise RefuseCommand(
                    "SCHEDULE_INVALID",
                    f"from {rfc3339(command.first_ms)} to {rfc3339(last_ms)} there are more than {BACKFILL_MAX} "
                    "moments, all that are made up for at a time (limit backfill): do it in parts",
                )
            moments.append(moment)
        known = {each.moment_ms for each in after.queued if not each.by_hand}
        ran = [each for each in after.fires if each.run_id and each.outcome != "refused"]
        known |= {each.moment_ms for each in ran if not each.by_hand}
        open_now = {each.command_id for each in after.open}
        for moment in moments:
            if moment not in known and self._command_id(moment) not in open_now:
                self._fire(moment, overlap=command.overlap)
