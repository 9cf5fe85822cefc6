"""One id is one run while shards grow: the rules of routing, played with every order of events that chance finds."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dressage.orchestrator.turn.reading import Unreadable
from dressage.orchestrator.turn.routing import (
    HANDED_ON_KEPT,
    MAPS_KEPT,
    HandedOn,
    Maps,
    MapSince,
    Route,
    route,
)
from dressage.protocol.errors import BadRunId
from dressage.protocol.names import run_id_of, shard_of
from dressage.protocol.shardmap import (
    MAP_TOKEN,
    ShardMap,
    decode_map,
    encode_map,
    forwarded_generation,
    forwarded_mark,
)

HOPS_MAX = 8


# -- the map -------------------------------------------------------------------------------------------
def test_generations_follow_each_other() -> None:
    first = ShardMap(shards=2)
    growing = first.grown(5)
    assert growing == ShardMap(2, 5, 2)
    finished = growing.finished()
    assert finished == ShardMap(3, 5, None, (2,))
    assert finished.grown(7).finished() == ShardMap(5, 7, None, (5, 2))
    for each in (first, growing, finished, finished.grown(7)):
        assert each.first_of_all() == first
        assert decode_map(encode_map(each)) == each


def test_while_it_grows_everything_goes_to_the_earlier_place_first() -> None:
    growing = ShardMap(shards=2).grown(5)
    for run_id in map(str, range(50)):
        assert growing.first(run_id) == shard_of(run_id, 2)
        assert growing.home(run_id) == shard_of(run_id, 5)
        assert growing.finished().first(run_id) == growing.home(run_id)


def test_no_run_is_called_like_a_change_of_the_map() -> None:
    with pytest.raises(BadRunId):
        run_id_of(MAP_TOKEN)


@pytest.mark.parametrize("mark", [None, "", "x.1.2", "-3.1.2", "1e9", "²", "9" * 40])
def test_a_mark_that_no_owner_made_is_none(mark: str | None) -> None:
    assert forwarded_generation(mark) == 0


def test_a_mark_says_its_generation() -> None:
    assert forwarded_generation(forwarded_mark(12, 3, 456)) == 12


def test_a_shard_that_no_map_names_refuses() -> None:
    shard_map = ShardMap(shards=2).grown(5).finished()
    run_id = next(str(n) for n in range(100) if 3 not in (shard_of(str(n), 2), shard_of(str(n), 5)))
    with pytest.raises(Unreadable, match="belongs to shard"):
        route(shard_map, run_id, 3)


def test_maps_hold_behind_the_command_that_brought_them() -> None:
    first, second = ShardMap(), ShardMap().grown(3)
    maps = Maps([MapSince(0, first)])
    assert not maps.kept, "a namespace that never grew writes nothing about it"
    maps.change(10, second)
    maps.change(11, second)
    maps.change(12, first)
    assert [maps.at(seq) for seq in (1, 10, 11, 99)] == [first, first, second, second]
    assert maps.kept == (MapSince(0, first), MapSince(10, second))
    for generation in range(4, 10):
        maps.change(generation * 10, ShardMap(generation, generation))
    assert len(maps.kept) == MAPS_KEPT


def test_what_was_handed_on_is_remembered_for_a_while() -> None:
    handed_on = HandedOn()
    handed_on.begun("a", 2)
    assert handed_on.place("a") == (2, 0)
    handed_on.arrived("a", 77)
    assert handed_on.place("a") == (2, 77)
    for number in range(HANDED_ON_KEPT):
        handed_on.begun(f"t{number}", 1)
    assert handed_on.place("a") is None


def test_where_a_command_went_is_forgotten_once_one_is_folded_here() -> None:
    """Else two shards that have handed the commands of an id to each other send who asks for it round for ever, when
    the run that came of one of them was deleted."""
    here, there = HandedOn(), HandedOn()
    here.begun("a", 1)
    here.arrived("a", 5)
    there.begun("a", 0)
    there.arrived("a", 7)
    here.folded_here("a")
    here.folded_here("nobody")
    assert here.place("a") is None
    assert there.place("a") == (0, 7)


# -- the model -----------------------------------------------------------------------------------------
@dataclass
class Start:
    """A start on its way; `mark` is the generation of the owner that handed it on, who knew that its run was
    `deleted`."""

    run_id: str
    mark: int = 0
    hops: int = 0
    foreign: bool = False
    deleted: bool = False


@dataclass
class Shard:
    """A stream and its owner: what it has switched to, what waits, and which runs were created here."""

    maps: Maps
    stream: deque[Start | ShardMap] = field(default_factory=deque[Start | ShardMap])
    folded: int = 0
    runs: dict[str, bool] = field(default_factory=dict[str, bool])
    """Run ids, and whether they have ended."""

    gone: set[str] = field(default_factory=set[str])
    """Of these it is known that they were deleted here."""


class World:
    def __init__(self, shards: int) -> None:
        self.defined = ShardMap(shards=shards)
        self.generations = [self.defined]
        self.shards = [Shard(Maps([MapSince(0, self.defined)])) for _ in range(shards)]
        self.sent: list[str] = []
        self.answered: list[str] = []
        self.created: Counter[str] = Counter()
        self.forgotten: Counter[str] = Counter()

    def send(self, run_id: str, shard_map: ShardMap, *, to_home: bool) -> None:
        """A client with any map that ever was; a foreign one may know nothing of `previous`, and may be refused."""
        place = shard_map.home(run_id) if to_home else shard_map.first(run_id)
        self.shards[place].stream.append(Start(run_id, foreign=to_home))
        self.sent.append(run_id)

    def follow(self, number: int) -> None:
        """The owner of a shard has seen the definition."""
        if self.shards[number].maps.latest != self.defined:
            self.shards[number].stream.append(self.defined)

    def fold(self, number: int) -> None:
        shard = self.shards[number]
        if not shard.stream:
            return
        shard.folded += 1
        message = shard.stream.popleft()
        if isinstance(message, ShardMap):
            shard.maps.change(shard.folded, message)
            return
        assert message.hops <= HOPS_MAX, f"{message.run_id} goes round in circles"
        known = shard.maps.at(shard.folded)
        ended_before = any(
            message.run_id in self.shards[place].runs for place in known.older_places(message.run_id)
        )
        if message.run_id in shard.runs or (ended_before and known.home(message.run_id) == number):
            self.answered.append(message.run_id)
            return
        try:
            target, checked = route(known, message.run_id, number, message.mark)
        except Unreadable:
            assert message.foreign, (
                "only who looks past `previous` comes to a shard that does not know why yet"
            )
            self.sent.remove(message.run_id)
            return
        deleted = message.deleted or message.run_id in shard.gone
        if target == number:
            if not deleted:
                shard.runs[message.run_id] = False
                self.created[message.run_id] += 1
            self.answered.append(message.run_id)
        else:
            mark = known.generation if checked else 0
            self.shards[target].stream.append(
                Start(message.run_id, mark, message.hops + 1, message.foreign, deleted)
            )

    @property
    def taken_up(self) -> bool:
        return all(shard.maps.latest == self.defined for shard in self.shards)

    def grow(self, shards: int) -> None:
        if self.defined.growing or not self.taken_up or shards <= self.defined.shards:
            return
        self._define(self.defined.grown(shards))
        while len(self.shards) < shards:
            self.shards.append(Shard(Maps([MapSince(0, self.defined)])))

    def end_runs(self, number: int) -> None:
        for run_id in self.shards[number].runs:
            self.shards[number].runs[run_id] = True

    def delete(self, number: int) -> None:
        """Those that have ended, unless the owner knows that the id belongs to another shard from now on."""
        shard = self.shards[number]
        latest = shard.maps.latest
        for run_id, ended in list(shard.runs.items()):
            if ended and latest.home(run_id) == latest.first(run_id) == number:
                del shard.runs[run_id]
                shard.gone.add(run_id)

    def forget(self, number: int) -> None:
        """Nobody repeats a start of these any more: the next one is another run's."""
        on_their_way = {
            each.run_id for shard in self.shards for each in shard.stream if isinstance(each, Start)
        }
        for run_id in self.shards[number].gone - on_their_way:
            self.shards[number].gone.discard(run_id)
            self.forgotten[run_id] += 1

    def retire(self) -> None:
        if not self.defined.growing or not self.taken_up:
            return
        for number, shard in enumerate(self.shards):
            if any(self.defined.home(run_id) != number for run_id in shard.gone):
                return
            for run_id, ended in shard.runs.items():
                if not ended and self.defined.home(run_id) != number:
                    return
        self._define(self.defined.finished())

    def _define(self, shard_map: ShardMap) -> None:
        self.defined = shard_map
        self.generations.append(shard_map)

    def drain(self) -> None:
        for number in range(len(self.shards)):
            self.follow(number)
        while any(shard.stream for shard in self.shards):
            for number in range(len(self.shards)):
                self.fold(number)


