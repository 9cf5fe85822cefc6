"""The engine with one of its safeguards taken away: each must be caught by a rule, or the rules are worth nothing.

A mutant is a patch of the engine's own code for the length of a seed. `rules` are those that may catch it first;
an exception is never among them.
"""

# A mutation has to reach into what it mutates.
# pyright: reportPrivateUsage=false
# mypy: disable-error-code="attr-defined"

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import msgspec
from msgspec import structs

from dressage.brokers import objects
from dressage.brokers.interface import ConsumerState, Message
from dressage.client.feed import RunFeed
from dressage.client.history import _Reading
from dressage.connectors.dealing import Dealing
from dressage.connectors.trigger import Trigger
from dressage.orchestrator.fold import advance as advance_module
from dressage.orchestrator.fold import (
    archive,
    cancelling,
    limiter,
    mailbox,
    migrating,
    pausing,
    rescuing,
    retention,
    schedule,
    timetable,
)
from dressage.orchestrator.fold import fold as fold_module
from dressage.orchestrator.fold import state as fold_state
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.branches import CANCELLED, Branches
from dressage.orchestrator.fold.effects import SendCommand, SetTimer
from dressage.orchestrator.fold.nodes import child, timers, user_task
from dressage.orchestrator.fold.nodes import permit as permit_node
from dressage.orchestrator.fold.nodes import sleep as sleep_node
from dressage.orchestrator.fold.nodes import task as task_node
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand
from dressage.orchestrator.fold.state import Gone, HeldWait, RunState, RunThread, SleepWait
from dressage.orchestrator.turn import behind, committing, folding, publishing, takeover, tenure
from dressage.orchestrator.turn.asking import Asking
from dressage.orchestrator.turn.behind import EventsStage, StatesStage
from dressage.orchestrator.turn.cleaning import Cleaner
from dressage.orchestrator.turn.committing import Committer
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.folding import Folder
from dressage.orchestrator.turn.forwarding import Forwarder
from dressage.orchestrator.turn.messages import MessageMaker
from dressage.orchestrator.turn.publishing import Publisher
from dressage.orchestrator.turn.reading import token_of
from dressage.orchestrator.turn.removing import Floor, Remover
from dressage.orchestrator.turn.runs import Run, Runs
from dressage.orchestrator.turn.turn import Frozen, TimerCancel, Turn
from dressage.protocol.commands import (
    AwaitEvent,
    CancelThread,
    FailureInfo,
    ReturnPermit,
    StartRun,
    TimerFired,
)
from dressage.protocol.errors import OutcomeUnknown, PublishRefused
from dressage.protocol.events import TaskCompleted
from dressage.protocol.names import OUT, Names, limiter_token, run_token
from dressage.protocol.user_tasks import Complete
from dressage.worker.worker import Worker

ANY_FOLD_VERSION: Final = 1_000_000

Patch = Callable[[], AbstractContextManager[Any]]


@dataclass(slots=True, frozen=True)
class Mutant:
    """`what` is the safeguard that is gone; PROTOCOL's hole, if it has one, stands in front.

    `first` is the seed to begin with, which showed it the last time that somebody looked.
    """

    name: str
    what: str
    rules: frozenset[str]
    patch: Patch
    first: int = 1


MUTANTS: Final[dict[str, Mutant]] = {}


def mutant(what: str, *rules: str, first: int = 1) -> Callable[[Callable[[], Iterator[None]]], Patch]:
    """Registers a generator that patches, yields, and restores."""

    def register(patch: Callable[[], Iterator[None]]) -> Patch:
        manager = contextmanager(patch)
        MUTANTS[patch.__name__] = Mutant(patch.__name__, what, frozenset(rules), manager, first)
        return manager

    return register


# -- the commit ---------------------------------------------------------------------------------------
@mutant(
    "the cursor is written without compare-and-set",
    "replaced-owner-stores-nothing",
    "cursor-only-forward",
    first=25,
)
def commit_without_cas() -> Iterator[None]:
    with mock.patch.object(committing, "Expect", return_value=None):
        yield


@mutant("H1: the cursor goes before its singles are acknowledged", "effects-before-cursor", first=173)
def cursor_before_singles() -> Iterator[None]:
    async def store(self: Any, effects: list[Any]) -> None:
        for effect in effects:
            effect.expect = committing.Expect(self._cursor_seq, self._subject)
            self._connection.send(effect).add_done_callback(lambda done: done.exception())

    with mock.patch.object(Committer, "_store_singles", store):
        yield


@mutant(
    "H7: a commit without an answer is taken for done",
    "effects-before-cursor",
    "position-behind-cursor",
    "state-behind-cursor",
    "answer-after-commit",
    first=27,
)
def silence_is_success() -> Iterator[None]:
    certain = committing.certain

    async def believing(connection: Any, messages: list[Any]) -> Any:
        try:
            return await connection.publish_batch(messages)
        except OutcomeUnknown:
            found = await connection.last_message(_stream_of(messages[-1].subject), messages[-1].subject)
            return committing.Stored(found.seq if found else 0)
        except PublishRefused:
            return await certain(connection, messages)

    def silent_singles(messages: Any) -> Any:
        return asyncio.gather(*(_silence_to_none(each) for each in messages))

    with (
        mock.patch.object(committing, "certain", believing),
        mock.patch.object(behind, "certain", believing),
        mock.patch.object(committing, "all_of", silent_singles),
    ):
        yield


async def _silence_to_none(stored: asyncio.Future[Any]) -> Any:
    try:
        return await stored
    except OutcomeUnknown:
        return committing.Stored(0)


def _stream_of(subject: str) -> str:
    parts = subject.split(".")
    return f"dressage_{parts[1]}_events" if parts[2] == "position" else f"dressage_{parts[1]}_{parts[2]}"


@mutant("answers go out before the commit", "answer-after-commit")
def answers_before_commit() -> Iterator[None]:
    take = Folder.take

    def telling(self: Any) -> Turn:
        turn = take(self)
        for reply, answer in turn.answers:
            told = asyncio.ensure_future(self._runs._connection.tell(reply, tenure.encode(answer)))
            told.add_done_callback(lambda done: done.cancelled() or done.exception())
        return turn

    with mock.patch.object(Folder, "take", telling):
        yield


@mutant("a timer is not cancelled with its run", "effects-before-cursor", "nothing-left-over")
def forgotten_cancel() -> Iterator[None]:
    add = Turn.add_effect

    def without_cancels(self: Turn, effect: Any) -> None:
        if not isinstance(effect, TimerCancel):
            add(self, effect)

    with mock.patch.object(Turn, "add_effect", without_cancels):
        yield


