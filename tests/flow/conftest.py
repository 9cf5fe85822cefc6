"""What the tests of the compiler share: definitions from text, and the real fold with fake tasks and virtual time."""

from __future__ import annotations

import heapq
import importlib.util
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
from msgspec import structs

from dressage.flow import UserTaskCancelled, WorkflowFailure
from dressage.orchestrator.fold.definition import Definition, EventDefinition
from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, SendCommand, SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.mailbox import fold_key
from dressage.orchestrator.fold.outcome import Stamp
from dressage.orchestrator.fold.state import (
    EventWait,
    Mailbox,
    RunState,
    TaskWait,
    UserWait,
    decode_state,
    encode_state,
)
from dressage.protocol.alignment import propose
from dressage.protocol.commands import (
    CancelRun,
    Command,
    FailureInfo,
    MigrateRun,
    PostEvent,
    StartRun,
    TaskResult,
    UserTaskAction,
    WorkerInfo,
)
from dressage.protocol.events import (
    BranchStarted,
    ConditionAwaited,
    EventAwaited,
    EventData,
    Published,
    SleepMoved,
    SleepStarted,
    TaskScheduled,
    UserTaskOpened,
)
from dressage.protocol.migrations import Migration
from dressage.protocol.names import is_key, key_of, key_token, run_id_of
from dressage.protocol.spec import (
    RegisteredEvent,
    RegisteredWorkflow,
    TaskNode,
    WorkflowSpec,
    effective_times,
)
from dressage.protocol.user_tasks import Action, CancelTask, Complete
from dressage.simulation import programs
from dressage.simulation.programs.program import RINGS
from dressage.worker.calls import technical

COMMANDS_MAX = 20_000
BEGAN_MS = 1_800_000_000_000
"""When a run begins."""

Path_ = tuple[tuple[int, int], ...]
"""Where a branch stands: of each gather around it its number in its own branch, and the place there."""


RINGS_MAX = 2
"""So many events interrupt, one after the other, what a branch is beside of."""

RING_MS = 2
"""How many times as long as a call takes it is until an event comes that interrupts."""

MOVES = 0.3
"""How likely a run moves before something comes to it."""

ALONE = -1
"""The place of a run that was started and is not awaited."""


@dataclass
class Outcome:
    """How a run ended: with a result, a business failure (name, message, details), or an error's class.

    `calls` and `slept` (in milliseconds) are in their order; `branches` has both for each branch, and what that
    published.
    """

    result: Any = None
    failure: tuple[str, str, Any] | None = None
    error: Any = None
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    slept: list[int] = field(default_factory=list[int])
    branches: dict[Path_, list[Any]] = field(default_factory=dict[Path_, list[Any]])


@dataclass
class Made:
    """A run that the engine makes: its place among the branches is that of the one that has started it."""

    run_id: str
    definition: Definition
    paths: dict[int, Path_]
    state: RunState | None = None

    def path_of(self, step_id: str) -> Path_:
        return self.paths[int(step_id.split("-")[0])]


Due = SetTimer | DispatchTask | CancelRun | EventWait


