"""What a timer that fired means for the thread that waits for it."""

from __future__ import annotations

from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.nodes import condition, event, permit, sleep, sleep_until, task, user_task
from dressage.orchestrator.fold.outcome import RefuseCommand
from dressage.orchestrator.fold.state import (
    ConditionWait,
    EventWait,
    HeldWait,
    SleepWait,
    TaskWait,
    UserWait,
)
from dressage.protocol.commands import TimerFired


def on_timer(advance: Advance, command: TimerFired) -> None:
    """A timer that no thread waits for (fired twice, or late) changes nothing: its id is never used again.

    Raises `LimitExceeded`.
    """
    thread = advance.threads.of_step(command.timer_id)
    if thread is not None:
        match thread.wait:
            case SleepWait(timer_id=command.timer_id) as wait:
                if not (advance.paused(thread) and sleep_until.is_moved(advance, thread, wait)):
                    sleep.awake(advance, thread, wait)
                return
            case ConditionWait(timer_id=command.timer_id) as wait:
                condition.on_timeout(advance, thread, wait)
                return
            case EventWait(timer_id=command.timer_id, asked=False) as wait:
                event.on_timeout(advance, thread, wait)
                return
            case TaskWait(deadline_id=command.timer_id) | TaskWait(start_id=command.timer_id) as wait:
                task.on_timer(advance, thread, wait, command.timer_id)
                return
            case TaskWait(timer_id=command.timer_id, permit="later") as wait:
                permit.ask_now(advance, thread, wait)
                return
            case HeldWait(again=TaskWait(deadline_id=command.timer_id) as wait):
                task.on_timer(advance, thread, wait, command.timer_id)
                return
            case UserWait() as wait if command.timer_id in wait.timers:
                user_task.on_timer(advance, thread, wait, command.timer_id)
                return
            case _:
                pass
    raise RefuseCommand("RESULT_STALE", f"no thread of run {advance.state.run_id!r} waits for this timer")
