"""The workflows of `dressage bench --language`: each goes round as often as it is told, and one is very long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from dressage.flow import App, Searchable, Workflow, WorkflowFailure, gather, sleep, workflow

app = App("bench-language")


class Declined(WorkflowFailure): ...


@dataclass
class View:
    status: Searchable[str] = "NEW"
    count: int = 0


@app.task(retries=3)
async def step(n: int) -> int:
    return n


@workflow(name="bench-while")
async def with_while(rounds: int) -> int:
    view, n, a = View(), 0, 0
    while n < rounds:
        n += 1
        a = (await step(n) + a) % 10
        view.status = "HIGH" if a > 5 else "LOW"
    return a


@workflow(name="bench-for")
async def with_for(rounds: int) -> int:
    a = 0
    for n in range(rounds):
        for place, name in enumerate(["x", "y"]):
            try:
                a = await step(n + place)
            except Declined as failure:
                a = len(f"{name}: {failure}")
            finally:
                a = a % 10
    return a


@workflow(name="bench-gather")
async def with_gather(rounds: int) -> int:
    async def part(x: int) -> int:
        y = await step(x)
        return y + await step(y)

    a, b = 0, 0
    for n in range(rounds):
        a, b, _ = await gather(step(n), part(b % 10), sleep(1))
    return a + b


@workflow(name="bench-functions")
async def with_functions(rounds: int) -> int:
    async def checked(x: int) -> int:
        for each in (1, 2, 3):
            if each == 2:
                return await step(x)
            x += await step(each)
        return x

    a = 0
    for n in range(rounds):
        match await checked(n % 10):
            case 7:
                a = 1
            case more:
                a = more % 10
    return a


CONSTRUCTS: Final[dict[str, Workflow[..., Any]]] = {
    "while, view": with_while,
    "for in for, try": with_for,
    "gather": with_gather,
    "functions, match": with_functions,
}

_HEAD: Final = """\
from dressage.cli.bench.constructs import Declined, View, step
from dressage.flow import workflow

@workflow(name="{name}")
async def flow(rounds: int) -> int:
    view, a, b = View(), 0, 0
"""

_BLOCK: Final = """\
    a = await step({number})
    view.status = f"{{a:>4}}"
    if a + {number} > b:
        try:
            b = await step(a)
        except Declined:
            b = {number}
    else:
        view.count += 1
        b = max(a, {number}) * 2
"""


def long_workflow(name: str, blocks: int) -> str:
    """The text of a module with one workflow of so many blocks, one behind the other."""
    written = [_HEAD.format(name=name)]
    written += [_BLOCK.format(number=number) for number in range(blocks)]
    return "".join([*written, "    return a + b\n"])
