"""What must hold at every write, whatever fails around the engine. Each rule has a name, and is checked from outside.

The watch sees every message that the broker stores, removes or passes on, and folds the commands once more by
itself; nothing here asks the engine what it believes. A rule that is broken is noted once, with what broke it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from dressage.brokers.memory import MemoryServer, Record
from dressage.brokers.memory.connection import MemoryConnection
from dressage.brokers.memory.log import MessageLog
from dressage.brokers.provision import Namespace
from dressage.expressions.values import decode_stored
from dressage.orchestrator.fold.advance import wire
from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, Effect, Publish, SetTimer
from dressage.orchestrator.fold.state import (
    Gone,
    RunState,
    Schedule,
    SleepWait,
    State,
    decode_state,
    encode_state,
)
from dressage.orchestrator.turn.records import Cursor, Position, decode_cursor, decode_position
from dressage.orchestrator.turn.starting import share_of
from dressage.protocol.commands import (
    REPLY_HEADER,
    Answer,
    AskAnswer,
    RunView,
    TaskMessage,
    TaskResult,
    TimerFired,
    decode_command,
)
from dressage.protocol.errors import BadRunId
from dressage.protocol.events import ID_HEADER, DomainEvent, ReceivedEvent, RunDeleted, decode_event
from dressage.protocol.names import (
    OUT,
    Names,
    child_id,
    root_of,
    root_token,
    run_id_of,
    run_token,
    schedule_token,
)
from dressage.simulation.behaviour import ARRIVALS
from dressage.simulation.permits import Permits
from dressage.simulation.processes import Tenure, tenure_of
from dressage.simulation.programs import SHOP
from dressage.simulation.refold import Folded, Refold
from dressage.simulation.releases import plain
from dressage.simulation.tracing import Traces

RULES: Final = {
    "replaced-owner-stores-nothing": "after a newer owner's fence nothing of an older one is stored",
    "cursor-only-forward": "the cursor never goes back, and a fence keeps it where it was",
    "effects-before-cursor": "a stored cursor has every effect of the commands it covers behind it",
    "no-phantom-effect": "no task, timer or send is stored that the fold did not ask for",
    "goes-to-its-build": "a task is put into the queue of the build that its run's version is of",
    "sends-once-in-order": "sends to other shards, and what is to be published, are stored once each, in the order of "
    "their commands",
    "forwarded-in-order": "the target shard gets the sends of a source in their order, and every one of them",
    "own-sends-once-in-order": "what a shard sends to itself is stored once, in the order of its commands",
    "published-once-in-order": "the user's stream gets what a run publishes once each, in its order, and as the fold "
    "made it",
    "publish-removed-only-when-stored": "what is to be published is removed only when the user's stream has it",
    "position-behind-cursor": "events are stored only of commands that the cursor covers",
    "events-once-in-order": "a run's output events are stored once each, in order, and as the fold made them",
    "one-trace": "all that is told of a run is in one trace, with one span: that of who has started it, or its parent",
    "state-behind-cursor": "a state is stored only when the cursor covers it",
    "state-behind-events": "a state is stored only when its events are",
    "state-only-forward": "a run's stored state never goes back",
    "state-as-folded": "a stored state is what the fold made of the commands up to it",
    "removed-only-when-covered": "a command is removed only when state, events and cursor cover it",
    "refused-is-kept": "a command that cannot be read is in the dead letters before it is removed",
    "task-removed-only-with-result": "a task is removed only when its result is in the stream, or nobody waits for it",
    "send-removed-only-when-forwarded": "a send is removed only when the target's stream has it",
    "timer-until-due": "a sleeping run's timer is in the stream, due when the sleep ends, until then",
    "never-early": "a sleep ends when its time has come on the broker's clock, and not before",
    "answer-after-commit": "the sender of a command is answered only when the cursor covers it",
    "answer-as-folded": "the answer to a command is what the fold says of it",
    "reads-only-committed": "readers see only states that the cursor covers, as the fold made them",
    "followed-as-stored": "who follows a run is told what is stored of it: each event once, in order, to its end",
    "outcome-as-python": "every run ends as Python says that its workflow ends",
    "acknowledged-not-lost": "what a client was told is accepted is there",
    "publishes-complete": "at the end the user's stream has all that runs published, and no dead letter has any",
    "events-complete": "at the end all output events of all runs are stored",
    "forgotten-last": "a key of the bucket is emptied only when no command of its run from before is in the stream",
    "held-is-kept": "a run that is held is not deleted, by nobody, and is there until it is released",
    "one-life-after-the-other": "at the end each run of an id has begun once and was deleted once",
    "deleted-events-gone": "a command that has deleted a run with its output events is removed only when they are",
    "deleted-objects-gone": "a command that has deleted a run is removed only when all that it had stored is",
    "objects-stay": "an object is removed only when the cursor covers a deletion of the run that it is stored for",
    "deleted-stays-gone": "at the end nothing is there of a deleted run, or the next one of its id alone",
    "state-in-bucket": "at the end the bucket holds every run as it stands",
    "filed-once": "at the end each event of a correlation key was taken by some that waited, or is kept there, and "
    "none counts twice",
    "triggered-once": "at the end each event of a service's stream was posted once by its trigger, and "
    "nothing else was",
    "scheduled-once": "at the end a schedule has fired once for each of its moments, knows the end of each run, "
    "and there are no others",
    "nothing-left-over": "at the end the stream holds the timers of sleeping runs and nothing else",
    "one-owner": "at the end every shard has one owner, with the only consumers there are",
    "memory-as-folded": "at the end an owner's memory holds every run as the fold made it",
    "result-applied-once": "the output events of a run end each attempt of a task at most once",
    "task-executed": "a result that was applied is what an execution of that very attempt came to",
    "large-value-there": "a command, a task or a state that refers to a large value is stored only when all of that is",
    "large-value-kept": "a large value that a run is given, hands on and comes to is what it was",
    "progress-kept": "what a handler has kept of its progress is there for whoever executes its call next",
    "limits-hold": "no more attempts are with workers than their limit lets, and no more begin in its time",
    "permits-come-back": "at the end nobody has a permit for an attempt that no run waits for, and none waits for one",
    "nothing-hangs": "every client gets its answers, and the system comes to rest",
    "no-unhandled-error": "no process ends by an error that is no error of the product",
}


_DIGESTS: Final = re.compile(rb'"sha256":"([0-9a-f]{64})"')


@dataclass(slots=True, frozen=True)
class Violation:
    """A broken rule, and when and by what."""

    rule: str
    at_s: float
    what: str

    def __str__(self) -> str:
        return f"{self.rule} at {self.at_s:.3f} s: {self.what}"


@dataclass
class ShardView:
    """What the streams say of one shard."""

    cursor: Cursor = field(default_factory=Cursor)
    fence_seq: int = 0
    position: Position = field(default_factory=Position)
    owner: Tenure | None = None
    position_owner: Tenure | None = None
    states_owner: Tenure | None = None
    checked: int = 0
    tasks: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    timers: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    cancelled: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    sends: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])
    """(sequence, target, run token) of every send that was stored."""

    own: int = 0
    """How many commands the shard's owners have stored for it themselves."""
    publishes: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """(run token, index) of all to be published that was stored here."""

    events: dict[str, int] = field(default_factory=dict[str, int])
    begun: dict[str, int] = field(default_factory=dict[str, int])
    """How many events of an id were stored before those of its present run, where it was deleted before."""

    forgotten: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """The commands by which nothing more is known of a deleted run."""

    state_seq: dict[str, int] = field(default_factory=dict[str, int])
    state_data: dict[str, bytes] = field(default_factory=dict[str, bytes])
    sleeping: dict[str, list[tuple[int, SleepWait]]] = field(
        default_factory=dict[str, list[tuple[int, SleepWait]]]
    )
    """The sleeps of every run that is asleep, with the command that began them or went on beside them."""

    results: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    forwarded: dict[int, set[int]] = field(default_factory=dict[int, set[int]])
    dead: set[int] = field(default_factory=set[int])
    early: list[Record] = field(default_factory=list[Record])
    history: dict[tuple[str, int], bytes] = field(default_factory=dict[tuple[str, int], bytes])


