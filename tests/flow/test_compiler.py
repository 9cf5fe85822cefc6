"""What the compiler makes of what the language has: nodes, scopes, variables, types, retries."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from textwrap import dedent
from types import ModuleType
from typing import Any

import msgspec
import pytest

from dressage.protocol.errors import DefinitionError
from dressage.protocol.spec import (
    ANY_FAILURE,
    AssignNode,
    Backoff,
    BranchNode,
    RetryOptions,
    ReturnNode,
    SleepNode,
    TaskNode,
    Variable,
    WorkflowSpec,
    effective_retry,
)
from dressage.protocol.types import Named, Scalar

Define = Callable[[str], ModuleType]

PREAMBLE = """\
from __future__ import annotations
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from dressage.flow import Exponential, Searchable, WorkflowFailure, sleep, task, workflow

class Declined(WorkflowFailure): ...
class Stolen(Declined): ...
@dataclass
class View:
    status: Searchable[str] = "NEW"
@task(retries=3, backoff=Exponential(base=timedelta(seconds=2)))
async def one(x: int) -> int: ...
@task
async def other(x: int) -> int: ...
"""


@pytest.fixture
def compiled(define: Define) -> Callable[[str], WorkflowSpec]:
    """The spec of a workflow `flow(x: int)` with this body."""

    def compile_body(body: str, options: str = "") -> WorkflowSpec:
        indented = "".join(f"    {line}\n" for line in dedent(body).strip().splitlines())
        text = f"{PREAMBLE}@workflow{options}\nasync def flow(x: int) -> int:\n{indented}"
        spec = define(text).flow.spec
        assert isinstance(spec, WorkflowSpec)
        return spec

    return compile_body


Compiled = Callable[..., WorkflowSpec]


def kinds(spec: WorkflowSpec) -> list[str]:
    return [str(node.__struct_config__.tag) for node in spec.nodes]


def test_a_spec_survives_the_wire(shop: ModuleType) -> None:
    spec = shop.process_order.spec
    again = msgspec.json.decode(spec.encode(), type=WorkflowSpec)
    assert again == spec
    assert again.digest() == spec.digest()


def test_moving_a_definition_in_its_file_changes_no_digest(define: Define) -> None:
    text = "@workflow\nasync def flow(x: int) -> int:\n    y = await one(x)\n    return y\n"
    here, there = define(PREAMBLE + text).flow.spec, define(PREAMBLE + "\n\n\n" + text).flow.spec
    assert here.nodes[0].line != there.nodes[0].line
    assert here.digest() == there.digest()
    assert define(PREAMBLE + text.replace("return y", "return x")).flow.spec.digest() != here.digest()


def test_another_program_that_writes_a_spec_again_has_the_same_digest(define: Define) -> None:
    """Defaults are kept as they were written, with the spaces that Python's `json` puts into objects and lists."""
    text = (
        '@workflow\nasync def flow(x: list[str] = ["a", "b"], y: str = "ü, ok") -> int:\n    return len(x)\n'
    )
    spec = define(PREAMBLE + text).flow.spec
    for written in (json.dumps(json.loads(spec.encode()), ensure_ascii=False, indent=2), spec.encode()):
        assert msgspec.json.decode(written, type=WorkflowSpec).digest() == spec.digest()
    assert json.loads(spec.encode())["params"][0]["default"]


def test_each_node_knows_its_line(shop: ModuleType) -> None:
    spec = shop.process_order.spec
    lines = spec.source.splitlines()
    for node in spec.nodes:
        assert lines[node.line - spec.first_line].strip()
    assert spec.module == "shop"
    assert spec.description == "Prices, reserves, charges and ships an order."


def test_a_pure_tuple_assignment_needs_no_temporaries(compiled: Compiled) -> None:
    spec = compiled("view, y = View(), await one(x)\nreturn y")
    assert kinds(spec) == ["assign", "task", "return"]


