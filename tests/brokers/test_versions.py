"""Versions of a workflow: their labels, their aliases, who is retired; and that the registry keeps all of it when many
change it at once and replies are lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dressage.brokers.interface import Connection, Message
from dressage.brokers.memory import MemoryBroker, MemoryServer
from dressage.brokers.provision import provision
from dressage.brokers.registry import Registry
from dressage.protocol.errors import BadInput, BadName, ChangeRefused, EventConflict, NotFound, OutcomeUnknown
from dressage.protocol.expressions import Const
from dressage.protocol.names import Names
from dressage.protocol.spec import EventDef, RegisteredWorkflow, ReturnNode, WorkflowSpec, registered_digest
from dressage.protocol.types import ANY, Field, Scalar
from dressage.protocol.versions import (
    ALIASES_MAX,
    VERSIONS_SHOWN,
    Label,
    Versions,
    check_alias,
    check_ref,
    parse_target,
)
from dressage.simulation.loop import SimLoop
from dressage.simulation.network import Links, Weather

NAMES = Names("versions")


def spec(number: int, *required: str) -> WorkflowSpec:
    """One of another meaning for each number; what it requires breaks those who do not give it."""
    params = tuple(Field(name, Scalar("int")) for name in required)
    return WorkflowSpec(1, "order", params, ANY, (ReturnNode(Const(msgspec.Raw(b"%d" % number))),))


def with_note(type_: str, default: bytes) -> WorkflowSpec:
    """Takes a note, if there is one."""
    note = Field("note", Scalar(type_), required=False, default=msgspec.Raw(default))  # type: ignore[arg-type]
    return msgspec.structs.replace(spec(7), params=(note,))


WITH_TEXT, WITH_NUMBER = with_note("str", b'""'), with_note("int", b"0")


# -- labels ------------------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=25))
def test_labels_count_up_as_if_each_were_written_down(steps: list[tuple[bool, int]]) -> None:
    versions, written = Versions(1, "d1"), [Label(1, 0)]
    for breaking, chosen in steps:
        base = chosen % len(written)
        if breaking:
            label = Label(1 + max(each.major for each in written), 0)
        else:
            major = written[base].major
            label = Label(major, 1 + max(each.minor for each in written if each.major == major))
        assert versions.next_label(base + 1, breaking=breaking) == label
        versions = versions.with_version(f"d{len(written) + 1}", label)
        written.append(label)
    assert [versions.label(number) for number in range(1, len(written) + 1)] == written
    assert len(set(written)) == len(written)
    for number, label in enumerate(written, 1):
        assert versions.find("order", str(label)) == number
        newest = max(each for each, other in enumerate(written, 1) if other.major == label.major)
        assert versions.find("order", f"{label.major}.x") == newest
    stored = msgspec.json.decode(msgspec.json.encode(versions), type=Versions)
    assert stored == versions


def test_a_version_is_asked_for_by_its_number_its_label_an_alias_or_as_the_latest() -> None:
    versions = Versions(1, "a").with_version("b", Label(1, 1)).with_version("c", Label(2, 0))
    found = {ref: versions.find("order", ref) for ref in ("", "latest", 2, "2", "1.1", "1.x", "2.x", "1.0")}
    assert found == {"": 3, "latest": 3, 2: 2, "2": 2, "1.1": 2, "1.x": 2, "2.x": 3, "1.0": 1}


@pytest.mark.parametrize(
    ("ref", "code"),
    [
        (4, "WORKFLOW_UNKNOWN"),
        (0, "WORKFLOW_UNKNOWN"),
        (-1, "WORKFLOW_UNKNOWN"),
        ("3.x", "WORKFLOW_UNKNOWN"),
        ("1.7", "WORKFLOW_UNKNOWN"),
        ("stable", "ALIAS_UNKNOWN"),
        ("Stable", "VERSION_INVALID"),
        ("1.", "VERSION_INVALID"),
        ("0", "WORKFLOW_UNKNOWN"),
        (1.1, "VERSION_INVALID"),
        (True, "VERSION_INVALID"),
        ("9999999999", "VERSION_INVALID"),
        ("x" * 64, "VERSION_INVALID"),
    ],
)
def test_what_is_no_version_is_named(ref: Any, code: str) -> None:
    versions = Versions(3, "c")
    with pytest.raises((NotFound, BadInput)) as caught:
        versions.find("order", ref)
    assert caught.value.code == code


def test_new_runs_get_no_retired_version() -> None:
    versions = msgspec.structs.replace(Versions(3, "c"), retired=(3,))
    assert versions.latest == versions.resolve("order", "latest") == versions.resolve("order", "1.x") == 2
    with pytest.raises(
        BadInput, match="version 3 of workflow 'order' is retired: start another, or restore it"
    ):
        versions.resolve("order", 3)
    assert versions.find("order", 3) == 3
    none = msgspec.structs.replace(versions, retired=(1, 2, 3))
    assert none.latest == 0
    with pytest.raises(BadInput, match="is retired"):
        none.resolve("order", "latest")
    with pytest.raises(BadInput, match="archived"):
        msgspec.structs.replace(versions, archived=True).resolve("order", 1)


def test_a_target_names_a_workflow_and_a_version() -> None:
    assert parse_target("order") == ("order", "")
    assert parse_target("order@stable") == ("order", "stable")
    assert parse_target("order@7") == ("order", 7)
    with pytest.raises(BadInput, match="versions count from 1"):
        parse_target("order@00")
    with pytest.raises(BadInput, match="has no version behind its @"):
        parse_target("order@")
    with pytest.raises(BadName):
        parse_target("Order@7")


def test_an_alias_is_a_name_and_not_the_latest() -> None:
    assert check_alias("stable") == check_ref("stable") == "stable"
    assert check_ref("2.x") == "2.x"
    for wrong in ("latest", "2-fast", "2", "2.x", "Stable", ""):
        with pytest.raises(BadInput, match="is no version"):
            check_alias(wrong)


# -- the registry ------------------------------------------------------------------------------------
async def registry(server: MemoryServer | None = None) -> Registry:
    connection = await MemoryBroker(server or MemoryServer(lambda: 0)).connect("registrar")
    await provision(connection, NAMES, shards=1, replicas=1)
    return Registry(connection, NAMES)


async def test_a_change_that_breaks_is_a_new_major_version_and_says_why() -> None:
    there = await registry()
    for made in (spec(1), spec(2), spec(3, "amount")):
        await there.put(made)
    view = await there.view("order")
    assert [(each.version, each.label, each.breaks) for each in view.versions] == [
        (3, "2.0", ("parameter 'amount' is new and required: give it a default",)),
        (2, "1.1", ()),
        (1, "1.0", ()),
    ]


async def test_a_policy_refuses_and_nothing_is_registered() -> None:
    there = await registry()
    await there.put(spec(1), allow="none")
    await there.put(spec(2), allow="compatible")
    with pytest.raises(
        ChangeRefused, match="breaks those who use it:\n- parameter 'amount' is new"
    ) as caught:
        await there.put(spec(3, "amount"), allow="compatible")
    assert caught.value.code == "CHANGE_BREAKING"
    with pytest.raises(ChangeRefused, match="no change is allowed") as caught:
        await there.put(spec(3), allow="none")
    assert caught.value.code == "CHANGE_REFUSED"
    assert (await there.put(spec(2), allow="none"))[1] is False
    assert (await there.versions("order")).version == 2


async def test_a_plan_says_what_would_be_and_does_nothing() -> None:
    there = await registry()
    assert (await there.plan(spec(1)))[:4] == ("order", 1, Label(1, 0), "new")
    await there.put(spec(1))
    assert (await there.plan(spec(1)))[:4] == ("order", 1, Label(1, 0), "unchanged")
    assert (await there.plan(spec(2)))[:4] == ("order", 2, Label(1, 1), "compatible")
    assert (await there.plan(spec(2, "amount")))[:4] == ("order", 2, Label(2, 0), "breaking")
    assert (await there.versions("order")).version == 1


async def test_a_change_is_compared_with_what_new_runs_get() -> None:
    """Who takes a bad version back registers no change that breaks."""
    there = await registry()
    await there.put(spec(1))
    await there.put(spec(2, "amount"))
    await there.retire("order", 2)
    back, created = await there.put(spec(1), allow="compatible")
    assert (back.version, back.label, created) == (3, "1.1", True)
    await there.put(spec(4))
    labels = [each.label for each in (await there.view("order")).versions]
    assert labels == ["1.2", "1.1", "2.0", "1.0"]


async def test_a_retired_version_is_not_registered_as_if_nothing_were() -> None:
    there = await registry()
    await there.put(spec(1))
    await there.put(spec(2))
    await there.retire("order", 2)
    for ask in (there.put(spec(2)), there.plan(spec(2))):
        with pytest.raises(BadInput, match="is its version 2, which is retired: restore that, or change it"):
            await ask


async def test_what_was_registered_meanwhile_must_not_break_what_is_restored() -> None:
    there = await registry()
    for made in (spec(1), WITH_TEXT):
        await there.put(made)
    await there.retire("order", 2)
    assert (await there.put(WITH_NUMBER, allow="compatible"))[0].label == "1.2"
    with pytest.raises(ChangeRefused, match="version 3 of workflow 'order' breaks who uses version 2"):
        await there.restore("order", 2)
    await there.retire("order", 3)
    assert await there.restore("order", 2) == 2


async def test_which_version_is_retired_is_said() -> None:
    there = await registry()
    await there.put(spec(1))
    for ask in (there.retire("order", "latest"), there.restore("order", "")):
        with pytest.raises(BadInput, match="say which version of workflow 'order'"):
            await ask


async def test_a_number_that_somebody_left_behind_is_passed_over() -> None:
    """As one does who dies behind the version, and before it stands among the others: its label and what breaks were
    found for another base, and nobody has allowed it."""
    there = await registry()
    await there.put(spec(1))
    left = RegisteredWorkflow(spec(9, "amount"), 2, "0" * 64, "bob", "", {}, "1.1")
    connection = there._connection  # pyright: ignore[reportPrivateUsage]
    await connection.publish(Message(NAMES.workflow_version_key("order", 2), msgspec.json.encode(left)))
    stored, created = await there.put(spec(2), allow="compatible")
    assert (stored.version, stored.label, created) == (3, "1.2", True)
    view = await there.view("order")
    assert [(each.version, each.retired) for each in view.versions] == [(3, False), (2, True), (1, False)]
    assert await there.resolve("order") == 3
    # The same one again is registered by whoever comes next.
    mine = await there.plan(spec(4))
    again = RegisteredWorkflow(spec(4), 4, registered_digest(spec(4), {}), "bob", "", {}, "7.0")
    await connection.publish(Message(NAMES.workflow_version_key("order", 4), msgspec.json.encode(again)))
    stored, _ = await there.put(spec(4), allow="compatible")
    assert (stored.version, mine.version) == (4, 4)
    assert (await there.view("order")).versions[0].label == "1.3"
    assert (await there.put(spec(4)))[0].label == "1.3", "and not what it was to be once"


async def test_the_first_version_of_all_may_have_been_left_behind_too() -> None:
    there = await registry()
    left = RegisteredWorkflow(spec(9), 1, "0" * 64)
    connection = there._connection  # pyright: ignore[reportPrivateUsage]
    await connection.publish(Message(NAMES.workflow_version_key("order", 1), msgspec.json.encode(left)))
    assert (await there.put(spec(1)))[0].version == 2
    assert await there.resolve("order") == 2


async def test_a_version_that_cannot_be_read_hides_no_other() -> None:
    there = await registry()
    await there.put(spec(1))
    await there.put(spec(2))
    connection = there._connection  # pyright: ignore[reportPrivateUsage]
    await connection.publish(Message(NAMES.workflow_version_key("order", 2), b'{"newer": true}'))
    assert [each.version for each in (await there.view("order")).versions] == [2, 1]
    stored, _ = await there.put(spec(3))
    assert (stored.label, stored.breaks[0][:32]) == ("2.0", "version 2 cannot be compared wit")


async def test_a_plan_knows_of_events_that_others_have() -> None:
    there = await registry()
    await there.put(msgspec.structs.replace(spec(1), name="other", events=(EventDef("go", Scalar("int")),)))
    asks = msgspec.structs.replace(spec(1), events=(EventDef("go", Scalar("str")),))
    for ask in (there.plan(asks), there.put(asks)):
        with pytest.raises(EventConflict):
            await ask


async def test_a_policy_is_one_of_three() -> None:
    there = await registry()
    await there.put(spec(1))
    with pytest.raises(BadInput, match="allow is one of all, compatible, none, and not 'compat'"):
        await there.put(spec(2), allow="compat")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_an_alias_stays_where_it_is_until_it_is_set_again() -> None:
    there = await registry()
    await there.put(spec(1))
    assert await there.set_alias("order", "stable", "latest", "ann") == 1
    await there.put(spec(2))
    assert await there.resolve("order", "stable") == 1
    assert await there.set_alias("order", "next", "1.x") == 2
    assert await there.set_alias("order", "stable", "next") == 2
    alias = (await there.versions("order")).aliases["stable"]
    assert (alias.version, alias.actor) == (2, "")
    await there.remove_alias("order", "stable")
    await there.remove_alias("order", "stable")
    with pytest.raises(NotFound, match="has no alias 'stable': it has next"):
        await there.resolve("order", "stable")


async def test_an_alias_is_no_retired_version() -> None:
    there = await registry()
    await there.put(spec(1))
    await there.put(spec(2))
    await there.set_alias("order", "stable", 2)
    with pytest.raises(
        BadInput, match="version 2 of workflow 'order' is order@stable: let the alias be another"
    ):
        await there.retire("order", 2)
    await there.retire("order", 1)
    with pytest.raises(BadInput, match="is retired"):
        await there.set_alias("order", "old", 1)
    await there.restore("order", 1)
    assert await there.set_alias("order", "old", 1) == 1


async def test_an_archived_workflow_is_neither_started_nor_registered() -> None:
    there = await registry()
    await there.put(spec(1))
    await there.archive("order")
    with pytest.raises(BadInput, match="archived"):
        await there.resolve("order")
    for number in (1, 2):
        with pytest.raises(BadInput, match="unarchive it before you register it again"):
            await there.put(spec(number))
    assert (await there.get("order")).version == 1
    await there.archive("order", archived=False)
    assert await there.resolve("order") == 1


@pytest.mark.limit("protocol.versions.VERSIONS_SHOWN")
async def test_a_view_has_the_last_versions_and_says_that_there_are_more() -> None:
    there = await registry()
    for number in range(VERSIONS_SHOWN + 1):
        view = await there.view("order") if number else None
        assert view is None or (len(view.versions), view.more) == (number, False)
        await there.put(spec(number))
    view = await there.view("order")
    assert [each.version for each in view.versions] == list(range(VERSIONS_SHOWN + 1, 1, -1))
    assert view.more


@pytest.mark.limit("protocol.versions.ALIASES_MAX")
async def test_a_workflow_has_as_many_aliases_as_the_limit_and_no_more() -> None:
    there = await registry()
    await there.put(spec(1))
    for number in range(ALIASES_MAX):
        await there.set_alias("order", f"a{number}", 1)
    await there.set_alias("order", "a0", 1)
    with pytest.raises(BadInput, match="limit aliases") as caught:
        await there.set_alias("order", "one-more", 1)
    assert caught.value.code == "TOO_MANY_ALIASES"


async def test_a_workflow_that_is_not_there_has_no_versions() -> None:
    there = await registry()
    for ask in (
        there.resolve("order"),
        there.retire("order", 1),
        there.set_alias("order", "a", 1),
        there.view("order"),
    ):
        with pytest.raises(NotFound, match="workflow 'order' is not registered"):
            await ask


# -- many at once, with replies that are lost --------------------------------------------------------
class Actor:
    """Somebody who registers, names and retires, repeats what has no known outcome, and notes what was promised."""

    def __init__(self, name: str, registry: Registry, chance: random.Random) -> None:
        self.name = name
        self.alias: int | None = 0
        """What nobody else sets; None if that is not known."""

        self.unknown = False
        self.registry = registry
        self.chance = chance
        self.stored: dict[int, str] = {}
        """Digests by the numbers that were given."""

        self.created: dict[int, str] = {}
        """The labels of what it has registered, by their numbers."""

    async def act(self) -> None:
        for _ in range(12):
            made = spec(self.chance.randrange(6), *self.chance.choice([(), (), ("amount",)]))
            put: Callable[[], Awaitable[None]] = partial(self._put, made)
            acts = [put, put, self._alias, self._mine, self._retire, self._restore]
            await self._surely(self.chance.choice(acts))

    async def _surely(self, ask: Callable[[], Awaitable[None]]) -> None:
        self.unknown = False
        while True:
            try:
                await ask()
            except OutcomeUnknown:
                self.unknown = True
                await asyncio.sleep(0.1)
                continue
            except (NotFound, BadInput) as refused:
                if refused.code not in {
                    "VERSION_RETIRED",
                    "VERSION_ALIASED",
                    "WORKFLOW_UNKNOWN",
                    "CHANGE_BREAKING",
                }:
                    raise
            return

    async def _put(self, made: WorkflowSpec) -> None:
        stored, created = await self.registry.put(made)
        assert stored.spec == made, "what was given back is what was put"
        assert self.stored.setdefault(stored.version, stored.digest) == stored.digest
        if created:
            self.created[stored.version] = stored.label

    async def _alias(self) -> None:
        await self.registry.set_alias(
            "order", self.chance.choice("ab"), self.chance.choice(["latest", "1.x"])
        )

    async def _mine(self) -> None:
        """An alias that nobody else sets."""
        try:
            self.alias = await self.registry.set_alias(
                "order", self.name, self.chance.choice(["latest", "1.x"])
            )
        except (NotFound, BadInput):
            if self.unknown:
                self.alias = None  # An earlier try may have set it, whose answer was lost.
            raise

    async def _retire(self) -> None:
        await self.registry.retire("order", await self._any())

    async def _restore(self) -> None:
        await self.registry.restore("order", await self._any())

    async def _any(self) -> int:
        return self.chance.randint(1, (await self.registry.versions("order")).version)


async def story(chance: random.Random) -> int:
    server, links = MemoryServer(lambda: 0), Links(chance)
    quiet = await registry(server)
    actors: list[Actor] = []
    for number in range(3):
        connection: Connection = await MemoryBroker(server, links, f"actor{number}").connect("registrar")
        actors.append(Actor(f"mine-{number}", Registry(connection, NAMES), random.Random(chance.random())))
    with links.under(Weather(loss_out=0.08, loss_in=0.08, kinds=frozenset({"send", "reply"}))):
        await asyncio.gather(*(actor.act() for actor in actors))
    versions = await quiet.versions("order")
    stored = {number: await quiet.get("order", number) for number in range(1, versions.version + 1)}
    assert versions.digest == stored[versions.version].digest
    labels = {number: str(versions.label(number)) for number in stored}
    assert len(set(labels.values())) == len(stored), "no two versions have one label"
    with pytest.raises(NotFound):
        await quiet.get("order", versions.version + 1)
    for actor in actors:
        assert set(actor.stored) <= set(stored), "no version is forgotten"
        mine = versions.aliases.get(actor.name)
        known = actor.alias is not None
        assert not known or (mine.version if mine else 0) == actor.alias, (
            "nobody has taken back what another one has set"
        )
        assert actor.created.items() <= labels.items()
        for number, digest in actor.stored.items():
            assert stored[number].digest == digest, "a version is what it was when somebody was given it"
    created = [number for actor in actors for number in actor.created]
    assert len(created) == len(set(created)), "one has made it, and no other"
    assert not {alias.version for alias in versions.aliases.values()} & set(versions.retired)
    assert set(versions.retired) <= set(stored)
    return links.lost


def run(seed: int, coroutine: Callable[[random.Random], Any]) -> Any:
    chance = random.Random(seed)
    loop = SimLoop(chance)
    try:
        return loop.run_until_complete(coroutine(chance))
    finally:
        loop.bury()


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_many_who_register_name_and_retire_at_once_break_nothing(first: int) -> None:
    lost = sum(run(seed, story) for seed in range(first, first + 20))
    assert lost > 20, "replies and requests were lost"


def test_a_registry_that_does_not_look_at_what_stands_there_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same story, with a registry that writes over what others have written meanwhile."""

    async def point(self: Any, key: str, pointer: Any, expected_seq: int) -> bool:
        await self._connection.publish(Message(key, msgspec.json.encode(pointer)))
        return True

    monkeypatch.setattr(Registry, "_point", point)
    assert any(breaks_in(seed) for seed in range(20))


def breaks_in(seed: int) -> bool:
    try:
        run(seed, story)
    except (AssertionError, pytest.fail.Exception):
        return True
    return False
