"""`dressage simulate`: the engine over an in-memory broker, under every fault that a seed can think of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import count, islice
from typing import Any

import click

from dressage.cli.options import as_json
from dressage.protocol.errors import BadInput
from dressage.simulation.catching import Caught, catch_mutants
from dressage.simulation.running import Shrunk, Summary, shrink_apart
from dressage.simulation.running import simulate as run_seeds
from dressage.simulation.seed import SeedResult

SHRUNK_MAX = 2
"""Of so many failing seeds the smallest form is searched for; each takes some seconds."""


def _seeds(_: click.Context, __: click.Parameter, value: str) -> Iterable[int]:
    """`A..B` from A to B, both included; `A..` without an end; `A` alone. No seeds at all would prove nothing."""
    match = re.fullmatch(r"([0-9]{1,18})(?:(\.\.)([0-9]{0,18}))?", value)
    if match is None or (match[3] and int(match[3]) < int(match[1])):
        raise BadInput(f"{value!r} are no seeds: write A..B, A.. or A", code="SEEDS_INVALID")
    first, dots, last = match.groups()
    if dots and not last:
        return count(int(first))
    return range(int(first), int(last or first) + 1)


def _numbers(_: click.Context, __: click.Parameter, value: str) -> frozenset[int]:
    if not re.fullmatch(r"(\d+(,\d+)*)?", value):
        raise BadInput(f"{value!r} are no numbers of faults: write 1,4,5", code="FAULTS_INVALID")
    return frozenset(int(number) for number in value.split(",") if number)


@click.command()
@click.option("--seeds", default="1..200", show_default=True, callback=_seeds, help="A..B, A.. or one seed.")
@click.option(
    "--budget",
    "budget_s",
    type=click.FloatRange(0, min_open=True),
    help="Begin no seed after so many seconds.",
)
@click.option("--processes", type=click.IntRange(1), help="Processes to use; as many as cores, unless told.")
@click.option("--without", default="", callback=_numbers, help="Leave out these faults of a single seed.")
@click.option(
    "--mutants", is_flag=True, help="Also take away one safeguard after another: each must be caught."
)
@as_json
def simulate(
    seeds: Iterable[int],
    budget_s: float | None,
    processes: int | None,
    without: frozenset[int],
    mutants: bool,
    as_json: bool,
) -> None:
    """Run the engine through seeded faults on virtual time, and check that it keeps its promises.

    Each seed is a small system: orchestrators, workers and clients with generated workflows, a few faults, then
    rest and judgement. The same seed gives the same run. A seed that fails is printed with the faults that it needs
    and with what happened before; the exit code is then 1.
    """
    if without:
        _again(_single(seeds), without)
        return
    summary = run_seeds(
        seeds,
        processes=processes or 0,
        budget_s=float("inf") if budget_s is None else budget_s,
        on_result=(lambda _: None) if as_json else _progress(),
    )
    failing = [shrink_apart(result) for result in summary.failing[:SHRUNK_MAX]]
    caught = list(catch_mutants(processes or 0)) if mutants else []
    if as_json:
        click.echo(json.dumps(_as_json(summary, caught, mutants)))
        for shrunk in failing:
            click.echo(shrunk.text(), err=True)
    else:
        _print(summary, failing, caught)
    if summary.failing or any(each.rule is None for each in caught):
        raise SystemExit(1)


def _single(seeds: Iterable[int]) -> int:
    """Faults are numbered within a seed, so leaving some out means nothing for several."""
    first, *others = islice(seeds, 2)
    if others:
        raise BadInput("--without leaves out faults of a single seed: name one", code="SEEDS_INVALID")
    return first


def _again(seed: int, without: frozenset[int]) -> None:
    from dressage.simulation.running import run_apart

    result = run_apart(seed, without)
    click.echo("\n".join(result.trace))
    for violation in result.violations:
        click.echo(f"seed {seed} breaks a rule: {violation}")
    click.echo(f"fingerprint {result.fingerprint}")
    if result.violations:
        raise SystemExit(1)


def _progress() -> Any:
    seen: Iterator[int] = count(1)

    def on_result(result: SeedResult) -> None:
        number = next(seen)
        if result.violations:
            click.echo(f"seed {result.seed}: {result.violations[0]}")
        elif number % 100 == 0:
            click.echo(f"{number} seeds")

    return on_result


def _as_json(summary: Summary, caught: list[Caught], mutants: bool) -> dict[str, Any]:
    found = summary.as_json()
    if mutants:
        found["mutants"] = len(caught)
        found["mutants_caught"] = sum(each.rule is not None for each in caught)
        found["caught_by"] = {each.mutant: {"rule": each.rule, "seeds": each.seeds} for each in caught}
    return found


def _print(summary: Summary, failing: list[Shrunk], caught: list[Caught]) -> None:
    click.echo(
        f"{summary.seeds} seeds, {summary.runs} runs, {summary.commands} commands, {summary.faults} faults: "
        f"{len(summary.failing)} failed. {summary.seeds_per_min:.0f} seeds a minute."
    )
    for each in caught:
        click.echo(
            f"mutant {each.mutant}: "
            + (
                f"caught by {each.rule} after {each.seeds} seeds"
                if each.rule
                else f"NOT CAUGHT in {each.seeds} seeds"
            )
        )
    for shrunk in failing:
        click.echo(f"\n{shrunk.text()}")
