"""Many seeds over the cores of a machine, and the smallest form of a seed that fails."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Final

from dressage.simulation.seed import SeedResult, plan, run_seed

CHUNK: Final = 5
TRACE_LINES: Final = 60


@dataclass
class Summary:
    """What many seeds came to. `failing` are the results of those that broke a rule."""

    seeds: int = 0
    runs: int = 0
    commands: int = 0
    faults: int = 0
    struck: Counter[str] = field(default_factory=Counter[str])
    """In how many seeds each kind of fault did something."""

    workloads: Counter[str] = field(default_factory=Counter[str])
    """In how many seeds each workload took part."""

    runs_min: int = 1_000_000
    commands_min: int = 1_000_000
    faults_min: int = 1_000_000
    elapsed_s: float = 0.0
    failing: list[SeedResult] = field(default_factory=list[SeedResult])

    def add(self, result: SeedResult) -> None:
        self.seeds += 1
        self.struck.update(result.struck)
        self.workloads.update(result.workloads)
        self.runs += result.runs
        self.commands += result.commands
        self.faults += result.faults
        self.runs_min = min(self.runs_min, result.runs)
        self.commands_min = min(self.commands_min, result.commands)
        self.faults_min = min(self.faults_min, result.faults)
        if result.violations:
            self.failing.append(result)

    @property
    def seeds_per_min(self) -> float:
        return self.seeds / self.elapsed_s * 60 if self.elapsed_s else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "seeds": self.seeds,
            "failures": len(self.failing),
            "seeds_per_min": round(self.seeds_per_min, 1),
            "runs": self.runs,
            "commands": self.commands,
            "faults": self.faults,
            "least_in_a_seed": {
                "runs": self.runs_min,
                "commands": self.commands_min,
                "faults": self.faults_min,
            },
            "seeds_with_fault": dict(sorted(self.struck.items())),
            "seeds_with_workload": dict(sorted(self.workloads.items())),
            "elapsed_s": round(self.elapsed_s, 1),
            "failing": [
                {"seed": result.seed, "rules": [violation.rule for violation in result.violations]}
                for result in self.failing
            ],
        }


def simulate(
    seeds: Iterable[int],
    *,
    processes: int = 0,
    budget_s: float = float("inf"),
    failures_max: int = 5,
    on_result: Callable[[SeedResult], None] = lambda _: None,
) -> Summary:
    """Runs seeds until they end, the budget is spent, or `failures_max` have failed."""
    summary, began = Summary(), time.monotonic()
    waiting: set[Future[list[SeedResult]]] = set()
    chunks = _chunks(seeds)
    count = processes or os.cpu_count() or 1
    with pool(count) as workers:
        while True:
            spent = time.monotonic() - began >= budget_s or len(summary.failing) >= failures_max
            while not spent and len(waiting) < 2 * count and (chunk := next(chunks, None)) is not None:
                waiting.add(workers.submit(_run_chunk, chunk))
            if not waiting:
                break
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                for result in future.result():
                    summary.add(result)
                    on_result(result)
            summary.elapsed_s = time.monotonic() - began
    return summary


def pool(processes: int) -> ProcessPoolExecutor:
    """Fresh interpreters in which text hashes alike: a set's order must be the same in every run of a seed."""
    os.environ["PYTHONHASHSEED"] = "0"
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet)


def _quiet() -> None:
    """What engines log about their faults is of no interest, and neither is how a dead process's tasks end.

    A seed leaves everything behind at its end; collecting in between would only walk through what still lives.
    """
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    gc.disable()


def _chunks(seeds: Iterable[int]) -> Iterator[list[int]]:
    chunk: list[int] = []
    for seed in seeds:
        chunk.append(seed)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _run_chunk(seeds: list[int]) -> list[SeedResult]:
    results = [_slim(run_seed(seed)) for seed in seeds]
    tidy()
    return results


def tidy() -> None:
    """Collects what seeds left behind. What they share (compiled workflows) is looked at once."""
    gc.collect()
    gc.freeze()


def _slim(result: SeedResult) -> SeedResult:
    """Traces cross to the parent only when somebody will read them."""
    if not result.violations:
        result.trace.clear()
    return result


@dataclass
class Shrunk:
    """A failing seed with every fault left out that it does not need."""

    result: SeedResult
    without: frozenset[int]
    faults: list[str]

    def text(self) -> str:
        first = self.result.violations[0]
        again = f"dressage simulate --seeds {self.result.seed}..{self.result.seed}"
        if self.without:
            again += " --without " + ",".join(map(str, sorted(self.without)))
        before = [line for line in self.result.trace if float(line.split()[0]) <= first.at_s + 0.001]
        lines = [
            f"seed {self.result.seed} breaks a rule: {first}",
            *(f"  also: {violation}" for violation in self.result.violations[1:]),
            "faults that it needs:",
            *(f"  {fault}" for fault in self.faults or ["none"]),
            "what happened before:",
            *(f"  {line}" for line in before[-TRACE_LINES:]),
            f"again, exactly: {again}",
        ]
        return "\n".join(lines)


def shrink(seed: int, rule: str, without: frozenset[int] = frozenset()) -> Shrunk:
    """Leaves out one fault after another as long as the same rule is broken."""
    planned = plan(seed)
    for fault in reversed(planned.faults):
        if fault.number in without:
            continue
        fewer = without | {fault.number}
        smaller = run_seed(seed, fewer, until=frozenset({rule}))
        if any(violation.rule == rule for violation in smaller.violations):
            without = fewer
    result = run_seed(seed, without)
    needed = [str(fault) for fault in planned.faults if fault.number not in without]
    return Shrunk(result, without, needed)


def shrink_apart(result: SeedResult) -> Shrunk:
    """`shrink` in a fresh interpreter, as every seed wants it."""
    with pool(1) as worker:
        return worker.submit(shrink, result.seed, result.violations[0].rule).result()


def run_apart(seed: int, without: frozenset[int] = frozenset()) -> SeedResult:
    """`run_seed` in a fresh interpreter, as every seed wants it."""
    with pool(1) as worker:
        return worker.submit(run_seed, seed, without).result()
