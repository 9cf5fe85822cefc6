"""The commands of each shard folded once more, in stream order, by the plain fold: what the engine must equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from dressage.brokers.interface import Delivery
from dressage.brokers.memory import Record
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import CancelTimer, DispatchTask, HandOn, SendCommand, SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import RunState, SleepWait
from dressage.orchestrator.turn import definitions
from dressage.orchestrator.turn.reading import Unreadable, read_command, read_id, token_of
from dressage.orchestrator.turn.routing import Maps, MapSince, older_places, route
from dressage.protocol.commands import StartRun
from dressage.protocol.events import KIND, SleepEnded, SleepMoved
from dressage.protocol.names import Names
from dressage.protocol.shardmap import (
    FORWARDED_HEADER,
    MAP_TOKEN,
    ShardMap,
    decode_map,
    forwarded_generation,
)


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

    states: dict[str, RunState] = field(default_factory=dict[str, RunState])
    folded: dict[int, Folded] = field(default_factory=dict[int, Folded])
    events: dict[str, list[tuple[int, str, bytes]]] = field(
        default_factory=dict[str, list[tuple[int, str, bytes]]]
    )
    tasks: dict[str, set[str]] = field(default_factory=dict[str, set[str]])
    timers: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    """When each timer is due, in milliseconds."""

    cancelled: dict[tuple[str, str], int] = field(default_factory=dict[tuple[str, str], int])
    sends: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    maps: Maps = field(default_factory=lambda: Maps([MapSince(0, ShardMap())]))
    """The shard maps that this shard's stream has switched to."""

    due_ms: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])
    """When the sleep was due that a command ended."""


class Refold:
    """Follows the streams as they are written."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._definitions: dict[str, bytes] = {}
        self._ready: dict[str, Definition] = {}
        self.map = ShardMap()
        """The newest that the namespace's definition holds."""

        self.share: int | None = None
        """How many runs may be open on each shard; set before anything starts, and never changed in a seed."""

        self.shards: dict[int, Shard] = {}

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
        changed = outcome.state is not None and outcome.state is not before and bool(outcome.events)
        folded = shard.folded[record.seq] = Folded(record.seq, number, token, outcome, changed)
        if changed:
            assert outcome.state is not None
            shard.states[token] = outcome.state
            for thread in before.threads if before is not None else ():
                if isinstance(thread.wait, SleepWait) and thread.wait.timer_id in _slept_out(outcome):
                    shard.due_ms[token, record.seq] = thread.wait.until_ms
        self._note(shard, folded)
        return folded

    def _outcome(
        self, delivery: Delivery, token: str, before: RunState | None, number: int, shard_map: ShardMap
    ) -> Outcome:
        try:
            run_id = read_id(token)
            if before is None:
                mark = (delivery.headers or {}).get(FORWARDED_HEADER)
                place = route(shard_map, run_id, number, forwarded_generation(mark))
                before = self._ended_elsewhere(shard_map, token, number)
                if before is None and place.shard != number:
                    return Outcome(None, [HandOn(run_id, *place)])
            command = read_command(delivery)
        except Unreadable as unreadable:
            return Outcome(before, code=unreadable.code, message=unreadable.message)
        if before is None and isinstance(command, StartRun) and self._is_full(number):
            return Outcome(None, code="OPEN_RUNS")
        if before is not None:
            definition = self.definition(before.workflow, before.version)
        elif isinstance(command, StartRun):
            definition = self.definition(command.workflow, command.version)
        else:
            definition = None
        return fold(before, command, run_id, stamp_of(delivery), definition)

    def _is_full(self, number: int) -> bool:
        states = self.shard(number).states.values()
        return self.share is not None and sum(not state.finished for state in states) >= self.share

    def _ended_elsewhere(self, shard_map: ShardMap, token: str, number: int) -> RunState | None:
        """The run's state at an older place, once growths that moved its home are finished."""
        found = [self.shard(place).states.get(token) for place in older_places(shard_map, token, number)]
        return next((state for state in found if state is not None), None)

    def _note(self, shard: Shard, folded: Folded) -> None:
        outcome, token, seq = folded.outcome, folded.token, folded.seq
        for effect in outcome.effects:
            match effect:
                case DispatchTask():
                    shard.tasks.setdefault(token, set()).add(effect.task_id)
                    if effect.timer_id:
                        shard.timers[token, effect.timer_id] = effect.not_before_ms
                case SetTimer():
                    shard.timers[token, effect.timer_id] = effect.due_ms
                case CancelTimer():
                    shard.cancelled[token, effect.timer_id] = seq
                case SendCommand() | HandOn():
                    shard.sends.append((seq, effect.run_id))
        if outcome.events:
            events = shard.events.setdefault(token, [])
            events.extend((seq, KIND[type(data)], msgspec.json.encode(data)) for data in outcome.events)


def _change_map(shard: Shard, record: Record) -> Outcome:
    try:
        shard.maps.change(record.seq, decode_map(record.data))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Outcome(None, code="COMMAND_MALFORMED")
    return Outcome(None)


def stamp_of(delivery: Any) -> Stamp:
    return Stamp(delivery.stream_seq, -(-delivery.time_ns // 1_000_000))


def _slept_out(outcome: Outcome) -> set[str]:
    """The timers of the sleeps that have come to the end that was set for them: not to one that was moved meanwhile."""
    ended = {event.timer_id for event in outcome.events if isinstance(event, SleepEnded)}
    return ended - {event.replaced for event in outcome.events if isinstance(event, SleepMoved)}
