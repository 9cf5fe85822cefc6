"""User tasks: work that is given to people, what they do with it, and what time does to it.

What waits for a moment belongs to one assignment: when the work goes to others, its reminders and its escalation are
set anew, and those of before are taken back. One that fires all the same names a timer that nobody waits for.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal, cast

import msgspec
from msgspec.structs import replace

from dressage.expressions.errors import ExpressionFailed, LimitExceeded, error_family
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import SetTimer
from dressage.orchestrator.fold.limits import POSTED_MAX, too_large
from dressage.orchestrator.fold.marks import mark_of
from dressage.orchestrator.fold.nodes.sleep import TIME_MS_MAX, due_ms_of, ending
from dressage.orchestrator.fold.nodes.sleep_until import ms_of
from dressage.orchestrator.fold.outcome import RefuseCommand, check_reason
from dressage.orchestrator.fold.state import RunState, RunThread, UserWait
from dressage.orchestrator.fold.times import rfc3339
from dressage.protocol.commands import FailureInfo, TimerFired, UserTaskAction
from dressage.protocol.errors import BadValue
from dressage.protocol.events import (
    UserTaskAssigned,
    UserTaskCancelled,
    UserTaskCommented,
    UserTaskCompleted,
    UserTaskOpened,
    UserTaskOverdue,
    UserTaskReminded,
    UserTaskSaved,
)
from dressage.protocol.spec import ANY_ERROR, USER_TASK_CANCELLED, USER_TASK_TEXTS, UserTaskNode
from dressage.protocol.user_tasks import (
    COMMENT_BYTES_MAX,
    COMMENTS_MAX,
    REMIND_S_MIN,
    REMINDERS_MAX,
    Action,
    AddComment,
    Assign,
    CancelTask,
    Claim,
    Comment,
    Complete,
    DeleteComment,
    EditComment,
    Release,
    SaveProgress,
    wrong_with_assignment,
)

USER_TASK_FAMILY = (USER_TASK_CANCELLED, ANY_ERROR)
"""By what it can be caught that somebody cancelled it."""

SAVES_KEPT = 16
"""Saves of one user task of which is remembered that they came: each is repeated for seconds, and the next one takes
its place."""

ROOM_BYTES = 64 * 1024
"""So many bytes of a state are left when people have put something into it."""

How = Literal["claimed", "assigned", "released", "escalated"]


# -- giving it to people -----------------------------------------------------------------------------
def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, UserTaskNode)
    # As in a call of Python's, all that is given is evaluated before any of it is looked at.
    given = {name: advance.evaluate(ready, name) for name in node.args}
    said = {name: value for name, value in given.items() if value is not None}
    user, group, notes, escalate_to = (_text(said, name) for name in _TEXTS)
    wrong = wrong_with_assignment(user, group, escalate_to, notes, escalates="escalate_after" in said)
    if wrong:
        raise ExpressionFailed(f"ValueError: {wrong}")
    wait = UserWait(
        node.user_task,
        advance.begun_id(thread, thread.node),
        thread.node,
        advance.state.time_ms,
        user=user,
        group=group,
        notes=notes,
        due_ms=_due(advance, said["due"]) if "due" in said else None,
        remind_ms=max(_length(advance, said, "remind"), int(REMIND_S_MIN * 1000)) if "remind" in said else 0,
        escalate_ms=_length(advance, said, "escalate_after") if "escalate_after" in said else None,
        escalate_to=escalate_to,
        until_ms=due_ms_of(advance, said["timeout"], "timeout") if "timeout" in said else 0,
    )
    overdue = wait.due_ms is not None and wait.due_ms <= advance.state.time_ms
    # Until the year 9000 nobody waits.
    awaited = wait.due_ms is not None and not overdue and wait.due_ms <= TIME_MS_MAX
    wait = replace(
        wait,
        overdue=overdue,
        due_id=_timer(advance, wait, "due", wait.due_ms or 0) if awaited else "",
        timer_id=_timer(advance, wait, "timeout", wait.until_ms) if "timeout" in said else "",
    )
    thread.wait = wait = _clocks(advance, wait)
    advance.stored = True
    due = "" if wait.due_ms is None else rfc3339(wait.due_ms)
    until = rfc3339(wait.until_ms) if wait.until_ms else ""
    told = UserTaskOpened(wait.node, wait.user_task, wait.wait_id, user, group, notes, due, until)
    advance.emit(told)
    if overdue:
        advance.emit(UserTaskOverdue(wait.node, wait.user_task, wait.wait_id, user, group))


_TEXTS = USER_TASK_TEXTS


def _text(said: dict[str, Any], name: str) -> str:
    value = said.get(name, "")
    if not isinstance(value, str):
        raise ExpressionFailed(f"TypeError: {name} of a user task is a str, not {type(value).__name__}")
    return value


def _length(advance: Advance, said: dict[str, Any], name: str) -> int:
    """How many milliseconds that is."""
    return due_ms_of(advance, said[name], name) - advance.state.time_ms


def _due(advance: Advance, due: Any) -> int:
    """Any moment there is: it is only told whether it has come."""
    return ms_of(due, "due") if isinstance(due, datetime) else due_ms_of(advance, due, "due")


def _timer(advance: Advance, wait: UserWait, what: str, due_ms: int) -> str:
    """Sets a timer of the assignment that this command makes, or goes on with."""
    timer_id = f"{wait.wait_id.rpartition('-')[0]}-{advance.stamp.seq}-{what}"
    advance.effects.append(SetTimer(timer_id, due_ms, TimerFired(timer_id)))
    return timer_id


def _clocks(advance: Advance, wait: UserWait) -> UserWait:
    """The same with the timers of an assignment that begins now. Raises `LimitExceeded`."""
    now_ms, remind_id, escalate_id = advance.state.time_ms, "", ""
    if wait.remind_ms:
        remind_id = _timer(advance, wait, "remind", ending(now_ms + wait.remind_ms, "reminder"))
    if wait.escalate_ms is not None and (wait.escalate_to or wait.group):
        escalate_id = _timer(advance, wait, "escalate", ending(now_ms + wait.escalate_ms, "escalation"))
    return replace(wait, remind_id=remind_id, escalate_id=escalate_id, reminders=0)


def _give(advance: Advance, thread: RunThread, wait: UserWait, user: str, group: str, how: How) -> None:
    """It is for others from now on."""
    if (user, group) == (wait.user, wait.group):
        return
    for timer_id in (wait.remind_id, wait.escalate_id):
        advance.drop_timer(timer_id)
    wait = _clocks(advance, replace(wait, user=user, group=group, epoch=wait.epoch + 1))
    thread.wait = wait
    told = UserTaskAssigned(wait.node, wait.user_task, wait.wait_id, wait.epoch, how, user, group)
    advance.emit(told)


# -- what people do with it --------------------------------------------------------------------------
def is_done(state: RunState, command: UserTaskAction) -> bool:
    """Whether somebody did just this before."""
    mark = _mark(command)
    if isinstance(command.action, SaveProgress):
        waits = (thread.wait for thread in state.threads)
        return any(isinstance(wait, UserWait) and mark in wait.saved for wait in waits)
    return mark in state.posted


def _mark(command: UserTaskAction) -> str:
    return mark_of(f"user task {command.user_task_id}\0{command.action_id}")


def who(action: Action) -> str:
    """Who does it, if somebody is said to."""
    return "" if isinstance(action, Assign) else action.user


def on_action(advance: Advance, command: UserTaskAction) -> None:
    """Somebody does something with an open user task. Raises `RefuseCommand`."""
    state, found = advance.state, advance.threads.of_step(command.user_task_id)
    wait = None if found is None else found.wait
    if found is None or not isinstance(wait, UserWait) or wait.wait_id != command.user_task_id:
        raise RefuseCommand(
            "USER_TASK_UNKNOWN",
            f"run {state.run_id!r} has no open user task {command.user_task_id!r}: it may "
            "have been done, or cancelled, before",
        )
    if not command.action_id:
        raise RefuseCommand("USER_TASK_INVALID", "an action has an id: give it one that no other has")
    action = command.action
    if not isinstance(action, Complete | CancelTask):
        # What ends it is taken for as long as there is the run.
        if advance.history_full:
            raise _full(state, "has all the output events that it may have (limit history-limit)")
        if len(state.posted) >= POSTED_MAX and not isinstance(action, SaveProgress):
            raise _full(
                state, f"has had {POSTED_MAX} events and actions, all that are allowed (limit posted-events)"
            )
    thread = advance.threads.own(found)
    advance.turn_to(thread)
    if isinstance(action, SaveProgress):
        wait = replace(wait, saved=(*wait.saved, _mark(command))[-SAVES_KEPT:])
    else:
        state.posted.append(_mark(command))
    match action:
        case Claim():
            _check_taker(wait, action.user, override=action.override)
            _give(advance, thread, wait, action.user, wait.group, "claimed")
        case Assign():
            wrong = wrong_with_assignment(action.user, action.group)
            if wrong:
                raise RefuseCommand("USER_TASK_INVALID", wrong)
            if wait.user and (wait.user, wait.group) != (action.user, action.group):
                _check_taker(wait, "", override=action.override)
            _give(advance, thread, wait, action.user, action.group, "assigned")
        case Release():
            _release(advance, thread, wait, action)
        case AddComment() | EditComment() | DeleteComment():
            _comment(advance, thread, wait, action)
        case SaveProgress():
            _save(advance, thread, wait, action)
        case Complete():
            _complete(advance, thread, wait, action)
            return
        case CancelTask():
            _cancel(advance, thread, wait, action)
            return
    adds = isinstance(action, SaveProgress | AddComment | EditComment)
    try:
        # What the engine itself adds, and other branches, must have room, too.
        advance.check_sizes(bytes(ROOM_BYTES if adds else 0))
    except LimitExceeded as error:
        raise _full(state, f"has no room for it: {error.message}") from error


def _full(state: RunState, why: str) -> RefuseCommand:
    return RefuseCommand("USER_TASK_FULL", f"run {state.run_id!r} {why}")


def _check_taker(wait: UserWait, user: str, *, override: bool) -> None:
    """Raises `RefuseCommand` where it is another user's."""
    if wait.user and wait.user != user and not override:
        raise RefuseCommand(
            "USER_TASK_TAKEN",
            f"user {wait.user!r} has user task {wait.user_task!r}: let them release it, or override that",
        )