def test_a_swap_keeps_the_old_value_in_a_temporary(compiled: Compiled) -> None:
    spec = compiled("y = 1\nx, y = y, x\nreturn y")
    assert [node.target for node in spec.nodes if isinstance(node, AssignNode)] == ["y", "$1", "y", "x"]
    assert Variable("$1", Scalar("int"), temporary=True) in spec.variables


def test_inside_a_try_a_value_is_held_until_all_are_there(compiled: Compiled) -> None:
    body = """
        y = 1
        try:
            y, z = 2, await one(x)
        except Declined:
            pass
        return y
    """
    assert kinds(compiled(body)) == ["assign", "assign", "task", "assign", "return"]


def test_a_loop_without_a_condition_needs_no_branch(compiled: Compiled) -> None:
    spec = compiled("while True:\n    x = await one(x)\n    if x > 3:\n        break\nreturn x")
    assert kinds(spec) == ["task", "branch", "return"]
    branch = spec.nodes[1]
    assert isinstance(branch, BranchNode)
    assert (branch.then, branch.otherwise) == (2, 0)


def test_a_long_chain_of_elif_compiles(compiled: Compiled) -> None:
    chain = "\n".join(f"elif x == {number}:\n    x = {number}" for number in range(1, 600))
    assert kinds(compiled(f"if x == 0:\n    x = 0\n{chain}\nreturn x")).count("branch") == 600


def test_return_await_is_a_task_and_a_return(compiled: Compiled) -> None:
    spec = compiled("return await one(x)")
    assert kinds(spec) == ["task", "return"]
    assert all(variable.temporary for variable in spec.variables)


def test_a_function_without_a_value_ends_with_a_return(define: Define) -> None:
    spec = define(f"{PREAMBLE}@workflow\nasync def flow() -> None:\n    await sleep(1)\n").flow.spec
    assert [type(node) for node in spec.nodes] == [SleepNode, ReturnNode]
    assert (
        define(f"{PREAMBLE}@workflow\nasync def flow() -> None:\n    pass\n").flow.spec.nodes[0].value is None
    )


def test_except_clauses_name_what_they_catch(compiled: Compiled) -> None:
    body = """
        try:
            await one(x)
        except Stolen as error:
            raise
        except Declined:
            raise
        except WorkflowFailure:
            pass
        return x
    """
    spec = compiled(body)
    assert [(handler.names, handler.bind) for handler in spec.scopes[0].handlers] == [
        (("stolen",), "error"),
        (("declined",), "$1"),
        ((ANY_FAILURE,), None),
    ]
    assert {each.name: each.family for each in spec.failures} == {"stolen": ("declined",), "declined": ()}


def test_a_handler_is_outside_of_its_own_scope(compiled: Compiled) -> None:
    body = """
        try:
            try:
                await one(x)
            except Stolen:
                await one(1)
        except Declined:
            await one(2)
        return x
    """
    spec = compiled(body)
    assert [node.scope for node in spec.nodes if isinstance(node, TaskNode)] == [1, 0, None]
    assert spec.scopes[1].parent == 0


def test_types_of_variables_are_derived(compiled: Compiled) -> None:
    body = """
        view = View()
        total = Decimal("1.5") * x
        half = x / 2
        names = ["a", f"{x}"]
        n = 0
        while n < 3:
            n += 1
        late = timedelta(hours=n)
        maybe = None if x else "text"
        return await one(n)
    """
    types = {variable.name: variable for variable in compiled(body).variables}
    assert types["view"] == Variable("view", Named("View"), view=True)
    assert types["total"].type == Scalar("decimal")
    assert types["half"].type == Scalar("float")
    assert types["n"].type == Scalar("int")
    assert types["late"].type == Scalar("timedelta")
    assert msgspec.to_builtins(types["names"].type) == {
        "kind": "list",
        "item": {"kind": "scalar", "name": "str"},
    }