class Engine:
    """Runs one spec by the real fold, and its `children` by their names. The state is encoded and read again between
    commands, as a store would."""

    def __init__(
        self,
        spec: WorkflowSpec,
        tasks: Mapping[str, Callable[..., Any]],
        takes: Callable[[Path_, int], float] | None = None,
        children: Mapping[str, WorkflowSpec] | None = None,
    ) -> None:
        specs = {spec.name: spec, **(children or {})}
        self.definitions = {name: _registered(each) for name, each in specs.items()}
        self.root = Made("r", self.definitions[spec.name], {0: ()})
        self.runs: dict[str, Made] = {"r": self.root}
        self.tasks = tasks
        self.outcome = Outcome()
        self.gathers: dict[Path_, int] = {}
        self.started: dict[Path_, int] = {}
        self.path: Path_ = ()
        """Of the branch whose task is being called."""

        self.come: dict[str, Callable[..., Any]] = {}
        """What external events bring, by their names, and by the key where they are waited for at one: one comes
        whenever nothing else waits for it but the run."""

        self.keyed: set[str] = set()
        """Those of them that come to a key alone."""

        self.person: Callable[[dict[str, Any]], Any] | None = None
        """What somebody makes of a user task that was given to a group with these notes, as soon as nothing else waits
        but the run."""

        self.ring: Callable[[Path_, int], int] | None = None
        """What the n-th event of `RINGS` brings that a branch waits for; each takes its time, and only some come."""

        self._rings: Counter[Path_] = Counter()

        self.mailboxes: dict[str, Mailbox] = {}

        self.takes = takes
        """How many milliseconds the n-th call or sleep of a branch takes, beyond the length of the sleep."""

        self.moves: random.Random | None = None
        """By which chance the run moves to the `other` version of its workflow, and back, whenever it waits."""

        self.other: WorkflowSpec | None = None
        self.moved = 0
        self._versions: dict[int, Definition] = {}
        self._migrations: dict[int, Migration] = {}
        """By the version that the run is on."""

        self._begun: Counter[Path_] = Counter()
        self._numbers: dict[tuple[str, str], int] = {}
        """Of each call, sleep and timeout of a run which one it is in its branch."""

        self._posted = 0
        self._seq = 0
        self._now = 0.0
        """In milliseconds since the start. The engine's own time has no fractions of them."""

        self._due: list[tuple[float, int, Made, Due]] = []
        self._order = 0

    @property
    def state(self) -> RunState | None:
        return self.root.state

    @property
    def definition(self) -> Definition:
        return self.root.definition

    def run(self, given: Mapping[str, Any], early: int = 0, cancel_ms: float | None = None) -> Outcome:
        """`early` is how many of each external event come before the run could wait for them; at `cancel_ms` it is
        cancelled."""
        if cancel_ms is not None:
            heapq.heappush(self._due, (cancel_ms, 0, self.root, CancelRun("cancel", "for a test")))
        start = StartRun(self.definition.spec.name, 1, msgspec.Raw(msgspec.json.encode(given)), "c")
        self._fold(self.root, start)
        for event in self.come.keys() - self.keyed:
            for _ in range(early if event in self.definition.events else 0):
                if self.state is not None and not self.state.finished:
                    self._post(self.root, event)
        while (self._due or self._awaited() or self._given()) and not self._ended:
            if self.moves is not None and self.moves.random() < MOVES:
                self._move(self.root)
            if (awaited := self._awaited()) is not None:
                self._post(*awaited)
                continue
            if (open_task := self._given()) is not None:
                self._serve(*open_task)
                continue
            self._now, _, made, waiting = heapq.heappop(self._due)
            if isinstance(waiting, CancelRun):
                self._fold(made, waiting)
            elif isinstance(waiting, SetTimer):
                self._fold(made, waiting.command)
            elif isinstance(waiting, EventWait):
                self._ring(made, waiting)
            elif self._waits_for(made, waiting):
                self._fold(made, self._called(made, waiting))
        state = self.state
        assert state is not None
        assert state.finished, state
        if state.failure is not None:
            told = told_of(state.failure)
            if told[0] == "failure":
                self.outcome.failure = told[1:]
            else:
                self.outcome.error = told[1]
        elif state.status == "cancelled":
            self.outcome.error = "CancelledError"
        else:
            self.outcome.result = msgspec.json.decode(bytes(state.output or b"null"))
        open_runs = [each.run_id for each in self.runs.values() if each.state and not each.state.finished]
        assert not open_runs, "a child run outlives the one that waits for it"
        return self.outcome

    def _move(self, made: Made) -> None:
        """The run goes on in the other version of its workflow. It always can."""
        assert self.other is not None
        assert made.state is not None
        if made.state.finished or made.state.cancelling:
            return
        if not self._migrations:
            self._versions = {1: made.definition, 2: _registered(self.other, 2)}
            for before, after in ((1, 2), (2, 1)):
                old, new = (
                    RegisteredWorkflow(self._versions[each].spec, each, "") for each in (before, after)
                )
                self._migrations[before] = propose(old, new).migration
        version = made.definition.version
        self._fold(
            made, MigrateRun(self._migrations[version], f"move {self._seq}"), self._versions[3 - version]
        )
        self.moved += 1

    @property
    def _ended(self) -> bool:
        """All of them, also those that nobody waits for."""
        return all(made.state is not None and made.state.finished for made in self.runs.values())

    def _waits_for(self, made: Made, effect: DispatchTask) -> bool:
        """Whether the call is still wanted: the branch that made it may have lost a race."""
        waits = (thread.wait for thread in made.state.threads) if made.state is not None else ()
        return any(isinstance(wait, TaskWait) and wait.task_id == effect.task_id for wait in waits)

    def _awaited(self) -> tuple[Made, str, str] | None:
        """An external event that a run waits for, and that comes, and the key that it waits at."""
        for made in self.runs.values():
            threads = made.state.threads if made.state is not None else []
            waits = [thread.wait for thread in threads if isinstance(thread.wait, EventWait)]
            for wait in waits:
                if wait.event in self.come:
                    return made, wait.event, wait.key
        return None

    def _given(self) -> tuple[Made, UserWait] | None:
        """A user task that is open."""
        for made in self.runs.values():
            for thread in made.state.threads if made.state is not None else []:
                if isinstance(thread.wait, UserWait):
                    return made, thread.wait
        return None

    def _serve(self, made: Made, wait: UserWait) -> None:
        assert self.person is not None
        try:
            filled = self.person({"group": wait.group, "notes": wait.notes})
            action: Action = Complete("ann", msgspec.Raw(msgspec.json.encode(filled)))
        except UserTaskCancelled as error:
            action = CancelTask("ann", str(error))
        self._fold(made, UserTaskAction(wait.wait_id, f"action {self._seq}", action))

    def _comes_before(self, made: Made, timer_id: str) -> bool:
        """Whether this is the timeout of an event that comes, and so comes in time, or a timer of a user task."""
        assert made.state is not None
        waits = (thread.wait for thread in made.state.threads)
        return any(
            (isinstance(wait, EventWait) and wait.timer_id == timer_id and wait.event in self.come)
            or (isinstance(wait, UserWait) and timer_id in wait.timers)
            for wait in waits
        )

    def _post(self, made: Made, event: str, key: str = "") -> None:
        self._posted += 1
        brought = self.come[event](key) if key else self.come[event]()
        command = PostEvent(event, f"event-{self._posted}", msgspec.Raw(msgspec.json.encode(brought)))
        if key:
            self._fold_key(key_token(event, key), command)
        else:
            self._fold(made, command)

    def _ring(self, made: Made, wait: EventWait) -> None:
        """Posts what a wait is to get, if it still waits."""
        assert self.ring is not None
        for thread in made.state.threads if made.state is not None else []:
            if isinstance(thread.wait, EventWait) and structs.replace(thread.wait, node=wait.node) == wait:
                path = made.paths[thread.id]
                payload = msgspec.Raw(msgspec.json.encode(self.ring(path, self._rings[path])))
                self._posted += 1
                self._fold(made, PostEvent(wait.event, f"event-{self._posted}", payload))
                return

    def _await_ring(self, made: Made, event: EventAwaited) -> None:
        assert made.state is not None
        path = made.paths[event.thread]
        self._rings[path] += 1
        if self._rings[path] > RINGS_MAX or self.takes is None:
            return
        number, self._begun[path] = self._begun[path], self._begun[path] + 1
        due = self._now + RING_MS * self.takes(path, number)
        for thread in made.state.threads:
            if thread.id == event.thread and isinstance(thread.wait, EventWait):
                self._order += 1
                heapq.heappush(self._due, (due, self._order, made, thread.wait))

    def _fold_key(self, token: str, command: Command) -> None:
        self._seq += 1
        event, _ = key_of(token)
        specs = (each.spec for each in self.definitions.values())
        of, types = next((each, spec.types) for spec in specs for each in spec.events if each.name == event)
        definition = EventDefinition(RegisteredEvent(of, types, 1, ""))
        stamp = Stamp(self._seq, BEGAN_MS + int(self._now))
        outcome = fold_key(self.mailboxes.get(token), command, token, stamp, definition)
        assert outcome.code is None, outcome.message
        assert isinstance(outcome.state, Mailbox)
        self.mailboxes[token] = outcome.state
        for effect in outcome.effects:
            assert isinstance(effect, SendCommand)
            self._fold(self.runs[run_id_of(effect.token)], effect.command)

    def _fold(self, made: Made, command: Command, after: Definition | None = None) -> None:
        self._seq += 1
        assert self._seq < COMMANDS_MAX, "the run does not end"
        stamp = Stamp(self._seq, BEGAN_MS + int(self._now))
        before = None if made.state is None else encode_state(made.state)
        outcome = fold(made.state, command, made.run_id, stamp, made.definition, after)
        now = None if made.state is None else encode_state(made.state)
        assert now == before, "a fold changed the state before it"
        if isinstance(command, CancelRun) and outcome.code == "RUN_FINISHED":
            return  # A child run that has ended, as its parent will hear.
        assert outcome.code is None, outcome.message
        assert isinstance(outcome.state, RunState)
        stored = decode_state(encode_state(outcome.state))
        assert isinstance(stored, RunState)
        made.state, made.definition = stored, after or made.definition
        for event in outcome.events:
            if isinstance(event, BranchStarted):
                self._note_branch(made, event)
            elif isinstance(event, Published):
                told = event.subject, msgspec.json.decode(event.data)
                self.outcome.branches.setdefault(made.paths[event.thread], []).append(told)
            else:
                self._note_wait(made, event)
        for effect in outcome.effects:
            if isinstance(effect, DispatchTask):
                if effect.task not in self.tasks:
                    continue  # It is never done.
                delay = max(0, effect.not_before_ms - stored.time_ms)
                self._wait(made, effect, effect.task_id, delay)
            elif isinstance(effect, CancelTimer):
                self._due = [each for each in self._due if not _is_timer(each, made, effect.timer_id)]
                heapq.heapify(self._due)
            elif isinstance(effect, SetTimer) and not self._comes_before(made, effect.timer_id):
                length = effect.due_ms - stored.time_ms
                self._wait(made, effect, effect.timer_id, length)
        for effect in outcome.effects:
            if isinstance(effect, SendCommand):
                self._send(made, effect)

    def _send(self, made: Made, effect: SendCommand) -> None:
        if is_key(effect.token):
            self._fold_key(effect.token, effect.command)
            return
        run_id = run_id_of(effect.token)
        if isinstance(effect.command, StartRun):
            assert effect.command.parent is not None
            path = made.path_of(effect.command.parent.wait_id)
            if effect.command.parent.detached:
                number = self.started[path] = self.started.get(path, 0) + 1
                path = (*path, (number, ALONE))
            self.runs[run_id] = Made(run_id, self.definitions[effect.command.workflow], {0: path})
        self._fold(self.runs[run_id], effect.command)

    def _note_branch(self, made: Made, event: BranchStarted) -> None:
        around = made.paths[event.parent]
        if event.branch == 0:
            self.gathers[around] = self.gathers.get(around, -1) + 1
        made.paths[event.thread] = (*around, (self.gathers[around], event.branch))

    def _note_wait(self, made: Made, event: EventData) -> None:
        """What begins to wait, also if it is cancelled before anybody could set its timer."""
        assert made.state is not None
        if isinstance(event, TaskScheduled):
            self._note_deadline(made, event)
            self._number(made, event.task_id)
        if isinstance(event, UserTaskOpened):
            told = {"group": event.group, "notes": event.notes}
            self.outcome.branches.setdefault(made.path_of(event.user_task_id), []).append(("asked", told))
        if isinstance(event, EventAwaited) and event.event in RINGS:
            self._await_ring(made, event)
        if not isinstance(event, SleepStarted | SleepMoved | EventAwaited | ConditionAwaited):
            return
        if not event.timer_id or (isinstance(event, EventAwaited) and event.event in self.come):
            return
        self._number(made, event.timer_id)
        until = datetime.fromisoformat(event.until)
        length = round(until.timestamp() * 1000) - made.state.time_ms
        self.outcome.slept.append(length)
        self.outcome.branches.setdefault(made.path_of(event.timer_id), []).append(length)

    def _note_deadline(self, made: Made, event: TaskScheduled) -> None:
        assert made.state is not None
        node = made.definition.spec.nodes[event.node]
        assert isinstance(node, TaskNode)
        times = effective_times(node.times, made.definition.task(event.task).times)
        if times.call_s is not None and event.attempt == 1:
            call_id = event.task_id.rpartition("-")[0]
            self._number(made, f"{call_id}-deadline")
            length = round(times.call_s * 1000)
            self.outcome.branches.setdefault(made.path_of(call_id), []).append(length)

    def _number(self, made: Made, step_id: str) -> None:
        path = made.path_of(step_id)
        self._numbers[made.run_id, step_id], self._begun[path] = self._begun[path], self._begun[path] + 1

    def _wait(self, made: Made, effect: DispatchTask | SetTimer, step_id: str, length: int) -> None:
        self._order += 1
        more = 0.0
        if self.takes is not None:
            more = self.takes(made.path_of(step_id), self._numbers[made.run_id, step_id])
        heapq.heappush(self._due, (self._now + (length + more), self._order, made, effect))

    def _called(self, made: Made, effect: DispatchTask) -> TaskResult:
        by = WorkerInfo("w", 1.0)
        self.path = made.path_of(effect.task_id)
        args = made.definition.task_params[effect.task].decode(bytes(effect.args))
        if effect.attempt == 1:
            self.outcome.calls.append((effect.task, args))
            self.outcome.branches.setdefault(self.path, []).append((effect.task, args))
        try:
            output = msgspec.Raw(msgspec.json.encode(self.tasks[effect.task](**args)))
        except WorkflowFailure as failure:
            return TaskResult(effect.task_id, by, failure=failure.info())
        except Exception as error:
            return TaskResult(effect.task_id, by, error=technical(error))
        return TaskResult(effect.task_id, by, output=output)


