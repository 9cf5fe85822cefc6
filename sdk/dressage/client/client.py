"""The Python client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar, overload

import msgspec

from dressage.brokers.interface import Broker, Connection, Message, Stored
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.objects import RunObjects
from dressage.brokers.provision import require_namespace
from dressage.brokers.publisher import GroupPublisher
from dressage.brokers.registry import Allow, Registry, refusal
from dressage.client import finding
from dressage.client.answers import Answers
from dressage.client.children import ChildRun, children_of
from dressage.client.finding import RunQuery
from dressage.client.history import Look, follow_events, read_history
from dressage.client.large import LargeValues, Shape
from dressage.client.schedules import At, ScheduleHandle, When, command_id_of, timing_of
from dressage.client.user_tasks import UserTaskHandle, command_of
from dressage.client.values import as_raw, plain
from dressage.client.waiting import RunEnded, Wanted, fits, in_time
from dressage.flow import Event, Task, Workflow
from dressage.protocol.alignment import Proposal, propose
from dressage.protocol.commands import (
    REPLY_HEADER,
    Answer,
    Ask,
    AskAnswer,
    Command,
    DeleteRun,
    EditVariables,
    FailureInfo,
    ForkRun,
    HoldRun,
    KeyView,
    MigrateRun,
    PostEvent,
    QueueDemand,
    ReleaseRun,
    RescueRun,
    ResumeRun,
    RunView,
    RunWaits,
    SetSchedule,
    SettleTask,
    StartRun,
    StopRun,
    TaskResult,
    cancel_of,
    encoder,
)
from dressage.protocol.errors import BadInput, DressageError, NoAnswer, NotFound, OutcomeUnknown, Refused
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.large import mentions_large
from dressage.protocol.migrations import Migration, MigrationCheck
from dressage.protocol.names import (
    Names,
    check_actor,
    check_key,
    check_name,
    check_run_id,
    is_key,
    is_limiter,
    is_schedule,
    key_of,
    key_token,
    limiter_of,
    limiter_token,
    place_of,
    run_id_of,
    run_token,
    schedule_of,
    schedule_token,
)
from dressage.protocol.permits import LimiterView
from dressage.protocol.positions import node_at
from dressage.protocol.retention import Retention
from dressage.protocol.schedules import Overlap, ScheduleSpec, ScheduleView
from dressage.protocol.shardmap import ShardMap
from dressage.protocol.spec import RegisteredWorkflow, WorkflowSpec
from dressage.protocol.traces import usable_trace
from dressage.protocol.types import TypeDef
from dressage.protocol.user_tasks import Action, UserTaskView
from dressage.protocol.versions import LATEST, VersionRef, Versions, parse_target
from dressage.telemetry.tracing import current_traceparent

_log = logging.getLogger("dressage.client")

R = TypeVar("R")
T = TypeVar("T")

HOLD_S: Final = 5.0
"""How long one request for a result is held before it is asked again: a lost owner costs no more than this."""

START_TIMEOUT_S: Final = 30.0
ANSWER_S: Final = 2.0
"""How long an answer to a command is awaited before it is asked what became of the command."""

PAUSE_S_MAX: Final = 8.0
"""How long until that is asked again, at most."""

FOLDED_S: Final = 1.0
RETRY_S: Final = 0.1
EVENT_VERSION_S: Final = 10.0
"""So long a client takes the version of an event's definition for the latest."""

VERSIONS_S: Final = 1.0
"""So long a client takes a version that it starts runs of by its number for one that is not retired."""

RETENTION_S: Final = 10.0
"""So long a client takes what it knows of the namespace for what holds there: the time for which runs are kept."""

VERSIONS_KEPT: Final = 1_000
SPECS_KEPT: Final = 100
"""So many specs are kept of the workflows whose runs are given, or give, large values."""


NOT_STARTED: Final = frozenset({"VERSION_RETIRED", "WORKFLOW_ARCHIVED", "ALIAS_UNKNOWN"})
"""Why no new run of a version is started, though there may be one that was."""

GET_S: Final = 10.0
"""How long it may take to be told how a run stands."""

_ask_answers = msgspec.json.Decoder(AskAnswer)


class _Demand(msgspec.Struct):
    num_waiting: int = 0
    num_pending: int = 0
    num_ack_pending: int = 0


_demands = msgspec.json.Decoder(_Demand)


class RunFailed(DressageError):
    """The run ended without a result; `failure` says why, in the author's words if it was a business failure."""

    code = "RUN_FAILED"

    def __init__(self, run_id: str, failure: FailureInfo) -> None:
        super().__init__(f"run {run_id!r} failed with {failure.name}: {failure.message}")
        self.run_id = run_id
        self.failure = failure

    @property
    def details(self) -> dict[str, Any]:
        """The fields of a business failure by name, as JSON has them; of a technical error what is known, if any."""
        raw = self.failure.details
        return msgspec.json.decode(raw) if isinstance(raw, msgspec.Raw) else {}


class RunCancelled(RunFailed):
    """Somebody cancelled the run; `reason` is what they said."""

    code = "RUN_CANCELLED"

    def __init__(self, run_id: str, reason: str) -> None:
        DressageError.__init__(self, f"run {run_id!r} was cancelled" + (f": {reason}" if reason else ""))
        self.run_id = run_id
        self.reason = reason
        self.failure = FailureInfo("cancelled", reason)


def raise_without_output(view: RunView) -> None:
    """Raises `RunCancelled` or `RunFailed` for a run that has ended in any other way than by completing."""
    if view.status == "cancelled":
        raise RunCancelled(view.run_id, view.reason)
    if view.status != "completed":
        raise RunFailed(
            view.run_id,
            view.failure or FailureInfo(view.status, "the engine failed on it; see its history"),
        )


@dataclass(frozen=True, slots=True)
class Posted:
    """An external event that its run, or its correlation key, has. `existing` is true if it had come before, `early` if
    its run does not exist yet."""

    event_id: str
    seq: int
    existing: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Rescued:
    """Which run was rescued, by the command with sequence `seq`: the one that was asked for, or the one that has failed
    with it."""

    run_id: str
    seq: int


class RunHandle(Generic[R]):
    """A run that was started, or that the caller knows by its id."""

    def __init__(
        self,
        client: Client,
        run_id: str,
        *,
        decode: Callable[[bytes], R],
        seq: int = 0,
        existing: bool = False,
        shard: int | None = None,
    ) -> None:
        self._client = client
        self._decode = decode
        self.run_id = run_id
        self.seq = seq
        self.shard = shard
        """Where the run lives, and whose stream `seq` counts; None if that is not known yet."""
        self.existing = existing
        """True if the run was there before this start."""

    async def result(self, timeout_s: float | None = None) -> R:
        """The run's output once it has completed: of the workflow's return type, or as plain JSON values.

        What is masked in it is in clear here, as a function's return value is; every other way to read a run hides it.

        Raises `RunFailed` (`RunCancelled` if somebody cancelled it), or `NoAnswer` after `timeout_s`.
        """
        view = await self._client.wait(
            self.run_id, timeout_s=timeout_s, not_before=self.seq, shard=self.shard, revealed=True
        )
        raise_without_output(view)
        return self._decode(await self._client.output_of(view))

    async def cancel(self, reason: str = "", *, at_once: bool = False, thread: int | None = None) -> int:
        """As `Client.cancel`."""
        return await self._client.cancel(self.run_id, reason, at_once=at_once, thread=thread)

    async def stop(self, reason: str = "", *, thread: int = 0) -> int:
        """As `Client.stop`."""
        return await self._client.stop(self.run_id, reason, thread=thread)

    async def resume(self, *, thread: int = 0) -> int:
        """As `Client.resume`."""
        return await self._client.resume(self.run_id, thread=thread)

    async def rescue(
        self,
        *,
        line: int | None = None,
        skip: bool = False,
        value: Any = msgspec.UNSET,
        variables: Mapping[str, Any] | None = None,
        reason: str = "",
    ) -> Rescued:
        """As `Client.rescue`."""
        return await self._client.rescue(
            self.run_id, line=line, skip=skip, value=value, variables=variables, reason=reason
        )

    async def edit(self, variables: Mapping[str, Any], *, thread: int = 0, reason: str = "") -> int:
        """As `Client.edit`."""
        return await self._client.edit(self.run_id, variables, thread=thread, reason=reason)

    @overload
    async def post(self, event: Event[T], payload: T, *, event_id: str | None = None) -> Posted: ...
    @overload
    async def post(self, event: Event[None], *, event_id: str | None = None) -> Posted: ...
    @overload
    async def post(self, event: str, payload: Any = None, *, event_id: str | None = None) -> Posted: ...
    async def post(
        self, event: Event[Any] | str, payload: Any = None, *, event_id: str | None = None
    ) -> Posted:
        """As `Client.post`."""
        return await self._client.post(self.run_id, event, payload, event_id=event_id)

    async def children(self) -> list[ChildRun]:
        """As `Client.children`."""
        return await self._client.children(self.run_id)

    async def state(self) -> RunView:
        return await self._client.get(self.run_id, shard=self.shard)

    def history(self, *, after: int = -1) -> AsyncGenerator[ReceivedEvent, None]:
        """As `Client.history`."""
        return self._client.history(self.run_id, after=after)

    def follow(self, *, after: int = -1) -> AsyncGenerator[ReceivedEvent, None]:
        """As `Client.follow`."""
        return self._client.follow(self.run_id, after=after, shard=self.shard)

    async def wait_for_event(
        self, wanted: Wanted, *, after: int = -1, timeout_s: float | None = None
    ) -> ReceivedEvent:
        """As `Client.wait_for_event`."""
        return await self._client.wait_for_event(
            self.run_id, wanted, after=after, timeout_s=timeout_s, shard=self.shard
        )

    async def wait_for_state(
        self, holds: Callable[[RunView], bool], *, timeout_s: float | None = None
    ) -> RunView:
        """As `Client.wait_for_state`."""
        return await self._client.wait_for_state(self.run_id, holds, timeout_s=timeout_s, shard=self.shard)


