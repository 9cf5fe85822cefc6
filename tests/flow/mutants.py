"""The compiler and the fold with one thing wrong at a time: what the comparison with Python has to notice.

A mutant is a context in which workflows are compiled and folded. Another one is a function here, marked `@mutant`.
"""

from __future__ import annotations

import ast
import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import msgspec
from msgspec import structs

from dressage.expressions.groups import group_of
from dressage.expressions.values import encode_stored
from dressage.flow.compiler import assignments, hoisting, loops, matches, sagas, statements, tries
from dressage.flow.compiler.graph import Graph, ScopeDraft
from dressage.orchestrator.fold import advance, branches
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.branches import CANCELLED, Branches
from dressage.orchestrator.fold.nodes import ENTER, LOOK, child, event, publish
from dressage.orchestrator.fold.state import ChildWait, GatherWait, RunThread
from dressage.protocol.commands import FailureInfo
from dressage.protocol.expressions import Binary, Call, Compare, Comparison
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    ConditionNode,
    RaiseNode,
    SleepUntilNode,
    catches_named,
)

Patch = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Mutant:
    """`what` is wrong; random program `first`, or one of the next, shows it."""

    what: str
    first: int
    patch: Patch


MUTANTS: dict[str, Mutant] = {}


def mutant(what: str, first: int = 0) -> Callable[[Callable[[], Iterator[None]]], Patch]:
    def register(make: Callable[[], Iterator[None]]) -> Patch:
        name = getattr(make, "__name__", what)
        MUTANTS[name] = Mutant(what, first, contextmanager(make))
        return MUTANTS[name].patch

    return register


def _swapped(operator: Any, left: Any, right: Any) -> Binary:
    return Binary(operator, right, left)


# -- events ------------------------------------------------------------------------------------------
@mutant("of several unclaimed events the last one is taken", first=17)
def last_event_first() -> Iterator[None]:
    earliest = event._earliest

    def latest(advance: Advance, name: str) -> Any:
        advance.state.unclaimed.reverse()
        found = earliest(advance, name)
        advance.state.unclaimed.reverse()
        return found

    with mock.patch.object(event, "_earliest", latest):
        yield


@mutant("a timeout is no TimeoutError", first=22)
def nameless_timeout() -> Iterator[None]:
    with mock.patch.object(event, "error_family", return_value=("Exception",)):
        yield


# -- publishing --------------------------------------------------------------------------------------
@mutant("any subject will do", first=67)
def any_subject() -> Iterator[None]:
    with mock.patch.object(publish, "wrong_with_subject", return_value=""):
        yield


@mutant("what is published has its stored form", first=56)
def published_as_stored() -> Iterator[None]:
    with mock.patch.object(publish, "_encoded", encode_stored):
        yield


# -- loops -------------------------------------------------------------------------------------------
@mutant("break goes on with the next round", first=6)
def break_continues() -> Iterator[None]:
    with mock.patch.object(loops, "compile_break", loops.compile_continue):
        yield


@mutant("continue ends the loop", first=49)
def continue_breaks() -> Iterator[None]:
    with mock.patch.object(loops, "compile_continue", loops.compile_break):
        yield


@mutant("the else of a loop is left out", first=9)
def no_loop_else() -> Iterator[None]:
    def without(compiled: Callable[..., None]) -> Callable[..., None]:
        def compile_loop(context: Any, node: Any) -> None:
            cut = copy.copy(node)
            cut.orelse = []
            compiled(context, cut)

        return compile_loop

    with (
        mock.patch.object(loops, "compile_while", without(loops.compile_while)),
        mock.patch.object(loops, "compile_for", without(loops.compile_for)),
    ):
        yield


@mutant("reversed() goes forward", first=1)
def reversed_forward() -> Iterator[None]:
    with mock.patch.object(loops, "_reversed", lambda context, node: loops._walk(context, node.args[0])):
        yield


@mutant("zip() goes on to the end of the longest", first=143)
def zip_longest() -> Iterator[None]:
    def call(function: str, *given: Any) -> Call:
        return Call("max" if function == "min" else function, *given)

    with mock.patch.object(loops, "Call", call):
        yield


# -- failures ----------------------------------------------------------------------------------------
@mutant("return, break and continue pass no finally", first=353)
def finally_passed_over() -> Iterator[None]:
    def straight(context: Any, until: Any) -> None: ...

    with mock.patch.object(statements, "leave", straight), mock.patch.object(loops, "leave", straight):
        yield


@mutant("what is returned is computed behind finally", first=723)
def returned_late() -> Iterator[None]:
    with mock.patch.object(statements, "passes_final", return_value=False):
        yield


@mutant("a failure is caught by its own name alone")
def no_families() -> Iterator[None]:
    with mock.patch.object(
        advance, "catches_named", lambda handler, failure, family: failure.name in handler.names
    ):
        yield


