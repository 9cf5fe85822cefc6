"""Versions, as the issue asks for them: labels by what breaks, a check for CI, pinned runs, aliases, retiring and
archiving, and runs that move to another version."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec import structs
from tests.acceptance.conftest import Engine  # pyright: ignore[reportMissingImports]

from dressage.client import Client
from dressage.client.finding import query
from dressage.flow import App, Event, Searchable, UserTask, Workflow, gather, sleep, workflow
from dressage.protocol.errors import DressageError

if TYPE_CHECKING:
    from tests.conftest import Start  # pyright: ignore[reportMissingImports]

Until = Callable[..., Awaitable[None]]

app = App("issue-versions")
go = Event("go", of=str)
gate = {"open": asyncio.Event()}
done: list[str] = []


@pytest.fixture(autouse=True)
def shut_gate() -> None:
    gate["open"] = asyncio.Event()
    done.clear()


@dataclass
class Verdict:
    ok: bool


@dataclass
class LongVerdict:
    ok: bool
    words: str = "none"


class Size(Enum):
    SMALL = "s"


class MoreSizes(Enum):
    SMALL = "s"
    LARGE = "l"


@dataclass
class View:
    status: Searchable[str] = "NEW"


@dataclass
class QuietView:
    status: str = "NEW"


def base() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL) -> str:
        view = View()
        await go.wait()
        view.status = "DONE"
        return f"one {number}"

    return pay


def another_process() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL) -> str:
        view = View()
        await go.wait()
        await sleep(timedelta(milliseconds=1))
        view.status = "DONE"
        return f"two {number}"

    return pay


def optional_parameter() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL, express: bool = False) -> str:
        view = View()
        await go.wait()
        view.status = "DONE"
        return f"express {number} {express}"

    return pay


def wider_parameter() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int | None, size: MoreSizes = MoreSizes.SMALL) -> str:
        view = View()
        await go.wait()
        view.status = "DONE"
        return f"one {number}"

    return pay


def required_parameter() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, customer: str, size: Size = Size.SMALL) -> str:
        view = View()
        await go.wait()
        view.status = "DONE"
        return f"{customer} {number}"

    return pay


def missing_parameter() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(size: Size = Size.SMALL) -> str:
        view = View()
        await go.wait()
        view.status = "DONE"
        return "one"

    return pay


def other_type() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: str, size: Size = Size.SMALL) -> str:
        view = View()
        await go.wait()
        view.status = "DONE"
        return f"one {number}"

    return pay


def other_output() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL) -> int:
        view = View()
        await go.wait()
        view.status = "DONE"
        return number

    return pay


def wider_output() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL) -> str | None:
        view = View()
        await go.wait()
        view.status = "DONE"
        return None if number else "none"

    return pay


def not_searchable() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL) -> str:
        view = QuietView()
        await go.wait()
        view.status = "DONE"
        return f"one {number}"

    return pay


def no_view() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL) -> str:
        await go.wait()
        return f"one {number}"

    return pay


def no_event() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL) -> str:
        view = View()
        view.status = "DONE"
        return f"one {number}"

    return pay


def spec_of(made: Workflow[..., Any]) -> Any:
    return json.loads(made.spec.encode())


async def refusal(action: Awaitable[Any]) -> DressageError:
    with pytest.raises(DressageError) as refused:
        await action
    return refused.value


async def finished(client: Client, run_id: str) -> Any:
    await client.post(run_id, go, "x")
    return await client.handle(run_id).result(10)


# -- numbers and labels --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "breaks", "word"),
    [
        (base, None, ""),
        (another_process, False, ""),
        (optional_parameter, False, ""),
        (wider_parameter, False, ""),
        (required_parameter, True, "customer"),
        (missing_parameter, True, "number"),
        (other_type, True, "number"),
        (other_output, True, ""),
        (wider_output, True, ""),
        (not_searchable, True, "status"),
        (no_view, True, "view"),
        (no_event, True, "go"),
    ],
)
async def test_point_16_what_a_change_breaks_is_decided_and_explained(
    shared: Engine, change: Callable[[], Workflow[..., Any]], breaks: bool | None, word: str
) -> None:
    name = f"issue-pay-{change.__name__.replace('_', '-')}"
    before, after = (structs.replace(each.spec, name=name) for each in (base(), change()))
    client = await shared.client()
    await client.register(before)
    checked = await shared.call("check-workflow", {"spec": json.loads(after.encode())})
    assert checked["ok"], checked
    expected = {None: "unchanged", False: "compatible", True: "breaking"}[breaks]
    assert checked["change"] == expected, checked
    assert bool(checked.get("breaks")) == bool(breaks)
    assert word in " ".join(checked.get("breaks", []))
    # Nothing was registered by looking; and what was said comes true.
    assert (await client.registry.view(name)).latest == 1
    await client.register(after)
    versions = await client.registry.view(name)
    newest = versions.versions[0]
    assert (newest.version, newest.label) == {None: (1, "1.0"), False: (2, "1.1"), True: (2, "2.0")}[breaks]
    assert bool(newest.breaks) == bool(breaks)


@dataclass
class NumberView:
    status: Searchable[int] = 0


def other_view() -> Workflow[..., Any]:
    @workflow(name="issue-pay")
    async def pay(number: int, size: Size = Size.SMALL) -> str:
        view = NumberView()
        await go.wait()
        view.status = number
        return f"one {number}"

    return pay


async def test_point_16_a_variable_that_was_removed_may_come_back_with_another_type(shared: Engine) -> None:
    client = await shared.client()
    labels: list[str] = []
    for made in (base(), no_view(), other_view(), base()):
        await client.register(structs.replace(made.spec, name="issue-pay-comes-back"))
        labels.append((await client.registry.view("issue-pay-comes-back")).versions[0].label)
    assert labels[:2] == ["1.0", "2.0"]
    # What was removed breaks nobody when it comes back, and is found by its new type from then on.
    assert labels[2] == "2.1"
    assert labels[3] == "3.0"


async def test_policies_refuse_what_they_do_not_allow(engine: Engine) -> None:
    client = await engine.registered(base())
    breaking = await refusal(client.register(required_parameter(), allow="compatible"))
    assert breaking.code == "CHANGE_BREAKING"
    assert "customer" in str(breaking)
    assert (await refusal(client.register(another_process(), allow="none"))).code == "CHANGE_REFUSED"
    await client.register(base(), allow="none")  # which changes nothing
    assert (await client.registry.view("issue-pay")).latest == 1
    put = await engine.call("put-workflow", {"spec": spec_of(required_parameter()), "allow": "compatible"})
    assert put["code"] == "CHANGE_BREAKING"


async def test_a_check_for_ci_says_what_breaks_and_registers_nothing(
    engine: Engine, start: Start, tmp_path: Path
) -> None:
    source = (
        "from dressage.flow import workflow\n\n\n@workflow\nasync def ci_one(number: int{more}) -> str:\n"
        '    return f"{{number}}"\n\n\n@workflow\nasync def ci_two(word: str) -> str:\n    return word + "{two}"\n'
    )
    (tmp_path / "ci_first.py").write_text(source.format(more="", two=""))
    (tmp_path / "ci_good.py").write_text(source.format(more=", express: bool = False", two=""))
    (tmp_path / "ci_bad.py").write_text(source.format(more=", customer: str", two="!"))
    place = ("--server", engine.url, "--namespace", engine.namespace)

    async def deploy(*arguments: str) -> tuple[int, str]:
        program = start("deploy", *arguments, *place, cwd=tmp_path)
        return await asyncio.to_thread(program.ended), program.said

    assert (await deploy("ci_first"))[0] == 0
    client = await engine.client()
    checks = await asyncio.gather(deploy("ci_good", "--check"), deploy("ci_bad", "--check"))
    assert [code for code, _ in checks] == [0, 1]
    assert "customer" in checks[1][1]
    assert [(await client.registry.view(name)).latest for name in ("ci-one", "ci-two")] == [1, 1]
    # Where one of a module may not be registered, none is.
    code, said = await deploy("ci_bad", "--allow", "compatible")
    assert code == 1, said
    assert [(await client.registry.view(name)).latest for name in ("ci-one", "ci-two")] == [1, 1]


# -- which version -------------------------------------------------------------------------------------------------
async def test_runs_stay_on_the_version_that_they_began_with(sharded: Engine) -> None:
    client = await sharded.registered(base())
    first = await client.start("issue-pay", {"number": 1}, run_id="pinned")
    await client.register(another_process())
    second = await client.start("issue-pay", {"number": 2})
    await sharded.down()
    await sharded.up()
    assert await finished(client, first.run_id) == "one 1"
    assert await finished(client, second.run_id) == "two 2"
    assert (await client.get("pinned")).version == 1
    again = await client.start("issue-pay", {"number": 1}, run_id="pinned")  # the same start is the same run
    assert await again.result(10) == "one 1"


async def test_aliases_labels_and_numbers_choose_a_version(engine: Engine) -> None:
    client = await engine.registered(base(), another_process(), required_parameter(), other_output())
    registry = client.registry
    await registry.set_alias("issue-pay", "stable", 1)

    async def version(ref: str) -> int:
        given = {"number": 1, "customer": "ann"} if ref in {"@3", "@2.x", "@2.0"} else {"number": 1}
        run = await client.start(f"issue-pay{ref}", given)
        return (await run.state()).version

    labels = {each.version: each.label for each in (await registry.view("issue-pay")).versions}
    assert labels == {1: "1.0", 2: "1.1", 3: "2.0", 4: "3.0"}
    refs = ["", "@latest", "@stable", "@1", "@3", "@1.0", "@1.1", "@1.x", "@2.x"]
    assert [await version(ref) for ref in refs] == [4, 4, 1, 1, 3, 1, 2, 2, 3]
    await registry.set_alias("issue-pay", "stable", "1.x")
    assert await version("@stable") == 2
    codes = [
        (await refusal(client.start(f"issue-pay@{ref}", {"number": 1}))).code
        for ref in ("nobody", "99", "9.x", "Ä!")
    ]
    assert codes == ["ALIAS_UNKNOWN", "WORKFLOW_UNKNOWN", "WORKFLOW_UNKNOWN", "VERSION_INVALID"]
    assert (await refusal(registry.set_alias("issue-pay", "latest", 1))).code == "VERSION_INVALID"
    answer = await engine.call(
        "start", {"workflow": "issue-pay@stable", "input": {"number": 1}, "run_id": "api"}
    )
    assert answer["ok"], answer
    assert (await client.get("api")).version == 2


async def test_a_retired_version_starts_no_run_and_those_that_it_has_go_on(engine: Engine) -> None:
    client = await engine.registered(base(), another_process())
    run = await client.start("issue-pay", {"number": 1}, run_id="old-hand")
    await client.registry.set_alias("issue-pay", "stable", 2)
    assert (await refusal(client.registry.retire("issue-pay", 2))).code == "VERSION_ALIASED"
    await client.registry.remove_alias("issue-pay", "stable")
    await client.registry.retire("issue-pay", 2)
    fresh = await engine.client()  # one that has started runs of it hears of it within a second
    assert (await refusal(fresh.start("issue-pay@2", {"number": 1}))).code == "VERSION_RETIRED"
    assert (await (await client.start("issue-pay", {"number": 3})).state()).version == 1
    assert await finished(client, run.run_id) == "two 1"
    assert (await refusal(client.register(another_process()))).code == "VERSION_RETIRED"
    await client.registry.restore("issue-pay", 2)
    assert (await (await client.start("issue-pay", {"number": 4})).state()).version == 2


async def test_an_archived_workflow_starts_nothing_and_takes_no_version(engine: Engine) -> None:
    client = await engine.registered(base())
    run = await client.start("issue-pay", {"number": 1})
    told = await engine.call("tell-workflow", {"name": "issue-pay", "do": "archive", "actor": "eve"})
    assert told["ok"], told
    assert (await refusal(client.start("issue-pay", {"number": 2}))).code == "WORKFLOW_ARCHIVED"
    assert (await refusal(client.register(another_process()))).code == "WORKFLOW_ARCHIVED"
    assert await finished(client, run.run_id) == "one 1"
    assert (await client.registry.view("issue-pay")).archived
    assert (await engine.call("tell-workflow", {"name": "issue-pay", "do": "unarchive"}))["ok"]
    await client.start("issue-pay", {"number": 3})


# -- moving runs ---------------------------------------------------------------------------------------------------
judge = UserTask("issue-move-judge", form=Verdict)


@app.task
async def hold(name: str) -> str:
    done.append(name)
    await gate["open"].wait()
    return f"held {name}"


def before() -> Workflow[..., Any]:
    @workflow(name="issue-move")
    async def move(member: str) -> str:
        total = len(member)
        answer = await go.wait()
        return f"old {answer} {total}"

    return move


def after() -> Workflow[..., Any]:
    @workflow(name="issue-move")
    async def move(member: str) -> str:
        amount = len(member)
        discount = amount - 1
        try:
            answer = await go.wait(timeout=timedelta(days=14))
        except TimeoutError:
            return "silent"
        return f"new {answer} {amount} {discount}"

    return move


def before_side_by_side() -> Workflow[..., Any]:
    @workflow(name="issue-side")
    async def side(member: str) -> str:
        verdict, held, word = await gather(judge.assign(user=member), hold(member), go.wait())
        return f"old {verdict.ok} {held} {word}"

    return side


def after_side_by_side() -> Workflow[..., Any]:
    @workflow(name="issue-side")
    async def side(member: str) -> str:
        verdict, held, word = await gather(judge.assign(user=member), hold(member), go.wait())
        return f"new {verdict.ok} {held} {word}"

    return side


async def test_a_waiting_run_moves_where_the_plan_says_with_what_it_has(sharded: Engine) -> None:
    client = await sharded.registered(before(), after())
    runs = [await client.start("issue-move@1", {"member": name}) for name in ("ann", "robert")]
    planned = await client.plan_migration("issue-move@1", "issue-move@2")
    (step,) = planned.steps
    assert step.line != step.line_after
    assert step.node_after is not None
    checked = await client.check_migration(runs[0].run_id, planned.migration)
    assert checked.reasons  # `amount` and `discount` are read there, and the run has neither
    text = " ".join(checked.reasons)
    assert "amount" in text
    assert "discount" in text
    refused = await refusal(client.migrate(runs[0].run_id, planned.migration))
    assert refused.code == "MIGRATION_REFUSED"
    assert (await runs[0].state()).version == 1  # it stays as it is
    better = await client.plan_migration(
        "issue-move@1", "issue-move@2", variables={"total": "amount"}, values={"discount": 7}
    )
    for run in runs:
        assert (await client.check_migration(run.run_id, better.migration)).reasons == ()
        assert (await run.state()).version == 1  # looking moves nothing
        await client.migrate(run.run_id, better.migration)
        await client.migrate(run.run_id, better.migration)  # a repeat changes nothing
        assert (await run.state()).version == 2
        assert (await client.check_migration(run.run_id, better.migration)).moved
    await sharded.down()
    await sharded.up()
    assert [await finished(client, run.run_id) for run in runs] == ["new x 3 7", "new x 6 7"]
    kinds = [event.kind async for event in runs[0].history()]
    assert kinds.count("run-migrated") == 1


async def test_what_is_under_way_goes_on_in_the_other_version(engine: Engine, until: Until) -> None:
    await engine.worker(app)
    client = await engine.registered(before_side_by_side(), after_side_by_side())
    run = await client.start("issue-side@1", {"member": "ann"})
    await until(lambda: done == ["ann"], "the worker has the attempt")
    (view,) = await client.user_tasks(run.run_id)
    mine = client.user_task(run.run_id, view.id)
    await mine.save("ann", {"ok": True})
    planned = await client.plan_migration("issue-side@1", "issue-side@2")
    await client.migrate(run.run_id, planned.migration)
    assert (await mine.view()).values == {"ok": True}
    gate["open"].set()
    await mine.complete("ann")
    assert await finished(client, run.run_id) == "new True held ann x"
    assert done == ["ann"]


async def test_a_stopped_run_moves_and_stays_stopped_and_one_that_has_ended_does_not(engine: Engine) -> None:
    client = await engine.registered(before(), after())
    planned = await client.plan_migration(
        "issue-move@1", "issue-move@2", variables={"total": "amount"}, values={"discount": 0}
    )
    stopped = await client.start("issue-move@1", {"member": "ann"})
    await client.stop(stopped.run_id, "move")
    await client.migrate(stopped.run_id, planned.migration)
    view = await stopped.state()
    assert (view.version, len(view.stops)) == (2, 1)
    await client.resume(stopped.run_id)
    assert await finished(client, stopped.run_id) == "new x 3 0"
    over = await client.start("issue-move@1", {"member": "bob"})
    assert await finished(client, over.run_id) == "old x 3"
    assert (await refusal(client.migrate(over.run_id, planned.migration))).code in {
        "RUN_FINISHED",
        "MIGRATION_REFUSED",
    }
    assert (await refusal(client.migrate("nobody", planned.migration))).code == "RUN_UNKNOWN"


async def test_many_runs_move_from_the_shell_and_who_cannot_says_why(
    engine: Engine, start: Start, tmp_path: Path, until: Until
) -> None:
    client = await engine.registered(before(), after())
    for number in range(3):
        await client.start("issue-move@1", {"member": "x" * number}, run_id=f"move-{number}")
    place = ("--server", engine.url, "--namespace", engine.namespace)
    program = start("analytics", "--db", str(tmp_path / "a.duckdb"), *place)
    knows = ("--rename", "total=amount", "--set", "discount=5")

    async def migrate(*arguments: str) -> tuple[int, str]:
        ran = start("migrate", *arguments, *place)
        return await asyncio.to_thread(ran.ended), ran.said

    async def all_known() -> bool:
        assert program.process.poll() is None, program.said
        try:
            return len((await query(client.connection, engine.names, "FROM runs")).rows) == 3
        except DressageError:
            return False

    await until(all_known, "analytics knows the runs", timeout_s=20.0)
    (checked, why), (plan_code, plan) = await asyncio.gather(
        migrate("check", "issue-move@1", "2", "--all"), migrate("plan", "issue-move@1", "2")
    )
    assert checked == 1
    assert all(f"move-{number}" in why for number in range(3))
    assert "discount" in why
    assert "event go" in plan, (plan_code, plan)
    assert (await client.get("move-0")).version == 1
    code, said = await migrate("apply", "issue-move@1", "2", "move-0", *knows)
    assert code == 0, said
    assert [(await client.get(f"move-{number}")).version for number in range(3)] == [2, 1, 1]
    code, said = await migrate("apply", "issue-move@1", "2", "--all", *knows)
    assert code == 0, said
    assert [(await client.get(f"move-{number}")).version for number in range(3)] == [2, 2, 2]
    assert await finished(client, "move-2") == "new x 2 5"
