"""What to write instead of what the expression language lacks."""

from __future__ import annotations

import ast

ADVICE: dict[type[ast.expr], str] = {
    ast.Await: "give the awaited result a name in a statement of its own: `result = await task(...)`",
    ast.Lambda: "write the expression itself where its value is needed",
    ast.ListComp: "let a task build the list",
    ast.SetComp: "let a task build the set",
    ast.DictComp: "let a task build the dict",
    ast.GeneratorExp: "let a task compute the values and return them as a list",
    ast.NamedExpr: "assign the variable in a statement of its own, before this one",
    ast.Set: "use a list `[...]`",
    ast.Slice: "take single items by index, or let a task cut the value",
    ast.Starred: "write the items one by one, or add lists with `+`",
    ast.Yield: "a workflow gives back one value: use `return`",
    ast.YieldFrom: "a workflow gives back one value: use `return`",
}
"""What to write instead, for each kind of expression that is refused."""

MUTATIONS: dict[str, str] = {
    "append": "lists are values: write `items = items + [item]`",
    "extend": "lists are values: write `items = items + more`",
    "insert": "lists are values: write `items = [item] + items`",
    "remove": "lists are values: let a task return the list without the item",
    "pop": "lists and dicts are values: let a task return what remains",
    "clear": "lists and dicts are values: assign an empty one",
    "sort": "lists are values: let a task return the sorted list",
    "reverse": "lists are values: let a task return the reversed list",
    "update": "dicts are values: write `settings = settings | more`",
    "setdefault": "dicts are values: write `settings = {key: default} | settings`",
    "popitem": "dicts are values: let a task return what remains",
    "add": "sets are values: let a task return the larger set",
    "discard": "sets are values: let a task return the smaller set",
}
"""What to write instead of the methods that change a list, dict or set in place."""