def _release(advance: Advance, thread: RunThread, wait: UserWait, action: Release) -> None:
    if not wait.user:
        raise RefuseCommand("USER_TASK_INVALID", f"nobody has user task {wait.user_task!r}")
    _check_taker(wait, action.user, override=action.override)
    if not wait.group:
        raise RefuseCommand(
            "USER_TASK_INVALID",
            f"user task {wait.user_task!r} is for no group: assign it to somebody else instead",
        )
    _give(advance, thread, wait, "", wait.group, "released")


def _comment(
    advance: Advance, thread: RunThread, wait: UserWait, action: AddComment | EditComment | DeleteComment
) -> None:
    text = "" if isinstance(action, DeleteComment) else action.text
    if len(text.encode()) > COMMENT_BYTES_MAX:
        raise RefuseCommand(
            "USER_TASK_INVALID",
            f"the comment takes {len(text.encode())} bytes of {COMMENT_BYTES_MAX} allowed (limit user-task-comments): "
            "shorten it",
        )
    if not text and not isinstance(action, DeleteComment):
        raise RefuseCommand("USER_TASK_INVALID", "a comment has a text")
    at = rfc3339(advance.state.time_ms)
    if isinstance(action, AddComment):
        if len(wait.comments) >= COMMENTS_MAX:
            raise RefuseCommand(
                "USER_TASK_FULL",
                f"user task {wait.user_task!r} has {COMMENTS_MAX} comments, all that are allowed (limit "
                "user-task-comments)",
            )
        number, how = len(wait.comments) + 1, "added"
        comments = (*wait.comments, Comment(number, action.user, text, at))
    else:
        number, how = action.number, "deleted" if isinstance(action, DeleteComment) else "edited"
        before = wait.comments[number - 1] if 0 < number <= len(wait.comments) else None
        if before is None or before.user != action.user:
            whose = "there is none of this number" if before is None else f"it is {before.user!r}'s"
            raise RefuseCommand("USER_TASK_INVALID", f"comment {number} is not {action.user!r}'s: {whose}")
        if not before.text:
            raise RefuseCommand("USER_TASK_INVALID", f"comment {number} is deleted")
        changed = replace(before, text=text, changed_at=at)
        comments = (*wait.comments[: number - 1], changed, *wait.comments[number:])
    thread.wait = replace(wait, comments=comments)
    told = UserTaskCommented(
        wait.node, wait.user_task, wait.wait_id, number, action.user, cast("Any", how), text
    )
    advance.emit(told)


