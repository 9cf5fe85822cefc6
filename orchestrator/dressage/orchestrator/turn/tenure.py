"""One tenure of a shard: from a take-over to the first doubt, with memory of its own that ends with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from dressage.brokers.interface import (
    CONSUMER_DELETED,
    Broker,
    Connection,
    Delivery,
    DeliveryCallback,
    Message,
)
from dressage.brokers.provision import require_namespace
from dressage.orchestrator.fold.fold import FOLD_VERSION
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.tracing import tell
from dressage.orchestrator.turn.asking import Asking
from dressage.orchestrator.turn.behind import STATES_LINGER_S, EventsStage, StatesStage
from dressage.orchestrator.turn.cleaning import Cleaner
from dressage.orchestrator.turn.committing import COMPANY_S, SINGLES_MAX, Committer
from dressage.orchestrator.turn.definitions import Definitions
from dressage.orchestrator.turn.doubt import Doubt
from dressage.orchestrator.turn.folding import Folder
from dressage.orchestrator.turn.forwarding import Forwarder
from dressage.orchestrator.turn.messages import MessageMaker
from dressage.orchestrator.turn.publishing import PATIENCE_S, Publisher
from dressage.orchestrator.turn.records import encode
from dressage.orchestrator.turn.removing import Floor, Remover
from dressage.orchestrator.turn.routing import HandedOn, Maps, MapSince, older_places
from dressage.orchestrator.turn.runs import Runs
from dressage.orchestrator.turn.starting import Starts
from dressage.orchestrator.turn.takeover import still_owned, take_over
from dressage.orchestrator.turn.turn import Turn
from dressage.protocol.errors import BadInput, DressageError, OutcomeUnknown
from dressage.protocol.names import Names
from dressage.protocol.retention import Retention
from dressage.protocol.shardmap import MAP_TOKEN, ShardMap, encode_map
from dressage.telemetry.tracing import Tracing

__all__ = ["Tenure", "TenureConfig"]

_log = logging.getLogger("dressage.orchestrator")

MAP_EVERY_S: Final = 0.25
"""How often a tenure looks whether another shard map is defined."""


@dataclass(slots=True, frozen=True)
class TenureConfig:
    """`window` is how many commands may be on their way to the owner; `runs_max` how many runs memory keeps.

    `singles_max` is up to how many effects go as fenced singles (0: every turn is an atomic batch);
    `publish_patience_s` for how long a domain event is tried that no stream takes.
    """

    window: int = 2000
    runs_max: int = 50_000
    drain_s: float = 10.0
    singles_max: int = SINGLES_MAX
    states_linger_s: float = STATES_LINGER_S
    publish_patience_s: float = PATIENCE_S
    fold_version: int = FOLD_VERSION


class Progress(NamedTuple):
    """How far a tenure has come.

    `seq` is the cursor's command and `position` that of the output events; `open_runs` are counted by these, None if
    unknown; `uncovered` are commands that are not covered, `backlog` those of them that are not
    folded, `behind` output events that are not stored. `commands` and `tasks` are how many were folded, and how many
    attempts ended, since it began.
    """

    seq: int = 0
    position: int = 0
    open_runs: int | None = None
    uncovered: int = 0
    backlog: int = 0
    behind: int = 0
    commands: int = 0
    tasks: int = 0


@dataclass(slots=True)
class _Connections:
    """Four, because a server works off one connection's writes in order: events must not wait for states.

    `open` opens one more, by its role, which is closed with the others.
    """

    intake: Connection
    turns: Connection
    events: Connection
    states: Connection
    open: Callable[[str], Awaitable[Connection]]


class Tenure:
    """Takes over, serves until told to stop or until a `Doubt`, and leaves nothing behind in memory."""

    def __init__(
        self,
        broker: Broker,
        names: Names,
        shard: int,
        config: TenureConfig,
        metrics: EngineMetrics,
        shard_map: Callable[[], ShardMap],
        open_runs_share: Callable[[], int | None] = lambda: None,
        retention: Callable[[], Retention] = Retention,
        tracing: Tracing | None = None,
    ) -> None:
        """`shard_map` is the newest that is defined; the shard's own stream says from when it holds.

        `open_runs_share` is how many runs may be open on the shard now; None for any number. `retention` is what holds
        for workflows of which nothing else is said.
        """
        self._broker = broker
        self._names = names
        self._shard = shard
        self._config = config
        self._metrics = metrics
        self._tracing = tracing
        self._defined_map = shard_map
        self._open_runs_share = open_runs_share
        self._retention = retention
        self._asked_for = 0
        self._committing = False
        self._told = 0
        self._stages: _Stages | None = None
        self.serving = asyncio.Event()
        self.epoch = 0

    async def serve(self, stop: asyncio.Event) -> None:
        """Returns after an orderly drain once `stop` is set. Raises `Doubt` or `Replaced` when it cannot go on."""
        async with self._connected() as connections:
            standing = await take_over(
                connections.intake,
                self._names,
                self._shard,
                self._config.fold_version,
                self._defined_map(),
                self._open_runs_share(),
            )
            self.epoch = standing.epoch
            definitions = Definitions(connections.intake, self._names, retention=self._retention)
            first_map = MapSince(0, self._defined_map().first_of_all())
            maps, handed_on = Maps(standing.cursor.maps or (first_map,)), HandedOn()
            runs = Runs(
                connections.intake,
                self._names,
                self._shard,
                self._config.runs_max,
                lambda token: older_places(maps.latest, token, self._shard),
            )
            floor, sends = Floor(), Floor()
            folder = Folder(
                names=self._names,
                shard=self._shard,
                maps=maps,
                handed_on=handed_on,
                payload_max=connections.turns.payload_bytes_max,
                runs=runs,
                definitions=definitions,
                maker=MessageMaker(self._names, self._shard, lambda: maps.now),
                committed=standing.cursor.place,
                published=standing.position.place,
                floor=floor,
                starts=Starts(
                    standing.cursor.seq,
                    standing.epoch,
                    standing.cursor.refused,
                    standing.position.open_runs,
                    standing.cursor.share,
                    self._open_runs_share,
                    lambda: remover.removed_commands,
                ),
                defined_map=lambda: self._read_map(connections.intake),
                metrics=self._metrics,
                traces=self._tracing is not None,
            )
            committer = Committer(
                connections.turns,
                self._names,
                self._shard,
                standing,
                self._config.singles_max,
                self._config.fold_version,
            )
            states = StatesStage(
                connections.states,
                self._names,
                self._shard,
                standing,
                floor,
                self._metrics,
                linger_s=self._config.states_linger_s,
            )
            cleaner = Cleaner(connections.intake, self._names, self._shard, floor, states.empty)

            def published(turn: Turn) -> None:
                states.add(turn)
                cleaner.add(turn)

            events = EventsStage(
                connections.events, self._names, self._shard, standing, published, self._metrics
            )
            asking = Asking(
                connections.intake,
                self._names,
                self._shard,
                runs,
                definitions,
                lambda: committer.place[0] if self._told >= standing.refold_to else -1,
                lambda: still_owned(connections.intake, self._names, self._shard, standing),
                maps,
                handed_on,
            )
            remover = Remover(
                connections.intake,
                self._names,
                self._shard,
                floor,
                sends,
                committer.copies,
                self.epoch,
                lambda: still_owned(connections.intake, self._names, self._shard, standing),
            )
            publisher = Publisher(
                lambda: connections.open("publishing"),
                self._names,
                self._shard,
                self.epoch,
                sends,
                lambda: still_owned(connections.intake, self._names, self._shard, standing),
                self._metrics,
                self._config.publish_patience_s,
            )
            forwarder = Forwarder(
                connections.intake, self._names, self._shard, sends, handed_on, publisher.deliver
            )
            stages = _Stages(
                folder, committer, events, states, asking, remover, forwarder, publisher, cleaner, floor, maps
            )
            self._stages = stages
            try:
                await self._work(connections, stages, stop)
            finally:
                self._stages = None
                # What is left refers to itself, by callbacks and by the traceback of what ended it, and a full garbage
                # collection is rare in this process: the runs alone may be tens of megabytes.
                runs.clear()
                stages.forget()

    @property
    def progress(self) -> Progress:
        """How far it has come; all 0 before the take-over."""
        stages = self._stages
        if stages is None:
            return Progress()
        folder = stages.folder
        return Progress(
            stages.committer.place[0],
            stages.events.position.seq,
            stages.events.position.open_runs,
            stages.floor.open + folder.backlog,
            folder.backlog,
            stages.events.behind,
            folder.commands,
            folder.tasks,
        )

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[_Connections]:
        async with AsyncExitStack() as stack:

            async def opened(role: str) -> Connection:
                connection = await self._broker.connect(f"dressage-shard-{self._shard}-{role}")
                stack.push_async_callback(connection.close)
                return connection

            intake, turns, events, states = [
                await opened(role) for role in ("intake", "turns", "events", "states")
            ]
            yield _Connections(intake, turns, events, states, opened)

    async def _work(self, connections: _Connections, stages: _Stages, stop: asyncio.Event) -> None:
        doubt: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_end(reason: str) -> None:
            if not doubt.done():
                contested = reason == CONSUMER_DELETED
                doubt.set_exception(Doubt(f"a consumer stands no longer: {reason}", contested=contested))

        def to(deliver: DeliveryCallback) -> DeliveryCallback:
            def on_delivery(delivery: Delivery) -> Awaitable[None] | None:
                try:
                    return deliver(delivery)
                except (Doubt, OutcomeUnknown) as error:
                    if not doubt.done():
                        doubt.set_exception(error)
                    return None

            return on_delivery

        intake, stream, window = (
            connections.intake,
            self._names.shard_stream(self._shard),
            self._config.window,
        )
        commands, sends = self._names.command_consumer(self.epoch), self._names.forward_consumer(self.epoch)
        pull = await intake.pull(stream, commands, window, to(stages.folder.deliver), on_end)
        sent = await intake.pull(stream, sends, window, to(stages.forwarder.deliver), on_end)
        stages.forwarder.on_forwarded = stages.publisher.on_done = sent.taken
        asks = await intake.serve(self._names.ask(self._shard), stages.asking.on_ask)
        work = [
            stages.folder.run(pull.taken),
            self._commit(intake, stages),
            stages.events.run(),
            stages.states.run(),
            stages.asking.run(),
            stages.remover.run(),
            stages.forwarder.run(),
            stages.publisher.run(),
            stages.cleaner.run(),
            self._observe(stages),
            self._follow_map(intake, stages.maps),
        ]
        tasks = [asyncio.ensure_future(part) for part in work]
        tasks += [asyncio.ensure_future(_lost(connection)) for connection in _each(connections)]
        failing = [doubt, *tasks]
        stopping = asyncio.ensure_future(_until(stop))
        self.serving.set()
        self._metrics.owned.labels(str(self._shard)).set(1)
        _log.info("shard %d: serving in epoch %d", self._shard, self.epoch)
        try:
            await asyncio.wait({*failing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            _raise_first(failing)
            await pull.close()
            await stages.asking.release()
            await self._drain(stages, failing)
        finally:
            self.serving.clear()
            self._metrics.owned.labels(str(self._shard)).set(0)
            for task in (*failing, stopping):
                task.cancel()
            await asyncio.gather(*failing, stopping, return_exceptions=True)
            await asks.close()

    async def _commit(self, intake: Connection, stages: _Stages) -> None:
        """One commit in flight; what is folded meanwhile forms the next turn."""
        loop = asyncio.get_running_loop()
        seconds = self._metrics.turn_seconds.labels(str(self._shard))
        commands = self._metrics.turn_commands.labels(str(self._shard))
        while True:
            await stages.folder.ready.wait()
            if stages.committer.wants_company(stages.folder.open):
                await asyncio.sleep(COMPANY_S)
            turn = stages.folder.take()
            self._committing = True
            began = loop.time()
            await stages.committer.commit(turn)
            seconds.observe(loop.time() - began)
            commands.observe(turn.commands)
            await self._tell(intake, stages, turn)
            stages.events.add(turn)
            self._committing = False
            if self._tracing is not None and turn.traced:
                tell(self._tracing, self._shard, turn.traced)

    async def _observe(self, stages: _Stages) -> None:
        shard, metrics = str(self._shard), self._metrics
        gauges = [metrics.backlog, metrics.lag, metrics.uncovered, metrics.behind, metrics.unpublished]
        try:
            while True:
                folder, oldest_ns = stages.folder, stages.folder.oldest_ns
                lag_s = 0.0 if oldest_ns is None else max(0.0, time.time() - oldest_ns / 1e9)
                measured = (
                    *(folder.backlog, lag_s, stages.floor.open, stages.events.behind),
                    stages.publisher.waiting,
                )
                for gauge, value in zip(gauges, measured, strict=True):
                    gauge.labels(shard).set(value)
                for queue, seen in stages.remover.queues.items():
                    metrics.waiting.labels(shard, queue).set(seen.waiting)
                    metrics.taken.labels(shard, queue).set(seen.taken)
                await asyncio.sleep(1.0)
        finally:
            # The next owner tells of them, maybe in another process.
            for gauge in gauges:
                gauge.labels(shard).set(0)
            for queue in stages.remover.queues:
                metrics.waiting.labels(shard, queue).set(0)
                metrics.taken.labels(shard, queue).set(0)

    async def _read_map(self, intake: Connection) -> ShardMap:
        return (await require_namespace(intake, self._names)).map

    async def _follow_map(self, intake: Connection, maps: Maps) -> None:
        """Brings a newly defined map into the shard's stream, from where on it holds; a repeat changes nothing."""
        while True:
            defined = self._defined_map()
            if defined.generation > max(maps.latest.generation, self._asked_for):
                subject = self._names.command(self._shard, MAP_TOKEN)
                try:
                    await intake.publish(Message(subject, encode_map(defined)))
                    self._asked_for = defined.generation
                except DressageError as error:
                    _log.warning("shard %d: changing the shard map: %s", self._shard, error)
            await asyncio.sleep(MAP_EVERY_S)

    async def _tell(self, intake: Connection, stages: _Stages, turn: Turn) -> None:
        """From here on the turn is a fact: readers see it, senders are answered, waiters are woken."""
        for frozen in turn.frozen:
            frozen.run.committed = frozen.state
        self._told = turn.through
        for reply, answer in turn.answers:
            try:
                await intake.tell(reply, encode(answer))
            except BadInput as error:
                # The sender chose a subject that nothing can be sent to; that is its loss alone.
                _log.info("shard %d: an answer cannot be sent: %s", self._shard, error)
                self._metrics.unanswered.inc()
        await stages.asking.committed([(frozen.run.token, frozen.state) for frozen in turn.frozen])

    async def _drain(self, stages: _Stages, failing: list[asyncio.Future[None]]) -> None:
        """Everything delivered is committed, published, stored and removed before the shard is let go."""
        deadline = asyncio.get_running_loop().time() + self._config.drain_s
        stages.states.lingering.drain()
        stages.remover.lingering.drain()
        stages.cleaner.lingering.drain()
        while asyncio.get_running_loop().time() < deadline:
            _raise_first(failing)
            if stages.idle and not self._committing:
                _log.info("shard %d: drained", self._shard)
                return
            await asyncio.sleep(0.01)
        _log.warning(
            "shard %d: not drained in %g s; the next owner folds the rest again",
            self._shard,
            self._config.drain_s,
        )


