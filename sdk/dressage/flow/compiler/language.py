"""The language: every class of Python's `ast`, supported, refused with what to write instead, or impossible here.

`docs/language.md` shows this table, and a test holds both against `ast` itself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from dressage.expressions.advice import ADVICE

Status = Literal["supported", "refused", "part"]
"""`part`: never alone, so that it is supported or refused with what it belongs to; or no workflow can hold it."""


class Entry(NamedTuple):
    """What the language makes of one class of syntax; `what` and `advice` are the words of a refusal."""

    status: Status
    what: str = ""
    advice: str = ""


def _refused(what: str, advice: str) -> Entry:
    return Entry("refused", what, advice)


_SUPPORTED = Entry("supported")
_PART = Entry("part")

STATEMENTS: dict[str, Entry] = {
    "AnnAssign": _SUPPORTED,
    "Assign": _SUPPORTED,
    "AsyncFunctionDef": _SUPPORTED,
    "AsyncWith": _SUPPORTED,
    "AugAssign": _SUPPORTED,
    "Break": _SUPPORTED,
    "Continue": _SUPPORTED,
    "Expr": _SUPPORTED,
    "For": _SUPPORTED,
    "FunctionDef": _SUPPORTED,
    "If": _SUPPORTED,
    "Match": _SUPPORTED,
    "Pass": _SUPPORTED,
    "Raise": _SUPPORTED,
    "Return": _SUPPORTED,
    "Try": _SUPPORTED,
    "TryStar": _SUPPORTED,
    "While": _SUPPORTED,
    "Assert": _refused("assert would vanish under -O", "write `if not ...: raise SomeFailure(...)`"),
    "AsyncFor": _refused(
        "`async for` has no durable meaning", "let a task read the items and return them as a list"
    ),
    "ClassDef": _refused("a class cannot be defined inside a workflow", "define it at module level"),
    "Delete": _refused("del is not part of the language", "assign None if the value must go"),
    "Global": _refused(
        "a run has no global variables",
        "take the value as a parameter, or put it into the view or a variable",
    ),
    "Import": _refused("nothing is imported while a run executes", "import at module level"),
    "ImportFrom": _refused("nothing is imported while a run executes", "import at module level"),
    "Nonlocal": _refused("a run has no variables around it", "take the value as a parameter"),
    "TypeAlias": _refused("a type cannot be defined inside a workflow", "define it at module level"),
    "With": _refused(
        "`with` has no durable meaning", "call tasks that acquire and release, with try and except"
    ),
}

EXPRESSIONS: dict[str, Entry] = {
    "Attribute": _SUPPORTED,
    "Await": _SUPPORTED,
    "BinOp": _SUPPORTED,
    "BoolOp": _SUPPORTED,
    "Call": _SUPPORTED,
    "Compare": _SUPPORTED,
    "Constant": _SUPPORTED,
    "Dict": _SUPPORTED,
    "DictComp": _SUPPORTED,
    "FormattedValue": _SUPPORTED,
    "GeneratorExp": _SUPPORTED,
    "IfExp": _SUPPORTED,
    "JoinedStr": _SUPPORTED,
    "Lambda": _SUPPORTED,
    "List": _SUPPORTED,
    "ListComp": _SUPPORTED,
    "Name": _SUPPORTED,
    "NamedExpr": _SUPPORTED,
    "Set": _SUPPORTED,
    "SetComp": _SUPPORTED,
    "Slice": _SUPPORTED,
    "Starred": _SUPPORTED,
    "Subscript": _SUPPORTED,
    "Tuple": _SUPPORTED,
    "UnaryOp": _SUPPORTED,
}

_OPERATORS = """
    Add Sub Mult Div FloorDiv Mod Pow LShift RShift BitAnd BitOr BitXor UAdd USub Invert
    Not And Or Eq NotEq Lt LtE Gt GtE In NotIn Is IsNot
"""
OPERATORS: dict[str, Entry] = {
    **dict.fromkeys(_OPERATORS.split(), _SUPPORTED),
    "MatMult": _refused("matrix multiplication is not part of the language", "compute this in a task"),
}

_PARTS = """
    ExceptHandler Load Store Del alias arg arguments keyword withitem comprehension match_case
    MatchAs MatchClass MatchMapping MatchOr MatchSequence MatchSingleton MatchStar MatchValue
    TypeIgnore TypeVar TypeVarTuple ParamSpec Interpolation
    Module Expression Interactive FunctionType
    AST boolop cmpop excepthandler expr expr_context mod operator pattern stmt type_ignore type_param unaryop
    AugLoad AugStore Param Suite slice Index ExtSlice Num Str Bytes NameConstant Ellipsis
"""
PARTS: dict[str, Entry] = dict.fromkeys(_PARTS.split(), _PART)
"""What statements and expressions consist of; whole inputs of the parser; base classes; names of old parsers."""


def _refused_expressions() -> dict[str, Entry]:
    return {
        kind.__name__: _refused(f"{kind.__name__} is not part of the expression language", advice)
        for kind, advice in ADVICE.items()
        if kind.__name__ not in EXPRESSIONS
    } | {"TemplateStr": _refused("TemplateStr is not part of the expression language", "use an f-string")}


LANGUAGE: dict[str, Entry] = {**STATEMENTS, **EXPRESSIONS, **_refused_expressions(), **OPERATORS, **PARTS}
"""By the name of the `ast` class."""


def table() -> str:
    """The language as a table in Markdown."""
    groups = [("Statements", STATEMENTS), ("Expressions", EXPRESSIONS | _refused_expressions())]
    lines: list[str] = []
    for title, entries in [*groups, ("Operators", OPERATORS)]:
        lines += [f"### {title}", "", "| syntax | | write instead |", "| --- | --- | --- |"]
        lines += [
            f"| `{name}` | {entry.status} | {_cell(entry.advice)} |"
            for name, entry in sorted(
                entries.items(), key=lambda item: (item[1].status != "supported", item[0])
            )
        ]
        lines.append("")
    names = ", ".join(f"`{name}`" for name in sorted(PARTS))
    lines += ["### Parts", "", f"Never alone, or no workflow can hold them: {names}.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