class Client:
    """Talks to one namespace. Use it as an async context manager.

    All methods may be called concurrently. Every write is safe to repeat, and is repeated by the client itself
    while its outcome is unknown.
    """

    def __init__(
        self,
        server: str | Broker,
        *,
        namespace: str = "default",
        actor: str = "",
        patience_s: float = START_TIMEOUT_S,
    ) -> None:
        self._broker: Broker = JetStreamBroker(server) if isinstance(server, str) else server
        self.names: Final = Names(namespace)
        self.actor: Final = check_actor(actor)
        self._patience_s = patience_s
        self._connection: Connection | None = None
        self._publisher: GroupPublisher | None = None
        self._registry: Registry | None = None
        self._large: LargeValues | None = None
        self._specs: dict[tuple[str, int], WorkflowSpec] = {}
        self._versions: dict[str, tuple[Versions, float]] = {}
        self._asking_versions: dict[str, asyncio.Future[Versions]] = {}
        self._map = ShardMap()
        self._retention = Retention(), 0.0
        self._answers = Answers()
        self._event_versions: dict[str, tuple[int, float]] = {}

    # -- life --------------------------------------------------------------------------------------
    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Raises `ServerUnreachable`, or `NotFound` when no orchestrator has served the namespace yet."""
        connection = self._connection = await self._broker.connect("dressage-client", reconnect=True)
        try:
            await self._read_namespace(connection)
        except BaseException:
            await connection.close()
            raise
        self._publisher = GroupPublisher(connection, patience_s=self._patience_s)
        self._registry = Registry(connection, self.names)
        self._large = LargeValues(RunObjects(connection, self.names, patience_s=self._patience_s))
        await self._answers.open(connection)

    async def _read_namespace(self, connection: Connection) -> None:
        namespace = await self._patiently(lambda: require_namespace(connection, self.names))
        self._map = namespace.map
        self._retention = namespace.retention, asyncio.get_running_loop().time() + RETENTION_S

    async def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
        if self._connection is not None:
            await self._connection.close()

    @property
    def connection(self) -> Connection:
        if self._connection is None:
            raise BadInput(
                "this client is not connected: use it as 'async with Client(...)'", code="NOT_CONNECTED"
            )
        return self._connection

    @property
    def registry(self) -> Registry:
        """Definitions of the namespace. Raises `BadInput` before `connect`."""
        if self._registry is None:
            raise BadInput(
                "this client is not connected: use it as 'async with Client(...)'", code="NOT_CONNECTED"
            )
        return self._registry

    # -- definitions -------------------------------------------------------------------------------
    async def register(
        self, workflow: WorkflowSpec | Workflow[..., Any], *, allow: Allow = "all", build: str = ""
    ) -> RegisteredWorkflow:
        """Registers a workflow, and before it those that it starts runs of.

        The same one again is a no-op, a changed one becomes a new version, and so does one whose children have changed.
        `allow="compatible"` refuses a change that breaks those who use the workflow, and `"none"` any change. Tasks of
        runs of a version that has a `build`, a name, go to workers of that build. Raises
        `ChangeRefused`, `BadSpec`, `BadName`, or `EventConflict` where an external event of it means another thing to
        others; for a spec, whose children are to be there, also `NotFound` (WORKFLOW_UNKNOWN).
        """
        if isinstance(workflow, WorkflowSpec):
            return await self._register(workflow, allow, build)
        specs = [each.spec for each in workflow.with_children()]
        if allow != "all":
            for plan in await self._patiently(lambda: self.registry.plans(specs, build)):
                refused = refusal(plan, allow)
                if refused is not None:
                    raise refused
        return [await self._register(spec, allow, build) for spec in specs][-1]

    async def _register(self, spec: WorkflowSpec, allow: Allow, build: str) -> RegisteredWorkflow:
        registered, _ = await self._patiently(
            lambda: self.registry.put(spec, self.actor, allow=allow, build=build)
        )
        return registered

    async def _resolved(self, name: str, ref: VersionRef) -> int:
        """The number of the version that a run gets. Whether one is retired is not asked for each run."""
        known = self._versions.get(name)
        if (
            isinstance(ref, int)
            and ref > 0
            and known is not None
            and asyncio.get_running_loop().time() < known[1]
        ):
            with contextlib.suppress(NotFound, BadInput):
                return known[0].resolve(name, ref)
        found = await (
            self._versions_of(name) if isinstance(ref, int) and ref > 0 else self._asked_versions(name)
        )
        self._versions.pop(name, None)
        self._versions[name] = found, asyncio.get_running_loop().time() + VERSIONS_S
        if len(self._versions) > VERSIONS_KEPT:
            del self._versions[next(iter(self._versions))]
        return found.resolve(name, ref)

    async def _asked_versions(self, name: str) -> Versions:
        return await self._patiently(lambda: self.registry.versions(name))

    async def _versions_of(self, name: str) -> Versions:
        """As others who start runs of it by its number just now: hundreds do when what was known is too old."""
        asking = self._asking_versions.get(name)
        if asking is None:
            asking = self._asking_versions[name] = asyncio.ensure_future(self._asked_versions(name))
            asking.add_done_callback(lambda _: self._asking_versions.pop(name, None))
        return await asyncio.shield(asking)

    async def _keep_ms(self, name: str) -> int | None:
        """For how long a run that is started now is kept when it has ended: it says that itself."""
        known = self._versions.get(name)
        own = None if known is None else known[0].retention
        if own is None and asyncio.get_running_loop().time() >= self._retention[1]:
            await self._read_namespace(self.connection)
        return (self._retention[0] if own is None else own).keep_ms

    async def _version_of(self, run_id: str) -> int:
        """That of a run that there is, which may be started again, as long as it is the same; 0 if there is none."""
        try:
            return (await self.get(run_id)).version
        except (NotFound, NoAnswer):
            return 0

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeats what has no known outcome, while the client's patience lasts; it must be harmless to repeat."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while True:
            try:
                return await ask()
            except OutcomeUnknown:
                if asyncio.get_running_loop().time() >= deadline or self.connection.lost.is_set():
                    raise
            await asyncio.sleep(RETRY_S)

    # -- runs --------------------------------------------------------------------------------------
    @overload
    async def start(
        self,
        workflow: Workflow[..., T],
        input: Mapping[str, Any] | msgspec.Raw | None = None,
        *,
        run_id: str | None = None,
        version: VersionRef | None = None,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
        traceparent: str | None = None,
    ) -> RunHandle[T]: ...
    @overload
    async def start(
        self,
        workflow: str,
        input: Mapping[str, Any] | msgspec.Raw | None = None,
        *,
        run_id: str | None = None,
        version: VersionRef | None = None,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
        traceparent: str | None = None,
    ) -> RunHandle[Any]: ...
    async def start(
        self,
        workflow: str | Workflow[..., Any],
        input: Mapping[str, Any] | msgspec.Raw | None = None,  # noqa: A002
        *,
        run_id: str | None = None,
        version: VersionRef | None = None,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
        traceparent: str | None = None,
    ) -> RunHandle[Any]:
        """Starts a run and returns once the engine has accepted it.

        `input` is a mapping of parameters by name. The same `run_id` with the same input is the same run, however
        often and by whomever it is started; with other input it is refused (RUN_ID_CONFLICT). `version` is a
        number, a label as `2.1` or `2.x`, or an alias; a text may also say `name@version`. Without one the latest is
        taken. With a `command_id` of the caller's a repeat of one start is known from another start. The run is in the
        trace of `traceparent`, a W3C trace context (empty: in none), or else of the span that this is called in. Raises
        `Refused`, `NotFound` (WORKFLOW_UNKNOWN, ALIAS_UNKNOWN), `BadInput` (VERSION_RETIRED, WORKFLOW_ARCHIVED), or
        `NoAnswer` after `timeout_s`.
        """
        name, ref = _target(workflow, version)
        decode = plain if isinstance(workflow, str) else workflow.decode_output
        try:
            wanted = await self._resolved(name, ref)
        except (BadInput, NotFound) as error:
            may_be = run_id is not None and error.code in NOT_STARTED
            wanted = await self._version_of(check_run_id(run_id)) if may_be else 0
            if not wanted:
                raise error from None
        chosen = str(uuid.uuid4()) if run_id is None else check_run_id(run_id)
        who = check_actor(actor or self.actor)
        keep_ms = await self._keep_ms(name)
        given = await self._input_of(chosen, name, wanted, as_raw({} if input is None else input), timeout_s)
        command = StartRun(
            *(name, wanted, given, command_id_of(command_id), who),
            keep_ms=keep_ms,
            traceparent=usable_trace(current_traceparent() if traceparent is None else traceparent),
        )
        answer = await self._ask_for(run_token(chosen), command, timeout_s)
        return RunHandle(
            self, chosen, decode=decode, seq=answer.seq, existing=answer.existing, shard=answer.shard
        )

    async def _input_of(
        self, run_id: str, workflow: str, version: int, given: msgspec.Raw, timeout_s: float
    ) -> msgspec.Raw:
        """The input with what is large of it stored. Raises `BadInput` (VALUE_TOO_LARGE), or `NoAnswer`."""
        raw = bytes(given)
        if not LargeValues.may_be_stored(raw):
            return given
        spec = await self._spec(workflow, version)
        return msgspec.Raw(await self._stored(run_id, spec.params, spec.types, raw, timeout_s))

    async def _spec(self, workflow: str, version: int) -> WorkflowSpec:
        """That of a version, which never changes."""
        key = workflow, version
        if key not in self._specs:
            found = await self._patiently(lambda: self.registry.get(workflow, version))
            self._specs[key] = found.spec
            if len(self._specs) > SPECS_KEPT:
                del self._specs[next(iter(self._specs))]
        return self._specs[key]

    async def _stored(
        self, run_id: str, shape: Shape, types: tuple[TypeDef, ...], raw: bytes, timeout_s: float
    ) -> bytes:
        """JSON with what is large of it stored for a run."""
        assert self._large is not None, "connected"
        try:
            async with asyncio.timeout(timeout_s):
                return await self._large.stored(run_id, shape, types, raw)
        except TimeoutError as error:
            raise NoAnswer(
                f"a large value of run {run_id!r} was not stored in {timeout_s:g} s, and nothing was sent: call again, "
                "with more time"
            ) from error

    async def output_of(self, view: RunView) -> bytes:
        """The output of a run that has completed, in JSON, with what is large of it fetched.

        Raises `ObjectDamaged`, or `BrokerError` where the object store cannot be reached.
        """
        raw = bytes(view.output) if view.output else b"null"
        if not mentions_large(raw):
            return raw
        large = self._large
        assert large is not None, "connected"
        spec = await self._spec(view.workflow, view.version)
        return await self._patiently(lambda: large.fetched(view.run_id, spec.output, spec.types, raw))

    async def send(self, run_id: str, command: Command) -> int:
        """Hands a command over; returns its sequence once it is safe in the stream, whatever comes of it."""
        return (await self._publish(run_token(run_id), command, None)).seq

    async def report(self, run_id: str, result: TaskResult, *, timeout_s: float = START_TIMEOUT_S) -> int:
        """Reports a task's result and awaits its acceptance. Raises `Refused` for one that nobody waits for."""
        return (await self._ask_for(run_token(run_id), result, timeout_s)).seq

    async def cancel(
        self,
        run_id: str,
        reason: str = "",
        *,
        at_once: bool = False,
        thread: int | None = None,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Cancels a run, and returns the command's sequence once that is committed.

        `CancelledError` is raised where the run waits, as asyncio does: its `finally` clauses and sagas run, and then
        it ends as cancelled, or as failed if they fail; it goes on if the workflow catches that. `at_once` ends it
        where it stands instead, and nothing of the workflow runs any more; so it also ends a run that is tidying up.
        The handler of an attempt that a worker has is told to end; an attempt that waits in its queue is still
        executed. The result of either is refused.

        With a `thread`, the id of a branch (its event `branch-started` has it), only this is cancelled in the same way,
        with what it has started, and the run goes on: a `gather` fails with `BranchCancelled` when all of its branches
        have ended, and a race goes on without it.

        A run, or a thread, that is being cancelled stays so, and so does a run that is cancelled already; that is no
        error. With a `command_id` of the caller's the same call again changes nothing. Raises `Refused` (RUN_UNKNOWN,
        RUN_FINISHED, THREAD_UNKNOWN, CANCEL_INVALID for thread 0, which is the run, REASON_TOO_LONG), `NoAnswer` after
        `timeout_s`, or `BadInput` (CANCEL_INVALID) for a thread that is to end `at_once`.
        """
        command = cancel_of(
            command_id_of(command_id), reason, check_actor(actor or self.actor), at_once, thread
        )
        return (await self._ask_for(run_token(run_id), command, timeout_s)).seq

    async def stop(
        self,
        run_id: str,
        reason: str = "",
        *,
        thread: int = 0,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Stops a run until it is resumed, and returns the command's sequence once that is committed.

        With a `thread`, the id of one of its run threads, only this is stopped, and what it has started. What is on its
        way is not taken back, as attempts, timers and user tasks; what they come to is kept until then. Child runs that
        it waits for are stopped with it, and those that end with it.

        A run that is stopped stays so, and that is no error. With a `command_id` of the caller's the same call again
        changes nothing. Raises `Refused` (RUN_UNKNOWN, RUN_FINISHED, THREAD_UNKNOWN, REASON_TOO_LONG), or `NoAnswer`
        after `timeout_s`.
        """
        chosen = command_id_of(command_id)
        command = StopRun(chosen, reason, check_actor(actor or self.actor), thread)
        return (await self._ask_for(run_token(run_id), command, timeout_s)).seq

    async def resume(
        self,
        run_id: str,
        *,
        thread: int = 0,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Lets a run go on that was stopped, or one of its run threads, and returns the command's sequence once that is
        committed.

        One that was not goes on anyway, and that is no error. What was stopped twice, as a run and as one of its
        threads, or as a child run with its parent, waits for both. With a `command_id` of the caller's the same call
        again changes nothing. Raises `Refused` (RUN_UNKNOWN, RUN_FINISHED), or `NoAnswer` after `timeout_s`.
        """
        chosen = command_id_of(command_id)
        command = ResumeRun(chosen, check_actor(actor or self.actor), thread)
        return (await self._ask_for(run_token(run_id), command, timeout_s)).seq

    async def delete(
        self,
        run_id: str,
        reason: str = "",
        *,
        events: bool = False,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Deletes a run that has ended, and returns the command's sequence once that is committed.

        Its state goes, and those of the child runs that it has waited for, or that ended with it; with `events` also
        their output events in the stream. Analytics forget it by its last event, `run-deleted`. Another run may have
        its id from then on. What is left to remove is removed right behind that, also if an orchestrator dies
        meanwhile. A child run is deleted with its parent, or by itself once that is gone.

        With a `command_id` of the caller's the same call again changes nothing, for some minutes. Raises `Refused`
        (RUN_UNKNOWN, RUN_OPEN, RUN_HELD, RUN_OWNED, RUN_ELSEWHERE, REASON_TOO_LONG), or `NoAnswer` after `timeout_s`.
        """
        chosen = command_id_of(command_id)
        command = DeleteRun(chosen, reason, check_actor(actor or self.actor), events)
        try:
            return (await self._ask_for(run_token(run_id), command, timeout_s)).seq
        except Refused as refused:
            if refused.code != "RUN_OWNED" or await self._has_parent(run_id):
                raise
        orphan = msgspec.structs.replace(command, orphan=True)
        return (await self._ask_for(run_token(run_id), orphan, timeout_s)).seq

    async def _has_parent(self, run_id: str) -> bool:
        """Whether the run is there that has started this one."""
        try:
            await self.get((await self.get(run_id)).parent)
        except NotFound:
            return False
        return True

    async def hold(
        self,
        run_id: str,
        reason: str = "",
        *,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Keeps a run from being deleted until it is released, by whomever and whatever, and with it its child runs;
        returns the command's sequence once that is committed. It may have ended or not, and goes on as before.

        One that is held stays so, and that is no error. Raises `Refused` (RUN_UNKNOWN, RUN_ELSEWHERE,
        REASON_TOO_LONG), or `NoAnswer` after `timeout_s`.
        """
        chosen = command_id_of(command_id)
        command = HoldRun(chosen, reason, check_actor(actor or self.actor))
        return (await self._ask_for(run_token(run_id), command, timeout_s)).seq

    async def release(
        self,
        run_id: str,
        *,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Holds a run no longer, and returns the command's sequence once that is committed. If the time is over for
        which it was to be kept, it is deleted.

        One that is not held is no error. Raises `Refused` (RUN_UNKNOWN, RUN_ELSEWHERE), or `NoAnswer` after
        `timeout_s`.
        """
        command = ReleaseRun(command_id_of(command_id), check_actor(actor or self.actor))
        return (await self._ask_for(run_token(run_id), command, timeout_s)).seq

    async def retry_task(
        self,
        run_id: str,
        task_id: str,
        *,
        reason: str = "",
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Retries a dead task of a run, and returns the command's sequence once that is committed.

        It is one whose last attempt has failed, and which waits for this (`exhausted="wait"`); the run's view lists
        them in `dead_tasks`, with their `task_id`. It has all its retries once more. With a `command_id` of the
        caller's the same call again changes nothing. Raises `Refused` (RUN_UNKNOWN, RUN_FINISHED, TASK_UNKNOWN,
        REASON_TOO_LONG), or `NoAnswer` after `timeout_s`.
        """
        return await self._settle(run_id, task_id, "retry", reason, command_id, timeout_s, actor)

    async def fail_task(
        self,
        run_id: str,
        task_id: str,
        *,
        reason: str = "",
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Lets a dead task fail: what its last attempt has failed with is raised in the workflow. The rest is as
        `retry_task` has it."""
        return await self._settle(run_id, task_id, "fail", reason, command_id, timeout_s, actor)

    async def _settle(
        self,
        run_id: str,
        task_id: str,
        do: Literal["retry", "fail"],
        reason: str,
        command_id: str | None,
        timeout_s: float,
        actor: str,
    ) -> int:
        chosen = command_id_of(command_id)
        command = SettleTask(task_id, do, chosen, reason, check_actor(actor or self.actor))
        return (await self._ask_for(run_token(run_id), command, timeout_s)).seq

    async def rescue(
        self,
        run_id: str,
        *,
        line: int | None = None,
        skip: bool = False,
        value: Any = msgspec.UNSET,
        variables: Mapping[str, Any] | None = None,
        reason: str = "",
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Rescued:
        """Lets a run go on that has failed, whatever it has failed with, and returns once that is committed.

        It goes on where the failure was raised in the run itself: the step is done anew, and so are all branches of a
        gather. With a `line` of the workflow's file it goes on there; with `skip` behind the step, as if that had given
        `value`. `variables` are set before, by their names. What the failure has set going is not taken back: what a
        saga has undone stays undone, child runs that were cancelled stay so.

        If it has failed with a child run, that is rescued, and waited for once more. A child run is rescued with the
        run that has failed with it, which this looks for; it is done when the child goes on, too. Named with a line,
        `skip`, a value or variables, a child is refused.

        With a `command_id` of the caller's the same call again changes nothing. Raises `Refused` (RUN_UNKNOWN,
        RUN_OPEN, RUN_FINISHED, RUN_OWNED, RUN_DELETED, RUN_ELSEWHERE, REASON_TOO_LONG, RESCUE_REFUSED with what is in
        the way), `NotFound` (RUN_UNKNOWN) and `BadInput` (RESCUE_INVALID) for a line where no run can go on, or
        `NoAnswer` after `timeout_s`.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        given = {name: msgspec.Raw(_json(each, "RESCUE_INVALID")) for name, each in (variables or {}).items()}
        command = RescueRun(
            command_id_of(command_id),
            reason,
            check_actor(actor or self.actor),
            None if line is None else await self._node_at(run_id, line),
            skip,
            value if value is msgspec.UNSET else msgspec.Raw(_json(value, "RESCUE_INVALID")),
            given,
        )
        return await self._rescue(run_id, command, deadline)

    async def _rescue(self, run_id: str, command: RescueRun, deadline: float) -> Rescued:
        """Goes up to who has failed with the run, or is rescued by this very command, which it knows."""
        left_s = max(0.0, deadline - asyncio.get_running_loop().time())
        try:
            return Rescued(run_id, (await self._ask_for(run_token(run_id), command, left_s)).seq)
        except Refused as refused:
            plain_one = command.node is None and not command.skip and not command.variables
            if refused.code not in ("RUN_OWNED", "RUN_OPEN", "RUN_FINISHED") or not plain_one:
                raise
            view = await self.get(run_id)
            above = await self._who_waits_for(view)
            # One that has failed otherwise would go on by it; one that has not knows a command that comes again.
            if above is None or (
                above.status in ("failed", "engine-fault")
                and (refused.code != "RUN_OWNED" or above.failed_child != run_id)
            ):
                raise
            try:
                rescued = await self._rescue(above.run_id, command, deadline)
            except Refused as other:
                if other.code in ("RUN_OPEN", "RUN_FINISHED"):
                    raise refused from None  # It has not failed with this one.
                raise
        await self._until_moved(view, above, deadline)
        return rescued

    async def _who_waits_for(self, view: RunView) -> RunView | None:
        """The run that has started this one, and waits for its end; None if there is none."""
        if not view.awaited:
            return None
        try:
            return await self.get(view.parent)
        except NotFound:
            return None

    async def _until_moved(self, before: RunView, parent: RunView, deadline: float) -> None:
        """Its parent tells it to go on: who asks for its end is not to be told of the one before. A parent that has
        ended again was told that it cannot, or has failed otherwise."""
        with contextlib.suppress(NotFound):
            while before.status == "failed" and asyncio.get_running_loop().time() < deadline:
                above = await self.get(parent.run_id)
                view = await self.get(before.run_id)
                if view.events > before.events or above.status != "running":
                    return
                await asyncio.sleep(RETRY_S)

    async def fork(
        self,
        run_id: str,
        new_id: str | None = None,
        *,
        line: int | None = None,
        variables: Mapping[str, Any] | None = None,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> RunHandle[Any]:
        """Starts another run of the same version, which goes on with what a run has ended with, and returns once it is
        there: where that has failed, or at a `line` of the workflow's file, with these `variables` set before.

        The run that has ended stays as it is. `new_id` is that of the other one. With a `command_id` of the caller's
        the same call again is the same run. Raises `Refused` (RUN_OPEN, RESCUE_REFUSED with what is in the way,
        RUN_ID_CONFLICT for an id that another run has), `NotFound` (RUN_UNKNOWN), `BadInput` (RESCUE_INVALID), or
        `NoAnswer` after `timeout_s`.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        said = command_id_of(command_id)
        chosen = (
            str(uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {said}"))
            if new_id is None
            else check_run_id(new_id)
        )
        if command_id is not None and (there := await self._forked(chosen, said)) is not None:
            there.existing = True
            return there
        given = {name: msgspec.Raw(_json(each, "RESCUE_INVALID")) for name, each in (variables or {}).items()}
        node = None if line is None else await self._node_at(run_id, line)
        workflow = (await self.get(run_id)).workflow
        own = (await self._versions_of(workflow)).retention
        keep_ms = await self._keep_ms(workflow) if own is None else own.keep_ms
        command = ForkRun(chosen, said, node, given, check_actor(actor or self.actor), keep_ms)
        await self._ask_for(run_token(run_id), command, timeout_s)
        while (found := await self._forked(chosen, said)) is None:
            if asyncio.get_running_loop().time() > deadline:
                raise NoAnswer(
                    f"run {chosen!r} was not started in {timeout_s:g} s: the namespace may have as many open runs as "
                    "it may, or a run of this id was deleted a moment ago"
                )
            await asyncio.sleep(RETRY_S)
        return found

    async def _forked(self, run_id: str, command_id: str) -> RunHandle[Any] | None:
        """The run that this command has made; None if there is none yet. Raises `Refused` for another one."""
        try:
            view = await self.get(run_id)
        except NotFound:
            return None
        if view.forked is None or view.forked.command_id != command_id:
            message = f"run {run_id!r} exists, and is another one: choose another run id"
            raise Refused(message, code="RUN_ID_CONFLICT")
        return RunHandle(self, run_id, decode=plain, seq=view.seq, shard=view.shard)

    async def _node_at(self, run_id: str, line: int) -> int:
        view = await self.get(run_id)
        spec = await self._spec(view.workflow, view.version)
        return node_at(spec, line)

    async def edit(
        self,
        run_id: str,
        variables: Mapping[str, Any],
        *,
        thread: int = 0,
        reason: str = "",
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Sets variables of a run that has not ended, by their names, and returns the command's sequence once that is
        committed. What waits for a condition looks at them at once; arguments of a task that was called before stay.

        With a `thread`, the id of a branch (its event `branch-started` has it), variables are those that it sees. With
        a `command_id` of the caller's the same call again changes nothing. Raises `Refused` (RUN_UNKNOWN, RUN_FINISHED,
        THREAD_UNKNOWN, REASON_TOO_LONG, EDIT_REFUSED for a name or a value that the workflow does not have), or
        `NoAnswer` after `timeout_s`.
        """
        given = {name: msgspec.Raw(_json(value, "EDIT_INVALID")) for name, value in variables.items()}
        chosen = command_id_of(command_id)
        command = EditVariables(chosen, given, thread, reason, check_actor(actor or self.actor))
        return (await self._ask_for(run_token(run_id), command, timeout_s)).seq

    async def plan_migration(
        self,
        before: str,
        after: str,
        *,
        lines: Mapping[int, int] | None = None,
        variables: Mapping[str, str] | None = None,
        values: Mapping[str, Any] | None = None,
    ) -> Proposal:
        """How runs of the version `before`, as `order@1`, would go on in `after`: what is proposed, step by step.

        Steps are found again by what they do and where they stand. `lines` says it of those of which you know better:
        by the line of a step where the runs are that wait there, the line at which they go on. A run that waits there
        for the same thing waits on; another one gives that up, and begins. `variables` are those that have another name
        in `after`, `values` what variables of `after` begin with that a run does not have.

        Raises `BadInput` (MIGRATION_INVALID), and as finding a version does.
        """
        given = {
            name: msgspec.Raw(_json(value, "MIGRATION_INVALID")) for name, value in (values or {}).items()
        }
        old = await self.registry.get(*parse_target(before))
        new = await self.registry.get(*parse_target(after))
        return propose(old, new, lines, variables, given)

    async def check_migration(self, run_id: str, migration: Migration) -> MigrationCheck:
        """Whether a run could move to the other version as it stands now, and what is in the way if it could not.

        Raises `NotFound` (RUN_UNKNOWN), or `NoAnswer`.
        """
        ask = Ask("migration", check_run_id(run_id), hold_s=ANSWER_S, migration=migration)
        answer = await self._asked(ask, run_token(run_id), GET_S, None)
        if answer.migration is None:
            raise NotFound(answer.message, code="RUN_UNKNOWN")
        return answer.migration

    async def migrate(
        self,
        run_id: str,
        migration: Migration,
        *,
        command_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> int:
        """Lets a run go on in another version, and returns the command's sequence once that is committed.

        The run moves as a whole, or stays as it is and is refused with what is in the way. One that is on that version
        already stays so, and that is no error. With a `command_id` of the caller's the same call again changes nothing.
        Raises `Refused` (RUN_UNKNOWN, MIGRATION_REFUSED, SPEC_INVALID), or `NoAnswer` after `timeout_s`.
        """
        chosen = command_id_of(command_id)
        command = MigrateRun(migration, chosen, check_actor(actor or self.actor))
        return (await self._ask_for(run_token(run_id), command, timeout_s)).seq

    @overload
    async def post(
        self,
        run_id: str,
        event: Event[T],
        payload: T,
        *,
        event_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Posted: ...
    @overload
    async def post(
        self,
        run_id: str,
        event: Event[None],
        *,
        event_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Posted: ...
    @overload
    async def post(
        self,
        run_id: str,
        event: str,
        payload: Any = None,
        *,
        event_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Posted: ...
    async def post(
        self,
        run_id: str,
        event: Event[Any] | str,
        payload: Any = None,
        *,
        event_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Posted:
        """Posts an external event to a run, and returns once the run has it: its earliest wait for the event takes it,
        now or later. A run that does not exist yet has it when it is started.

        The same `event_id` is the same event, however late and by whomever it is posted again, as long as the run is
        kept; without one each call is an event of its own. Raises `BadValue` for a payload that is not of the event's
        type, `Refused` (EVENT_INVALID, EVENT_UNKNOWN, EVENTS_FULL, RUN_FINISHED, and RUN_UNKNOWN where no
        registered workflow waits for such an event), or `NoAnswer` after `timeout_s`.
        """
        token = run_token(run_id)
        command = await self._post_of(event, payload, event_id, actor)
        if command.version and LargeValues.may_be_stored(bytes(command.payload)):
            known = await self._patiently(lambda: self.registry.event(command.event, command.version))
            stored = await self._stored(
                run_id, known.event.type, known.types, bytes(command.payload), timeout_s
            )
            command = msgspec.structs.replace(command, payload=msgspec.Raw(stored))
        answer = await self._ask_for(token, command, timeout_s)
        return Posted(command.event_id, answer.seq, answer.existing, answer.early)

    @overload
    async def post_by_key(
        self,
        event: Event[T],
        key: str,
        payload: T,
        *,
        event_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Posted: ...
    @overload
    async def post_by_key(
        self,
        event: Event[None],
        key: str,
        *,
        event_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Posted: ...
    @overload
    async def post_by_key(
        self,
        event: str,
        key: str,
        payload: Any = None,
        *,
        event_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Posted: ...
    async def post_by_key(
        self,
        event: Event[Any] | str,
        key: str,
        payload: Any = None,
        *,
        event_id: str | None = None,
        timeout_s: float = START_TIMEOUT_S,
        actor: str = "",
    ) -> Posted:
        """Posts an external event to a correlation key: all runs that wait there take it, or else the first that comes.

        The same `event_id` at the same key is the same event, however late and by whomever it is posted again; without
        one each call is an event of its own. `existing` is said of the key's last thousands of events only. Raises
        `BadValue` for a payload that is not of the event's type, `BadInput` (KEY_INVALID), `NotFound` (EVENT_UNKNOWN)
        for an event that no registered workflow waits for, `Refused` (EVENT_INVALID, EVENTS_FULL), or `NoAnswer` after
        `timeout_s`.
        """
        check_key(key)
        command = await self._post_of(event, payload, event_id, actor)
        if not command.version:
            raise NotFound(
                f"no workflow that is registered waits for event {command.event!r}: register one first, or look at the "
                "name",
                code="EVENT_UNKNOWN",
            )
        answer = await self._ask_for(key_token(command.event, key), command, timeout_s)
        return Posted(command.event_id, answer.seq, answer.existing, answer.early)

    async def key(self, event: Event[Any] | str, key: str, *, not_before: int = 0) -> KeyView:
        """A correlation key as it stands: who waits there, and which events nobody has claimed.

        Raises `NotFound` (KEY_UNKNOWN) where neither ever was, `BadInput` (KEY_INVALID), or `NoAnswer`.
        """
        name = check_name(event, "event") if isinstance(event, str) else event.name
        answer = await self._asked(
            Ask("key", check_key(key), not_before, hold_s=ANSWER_S, event=name),
            key_token(name, key),
            10.0,
            None,
        )
        if answer.key is None:
            raise NotFound(answer.message, code="KEY_UNKNOWN")
        return answer.key

    # -- schedules -----------------------------------------------------------------------------------
    async def set_schedule(
        self,
        name: str,
        workflow: str | Workflow[..., Any],
        input: Mapping[str, Any] | msgspec.Raw | None = None,  # noqa: A002
        *,
        when: When,
        overlap: Overlap = "skip",
        jitter: timedelta = timedelta(0),
        catch_up: timedelta = timedelta(days=1),
        version: VersionRef | None = None,
        run_id: str = "",
        moment_as: str = "",
        new: bool = False,
        command_id: str | None = None,
        actor: str = "",
        timeout_s: float = START_TIMEOUT_S,
    ) -> ScheduleHandle:
        """Makes a schedule, or changes the one of this name, and returns once the engine has it.

        A run's id is the schedule's name and the moment. `overlap` says what becomes of a fire while a run of it is
        open: it is skipped, or queued until that has ended; or that is cancelled, and the next one started when it has
        ended; or all are allowed. `jitter` spreads fires over so long. What was due while nobody served the schedule
        fires late if that is no longer ago than `catch_up`, and is missed otherwise. Runs are of what `version` is at
        each fire, as `start` has it: of the latest if it is not given. `moment_as` is the parameter, a datetime, that
        is given the moment that a run is for. One that is to be `new` is refused where there is one (SCHEDULE_EXISTS).

        Raises `Refused` (SCHEDULE_INVALID, INPUT_INVALID), `NotFound` (WORKFLOW_UNKNOWN), `BadName`, `NoAnswer`.
        """
        target, ref = _target(workflow, version)
        spec = ScheduleSpec(
            target,
            timing_of(when),
            as_raw({} if input is None else input),
            0 if ref == LATEST else ref,
            overlap,
            jitter.total_seconds(),
            catch_up.total_seconds(),
            run_id,
            moment_as,
        )
        return await self.put_schedule(
            name, spec, new=new, command_id=command_id, actor=actor, timeout_s=timeout_s
        )

    async def put_schedule(
        self,
        name: str,
        spec: ScheduleSpec,
        *,
        new: bool = False,
        command_id: str | None = None,
        actor: str = "",
        timeout_s: float = START_TIMEOUT_S,
    ) -> ScheduleHandle:
        """The same with a spec."""
        token = schedule_token(name)
        checked = await self._resolved(spec.workflow, spec.version or LATEST)
        chosen = command_id_of(command_id)
        command = SetSchedule(spec, checked, chosen, new, check_actor(actor or self.actor))
        await self._ask_for(token, command, timeout_s)
        return self.schedule(name, actor=actor)

    async def start_later(
        self,
        workflow: str | Workflow[..., Any],
        input: Mapping[str, Any] | msgspec.Raw | None = None,  # noqa: A002
        *,
        at: datetime,
        run_id: str | None = None,
        actor: str = "",
    ) -> ScheduleHandle:
        """Starts a run at a moment: by a schedule that fires once, and by which it can be taken back until then.

        The same `run_id` with the same input is the same run, however often it is asked for.
        """
        chosen = str(uuid.uuid4()) if run_id is None else check_run_id(run_id)
        name = f"once-{uuid.uuid5(uuid.NAMESPACE_URL, chosen).hex}"
        return await self.set_schedule(
            name, workflow, input, when=At(at), overlap="allow", run_id=chosen, actor=actor
        )

    def schedule(self, name: str, *, actor: str = "") -> ScheduleHandle:
        """One of them, by its name; whether there is one is not asked. Raises `BadName`."""
        return ScheduleHandle(self, check_name(name, "schedule"), check_actor(actor or self.actor))

    async def get_schedule(self, name: str, *, not_before: int = 0) -> ScheduleView:
        """A schedule as it stands. Raises `NotFound` (SCHEDULE_UNKNOWN), `BadName`, or `NoAnswer`."""
        ask = Ask("schedule", name, not_before, hold_s=ANSWER_S)
        answer = await self._asked(ask, schedule_token(name), GET_S, None)
        if answer.schedule is None:
            raise NotFound(answer.message, code="SCHEDULE_UNKNOWN")
        return answer.schedule

    async def tell_schedule(self, name: str, command: Command, *, timeout_s: float = START_TIMEOUT_S) -> int:
        """Hands a command, which `ScheduleHandle` makes, to a schedule; returns its sequence once that is committed."""
        return (await self._ask_for(schedule_token(name), command, timeout_s)).seq

    # -- limits of tasks -----------------------------------------------------------------------------
    async def task_limit(
        self, task: str | Task[..., Any], *, key: str = "", not_before: int = 0
    ) -> LimiterView:
        """The limit of a task, or of one key of it, as it stands: who has a permit, and how many attempts wait.

        Raises `NotFound` (LIMIT_UNKNOWN) where no call has asked for it, `BadName`, `BadInput` (KEY_INVALID), or
        `NoAnswer`.
        """
        name = task if isinstance(task, str) else task.name
        ask = Ask("limiter", name, not_before, hold_s=ANSWER_S, key=key)
        answer = await self._asked(ask, limiter_token(name, key), GET_S, None)
        if answer.limiter is None:
            raise NotFound(answer.message, code="LIMIT_UNKNOWN")
        return answer.limiter

    # -- user tasks ----------------------------------------------------------------------------------
    async def user_tasks(
        self, run_id: str, *, user_task_id: str = "", not_before: int = 0
    ) -> list[UserTaskView]:
        """The user tasks of a run that are open, or the one of this id.

        Raises `NotFound` (RUN_UNKNOWN), `Refused` (PAYLOAD_TOO_LARGE) where one message cannot hold them all, or
        `NoAnswer`.

        Those of all runs, by user, group, state and due date, are found by `dressage.analytics.user_tasks`.
        """
        ask = Ask("user-tasks", check_run_id(run_id), not_before, hold_s=ANSWER_S, task_id=user_task_id)
        answer = await self._asked(ask, run_token(run_id), GET_S, None)
        if answer.user_tasks is None:
            raise NotFound(answer.message, code="RUN_UNKNOWN")
        forms = answer.forms
        return [
            msgspec.structs.replace(each, form=forms.get(each.user_task, {})) for each in answer.user_tasks
        ]

    def user_task(self, run_id: str, user_task_id: str) -> UserTaskHandle:
        """One of them, to work with; whether there is one is not asked."""
        return UserTaskHandle(self, check_run_id(run_id), user_task_id)

    async def act(
        self,
        run_id: str,
        user_task_id: str,
        action: Action,
        *,
        action_id: str | None = None,
        actor: str = "",
        timeout_s: float = START_TIMEOUT_S,
    ) -> int:
        """Does something with a user task, and returns the command's sequence once that is committed.

        The same `action_id` again changes nothing. Raises as `UserTaskHandle` says, or `NoAnswer` after `timeout_s`.
        """
        command = command_of(user_task_id, action, action_id, actor or self.actor)
        try:
            return (await self._ask_for(run_token(check_run_id(run_id)), command, timeout_s)).seq
        except NoAnswer as error:
            raise NoAnswer(f"{error.message}, with action_id={command.action_id!r}") from error

    async def _post_of(
        self, event: Event[Any] | str, payload: Any, event_id: str | None, actor: str
    ) -> PostEvent:
        name = check_name(event, "event") if isinstance(event, str) else event.name
        raw = (
            as_raw(payload, "EVENT_INVALID") if isinstance(event, str) else msgspec.Raw(event.encode(payload))
        )
        chosen = uuid.uuid4().hex if event_id is None else check_actor(event_id, "event id")
        version = await self._patiently(lambda: self._event_version(name))
        return PostEvent(name, chosen, raw, check_actor(actor or self.actor), version)

    async def _event_version(self, name: str) -> int:
        """Of the event's definition, 0 without one; asked for now and then, as who registers another does not tell."""
        known = self._event_versions.get(name)
        now = asyncio.get_running_loop().time()
        if known is None or known[1] < now:
            known = await self.registry.event_version(name), now + EVENT_VERSION_S
            if known[0]:
                self._event_versions[name] = known
        return known[0]

    async def _publish(
        self, token: str, command: Command, reply: str | None, shard: int | None = None
    ) -> Stored:
        assert self._publisher is not None, "checked by connection"
        shard = self._map.first(place_of(token)) if shard is None else shard
        message = Message(
            self.names.command(shard, token),
            _encoded(command),
            {REPLY_HEADER: reply} if reply else None,
        )
        return await self._publisher.publish(self.names.shard_stream(shard), message)

    async def _ask_for(self, token: str, command: Command, timeout_s: float) -> Answer:
        """Sends a command for a run or a correlation key, and awaits its answer.

        A command that waits to be folded is safe where it is, and is not sent again: under load that would only make
        the wait longer, for everybody. It is repeated where it was folded and its answer got lost, with an owner or a
        connection; a repeat carries the same id, so it changes nothing.
        """
        connection = self.connection
        deadline = asyncio.get_running_loop().time() + timeout_s
        shard, pause_s = self._map.first(place_of(token)), ANSWER_S
        with self._answers.one() as (reply, future):
            seq = (await self._publish(token, command, reply, shard)).seq
            while not connection.lost.is_set():
                left = deadline - asyncio.get_running_loop().time()
                await asyncio.wait({future}, timeout=max(0.0, min(pause_s, left)))
                if future.done():
                    await self._learn(future.result().generation)
                    return _accepted(future.result())
                if left <= pause_s:
                    break
                folded = await self._is_folded(token, shard, seq)
                if folded and not future.done():
                    seq = (await self._publish(token, command, reply, shard)).seq
                if folded is not None:
                    pause_s = min(2 * pause_s, PAUSE_S_MAX)
        raise NoAnswer(
            f"no answer to the command for {_named(token)} in {timeout_s:g} s. It is safe in the stream and will be "
            "folded when an orchestrator serves its shard; the same call again changes nothing more"
        )

    async def _is_folded(self, token: str, shard: int, seq: int) -> bool | None:
        """Whether the owner has come to this command; None where nobody tells."""
        question = (
            _ask_of_key(token, seq)
            if is_key(token)
            else Ask("schedule", schedule_of(token), not_before=seq)
            if is_schedule(token)
            else Ask("get", run_id_of(token), not_before=seq)
        )
        ask = encoder.encode(question)
        try:
            data = await self.connection.request(self.names.ask(shard), ask, FOLDED_S)
            return _ask_answers.decode(data).code != "RETRY"
        except (DressageError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    async def _learn(self, generation: int) -> None:
        """An answer has named a newer shard map. Without it all goes well, too, by one detour more."""
        if generation <= self._map.generation:
            return
        try:
            self._map = (await require_namespace(self.connection, self.names)).map
        except DressageError as error:
            _log.info("reading the shard map: %s", error)

    async def get(self, run_id: str, *, not_before: int = 0, shard: int | None = None) -> RunView:
        """The run as it stands. Raises `NotFound`, or `NoAnswer` when nobody serves its shard.

        The answer reflects at least command `not_before` of `shard`, or of the shard that the run id names.
        """
        ask = Ask("get", check_run_id(run_id), not_before, hold_s=ANSWER_S)
        return await self._ask(ask, GET_S, shard)

    async def waits(self, run_id: str) -> RunWaits:
        """What a run waits for, thread by thread, and who asks for the tasks of the queues that it waits at.

        Raises `NotFound`, or `NoAnswer` when nobody serves its shard.
        """
        answer = await self._asked(Ask("waits", check_run_id(run_id)), run_token(run_id), GET_S, None)
        if answer.run is None:
            raise NotFound(answer.message, code="RUN_UNKNOWN")
        at = dict.fromkeys(wait.queue for wait in answer.waits if wait.kind == "task")
        queues = [await self._demand(answer.run.shard, queue) for queue in at]
        return RunWaits(answer.run, answer.waits, answer.more, tuple(queues))

    async def _demand(self, shard: int, queue: str) -> QueueDemand:
        """Who asks for tasks of a queue, on one shard."""
        consumer = f"{self.names.shard_stream(shard)}.{self.names.task_consumer(queue)}"
        # Where there is no such consumer, nobody has ever asked.
        found = _demands.decode(
            await self.connection.request(f"$JS.API.CONSUMER.INFO.{consumer}", b"", GET_S)
        )
        return QueueDemand(queue, shard, found.num_waiting, found.num_pending, found.num_ack_pending)

    async def wait(
        self,
        run_id: str,
        *,
        timeout_s: float | None = None,
        not_before: int = 0,
        shard: int | None = None,
        revealed: bool = False,
    ) -> RunView:
        """The run once it has ended. Asks again every few seconds, so neither a lost owner nor a restart is a hang.

        `revealed` asks for the output with its masked parts in clear, as `RunHandle.result` does.

        Raises `NotFound`, or `NoAnswer` after `timeout_s` seconds.
        """
        check_run_id(run_id)
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        while True:
            left = None if deadline is None else deadline - loop.time()
            if left is not None and left <= 0:
                raise NoAnswer(f"run {run_id!r} has not ended in {timeout_s:g} s")
            hold = HOLD_S if left is None else min(HOLD_S, left)
            ask = Ask("wait", run_id, not_before, hold_s=hold, revealed=revealed)
            view = await self._ask(ask, None if left is None else left, shard)
            if view.status != "running":
                return view

    async def children(self, run_id: str) -> list[ChildRun]:
        """The child runs that a run has started, awaited or not, in that order, and how each of them stands now.

        It reads the run's history, and knows of those whose `child-started` the stream still has. Raises `NotFound`,
        `NoAnswer` or `OutcomeUnknown`.
        """
        return await children_of(self, run_id)

    def handle(self, run_id: str) -> RunHandle[Any]:
        """A handle on a run that was started elsewhere; nothing is asked yet."""
        return RunHandle(self, check_run_id(run_id), decode=plain)

    def history(self, run_id: str, *, after: int = -1) -> AsyncGenerator[ReceivedEvent, None]:
        """The run's output events so far, behind the one with index `after`, or from the first.

        Events follow the turn that caused them by a moment; what the run's state counts already is waited for. Those
        that the stream has dropped, which keeps them for a limited time, are missing: their indexes show it. Raises
        `NotFound`, `NoAnswer` or `OutcomeUnknown`.
        """
        look = self._look(check_run_id(run_id), GET_S)
        return read_history(self.connection, self.names, look, after)

    def follow(
        self, run_id: str, *, after: int = -1, shard: int | None = None
    ) -> AsyncGenerator[ReceivedEvent, None]:
        """The run's output events as they come, each once and in order, until the one that ends the run.

        `after` is the index of the last event that the caller has: of a run that began long ago those behind it come
        first. A client that keeps the index of what it has dealt with goes on from there after a restart. Neither a
        lost owner nor a restart of a server ends it, nor leaves anything out; it waits for as long as they are away.
        Whoever stops before the end closes it (`contextlib.aclosing`), or the server keeps its consumer for a while.

        Raises `NotFound` for a run that does not exist, `EventsGone` where the stream has dropped events that were to
        come, which it keeps for a limited time, and `NoAnswer` or `OutcomeUnknown` once this client is closed.
        """
        look = self._look(check_run_id(run_id), None, shard)
        return follow_events(self.connection, self.names, look, after)

    async def wait_for_event(
        self,
        run_id: str,
        wanted: Wanted,
        *,
        after: int = -1,
        timeout_s: float | None = None,
        shard: int | None = None,
    ) -> ReceivedEvent:
        """The first output event behind index `after` that is of the kind `wanted`, or of which `wanted` holds.

        It may have happened long ago. Durable as `follow` is: to wait for the next one, also after a restart, give the
        index of the one before. Raises `RunEnded` if the run has ended without one, `NoAnswer` after `timeout_s`,
        `BadInput` (KIND_UNKNOWN) for a kind that does not exist, and what `follow` raises.
        """
        is_wanted, last = fits(wanted), after
        what = f"event of kind {wanted!r}" if isinstance(wanted, str) else "event that is wanted"
        look = self._look(check_run_id(run_id), None, shard)

        def nothing() -> str:
            return f"run {run_id!r} had no {what} in {timeout_s:g} s: wait again, with after={last} for those to come"

        async with in_time(timeout_s, nothing):
            async with aclosing(follow_events(self.connection, self.names, look, after)) as events:
                async for event in events:
                    if is_wanted(event):
                        return event
                    last = event.index
            raise RunEnded(await look(), f"an {what}")

    async def wait_for_state(
        self,
        run_id: str,
        holds: Callable[[RunView], bool],
        *,
        timeout_s: float | None = None,
        shard: int | None = None,
    ) -> RunView:
        """The run as soon as `holds` is true of it: at once, if it is true now.

        The run is looked at again whenever something has happened in it. What was true between two looks only, a
        moment long, may be missed: wait for the event `variable-changed` to see each value. Raises `RunEnded` if the
        run has ended and `holds` is not true of it, `NoAnswer` after `timeout_s`, and what `follow` raises.
        """
        get = Ask("get", check_run_id(run_id), hold_s=ANSWER_S)
        async with in_time(
            timeout_s, lambda: f"run {run_id!r} did not come to that state in {timeout_s:g} s"
        ):
            run = await self._ask(get, None, shard)
            if holds(run):
                return run
            look = self._look(run_id, None, shard)
            async with aclosing(
                follow_events(self.connection, self.names, look, run.events - 1, run)
            ) as events:
                async for event in events:
                    if event.index < run.events:
                        continue  # The run was looked at when this had happened.
                    run = await self._ask(get, None, shard)
                    if holds(run):
                        return run
            raise RunEnded(run, "coming to that state")

    async def search(
        self,
        asked: RunQuery,
        *,
        sort: str = finding.NEWEST,
        limit: int = finding.LIMIT,
        after: str = "",
        timeout_s: float = finding.TIMEOUT_S,
    ) -> finding.FoundRuns:
        """A page of the runs that fit, with what was told of them when this is asked: of the analytics process.

        They are sorted by `started_at`, `ended_at`, `duration_ms`, `run_id`, or `workflow`, or by an attribute that can
        be searched (`.status` for one that is called as something else): its numbers and moments, then its texts; with
        `-` in front downwards. Runs without a value come last, either way. `after` is the `next` of the page before, of
        the same query. No run comes twice in pages by something that does not change, such as `started_at`; by what
        does it may move from one to another. A run is known once its first event is in the stream, which is a moment
        behind its start, or, where its shard was taken over just then, some seconds: upwards, a page may have passed by
        it.

        Raises `BadInput` (CONDITION_INVALID, SEARCH_INVALID), or as `query` does.
        """
        return await finding.runs(
            self.connection, self.names, asked, sort=sort, limit=limit, after=after, timeout_s=timeout_s
        )

    async def count(
        self,
        asked: RunQuery,
        *,
        by: str = "",
        limit: int = finding.LIMIT,
        timeout_s: float = finding.TIMEOUT_S,
    ) -> list[finding.Counted]:
        """How many runs fit: all together, or `by` status, workflow, version, failure or actor, or by a searchable
        attribute (`.status` for one that is called as one of these), the most frequent value first.

        Raises as `search` does.
        """
        return await finding.count_runs(
            self.connection, self.names, asked, by=by, limit=limit, timeout_s=timeout_s
        )

    async def query(
        self,
        sql: str,
        params: finding.Params | None = None,
        *,
        limit_rows: int = finding.ROWS_DEFAULT,
        not_before: dict[str, int] | None = None,
        fresh: bool = False,
        timeout_s: float = finding.TIMEOUT_DEFAULT_S,
    ) -> finding.QueryResult:
        """Asks SQL that only reads of whichever analytics process answers first. `params` go to `$1`, `$2` (a list) or
        `$name` (a mapping).

        The answer reflects streams up to the sequences of `not_before`, by their names; one that is `fresh` reflects
        all events that the stream had when this is called. Else it is of what that process has read so far.

        Raises `QueryError` with its codes, and `NoAnswer` when no such process of this namespace answers.
        """
        return await finding.query(
            self.connection,
            self.names,
            sql,
            params,
            limit_rows=limit_rows,
            not_before=not_before,
            fresh=fresh,
            timeout_s=timeout_s,
        )

    async def find_user_tasks(
        self,
        *,
        user: str = "",
        group: str = "",
        state: finding.UserTaskState = "open",
        user_task: str = "",
        workflow: str = "",
        due_before: datetime | None = None,
        limit: int = finding.LIMIT,
        timeout_s: float = finding.TIMEOUT_S,
    ) -> list[finding.FoundUserTask]:
        """User tasks of all runs that fit all that is said, the most urgent first: by when they are due, then by when
        they were given. What was told when this is asked is reflected. Raises as `query` does."""
        return await finding.user_tasks(
            self.connection,
            self.names,
            user=user,
            group=group,
            state=state,
            user_task=user_task,
            workflow=workflow,
            due_before=due_before,
            limit=limit,
            timeout_s=timeout_s,
        )

    async def find_schedules(
        self,
        *,
        workflow: str = "",
        limit: int = finding.SCHEDULES_LIMIT,
        timeout_s: float = finding.TIMEOUT_S,
    ) -> list[finding.FoundSchedule]:
        """Those schedules that there are, the next one to fire first. Raises as `query` does."""
        return await finding.schedules(
            self.connection, self.names, workflow=workflow, limit=limit, timeout_s=timeout_s
        )

    def _look(self, run_id: str, timeout_s: float | None, shard: int | None = None) -> Look:
        """A function that asks how the run stands, without its variables; of any time, if `timeout_s` is None."""
        return lambda: self._ask(Ask("wait", run_id), timeout_s, shard)

    async def _ask(self, ask: Ask, timeout_s: float | None, shard: int | None) -> RunView:
        answer = await self._asked(ask, run_token(ask.run_id), timeout_s, shard)
        if answer.run is None:
            raise NotFound(answer.message, code="RUN_UNKNOWN")
        return answer.run

    async def _asked(self, ask: Ask, token: str, timeout_s: float | None, shard: int | None) -> AskAnswer:
        """The answer, which has what was asked for, or says NOT_FOUND. Raises `Refused` or `NoAnswer`."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        at = self._map.first(place_of(token)) if shard is None else shard
        while True:
            try:
                held_s = ask.hold_s or ANSWER_S
                data = await self.connection.request(self.names.ask(at), encoder.encode(ask), held_s + 1.0)
            except NoAnswer:
                if self.connection.lost.is_set() or (deadline is not None and loop.time() >= deadline):
                    raise
                await asyncio.sleep(RETRY_S)
                continue
            try:
                answer = _ask_answers.decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise NoAnswer(f"what was answered for {_named(token)} is no answer: {error}") from error
            await self._learn(answer.generation)
            told = (
                *(answer.run, answer.key, answer.user_tasks),
                *(answer.schedule, answer.migration, answer.limiter),
            )
            if any(each is not None for each in told) or answer.code == "NOT_FOUND":
                return answer
            over = deadline is not None and loop.time() >= deadline
            if answer.code == "ELSEWHERE" and not over:
                at, ask = answer.shard, msgspec.structs.replace(ask, not_before=answer.not_before)
                continue
            if answer.code not in ("RETRY", "ELSEWHERE"):
                raise Refused(answer.message, code=answer.code)
            if over:
                raise NoAnswer(answer.message)
            await asyncio.sleep(RETRY_S)


def _target(workflow: str | Workflow[..., Any], version: VersionRef | None) -> tuple[str, VersionRef]:
    """The workflow and the version that a caller names; a text may name both. Raises `BadName`, or `BadInput`."""
    name, ref = parse_target(workflow) if isinstance(workflow, str) else (workflow.name, "")
    if ref and version is not None:
        raise BadInput(
            f"{workflow!r} names a version, and version={version!r} another one: leave one of them out",
            code="VERSION_INVALID",
        )
    return name, ref or (LATEST if version is None else version)


def _ask_of_key(token: str, not_before: int) -> Ask:
    event, key = key_of(token)
    return Ask("key", key, not_before, event=event)


def _named(token: str) -> str:
    if is_key(token):
        event, key = key_of(token)
        return f"correlation key {key!r} of event {event}"
    if is_limiter(token):
        return f"the limit of task {limiter_of(token)[0]!r}"
    return f"schedule {schedule_of(token)!r}" if is_schedule(token) else f"run {run_id_of(token)!r}"


def _encoded(command: Command) -> bytes:
    try:
        return encoder.encode(command)
    except UnicodeEncodeError as error:
        raise BadInput(f"a text cannot be encoded as UTF-8: {error}", code="TEXT_INVALID") from error


def _json(value: Any, code: str) -> bytes:
    """Raises `BadInput` with this code."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{value!r} cannot be written as JSON: {error}", code=code) from error


def _accepted(answer: Answer) -> Answer:
    if not answer.accepted:
        raise Refused(answer.message, code=answer.code, retryable=answer.code == "OPEN_RUNS")
    return answer
