"""What the language cannot say is refused: at its line, with a caret under its column, and with advice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent, indent
from types import ModuleType
from typing import NamedTuple

import pytest

from dressage.protocol.errors import DefinitionError

PREAMBLE = """\
from __future__ import annotations
import asyncio
import functools
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from dressage.flow import App, Event, Exponential, Saga, Searchable, TaskError, UserTask, WorkflowFailure, gather
from dressage.flow import first_completed, first_successful, inherited, interruptible, publish
from dressage.flow import sleep, sleep_until, task, wait_until, workflow

class Declined(WorkflowFailure): ...
class Stolen(Declined): ...
class Other(WorkflowFailure): ...
class Costly(WorkflowFailure):
    cost: Decimal
    item: str = ""
class Wild(WorkflowFailure):
    task: App
class Odd(WorkflowFailure):
    def __init__(self, code: int) -> None: ...

came = Event("came", of=str)
other_came = Event("came", of=int)

class Color(Enum):
    RED = "red"

@dataclass
class Item:
    sku: str
    count: int = 1
    @property
    def label(self) -> str: return self.sku

@dataclass
class Base:
    sku: str

@dataclass
class Derived(Base):
    size: int = 1

ask = UserTask("ask", form=Base)
other_ask = UserTask("ask", form=Derived)

@dataclass
class Checked:
    sku: str
    def __post_init__(self) -> None: ...

@dataclass(frozen=True)
class Frozen:
    sku: str = ""

@dataclass
class View:
    status: Searchable[str] = "NEW"
    items: list[int] = field(default_factory=list)

@dataclass
class OtherView:
    status: Searchable[str] = "NEW"

LIMITS = {"a": 1}
class Settings:
    LIMIT = 3

@task(concurrency=2)
async def few(x: int) -> int: ...

@task
async def one(x: int) -> int: ...
@task
async def text(x: int, y: str = "") -> str: ...
@task
async def pair() -> tuple[int, int]: ...
@task
async def listed() -> list[int]: ...
@task
async def anything() -> Any: ...
def plain(x: int) -> int: return x
def several(x: int) -> int:
    y = x + 1
    return y
shorter = lambda x: x
@plain
def clad(x: int) -> int: return x
@functools.wraps(plain)
def wrapping(x: int) -> int: return x + 1
wrapped = wrapping
def dress(f: Any) -> Any: return f
async def again(x: int) -> None: await again(x - 1)
@dress
async def dressed(x: int) -> None: await one(x)
@workflow
async def part(x: int) -> int: return x
@workflow
async def wider(x: int, y: int) -> int: return x
@workflow
async def heir(x: int, tenant: str = inherited()) -> int: return x
PARTS = {"a": part, "b": part}
UNEQUAL = {"a": part, "b": wider}
MIXED = {"a": part, "b": again}
LISTED = [part, part]
ODD = {object(): part}