# -- retries ---------------------------------------------------------------------------------------
def test_retry_options_are_looked_up_apart_call_first(compiled: Compiled) -> None:
    body = """
        await one.options(retries=7)(x)
        await one(x)
        await other(x)
        await other.options(backoff=Exponential(base=timedelta(seconds=5)))(x)
        return x
    """
    spec = compiled(body, "(retries=1)")
    first, second, third, fourth = (
        effective_retry(spec, node) for node in spec.nodes if isinstance(node, TaskNode)
    )
    assert (first.retries, first.base_s) == (7, 2.0)
    assert (second.retries, second.base_s) == (3, 2.0)
    assert (third.retries, third.base_s) == (1, Backoff().base_s)
    assert (fourth.retries, fourth.base_s) == (1, 5.0)


def test_without_a_word_there_is_no_retry(compiled: Compiled) -> None:
    spec = compiled("await other(x)\nreturn x")
    node = spec.nodes[0]
    assert isinstance(node, TaskNode)
    assert node.retry is None
    assert effective_retry(spec, node).retries == 0


def test_options_of_a_module_level_task_belong_to_its_calls(define: Define) -> None:
    text = f"{PREAMBLE}patient = one.options(retries=9)\n@workflow\nasync def flow(x: int) -> int:\n"
    spec = define(text + "    return await patient(x)\n").flow.spec
    assert spec.nodes[0].retry == RetryOptions(retries=9)


# -- constants -------------------------------------------------------------------------------------
def test_constants_are_frozen_by_value(define: Define, interpret: Callable[..., Any]) -> None:
    text = dedent("""
        import math
        LIMITS = {"a": [1, 2]}
        START = View("STARTED")
        @workflow
        async def flow() -> str:
            return f"{LIMITS['a'][1]} {START.status} {math.pi:.2f}"
    """)
    module = define(PREAMBLE + text)
    module.LIMITS["a"][1] = 99
    assert interpret(module.flow.spec, {}, {}).result == "2 STARTED 3.14"


def test_closures_are_constants(define: Define, interpret: Callable[..., Any]) -> None:
    text = dedent("""
        def made(limit: int):
            @workflow(name=f"flow-{limit}")
            async def flow() -> int:
                return limit
            return flow
        three, four = made(3), made(4)
    """)
    module = define(PREAMBLE + text)
    assert interpret(module.three.spec, {}, {}).result == 3
    assert interpret(module.four.spec, {}, {}).result == 4
    assert module.four.name == "flow-4"


def test_a_variable_around_without_a_value_yet_is_not_a_global_of_that_name(define: Define) -> None:
    text = dedent("""
        limit = 1
        def made():
            @workflow
            async def flow() -> int:
                return limit
            limit = 2
            return flow
        made()
    """)
    with pytest.raises(DefinitionError, match="name limit is not known"):
        define(PREAMBLE + text)


# -- speed -----------------------------------------------------------------------------------------
def test_five_hundred_nodes_compile_quickly(define: Define) -> None:
    lines: list[str] = []
    for number in range(100):
        lines += [
            f"    if x > {number}:",
            f"        y = x + {number} * 2",
            "        y = await one(x + y)",
            "    try:",
            f"        x = await other({number})",
            "    except Declined as error:",
            "        s = f'{error.message} {x}'",
        ]
    text = f"{PREAMBLE}@workflow\nasync def flow(x: int) -> int:\n" + "\n".join(lines) + "\n    return x\n"
    best, nodes = 1.0, 0
    for _ in range(3):
        start = time.perf_counter()
        nodes = len(define(text).flow.spec.nodes)
        best = min(best, time.perf_counter() - start)
    assert nodes >= 500
    # 200 ms is the aim on an idle machine; tests run beside others.
    assert best < 0.6
    print(f"compiled {nodes} nodes in {best * 1000:.0f} ms")


def test_a_type_that_grows_leaves_the_others_known(compiled: Compiled) -> None:
    body = """
        tower, total, view = [x], 0, View()
        while total < 3:
            tower = [tower]
            total += 1
        return total
    """
    types = {variable.name: variable.type for variable in compiled(body).variables}
    assert types["tower"] is None
    assert types["total"] == Scalar("int")
    assert types["view"] == Named("View")
