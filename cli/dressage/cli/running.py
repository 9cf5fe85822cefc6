"""Running a command's coroutine: the fastest loop there is, and signals that mean "drain"."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

import click

from dressage.brokers.connect import connect
from dressage.brokers.server_check import ServerFacts, check_server
from dressage.protocol.errors import ServerUnsuitable

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
INTERRUPTED: Final = 130
"""Exit code of what a signal has ended before it was done."""

ELECTION_S: Final = 60.0
"""How long a process that stays waits for a cluster that cannot elect a leader."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end, on uvloop where that is installed."""
    with calm_collector(), asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        return runner.run(main)


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import new_event_loop
    except ImportError:  # there is none for Windows and PyPy
        return None
    return new_event_loop


@contextlib.contextmanager
def calm_collector() -> Iterator[None]:
    """Makes full garbage collections rare within the block.

    Almost nothing here is in cycles, and an orchestrator keeps tens of thousands of runs in memory: walking them
    took a quarter of its CPU with Python's defaults. What was imported before is left out meanwhile.
    """
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 200)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextlib.contextmanager
def signals(stop: Callable[[], object]) -> Iterator[None]:
    """Within the block SIGTERM and SIGINT call `stop`. A second one ends the process without waiting."""
    loop = asyncio.get_running_loop()
    asked = False

    def on_signal() -> None:
        nonlocal asked
        if asked:
            os._exit(INTERRUPTED)
        asked = True
        stop()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def interruptible(main: Coroutine[Any, Any, None]) -> bool:
    """Runs a coroutine, and lets SIGTERM and SIGINT cancel it: whether it came to its end."""
    task = asyncio.create_task(main)
    with signals(task.cancel):
        await asyncio.wait({task})
    if task.cancelled():
        return False
    task.result()
    return True


async def inspect_server(url: str) -> ServerFacts:
    """Looks at a server before anything is entrusted to it, and prints what its operator should change.

    A cluster that has no leader yet, as one that is starting, is waited for. Raises `ServerUnreachable`, or
    `ServerUnsuitable` for a server that Dressage cannot keep its promises on.
    """
    deadline = asyncio.get_running_loop().time() + ELECTION_S
    facts = await _look(url, deadline)
    while facts is None:
        await asyncio.sleep(1.0)
        facts = await _look(url, deadline)
    for warning in facts.warnings:
        click.secho(f"WARNING {warning}", err=True, fg="yellow", bold=True)
    return facts


async def _look(url: str, deadline: float) -> ServerFacts | None:
    """None for now. Each look connects anew: the server that we met may be the one that is cut off."""
    client = await connect(url)
    try:
        return await check_server(client)
    except ServerUnsuitable as error:
        if not error.retryable or asyncio.get_running_loop().time() > deadline:
            raise
        click.echo(f"waiting for up to {ELECTION_S:g} s: {error.message}", err=True)
        return None
    finally:
        await client.close()


async def require_answer(url: str) -> None:
    """Raises `ServerUnreachable` within seconds, with what to do about it, where a client would go on trying."""
    client = await connect(url)
    await client.close()