"""

MARK = "‸"
"""Stands before the place under which the caret must be."""


FALLS_OFF = "ends without a value"
SAYS_PYTHON = ("nonlocal", "yield")
"""What Python itself may refuse before anybody else sees it."""


class Case(NamedTuple):
    body: str
    what: str
    advice: str


CASES = {
    # -- statements --------------------------------------------------------------------------------
    "for reversed enumerate": Case(
        "for i in ‸reversed(enumerate(items)): pass",
        "'enumerate' object is not reversible",
        "reverse the list itself",
    ),
    "for enumerate of nothing right": Case(
        "for i, y in ‸enumerate(items, first=1): pass",
        "enumerate() takes an iterable and a start",
        "write `enumerate(items, start=1)`",
    ),
    "for zip with a computed strict": Case(
        "for i, y in ‸zip(items, items, strict=x > 1): pass",
        "zip() takes iterables and a fixed `strict`",
        "write `strict=True` or `strict=False`",
    ),
    "for into an item": Case(
        "for ‸items[0] in items: pass",
        "lists and dicts are values: an item cannot be assigned",
        "write `settings = settings | {key: value}`, or let a task return the changed list",
    ),
    "for over a set": Case(
        "y = {1, 2}\nfor i in ‸y: pass",
        "a set has no order that a run could know",
        "write `sorted(...)` around the set",
    ),
    "for target without a value": Case(
        "for y in items: pass\nreturn ‸y",
        "y may have no value here",
        "assign y on every way that leads here, also where a failure is caught",
    ),
    "async for": Case("‸async for i in items: pass", "no durable meaning", "return them as a list"),
    "with": Case("‸with items: pass", "no durable meaning", "acquire and release"),
    "async with": Case("‸async with items: pass", "no durable meaning", "acquire and release"),
    "match of a base class": Case(
        "match order:\n    case ‸Base(): pass", "Base has subclasses", "compare a field"
    ),
    "match of no class": Case(
        "match order:\n    case ‸plain(): pass", "plain is no class", "name a dataclass"
    ),
    "match by place": Case(
        "match order:\n    case ‸Item(1, 2, 3): pass", "takes 2 patterns by place", "by name"
    ),
    "match of a view": Case(
        "view = View()\nview.status = 'A'\nmatch x:\n    case ‸view: pass",
        "view cannot be captured",
        "another name",
    ),
    "nested def": Case(
        "‸def f() -> None: pass",
        "f() is not async, and more than one `return` of a value",
        "write it as one expression, or as `async def` and await it",
    ),
    "nested def with statements": Case(
        "‸def f(a: int) -> int:\n    b = a + 1\n    return b",
        "f() is not async, and more than one `return` of a value",
        "what talks to others is a task",
    ),
    "nested def before its definition": Case(
        "y = ‸f(1)\ndef f(a: int) -> int: return a", "f() is not defined so far", "define it above"
    ),
    "nested def on some ways": Case(
        "if x:\n    ‸def f() -> int: return 1\ny = f()",
        "a function is defined here on some ways only",
        "define it at the top of the workflow",
    ),
    "nested def awaited": Case(
        "def f(a: int) -> int: return a\nawait ‸f(1)", "f() is not async", "call it without await"
    ),
    "nested def as value": Case(
        "def f(a: int) -> int: return a\ny = ‸f", "function f is no value", "call it: `f(...)`"
    ),
    "nested def that sets": Case(
        "def f(a: int) -> int: return (‸b := a)\ny = f(1)",
        "a variable cannot be set inside",
        "in a statement of its own",
    ),
    "nested def that recurs": Case(
        "def f(a: int) -> int: return ‸f(a - 1) if a else 0\ny = f(1)",
        "f() calls itself: how often is not known",
        "write a loop",
    ),
    "nested def with a moving default": Case(
        "def f(a: int = ‸x) -> int: return a\ny = f()",
        "a default is computed once, when Python defines the function",
        "write a constant, or pass the value",
    ),
    "nested def with a parameter by place": Case(
        "def f(a: int, /) -> int: return a\ny = f(‸a=1)", "f() takes a by place", "leave its name out"
    ),
    "nested def hidden by a comprehension": Case(
        "def f(a: int) -> int: return a + x\ny = [‸f(1) for x in items]",
        "f() reads x, which is another variable in this comprehension",
        "give the comprehension's variable another name",
    ),
    "lambda with a name": Case("y = ‸shorter(x)", "shorter is a lambda", "define it by name"),
    "plain function with a decorator": Case("y = ‸clad(x)", "clad() has a decorator", "call it without one"),
    "plain function that is wrapped": Case(
        "y = ‸wrapped(x)", "wrapped() has a decorator", "call it without one"
    ),
    "nested function on some ways": Case(
        "if x:\n    ‸async def f() -> None: pass",
        "a function is defined here on some ways only",
        "define it at the top of the workflow",
    ),
    "nested function with a decorator": Case(
        "@‸plain\nasync def f() -> None: pass",
        "a nested function has no decorator",
        "define a task at module level",
    ),
    "nested function as value": Case(
        "async def f() -> int: return 1\ny = ‸f", "function f is no value", "call it: `await f(...)`"
    ),
    "nested function without await": Case(
        "async def f() -> int: return 1\ny = ‸f()",
        "f() is called inside an expression",
        "await it in a statement of its own: `result = await f(...)`",
    ),
    "nested function before its definition": Case(
        "await ‸f()\nasync def f() -> None: pass", "f() is not defined so far", "define it above"
    ),
    "recursion": Case(
        "async def f() -> None: await ‸f()\nawait f()",
        "f() calls itself: how often is not known",
        "write a loop",
    ),
    "recursion by turns": Case(
        "async def f() -> None: await g()\nasync def g() -> None: await ‸f()\nawait f()",
        "f() calls itself: how often is not known",
        "write a loop",
    ),
    "recursion of a module's function": Case(
        "await again(x)", "again() calls itself: how often is not known", "write a loop"
    ),
    "function with a decorator": Case(
        "await ‸dressed(x)", "dressed() has a decorator, which no run would call", "call it without one"
    ),
    "function with star parameters": Case(
        "async def f(*a: int) -> None: await one(1)\nawait f(x)",
        "a function with * parameters cannot be called by a workflow",
        "name every parameter",
    ),
    "function with a computed default": Case(
        "async def f(a: int = ‸x) -> None: await one(a)\nawait f()",
        "a default is computed once, when Python defines the function",
        "write a constant, or pass the value",
    ),
    "function that misses an argument": Case(
        "async def f(a: int) -> None: await one(a)\nawait ‸f()", "f() misses a", "it is f(a)"
    ),
    "nonlocal in a function": Case(
        "y = 1\nasync def f() -> None:\n    ‸nonlocal y\n    y = 2\nawait f()",
        "a run has no variables around it",
        "take the value as a parameter",
    ),
    "outer variable assigned": Case(
        "async def f() -> None:\n    x = ‸x + 1\nawait f()",
        "x may have no value here",
        "assign x on every way that leads here, also where a failure is caught",
    ),
    "view of a function": Case(
        "async def f() -> None:\n    ‸view = View()\n    view.status = 'A'\nawait f()",
        "f() makes a View whose fields change or can be searched: only the workflow itself makes the run's view",
        "where nested functions can set its fields",
    ),
    "assigned function": Case(
        "async def f() -> None: await one(1)\n‸f = 1", "f is also a function", "use another name"
    ),
    "async generator": Case(
        "async def f() -> Any:\n    ‸yield 1\nawait f()",
        "Yield is not part of the expression language",
        "a workflow gives back one value: use `return`",
    ),
    "class": Case("‸class A: pass", "inside a workflow", "at module level"),
    "del": Case("‸del x", "del is not part", "assign None"),
    "global": Case("‸global y", "no global variables", "as a parameter"),
    "nonlocal": Case("‸nonlocal y", "", ""),
    "import": Case("‸import os", "nothing is imported", "at module level"),
    "from import": Case("‸from os import path", "nothing is imported", "at module level"),
    "assert": Case("‸assert x", "vanish under -O", "raise SomeFailure"),
    "except* of a group": Case(
        "try: await gather(one(x))\nexcept* ‸ExceptionGroup: pass",
        "takes what is in a group",
        "write `except`",
    ),
    "raise in except*": Case(
        "try: await gather(one(x))\nexcept* Declined:\n    ‸raise",
        "joins what it took",
        "a failure of your own",
    ),
    "return in finally": Case(
        "try: await one(x)\nfinally:\n    ‸return 1",
        "`return` in `finally` would lose the failure that passes through",
        "leave from the try body, an except clause, or after the whole",
    ),
    "break in finally": Case(
        "while x:\n    try: await one(x)\n    finally:\n        ‸break",
        "`break` in `finally` would lose the failure that passes through",
        "leave from the try body, an except clause, or after the whole",
    ),
    "continue in finally": Case(
        "while x:\n    try: await one(x)\n    finally:\n        ‸continue",
        "`continue` in `finally` would lose the failure that passes through",
        "leave from the try body, an except clause, or after the whole",
    ),
    "after a finally that raises": Case(
        "try: await one(x)\nfinally: raise Other\n‸x = 1", "control never gets here", "remove what cannot run"
    ),
    "else never reached": Case(
        "try: return 1\nexcept Declined: pass\nelse:\n    ‸x = 1",
        "control never gets here",
        "remove what cannot run",
    ),
    "after an endless loop's else": Case(
        "while True: await sleep(1)\nelse:\n    ‸x = 1", "control never gets here", "remove what cannot run"
    ),
    "no effect": Case("‸x + 1", "no effect", "assign its value"),
    "ellipsis": Case("‸...", "no effect", "remove it"),
    "after return": Case("return 1\n‸x = 2", "control never gets here", "remove"),
    "after endless loop": Case(
        "while True:\n    await sleep(1)\n‸x = 2", "control never gets here", "remove"
    ),
    "after break": Case("while x:\n    break\n    ‸x = 2", "control never gets here", "remove"),
    "falls off": Case("if x:\n    return 1\n‸await one(x)", FALLS_OFF, "return a value"),
    "bare return": Case("‸return", "returns nothing", "declared type"),
    "idle loop": Case("‸while True:\n    pass", "does nothing, for ever", "sleep in the loop"),
    "idle inner loop": Case(
        "while True:\n    if x == 1:\n        continue\n    ‸while True: pass",
        "does nothing, for ever",
        "sleep",
    ),
    # -- tasks and calls ---------------------------------------------------------------------------
    "no await": Case("‸one(x)", "task one is called inside an expression", "await one(...)"),
    "task as value": Case("y = ‸one", "task one is no value", "await one(...)"),
    "task in expression": Case("y = 1 + ‸one(x)", "called inside an expression", "await one(...)"),
    "await in a comprehension": Case(
        "y = [‸await one(i) for i in items]", "Await is not part", "result = await task"
    ),
    "await in a chain": Case(
        "y = ‸0 < x < await one(x)", "Python may leave this await out", "result = await task"
    ),
    "await in a branch": Case(
        "await gather(‸one(x), one(await one(x)))", "called inside an expression", "result = await one"
    ),
    "saga without a name": Case("‸async with Saga(): pass", "a Saga needs a name", "as saga"),
    "saga with something": Case("‸async with Saga(1) as saga: pass", "but for a Saga", "acquire and release"),
    "undo of no task": Case(
        "async with Saga() as saga:\n    saga.undo(‸plain, x)", "plain is no task", "undone by a task"
    ),
    "undo of nothing": Case(
        "async with Saga() as saga:\n    ‸saga.undo()", "takes a task", "saga.undo(cancel"
    ),
    "undo with a wrong argument": Case(
        "async with Saga() as saga:\n    saga.undo(one, ‸y=x)", "has no parameter y", "it is one(x)"
    ),
    "await of a name": Case("await ‸x", "only a call can be awaited", "await task(...)"),
    "await of a plain function": Case("await ‸plain(x)", "plain() is not async", "without await"),
    "await of a variable": Case("await ‸x(1)", "x is a variable", "outside of the workflow"),
    "asyncio.sleep": Case("await ‸asyncio.sleep(1)", "would not be durable", "dressage.flow.sleep"),
    "asyncio.gather": Case(
        "await ‸asyncio.gather(one(1), one(2))",
        "asyncio.gather() would leave branches behind when one fails",
        "use `dressage.flow.gather`",
    ),
    "gather of awaited": Case(
        "await gather(‸await one(1), one(2))",
        "a branch is a call that is not awaited yet",
        "write `gather(ship(order), ...)`",
    ),
    "gather of a value": Case(
        "await gather(one(1), ‸x)",
        "a branch is a call that is not awaited yet",
        "write `gather(ship(order), ...)`",
    ),
    "gather of a plain function": Case(
        "await gather(one(1), ‸plain(2))",
        "plain() cannot be a branch",
        "write a task, a sleep, a wait, a user task, publish(), a workflow, or an async function that awaits the rest",
    ),
    "child in an expression": Case(
        "y = 1 + len([‸part(x)])",
        "part() is called inside an expression",
        "await it in a statement of its own",
    ),
    "choice as a value": Case(
        "y = ‸PARTS['a']", "PARTS holds what can be called, and is no value", "await PARTS[key](...)"
    ),
    "choices as a value": Case(
        "for key in ‸PARTS: pass", "PARTS holds what can be called, and is no value", "ask `key in PARTS`"
    ),
    "choice by a method": Case("await ‸PARTS.get('a')(x)", "this calls none of it", "await PARTS[key](...)"),
    "choice in an expression": Case(
        "y = ‸PARTS['a'](x)", "PARTS['a']() is called inside an expression", "in a statement of its own"
    ),
    "choice of a list": Case("await ‸LISTED[0](x)", "LISTED is a list", "at module level"),
    "choice of a function": Case(
        "await ‸MIXED['a'](x)", "MIXED['b'] is neither a workflow nor a task", "or write `match`"
    ),
    "choice of what takes something else": Case(
        "await ‸UNEQUAL['a'](x)", "wider() misses y", "it is wider(x, y)"
    ),
    "choice by no constant": Case("await ‸ODD['a'](x)", "ODD: a object is no constant", "to a task instead"),
    "choice that is not named": Case(
        "await ‸{'a': part}['a'](x)", "calls is not known here", "name a dict of workflows or tasks"
    ),
    "choice without a dict": Case(
        "await ‸(part if x else one)(x)", "calls is not known here", "name a dict of workflows or tasks"
    ),
    "choice of a handler": Case(
        "await interruptible(one(x), came.interrupts(‸PARTS['a']))",
        "a handler is an async function or a task, by its name",
        "async def handler",
    ),
    "choice behind what is awaited": Case(
        "await gather(‸PARTS['a'](x), one(await one(2)))",
        "PARTS['a']() is called inside an expression",
        "in a statement of its own",
    ),
    "child without an argument": Case("await ‸part()", "part() misses x", "it is part(x)"),
    "child that inherits nothing": Case(
        "await ‸heir(x)", "heir() inherits tenant, which is no variable", "give it: `tenant=...`"
    ),
    "event that is no wait": Case(
        "await ‸came.faked(1)", "an event cannot do faked() here", "write `came.wait()`"
    ),
    "user task that is not assigned": Case(
        "await ‸ask.faked(1)", "a user task cannot do faked() here", 'write `ask.assign(group="billing")`'
    ),
    "user task for nobody": Case(
        "await ‸ask.assign(notes='?')", "a user task is for somebody", "write `assign(group="
    ),
    "user task for None": Case(
        "await ‸ask.assign(user=None)", "a user task is for somebody", "write `assign(group="
    ),
    "user by place": Case(
        "await ask.assign(‸'ann')", "what it takes by name", "there are user, group, notes"
    ),
    "unknown option of a user task": Case(
        "await ask.assign(user='ann', ‸colour=1)", "what it takes by name", "there are user, group, notes"
    ),
    "user of another type": Case(
        "‸await ask.assign(user=x)", "user of a user task is a str, and not int", "f"
    ),
    "reminder of another type": Case(
        "‸await ask.assign(user='ann', remind='1 day')",
        "remind of a user task is a duration",
        "timedelta(days=2)",
    ),
    "due of another type": Case(
        "‸await ask.assign(user='ann', due='soon')", "due of a user task is a duration", "or a datetime"
    ),
    "escalation to nobody": Case(
        "await ‸ask.assign(user='ann', escalate_after=5)", "escalates goes to a group", "escalate_to"
    ),
    "escalation at no time": Case(
        "await ‸ask.assign(user='ann', escalate_to='leads')", "nothing says when", "add `escalate_after="
    ),
    "two user tasks of one name": Case(
        "await ask.assign(user='ann')\nawait ‸other_ask.assign(user='ann')",
        "two user tasks are named ask",
        "another name",
    ),
    "user task that is not awaited": Case("ask.‸assign(user='ann')", "assign() is not part", "await it"),
    "await of a user task": Case("await ‸ask", "only a call can be awaited", "write `await ask.assign("),
    "user task as a branch without a call": Case(
        "await gather(‸ask, ask.assign(user='ann'))", "a branch is a call", "write `gather(ask.assign("
    ),
    "user task as a value": Case("y = ‸ask", "user task ask is no value", "give it to somebody"),
    "timeout by place": Case("await came.wait(‸5)", "a key and a timeout by name", "write `wait(timeout="),
    "key behind the timeout": Case(
        "await ‸came.wait(timeout=5, key='k')", "the key comes first", "write `wait(key=..., timeout=...)`"
    ),
    "key of another type": Case("‸await came.wait(key=x)", "a correlation key is a str", "f-string"),
    "timeout of another type": Case(
        "‸await came.wait(timeout='5')", "a timeout is a timedelta or seconds", "timeout=timedelta(hours=1)"
    ),
    "timeout where nothing waits": Case(
        "try: await one(x)\n‸except TimeoutError: pass", "no failure gets to", "remove it"
    ),
    "timeout where nothing is given": Case(
        "try: await came.wait()\n‸except TimeoutError: pass", "no failure gets to", "remove it"
    ),
    "two events of one name": Case(
        "await came.wait()\nawait ‸other_came.wait()", "two events are named came", "another name"
    ),
    "await of an event": Case("await ‸came", "only a call can be awaited", "write `await came.wait()`"),
    "event as a branch": Case(
        "await first_completed(‸came, sleep(1))",
        "a branch is a call that is not awaited yet",
        "write `first_completed(came.wait(), ...)`",
    ),
    "wait that is not awaited": Case(
        "y = came.‸wait()", "method wait() is not part of the language", "await it: `await event.wait()`"
    ),
    "event as a value": Case("y = ‸came", "event came is no value", "await it: `await came.wait()`"),
    "gather of a list and more": Case(
        "await gather(‸*[one(i) for i in items], one(1))",
        "what the branches are must be seen here",
        "write `gather(*(ship(order) for order in orders))` and nothing else, or the branches one by one",
    ),
    "gather of a list's values": Case(
        "await gather(*[‸i for i in items])",
        "a branch is a call that is not awaited yet",
        "write `gather(ship(order), ...)`",
    ),
    "gather of a list that awaits": Case(
        "await gather(*(one(‸await one(i)) for i in items))",
        "the branches of a gather begin together, behind all that is awaited",
        "await it in a statement before, or in an async function that is the branch",
    ),
    "limit of a few": Case(
        "await gather(one(1), one(2), ‸limit=2)",
        "a limit is for branches whose number is not known here",
        "write `gather(ship(order), bill(order))`",
    ),
    "a limit that may fail beside arguments that may": Case(
        "await gather(*(one(1 // i) for i in items), limit=‸10 // x)",
        "computes this limit before the branches' arguments",
        "`limit = 10 // x`",
    ),
    "limit that lets none run": Case(
        "await gather(*(one(i) for i in items), limit=‸0)",
        "a limit is a number of branches, and not 0",
        "write 1 or more",
    ),
    "limit below none": Case(
        "await gather(*(one(i) for i in items), limit=‸-2)",
        "a limit is a number of branches, and not -2",
        "write 1 or more",
    ),
    "limit of text": Case(
        "await gather(*(one(i) for i in items), limit=‸'3')",
        "a limit is a number of branches, and not '3'",
        "write 1 or more",
    ),
    "race with a limit": Case(
        "await first_completed(*(one(i) for i in items), ‸limit=2)",
        "first_completed() takes branches only",
        "write `first_completed(ship(order), bill(order))`",
    ),
    "gather with options": Case(
        "await gather(one(1), ‸return_exceptions=True)",
        "gather() takes branches only",
        "write `gather(ship(order), bill(order))`",
    ),
    "gather without await": Case(
        "y = ‸gather(one(1))",
        "gather() is called inside an expression",
        "await it in a statement of its own: `result = await gather(...)`",
    ),
    "gather of a gather": Case(
        "await gather(‸gather(one(1)), one(2))",
        "a gather is no branch by itself",
        "await it in an async function, and make that a branch",
    ),
    "race of nobody": Case(
        "await ‸first_completed()", "nobody would ever win this race", "write `first_completed(ship(order),"
    ),
    "race with options": Case(
        "await first_successful(one(1), ‸first=2)",
        "first_successful() takes branches only",
        "write `first_successful(ship(order), bill(order))`",
    ),
    "interruptible without interrupts": Case(
        "await ‸interruptible(one(1))",
        "interruptible() takes a body, and what interrupts it, one by one",
        "write `interruptible(ship(order), order_cancelled.interrupts(give_up))`",
    ),
    "what cannot interrupt": Case(
        "await interruptible(one(1), ‸came.wait())",
        "what interrupts is an event with its handler, seen here",
        "write `interruptible(ship(order), order_cancelled.interrupts(give_up))`",
    ),
    "interrupts without a handler": Case(
        "await interruptible(one(1), ‸came.interrupts())",
        "interrupts() takes a handler, and a key by name",
        "write `came.interrupts(handler)`, or `came.interrupts(handler, key=order.number)`",
    ),
    "an event that interrupts twice": Case(
        "await interruptible(one(1), came.interrupts(one), ‸came.interrupts(one))",
        "event came interrupts twice",
        "let one handler do what both of them do",
    ),
    "a lambda that interrupts": Case(
        "await interruptible(one(1), came.interrupts(‸lambda n: one(n)))",
        "a handler is an async function or a task, by its name",
        "write `async def handler(...)` above, and `came.interrupts(handler)` here",
    ),
    "interrupts by itself": Case(
        "await ‸came.interrupts(one)",
        "an event cannot do interrupts() here",
        "write `came.wait()`, or give this to `interruptible()`",
    ),
    "gather of an interruptible": Case(
        "await gather(‸interruptible(one(1), came.interrupts(one)), one(3))",
        "interruptible() is no branch by itself",
        "await it in an async function, and make that a branch",
    ),
    "gather of a race": Case(
        "await gather(‸first_completed(one(1), one(2)), one(3))",
        "a race is no branch by itself",
        "await it in an async function, and make that a branch",
    ),
    "asyncio.wait": Case(
        "await ‸asyncio.wait([one(1), one(2)])",
        "asyncio.wait() would not be durable",
        "use `first_completed`",
    ),
    "asyncio.wait_for": Case(
        "await ‸asyncio.wait_for(one(1), 5)",
        "asyncio.wait_for() would not be durable",
        "use `first_completed`",
    ),
    "itself": Case(
        "await ‸flow(x, items)",
        "flow() is this workflow itself: how often it would run is not known",
        "write a loop, or put what is repeated into a workflow of its own, above this one",
    ),
    "itself as a branch": Case(
        "await gather(‸flow(x, items), one(1))", "flow() is this workflow itself", "write a loop"
    ),
    "one that comes later": Case("await ‸flaw(x)", "flaw is not known", "define it above"),
    "start without await": Case(
        "‸part.start(x)", "part.start() is called without await", "`await part.start(...)`"
    ),
    "start with options without await": Case(
        "part.options(run_id='a').‸start(x)",
        "method start() is not part of the language",
        "`run_id = await child.start(...)`",
    ),
    "options without await": Case(
        "‸one.options(timeout=timedelta(hours=1))(x)",
        "one.options(timeout=timedelta(hours=1))() is called without await",
        "await one.options",
    ),
    "sleep result": Case("y = ‸await sleep(1)", "sleep() has no result", "as a statement"),
    "sleep of nothing": Case("await ‸sleep()", "takes one duration", "timedelta(hours=1)"),
    "sleep of a text": Case('‸await sleep("1h")', "timedelta or seconds", "timedelta(hours=1)"),
    "publish without await": Case(
        "‸publish('a.b', x)", "publish() is called inside an expression", "`await publish(...)`"
    ),
    "publish result": Case("y = ‸await publish('a.b', x)", "publish() has no result", "as a statement"),
    "publish nothing": Case("await ‸publish('a.b')", "publish() misses data", "it is publish(subject, data)"),
    "publish to a wildcard": Case(
        "await publish(‸'orders.*', x)",
        "subject 'orders.*' is not valid",
        "write one such as `orders.accepted`",
    ),
    "publish to the engine": Case(
        "await publish(‸'dressage.sim.events', x)",
        "subject 'dressage.sim.events' is none of yours",
        "write one such as `orders.accepted`",
    ),
    "wait at no key": Case(
        "await came.wait(key=‸'')",
        "correlation key '' is not valid",
        "write what names the thing, such as `order.number`",
    ),
    "publish with more": Case(
        "await publish('a.b', x, ‸key=1)", "publish() has no parameter key", "publish(subject, data)"
    ),
    "publish data first": Case(
        "await ‸publish(data=x, subject='a.b')", "the subject is looked at before the data", "write it first"
    ),
    "publish on a number": Case(
        "‸await publish(x, order)", "publish() takes a subject of type str", "write it as an f-string"
    ),
    "sleep_until result": Case("y = ‸await sleep_until(lambda: x)", "has no result", "as a statement"),
    "sleep_until two": Case("await ‸sleep_until(x, x)", "takes one moment", "sleep_until(order.due)"),
    "sleep_until a duration": Case(
        "‸await sleep_until(timedelta(hours=1))", "sleep_until() takes a datetime", "write `sleep(...)`"
    ),
    "moment with a parameter": Case(
        "await sleep_until(‸lambda now: now)", "a lambda without parameters", "sleep_until(lambda: view.due)"
    ),
    "condition result": Case("y = ‸await wait_until(lambda: x > 1)", "has no result", "as a statement"),
    "no condition": Case("await ‸wait_until(timeout=5)", "takes one condition", "wait_until(lambda: ..."),
    "timeout of a condition by place": Case(
        "await wait_until(lambda: x > 1, ‸5)",
        "takes one condition, and a timeout by name",
        "timeout=timedelta",
    ),
    "condition that is computed": Case(
        "await wait_until(‸x > 1)", "this is computed once", "write `wait_until(lambda: x > 1)`"
    ),
    "condition by name": Case(
        "def f() -> bool: return x > 1\nawait wait_until(‸f)", "is computed once", "wait_until(lambda: f())"
    ),
    "condition with a parameter": Case(
        "await wait_until(‸lambda y=x: y > 1)", "a lambda without parameters", "wait_until(lambda: view"
    ),
    "condition that sets": Case(
        "await wait_until(lambda: (‸y := x) > 1)", "cannot be set inside", "a statement of its own"
    ),
    "condition that calls a task": Case(
        "await wait_until(lambda: ‸one(x))", "called inside an expression", "await it in a statement"
    ),
    "condition over an item": Case(
        "await gather(*(wait_until(‸lambda: x > i) for i in items))",
        "Python looks at i when the comprehension is over",
        "write an async function that takes i",
    ),
    "timeout of a condition": Case(
        "‸await wait_until(lambda: x > 1, timeout='5')", "a timeout is a timedelta", "timedelta(hours=1)"
    ),
    "wait_until without await": Case(
        "y = ‸wait_until(lambda: x > 1)", "called inside an expression", "await it in a statement"
    ),
    "no timeout to be caught": Case(
        "try: await wait_until(lambda: x)\n‸except TimeoutError: pass", "no failure gets to", "remove it"
    ),
    "missing argument": Case("await ‸text()", "text() misses x", "text(x, y)"),
    "unknown argument": Case("await text(1, ‸z=2)", "no parameter z", "text(x, y)"),
    "too many arguments": Case('await text(1, "", ‸3)', "takes 2 arguments by place", "text(x, y)"),
    "twice": Case("await text(1, ‸x=2)", "gets x twice", "once"),
    "starred": Case("await text(‸*items)", "hides what is passed", "one by one"),
    "double starred": Case("await text(**‸LIMITS)", "hides what is passed", "by name"),
    "unknown option": Case("await one.options(‸tries=1)(x)", "no option tries", "the options are retries"),
    "option of another type": Case(
        "await ‸one.options(timeout=1)(x)", "timeout is a timedelta", "Task.options"
    ),
    "business failure as an error": Case(
        "await ‸one.options(not_retried=(Declined,))(x)", "is a business failure", "Task.options"
    ),
    "key of a task without a limit": Case(
        "await ‸one.options(key='a')(x)", "has no limit, of which key could say anything", "Task.options"
    ),
    "priority of a task without a limit": Case(
        "await ‸one.options(priority=x)(x)", "has no limit, of which priority", "Task.options"
    ),
    "limit of a call": Case(
        "await few.options(‸concurrency=1)(x)", "no option concurrency", "the options are retries"
    ),
    "limit's key of another type": Case(
        "‸await few.options(key=x)(x)", "the key of a task's limit is a str", "f-string"
    ),
    "limit's key that is empty": Case(
        "await few.options(key=‸'')(x)", "'' is not valid", "key=order.customer"
    ),
    "priority of another type": Case(
        "‸await few.options(priority=str(x))(x)",
        "a priority is an int, and not str",
        "priority=order.urgency",
    ),
    "priority that is too high": Case(
        "await few.options(priority=‸5000)(x)", "a priority is from -1000 to 1000", "an int"
    ),
    "option by place": Case("await one.options(‸3)(x)", "by name", "retries=3"),
    "option at run time": Case(
        "await one.options(retries=‸x)(x)", "known when the workflow is defined", "literal"
    ),
    "bad option": Case("await ‸one.options(retries=-1)(x)", "not valid", "Task.options"),
    "plain function": Case("y = ‸several(x)", "several() is not async, and more than", "is a task"),
    "function of the standard library": Case(
        "y = ‸functools.reduce(max, items)", "functools.reduce() cannot be called", "make it a task"
    ),
    "next": Case("y = ‸next(iter(items))", "next() cannot be called", "`for` with `break`"),
    "slice of a range": Case("y = list(‸range(9)[::2])", "a slice of a range", "`range(0, 10, 3)`"),
    "isinstance of a failure": Case(
        "y = isinstance(x, ‸Declined)", "a failure is no value", "write `except Declined` in front"
    ),
    "method that bytes lack": Case(
        "y = ‸b'x'.upper()", "method upper() of a bytes is not part of the language", "call it in a task"
    ),
    "unpacked set": Case(
        "‸y, z = {x, 2}", "a set has no order that a run could know", "write `sorted(...)` around the set"
    ),
    "field that a failure lacks": Case(
        "raise Declined('', ‸cost=Decimal(x))",
        "Declined has no field cost",
        "declare it in the class, as `cost: str`",
    ),
    "field of a failure that misses": Case(
        "raise ‸Costly(f'{x}')", "Costly() misses cost", "it is Costly(cost, item)"
    ),
    "failure without its fields": Case("raise ‸Costly", "Costly() misses cost", "it is Costly(cost, item)"),
    "message behind the fields": Case(
        "raise Costly(cost=Decimal(x), ‸message='a')", "looked at before the fields", "write it first"
    ),
    "field that not all have": Case(
        "try: raise Costly('', cost=Decimal(x))\nexcept (Declined, Costly) as e: y = ‸e.cost",
        "not all that is caught here has a cost",
        "catch business failures in a clause of their own",
    ),
    "failure with a field that is no value": Case(
        "raise ‸Wild('', task=one)", "failure Wild: field Wild.task: type App is not supported", "a dataclass"
    ),
    "now": Case("y = ‸datetime.now()", "datetime.now() cannot be called", "no clock of its own"),
    "uuid": Case("y = ‸uuid.uuid4()", "uuid.uuid4() cannot be called", "return a new id"),
    "print": Case("‸print(x)", "print() cannot be called", "view"),
    "isinstance of what no value is": Case(
        "y = isinstance(x, ‸frozenset)", "no value here is", "tells the kinds apart"
    ),
    "range": Case("y = ‸range(3)", "this is no value", "list(range(3))"),
    "method": Case('y = "a".‸format()', "method format()", "f-string"),
    "method of a variable": Case("y = x.‸bit_length()", "method bit_length()", "call it in a task"),
    "property": Case('item = Item("a")\ny = ‸item.label', "Item has no field label", "sku, count"),
    "attribute of a scalar": Case("y = ‸x.real", "attribute real of a int", "fields of records"),
    "builtin arity": Case("y = ‸len()", "does not take 0", "language.md"),
    "builtin keyword": Case("y = round(1.5, digits=‸1)", "no parameter digits", "ndigits"),
    "record without field": Case("y = ‸Item()", "Item() misses sku", "Item(sku, count)"),
    "record with __post_init__": Case('y = ‸Checked("a")', "its own __post_init__()", "let a task build it"),
    "enum by value": Case('y = ‸Color("red")', "cannot be called", "make it a task"),
    # -- expressions -------------------------------------------------------------------------------
    "lambda": Case("y = ‸lambda: 1", "a function is no value", "`key=`"),
    "walrus in a comprehension": Case(
        "y = [(‸z := i) for i in items]", "inside a comprehension", "of its own"
    ),
    "list of a set": Case("y = {1, 2}\n‸z = list(y)", "a set has no order", "sorted(...)"),
    "comprehension over a set": Case("y = {1, 2}\n‸z = [i for i in y]", "a set has no order", "sorted(...)"),
    "joined set": Case('y = {"a"}\n‸z = ",".join(y)', "a set has no order", "sorted(...)"),
    "spread of a set": Case("y = {1, 2}\n‸z = [*y]", "a set has no order", "sorted(...)"),
    "view of a dict": Case("y = ‸LIMITS.items()", "this is no value", "list(LIMITS.items())"),
    "generator": Case("y = ‸(i for i in items)", "this is no value", "[i for i in items]"),
    "maybe set": Case("y = x > 1 and (z := x) > 2\ny = ‸z", "z may have no value here", "on every way"),
    "set in one way": Case("y = (z := x) if x else 1\ny = ‸z", "z may have no value here", "on every way"),
    "set if not": Case("if not (x and (z := x)): y = ‸z", "z may have no value here", "on every way"),
    "set too late": Case("y = [‸z, (z := 1)]", "z may have no value here", "on every way"),
    "walrus of the view": Case("view = View()\ny = (‸view := View())", "cannot be shared", "view.status"),
    "map": Case("y = list(‸map(str, items))", "cannot be called", "comprehension"),
    "filter": Case("y = list(‸filter(None, items))", "cannot be called", "with `if`"),
    "today": Case("y = ‸datetime.today()", "cannot be called", "make it a task"),
    "frozenset": Case("y = ‸frozenset(items)", "cannot be called", "use a set"),
    "slice": Case("y = items[‸1:2, 3]", "a slice is no value", "one slice"),
    "star alone": Case("y = max(‸*items)", "* in a call", "one by one"),
    "key by name": Case("y = sorted(items, key=‸plain)", "cannot be called for each", "lambda item"),
    "yield": Case("y = ‸yield x", "", ""),
    "matrix": Case("y = ‸x @ x", "matrix multiplication", "in a task"),
    "is": Case("y = x is ‸items", "one object", "use =="),
    "percent": Case('y = ‸"%s" % x', "does not format text", "f-string"),
    "complex": Case("y = ‸1j", "complex is no value", "another type"),
    "wide format": Case('y = f"{x:>99999}"', "above 10000", "smaller width"),
    "strftime": Case('y = order.sku.‸strftime("%Y")', "method strftime()", "f-string"),
    "ascii conversion": Case('y = f"{x!a}"', "!a is not part", "use !r"),
    "format of a record": Case('item = Item("a")\n‸y = f"{item}"', "no text of its own", "fields one by one"),
    "format of an enum": Case('‸y = f"{Color.RED}"', "no text of its own", ".value"),
    "str of a record": Case('item = Item("a")\n‸y = str(item)', "no text of its own", "fields one by one"),
    "unknown name": Case("y = ‸nowhere", "name nowhere is not known", "define it above"),
    "module": Case("y = ‸uuid", "uuid is no value", "values only"),
    "class attribute": Case("y = ‸Settings.LIMIT", "not a constant of a module", "module constant"),
    "unknown enum member": Case(
        "y = ‸Color.BLUE", "not a constant of a module or a member", "module constant"
    ),
    # -- values and the view -----------------------------------------------------------------------
    "append": Case("items.‸append(1)", "method append()", "items = items + [item]"),
    "sort": Case("items.‸sort()", "method sort()", "items = sorted(items)"),
    "dict update": Case("LIMITS.‸update(x)", "method update()", "settings | more"),
    "item assignment": Case("‸items[0] = 1", "an item cannot be assigned", "settings | {key: value}"),
    "in place add": Case("‸items += [1]", "+= would change items in place", "items = items + [1]"),
    "in place on the view": Case(
        "view = View()\n‸view.items += [1]", "+= would change view.items", "view.items = view.items + [1]"
    ),
    "in place unknown": Case("y = await anything()\n‸y += 1", "type of y is not known", "y = y + 1"),
    "view as value": Case("view = View()\ny = ‸view", "cannot be shared", "view.status"),
    "view as argument": Case("view = View()\nawait one(‸view)", "cannot be shared", "view.status"),
    "view in a list": Case("view = View()\ny = [‸view]", "cannot be shared", "view.status"),
    "view from elsewhere": Case(
        "view = View()\nview = ‸await anything()", "must be a new instance", "View(...)"
    ),
    "two views": Case(
        "view = View()\n‸other = OtherView()", "a run has one view, and view is it", "one dataclass"
    ),
    "field of a parameter": Case("‸order.sku = 'a'", "order is a parameter", "only the run's view"),
    "field of a result": Case("y = await anything()\n‸y.status = 1", "not made by this function", "SomeView"),
    "nested field": Case("view = View()\n‸view.status.x = 1", "only fields of the view itself", "new record"),
    "frozen view": Case("y = Frozen()\n‸y.sku = 'a'", "Frozen is frozen", "mutable"),
    "unknown field": Case("view = View()\n‸view.state = 1", "View has no field state", "status, items"),
    "view and field": Case(
        "view = View()\n‸view, view.status = View(), 'a'", "assigned at once", "each of them"
    ),
    # -- assignments -------------------------------------------------------------------------------
    "numbers differ": Case("‸y, z = 1, 2, 3", "differ in number", "one value for each"),
    "same target": Case("‸y, y = 1, 2", "stands here twice", "once"),
    "nested target": Case(
        "y, (‸items[0], w) = 1, (2, 3)",
        "lists and dicts are values: an item cannot be assigned",
        "write `settings = settings | {key: value}`, or let a task return the changed list",
    ),
    "unsupported declaration": Case("y: ‸complex = 1", "type complex is not supported", "use bool, int"),
    "unknown declaration": Case("y: ‸Nowhere = 1", "cannot be read", "import what it names"),
    # -- names without a value ---------------------------------------------------------------------
    "one branch": Case("if x: y = 1\nreturn ‸y", "y may have no value here", "assign y on every way"),
    "in a loop": Case("while x: y = 1\nreturn ‸y", "y may have no value here", "assign y on every way"),
    "read before": Case("z = ‸y\ny = 1", "y may have no value here", "assign y on every way"),
    "augmented before": Case("‸y += 1", "y may have no value here", "assign y"),
    "in a finally of a run that may be cancelled": Case(
        "try:\n    await sleep(1)\n    y = 1\nfinally:\n    await one(‸y)",
        "y may have no value here",
        "assign y on every way",
    ),
    "after a caught failure": Case(
        "try: y = await one(x)\nexcept Declined: pass\nreturn ‸y",
        "y may have no value",
        "also where a failure",
    ),
    "failure after its clause": Case(
        "try: await one(x)\nexcept Declined as e: pass\ny = ‸e.message",
        "no value after its except",
        "keep what",
    ),
    # -- failures ----------------------------------------------------------------------------------
    "bare except": Case(
        "try: await one(x)\n‸except: pass",
        "an except clause names what it catches",
        "write `except Exception:` for whatever can be caught",
    ),
    "except BaseException": Case(
        "try: await one(x)\nexcept ‸BaseException: pass",
        "BaseException cannot be caught in a run",
        "write `except Exception` for what can be",
    ),
    "except CancelledError": Case(
        "try: await one(x)\nexcept ‸asyncio.CancelledError: pass",
        "asyncio.CancelledError cannot be caught in a run",
        "write `except Exception` for what can be",
    ),
    "except MemoryError": Case(
        "try: await one(x)\nexcept ‸MemoryError: pass",
        "MemoryError is never raised in a run",
        "what a worker raises is a TaskError here: write `except TaskError`",
    ),
    "except a variable": Case(
        "try: await one(x)\nexcept ‸x: pass",
        "x is no failure class",
        "name a subclass of WorkflowFailure, TaskError, or an error of Python's own",
    ),
    "error that nothing raises": Case(
        "try: x = 1\n‸except TaskError: pass",
        "no failure gets to this except clause",
        "remove it, or put it before the clause that catches the same",
    ),
    "group that nothing raises": Case(
        "try: await one(x)\n‸except ExceptionGroup: pass",
        "no failure gets to this except clause",
        "remove it, or put it before the clause that catches the same",
    ),
    "covered by Exception": Case(
        "try: await one(x)\nexcept Exception: pass\n‸except Declined: pass",
        "no failure gets to this except clause",
        "remove it, or put it before the clause that catches the same",
    ),
    "message of a technical error": Case(
        "try: await one(x)\nexcept TaskError as e: y = ‸e.message",
        "not all that is caught here has a message",
        "write `str(e)`, or catch business failures in a clause of their own",
    ),
    "args of an error": Case(
        "try: await one(x)\nexcept Exception as e: y = ‸e.args",
        "a failure has name, message, details and the fields that it declares, but no args",
        "write `str(e)`",
    ),
    "except a value": Case("try: await one(x)\nexcept ‸LIMITS: pass", "no failure class", "subclass"),
    "nothing raises": Case("try: x = 1\n‸except Declined: pass", "no failure gets to", "remove it"),
    "covered": Case(
        "try: await one(x)\nexcept Declined: pass\n‸except Stolen: pass",
        "no failure gets to",
        "before the clause",
    ),
    "covered inside": Case(
        "try:\n    try: await one(x)\n    except WorkflowFailure: pass\n‸except Other: pass",
        "no failure gets to",
        "r",
    ),
    "raise other": Case("try: raise Other\n‸except Declined: pass", "no failure gets to", "remove it"),
    "raise nothing": Case("‸raise", "no failure to raise again", "raise Failure"),
    "raise ValueError": Case(
        "raise ‸ValueError('a')",
        "ValueError is no WorkflowFailure",
        "raise a subclass of WorkflowFailure: a business failure has a name that others can catch",
    ),
    "raise TaskError": Case(
        "raise ‸TaskError('a')",
        "TaskError is no WorkflowFailure",
        "raise a subclass of WorkflowFailure: a business failure has a name that others can catch",
    ),
    "raise a group": Case(
        "raise ‸ExceptionGroup('a', [])",
        "ExceptionGroup is no WorkflowFailure",
        "raise a subclass of WorkflowFailure: a business failure has a name that others can catch",
    ),
    "raise a variable": Case("raise ‸x", "no failure that was caught here", "name a failure"),
    "raise two messages": Case('raise Declined("a", ‸"b")', "takes one message", "fields by name"),
    "raise a number": Case("‸raise Declined(x)", "must be a str", "f-string"),
    "raise with own __init__": Case("raise ‸Odd(3)", "its own __init__()", "declare its fields"),
    "cause": Case("raise Declined from ‸x", "None or the caught failure", "from None"),
    "failure as value": Case("y = ‸Declined('a')", "failure Declined is no value", "raise Declined"),
    "caught as value": Case(
        "try: await one(x)\nexcept Declined as e: y = ‸e", "e is a failure, no value", "e.message"
    ),
    "same name inside": Case(
        "try: await one(x)\nexcept Declined as e:\n    try: await one(x)\n    ‸except Other as e: pass",
        "already names",
        "another name",
    ),
    "assigned failure": Case(
        "try: await one(x)\nexcept Declined as e: pass\n‸e = 1", "also names a caught failure", "another name"
    ),
}


PAGE = Path(__file__).resolve().parents[2] / "docs" / "refusals.md"
TABLE = re.compile(r"(?s)(?<=<!-- refusals -->\n).*(?=<!-- end of refusals -->)")


def module_of(case: Case) -> str:
    """The text of a module with the case in a workflow, its mark included."""
    text = f"{PREAMBLE}@workflow\nasync def flow(x: int, items: list[int], order: Item) -> int:\n"
    text += indent(case.body, "    ") + "\n"
    ends = case.body.startswith(("return", "raise", "‸raise Declined")) or "return ‸y" in case.body
    return text if ends or case.what == FALLS_OFF else f"{text}    return x\n"


def table(refused: Callable[[str], str]) -> str:
    """Every refusal as a table in Markdown, from its case and its own words."""
    lines = ["| written | what is wrong | what to do |", "| --- | --- | --- |"]
    for name, case in CASES.items():
        if name not in SAYS_PYTHON:
            first, *_, advice = refused(module_of(case).replace(MARK, "")).splitlines()
            code = case.body.replace(MARK, "").replace("|", "\\|").splitlines()
            cells = ["<br>".join(f"`{_kept(line)}`" for line in code), first.split(": ", 1)[1], advice]
            lines.append(f"| {cells[0]} | {_cell(cells[1])} | {_cell(cells[2])} |")
    return "\n".join(lines)


def _kept(line: str) -> str:
    """A line of code whose indentation a table would swallow."""
    return "\N{NO-BREAK SPACE}" * (len(line) - len(line.lstrip())) + line.lstrip()


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def test_the_page_of_refusals_has_every_one_in_its_own_words(define: Callable[[str], ModuleType]) -> None:
    def refused(text: str) -> str:
        with pytest.raises(DefinitionError) as error:
            define(text)
        return error.value.message

    shown = TABLE.search(PAGE.read_text())
    assert shown is not None
    # After a change: print(table(refused)), and put it between the marks.
    assert shown[0].strip() == table(refused)


@pytest.mark.parametrize("name", CASES)
def test_what_the_language_lacks_is_refused_at_its_place_with_advice(
    name: str, define: Callable[[str], ModuleType]
) -> None:
    case = CASES[name]
    marked = module_of(case)
    text = marked.replace(MARK, "")
    if name in SAYS_PYTHON:
        with pytest.raises((SyntaxError, DefinitionError)):
            define(text)
        return
    with pytest.raises(DefinitionError) as refused:
        define(text)
    shown = refused.value.message
    assert case.what in shown
    assert case.advice in shown.splitlines()[-1]
    if MARK in marked:
        before = marked[: marked.index(MARK)]
        place, line, caret, _ = shown.split("\n", 3)
        source = before.rpartition("\n")[2]
        assert place.split(":")[1] == str(before.count("\n") + 1)
        assert line.strip() == text.splitlines()[before.count("\n")].strip()
        assert len(caret) - 1 == len(source.lstrip()) + 4


DEFINITIONS = {
    "no annotation": ("@task\nasync def t(‸x) -> int: ...", "parameter x has no type", "write `x: int`"),
    "no return annotation": ("@task\n‸async def t(x: int): ...", "no return type", "-> None"),
    "workflow without return type": (
        "@workflow\n‸async def w(x: int):\n    pass",
        "no return type",
        "-> None",
    ),
    "unsupported parameter": (
        "@task\nasync def t(x: ‸complex) -> int: ...",
        "parameter x: type complex",
        "use bool",
    ),
    "unsupported return": ("@task\nasync def t() -> ‸object: ...", "return type: type object", "use bool"),
    "star args": ("@task\nasync def t(*‸args: int) -> int: ...", "args is not given by name", "without *"),
    "positional only": ("@task\nasync def t(x: ‸int, /) -> int: ...", "not given by name", "without *"),
    "unknown annotation": (
        "@task\nasync def t(x: ‸Nowhere) -> int: ...",
        "'Nowhere' is not defined",
        "import it",
    ),
    "two texts": ("@task\nasync def t(x: ‸str | datetime) -> int: ...", "without guessing", "use bool"),
    "two records": ("@task\nasync def t(x: ‸Item | View) -> int: ...", "without guessing", "use bool"),
    "decimal or float": (
        "@task\nasync def t(x: ‸Decimal | float) -> int: ...",
        "without guessing",
        "use bool",
    ),
    "tuple of any length": (
        "@task\nasync def t(x: ‸tuple[int, ...]) -> int: ...",
        "no fixed length",
        "list[...]",
    ),
    "record keys": ("@task\nasync def t(x: ‸dict[Item, int]) -> int: ...", "records as keys", "use bool"),
    "wrong default": ("@task\nasync def t(x: ‸int = object()) -> int: ...", "no constant", "to a task"),
    "moving default": (
        "@dataclass\nclass Id:\n    id: uuid.UUID = field(default_factory=uuid.uuid4)\n"
        "@task\nasync def t(x: ‸Id) -> int: ...",
        "may give another value each time",
        "default_factory",
    ),
    "own equality": (
        "@dataclass\nclass Same:\n    id: int\n    def __eq__(self, o: object) -> bool: return True\n"
        "@task\nasync def t(x: ‸Same) -> int: ...",
        "has its own __eq__()",
        "compare or compute",
    ),
    "ordered": (
        "@dataclass(order=True)\nclass Rank:\n    id: int\n@task\nasync def t(x: ‸Rank) -> int: ...",
        "order=True",
        "compare its fields",
    ),
    "recursive": (
        "@dataclass\nclass Tree:\n    below: list[Tree]\n@task\nasync def t(x: ‸Tree) -> int: ...",
        "contains itself",
        "use bool",
    ),
    "sync workflow": ("@workflow\n‸def w(x: int) -> int:\n    return x", "awaits its tasks", "async def"),
    "second decorator": (
        "def d(f: Any) -> Any: return f\n@workflow\n@‸d\nasync def w(x: int) -> int:\n    return x",
        "would not be run",
        "@workflow alone",
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_definition_that_cannot_be_is_refused_naming_the_parameter(
    name: str, define: Callable[[str], ModuleType]
) -> None:
    marked, what, advice = DEFINITIONS[name]
    with pytest.raises(DefinitionError) as refused:
        define(PREAMBLE + marked.replace(MARK, "") + "\n")
    shown = refused.value.message
    assert what in shown
    assert advice in shown.splitlines()[-1]
    before = PREAMBLE + marked[: marked.index(MARK)]
    place, _, caret, _ = shown.split("\n", 3)
    assert place.split(":")[1] == str(before.count("\n") + 1)
    assert len(caret) - 1 == len(before.rpartition("\n")[2].lstrip()) + 4


def test_the_caret_counts_characters_not_bytes(define: Callable[[str], ModuleType]) -> None:
    with pytest.raises(DefinitionError) as refused:
        define(
            PREAMBLE
            + dedent("""
                @workflow
                async def w() -> str:
                    return "äöü" + nowhere
            """)
        )
    _, line, caret, _ = refused.value.message.split("\n", 3)
    assert line[len(caret) - 1 :].startswith("nowhere")


@pytest.mark.parametrize(
    ("body", "what", "line"),
    [
        ("    if x: y = 1\n    return y", "y may have no value here", "    return y"),
        ("    try: y = x\n    except Odd: y = 2\n    return y", "no failure gets to this", "    except Odd"),
        ("    y = ''\n    y += [x]\n    return 1", "the type of y is not known", "    y += [x]"),
    ],
)
def test_what_is_wrong_in_a_function_of_another_module_is_shown_there(
    body: str, what: str, line: str, define: Callable[[str], ModuleType]
) -> None:
    helper = define(f"{PREAMBLE}async def helper(x: int) -> int:\n{body}\n")
    text = "from dressage.flow import workflow\n@workflow\nasync def w(x: int) -> int:\n    return await helper(x)\n"
    with pytest.raises(DefinitionError) as refused:
        define(f"from {helper.__name__} import helper\n{text}")
    place, shown, _, _ = refused.value.message.split("\n", 3)
    assert what in place
    assert place.startswith(helper.__name__)
    assert shown.strip().startswith(line.strip())


def test_two_classes_of_one_name_are_refused(define: Callable[[str], ModuleType]) -> None:
    text = dedent("""
        @task
        async def first(x: Item) -> int: ...
        @dataclass
        class Item:
            other: int
        @task
        async def second(x: Item) -> int: ...
        @workflow
        async def w(x: Item) -> int:
            a = await second(x)
            return await first(x)
    """)
    with pytest.raises(DefinitionError, match="two classes are named Item"):
        define(PREAMBLE + text)


def test_the_source_must_be_readable() -> None:
    namespace: dict[str, object] = {}
    text = "from dressage.flow import workflow\n@workflow\nasync def w() -> None: pass\n"
    with pytest.raises(DefinitionError, match="cannot be read"):
        exec(compile(text, "<nowhere>", "exec"), namespace)
