"""Who tries which shard: balanced, sticky, with exactly one that tries, whatever each member believes meanwhile."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dressage.orchestrator.sharing import Claim, Member, holder, preferred, share, to_serve

ROUNDS_TO_SETTLE = 12


@dataclass
class Process:
    """One orchestrator of the model: what it holds, and what it last saw of the others."""

    claims: dict[int, Claim] = field(default_factory=dict[int, Claim])
    unable: frozenset[int] = frozenset()
    leaving: bool = False
    resting: bool = False
    paused: bool = False
    view: dict[str, Member] = field(default_factory=dict[str, Member])

    def says(self) -> Member:
        return Member(dict(self.claims), self.unable, self.leaving, self.resting)


class World:
    """Processes, the bucket that they write into, and the cursors, which give each take-over a higher epoch."""

    def __init__(self, shards: int) -> None:
        self.shards = shards
        self.processes: dict[str, Process] = {}
        self.bucket: dict[str, Member] = {}
        self.owner: dict[int, str] = {}
        self.epoch = 0
        self.made = 0

    def join(self) -> str:
        name = f"m{self.made}"
        self.made += 1
        self.processes[name] = Process()
        self.bucket[name] = Member()
        return name

    def crash(self, name: str) -> None:
        """It is gone, and the others have noticed."""
        del self.processes[name]
        self.bucket.pop(name, None)

    def pause(self, name: str) -> None:
        """It believes what it believed; the others have stopped believing in it."""
        self.processes[name].paused = True
        self.bucket.pop(name, None)

    def wake(self, name: str) -> None:
        process = self.processes[name]
        process.paused = False
        process.resting = True
        self.bucket[name] = process.says()

    def look(self, name: str) -> None:
        self.processes[name].view = dict(self.bucket)

    def act(self, name: str) -> None:
        """One beat without its look: it follows what it saw last, however old, then says what it holds."""
        process = self.processes[name]
        if process.paused:
            return
        for shard, claim in list(process.claims.items()):
            if claim.state == "draining":
                del process.claims[shard]
            elif claim.state == "trying" and shard not in process.unable:
                self._take_over(name, shard)
            elif claim.state == "serving" and self.owner.get(shard) != name:
                process.claims[shard] = Claim("trying")
        wanted: frozenset[int] = frozenset()
        if not process.leaving:
            wanted = to_serve(name, self.shards, {**process.view, name: process.says()})
        for shard in process.claims.keys() - wanted:
            process.claims[shard] = Claim("draining", process.claims[shard].epoch)
        for shard in wanted - process.claims.keys():
            process.claims[shard] = Claim("trying")
        self.bucket[name] = process.says()
        if process.leaving and not process.claims:
            self.crash(name)

    def _take_over(self, name: str, shard: int) -> None:
        self.epoch += 1
        self.owner[shard] = name
        self.processes[name].claims[shard] = Claim("serving", self.epoch)

    def settle(self) -> None:
        for _ in range(ROUNDS_TO_SETTLE):
            for name in list(self.processes):
                if name in self.processes:
                    self.look(name)
                    self.act(name)

    def served(self) -> dict[int, str]:
        """Who serves each shard; fails unless exactly one process claims it, and that one has its cursor."""
        found: dict[int, str] = {}
        for shard in range(self.shards):
            claiming = [name for name, process in self.processes.items() if shard in process.claims]
            assert len(claiming) == 1, f"shard {shard} is claimed by {claiming}"
            assert self.owner[shard] == claiming[0]
            assert self.processes[claiming[0]].claims[shard].state == "serving"
            found[shard] = claiming[0]
        return found

    def loads(self) -> list[int]:
        counted = Counter(self.served().values())
        return sorted(counted[name] for name in self.processes)


def balanced(loads: list[int]) -> bool:
    return max(loads) - min(loads) <= 1


def grown(shards: int, members: int) -> World:
    """A world whose members joined one after another."""
    world = World(shards)
    for _ in range(members):
        world.join()
        world.settle()
    return world


def test_sixteen_shards_on_four_orchestrators_are_four_each() -> None:
    assert grown(16, 4).loads() == [4, 4, 4, 4]


def test_pure_rendezvous_hashing_would_not_be_balanced() -> None:
    """Why there is more than hashing; the decision record has the figures."""
    worlds = [[f"{world}-{member}" for member in range(4)] for world in range(200)]
    loads = [Counter(preferred(shard, members) for shard in range(16)) for members in worlds]
    assert sum(max(load.values()) >= 6 for load in loads) > len(worlds) / 2


SHARDS = st.integers(1, 24)
MEMBERS = st.integers(1, 6)


@given(SHARDS, MEMBERS)
def test_any_number_is_balanced(shards: int, members: int) -> None:
    assert balanced(grown(shards, members).loads())


@given(SHARDS, MEMBERS)
def test_a_join_moves_no_more_than_the_newcomers_share_and_only_to_it(shards: int, members: int) -> None:
    world = grown(shards, members)
    before = world.served()
    newcomer = world.join()
    world.settle()
    moved = {shard: name for shard, name in world.served().items() if name != before[shard]}
    assert set(moved.values()) <= {newcomer}
    assert len(moved) <= -(-shards // (members + 1))


@given(SHARDS, st.integers(2, 6), st.data())
def test_a_leave_or_a_crash_moves_only_what_was_the_leavers(
    shards: int, members: int, data: st.DataObject
) -> None:
    world = grown(shards, members)
    before = world.served()
    leaver = data.draw(st.sampled_from(sorted(world.processes)))
    if data.draw(st.booleans()):
        world.processes[leaver].leaving = True
    else:
        world.crash(leaver)
    world.settle()
    after = world.served()
    assert {shard for shard in before if before[shard] != after[shard]} == {
        shard for shard in before if before[shard] == leaver
    }
    assert balanced(world.loads())


@given(SHARDS, st.data())
def test_whatever_happened_and_whoever_believed_what_it_converges(shards: int, data: st.DataObject) -> None:
    world = World(shards)
    world.join()
    for _ in range(data.draw(st.integers(0, 40))):
        name = data.draw(st.sampled_from(sorted(world.processes)))
        what = data.draw(
            st.sampled_from(["look", "act", "act", "join", "leave", "crash", "pause", "wake", "rested"])
        )
        match what:
            case "look":
                world.look(name)
            case "act":
                world.act(name)
            case "join" if len(world.processes) < 6:
                world.join()
            case "leave" if len(world.processes) > 1:
                world.processes[name].leaving = True
            case "crash" if len(world.processes) > 1:
                world.crash(name)
            case "pause":
                world.pause(name)
            case "wake" if world.processes[name].paused:
                world.wake(name)
            case "rested":
                world.processes[name].resting = False
            case _:
                pass
        if not world.processes:
            world.join()
    for name, process in list(world.processes.items()):
        if process.paused:
            world.wake(name)
        process.resting = False
    if all(process.leaving for process in world.processes.values()):
        world.join()
    world.settle()
    assert balanced(world.loads())
    before = world.served()
    world.settle()
    assert world.served() == before, "it goes on moving"


@given(SHARDS, st.integers(2, 5), st.data())
def test_a_shard_that_a_member_cannot_serve_goes_to_one_that_can(
    shards: int, members: int, data: st.DataObject
) -> None:
    world = grown(shards, members)
    names = sorted(world.processes)
    able = data.draw(st.sampled_from(names))
    for name in names:
        if name != able:
            unable = data.draw(st.frozensets(st.integers(0, shards - 1)))
            world.processes[name].unable = unable
            for shard in unable & world.processes[name].claims.keys():
                world.processes[name].claims[shard] = Claim("trying")
    world.settle()
    for shard, name in world.served().items():
        assert shard not in world.processes[name].unable


def test_what_all_have_tried_in_vain_is_tried_on_by_one() -> None:
    members = {name: Member(unable=frozenset({0})) for name in ("a", "b", "c")}
    assert sum(to_serve(name, 1, members) == {0} for name in members) == 1


def test_of_two_that_claim_a_shard_the_higher_epoch_has_it() -> None:
    members = {
        "woken": Member({0: Claim("serving", 5)}),
        "heir": Member({0: Claim("serving", 9)}),
        "third": Member({0: Claim("trying")}),
    }
    assert holder(0, members) == "heir"
    assert to_serve("heir", 1, members) == {0}
    assert to_serve("woken", 1, members) == to_serve("third", 1, members) == frozenset()


@pytest.mark.parametrize("state", ["trying", "serving", "draining"])
def test_what_another_has_not_released_is_not_tried(state: str) -> None:
    members = {"leaver": Member({0: Claim(state, 3)}, leaving=True), "heir": Member()}  # type: ignore[arg-type]
    assert share(1, members) == {0: "heir"}
    assert to_serve("heir", 1, members) == frozenset()


def test_one_that_was_away_keeps_what_it_holds_and_gets_no_more() -> None:
    members = {
        "tired": Member({0: Claim("serving", 1)}, resting=True),
        "busy": Member({shard: Claim("serving", 1) for shard in range(1, 7)}),
        "other": Member({shard: Claim("serving", 1) for shard in range(7, 12)}),
    }
    placed = Counter(share(12, members).values())
    assert placed == {"tired": 1, "busy": 6, "other": 5}
    members["tired"] = Member({0: Claim("serving", 1)})
    assert Counter(share(12, members).values()) == {"tired": 4, "busy": 4, "other": 4}