def _save(advance: Advance, thread: RunThread, wait: UserWait, action: SaveProgress) -> None:
    """Each field that is given has to be of its type; all of them need not be there."""
    _check_taker(wait, action.user, override=action.override)
    form = advance.definition.user_tasks[wait.user_task]
    try:
        data = form.with_masked(bytes(action.values), _draft(wait))
        _limit(advance, wait, data)
        shown = form.read_some(data)
        _limit(advance, wait, shown)
    except (BadValue, LimitExceeded) as error:
        raise _misfilled(wait, error.message) from error
    thread.wait = replace(wait, values=msgspec.Raw(data))
    told = UserTaskSaved(wait.node, wait.user_task, wait.wait_id, action.user, msgspec.Raw(shown))
    advance.emit(told)


def _draft(wait: UserWait) -> bytes:
    return bytes(wait.values) if wait.values else b"{}"


def _limit(advance: Advance, wait: UserWait, data: bytes) -> None:
    if len(data) > advance.definition.limits.value_bytes:
        what = f"the form of user task {wait.user_task}"
        raise too_large("form-size", what, data, advance.definition.limits)


def _misfilled(wait: UserWait, why: str) -> RefuseCommand:
    return RefuseCommand("USER_TASK_INVALID", f"form of user task {wait.user_task!r}: {why}")


