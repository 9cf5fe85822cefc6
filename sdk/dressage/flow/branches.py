"""Doing several things side by side inside a workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar, overload

from dressage.protocol.spec import GROUP_TEXT

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
R = TypeVar("R")


@overload
async def gather(a: Awaitable[A], /) -> tuple[A]: ...
@overload
async def gather(a: Awaitable[A], b: Awaitable[B], /) -> tuple[A, B]: ...
@overload
async def gather(a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], /) -> tuple[A, B, C]: ...
@overload
async def gather(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], /
) -> tuple[A, B, C, D]: ...
@overload
async def gather(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], e: Awaitable[E], /
) -> tuple[A, B, C, D, E]: ...
@overload
async def gather(
    a: Awaitable[A], b: Awaitable[B], c: Awaitable[C], d: Awaitable[D], e: Awaitable[E], f: Awaitable[F], /
) -> tuple[A, B, C, D, E, F]: ...
@overload
async def gather(*branches: Awaitable[R]) -> tuple[R, ...]: ...
async def gather(*branches: Awaitable[Any]) -> tuple[Any, ...]:
    """Runs branches side by side and gives their results, in the order in which they are written.

    A branch is a call of a task, of `sleep`, or of an async function, which runs as a run thread with variables of
    its own. All of them run to their end, also when some fail; then an `ExceptionGroup` of all failures is raised, in
    the order of the branches. (`asyncio.gather` would raise the first one and leave the others without anybody.)
    """
    ended = await asyncio.gather(*branches, return_exceptions=True)
    failures = [each for each in ended if isinstance(each, BaseException)]
    if failures:
        raise BaseExceptionGroup(GROUP_TEXT, failures)
    return tuple(ended)