@dataclass(slots=True)
class _Stages:
    folder: Folder
    committer: Committer
    events: EventsStage
    states: StatesStage
    asking: Asking
    remover: Remover
    forwarder: Forwarder
    publisher: Publisher
    cleaner: Cleaner
    floor: Floor
    maps: Maps

    def forget(self) -> None:
        """Drops what is large. Nothing of it is used any more."""
        self.folder.forget()
        self.events.forget()
        self.states.forget()
        self.publisher.forget()
        self.cleaner.forget()

    @property
    def idle(self) -> bool:
        stages = (
            self.folder,
            self.events,
            self.states,
            self.forwarder,
            self.publisher,
            self.cleaner,
            self.remover,
        )
        return all(stage.idle for stage in stages)


def _each(connections: _Connections) -> tuple[Connection, ...]:
    return connections.intake, connections.turns, connections.events, connections.states


def _raise_first(failing: list[asyncio.Future[None]]) -> None:
    for failed in failing:
        if failed.done():
            try:
                failed.result()
            except* Doubt as doubts:
                first = doubts.exceptions[0]
                raise Doubt(str(first), contested=isinstance(first, Doubt) and first.contested) from doubts


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _lost(connection: Connection) -> None:
    await connection.lost.wait()
    raise Doubt("a connection to the broker was lost")
