"""Showing how far the orders have come: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LINE_EVERY_S: Final = 2.0


@dataclass(frozen=True)
class Counts:
    """How far things are, and how far they will go."""

    published: int = 0
    started: int = 0
    ended: int = 0
    attempts: int = 0
    dead: int = 0


class Showing:
    """Use as a context manager, and tell it the counts."""

    def __init__(self, console: Console, events: int, runs: int, dead: int) -> None:
        self._console = console
        self._totals = {
            "events published": events,
            "runs started": runs,
            "runs ended": runs,
            "dead letters": dead,
        }
        self._bars: Progress | None = None
        self._ids: dict[str, TaskID] = {}
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:17}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._ids = {name: self._bars.add_task(name, total=total) for name, total in self._totals.items()}
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, counts: Counts, *, last: bool = False) -> None:
        now = {
            "events published": counts.published,
            "runs started": counts.started,
            "runs ended": counts.ended,
            "dead letters": counts.dead,
        }
        if self._bars is not None:
            for name, value in now.items():
                self._bars.update(self._ids[name], completed=value)
        elif last or time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            shown = ", ".join(f"{name} {value}/{self._totals[name]}" for name, value in now.items())
            self._console.print(f"{shown}, attempts {counts.attempts}", highlight=False, soft_wrap=True)