@mutant("a clause takes every business failure", first=17)
def any_failure_fits() -> Iterator[None]:
    def fitting(handler: Any, failure: Any, family: Any) -> bool:
        return failure.kind == "failure" or catches_named(handler, failure, family)

    with mock.patch.object(advance, "catches_named", fitting):
        yield


@mutant("a try in a try hides the outer one", first=1)
def outer_try_hidden() -> Iterator[None]:
    def open_scope(self: Graph) -> int:
        self.scopes.append(ScopeDraft(None))
        self.scope = len(self.scopes) - 1
        return self.scope

    with mock.patch.object(Graph, "open_scope", open_scope):
        yield


@mutant("a failure in the else of a try is caught by its clauses", first=57)
def try_else_inside() -> Iterator[None]:
    handled = tries._handled

    def inside(context: Any, node: Any) -> None:
        moved = copy.copy(node)
        moved.body, moved.orelse = [*node.body, *node.orelse], []
        handled(context, moved)

    with mock.patch.object(tries, "_handled", inside):
        yield


@mutant("what except* leaves is dropped", first=117)
def rest_dropped() -> Iterator[None]:
    def dropping(context: Any, node: Any, left: str, raised: str, done: Any) -> None: ...

    with mock.patch.object(tries, "_raise_rest", dropping):
        yield


# -- match -------------------------------------------------------------------------------------------
@mutant("a sequence pattern takes longer sequences", first=6)
def longer_sequences() -> Iterator[None]:
    def compared(left: Any, operator: Any, right: Any) -> Compare:
        is_length = isinstance(left, Call) and left.function == "len"
        return Compare(left, (Comparison(">=" if is_length else operator, right),))

    with mock.patch.object(matches, "_compared", compared):
        yield


@mutant("a guard is not looked at", first=18)
def no_guards() -> Iterator[None]:
    compiled = matches.compile_match

    def without(context: Any, node: Any) -> None:
        cut = copy.copy(node)
        cut.cases = [copy.copy(case) for case in node.cases]
        for case in cut.cases:
            case.guard = None
        compiled(context, cut)

    with mock.patch.dict(statements.SUPPORTED_STATEMENTS, {ast.Match: without}):
        yield


# -- sagas and branches ------------------------------------------------------------------------------
@mutant("steps are undone in the order of their registration", first=38)
def undone_forward() -> Iterator[None]:
    with mock.patch.object(sagas, "Binary", _swapped):
        yield


@mutant("what an undo fails with is forgotten", first=10)
def failed_undo_forgotten() -> Iterator[None]:
    def only_first(context: Any, node: Any, failure: str, failures: str) -> None:
        context.graph.emit(RaiseNode, node, {}, reraise=failure)

    with mock.patch.object(sagas, "_raise", only_first):
        yield


@mutant("a gather raises the first failure of several", first=50)
def first_failure_only() -> Iterator[None]:
    with mock.patch.object(branches, "group_of", lambda failures, text: group_of(failures[:1], text)):
        yield


@mutant("an event does not pause what it interrupts", first=88)
def no_pause() -> Iterator[None]:
    with mock.patch.object(Advance, "paused", return_value=False):
        yield


@mutant("what comes while an event interrupts is lost", first=80)
def interrupted_is_lost() -> Iterator[None]:
    hold = Advance.hold

    def without_values(self: Any, thread: Any, what: Any) -> None:
        hold(self, thread, structs.replace(what, value=msgspec.UNSET))

    with mock.patch.object(Advance, "hold", without_values):
        yield


@mutant("branches share their variables", first=50)
def shared_variables() -> Iterator[None]:
    with mock.patch.object(Advance, "owner_of", return_value=None):
        yield


# -- races -------------------------------------------------------------------------------------------
@mutant("a branch that loses a race ends where it waits, and tidies nothing up", first=70)
def losers_tidy_nothing() -> Iterator[None]:
    def end(self: Branches, thread: RunThread) -> None:
        wait = thread.wait
        assert wait is not None
        if isinstance(wait, GatherWait):
            self._cancel_branches(thread)
            return
        if isinstance(wait, ChildWait):
            self.advance.cancel_child(wait)
            return
        thread.cancel = "raised"
        if not self._take_back(thread, wait):
            self.advance.drop_timers(thread)
            self.advance.withdraw(wait)
        self.end(thread, CANCELLED)

    with mock.patch.object(Branches, "raise_cancelled", end):
        yield


@mutant("what losers fail with while they tidy up is forgotten", first=158)
def failed_tidying_forgotten() -> Iterator[None]:
    end = Branches.end

    def forgetting(self: Branches, thread: RunThread, outcome: Any) -> None:
        end(self, thread, CANCELLED if thread.cancel and isinstance(outcome, FailureInfo) else outcome)

    with mock.patch.object(Branches, "end", forgetting):
        yield


