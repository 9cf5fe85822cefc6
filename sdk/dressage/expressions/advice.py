"""What to write instead of what the expression language lacks."""

from __future__ import annotations

import ast

ADVICE: dict[type[ast.expr], str] = {
    ast.Await: "give the awaited result a name in a statement of its own: `result = await task(...)`",
    ast.Yield: "a workflow gives back one value: use `return`",
    ast.YieldFrom: "a workflow gives back one value: use `return`",
}
"""What to write instead, for each kind of expression that is refused."""

METHODS: dict[str, str] = {
    "format": 'use an f-string: f"{value:>10}"',
    "strftime": 'use an f-string: f"{when:%Y-%m-%d}"',
    "ctime": 'use an f-string: f"{when:%Y-%m-%d}"',
    "time": "use the fields hour, minute and second: there is no type for a time of day",
    "translate": "use replace()",
    "fromkeys": "write a comprehension: `{key: value for key in keys}`",
    "wait": "await it: `await event.wait()`",
    "start": "await it: `run_id = await child.start(...)`",
    "assign": "await it: `filled = await user_task.assign(...)`",
    "undo": "register it in the block of `async with Saga()` itself: before its branches begin, or behind an await",
    **dict.fromkeys(
        ("debug", "info", "warning", "error", "exception"),
        "put what should be seen into the view, or let a task log it",
    ),
}
"""What to write instead of other methods that the language lacks."""

MUTATIONS: dict[str, str] = {
    "append": "lists are values: write `items = items + [item]`",
    "extend": "lists are values: write `items = items + more`",
    "insert": "lists are values: write `items = [item, *items]`",
    "remove": "lists are values: write `items = [each for each in items if each != item]`",
    "pop": "lists and dicts are values: write `last = items[-1]` and `items = items[:-1]`",
    "clear": "lists and dicts are values: assign an empty one",
    "sort": "lists are values: write `items = sorted(items)`",
    "reverse": "lists are values: write `items = items[::-1]`",
    "update": "dicts are values: write `settings = settings | more`",
    "setdefault": "dicts are values: write `settings = {key: default} | settings`",
    "popitem": "dicts are values: write `rest = {k: v for k, v in settings.items() if k != key}`",
    "add": "sets are values: write `kinds = kinds | {kind}`",
    "discard": "sets are values: write `kinds = kinds - {kind}`",
}
"""What to write instead of the methods that change a list, dict or set in place."""