IDS = st.sampled_from([f"run-{number}" for number in range(12)])


@settings(max_examples=300)
@given(st.integers(1, 3), st.data())
def test_one_id_is_one_run_whatever_map_its_senders_have(shards: int, data: st.DataObject) -> None:
    world = World(shards)
    for _ in range(data.draw(st.integers(0, 60))):
        number = data.draw(st.integers(0, len(world.shards) - 1))
        match data.draw(st.sampled_from(["send", "send", "fold", "fold", "fold", "follow", "end", "grow"])):
            case "send":
                generation = data.draw(st.sampled_from(world.generations))
                world.send(data.draw(IDS), generation, to_home=data.draw(st.booleans()))
            case "fold":
                world.fold(number)
            case "follow":
                world.follow(number)
            case "end":
                world.end_runs(number)
                world.retire()
            case _:
                world.grow(len(world.shards) + data.draw(st.integers(1, 3)))
    world.drain()
    created = [run_id for shard in world.shards for run_id in shard.runs]
    assert sorted(created) == sorted(set(world.sent)), "every run exactly once"
    assert sorted(world.answered) == sorted(world.sent), "every start has its answer"


@settings(max_examples=300)
@given(st.integers(1, 3), st.data())
def test_a_deleted_run_begins_anew_by_none_of_its_starts_wherever_its_id_belongs_by_then(
    shards: int, data: st.DataObject
) -> None:
    world = World(shards)
    actions = ["send", "send", "fold", "fold", "fold", "follow", "end", "delete", "delete", "forget", "grow"]
    for _ in range(data.draw(st.integers(0, 60))):
        number = data.draw(st.integers(0, len(world.shards) - 1))
        match data.draw(st.sampled_from(actions)):
            case "send":
                generation = data.draw(st.sampled_from(world.generations))
                world.send(data.draw(IDS), generation, to_home=data.draw(st.booleans()))
            case "fold":
                world.fold(number)
            case "follow":
                world.follow(number)
            case "end":
                world.end_runs(number)
                world.retire()
            case "delete":
                world.delete(number)
            case "forget":
                world.forget(number)
            case _:
                world.grow(len(world.shards) + data.draw(st.integers(1, 3)))
    world.drain()
    for run_id in set(world.sent):
        assert 1 <= world.created[run_id] <= 1 + world.forgotten[run_id], run_id
    assert sorted(world.answered) == sorted(world.sent), "every start has its answer"


@given(IDS, st.integers(1, 4), st.integers(1, 4))
def test_the_way_is_short(run_id: str, shards: int, more: int) -> None:
    growing = ShardMap(shards=shards).grown(shards + more)
    first, home = growing.first(run_id), growing.home(run_id)
    if first == home:
        assert route(growing, run_id, home) == Route(home)
        return
    assert route(growing, run_id, first) == Route(home, checked=True)
    assert route(growing, run_id, home, growing.generation) == Route(home)
    assert route(growing, run_id, home) == Route(first)