# -- take-over ----------------------------------------------------------------------------------------
def _without_fence(where: str) -> AbstractContextManager[Any]:
    """Reads what stands there, and takes it for its own without rewriting it."""
    fence = takeover._fence

    async def reading(connection: Any, stream: str, subject: str, rewrite: Any, **options: Any) -> int:
        if where not in subject:
            return await fence(connection, stream, subject, rewrite, **options)
        found = await connection.last_message(stream, subject)
        if found is None:
            return await fence(connection, stream, subject, rewrite, **options)
        rewrite(found.data, found.seq)
        return int(found.seq)

    return mock.patch.object(takeover, "_fence", reading)


@mutant(
    "H8: a take-over reads the cursor and does not fence it",
    "replaced-owner-stores-nothing",
    "cursor-only-forward",
)
def no_cursor_fence() -> Iterator[None]:
    with _without_fence(".cursor"):
        yield


@mutant(
    "H8: a take-over does not fence the position", "replaced-owner-stores-nothing", "events-once-in-order"
)
def no_position_fence() -> Iterator[None]:
    with _without_fence(".position."):
        yield


@mutant("H4: a take-over does not fence the states", "replaced-owner-stores-nothing", "state-only-forward")
def no_states_fence() -> Iterator[None]:
    with _without_fence(".fence."):
        yield