ATTEMPT_ENDS: Final = ("task-completed", "task-failed")
"""The kinds of output event that end an attempt."""


class _Attempt(msgspec.Struct):
    task_id: str


def _publish_of(record: Record) -> tuple[str, int]:
    """Run token and index of what waits to be published."""
    _, token, _, index = (record.headers or {})[ID_HEADER].split(".")
    return token, int(index)


def _shown(struct: msgspec.Struct) -> str:
    """The same text in every process: what a struct holds in wire form has an address in its `repr`."""
    return msgspec.json.encode(struct).decode()


def _decoded(value: Any) -> Any:
    return msgspec.json.decode(value) if isinstance(value, msgspec.Raw) else value


_attempts = msgspec.json.Decoder(_Attempt)
_tasks = msgspec.json.Decoder(TaskMessage)
_answers = msgspec.json.Decoder(Answer)
_reads = msgspec.json.Decoder(AskAnswer)
_domain_events = msgspec.json.Decoder(DomainEvent)


class Watch:
    """Follows a server's writes and notes broken rules."""

    def __init__(self, server: MemoryServer, names: Names, clock: Callable[[], float]) -> None:
        self._server = server
        self.names = self._names = names
        self._clock = clock
        self.refold = Refold(names)
        self.shards: dict[int, ShardView] = {}
        self.count = 1
        """Shards of the namespace."""
        self.violations: list[Violation] = []
        self.on_broken: Callable[[str], None] = lambda _: None
        self.commands = 0
        self.applied: dict[tuple[str, str], tuple[str, bytes]] = {}
        """(kind, data) of the stored event that ended an attempt, by run token and task id."""
        self.published: dict[str, list[int]] = {}
        """The indexes of what the user's stream has, by run token."""

        self.dead_publishes = 0
        self._objects_before: dict[tuple[int, int], int] = {}
        """The last sequence of the object store when a command, by its shard and sequence, was stored."""

        self._permits = Permits(self.broken)
        self._events: dict[str, list[ReceivedEvent]] = {}
        self.traces = Traces()
        self._replies: dict[str, list[tuple[int, int]]] = {}
        self._due_cancels: list[tuple[int, str, str]] = []
        """Cancels that a cursor covers; they may ride on copies of it that stand behind it in the same batch."""

        self._runs_prefix = f"$KV.{names.runs_bucket}."
        self._versions_prefix = f"$KV.{names.definitions_bucket}."
        server.on_stored.append(self._stored)
        server.on_removed.append(self._removed)
        server.on_tell.append(self._told)

    def broken(self, rule: str, what: str) -> None:
        """Notes a broken rule. The first of a kind tells all; the rest would only hide it."""
        assert rule in RULES, rule
        if all(violation.rule != rule for violation in self.violations):
            self.violations.append(Violation(rule, self._clock(), what))
            self.on_broken(rule)

    def events_of(self, run_id: str) -> list[ReceivedEvent]:
        """All that were stored of a run so far."""
        return self._events.get(run_token(run_id), [])

    def view(self, shard: int) -> ShardView:
        found = self.shards.get(shard)
        if found is None:
            found = self.shards[shard] = ShardView()
        return found

    # -- what is stored ----------------------------------------------------------------------------
    def _stored(self, record: Record) -> None:
        parts = record.subject.split(".")
        if parts[0] in ("$O", ARRIVALS):
            return
        if parts[3:4] == ["cmd"]:
            self._objects_before[int(parts[2]), record.seq] = self._objects.last_seq
        if b'"sha256"' in record.data:
            self._check_objects(record, parts)
        if parts[-1] != "cursor":
            self._check_cancels()
        if record.stream == SHOP:
            self._published(record)
        elif parts[0] == "$KV":
            self._stored_key(record, parts)
        elif parts[2] == "events":
            self._event(record, int(parts[3]))
        elif parts[2] == "position":
            self._position(record, int(parts[3]))
        elif parts[2] == "dead":
            self._dead(record, parts)
        else:
            self._stored_in_shard(record, int(parts[2]), parts)

    def _check_objects(self, record: Record, parts: list[str]) -> None:
        """Of commands and states, whose subject names the run, and of tasks."""
        kept = parts[0] == "$KV" and parts[2] == "run"
        if not kept and parts[3:4] not in (["cmd"], ["task"]):
            return
        try:
            run_id = (
                msgspec.json.decode(record.data, type=TaskMessage).run_id
                if parts[3] == "task" and not kept
                else run_id_of(parts[4])
            )
        except (msgspec.MsgspecError, BadRunId):
            return  # No client of ours has sent it.
        if self._deletions(root_token(run_id)):
            return  # What comes again of a deleted run is refused, and what is left of it may not be stored any more.
        log = self._objects
        for digest in _DIGESTS.findall(record.data):
            info = log.last_of(self._names.object_info(root_token(run_id), digest.decode()))
            said = None if info is None else msgspec.json.decode(info.data)
            chunks = [] if said is None else log.subjects.get(self._names.object_chunks(said["nuid"]), [])
            if said is None or said["chunks"] != len(chunks):
                self.broken("large-value-there", f"{record.subject} @{record.seq} refers to {digest!r}")

    def _stored_in_shard(self, record: Record, shard: int, parts: list[str]) -> None:
        if b"Nats-Scheduler:" in record.block and record.writer is not None:
            _, _, _, _, token, timer_id = (record.headers or {})["Nats-Scheduler"].split(".")
            self.cancelled(shard, token, timer_id)
        match parts[3]:
            case "cmd":
                self._check_own(record, shard)
                self._forwarded(record, shard)
                self._command(record, shard)
                return
            case "cursor":
                self._cursor(record, shard)
            case "task":
                self._task(record, shard)
            case "timer":
                self._timer(record, shard, parts[4], parts[5])
            case "send" if parts[4] == OUT:
                self.view(shard).publishes.append(_publish_of(record))
                self._check_publishes(shard)
            case "send":
                self.view(shard).sends.append((record.seq, int(parts[4]), parts[5]))
                self._check_sends(shard)
            case _:
                raise AssertionError(f"unknown subject {record.subject}")
        if record.writer is not None:
            self._check_owner(record, self.view(shard).owner, "stream")

    def _check_owner(self, record: Record, owner: Tenure | None, where: str) -> None:
        if tenure_of(record.writer) != owner:
            self.broken(
                "replaced-owner-stores-nothing",
                f"{tenure_of(record.writer)} stored {record.subject} @{record.seq} in the {where} of {owner}",
            )

    def _command(self, record: Record, shard: int) -> None:
        """Folds it; what comes before the shard's first owner waits for the shard map that this one begins with."""
        if not self.view(shard).fence_seq:
            self.view(shard).early.append(record)
            return
        self.commands += 1
        folded = self.refold.command(record, shard)
        self._permits.folded(folded.token, folded.outcome, -(-record.time_ns // 1_000_000))
        view, state = self.view(shard), folded.outcome.state
        if folded.changed and state is not None:
            view.history[folded.token, state.seq] = encode_state(state)
            if isinstance(state, Gone) and state.forgotten:
                view.forgotten.setdefault(folded.token, []).append(state.seq)
            threads = state.threads if isinstance(state, RunState) else []
            sleeps = [(state.seq, each.wait) for each in threads if isinstance(each.wait, SleepWait)]
            if sleeps:
                view.sleeping[folded.token] = sleeps
            else:
                view.sleeping.pop(folded.token, None)
        headers = record.headers or {}
        reply = headers.get(REPLY_HEADER)
        if reply:
            self._replies.setdefault(reply, []).append((shard, record.seq))
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            command = decode_command(record.data)
            if isinstance(command, TaskResult):
                view.results.add((folded.token, command.task_id))
            if isinstance(command, TimerFired) and folded.changed:
                self._check_time(record, folded)

    def _check_time(self, record: Record, folded: Folded) -> None:
        due_ms = self.refold.shard(folded.shard).due_ms.get((folded.token, folded.seq))
        if due_ms is not None and record.time_ns < due_ms * 1_000_000:
            late = due_ms - record.time_ns // 1_000_000
            self.broken("never-early", f"{folded.token}: a sleep ended {late} ms before its time")

    def _check_own(self, record: Record, shard: int) -> None:
        """Only turns hold what a shard sends to itself; other writers are clients, workers, and owners that forward."""
        if (
            not isinstance(record.writer, MemoryConnection)
            or record.writer.name != f"dressage-shard-{shard}-turns"
        ):
            return
        view, asked = self.view(shard), self.refold.shard(shard).own
        wanted = asked[view.own] if view.own < len(asked) else None
        if (record.subject.rsplit(".", 1)[1], record.data) != wanted:
            self.broken(
                "own-sends-once-in-order", f"shard {shard}: stored {record.data!r}, asked for {wanted}"
            )
        view.own += 1
        self._check_owner(record, view.owner, "stream")

    def _forwarded(self, record: Record, shard: int) -> None:
        """The message id names the source and the send's sequence there. What came before may come once more."""
        msg_id = (record.headers or {}).get("Nats-Msg-Id", "")
        if not msg_id.startswith("send-"):
            return
        _, source, seq = msg_id.split("-")
        seen = self.view(shard).forwarded.setdefault(int(source), set())
        sends = self.view(int(source)).sends
        missed = [
            each for each, target, _ in sends if target == shard and each < int(seq) and each not in seen
        ]
        if missed:
            self.broken("forwarded-in-order", f"shard {shard} got send {seq} of {source} before {missed}")
        seen.add(int(seq))

    def _cursor(self, record: Record, shard: int) -> None:
        view, cursor = self.view(shard), decode_cursor(record.data)
        if cursor.fence:
            first = not view.fence_seq
            view.owner, view.fence_seq = tenure_of(record.writer), record.seq
            if first:
                self._begin(shard, cursor)
            if cursor.place != view.cursor.place:
                self.broken(
                    "cursor-only-forward",
                    f"shard {shard}: a fence moved {view.cursor.place} to {cursor.place}",
                )
        else:
            if cursor.place < view.cursor.place:
                self.broken(
                    "cursor-only-forward", f"shard {shard}: from {view.cursor.place} to {cursor.place}"
                )
            if cursor.epoch != view.fence_seq:
                self.broken(
                    "replaced-owner-stores-nothing",
                    f"shard {shard}: a cursor of epoch {cursor.epoch} in epoch {view.fence_seq}",
                )
            self._check_effects(shard, cursor)
        view.cursor = cursor
        self._check_sleepers(shard)

    def _begin(self, shard: int, cursor: Cursor) -> None:
        self.refold.begin(shard, cursor.maps)
        early, self.view(shard).early = self.view(shard).early, []
        for record in early:
            self._command(record, shard)

    def _check_effects(self, shard: int, cursor: Cursor) -> None:
        view = self.view(shard)
        folded = self.refold.shard(shard).folded
        unchecked = itertools.takewhile(lambda seq: seq > view.checked, reversed(folded))
        for seq in sorted(seq for seq in unchecked if seq <= cursor.seq):
            whole = seq < cursor.seq
            effects = folded[seq].outcome.effects
            for effect in effects if whole else effects[: cursor.effects]:
                if isinstance(effect, CancelTimer):
                    self._due_cancels.append((shard, folded[seq].token, effect.timer_id))
                elif not self._is_stored(view, folded[seq].token, effect):
                    self.broken(
                        "effects-before-cursor",
                        f"shard {shard}: the cursor is at {cursor.place}, not stored of {seq}: {_shown(effect)}",
                    )
            if whole or cursor.effects >= len(effects):
                view.checked = max(view.checked, seq)

    def _check_cancels(self) -> None:
        due, self._due_cancels = self._due_cancels, []
        for shard, token, timer_id in due:
            if (token, timer_id) not in self.view(shard).cancelled:
                self.broken(
                    "effects-before-cursor", f"shard {shard}: timer {timer_id} of {token} is not cancelled"
                )

    def _check_sleepers(self, shard: int) -> None:
        """A sleep that the cursor covers has its timer; when it fires, the command that ends the sleep is there."""
        view, log = self.view(shard), self._server.streams[self._names.shard_stream(shard)].log
        for token, sleeps in view.sleeping.items():
            for seq, wait in sleeps:
                if (
                    seq < view.cursor.seq
                    and self._names.timer(shard, token, wait.timer_id) not in log.subjects
                ):
                    self.broken("timer-until-due", f"shard {shard}: {token} sleeps without {wait.timer_id}")

    def _is_stored(self, view: ShardView, token: str, effect: Effect) -> bool:
        match effect:
            case DispatchTask():
                return (token, effect.task_id) in view.tasks
            case SetTimer():
                return (token, effect.timer_id) in view.timers
            case Publish():
                return (token, effect.index) in view.publishes
            case _:
                return True  # Cancels and sends have checks of their own.

    def _task(self, record: Record, shard: int) -> None:
        message = _tasks.decode(record.data)
        token = message.reply.rsplit(".", 1)[1]
        self.view(shard).tasks.add((token, message.task_id))
        state = self.refold.shard(shard).states.get(token)
        if isinstance(state, RunState) and message.traceparent != state.traceparent:
            self.broken(
                "one-trace", f"task {message.task_id} of {message.run_id} is in another trace than that"
            )
        build = self.refold.shard(shard).tasks.get((token, message.task_id))
        if build is None:
            self.broken("no-phantom-effect", f"shard {shard}: task {message.task_id} of {message.run_id}")
        elif record.subject.rpartition(".")[2].partition("_")[2] != build:
            self.broken("goes-to-its-build", f"shard {shard}: task {message.task_id} of {message.run_id}")

    def _timer(self, record: Record, shard: int, token: str, timer_id: str) -> None:
        view, refold = self.view(shard), self.refold.shard(shard)
        view.timers.add((token, timer_id))
        if (token, timer_id) not in refold.timers:
            self.broken("no-phantom-effect", f"shard {shard}: timer {timer_id} of {token}")
        elif record.due_ns != refold.timers[token, timer_id] * 1_000_000:
            late = record.due_ns // 1_000_000 - refold.timers[token, timer_id]
            self.broken("timer-until-due", f"shard {shard}: timer {timer_id} of {token} is {late} ms late")
        with contextlib.suppress(msgspec.MsgspecError):
            view.tasks.add((token, _tasks.decode(record.data).task_id))

    def cancelled(self, shard: int, token: str, timer_id: str) -> None:
        """A stored message carried the order to remove this timer."""
        self.view(shard).cancelled.add((token, timer_id))
        if (token, timer_id) not in self.refold.shard(shard).cancelled:
            self.broken("no-phantom-effect", f"shard {shard}: timer {timer_id} of {token} was cancelled")

    def _check_sends(self, shard: int) -> None:
        sent = [token for _, _, token in self.view(shard).sends]
        asked = [token for _, token in self.refold.shard(shard).sends][: len(sent)]
        if sent != asked:
            self.broken("sends-once-in-order", f"shard {shard}: stored {sent[-3:]}, asked for {asked[-3:]}")

    def _check_publishes(self, shard: int) -> None:
        stored = self.view(shard).publishes
        asked = self.refold.shard(shard).publishes[: len(stored)]
        if stored != asked:
            self.broken("sends-once-in-order", f"shard {shard}: stored {stored[-3:]}, asked for {asked[-3:]}")

    def _published(self, record: Record) -> None:
        """Something was stored in the user's stream."""
        event = _domain_events.decode(record.data)
        token, index = run_token(event.subject), int(event.id.rpartition("/")[2])
        wanted = self.refold.published.get(token, {})
        stored = self.published.setdefault(token, [])
        if wanted.get(index) != (record.subject, bytes(event.data)):
            self.broken(
                "published-once-in-order", f"{event.id} on {record.subject} is not what the fold made"
            )
        elif [*stored, index] != list(wanted)[: len(stored) + 1]:
            self.broken(
                "published-once-in-order", f"{event.id} is stored behind {stored[-3:]} of {list(wanted)}"
            )
        stored.append(index)

    def _event(self, record: Record, shard: int) -> None:
        view = self.view(shard)
        self._check_position_owner(record, shard)
        event = decode_event(record.data)
        of_schedule = event.kind.startswith("schedule-")
        name = event.subject.removeprefix("schedule ")
        token = schedule_token(name) if of_schedule else run_token(event.subject)
        seq = int(event.command)
        if seq > view.cursor.seq:
            self.broken(
                "position-behind-cursor", f"shard {shard}: event of command {seq}, cursor {view.cursor.place}"
            )
        self._events.setdefault(token, []).append(event)
        index = view.events.get(token, 0)
        view.events[token] = index + 1
        wanted = self.refold.shard(shard).events.get(token, [])
        if event.index != index - view.begun.get(token, 0) or index >= len(wanted):
            self.broken(
                "events-once-in-order", f"{event.subject}: event {event.index} stored where {index} belongs"
            )
        elif wanted[index] != (seq, event.kind, bytes(event.data)):
            self.broken(
                "events-once-in-order", f"{event.id} is {event.kind} of {seq}, not {wanted[index][:2]}"
            )
        if event.kind == "run-deleted":
            view.begun[token] = index + 1
        elif not of_schedule:
            born = seq if event.kind == "run-started" else None
            wrong = self.traces.wrong_with(event.subject, view.begun.get(token, 0), event.traceparent, born)
            if wrong:
                self.broken("one-trace", wrong)
        if event.kind in ATTEMPT_ENDS:
            self._applied(token, event.kind, bytes(event.data))

    def _applied(self, token: str, kind: str, data: bytes) -> None:
        """Looks at what is stored alone: a fold that applies a result twice does so here and in the refold alike."""
        attempt = token, _attempts.decode(data).task_id
        if attempt in self.applied:
            self.broken(
                "result-applied-once", f"{token}: {kind} of {attempt[1]} after {self.applied[attempt][0]}"
            )
        self.applied[attempt] = kind, data

    def _check_position_owner(self, record: Record, shard: int) -> None:
        view = self.view(shard)
        if view.position_owner is not None and tenure_of(record.writer) != view.position_owner:
            self._check_owner(record, view.position_owner, "events")

    def _position(self, record: Record, shard: int) -> None:
        view, position = self.view(shard), decode_position(record.data)
        if position.epoch != view.position.epoch:
            view.position_owner = tenure_of(record.writer)
            if position.epoch < view.position.epoch:
                self.broken(
                    "replaced-owner-stores-nothing",
                    f"shard {shard}: position of epoch {position.epoch} after {view.position.epoch}",
                )
        else:
            self._check_position_owner(record, shard)
        if position.place < view.position.place:
            self.broken("events-once-in-order", f"shard {shard}: position back to {position.place}")
        view.position = position

    def _dead(self, record: Record, parts: list[str]) -> None:
        if parts[3] == "publish":
            self.dead_publishes += 1
        if parts[3] == "command":
            self.view(int(parts[4])).dead.add(int((record.headers or {}).get("Dressage-Sequence", 0)))

    # -- states ------------------------------------------------------------------------------------
    def _stored_key(self, record: Record, parts: list[str]) -> None:
        if record.subject == self._names.namespace_key():
            namespace = msgspec.json.decode(record.data, type=Namespace)
            self.refold.map, self.refold.share = namespace.map, share_of(namespace)
            self.count = self.refold.map.shards
        elif record.subject.startswith(self._versions_prefix):
            self.refold.define(record)
        elif record.subject.startswith(self._runs_prefix):
            if parts[2] == "fence":
                self.view(int(parts[3])).states_owner = tenure_of(record.writer)
            else:
                self._state(record, int(parts[3]), parts[4])

    def _state(self, record: Record, shard: int, token: str) -> None:
        view = self.view(shard)
        self._check_owner(record, view.states_owner, "states")
        data = plain(record.data)
        if not data:
            self._emptied(view, shard, token)
            return
        state = decode_state(data)
        seq = state.seq
        folded = self.refold.shard(shard).folded.get(seq)
        effects = len(folded.outcome.effects) if folded is not None else 0
        if view.cursor.place < (seq, effects):
            self.broken("state-behind-cursor", f"{token} @{seq}, cursor {view.cursor.place}")
        if isinstance(state, RunState | Schedule) and view.events.get(token, 0) < state.events:
            self.broken(
                "state-behind-events",
                f"{token} @{seq} has {state.events} events, stored are {view.events.get(token, 0)}",
            )
        if seq < view.state_seq.get(token, 0):
            self.broken("state-only-forward", f"{token} from {view.state_seq[token]} back to {seq}")
        if view.history.get((token, seq)) != data:
            self.broken("state-as-folded", f"{token} @{seq} is not what the fold made")
        view.state_seq[token] = seq
        view.state_data[token] = data

    def _emptied(self, view: ShardView, shard: int, token: str) -> None:
        seq = max((each for each in view.forgotten.get(token, []) if each <= view.cursor.seq), default=0)
        if not seq or seq < view.state_seq.get(token, 0):
            self.broken("state-as-folded", f"{token} is emptied, which nobody has folded")
            seq = view.cursor.seq
        log = self._server.streams[self._names.shard_stream(shard)].log
        earlier = [each for each in log.subjects.get(self._names.command(shard, token), []) if each < seq]
        if earlier:
            self.broken(
                "forgotten-last", f"{token} is emptied by {seq}, and {earlier} are still to be folded"
            )
        view.state_seq[token] = seq
        view.state_data[token] = b""

    # -- what is removed ---------------------------------------------------------------------------
    def _removed(self, _: str, removed: list[Record], __: object) -> None:
        for record in removed:
            parts = record.subject.split(".")
            if parts[0] == "$O":
                self._check_object_removed(record)
            if len(parts) < 4 or parts[0] in ("$KV", "$O"):
                continue
            if parts[3] == "cmd":
                self._check_covered(record, int(parts[2]))
            elif parts[3] == "task":
                self._check_done(record, int(parts[2]))
            elif parts[3] == "send" and parts[4] == OUT:
                token, index = _publish_of(record)
                if index not in self.published.get(token, []):
                    self.broken("publish-removed-only-when-stored", f"{token}/{index} is in no user's stream")
            elif parts[3] == "send":
                self._check_forwarded(record, int(parts[2]), int(parts[4]))

    def _check_covered(self, record: Record, shard: int) -> None:
        view, folded = self.view(shard), self.refold.shard(shard).folded[record.seq]
        effects = len(folded.outcome.effects)
        if view.cursor.place < (record.seq, effects):
            self.broken("removed-only-when-covered", f"command {record.seq}, cursor {view.cursor.place}")
        if folded.changed and view.state_seq.get(folded.token, 0) < record.seq:
            self.broken(
                "removed-only-when-covered",
                f"command {record.seq} of {folded.token}, state {view.state_seq.get(folded.token)}",
            )
        left = self.events_left(folded)
        if left:
            self.broken(
                "deleted-events-gone", f"command {record.seq} has deleted {folded.token}; left are {left}"
            )
        objects = self.objects_left(folded)
        if objects:
            self.broken(
                "deleted-objects-gone", f"command {record.seq} has deleted {folded.token}; left are {objects}"
            )
        if folded.outcome.code in ("COMMAND_MALFORMED", "SHARD_WRONG", "RUN_ID_INVALID"):
            if record.seq not in view.dead:
                self.broken(
                    "refused-is-kept", f"command {record.seq} ({folded.outcome.code}) is in no dead letter"
                )

    def events_left(self, folded: Folded) -> list[str]:
        """The kinds of the output events that are in the stream of a run that was deleted with them by this command."""
        deleted = folded.outcome.events[0] if folded.outcome.events else None
        if not isinstance(deleted, RunDeleted) or not deleted.events:
            return []
        log, run_id = self._server.streams[self._names.events_stream].log, run_id_of(folded.token)
        found = [
            decode_event(log.messages[seq].data)
            for seqs in log.matching(self._names.events_of_run(folded.shard, run_id))
            for seq in seqs
        ]
        return [
            event.kind
            for event in found
            if event.subject == run_id and int(event.command) <= folded.seq and event.kind != "run-deleted"
        ]

    @property
    def _objects(self) -> MessageLog:
        return self._server.stream(self._names.objects_stream()).log

    def objects_left(self, folded: Folded) -> list[str]:
        """The subjects of what was stored for a run before this command, which has deleted it, and is still there."""
        if not folded.outcome.events or not isinstance(folded.outcome.events[0], RunDeleted):
            return []
        state = self.refold.shard(folded.shard).states[folded.token]
        if not isinstance(state, Gone) or state.abandons or state.deletions[-1].seq != folded.seq:
            return []  # They stay for the next run of the id, or for child runs that live on.
        if not self._go_at_once(folded.shard, state):
            return []  # They stay until those are deleted that were held, or still tidied up.
        log, last = self._objects, self._objects_before[folded.shard, folded.seq]
        return [
            subject
            for subject, seqs in log.subjects.items()
            if self._root_of_object(subject) == folded.token and any(seq <= last for seq in seqs)
        ]

    def _check_object_removed(self, record: Record) -> None:
        root = self._root_of_object(record.subject)
        covered = [seq for shard, seq in self._deletions(root) if seq <= self.view(shard).cursor.place[0]]
        if not covered:
            self.broken("objects-stay", f"{record.subject} is removed, and {root} was not deleted")
        for state in self._children_before(root, max(covered, default=0)):
            self.broken("objects-stay", f"{record.subject} is removed, and run {state.run_id} is there")

    def _children_before(self, root: str, deletion: int) -> list[RunState]:
        """The child runs that were there when the run of this token was deleted, and are not deleted themselves."""
        return [
            state
            for shard in self.refold.shards.values()
            for state in shard.states.values()
            if isinstance(state, RunState)
            and root_of(state.run_id) != state.run_id
            and root_token(state.run_id) == root
            and state.born < deletion
        ]

    def _go_at_once(self, shard: int, gone: Gone) -> bool:
        """Whether all child runs were deleted with it that may use its objects."""
        if gone.disowned:
            return False
        states = self.refold.shard(shard).states
        for wait_id in gone.owned:
            child = states.get(run_token(child_id(gone.run_id, wait_id)))
            if not isinstance(child, Gone) or child.late or child.forgotten or child.abandons:
                return False
            if not self._go_at_once(shard, child):
                return False
        return True

    def _root_of_object(self, subject: str) -> str:
        place = self._names.object_of_chunks(subject) or self._names.object_of_info(subject)
        return place[0] if place is not None else ""

    def _deletions(self, token: str) -> list[tuple[int, int]]:
        """The shard and the sequence of each command that has deleted a run of this id, committed or not."""
        states = {number: shard.states.get(token) for number, shard in self.refold.shards.items()}
        return [
            (number, each.seq)
            for number, state in states.items()
            if isinstance(state, RunState | Gone)
            for each in state.deletions
        ]

    def _check_done(self, record: Record, shard: int) -> None:
        message = _tasks.decode(record.data)
        token = message.reply.rsplit(".", 1)[1]
        over = self.refold.shard(shard).over.get((token, message.task_id))
        awaited = over is None or self.view(shard).cursor.place[0] < over
        if awaited and (token, message.task_id) not in self.view(shard).results:
            self.broken("task-removed-only-with-result", f"{message.task_id} of {message.run_id}")

    def _check_forwarded(self, record: Record, source: int, target: int) -> None:
        if record.seq not in self.view(target).forwarded.get(source, set()):
            self.broken(
                "send-removed-only-when-forwarded", f"send {record.seq} of shard {source} to {target}"
            )

    # -- what is told ------------------------------------------------------------------------------
    def _told(self, subject: str, data: bytes, writer: object) -> None:
        if not isinstance(writer, MemoryConnection) or not writer.name.endswith("-intake"):
            return
        if subject in self._replies:
            self._check_answer(subject, _answers.decode(data))
            return
        with contextlib.suppress(msgspec.MsgspecError):
            self._check_read(int(tenure_of(writer).shard), _reads.decode(data))

    def _check_answer(self, subject: str, answer: Answer) -> None:
        asked = (answer.shard, answer.seq)
        shards = [shard for shard, seq in self._replies[subject] if (shard, seq) == asked]
        if not shards:
            self.broken("answer-as-folded", f"an answer for command {answer.seq}, which asked for none there")
            return
        view, outcome = self.view(shards[0]), self.refold.shard(shards[0]).folded[answer.seq].outcome
        if view.cursor.seq < answer.seq:
            self.broken(
                "answer-after-commit", f"command {answer.seq} was answered at cursor {view.cursor.place}"
            )
        if (answer.code or None, answer.existing) != (outcome.code, outcome.existing):
            self.broken("answer-as-folded", f"command {answer.seq}: {answer} instead of {outcome.code}")

    def _check_read(self, shard: int, answer: AskAnswer) -> None:
        run = answer.run
        if run is None:
            return
        # A run that ended before the shards grew is shown by the owner of its new place, as the old one left it.
        views = [self.view(shard), *self.shards.values()]
        key = run_token(run.run_id), run.seq
        view = next((each for each in views if key in each.history), views[0])
        data = view.history.get(key)
        wrong = ["run"] if data is None else self._shown_otherwise(run, decode_state(data))
        if run.seq > view.cursor.seq or wrong:
            self.broken(
                "reads-only-committed",
                f"{run.run_id} @{run.seq}, {run.status}, is shown with another {wrong} than the fold made it, "
                f"cursor {view.cursor.place}",
            )

    def _shown_otherwise(self, run: RunView, state: State) -> list[str]:
        """Which fields of an answer are not those of the state. One that waits for an end shows no variables."""
        if not isinstance(state, RunState):
            return ["run"]
        wrong = [
            name
            for name in ("status", "events", "failure", "reason", "actor")
            if getattr(run, name) != getattr(state, name)
        ]
        if _decoded(run.output) != _decoded(state.output):
            wrong.append("output")
        definition = self.refold.definition(state.workflow, state.version)
        if definition is not None and run.input is not None:
            shown = {
                name: _decoded(msgspec.Raw(wire(decode_stored(value, definition.types))))
                for name, value in state.variables.items()
                if name not in definition.temporaries
            }
            if run.variables != shown:
                wrong.append("variables")
        return wrong
