"""Expressions in configuration files, as in a trigger's: over some given names, as text."""

from __future__ import annotations

import ast
from collections.abc import Collection

from dressage.expressions.builtins import BUILTINS
from dressage.expressions.parse import translate
from dressage.expressions.spelling import text_of
from dressage.expressions.time_methods import UTC_NAME
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Call, Expr, Name


class TextScope:
    """The scope of an expression in a configuration file: some given names, and the builtins."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        self.text = text
        self.names = names

    def variable(self, node: ast.Name) -> Expr:
        if node.id in self.names:
            return Name(node.id)
        raise self.refusal(
            node, f"name {node.id} is not known", f"the names here are {', '.join(sorted(self.names))}"
        )

    def constant(self, node: ast.Attribute) -> Expr | None:
        name = self.builtin(node)
        return Call(name) if name == UTC_NAME else None

    def is_object(self, node: ast.expr) -> bool:
        return False

    def builtin(self, node: ast.expr) -> str | None:
        # A dotted one, such as date.fromisoformat, begins with the name of a type.
        name = text_of(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        known = name in BUILTINS and not name.startswith(".")
        return name if known and name.partition(".")[0] not in self.names else None

    def call(self, node: ast.Call) -> Expr:
        known = ", ".join(sorted(name for name in BUILTINS if not name.startswith(".")))
        raise self.refusal(node, "this function is not known", f"the functions here are {known}")

    def bound(self, node: ast.NamedExpr) -> str:
        raise self.refusal(
            node, "there are no variables to be set here", "write the value where it is needed"
        )

    def locally(self, names: Collection[str]) -> TextScope:
        return TextScope(self.text, {*self.names, *names})

    def refusal(self, node: ast.AST, what: str, advice: str) -> DefinitionError:
        line = getattr(node, "lineno", 1)
        return _refusal(self.text, line, getattr(node, "col_offset", 0), what, advice)


def parse_expression(text: str, names: Collection[str]) -> Expr:
    """The expression tree of `text`, which may use `names` and the builtins.

    Raises `DefinitionError`, whose message shows the text with a caret under the place.
    """
    try:
        parsed = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        # The parser gives 0 where the text ends too soon.
        column = error.offset - 1 if error.offset else len(text.strip())
        raise _refusal(
            text.strip(), error.lineno or 1, column, f"this is no expression: {error.msg}", ""
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise DefinitionError(f"this is no expression: {error}") from error
    return translate(parsed, TextScope(text.strip(), names))


def _refusal(text: str, line: int, column: int, what: str, advice: str) -> DefinitionError:
    lines = text.splitlines() or [""]
    shown = lines[min(line, len(lines)) - 1]
    before = shown.encode()[:column].decode(errors="ignore")
    instead = f"\n{advice}" if advice else ""
    return DefinitionError(f"{what}\n    {shown}\n    {' ' * len(before)}^{instead}")
