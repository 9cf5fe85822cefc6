"""Leaving the statements around a place: `return`, `break` and `continue` pass the `finally` clauses on their way.

A `finally` body is compiled once for each way that leads through it, as CPython does it, so that what is known of
variables on one way is not mixed with another's.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from dressage.flow.compiler.context import Context, Final, Loop


def leave(context: Context, until: Loop | None) -> None:
    """Runs the `finally` bodies between here and `until`, or the end of the function, from the inside out."""
    frames, scope = context.frames, context.graph.scope
    for place in range(len(frames) - 1, -1, -1):
        frame = frames[place]
        if frame is until or not context.graph.live:
            break
        if isinstance(frame, Final):
            context.frames = frames[:place]
            context.graph.scope = frame.scope
            final_body(context, frame)
    context.frames, context.graph.scope = frames, scope


def final_body(context: Context, final: Final) -> None:
    """One copy of a `finally` body, where control now is. Its own scope is the one around the whole `try`."""
    clauses, caught = context.clauses, context.scope.caught
    context.clauses, context.scope.caught = final.clauses, list(final.caught)
    context.in_final += 1
    context.block(context, final.body)
    context.in_final -= 1
    context.clauses, context.scope.caught = clauses, caught


def passes_final(context: Context) -> bool:
    """Whether a `return` here runs a `finally` body first."""
    return any(isinstance(frame, Final) for frame in context.frames)


def check_final(context: Context, body: list[ast.stmt]) -> None:
    """Refuses what would leave a `finally` body, and with it lose the failure that passes through."""
    for statement in _leaving(body, in_loop=False):
        raise context.refusal(
            statement,
            f"`{type(statement).__name__.lower()}` in `finally` would lose the failure that passes through",
            "leave from the try body, an except clause, or after the whole",
        )


def _leaving(body: list[ast.stmt], *, in_loop: bool) -> Iterator[ast.stmt]:
    for statement in body:
        if isinstance(statement, ast.Return) or (
            isinstance(statement, ast.Break | ast.Continue) and not in_loop
        ):
            yield statement
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        elif isinstance(statement, ast.While | ast.For):
            yield from _leaving(statement.body, in_loop=True)
            yield from _leaving(statement.orelse, in_loop=in_loop)
        else:
            for blocks in _blocks(statement):
                yield from _leaving(blocks, in_loop=in_loop)


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(statement, name, [])
    for part in [*getattr(statement, "handlers", []), *getattr(statement, "cases", [])]:
        yield part.body