def _registered(spec: WorkflowSpec, version: int = 1) -> Definition:
    """What runs is what a registry would hand out, not the objects that the compiler made."""
    read = msgspec.json.decode(spec.encode(), type=WorkflowSpec)
    children = {child.workflow: 1 for child in read.children}
    return Definition(RegisteredWorkflow(read, version, read.digest(), children=children))


def _is_timer(due: tuple[float, int, Made, Due], made: Made, timer_id: str) -> bool:
    return due[2] is made and not isinstance(due[3], CancelRun) and due[3].timer_id == timer_id


def told_of(info: FailureInfo) -> tuple[Any, ...]:
    """A failure as the author of a workflow knows it, the same for both ways to run one (`told_by_python`)."""
    if info.kind == "failure":
        details = msgspec.json.decode(info.details) if isinstance(info.details, msgspec.Raw) else {}
        return ("failure", info.name, info.message, details)
    if info.kind == "group":
        return ("error", ("ExceptionGroup", [told_of(each) for each in info.causes]))
    return ("error", info.family[0] if info.family else info.name)


def told_by_python(error: BaseException) -> tuple[Any, ...]:
    """What Python raised, in the words of `told_of`."""
    if isinstance(error, WorkflowFailure):
        return ("failure", error.name, error.message, error.details)
    if isinstance(error, BaseExceptionGroup):
        return ("error", ("ExceptionGroup", [told_by_python(each) for each in error.exceptions]))
    return ("error", type(error).__name__)


@pytest.fixture(scope="session")
def interpret() -> Callable[..., Outcome]:
    """Runs a spec: `interpret(spec, tasks by name, params as JSON values)`."""
    return lambda spec, tasks, given: Engine(spec, tasks).run(given)


@pytest.fixture(scope="session")
def define() -> Callable[[str], ModuleType]:
    """Executes the text of a module."""
    return programs.define


@pytest.fixture(scope="session")
def shop() -> ModuleType:
    """The example workflow beside this file."""
    path = Path(__file__).with_name("shop.py")
    spec = importlib.util.spec_from_file_location("shop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["shop"] = module
    spec.loader.exec_module(module)
    return module
