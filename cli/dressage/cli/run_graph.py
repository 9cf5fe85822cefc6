"""The workflow of a run as a tree, with how each step of it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import click
import msgspec

from dressage.flow.drawing import outline
from dressage.protocol.commands import WaitView
from dressage.protocol.events import ReceivedEvent
from dressage.protocol.spec import WorkflowSpec

BEGUN: Final = frozenset(
    {
        "permit-awaited",
        "task-scheduled",
        "child-started",
        "child-rescued",
        "sleep-started",
        "condition-awaited",
        "event-awaited",
        "user-task-opened",
    }
)
DONE: Final = frozenset(
    {
        "task-completed",
        "child-begun",
        "child-completed",
        "sleep-ended",
        "condition-met",
        "event-received",
        "user-task-completed",
        "published",
    }
)
FAILED: Final = frozenset(
    {
        "task-failed",
        "task-dead",
        "child-failed",
        "condition-timed-out",
        "event-timed-out",
        "user-task-cancelled",
    }
)

_COLOURS: Final = {"done": "green", "failed": "red", "waits": "yellow", "begun": "yellow"}


class _Told(msgspec.Struct, frozen=True):
    node: int | None = None
    skipped: bool = False


@dataclass(slots=True)
class Steps:
    """How often each node was done, and how it stands last."""

    done: Counter[int] = field(default_factory=Counter[int])
    last: dict[int, str] = field(default_factory=dict[int, str])
    open: Counter[int] = field(default_factory=Counter[int])
    """Branches of a gather that have not ended."""

    missing: int = 0
    """So many events of the run's beginning are not in the stream any more."""

    moved: bool = False
    """Events before the run moved name nodes of another version, and do not count."""

    @classmethod
    def of(cls, events: Iterable[ReceivedEvent]) -> Steps:
        steps = cls()
        for number, event in enumerate(events):
            if number == 0:
                steps.missing = event.index
            if event.kind == "run-migrated":
                steps = cls(moved=True)
                continue
            told = msgspec.json.decode(event.data, type=_Told)
            if told.node is None:
                continue
            if event.kind == "run-rescued":
                steps.rescued(told.node, skipped=told.skipped)
            if event.kind in ("branch-started", "branch-ended"):
                # A gather is done when none of its branches is open. (How one began may be gone from the stream.)
                one = 1 if event.kind == "branch-started" else -1
                steps.open[told.node] = max(0, steps.open[told.node] + one)
                if steps.open[told.node] == 0:
                    steps.done[told.node] += 1
                steps.last[told.node] = "begun" if steps.open[told.node] else "done"
            elif event.kind in BEGUN:
                steps.last[told.node] = "begun"
            elif event.kind in DONE:
                steps.done[told.node] += 1
                steps.last[told.node] = "done"
            elif event.kind in FAILED:
                steps.last[told.node] = "failed"
        return steps

    def rescued(self, node: int, *, skipped: bool) -> None:
        """What the run had begun when it failed was given up."""
        self.open.clear()
        self.last |= {number: "failed" for number, last in self.last.items() if last == "begun"}
        if skipped:
            self.last[node] = "skipped"

    def state(self, node: int, waits: dict[int, list[WaitView]]) -> tuple[str, str]:
        """In a word, and as it is shown; empty for a step that was not come to, or that leaves no event."""
        if node in waits:
            number = len(waits[node])
            return "waits", "waits" if number == 1 else f"{number} wait"
        last = self.last.get(node, "")
        times = self.done[node]
        return last, f"done {times}x" if last == "done" and times > 1 else last


def graph(
    spec: WorkflowSpec, events: Iterable[ReceivedEvent], waits: Sequence[WaitView], *, ended: bool
) -> Iterator[str]:
    """The lines of the tree. What a run that has ended had begun is neither done nor waited for."""
    steps = Steps.of(events)
    at: dict[int, list[WaitView]] = {}
    for wait in waits:
        at.setdefault(wait.node, []).append(wait)
    if steps.moved:
        yield "(what it did before it moved to this version is not shown)"
    if steps.missing:
        yield f"(its first {steps.missing} events are no longer in the stream: what they tell is not shown)"
    for each in outline(spec):
        word, shown = ("", "") if each.node is None else steps.state(each.node, at)
        if word == "begun" and ended:
            word, shown = "failed", "given up"
        mark = click.style(f"{shown:>9}", fg=_COLOURS.get(word))
        since = f"    since {at[each.node][0].since}" if each.node in at and at[each.node][0].since else ""
        yield f"{mark}  {each.line or '':>5}  {'    ' * each.depth}{each.text}{since}".rstrip()
