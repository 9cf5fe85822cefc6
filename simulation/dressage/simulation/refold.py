"""The commands of each shard folded once more, in stream order, by the plain fold: what the engine must equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from dressage.brokers.interface import Delivery
from dressage.brokers.memory import Record
from dressage.orchestrator.fold import retention
from dressage.orchestrator.fold.definition import Definition, EventDefinition
from dressage.orchestrator.fold.effects import (
    CancelTimer,
    DispatchTask,
    HandOn,
    Publish,
    SendCommand,
    SetTimer,
)
from dressage.orchestrator.fold.fold import fold, not_started
from dressage.orchestrator.fold.limiter import fold_limiter
from dressage.orchestrator.fold.mailbox import fold_key
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.schedule import fold_schedule
from dressage.orchestrator.fold.state import Gone, RunState, SleepWait, State, TaskWait
from dressage.orchestrator.fold.timetable import fold_timetable
from dressage.orchestrator.turn import definitions
from dressage.orchestrator.turn.reading import (
    Unreadable,
    is_of_deleted,
    is_of_the_end,
    read_command,
    read_place,
    token_of,
)
from dressage.orchestrator.turn.routing import Maps, MapSince, older_places, route
from dressage.protocol.commands import MigrateRun, PostEvent, RescueRun, SetSchedule, StartRun
from dressage.protocol.events import KIND, SleepEnded, SleepMoved
from dressage.protocol.names import Names, is_key, is_limiter, is_schedule, is_timetable, place_of
from dressage.protocol.shardmap import (
    DELETED_HEADER,
    FORWARDED_HEADER,
    MAP_TOKEN,
    ShardMap,
    decode_map,
    forwarded_generation,
)
from dressage.protocol.versions import Versions


@dataclass(slots=True)
class Folded:
    """What became of one command."""

    seq: int
    shard: int
    token: str
    outcome: Outcome
    changed: bool


@dataclass
class Shard:
    """One shard as the plain fold sees it; `events` are (command, kind, data) by run."""

    states: dict[str, State] = field(default_factory=dict[str, State])
    folded: dict[int, Folded] = field(default_factory=dict[int, Folded])
    events: dict[str, list[tuple[int, str, bytes]]] = field(
        default_factory=dict[str, list[tuple[int, str, bytes]]]
    )
    tasks: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    """The build that each attempt is for, by its run and its id."""

    over: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """Which command ended the wait for an attempt, by its run and its id."""

    timers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """When each timer is due, in milliseconds."""

    cancelled: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    sends: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    """(command, token) of what goes to other shards."""

    own: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    """(token, command) of what the shard sends to itself."""

    publishes: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    """(run token, index) of what is to be published, in the order of the commands."""

    maps: Maps = field(default_factory=lambda: Maps([MapSince(0, ShardMap())]))
    """The shard maps that this shard's stream has switched to."""

    filed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(token, event id) of what was posted to correlation keys."""

    due_ms: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    """When the sleep was due that a command ended."""


class Refold:
    """Follows the streams as they are written."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._definitions: dict[str, bytes] = {}
        self._ready: dict[str, Definition] = {}
        self._events: dict[str, EventDefinition] = {}
        self.map = ShardMap()
        """The newest that the namespace's definition holds."""

        self.share: int | None = None
        """How many runs may be open on each shard; set before anything starts, and never changed in a seed."""

        self.shards: dict[int, Shard] = {}
        self.published: dict[str, dict[int, tuple[str, bytes]]] = {}
        """(subject, data) of what is to be published, by run token and index."""

    def shard(self, number: int) -> Shard:
        found = self.shards.get(number)
        if found is None:
            found = self.shards[number] = Shard()
        return found

    def define(self, record: Record) -> None:
        self._definitions[record.subject] = record.data

    def definition(self, workflow: str, version: int) -> Definition | None:
        key = self._names.workflow_version_key(workflow, version)
        if key not in self._ready:
            data = self._definitions.get(key)
            if data is None:
                return None
            self._ready[key] = definitions.load_definition(workflow, version, data)
        return self._ready[key]

    def event(self, name: str, version: int) -> EventDefinition | None:
        key = self._names.event_version_key(name, version)
        if key not in self._events:
            data = self._definitions.get(key)
            if data is None:
                return None
            self._events[key] = definitions.load_event(name, version, data)
        return self._events[key]

    def begin(self, number: int, maps: tuple[MapSince, ...]) -> None:
        """A shard has its first owner, whose cursor says which map holds from the start."""
        self.shard(number).maps = Maps(maps or (MapSince(0, self.map.first_of_all()),))

    def command(self, record: Record, number: int) -> Folded:
        """Folds the next command of a shard."""
        shard = self.shard(number)
        delivery = Delivery(record.subject, record.data, record.headers, record.seq, 0, 1, record.time_ns, "")
        token = token_of(delivery)
        before = shard.states.get(token)
        if token == MAP_TOKEN:
            outcome = _change_map(shard, record)
        else:
            outcome = self._outcome(delivery, token, before, number, shard.maps.at(record.seq))
        elsewhere, _ = self._elsewhere(shard.maps.at(record.seq), token, number)
        known = (before, elsewhere)
        changed = outcome.state is not None and not any(outcome.state is each for each in known)
        folded = shard.folded[record.seq] = Folded(record.seq, number, token, outcome, changed)
        if changed:
            assert outcome.state is not None
            shard.states[token] = outcome.state
            if is_key(token):
                command = read_command(delivery)
                if isinstance(command, PostEvent):
                    shard.filed.append((token, command.event_id))
            if isinstance(before, RunState):
                left = _attempts_of(outcome.state)
                shard.over |= {(token, each): record.seq for each in _attempts_of(before) - left}
            for thread in before.threads if isinstance(before, RunState) else ():
                if isinstance(thread.wait, SleepWait) and thread.wait.timer_id in _slept_out(outcome):
                    shard.due_ms[token, record.seq] = thread.wait.until_ms
        self._note(shard, folded)
        return folded

    def _outcome(
        self, delivery: Delivery, token: str, before: State | None, number: int, shard_map: ShardMap
    ) -> Outcome:
        try:
            name = read_place(token)
            if before is None:
                mark = (delivery.headers or {}).get(FORWARDED_HEADER)
                place = route(shard_map, name, number, forwarded_generation(mark))
                before, where = self._elsewhere(shard_map, token, number)
                if before is not None and not before.finished:
                    return Outcome(before, [HandOn(token, where, checked=False)])
                if before is None and place.shard != number and not is_of_the_end(delivery):
                    return Outcome(None, [HandOn(token, *place)])
            if isinstance(before, Gone):
                mark = (delivery.headers or {}).get(FORWARDED_HEADER)
                place = route(shard_map, name, number, forwarded_generation(mark))
                if place.shard != number and not is_of_the_end(delivery):
                    deleted = is_of_deleted(delivery, before)
                    return Outcome(before, [HandOn(token, *place, deleted=deleted)])
            command = read_command(delivery)
        except Unreadable as unreadable:
            return Outcome(before, code=unreadable.code, message=unreadable.message)
        new = isinstance(command, StartRun) and command.parent is None and not isinstance(before, RunState)
        if new and self._is_full(number):
            told = not_started(command, "OPEN_RUNS", "")
            return Outcome(before, told, code="OPEN_RUNS")
        stamp = stamp_of(delivery)
        if is_schedule(token):
            of = command.spec.workflow if isinstance(command, SetSchedule) else ""
            named = self.definition(of, command.version) if isinstance(command, SetSchedule) else None
            # Every workflow of the simulation has one version.
            return fold_schedule(before, command, token, stamp, named, 1)
        if is_timetable(token):
            return fold_timetable(before, command, token, stamp)
        if is_limiter(token):
            return fold_limiter(before, command, token, stamp)
        if is_key(token):
            of_event = self.event(command.event, command.version) if isinstance(command, PostEvent) else None
            return fold_key(before, command, token, stamp, of_event)
        definition: Definition | EventDefinition | None = None
        if isinstance(before, RunState):
            began = before.began if isinstance(command, StartRun) else 0
            definition = self.definition(before.workflow, began or before.version)
        elif isinstance(command, StartRun):
            definition = self.definition(command.workflow, command.version)
        elif isinstance(command, PostEvent):
            definition = self.event(command.event, command.version)
        after = None
        if isinstance(command, MigrateRun):
            after = self.definition(command.migration.workflow, command.migration.after)
        keeping = retention.UNKNOWN
        if isinstance(command, retention.Asked | RescueRun) and isinstance(before, RunState):
            keeping = self._keeping(before, token, number, shard_map)
            definition = definition if isinstance(command, RescueRun) else None
        of_deleted = DELETED_HEADER in (delivery.headers or {})
        return fold(
            before, command, place_of(token), stamp, definition, after, keeping, of_deleted=of_deleted
        )

    def _build(self, state: State | None) -> str:
        """That of the version that a run is on."""
        assert isinstance(state, RunState)
        data = self._definitions[self._names.workflow_version_key(state.workflow, state.version)]
        return msgspec.json.decode(data, type=_OfBuild).build

    def _keeping(self, state: RunState, token: str, number: int, shard_map: ShardMap) -> retention.Keeping:
        """What is said of a workflow's runs never changes in a seed."""
        place = place_of(token)
        at_home = shard_map.home(place) == shard_map.first(place) == number
        elsewhere = not at_home or self.shard(number).states.get(token) is not state
        data = self._definitions.get(self._names.workflow_key(state.workflow))
        kept = None if data is None else msgspec.json.decode(data, type=Versions).retention
        return retention.Keeping(None if kept is None else kept.keep_ms, False, elsewhere)

    def _is_full(self, number: int) -> bool:
        states = self.shard(number).states.values()
        open_runs = sum(isinstance(state, RunState) and not state.finished for state in states)
        return self.share is not None and open_runs >= self.share

    def _elsewhere(self, shard_map: ShardMap, token: str, number: int) -> tuple[State | None, int]:
        """The state at an older place, and that, once growths that moved its home are finished."""
        for place in older_places(shard_map, token, number):
            state = self.shard(place).states.get(token)
            if state is not None and not isinstance(state, Gone):
                return state, place
        return None, number

    def _note(self, shard: Shard, folded: Folded) -> None:
        outcome, token, seq = folded.outcome, folded.token, folded.seq
        shard_map = shard.maps.at(seq)
        for effect in outcome.effects:
            match effect:
                case DispatchTask():
                    shard.tasks[token, effect.task_id] = self._build(outcome.state)
                    if effect.timer_id:
                        shard.timers[token, effect.timer_id] = effect.not_before_ms
                case SetTimer():
                    shard.timers[token, effect.timer_id] = effect.due_ms
                case CancelTimer():
                    shard.cancelled[token, effect.timer_id] = seq
                case SendCommand() if shard_map.first(place_of(effect.token)) == folded.shard:
                    shard.own.append((effect.token, msgspec.json.encode(effect.command)))
                case SendCommand() | HandOn():
                    shard.sends.append((seq, effect.token))
                case Publish():
                    shard.publishes.append((token, effect.index))
                    of_run = self.published.setdefault(token, {})
                    of_run[effect.index] = effect.subject, bytes(effect.data)
        if outcome.events:
            events = shard.events.setdefault(token, [])
            events.extend((seq, KIND[type(data)], msgspec.json.encode(data)) for data in outcome.events)


class _OfBuild(msgspec.Struct):
    build: str = ""


def _change_map(shard: Shard, record: Record) -> Outcome:
    try:
        shard.maps.change(record.seq, decode_map(record.data))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Outcome(None, code="COMMAND_MALFORMED")
    return Outcome(None)


def stamp_of(delivery: Any) -> Stamp:
    return Stamp(delivery.stream_seq, -(-delivery.time_ns // 1_000_000))


def _attempts_of(state: State) -> set[str]:
    """The attempts that a run waits for."""
    threads = state.threads if isinstance(state, RunState) else []
    return {thread.wait.task_id for thread in threads if isinstance(thread.wait, TaskWait)}


def _slept_out(outcome: Outcome) -> set[str]:
    """The timers of the sleeps that have come to the end that was set for them: not to one that was moved meanwhile."""
    ended = {event.timer_id for event in outcome.events if isinstance(event, SleepEnded)}
    return ended - {event.replaced for event in outcome.events if isinstance(event, SleepMoved)}
