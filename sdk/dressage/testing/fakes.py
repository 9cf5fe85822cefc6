"""Fake tasks: what stands in a test for the workers, and what was asked of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from dressage.flow import Handler, Task, WorkflowFailure
from dressage.protocol.errors import BadInput
from dressage.testing.awaiting import await_here

P = ParamSpec("P")
R = TypeVar("R")


Branch = tuple[tuple[int, int], ...]
"""Where a branch stands: of each gather around it, which gather it is of those of its own branch, and the place in it.

Both count from 0: `((0, 1),)` is the second branch of the workflow's first gather, and `()` is outside of any.
"""


@dataclass(frozen=True)
class TaskCall:
    """One attempt of a task: its arguments by name, of the declared types, its virtual time, and its branch.

    The attempts of one call have one `call_id`; the first is `attempt` 1.
    """

    task: str
    arguments: dict[str, Any]
    attempt: int
    at: datetime
    run_id: str
    call_id: str
    branch: Branch = ()


@dataclass
class _Step:
    """What the fake does in `left` attempts; the last step of a script goes on for ever."""

    act: Callable[..., Any]
    left: int
    raises: BaseException | None = None


@dataclass
class _Script:
    steps: list[_Step] = field(default_factory=list[_Step])

    def next(self) -> _Step:
        while self.steps[0].left == 0 and len(self.steps) > 1:
            del self.steps[0]
        self.steps[0].left = max(0, self.steps[0].left - 1)
        return self.steps[0]


class FakeTask(Generic[P, R]):
    """Says what attempts of a task do in this test; `calls` has all that were made, of every run of the test.

    `returns`, `fails`, `raises` and `does` begin anew; what is added by `then_...` comes after, and the last goes on
    for ever. `times` is the number of attempts that one of them is for. As long as nothing is said, the task's own
    function runs.
    """

    def __init__(self, task: Task[P, R]) -> None:
        self._task = task
        self._script: _Script | None = None
        self.calls: list[TaskCall] = []
        self.duration = timedelta(0)
        self.answers = True
        self.taken = True

    # -- what it does ------------------------------------------------------------------------------
    def returns(self, value: R, *, times: int = 1) -> Self:
        """Returns `value`, which goes over the wire as a worker's would."""
        return self._anew().then_returns(value, times=times)

    def fails(self, failure: WorkflowFailure | type[WorkflowFailure], *, times: int = 1) -> Self:
        """Ends in a business failure, which is an answer and never retried."""
        return self._anew().then_fails(failure, times=times)

    def raises(self, error: Exception | type[Exception], *, times: int = 1) -> Self:
        """Raises a technical error, which is retried as the task and the workflow say."""
        return self._anew().then_raises(error, times=times)

    def does(self, function: Callable[P, R] | Callable[P, Coroutine[Any, Any, R]], *, times: int = 1) -> Self:
        """Calls `function`, plain or async, with the arguments by name. An AssertionError in it ends the test."""
        return self._anew().then_does(function, times=times)

    def then_returns(self, value: R, *, times: int = 1) -> Self:
        """After what was said before, returns `value`."""
        return self._then(lambda **_: value, times)

    def then_fails(self, failure: WorkflowFailure | type[WorkflowFailure], *, times: int = 1) -> Self:
        """After what was said before, ends in a business failure."""
        return self._then_raises(failure, times)

    def then_raises(self, error: Exception | type[Exception], *, times: int = 1) -> Self:
        """After what was said before, raises a technical error."""
        return self._then_raises(error, times)

    def then_does(
        self, function: Callable[P, R] | Callable[P, Coroutine[Any, Any, R]], *, times: int = 1
    ) -> Self:
        """After what was said before, calls `function`."""
        parameters = [each.name for each in self._task.definition.params]
        try:
            inspect.signature(function).bind(**dict.fromkeys(parameters))
        except TypeError as error:
            raise BadInput(
                f"the fake of task {self._task.name} cannot be called with {', '.join(parameters) or 'no arguments'} "
                f"by name ({error}): give it the task's parameters",
                code="FAKE_UNSUITABLE",
            ) from error

        def act(**arguments: Any) -> Any:
            value = cast("Callable[..., Any]", function)(**arguments)
            return await_here(value) if inspect.isawaitable(value) else value

        return self._then(act, times)

    def takes(self, duration: timedelta) -> Self:
        """How long each attempt takes, in virtual time. Without a word it takes none."""
        self.duration = duration
        return self

    def hangs(self) -> Self:
        """Takes each attempt and never answers: it ends by its `timeout`, its `heartbeat`, or the call's `deadline`."""
        self.answers = False
        return self

    def stays_queued(self) -> Self:
        """Takes no attempt, as if there were no worker: it ends by its `start_timeout`, or the call's `deadline`."""
        self.taken = False
        return self

    def _anew(self) -> Self:
        self._script, self.answers, self.taken = None, True, True
        return self

    def _then(self, act: Callable[..., Any], times: int, raises: BaseException | None = None) -> Self:
        if times < 1:
            raise BadInput(f"times is a number of attempts, 1 or more, and not {times}")
        if self._script is None:
            self._script = _Script()
        self._script.steps.append(_Step(act, times, raises))
        return self

    def _then_raises(self, error: Exception | type[Exception], times: int) -> Self:
        raised = error() if isinstance(error, type) else error

        def act(**_: Any) -> Any:
            raise raised.with_traceback(None)

        return self._then(act, times, raised)

    # -- what was asked of it ----------------------------------------------------------------------
    @property
    def was_called(self) -> bool:
        """Whether any attempt was made."""
        return bool(self.calls)

    def was_called_with(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Whether an attempt was made with exactly these arguments, defaults included."""
        signature = self._task.signature
        wanted = signature.decode_args(signature.encode_args(args, kwargs))
        return any(call.arguments == wanted for call in self.calls)

    # -- for the run -------------------------------------------------------------------------------
    def handler(self, otherwise: Handler) -> Handler:
        """What executes the next attempt: the next step of the script; without one, the handler `otherwise`."""
        if self._script is None:
            return otherwise
        step = self._script.next()
        return Handler(self._task.definition, step.act, self._task.signature, is_async=False)

    def declares(self, error: BaseException) -> bool:
        """Whether the test said that this very error is raised, or leaves it to the task's own function."""
        return self._script is None or any(step.raises is error for step in self._script.steps)

    def __repr__(self) -> str:
        return f"<fake of task {self._task.name}, {len(self.calls)} attempts>"