@mutant("the last branch that ends wins the race", first=10)
def last_one_wins() -> Iterator[None]:
    wins = Branches._wins

    def late(self: Branches, wait: GatherWait, failure: Any, **how: bool) -> bool:
        return wait.ended == wait.branches and wins(self, wait, failure, **how)

    with mock.patch.object(Branches, "_wins", late):
        yield


@mutant("a branch that fails wins the race for a success, too", first=50)
def failures_win() -> Iterator[None]:
    def wins(self: Branches, wait: GatherWait, failure: Any, **_: bool) -> bool:
        node: Any = self.advance.definition.spec.nodes[wait.node]
        return bool(node.until != "all")

    with mock.patch.object(Branches, "_wins", wins):
        yield


# -- waits for the view ------------------------------------------------------------------------------
@mutant("a condition is looked at only once", first=66)
def looked_at_once() -> Iterator[None]:
    with mock.patch.dict(LOOK, {ConditionNode: _nothing}):
        yield


@mutant("a sleep until a moment that moves is not armed anew", first=32)
def never_rearmed() -> Iterator[None]:
    with mock.patch.dict(LOOK, {SleepUntilNode: _nothing}):
        yield


def _nothing(advance: Any, thread: Any, ready: Any) -> None: ...


# -- assignments and expressions ---------------------------------------------------------------------
@mutant("several targets are set one by one, while the values are still computed", first=13)
def set_one_by_one() -> Iterator[None]:
    with mock.patch.object(assignments, "_can_assign_now", return_value=True):
        yield


@mutant("an augmented assignment takes its sides the other way round", first=49)
def sides_swapped() -> Iterator[None]:
    with mock.patch.object(assignments, "Binary", _swapped):
        yield


@mutant("what stands before an await is computed behind it", first=198)
def computed_late() -> Iterator[None]:
    with mock.patch.object(hoisting, "_before", lambda context, node, rebound: node):
        yield


@mutant("what := sets is forgotten when the run waits", first=141)
def walrus_forgotten() -> Iterator[None]:
    def forgetting(self: Advance) -> None:
        self.scope.bound.clear()

    with mock.patch.object(Advance, "_store_bound", forgetting):
        yield


@mutant("the count of the view never changes", first=81)
def view_unchanged() -> Iterator[None]:
    enter = ENTER[AssignNode]

    def passing(advance: Any, thread: Any, ready: Any) -> None:
        if ready.node.attribute == "count":
            advance.evaluate(ready, "value")
            thread.node = ready.node.next
        else:
            enter(advance, thread, ready)

    with mock.patch.dict(ENTER, {AssignNode: passing}):
        yield


@mutant("an empty list counts as true")
def empty_is_true() -> Iterator[None]:
    def entering(advance: Any, thread: Any, ready: Any) -> None:
        value = advance.evaluate(ready, "test")
        thread.node = ready.node.then if value or value == [] else ready.node.otherwise

    with mock.patch.dict(ENTER, {BranchNode: entering}):
        yield


@mutant("a run that is cancelled ends where it is, and tidies nothing up", first=10)
def nothing_tidied() -> Iterator[None]:
    def ending(self: Advance, reason: str) -> None:
        self.cancel_run(reason)

    with mock.patch.object(Advance, "cancel", ending):
        yield


@mutant("a run that is cancelled does not wait for its branches", first=6)
def branches_left() -> Iterator[None]:
    def alone(self: Any) -> None:
        thread = self.advance.thread(0)
        thread.cancel = "raised"
        self.advance.fail(thread, CANCELLED, thread.wait.node)

    with mock.patch.object(Branches, "cancel_all", alone):
        yield


@mutant("what a child run fails with is raised as another error", first=96)
def childs_failure_renamed() -> Iterator[None]:
    def renamed(wait: Any, failure: FailureInfo) -> FailureInfo:
        return FailureInfo(failure.name, failure.message, "task-error", family=child.CHILD_FAMILY)

    with mock.patch.object(child, "_raised", renamed):
        yield


@mutant("a child run goes on when nobody waits for it any more", first=2)
def child_left_alone() -> Iterator[None]:
    def cutting(self: Branches, thread: RunThread) -> None:
        wait = thread.wait
        if isinstance(wait, ChildWait):
            thread.cancel = "raised"
            self._take_back(thread, wait)
            self.advance.fail(thread, CANCELLED, wait.node)
        else:
            raise_cancelled(self, thread)

    raise_cancelled = Branches.raise_cancelled
    with mock.patch.object(Branches, "raise_cancelled", cutting):
        yield


def first_shown(name: str, first: int, count: int) -> int | None:
    """The first of so many programs by which the comparison notices this mutant."""
    from tests.flow.equality import compare, input_of  # pyright: ignore[reportMissingImports]

    for number in range(first, first + count):
        # An engine that breaks down, or refuses the program, says nothing about the comparison.
        with contextlib.suppress(Exception):
            try:
                with MUTANTS[name].patch():
                    compare(number, input_of(number))
            except AssertionError:
                return number
    return None