def _complete(advance: Advance, thread: RunThread, wait: UserWait, action: Complete) -> None:
    _check_taker(wait, action.user, override=action.override)
    form = advance.definition.user_tasks[wait.user_task]
    if action.values is msgspec.UNSET and not wait.values:
        raise _misfilled(wait, "nothing was saved, and nothing is given")
    try:
        data = _draft(wait)
        if action.values is not msgspec.UNSET:
            data = form.with_masked(bytes(action.values), data)
        _limit(advance, wait, data)
        value, shown = form.read(data)
        _limit(advance, wait, shown)
    except (BadValue, LimitExceeded) as error:
        raise _misfilled(wait, error.message) from error
    _drop_timers(advance, wait.timers)
    waited_ms = float(advance.state.time_ms - wait.since_ms)
    told = UserTaskCompleted(
        wait.node, wait.user_task, wait.wait_id, action.user, waited_ms, msgspec.Raw(shown)
    )
    advance.emit(told)
    node = advance.definition.spec.nodes[wait.node]
    assert isinstance(node, UserTaskNode)
    advance.scope.spend(len(data))
    advance.go_on_with(thread, wait.node, node.next, node.target, value)


def _cancel(advance: Advance, thread: RunThread, wait: UserWait, action: CancelTask) -> None:
    check_reason(action.reason)
    _drop_timers(advance, wait.timers)
    told = UserTaskCancelled(wait.node, wait.user_task, wait.wait_id, "cancelled", action.user, action.reason)
    advance.emit(told)
    message = action.reason or f"user task {wait.user_task} was cancelled"
    failure = FailureInfo("user-task-cancelled", message, "task-error", family=USER_TASK_FAMILY)
    advance.fail(thread, failure, wait.node)


def _drop_timers(advance: Advance, timers: Iterable[str]) -> None:
    for timer_id in timers:
        advance.drop_timer(timer_id)


# -- what time does to it ----------------------------------------------------------------------------
def on_timer(advance: Advance, found: RunThread, wait: UserWait, timer_id: str) -> None:
    """One of its timers fired. Raises `LimitExceeded`."""
    thread = advance.threads.own(found)
    advance.turn_to(thread)
    match timer_id:
        case wait.timer_id:
            _time_out(advance, thread, wait)
        case wait.due_id:
            advance.state.time_ms = max(advance.state.time_ms, wait.due_ms or 0)
            thread.wait = replace(wait, due_id="", overdue=True)
            _tell(advance, UserTaskOverdue(wait.node, wait.user_task, wait.wait_id, wait.user, wait.group))
        case wait.remind_id:
            _remind(advance, thread, wait)
        case _:
            _escalate(advance, thread, wait)


def _tell(advance: Advance, told: UserTaskOverdue | UserTaskReminded) -> None:
    """What matters to nobody but those who read it is not told where there is no room."""
    if not advance.history_full:
        advance.emit(told)


def _remind(advance: Advance, thread: RunThread, wait: UserWait) -> None:
    number, due_ms = wait.reminders + 1, advance.state.time_ms + wait.remind_ms
    # What people do with it needs room in the history, too.
    again = number < REMINDERS_MAX and advance.state.events < advance.definition.limits.history_events // 2
    remind_id = _timer(advance, wait, "remind", ending(due_ms, "reminder")) if again else ""
    thread.wait = wait = replace(wait, reminders=number, remind_id=remind_id)
    told = UserTaskReminded(wait.node, wait.user_task, wait.wait_id, number, wait.user, wait.group)
    _tell(advance, told)


def _escalate(advance: Advance, thread: RunThread, wait: UserWait) -> None:
    """Once: from then on it stays where it is, as far as time is concerned. Where it is already with those that it
    would go to, it waits for the next ones who take it."""
    target = wait.escalate_to or wait.group
    thread.wait = wait = replace(wait, escalate_id="")
    if (wait.user, wait.group) != ("", target) and not advance.history_full:
        _give(advance, thread, replace(wait, escalate_ms=None), "", target, "escalated")


def _time_out(advance: Advance, thread: RunThread, wait: UserWait) -> None:
    advance.state.time_ms = max(advance.state.time_ms, wait.until_ms)
    _drop_timers(advance, (each for each in wait.timers if each != wait.timer_id))
    advance.emit(UserTaskCancelled(wait.node, wait.user_task, wait.wait_id, "timed-out"))
    waited = (wait.until_ms - wait.since_ms) / 1000
    message = f"user task {wait.user_task} was not done within {waited:g} s"
    failure = FailureInfo("timeout", message, "timeout", family=error_family("TimeoutError"))
    advance.fail(thread, failure, wait.node)
