"""Branches: run threads that a gather or a race starts, how each of them ends, and how losers are cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from msgspec import structs

from dressage.expressions.groups import group_of
from dressage.expressions.values import decode_stored
from dressage.orchestrator.fold import cancelling, pausing
from dressage.orchestrator.fold.effects import DispatchTask, Effect, SendCommand, SetTimer
from dressage.orchestrator.fold.limits import bytes_of, limit_nesting, limit_threads
from dressage.orchestrator.fold.shared import first_and_rest, grown
from dressage.orchestrator.fold.state import (
    ChildWait,
    EventWait,
    GatherWait,
    HeldWait,
    Leaf,
    RunThread,
    TaskWait,
    TurnWait,
    UserWait,
    begun_by,
)
from dressage.protocol.commands import AskPermit, AwaitEvent, FailureInfo, StartRun
from dressage.protocol.events import BranchEnded, BranchStarted, TaskSettled, UserTaskCancelled
from dressage.protocol.spec import CANCELLED_ERROR, GROUP_TEXT, Branch, GatherNode, TaskNode

if TYPE_CHECKING:
    from dressage.orchestrator.fold.advance import Advance

CANCELLED: Final = FailureInfo(
    "cancelled", "nobody waits for it any more", "cancelled", family=(CANCELLED_ERROR,)
)
"""What is raised in a branch that has lost a race or was cancelled, and in a run that is cancelled."""


class Branches:
    """The branches of one fold in progress."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.unbegun: set[int] = set()
        """The threads that were started and have not moved yet."""

    def start(self, parent: RunThread, place: int, branch: Branch, given: dict[str, Any]) -> None:
        """A new thread at the entry of `branch`, with these values of its parameters. Raises `LimitExceeded`."""
        advance, state = self.advance, self.advance.state
        limit_threads(len(state.threads) + 1)
        limit_nesting(sum(1 for _ in advance.with_parents(parent)))
        number, state.threads_made = state.threads_made, state.threads_made + 1
        thread = RunThread(number, branch.entry, None, parent.id, parent.node, place, {})
        advance.begin(thread)
        self.unbegun.add(number)
        advance.emit(BranchStarted(parent.node, place, number, parent.id))
        advance.turn_to(thread)
        for name, value in given.items():
            advance.assign(name, value)
        advance.turn_to(parent)

    def start_next(self, parent: RunThread) -> None:
        """Of those that there are for the items of a list, the next one begins. Raises `LimitExceeded`."""
        wait, advance = parent.wait, self.advance
        assert isinstance(wait, GatherWait)
        node = advance.definition.spec.nodes[wait.node]
        assert isinstance(node, GatherNode)
        assert node.each is not None
        item, left = first_and_rest(wait.given)
        parent.wait = structs.replace(wait, given=left, held=wait.held - len(item))
        values = decode_stored(item, advance.definition.types)
        given = dict(zip(node.each.names, values, strict=True))
        self.start(parent, wait.branches - len(wait.given), node.branches[0], given)

    def end(self, thread: RunThread, outcome: msgspec.Raw | FailureInfo) -> None:
        """A branch ends with a result in stored form, or with a failure, and with it its variables.

        If it wins its race, the others are cancelled. Behind the last one its gather goes on, or raises what they
        failed with. One that somebody cancelled has failed to those who wait for it, and wins no race. Raises
        `LimitExceeded`.
        """
        advance = self.advance
        parent = advance.thread(thread.parent or 0)
        wait, place = parent.wait, thread.branch
        assert isinstance(wait, GatherWait)
        failure = outcome if isinstance(outcome, FailureInfo) else None
        cancelled = failure is not None and failure.kind == "cancelled"
        told = None if cancelled else failure
        advance.emit(BranchEnded(wait.node, place, thread.id, told, cancelled=cancelled))
        over = wait.won is not None or parent.cancel == "asked"
        dropped = cancelled or (over and failure is None)
        if cancelled and not over and thread.cancelled_for is not None:
            failure, dropped = cancelling.given_up(thread), False
        if dropped:
            wait = structs.replace(wait, dropped=wait.dropped + 1)
        elif failure is not None:
            held = wait.held + bytes_of(failure)
            wait = structs.replace(wait, failures=grown(wait.failures, place, failure), held=held)
        else:
            output = cast("msgspec.Raw", outcome)
            outputs = grown(wait.outputs, place, output)
            wait = structs.replace(wait, outputs=outputs, held=wait.held + len(output))
        if wait.handler == thread.id or thread.id in wait.turns:
            left = tuple(each for each in wait.turns if each != thread.id)
            handler = 0 if wait.handler == thread.id else wait.handler
            wait = structs.replace(wait, handler=handler, turns=left)
        parent.wait, advance.stored = wait, True
        advance.forget(thread)
        if not over and self._wins(wait, failure, cancelled=cancelled):
            self._won(parent, wait, place)
        elif wait.ended == wait.branches:
            self._gathered(parent, wait)
        elif wait.given:
            self.start_next(parent)

    def _wins(self, wait: GatherWait, failure: FailureInfo | None, *, cancelled: bool) -> bool:
        """Whether a branch that has ended so decides the race that it is in."""
        node = self.advance.definition.spec.nodes[wait.node]
        assert isinstance(node, GatherNode)
        match node.until:
            case "interrupted":
                return True  # Without the body, or one of those that interrupt it, it is not what its author wrote.
            case "completed":
                return not cancelled
            case "successful":
                return failure is None
            case "all":
                return False

    def _won(self, parent: RunThread, wait: GatherWait, place: int) -> None:
        # What others failed with before is told in the events; behind the race only the winner counts.
        kept = {place: wait.failures[place]} if place in wait.failures else {}
        dropped = wait.dropped + len(wait.failures) - len(kept) + len(wait.given)
        parent.wait = wait = structs.replace(
            wait, won=place, failures=kept, dropped=dropped, given=[], handler=0, turns=()
        )
        if wait.ended == wait.branches:
            self._gathered(parent, wait)
        else:
            self._cancel_branches(parent)
            self._let_go()

    def _gathered(self, thread: RunThread, wait: GatherWait) -> None:
        self.advance.turn_to(thread)
        asked = thread.cancel == "asked"
        if asked:
            thread.cancel = "raised"
        if wait.failures:
            failures = [wait.failures[place] for place in sorted(wait.failures)]
            alone = len(failures) == 1 and wait.won in wait.failures
            self.advance.fail(thread, failures[0] if alone else group_of(failures, GROUP_TEXT), wait.node)
            return
        if asked:
            self.advance.fail(thread, CANCELLED, wait.node)
            return
        node = self.advance.definition.spec.nodes[wait.node]
        assert isinstance(node, GatherNode)
        outputs = {
            place: decode_stored(raw, self.advance.definition.types) for place, raw in wait.outputs.items()
        }
        value = tuple(outputs[place] for place in range(wait.branches)) if wait.won is None else None
        if wait.won is not None:
            value = outputs[wait.won] if node.until == "interrupted" else (wait.won, outputs[wait.won])
        self.advance.go_on_with(thread, wait.node, node.next, node.target, value)

    # -- cancelling branches -----------------------------------------------------------------------
    def cancel_all(self) -> None:
        """Cancels the run's main thread, and with it all others. Raises `LimitExceeded`."""
        self.cancel(self.advance.thread(0))

    def _cancel_branches(self, parent: RunThread) -> None:
        """Cancels those branches of a thread that have not ended. Raises `LimitExceeded`."""
        for thread in [each for each in self.advance.state.threads if each.parent == parent.id]:
            if not self.advance.state.finished:
                self.cancel(thread)

    def cancel(self, thread: RunThread) -> None:
        """Cancels a thread, and with it those that it has started; one that is cancelled already stays as it is. Raises
        `LimitExceeded`.
        """
        thread = self.advance.threads.own(thread)
        if thread.cancel:
            return
        if thread.id in self.unbegun:
            self.unbegun.remove(thread.id)
            self.advance.ready.discard(thread)
            self.end(thread, CANCELLED)
            return
        thread.cancel = "asked"
        if thread.wait is not None:
            self.raise_cancelled(thread)

    def raise_cancelled(self, thread: RunThread) -> None:
        """Raises `CancelledError` where the thread waits; if it waits for branches or a child run, when these have
        ended, and if it undoes a saga, when that is undone.

        Nothing waits for its task or timer any more. Raises `LimitExceeded`.
        """
        wait = thread.wait
        assert wait is not None
        if isinstance(wait, GatherWait):
            # What they failed with before, or a winner among them, counts no more.
            before = {place for place in wait.failures if wait.won is None or place == wait.won}
            left = {place: failure for place, failure in wait.failures.items() if place not in before}
            dropped = wait.dropped + len(before) + len(wait.outputs) + len(wait.given)
            held = sum(map(bytes_of, left.values()))
            thread.wait = structs.replace(
                wait, outputs={}, failures=left, dropped=dropped, given=[], held=held, handler=0, turns=()
            )
            self._cancel_branches(thread)
            self._let_go()
            return
        node = self.advance.definition.spec.nodes[wait.node]
        if isinstance(wait, HeldWait) and wait.begins and thread.node == self._entry(thread):
            self.end(thread, CANCELLED)
            return
        if isinstance(node, TaskNode) and node.undoes:
            if isinstance(wait, HeldWait) and not self.advance.paused(thread):
                self.advance.ready.add(thread)
            return  # The end of the undoing raises it.
        begun = self._take_back(thread, wait)
        if begun and isinstance(wait, ChildWait):
            self.advance.forget_child(wait.wait_id)
        if isinstance(wait, ChildWait) and not (begun or wait.detached):
            self.advance.cancel_child(wait)
            return  # Its end raises it.
        thread.cancel = "raised"
        for timer_id in thread.timers:
            if not (begun and begun_by(timer_id, self.advance.stamp.seq)):
                self.advance.drop_timer(timer_id)
        if isinstance(wait, TaskWait) and wait.dead is not None:
            self.advance.emit(TaskSettled(wait.task, wait.task_id, wait.node, "cancel"))
        if isinstance(wait, UserWait):
            self.advance.emit(UserTaskCancelled(wait.node, wait.user_task, wait.wait_id, "withdrawn"))
        if not begun:
            self.advance.withdraw(wait)
        self.advance.return_taken(thread)
        thread.taken = None
        self.advance.fail(thread, CANCELLED, wait.node)

    def _entry(self, thread: RunThread) -> int:
        """Where a branch begins; -1 for the run's main thread."""
        if thread.parent is None:
            return -1
        gather = self.advance.definition.spec.nodes[thread.gather]
        assert isinstance(gather, GatherNode)
        return gather.branches[0 if gather.each is not None else thread.branch].entry

    def _let_go(self) -> None:
        """What was interrupted, and was cancelled before, goes on tidying up."""
        if self.advance.definition.interruptible and not self.advance.state.finished:
            pausing.go_on(self.advance, pausing.INTERRUPTED_AT_A_TIME)

    def _take_back(self, thread: RunThread, wait: Leaf) -> bool:
        """What this very fold asked for is not asked for; whether it was."""
        effects = self.advance.effects
        if not begun_by(thread.step_id, self.advance.stamp.seq):
            return False
        begun = [place for place, effect in enumerate(effects) if _begins(effect, wait)]
        for place in reversed(begun):
            del effects[place]
        return bool(begun)


def _begins(effect: Effect, wait: Leaf) -> bool:
    """Whether an effect belongs to the begin of a wait."""
    match effect:
        case DispatchTask(task_id=asked):
            return isinstance(wait, TaskWait) and asked == wait.task_id
        case SetTimer(timer_id=asked) if isinstance(wait, TaskWait | UserWait):
            return asked in wait.timers
        case SetTimer(timer_id=asked):
            return not isinstance(wait, ChildWait | HeldWait | TurnWait) and asked == wait.timer_id
        case SendCommand(command=StartRun(command_id=asked)):
            return isinstance(wait, ChildWait) and asked == wait.wait_id
        case SendCommand(command=AskPermit(task_id=asked)):
            return isinstance(wait, TaskWait) and asked == wait.task_id
        case SendCommand(command=AwaitEvent(wait_id=asked)):
            return isinstance(wait, EventWait) and asked == wait.wait_id
        case _:
            return False
