"""Whether something that was sampled over time stays flat, or grows with the runs and no faster.

What is judged is cut into windows, each of which gives one level. The growth is the slope of Theil and Sen through
the levels, the median of the slopes between any two of them, so that a few spikes after faults do not decide. How far
the levels lie off that line says how much of the growth may be noise: so much more is allowed, but never more than a
share of the level at the begin, so that no leak hides behind any noise.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from tests.faults.sampling import Point  # pyright: ignore[reportMissingImports]

WARM_UP: Final = 0.4
"""The part of a series at its begin that is not judged."""

MEASURED: Final = 0.1
"""From here to the end of the warm-up it is measured what a run costs, where things grow with the runs."""

FASTER: Final = 1.25
"""What a run may cost later, as a multiple of what one cost during the warm-up."""

WINDOWS: Final = 12
POINTS_MIN: Final = 2 * WINDOWS
HOUR_S: Final = 3600.0
DEVIATIONS: Final = 3.0
"""So many standard errors of the growth count as noise."""

NOISE_SHARE: Final = 0.5
SIGMA: Final = 1.4826
"""The standard deviation of normal noise, as a multiple of its median absolute deviation."""


@dataclass(frozen=True)
class Rule:
    """What growth is allowed: so much, or such a share of the level at the begin, and so much for each run that ended.

    `per_run` is the most that a run may cost; if the warm-up measured less, then little more than that is allowed.
    `quantile` is the level of a window: its median, or less for what swells with every fault and must come down
    again. `judged_s_min` is how long a series must be for its slope to mean anything. What never exceeds `ceiling`
    may grow as it likes. `why` names what grows by design.
    """

    growth: float
    share: float = 0.05
    per_run: float = 0.0
    quantile: float = 0.5
    ceiling: float = 0.0
    judged_s_min: float = 120.0
    why: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """`flat` None: the series is too short to judge.

    Slopes are of the judged part, as are `levels`, one for each window. `noise` is how much of `allowed` is noise.
    """

    name: str
    first: float
    last: float
    highest: float
    minutes: float
    per_hour: float
    per_1000_runs: float
    allowed: float
    noise: float
    grown: float
    flat: bool | None
    levels: list[float] = []
    why: str = ""


@dataclass(frozen=True)
class Growth:
    """How much the levels rise from the first window to the last, and how much of it may be noise."""

    grown: float
    error: float
    levels: list[float]


def judge(name: str, points: Sequence[Point], rule: Rule) -> Verdict:
    judged = points[int(len(points) * WARM_UP) :]
    seconds = judged[-1].at_s - judged[0].at_s
    runs = judged[-1].runs - judged[0].runs
    along = _runs if rule.per_run else _at_s
    found = _growth(judged, along, rule.quantile)
    level = abs(statistics.median(found.levels[: WINDOWS // 3]))
    noise = min(DEVIATIONS * found.error, NOISE_SHARE * level)
    allowed = max(rule.growth, level * rule.share) + noise + _cost_of_a_run(points, rule) * runs
    highest = max(point.value for point in points)
    enough = len(judged) >= POINTS_MIN and points[-1].at_s - points[0].at_s >= rule.judged_s_min
    return Verdict(
        name=name,
        first=round(points[0].value, 2),
        last=round(points[-1].value, 2),
        highest=round(highest, 2),
        minutes=round((points[-1].at_s - points[0].at_s) / 60, 1),
        per_hour=round(found.grown / seconds * HOUR_S, 2) if seconds else 0.0,
        per_1000_runs=round(found.grown / runs * 1000, 3) if runs else 0.0,
        allowed=round(allowed, 2),
        noise=round(noise, 2),
        grown=round(found.grown, 2),
        flat=(found.grown <= allowed or highest <= rule.ceiling) if enough else None,
        levels=[round(each, 2) for each in found.levels],
        why=rule.why,
    )


def _cost_of_a_run(points: Sequence[Point], rule: Rule) -> float:
    """What a run may cost: what it cost before, if that can be told, and never more than the rule says."""
    measured = points[int(len(points) * MEASURED) : int(len(points) * WARM_UP)]
    if not rule.per_run or len(measured) < WINDOWS:
        return rule.per_run
    runs = measured[-1].runs - measured[0].runs
    found = _growth(measured, _runs, rule.quantile)
    if runs <= 0 or found.grown <= 0:
        return rule.per_run
    return min(rule.per_run, FASTER * found.grown / runs)


def _at_s(point: Point) -> float:
    return point.at_s


def _runs(point: Point) -> float:
    return float(point.runs)


def _growth(points: Sequence[Point], along: Callable[[Point], float], quantile: float) -> Growth:
    """From the first of the points to the last, along time or along the runs."""
    windows = [
        points[len(points) * number // WINDOWS : len(points) * (number + 1) // WINDOWS]
        for number in range(WINDOWS)
    ]
    windows = [window for window in windows if window]
    places = [statistics.median(along(point) for point in window) for window in windows]
    levels = [_quantile([point.value for point in window], quantile) for window in windows]
    slope = _slope(places, levels)
    offs = [level - slope * place for place, level in zip(places, levels, strict=True)]
    middle = statistics.median(offs)
    deviation = SIGMA * statistics.median(abs(off - middle) for off in offs)
    # The standard error of a line's rise over its whole length, for places of about the same distance.
    error = deviation * math.sqrt(12 / len(windows))
    return Growth(slope * (along(points[-1]) - along(points[0])), error, levels)


def _quantile(values: Sequence[float], share: float) -> float:
    if share == 0.5:
        return statistics.median(values)
    return sorted(values)[int(share * (len(values) - 1))]


def _slope(places: Sequence[float], levels: Sequence[float]) -> float:
    pairs = itertools.combinations(zip(places, levels, strict=True), 2)
    slopes = [(level - before) / (place - at) for (at, before), (place, level) in pairs if place > at]
    return statistics.median(slopes) if slopes else 0.0


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
    noise = f", of which noise {verdict.noise:g}" if verdict.noise else ""
    told = f"{verdict.grown:g}, allowed {verdict.allowed:g}{noise}"
    if not verdict.flat:
        return f"GROWS: {told}"
    return f"by design: {verdict.why} ({told})" if verdict.why else f"flat ({told})"
