"""Whether something that was sampled over time stays flat, or grows with the runs and no faster."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from tests.faults.sampling import Point  # pyright: ignore[reportMissingImports]

WARM_UP: Final = 0.4
"""The part of a series at its begin that is not judged."""

POINTS_MIN: Final = 10
HOUR_S: Final = 3600.0


@dataclass(frozen=True)
class Rule:
    """What growth is allowed: so much, or such a share of the size, and so much for each run that ended.

    `judged_s_min` is how long a series must be for its slope to mean anything. `runs_max` is behind how many runs
    the allowance for runs ends (0: never). What never exceeds `ceiling` may grow as it likes. `why` names what grows
    by design.
    """

    growth: float
    share: float = 0.05
    per_run: float = 0.0
    runs_max: int = 0
    ceiling: float = 0.0
    judged_s_min: float = 120.0
    why: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """`flat` None: the series is too short to judge. Slopes are of the judged part, by least squares."""

    name: str
    first: float
    last: float
    highest: float
    minutes: float
    per_hour: float
    per_1000_runs: float
    allowed: float
    grown: float
    flat: bool | None
    why: str = ""


def judge(name: str, points: Sequence[Point], rule: Rule) -> Verdict:
    judged = points[int(len(points) * WARM_UP) :]
    seconds = judged[-1].at_s - judged[0].at_s
    runs = judged[-1].runs - judged[0].runs
    slope = _slope([point.at_s for point in judged], [point.value for point in judged])
    grown = slope * seconds
    counted = (
        runs if not rule.runs_max else max(0, min(runs, rule.runs_max - (judged[0].runs - points[0].runs)))
    )
    size = statistics.median(point.value for point in judged)
    allowed = max(rule.growth, size * rule.share) + rule.per_run * counted
    highest = max(point.value for point in points)
    enough = len(judged) >= POINTS_MIN and points[-1].at_s - points[0].at_s >= rule.judged_s_min
    return Verdict(
        name,
        round(points[0].value, 2),
        round(points[-1].value, 2),
        round(highest, 2),
        round((points[-1].at_s - points[0].at_s) / 60, 1),
        round(slope * HOUR_S, 2),
        round(grown / runs * 1000, 3) if runs else 0.0,
        round(allowed, 2),
        round(grown, 2),
        (grown <= allowed or highest <= rule.ceiling) if enough else None,
        rule.why,
    )


def _slope(times: Sequence[float], values: Sequence[float]) -> float:
    if len(set(times)) < 2:
        return 0.0
    return statistics.linear_regression(times, values).slope


def table(verdicts: Sequence[Verdict]) -> str:
    """Units are those in the names, the slope's also for each hour and each 1,000 runs."""
    lines = [
        f"{'what':<34}{'first':>10}{'last':>10}{'highest':>10}{'min':>7}{'per hour':>12}{'per 1000 runs':>15}  verdict"
    ]
    lines += [
        f"{each.name:<34}{each.first:>10.1f}{each.last:>10.1f}{each.highest:>10.1f}{each.minutes:>7.1f}"
        f"{each.per_hour:>12.1f}{each.per_1000_runs:>15.3f}  {_in_words(each)}"
        for each in verdicts
    ]
    return "\n".join(lines)


def _in_words(verdict: Verdict) -> str:
    if verdict.flat is None:
        return "too short to judge"
    if not verdict.flat:
        return f"GROWS: {verdict.grown:g}, allowed {verdict.allowed:g}"
    return f"by design: {verdict.why}" if verdict.why else "flat"
