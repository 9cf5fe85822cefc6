"""Where a definition stands in its file, and how a refusal shows it."""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from dressage.expressions.spelling import text_of
from dressage.protocol.errors import DefinitionError

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Source:
    """The lines of a function, its syntax tree, and the refusals that point into it."""

    def __init__(self, file: str, lines: list[str], node: Function) -> None:
        self.file = file
        self.lines = lines
        self.node = node

    @property
    def first_line(self) -> int:
        """The line of the first decorator, or of the `def`."""
        return min([self.node.lineno, *(each.lineno for each in self.node.decorator_list)])

    @property
    def text(self) -> str:
        """The function with its decorators, as written."""
        return "".join(self.lines[self.first_line - 1 : self.node.end_lineno])

    def written(self, node: ast.expr) -> str:
        """An expression as its author has written it, in one line."""
        found = ast.get_source_segment("".join(self.lines), node) or text_of(node)
        return " ".join(found.split())

    def refusal(self, node: ast.AST, what: str, advice: str) -> DefinitionError:
        """The error that shows `node`'s line with a caret under its column, and what to write instead."""
        line = getattr(node, "lineno", self.node.lineno)
        shown = self.lines[line - 1].rstrip("\n") if line <= len(self.lines) else ""
        # The parser counts bytes; a reader counts characters.
        column = len(shown.encode()[: getattr(node, "col_offset", 0)].decode(errors="ignore"))
        indent = len(shown) - len(shown.lstrip())
        caret = " " * max(column - indent, 0) + "^"
        return DefinitionError(f"{self.file}:{line}: {what}\n    {shown[indent:]}\n    {caret}\n{advice}")

    def parameter(self, name: str) -> ast.AST:
        """The place of a parameter's annotation, of the parameter, or of the function."""
        arguments = self.node.args
        for each in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            if each.arg == name:
                return each.annotation or each
        for star in (arguments.vararg, arguments.kwarg):
            if star is not None and star.arg == name:
                return star
        return self.node


def source_of(function: Callable[..., Any]) -> Source:
    """The source of a function. Raises `DefinitionError` where there is none, as in an interactive session."""
    code = inspect.unwrap(function).__code__
    # A file that was edited and imported again must not be read as it was.
    linecache.checkcache(code.co_filename)
    lines = linecache.getlines(code.co_filename, function.__globals__)
    file = _shown_path(code.co_filename)
    if not lines:
        raise DefinitionError(
            f"{file}: the source of {function.__qualname__} cannot be read\nwrite workflows in a file of their own"
        )
    found = _functions("".join(lines)).get((code.co_name, code.co_firstlineno))
    if found is None:
        raise DefinitionError(
            f"{file}:{code.co_firstlineno}: the source of {function.__qualname__} changed since it was loaded\n"
            "start again"
        )
    return Source(file, lines, found)


def locals_around(qualname: str, file: str | None = None) -> dict[str, Any]:
    """The local names of the function that a definition of this qualified name stands in; none at module level.

    Annotations are kept as text (`from __future__ import annotations`), so a class that is local to the function
    around it can only be found in that function's frame, which is still running while the definition is made.
    """
    enclosing = qualname.rpartition(".<locals>.")[0]
    frame = sys._getframe(1) if enclosing else None  # pyright: ignore[reportPrivateUsage]
    while frame is not None and frame.f_code.co_qualname != enclosing:
        frame = frame.f_back
    if frame is None or file not in (None, frame.f_code.co_filename):
        return {}
    return dict(frame.f_locals)


@lru_cache(maxsize=32)
def _functions(text: str) -> dict[tuple[str, int], Function]:
    """The functions of a file, by name and the line that Python's code objects give them."""
    found: dict[tuple[str, int], Function] = {}
    waiting: list[ast.AST] = [ast.parse(text)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            found[node.name, first] = node
        # Functions stand among statements: expressions need not be searched.
        for name in ("body", "orelse", "handlers", "finalbody", "cases"):
            inner = getattr(node, name, [])
            if isinstance(inner, list):
                waiting.extend(cast("list[ast.AST]", inner))
    return found


def _shown_path(file: str) -> str:
    """The path as a reader knows it: relative to where the program runs, if it is below."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