@mutant(
    "H4: states are put without looking at the fence",
    "replaced-owner-stores-nothing",
    "state-only-forward",
    first=33,
)
def states_without_cas() -> Iterator[None]:
    init = StatesStage.__init__

    def unfenced(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        self._fence = None

    with mock.patch.object(StatesStage, "__init__", unfenced):
        yield


@mutant(
    "H9: two take-overs interleave, one of them slow, and nobody compares epochs",
    "replaced-owner-stores-nothing",
    first=39,
)
def epochs_not_compared() -> Iterator[None]:
    fence = takeover._fence

    async def slow(connection: Any, stream: str, subject: str, rewrite: Any, **options: Any) -> int:
        if ".position." in subject and connection.serial % 2:
            await asyncio.sleep(2.0)
        return await fence(connection, stream, subject, rewrite, **options)

    with (
        mock.patch.object(takeover, "_refuse_higher", return_value=None),
        mock.patch.object(takeover, "_fence", slow),
    ):
        yield


@mutant(
    "H8: memory outlives a doubt: runs are read before the fence",
    "state-as-folded",
    "events-once-in-order",
    "effects-before-cursor",
)
def memory_outlives_doubt() -> Iterator[None]:
    kept: dict[tuple[int, int], Any] = {}
    init = Runs.__init__

    def keeping(self: Any, connection: Any, names: Any, shard: int, *others: Any, **options: Any) -> None:
        init(self, connection, names, shard, *others, **options)
        life = id(connection.process)
        before = kept.get((life, shard))
        if before is not None:
            self._runs = before._runs
        kept[life, shard] = self

    with mock.patch.object(Runs, "__init__", keeping), mock.patch.object(Runs, "clear"):
        yield


@mutant(
    "F13: consumers keep their name (and a lost delivery goes unnoticed, which would show it: each covers the other)",
    "nothing-hangs",
    "nothing-left-over",
    "one-owner",
    "acknowledged-not-lost",
    "effects-before-cursor",
    "answer-as-folded",
    "events-once-in-order",
    "state-as-folded",
    "removed-only-when-covered",
)
def same_consumer_name() -> Iterator[None]:
    with (
        mock.patch.object(Names, "command_consumer", staticmethod(lambda epoch: "orch_1")),
        mock.patch.object(Names, "forward_consumer", staticmethod(lambda epoch: "fwd_1")),
        _unnoticed_gaps(),
    ):
        yield


@mutant(
    "H2: a lost delivery is skipped for ever",
    "effects-before-cursor",
    "events-once-in-order",
    "state-as-folded",
    first=8,
)
def unnoticed_gap() -> Iterator[None]:
    with _unnoticed_gaps():
        yield


@contextmanager
def _unnoticed_gaps() -> Iterator[None]:
    deliver = Folder.deliver

    def accepting(self: Any, delivery: Any) -> None:
        self._next_consumer_seq = delivery.consumer_seq
        deliver(self, delivery)

    with mock.patch.object(Folder, "deliver", accepting):
        yield


@mutant("H14: an older release serves what a newer one has served", "state-as-folded", "events-once-in-order")
def older_release_goes_on() -> Iterator[None]:
    careful = tenure.take_over

    async def careless(connection: Any, names: Any, shard: int, _: int, *others: Any) -> Any:
        return await careful(connection, names, shard, ANY_FOLD_VERSION, *others)

    with mock.patch.object(tenure, "take_over", careless):
        yield


# -- sends to other shards ------------------------------------------------------------------------------
@mutant("H10: a turn that holds a send goes as singles, as any other does", "sends-once-in-order", first=9)
def sends_as_singles() -> Iterator[None]:
    def few(self: Any, turn: Turn) -> bool:
        return len(turn.effects) > self._singles_max or bool(turn.cancels)

    store = Committer._store_singles

    async def leisurely(self: Any, effects: list[Any]) -> None:
        await store(self, effects)
        await asyncio.sleep(0.3)

    with (
        mock.patch.object(Committer, "_as_batch", few),
        mock.patch.object(Committer, "_store_singles", leisurely),
    ):
        yield


@mutant("H10: effects that the cursor covers are stored again at a take-over", "sends-once-in-order", first=6)
def effects_again() -> Iterator[None]:
    record, commit = Folder._record_effects, Committer.commit

    async def anew(self: Any, seq: int, outcome: Any, effects: Any) -> None:
        self._committed = (0, 0)
        await record(self, seq, outcome, effects)

    async def past(self: Any, turn: Turn) -> None:
        if turn.place <= self.place:
            turn.effects.clear()
        await commit(self, turn)

    with (
        mock.patch.object(Folder, "_record_effects", anew),
        mock.patch.object(Committer, "commit", past),
    ):
        yield


@mutant("H10: the forwarder takes the newest send first", "forwarded-in-order", first=5)
def newest_send_first() -> Iterator[None]:
    deliver = Forwarder.deliver

    def piling(self: Any, delivery: Any) -> Any:
        target = delivery.subject.split(".")[-2]
        if target != OUT and int(target) not in self._lanes:
            self._lanes[int(target)] = asyncio.LifoQueue()
            self._new_lane.set()
        return deliver(self, delivery)

    store = Forwarder._store

    async def slow(self: Any, messages: list[Any]) -> list[int]:
        await asyncio.sleep(0.2)
        return await store(self, messages)

    with (
        mock.patch.object(Forwarder, "deliver", piling),
        mock.patch.object(Forwarder, "_store", slow),
    ):
        yield


@mutant(
    "H10: a send that could not be forwarded goes again behind the others", "forwarded-in-order", first=55
)
def failed_send_goes_last() -> Iterator[None]:
    async def patient(self: Any, target: int) -> None:
        lane = self._lanes[target]
        while True:
            delivery = await lane.get()
            await asyncio.sleep(0.2)
            try:
                stored = await self._store([self._message(target, delivery)])
            except (OutcomeUnknown, PublishRefused) as error:
                if self._connection.lost.is_set():
                    raise Doubt("the connection was lost") from error
                lane.put_nowait(delivery)
                await asyncio.sleep(0.02)
                continue
            self._unsent -= 1
            self._handed_on.arrived(token_of(delivery), stored[0])
            self._floor.covered(delivery.stream_seq)
            await self.on_forwarded(1)

    with mock.patch.object(Forwarder, "_forward", patient):
        yield


@mutant(
    "H10: a lost delivery of a send is skipped for ever",
    "forwarded-in-order",
    "send-removed-only-when-forwarded",
    "published-once-in-order",
    "publish-removed-only-when-stored",
    "nothing-left-over",
    first=9,
)
def unnoticed_lost_send() -> Iterator[None]:
    deliver = Forwarder.deliver

    def accepting(self: Any, delivery: Any) -> Any:
        self._next_consumer_seq = delivery.consumer_seq
        return deliver(self, delivery)

    with mock.patch.object(Forwarder, "deliver", accepting):
        yield


@mutant("H11: a send counts as forwarded when it is delivered", "send-removed-only-when-forwarded", first=4)
def delivered_counts_as_forwarded() -> Iterator[None]:
    deliver = Forwarder.deliver

    def hasty(self: Any, delivery: Any) -> Any:
        dealt = deliver(self, delivery)
        if delivery.subject.split(".")[-2] != OUT:
            self._floor.covered(delivery.stream_seq)
        return dealt

    with mock.patch.object(Forwarder, "deliver", hasty):
        yield


# -- what is published ----------------------------------------------------------------------------------
@mutant("what is published carries no message id", "published-once-in-order")
def published_without_id() -> Iterator[None]:
    def nameless(*args: Any, **options: Any) -> Message:
        return Message(*args, **{**options, "msg_id": None})

    with mock.patch.object(publishing, "Message", nameless):
        yield


@mutant(
    "a publish counts as done when it is delivered to the owner", "publish-removed-only-when-stored", first=6
)
def delivered_counts_as_published() -> Iterator[None]:
    deliver = Publisher.deliver

    def hasty(self: Any, delivery: Any) -> None:
        deliver(self, delivery)
        self._floor.covered(delivery.stream_seq)

    with mock.patch.object(Publisher, "deliver", hasty):
        yield


@mutant("a publish without an answer is taken for done", "publish-removed-only-when-stored", first=12)
def silence_is_published() -> Iterator[None]:
    trying = Publisher._try

    async def believing(self: Any, first: Any, message: Message) -> Any:
        failed = await trying(self, first, message)
        return None if failed is not None and failed.code == OutcomeUnknown.code else failed

    with mock.patch.object(Publisher, "_try", believing):
        yield


@mutant("what a run publishes goes out side by side", "published-once-in-order")
def published_side_by_side() -> Iterator[None]:
    trying = Publisher._try

    async def some_slowly(self: Any, first: Any, message: Message) -> Any:
        await asyncio.sleep(0.2 * (first.delivery.stream_seq % 2))
        return await trying(self, first, message)

    with (
        mock.patch.object(publishing, "token_of", lambda delivery: str(delivery.stream_seq)),
        mock.patch.object(Publisher, "_try", some_slowly),
    ):
        yield


# -- behind the commit --------------------------------------------------------------------------------
@mutant(
    "events are stored without looking at the position",
    "replaced-owner-stores-nothing",
    "events-once-in-order",
    first=39,
)
def events_without_cas() -> Iterator[None]:
    def unguarded(seq: int, subject: str | None = None) -> Any:
        return None if subject is None else committing.Expect(seq, subject)

    with mock.patch.object(behind, "Expect", unguarded):
        yield


@mutant(
    "H6: events go out as singles, of which only the last is awaited",
    "events-once-in-order",
    "state-behind-events",
    "events-complete",
    first=15,
)
def events_as_singles() -> Iterator[None]:
    async def singly(connection: Any, messages: list[Any]) -> Any:
        for message in messages[:-1]:
            connection.send(message).add_done_callback(lambda done: done.cancelled() or done.exception())
        return await committing.certain(connection, messages[-1:])

    with mock.patch.object(behind, "certain", singly):
        yield


@mutant("events go out before the commit", "position-behind-cursor", first=3)
def events_before_commit() -> Iterator[None]:
    take = Folder.take
    stages: dict[int, Any] = {}
    init = EventsStage.__init__

    def known(self: Any, connection: Any, *args: Any, **options: Any) -> None:
        init(self, connection, *args, **options)
        stages[id(connection.process)] = self

    add = EventsStage.add

    def early(self: Any) -> Turn:
        turn = take(self)
        stage = stages.get(id(self._runs._connection.process))
        if stage is not None:
            add(stage, turn)
        return turn

    with (
        mock.patch.object(EventsStage, "__init__", known),
        mock.patch.object(Folder, "take", early),
        mock.patch.object(EventsStage, "add", return_value=None),
    ):
        yield


@mutant("events that are stored already are stored again at a take-over", "events-once-in-order")
def events_again() -> Iterator[None]:
    record = Folder._record_events

    def anew(self: Any, seq: int, outcome: Any, events: Any) -> None:
        self._published = (0, 0)
        record(self, seq, outcome, events)

    with mock.patch.object(Folder, "_record_events", anew):
        yield


@mutant("H3: a state is written as memory holds it now", "state-behind-cursor", "state-behind-events")
def snapshot_of_now() -> Iterator[None]:
    following = StatesStage._next

    def latest(self: Any) -> Any:
        for frozen in self._waiting.values():
            frozen.state = frozen.run.state
        return following(self)

    with mock.patch.object(StatesStage, "_next", latest):
        yield


@mutant("states are written before their events", "state-behind-events")
def states_before_events() -> Iterator[None]:
    add = EventsStage.add

    def hasty(self: Any, turn: Turn) -> None:
        self._published(turn)
        add(self, turn)

    with mock.patch.object(EventsStage, "add", hasty), mock.patch.object(behind, "EVENTS_LINGER_S", 1.5):
        yield


@mutant(
    "commands are removed before they are covered",
    "removed-only-when-covered",
    "publish-removed-only-when-stored",
)
def removed_too_early() -> Iterator[None]:
    begun = Floor.begun

    def at_once(self: Any, seq: int) -> None:
        begun(self, seq)
        self.covered(seq)

    with mock.patch.object(Floor, "begun", at_once):
        yield


@mutant("H11: a state counts as stored when it is sent", "removed-only-when-covered", first=4)
def sent_counts_as_stored() -> Iterator[None]:
    write = StatesStage._write

    async def hasty(self: Any, states: list[Frozen], messages: list[Any]) -> None:
        for frozen in states:
            self._covered(frozen)
        await write(self, states, messages)

    with mock.patch.object(StatesStage, "_write", hasty):
        yield


@mutant("what cannot be read is thrown away", "refused-is-kept")
def no_dead_letters() -> Iterator[None]:
    with mock.patch.object(Folder, "_bury", return_value=None):
        yield


@mutant(
    "H12: a run is evicted before its state is stored",
    "state-as-folded",
    "events-once-in-order",
    "effects-before-cursor",
)
def evicted_dirty() -> Iterator[None]:
    with (
        mock.patch.object(Run, "clean", property(lambda _: True)),
        mock.patch.object(folding, "FOLDS_BEFORE_YIELD", 2),
    ):
        yield


@mutant(
    "H5: states are read from a replica that lags behind",
    "state-as-folded",
    "events-once-in-order",
    "effects-before-cursor",
)
def stale_reads() -> Iterator[None]:
    prefetch = Runs.prefetch

    def lagging(self: Any, token: str) -> None:
        if token in self._runs or token in self._loading:
            return
        prefetch(self, token)
        self._loading[token] = [asyncio.ensure_future(_lagging(leader)) for leader in self._loading[token]]

    with mock.patch.object(Runs, "prefetch", lagging):
        yield


async def _lagging(leader: asyncio.Future[Any]) -> Any:
    found = await leader
    # The replica has not heard of the run yet.
    return None if found is not None and found.seq % 3 == 0 else found


# -- reading, workers, the fold ------------------------------------------------------------------------
@mutant("readers see what is folded and not committed", "reads-only-committed", first=4)
def dirty_reads() -> Iterator[None]:
    async def latest(self: Any, token: str) -> Any:
        run = self._runs.peek(token)
        if run is not None:
            return run.state, self._shard
        return await state(self, token)

    state = Asking._state
    with mock.patch.object(Asking, "_state", latest), mock.patch.object(committing, "COMPANY_S", 0.5):
        yield


@mutant(
    "a worker acknowledges its task before the result is stored",
    "task-removed-only-with-result",
)
def acknowledged_first() -> Iterator[None]:
    report = Worker._report

    async def reporting(self: Any, publisher: Any, stream: str, message: Any, result: Any) -> None:
        for held in list(self._held.values()):
            await publisher._connection.ack(held.delivery)
        await asyncio.sleep(0.5)
        await report(self, publisher, stream, message, result)

    with mock.patch.object(Worker, "_report", reporting):
        yield


@mutant(
    "tasks are removed when they are delivered, not when they are done",
    "task-removed-only-with-result",
)
def tasks_removed_on_delivery() -> Iterator[None]:
    async def last(connection: Any, stream: str) -> ConsumerState:
        state = await connection.stream_state(stream)
        return ConsumerState(state.last_seq if state else 0, 0)

    look = Remover._look_at_consumers

    async def removing(self: Any) -> None:
        connection = self._connection

        async def consumer_state(stream: str, consumer: str) -> ConsumerState:
            return await last(connection, stream)

        with mock.patch.object(connection, "consumer_state", consumer_state):
            await look(self)

    with mock.patch.object(Remover, "_look_at_consumers", removing):
        yield


@mutant("any result is applied, whichever attempt it is of", "outcome-as-python", "task-executed")
def any_result_counts() -> Iterator[None]:
    def on_result(advance: Any, result: Any) -> None:
        try:
            original(advance, result)
        except RefuseCommand:
            for thread in advance.state.threads:
                wait = thread.wait
                if isinstance(wait, task_node.TaskWait) and wait.dead is None and wait.permit in ("", "held"):
                    original(advance, structs.replace(result, task_id=wait.task_id))
                    return
            raise

    original = task_node.on_result
    with mock.patch.object(fold_module, "on_result", on_result):
        yield


@mutant("a task is retried once less than it says", "outcome-as-python")
def one_retry_less() -> Iterator[None]:
    effective = task_node.effective_retry

    def fewer(*args: Any) -> Any:
        retry = effective(*args)
        return structs.replace(retry, retries=max(0, retry.retries - 1))

    with mock.patch.object(task_node, "effective_retry", fewer):
        yield


@mutant("a deadline that has passed changes nothing", "outcome-as-python", "nothing-hangs", first=6)
def deadline_without_effect() -> Iterator[None]:
    def on_timer(advance: Any, thread: Any, wait: Any, timer_id: str) -> None:
        raise RefuseCommand("RESULT_STALE", "it goes on")

    with mock.patch.object(timers.task, "on_timer", on_timer):
        yield


@mutant(
    "a worker believes whoever says that nobody waits for an attempt",
    "task-removed-only-with-result",
    first=22,
)
def any_word_is_believed() -> Iterator[None]:
    async def stop(self: Any, publisher: Any, held: Any, attempt: Any) -> None:
        attempt.stop("somebody says so")

    with mock.patch.object(Worker, "_ask_of", stop):
        yield


@mutant("an attempt that comes again begins from nothing", "progress-kept", first=60)
def begun_from_nothing() -> Iterator[None]:
    async def begun(
        self: Any, connection: Any, publisher: Any, held: Any, message: Any, *, again: bool
    ) -> Any:
        return message

    with mock.patch.object(Worker, "_begun", begun):
        yield


@mutant("the next attempt is not told how far the call has come", "progress-kept")
def progress_not_handed_on() -> Iterator[None]:
    dispatch: Any = task_node.DispatchTask

    def forgetful(**fields: Any) -> Any:
        return dispatch(**{**fields, "progress": msgspec.UNSET})

    with mock.patch.object(task_node, "DispatchTask", forgetful):
        yield


@mutant("H19: a timer that fired before may end a later sleep at the same place", "never-early", first=20)
def any_timer_of_the_place() -> Iterator[None]:
    original = fold_module.on_timer

    def on_timer(advance: Any, command: Any) -> None:
        place = command.timer_id.rsplit("-", 1)[0]
        for thread in advance.state.threads:
            if isinstance(thread.wait, SleepWait) and thread.wait.timer_id.startswith(f"{place}-"):
                original(advance, TimerFired(thread.wait.timer_id))
                return
        original(advance, command)

    with mock.patch.object(fold_module, "on_timer", on_timer):
        yield


@mutant(
    "H10: a finished run is started again by a start that comes once more",
    "outcome-as-python",
    "answer-as-folded",
    "state-as-folded",
)
def started_again() -> Iterator[None]:
    get = Runs.get

    async def forgetful(self: Any, token: str) -> Run:
        run = await get(self, token)
        if run.state is not None and run.state.finished and run.clean:
            run.state = run.committed = None
        return run

    with mock.patch.object(Runs, "get", forgetful):
        yield


# -- what the fold, shared with the checker, would do alike --------------------------------------------
@mutant("results carry no message id, and one that was applied is applied again", "result-applied-once")
def applied_again() -> Iterator[None]:
    def on_result(advance: Any, result: Any) -> None:
        try:
            original(advance, result)
        except RefuseCommand:
            if not result.output:
                raise
            by = result.by
            advance.emit(
                TaskCompleted("", result.task_id, 0, 1, by.worker, by.duration_ms, 0.0, result.output)
            )

    async def twice(self: Any, publisher: Any, stream: str, message: Any, result: Any) -> None:
        await report(self, publisher, stream, message, result)
        await publisher.publish(stream, Message(message.reply, tenure.encode(result)))

    original, report = task_node.on_result, Worker._report
    with (
        mock.patch.object(fold_module, "on_result", on_result),
        mock.patch.object(Worker, "_report", twice),
    ):
        yield


@mutant("a worker reports under an attempt's id what another one came to", "task-executed")
def results_mixed_up() -> Iterator[None]:
    report = Worker._report
    last: list[Any] = []

    async def mixed(self: Any, publisher: Any, stream: str, message: Any, result: Any) -> None:
        if result.output:
            last.append(result.output)
            result = structs.replace(result, output=last[-2:][0])
        await report(self, publisher, stream, message, result)

    with mock.patch.object(Worker, "_report", mixed):
        yield


@mutant(
    "a branch that loses a race ends where it waits, and tidies nothing up", "outcome-as-python", first=26
)
def losers_tidy_nothing() -> Iterator[None]:
    def end(self: Branches, thread: RunThread) -> None:
        thread.cancel = "raised"
        self.end(thread, CANCELLED)

    with mock.patch.object(Branches, "raise_cancelled", end):
        yield


@mutant("a schedule that was not served for a while fires once for all that passed", "scheduled-once")
def late_moments_dropped() -> Iterator[None]:
    due = schedule._Change._fire_due

    def last_alone(self: Any) -> None:
        fire, moments = self._fire, list[int]()
        self._fire = moments.append
        due(self)
        self._fire = fire
        for moment in moments[-1:]:
            fire(moment)

    with mock.patch.object(schedule._Change, "_fire_due", last_alone):
        yield


@mutant("of the schedules that are due at one moment a timetable tells the first one", "scheduled-once")
def others_of_a_moment_forgotten() -> Iterator[None]:
    fire = timetable._fire

    def first_alone(after: Any, command: Any) -> Any:
        outcome = fire(after, command)
        outcome.effects = outcome.effects[:1]
        return outcome

    with mock.patch.object(timetable, "_fire", first_alone):
        yield


@mutant("what a timetable is asked for behind its moment is forgotten", "scheduled-once")
def late_moments_forgotten() -> Iterator[None]:
    keep = timetable._keep

    def silent(after: Any, command: Any) -> Any:
        outcome = keep(after, command)
        if command.due_ms <= after.time_ms:
            outcome.effects = []
        return outcome

    with mock.patch.object(timetable, "_keep", silent):
        yield


@mutant("a run does not tell the schedule that has started it how it ended", "scheduled-once")
def scheduled_ends_silent() -> Iterator[None]:
    with mock.patch.object(schedule, "tell", return_value=[]):
        yield


@mutant("a schedule that is set again as it is begins anew", "scheduled-once", first=14)
def set_counts_again() -> Iterator[None]:
    put = schedule._set

    def forgetful(before: Any, command: Any, *others: Any) -> Any:
        if before is not None and command.command_id in before.done:
            before = structs.replace(before, made_ms=before.made_ms + 1, done=[])
        return put(before, command, *others)

    with mock.patch.object(schedule, "_set", forgetful):
        yield


@mutant("what comes to a run that is stopped is lost", "outcome-as-python", "nothing-hangs")
def held_is_lost() -> Iterator[None]:
    hold = Advance.hold

    def without_failures(self: Advance, thread: RunThread, what: HeldWait) -> None:
        hold(self, thread, structs.replace(what, failure=None))

    with mock.patch.object(Advance, "hold", without_failures):
        yield


@mutant("a run that is resumed does not go on with what came meanwhile", "outcome-as-python", "nothing-hangs")
def never_resumed() -> Iterator[None]:
    with mock.patch.object(pausing, "go_on"):
        yield


@mutant("a stop counts again when it comes again", "nothing-hangs", "outcome-as-python")
def stops_count_again() -> Iterator[None]:
    with mock.patch.object(pausing, "is_done", return_value=False):
        yield


@mutant("a child run is waited for once more, and is not rescued", "nothing-hangs")
def rescued_alone() -> Iterator[None]:
    wait_for = rescuing._wait_for

    def telling_nobody(advance: Advance, *given: Any) -> None:
        wait_for(advance, *given)
        advance.effects.pop()

    with mock.patch.object(rescuing, "_wait_for", telling_nobody):
        yield


@mutant("variables that are set from outside stay as they are", "outcome-as-python")
def edits_are_lost() -> Iterator[None]:
    with mock.patch.object(rescuing, "set_variables"):
        yield


@mutant("a dead task that is retried is not tried again", "nothing-hangs")
def retried_is_not_tried() -> Iterator[None]:
    settled = fold_module.on_settled

    def only_failing(advance: Advance, command: Any) -> None:
        if command.do == "fail":
            settled(advance, command)

    with mock.patch.object(fold_module, "on_settled", only_failing):
        yield


@mutant("a dead task is another one after each retry", "nothing-hangs", "outcome-as-python")
def retries_never_end() -> Iterator[None]:
    """What is retried has no retries left, and so its id is that of the attempt that was dead."""
    again = task_node.try_again

    def same(advance: Advance, thread: RunThread, wait: Any, delay_ms: int) -> None:
        if wait.spent and wait.spent == wait.attempt:
            wait = structs.replace(wait, attempt=wait.attempt - 1)
        again(advance, thread, wait, delay_ms)

    with mock.patch.object(task_node, "try_again", same):
        yield


@mutant("what somebody does in a user task counts again when it comes again", "acknowledged-not-lost")
def acts_count_again() -> Iterator[None]:
    with mock.patch.object(user_task, "is_done", return_value=False):
        yield


@mutant("a user task that was cancelled is done", "outcome-as-python")
def cancelled_is_done() -> Iterator[None]:
    def doing(advance: Any, thread: RunThread, wait: Any, action: Any) -> None:
        filled = Complete(action.user, msgspec.Raw(b'{"left":1}'))
        user_task._complete(advance, thread, wait, filled)

    with mock.patch.object(user_task, "_cancel", doing):
        yield


@mutant("an event that comes back to its key is thrown away", "filed-once", "nothing-hangs", first=690)
def nothing_comes_back() -> Iterator[None]:
    with mock.patch.object(mailbox, "_return", lambda before, *_: Outcome(before, existing=True)):
        yield


@mutant("an event that a wait at a key was given is kept there, too", "filed-once")
def given_and_kept() -> Iterator[None]:
    give = mailbox._give

    def keeping(after: Any, event: Any, waits: Any) -> Any:
        if waits and not after.unclaimed:
            after.unclaimed = [event]
        return give(after, event, waits)

    with mock.patch.object(mailbox, "_give", keeping):
        yield


@mutant(
    "of an event whose mark has moved a key does not know that it was there before", "filed-once", first=12
)
def earlier_ids_forgotten() -> Iterator[None]:
    keep = archive._keep

    def keeping_nothing(before: Any, after: Any, marks: Any, place: Any) -> Any:
        outcome = keep(before, after, marks, place)
        after.marks = []
        return outcome

    with mock.patch.object(archive, "_keep", keeping_nothing):
        yield


@mutant("a run that begins to wait at a key does not tell it", "own-sends-once-in-order", "nothing-hangs")
def waits_in_silence() -> Iterator[None]:
    effect = MessageMaker.effect

    def silent(self: Any, wanted: Any, state: Any, token: str) -> Any:
        if isinstance(wanted, SendCommand) and isinstance(wanted.command, AwaitEvent):
            wanted = SendCommand(wanted.token, structs.replace(wanted.command, run_id="nobody"))
        return effect(self, wanted, state, token)

    with mock.patch.object(MessageMaker, "effect", silent):
        yield


@mutant("a child run that fails does not tell its parent", "nothing-hangs", first=6)
def failed_children_silent() -> Iterator[None]:
    tell = advance_module.how_ended

    def silent(state: Any, parent: Any, times: int) -> SendCommand:
        told = tell(state, parent, times)
        return told if state.status == "completed" else SendCommand(run_token("nobody"), told.command)

    with mock.patch.object(advance_module, "how_ended", silent):
        yield


@mutant(
    "a run that nobody waits for does not tell that it is there",
    "nothing-hangs",
    "outcome-as-python",
    first=4,
)
def begun_in_silence() -> Iterator[None]:
    def elsewhere(token: str, told: Any) -> SendCommand:
        return SendCommand(token, structs.replace(told, wait_id="0-0-0"))

    with mock.patch.object(fold_module, "SendCommand", elsewhere):
        yield


@mutant(
    "the end of a child run is told to its parent as another one's",
    "outcome-as-python",
    "nothing-hangs",
    first=26,
)
def ends_mixed_up() -> Iterator[None]:
    tell = advance_module.how_ended

    def mixing(state: Any, parent: Any, times: int) -> SendCommand:
        told = tell(state, parent, times)
        if state.status != "completed":
            return told
        return SendCommand(told.token, structs.replace(told.command, output=msgspec.Raw(b"7")))

    with mock.patch.object(advance_module, "how_ended", mixing):
        yield


@mutant("a sleep of more than a week lasts a week", "outcome-as-python", first=10)
def sleeps_a_week_at_most() -> Iterator[None]:
    milliseconds = sleep_node._milliseconds

    def capped(duration: object, what: str) -> int:
        return min(milliseconds(duration, what), 7 * 86_400_000)

    with mock.patch.object(sleep_node, "_milliseconds", capped):
        yield


@mutant("timers are set for a little later than the sleep ends", "timer-until-due")
def timers_set_late() -> Iterator[None]:
    effect = MessageMaker.effect

    def late(self: Any, wanted: Any, state: Any, token: str) -> Any:
        if isinstance(wanted, SetTimer):
            wanted = structs.replace(wanted, due_ms=wanted.due_ms + 40)
        return effect(self, wanted, state, token)

    with mock.patch.object(MessageMaker, "effect", late):
        yield


@mutant(
    "the permit of an attempt that nobody waits for is not returned",
    "permits-come-back",
    "nothing-hangs",
    "outcome-as-python",
    first=4,
)
def permits_not_returned() -> Iterator[None]:
    with mock.patch.object(permit_node, "returned", return_value=[]):
        yield


@mutant(
    "a permit for an attempt that nobody waits for is kept",
    "permits-come-back",
    "nothing-hangs",
    "outcome-as-python",
    first=4,
)
def late_permit_kept() -> Iterator[None]:
    def give_back(run_id: str, command: Any) -> SendCommand:
        return SendCommand(limiter_token(command.task, command.key), ReturnPermit(run_id, "0-0-0-0"))

    with mock.patch.object(limiter, "give_back", give_back):
        yield


@mutant("a limiter lets one more be at a time", "limits-hold", first=4)
def one_permit_more() -> Iterator[None]:
    hand_out = limiter._hand_out

    def generous(after: Any) -> Any:
        limit = after.limit
        after.limit = structs.replace(limit, concurrency=limit.concurrency + 1)
        effects = hand_out(after)
        after.limit = limit
        return effects

    with mock.patch.object(limiter, "_hand_out", generous):
        yield


@mutant("a rate forgets what has just begun", "limits-hold", first=13)
def rate_without_memory() -> Iterator[None]:
    with mock.patch.object(limiter, "_count"):
        yield


@mutant("a cancel is accepted and does nothing", "acknowledged-not-lost")
def cancel_without_effect() -> Iterator[None]:
    cancel = fold_module._cancel

    def accepting(state: Any, *others: Any) -> Any:
        if not state.finished:
            return Outcome(state)
        return cancel(state, *others)

    with mock.patch.object(fold_module, "_cancel", accepting):
        yield


@mutant(
    "what has started a cancelled branch is not told that it has no result", "outcome-as-python", first=11
)
def cancelled_branch_untold() -> Iterator[None]:
    end = Branches.end

    def silent(self: Branches, thread: RunThread, outcome: Any) -> None:
        cancelled = isinstance(outcome, FailureInfo) and outcome.kind == "cancelled"
        parent = self.advance.thread(thread.parent or 0)
        if cancelled and thread.cancelled_for is not None and parent.cancel != "asked":
            outcome = msgspec.Raw(b"0")
        end(self, thread, outcome)

    with mock.patch.object(Branches, "end", silent):
        yield


@mutant("with a branch its siblings are cancelled", "outcome-as-python", first=11)
def siblings_cancelled() -> Iterator[None]:
    cancel = cancelling.cancel

    def all_of_them(advance: Advance, command: CancelThread) -> None:
        cancel(advance, command)
        for number in [thread.id for thread in advance.state.threads if thread.parent == 0]:
            if not advance.state.finished and advance.threads.find(number) is not None:
                with contextlib.suppress(RefuseCommand):
                    cancel(advance, structs.replace(command, thread=number))

    with mock.patch.object(cancelling, "cancel", all_of_them):
        yield


@mutant("a cancelled branch wins its race", "outcome-as-python", first=11)
def cancelled_branch_wins() -> Iterator[None]:
    wins = Branches._wins

    def too(self: Branches, wait: Any, failure: Any, *, cancelled: bool) -> bool:
        return wins(self, wait, failure, cancelled=False)

    with mock.patch.object(Branches, "_wins", too):
        yield


@mutant("a refused command leaves its mark on the run in memory", "memory-as-folded")
def refusals_leave_marks() -> Iterator[None]:
    record = Folder._record

    async def marking(self: Any, delivery: Any, run: Run, outcome: Any, *others: Any, **options: Any) -> None:
        await record(self, delivery, run, outcome, *others, **options)
        if outcome.code is not None and isinstance(run.state, RunState) and run.clean:
            run.state = run.committed = structs.replace(run.state, reason="refused")

    with mock.patch.object(Folder, "_record", marking):
        yield


@mutant("readers see variables that are folded and not committed", "reads-only-committed", first=10)
def dirty_variables() -> Iterator[None]:
    async def latest(self: Any, token: str) -> Any:
        found, place = await state(self, token)
        run = self._runs.peek(token)
        if isinstance(found, RunState) and run is not None and isinstance(run.state, RunState):
            found = structs.replace(found, variables=run.state.variables)
        return found, place

    state = Asking._state
    with mock.patch.object(Asking, "_state", latest), mock.patch.object(committing, "COMPANY_S", 0.5):
        yield


# -- deletions ----------------------------------------------------------------------------------------
@mutant("a run that is held is deleted all the same", "held-is-kept")
def hold_ignored() -> Iterator[None]:
    delete = retention._delete

    def ignoring(state: Any, *others: Any) -> Any:
        return delete(structs.replace(state, held=None), *others)

    with mock.patch.object(retention, "_delete", ignoring), mock.patch.object(fold_module, "check"):
        yield


@mutant("who repeats a deletion deletes the next run of the id", "one-life-after-the-other")
def deletion_repeated() -> Iterator[None]:
    gone = retention._gone

    def forgetful(*arguments: Any) -> Any:
        outcome: Any = gone(*arguments)
        deletions = tuple(structs.replace(each, command_id="") for each in outcome.state.deletions)
        outcome.state = structs.replace(outcome.state, deletions=deletions)
        return outcome

    with mock.patch.object(retention, "_gone", forgetful):
        yield


@mutant("who repeats the start of a deleted run starts it again", "one-life-after-the-other", first=7)
def start_repeated() -> Iterator[None]:
    with mock.patch.object(retention, "was_deleted", return_value=False):
        yield


@mutant(
    "what is handed on to where an id lives now does not say that it was meant for a run that was deleted here",
    "one-life-after-the-other",
    "answer-as-folded",
    first=484,
)
def handed_on_without_deletion() -> Iterator[None]:
    with mock.patch.object(folding, "is_of_deleted", return_value=False):
        yield


@mutant(
    "of a deleted run nothing is known any more by who takes the shard over",
    "deleted-stays-gone",
    "one-life-after-the-other",
    "memory-as-folded",
    "state-as-folded",
    "effects-before-cursor",
    "events-once-in-order",
    "answer-as-folded",
    "own-sends-once-in-order",
    first=7,
)
def deletion_unknown() -> Iterator[None]:
    get = Runs.get

    async def forgetful(self: Any, token: str) -> Run:
        known = self.peek(token)
        run = await get(self, token)
        if known is None and isinstance(run.state, Gone):
            run.state = run.committed = None
        return run

    with mock.patch.object(Runs, "get", forgetful):
        yield


@mutant(
    "what is known of a deletion goes while commands of the run may be folded again",
    "forgotten-last",
    "state-as-folded",
)
def forgotten_too_soon() -> Iterator[None]:
    add = StatesStage.add

    def forgetting(self: Any, turn: Turn) -> None:
        add(self, turn)
        for frozen in turn.frozen:
            if isinstance(frozen.state, Gone) and not frozen.state.forgotten:
                self._waiting[frozen.run.token] = Frozen(
                    frozen.run, structs.replace(frozen.state, forgotten=True)
                )

    with mock.patch.object(StatesStage, "add", forgetting):
        yield


@mutant(
    "a deletion counts as done before what it leaves is removed",
    "deleted-events-gone",
    "deleted-objects-gone",
)
def cleaned_later() -> Iterator[None]:
    patiently = Cleaner._patiently

    async def slowly(self: Any, cleanup: Any) -> None:
        await asyncio.sleep(3.0)
        await patiently(self, cleanup)

    async def later(self: Any, cleanup: Any) -> None:
        left = asyncio.ensure_future(slowly(self, cleanup))
        left.add_done_callback(lambda done: done.cancelled() or done.exception())

    with mock.patch.object(Cleaner, "_patiently", later):
        yield


@mutant("a run's objects stay when it is deleted", "deleted-objects-gone")
def objects_left() -> Iterator[None]:
    async def nothing(*_: Any) -> None:
        return

    with mock.patch.object(Cleaner, "_delete_objects", nothing):
        yield


@mutant("a run's objects go when its deletion is folded, and not when it is committed", "objects-stay")
def objects_go_first() -> Iterator[None]:
    record, init = Folder._record, Cleaner.__init__
    cleaners: dict[int, Any] = {}
    removals: set[asyncio.Future[Any]] = set()

    def known(self: Any, *arguments: Any) -> None:
        init(self, *arguments)
        cleaners[self._shard] = self

    async def hasty(self: Any, delivery: Any, run: Run, outcome: Any, *others: Any, **options: Any) -> None:
        cleaner = cleaners[self._shard]
        if isinstance(outcome.state, Gone) and outcome.state.deletions[-1].seq == delivery.stream_seq:
            removal = objects.delete_objects_of(cleaner._connection, cleaner._names, run.token)
            removals.add(asyncio.ensure_future(removal))
            await asyncio.sleep(0.1)
        await record(self, delivery, run, outcome, *others, **options)

    with mock.patch.object(Cleaner, "__init__", known), mock.patch.object(Folder, "_record", hasty):
        yield


# -- large values -------------------------------------------------------------------------------------
@mutant("a reference is sent before what it refers to is stored", "large-value-there")
def referred_before_stored() -> Iterator[None]:
    uploads: set[asyncio.Future[Any]] = set()

    async def at_once(connection: Any, names: Any, root: str, data: bytes, **options: Any) -> str:
        uploads.add(asyncio.ensure_future(put(connection, names, root, data, **options)))
        return await objects.digest_of(data)

    put = objects.put_object
    with mock.patch.object(objects, "put_object", at_once):
        yield


@mutant(
    "a large value counts as stored although nobody knows of some of its chunks",
    "large-value-there",
    "large-value-kept",
)
def chunks_in_silence() -> Iterator[None]:
    async def hoping(sent: Any) -> None:
        await asyncio.gather(*sent, return_exceptions=True)

    async def believing(_: Any, __: Any, said: bytes, size: int) -> bool:
        info = objects.read_info(said)
        return info is not None and info.size == size

    with mock.patch.object(objects, "all_of", hoping), mock.patch.object(objects, "_stands", believing):
        yield


@mutant("tasks of a build go to whoever is there", "goes-to-its-build")
def builds_mixed_up() -> Iterator[None]:
    made = MessageMaker._task

    def plain(self: Any, effect: Any, *rest: Any) -> Any:
        return made(self, structs.replace(effect, queue=effect.queue.partition("_")[0]), *rest)

    with mock.patch.object(MessageMaker, "_task", plain):
        yield


# -- triggers ------------------------------------------------------------------------------------------
@mutant("an event of a trigger is acknowledged before the engine has accepted it", "triggered-once", first=4)
def acknowledged_before_accepted() -> Iterator[None]:
    handle = Trigger._handle

    async def eager(self: Any, delivery: Any, taking: Any) -> None:
        await self._tell(self._connection.ack(delivery))
        await handle(self, delivery, taking)

    with mock.patch.object(Trigger, "_handle", eager):
        yield


@mutant("an event of a trigger has another id whenever it comes", "triggered-once", first=2)
def another_id_each_time() -> Iterator[None]:
    deal_with = Dealing.deal_with

    async def anew(self: Any, event: Any, stream: str, rule: Any) -> Any:
        return await deal_with(self, event, f"{stream}-{event.attempts}", rule)

    with mock.patch.object(Dealing, "deal_with", anew):
        yield


# -- the client ---------------------------------------------------------------------------------------
@mutant("who follows a run passes over what got lost", "followed-as-stored", first=699)
def losses_passed_over() -> Iterator[None]:
    taken = RunFeed._taken

    async def believing(self: Any, arrived: Any) -> Any:
        if not isinstance(arrived, str):
            self._expected = arrived.consumer_seq
        return await taken(self, arrived)

    async def gone(self: Any, next_index: int | None) -> bool:
        return True

    with mock.patch.object(RunFeed, "_taken", believing), mock.patch.object(_Reading, "_is_gone", gone):
        yield


@mutant(
    "a call goes on at the number that its step had before the run moved",
    "reads-only-committed",
    "events-once-in-order",
    "state-as-folded",
    "outcome-as-python",
    "nothing-hangs",
    first=2,
)
def calls_stay() -> Iterator[None]:
    with mock.patch.object(migrating.Moved, "_task", lambda self, wait, there, where: wait):
        yield


@mutant("the span of a run is another one for whoever asks", "one-trace")
def spans_by_chance() -> Iterator[None]:
    of_run = fold_state.trace_of_run

    def another(trace: str, run_id: str, born: int) -> str:
        return of_run(trace, run_id, born + next(asked))

    asked = itertools.count()
    with mock.patch.object(fold_state, "trace_of_run", another):
        yield


@mutant("a run forgets in whose trace it was started", "one-trace")
def start_without_trace() -> Iterator[None]:
    with mock.patch.object(fold_module, "usable_trace", return_value=""):
        yield


@mutant("an attempt is told another span than that of its run", "one-trace")
def task_in_its_starters_span() -> Iterator[None]:
    made = MessageMaker._task

    def task(self: Any, effect: Any, state: Any, token: str) -> Message:
        message = made(self, effect, state, token)
        own, starter = state.traceparent.encode(), state.trace.encode()
        return message if not own else structs.replace(message, data=message.data.replace(own, starter))

    with mock.patch.object(MessageMaker, "_task", task):
        yield


@mutant("a child run is not told whose trace it is in", "one-trace")
def child_without_trace() -> Iterator[None]:
    def untraced(token: str, command: Any) -> SendCommand:
        if isinstance(command, StartRun):
            command = structs.replace(command, traceparent="")
        return SendCommand(token, command)

    with mock.patch.object(child, "SendCommand", untraced):
        yield


@mutant("a run that moves takes nothing along that has another name", "acknowledged-not-lost", first=2)
def leaves_variables() -> Iterator[None]:
    taken = migrating.Moved._taken_along

    def by_name(self: migrating.Moved, stored: Any, needed: set[str]) -> Any:
        self.migration = structs.replace(self.migration, variables={})
        return taken(self, stored, needed)

    with mock.patch.object(migrating.Moved, "_taken_along", by_name):
        yield
