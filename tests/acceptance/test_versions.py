"""Versions on the real engine: who gets which, what a change breaks, aliases, and what is not for new runs any more."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.acceptance.conftest import Engine, until  # pyright: ignore[reportMissingImports]

from dressage.client import At, Client, Every, ScheduleHandle
from dressage.flow import Event, Workflow
from dressage.protocol.errors import BadInput, ChangeRefused, NotFound
from dressage.simulation.programs import define

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.anyio

SOURCE = """
from dressage.flow import Event, workflow

go = Event("go")


@workflow(name="greeting")
async def greeting({params}) -> {output}:
    if name == "waits":
        await go.wait()
    return {result}
"""


def greeting(result: str, params: str = "name: str", output: str = "str") -> Workflow[..., Any]:
    """Each is another state of the source of one workflow."""
    module = define(SOURCE.format(result=result, params=params, output=output))
    found: Workflow[..., Any] = module.greeting
    return found


FAMILY = """
from dressage.flow import workflow


@workflow
async def kid(n: int) -> int:
    return n + {kid}


@workflow
async def dad(n: int{dad}) -> int:
    return await kid(n)
"""

ONE, TWO = greeting("'hello ' + name"), greeting("'good day ' + name")
LOUD = greeting("name + '!' * marks", params="name: str, marks: int = 1")
BROKEN = greeting("name + '!' * marks", params="name: str, marks: int")
go = Event("go")


async def said(client: Client, target: str, **options: Any) -> Any:
    return await (await client.start(target, {"name": "Ann"}, **options)).result(15)


async def test_a_run_stays_on_the_version_that_it_began_with(engine: Engine) -> None:
    client = await engine.registered(ONE)
    waiting = await client.start("greeting", {"name": "waits"})
    await client.register(TWO)
    assert await said(client, "greeting") == "good day Ann"
    await client.post(waiting.run_id, go)
    assert await waiting.result(15) == "hello waits"
    assert [(await client.get(waiting.run_id)).version] == [1]


async def test_versions_are_asked_for_by_number_label_and_alias(engine: Engine) -> None:
    client = await engine.registered(ONE, TWO, LOUD)
    await client.register(BROKEN)
    assert await said(client, "greeting@1") == await said(client, "greeting", version=1) == "hello Ann"
    assert await said(client, "greeting@1.1") == "good day Ann"
    assert await said(client, "greeting@1.x") == "Ann!"
    await client.registry.set_alias("greeting", "stable", "1.1")
    assert await said(client, "greeting@stable") == "good day Ann"
    assert await said(client, "greeting", version="stable") == "good day Ann"
    await client.registry.set_alias("greeting", "stable", 3)
    assert await said(client, "greeting@stable") == "Ann!"
    with pytest.raises(NotFound, match="has no alias 'beta': it has stable"):
        await said(client, "greeting@beta")
    with pytest.raises(BadInput, match="names a version, and version=2 another one"):
        await said(client, "greeting@stable", version=2)


async def test_a_change_that_breaks_is_refused_where_none_is_allowed(engine: Engine) -> None:
    client = await engine.registered(ONE)
    assert (await client.register(LOUD, allow="compatible")).label == "1.1"
    with pytest.raises(
        ChangeRefused, match="parameter 'marks' is required now: give it the default that it had"
    ):
        await client.register(BROKEN, allow="compatible")
    with pytest.raises(ChangeRefused, match="the result: it is int now, and was str"):
        await client.register(greeting("len(name)", output="int"), allow="compatible")
    with pytest.raises(ChangeRefused, match="no change is allowed"):
        await client.register(TWO, allow="none")
    assert await said(client, "greeting") == "Ann!"
    registered = await client.register(BROKEN)
    assert (registered.version, registered.label) == (3, "2.0")


async def test_a_retired_version_gets_no_new_run_and_its_runs_go_on(engine: Engine) -> None:
    client = await engine.registered(ONE, TWO)
    waiting = await client.start("greeting", {"name": "waits"})
    await client.registry.retire("greeting", 2)
    assert await said(client, "greeting") == "hello Ann"
    other = await engine.client()
    for asked in (2, "1.1"):
        with pytest.raises(BadInput, match="version 2 of workflow 'greeting' is retired") as caught:
            await said(other, "greeting", version=asked)
        assert caught.value.code == "VERSION_RETIRED"
    await client.post(waiting.run_id, go)
    assert await waiting.result(15) == "good day waits"
    await client.registry.restore("greeting", 2)
    assert await said(other, "greeting", version=2) == "good day Ann"


async def test_who_names_a_number_hears_within_a_second_that_it_is_retired(engine: Engine) -> None:
    client = await engine.registered(ONE, TWO)
    assert await said(client, "greeting", version=2) == "good day Ann"
    await (await engine.client()).registry.retire("greeting", 2)

    async def is_refused() -> bool:
        try:
            await said(client, "greeting", version=2)
        except BadInput:
            return True
        return False

    await until(is_refused, "it is refused", 10)


async def test_an_archived_workflow_is_not_started_until_it_is_unarchived(engine: Engine) -> None:
    client = await engine.registered(ONE)
    waiting = await client.start("greeting", {"name": "waits"})
    await client.registry.archive("greeting")
    with pytest.raises(BadInput, match="workflow 'greeting' is archived"):
        await said(client, "greeting")
    with pytest.raises(BadInput, match="unarchive it before"):
        await client.register(TWO)
    await client.post(waiting.run_id, go)
    assert await waiting.result(15) == "hello waits"
    await client.registry.archive("greeting", archived=False)
    assert await said(client, "greeting") == "hello Ann"


async def test_a_run_that_there_is_may_be_started_again_whatever_has_become_of_its_version(
    engine: Engine,
) -> None:
    client = await engine.registered(ONE)
    started = await client.start("greeting", {"name": "waits"}, run_id="r-1")
    await client.registry.archive("greeting")
    other = await engine.client()
    again = await other.start("greeting", {"name": "waits"}, run_id="r-1")
    assert (again.existing, started.existing) == (True, False)
    with pytest.raises(BadInput, match="archived"):
        await other.start("greeting", {"name": "Ann"}, run_id="r-2")
    await client.post("r-1", go)
    assert await again.result(15) == "hello waits"


async def test_a_fire_takes_a_version_that_is_there_since_a_moment(engine: Engine) -> None:
    client = await engine.registered(ONE)
    asked: list[int | str] = [2, "stable"]
    for number, version in enumerate(asked):
        # Somebody has just looked, and has not seen it.
        first = await client.set_schedule(
            f"before-{number}", "greeting", {"name": "Ann"}, when=Every(timedelta(days=1))
        )
        await first.fire()
        if number:
            await client.registry.set_alias("greeting", "stable", 2)
        else:
            await client.register(TWO)
        at = At(datetime.now(UTC) + timedelta(milliseconds=100))
        once = await client.set_schedule(
            f"once-{number}", "greeting", {"name": "Ann"}, when=at, version=version
        )

        async def has_ended(schedule: ScheduleHandle = once) -> bool:
            return [fire.outcome for fire in (await schedule.view()).fires] == ["completed"]

        await until(has_ended, "it has run", 15)


async def test_a_policy_holds_for_children_too_before_any_is_registered(engine: Engine) -> None:
    kids = [define(FAMILY.format(kid=kid, dad=dad)).dad for kid, dad in (("1", ""), ("2", ", more: int"))]
    client = await engine.registered(kids[0])
    with pytest.raises(ChangeRefused, match="parameter 'more' is new and required"):
        await client.register(kids[1], allow="compatible")
    assert (await client.registry.versions("kid")).version == 1


async def test_a_schedule_starts_what_its_alias_is_at_each_fire(engine: Engine) -> None:
    client = await engine.registered(ONE, TWO)
    await client.registry.set_alias("greeting", "stable", 1)
    every = Every(timedelta(seconds=1))
    schedule = await client.set_schedule(
        "hourly", "greeting@stable", {"name": "Ann"}, when=every, overlap="allow"
    )

    async def results() -> set[Any]:
        ended = [fire for fire in (await schedule.view()).fires if fire.outcome == "completed"]
        return {await client.handle(fire.run_id).result(5) for fire in ended}

    async def has(result: str) -> bool:
        return result in await results()

    await until(lambda: has("hello Ann"), "the first version has run", 15)
    assert await results() == {"hello Ann"}
    await client.registry.set_alias("greeting", "stable", 2)
    await until(lambda: has("good day Ann"), "the second one has, too", 15)
    await client.registry.remove_alias("greeting", "stable")

    async def is_refused() -> bool:
        return any(fire.outcome == "refused" for fire in (await schedule.view()).fires)

    await until(is_refused, "without its alias it starts nothing", 15)
    await client.registry.set_alias("greeting", "stable", 1)

    async def goes_on() -> bool:
        outcomes = [fire.outcome for fire in (await schedule.view()).fires]
        return "completed" in outcomes[: outcomes.index("refused")] or "completed" in outcomes[-1:]

    await until(goes_on, "and goes on when it is there again", 15)
    await schedule.delete()


async def test_events_of_a_trigger_wait_for_a_version_that_they_may_start(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    client = await engine.registered(ONE, TWO)
    nats = await engine.nats()
    stream = f"names-{engine.namespace}"
    await nats.jetstream().add_stream(name=stream, subjects=[f"{stream}.>"])
    config = tmp_path / "triggers.toml"
    config.write_text(f"""
        [[trigger]]
        name = "names"
        source = {{ subject = "{stream}.>" }}
        workflow = "greeting"
        version = "stable"
        run_id = '''"greet " + event["name"]'''
        [trigger.input]
        name = '''event["name"]'''
    """)
    start("trigger", "run", str(config), "--server", engine.url, "--namespace", engine.namespace)
    await nats.jetstream().publish(f"{stream}.a", b'{"name": "Ann"}')
    await asyncio.sleep(2.0)
    with pytest.raises(NotFound):
        await client.get("greet Ann")
    await client.registry.set_alias("greeting", "stable", 1)

    async def is_there() -> bool:
        try:
            await client.get("greet Ann")
        except NotFound:
            return False
        return True

    await until(is_there, "the event was not lost", 30)
    assert await client.handle("greet Ann").result(15) == "hello Ann"


async def test_the_service_does_the_same_for_any_language(engine: Engine) -> None:
    client = await engine.registered(ONE)
    broken = BROKEN.spec
    spec = {"spec": json.loads(broken.encode())}
    plan = await engine.call("check-workflow", spec)
    assert (plan["version"], plan["label"], plan["change"]) == (2, "2.0", "breaking")
    assert plan["breaks"] == ["parameter 'marks' is new and required: give it a default"]
    refused = await engine.call("put-workflow", {**spec, "allow": "compatible"})
    assert (refused["ok"], refused["code"]) == (False, "CHANGE_BREAKING")
    await client.register(TWO)
    told = {"name": "greeting", "do": "set-alias", "alias": "stable", "version": "1.0", "actor": "ann"}
    answer = await engine.call("tell-workflow", told)
    assert answer["versions"]["aliases"]["stable"]["version"] == 1
    started = await engine.call(
        "start", {"workflow": "greeting@stable", "input": {"name": "Ann"}, "run_id": "r"}
    )
    assert started["ok"]
    assert await client.handle("r").result(15) == "hello Ann"
    got = await engine.call("get-workflow", {"name": "greeting", "version": "stable"})
    assert got["workflow"]["version"] == 1
    retired = await engine.call("tell-workflow", {"name": "greeting", "do": "retire", "version": 1})
    assert retired["code"] == "VERSION_ALIASED"
    assert (await engine.call("tell-workflow", {"name": "greeting", "do": "retire"}))[
        "code"
    ] == "REQUEST_MALFORMED"
    acts: list[tuple[str, dict[str, Any]]] = [
        ("remove-alias", {"alias": "stable"}),
        ("retire", {"version": 1}),
        ("restore", {"version": 1}),
        ("archive", {}),
        ("unarchive", {}),
    ]
    for do, more in acts:
        answer = await engine.call("tell-workflow", {"name": "greeting", "do": do, **more})
        assert answer["ok"], answer
    view = (await engine.call("get-versions", {"name": "greeting", "limit": 1}))["versions"]
    assert (view["latest"], view["archived"], view["more"]) == (2, False, True)
    assert [(each["version"], each["label"]) for each in view["versions"]] == [(2, "1.1")]
