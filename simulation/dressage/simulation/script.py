"""What the clients of a seed do, and when: actions that workloads write down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING

from dressage.protocol.names import shard_of
from dressage.simulation.reference import Ending

if TYPE_CHECKING:
    from dressage.client import Client
    from dressage.simulation.deletions import Lives
    from dressage.simulation.world import World

Act = Callable[["World", "Client"], Awaitable[None]]


@dataclass(eq=False)
class Action:
    """One thing that a client does at `at_s`, again and again until its outcome is known."""

    client: str
    at_s: float
    what: str
    act: Act
    commands: int = 0
    """So many are sent by it, at least, beside those that the planned runs take by themselves."""

    done: bool = False
    error: str = ""

    def __str__(self) -> str:
        return f"{self.client}: {self.what}"


@dataclass
class PlannedRun:
    """A run that is to be started. `ending` is what Python says of it; `may_end` are further endings it may have."""

    run_id: str
    workflow: str
    module: ModuleType
    x: int
    ending: Ending
    may_end: list[Ending] = field(default_factory=list[Ending])
    accepted: dict[int, bool] = field(default_factory=dict[int, bool])
    """Sequence of each start that was accepted, and whether the run was there before."""

    tidies: bool = False
    """It is cancelled, and tidies up then, so it may complete or fail in any way."""

    told: set[str] = field(default_factory=set[str])
    """What clients that cancelled it were told: that it is "cancelled", or was "finished" before."""

    served: set[str] = field(default_factory=set[str])
    """The user tasks of it that somebody has done, or cancelled."""

    seen: list[Ending] = field(default_factory=list[Ending])
    """How clients saw it end."""


@dataclass
class Script:
    seed: int
    runs: dict[str, PlannedRun] = field(default_factory=dict[str, PlannedRun])
    actions: list[Action] = field(default_factory=list[Action])
    reserve: list[tuple[PlannedRun, Action]] = field(default_factory=list[tuple[PlannedRun, Action]])
    """Runs, and their starts, for a seed that turns out to be short of commands."""

    programs: dict[str, ModuleType] = field(default_factory=dict[str, ModuleType])
    drawn: int = 0
    """So many runs were thought of, which gives each a name of its own."""

    spare_runs: int = 0
    """So many runs may be open on each shard beside those that are to sleep for long; 0: any number."""

    schedules: dict[str, bool] = field(default_factory=dict[str, bool])
    """By their names, and whether nobody touches them."""

    lives: list[Lives] = field(default_factory=list["Lives"])
    """Ids of runs that are deleted and started anew."""

    deadly: dict[str, int] = field(default_factory=dict[str, int])
    """So many workers die of the tasks that each of these runs has."""

    down: set[str] = field(default_factory=set[str])
    """Runs whose tasks break until somebody has mended that."""

    build: str = ""
    """That of the workers, and of some versions; empty: there are none."""

    def of(self, client: str) -> list[Action]:
        return [action for action in self.actions if action.client == client]

    def open_runs_max(self, shards: int) -> int:
        """How many runs may be open in a namespace of so many shards; 0: any number."""
        if not self.spare_runs:
            return 0
        asleep = Counter(
            shard_of(run.run_id, shards) for run in self.runs.values() if run.ending.kind == "asleep"
        )
        return shards * (max(asleep.values(), default=0) + self.spare_runs)

    @property
    def commands(self) -> int:
        """How many commands there will be at least, or nearly so."""
        runs = sum(
            min(ending.commands for ending in (run.ending, *run.may_end)) for run in self.runs.values()
        )
        return runs + sum(action.commands for action in self.actions)
