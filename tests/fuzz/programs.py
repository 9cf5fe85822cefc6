"""`make fuzz`, for the language: random workflows as the engine runs them and as Python does, on all cores.

A difference in results, calls, sleeps or failures is written into a folder as a program with its number, and so is one
that is refused or breaks for a reason that is not the generator's own. What the programs consisted of is printed as a
table: each construct, and each that stood directly inside of another one. One that is rare among many programs fails
the command, too: what hardly occurs is hardly compared.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

ROOT: Final = Path(__file__).resolve().parents[2]
CHUNK: Final = 25
RARE: Final = 0.005
MANY: Final = 2_000
"""Of so many programs or more no construct and no pair may be rare."""


@dataclass
class Figures:
    """Of so many programs: how many ran, how their runs ended, and in how many programs what occurred."""

    programs: int = 0
    compiled: int = 0
    refused: int = 0
    seconds: float = 0.0
    endings: Counter[str] = field(default_factory=Counter[str])
    constructs: Counter[str] = field(default_factory=Counter[str])
    pairs: Counter[str] = field(default_factory=Counter[str])
    found: list[str] = field(default_factory=list[str])

    def add(self, other: Figures) -> None:
        self.programs += other.programs
        self.compiled += other.compiled
        self.refused += other.refused
        self.endings += other.endings
        self.constructs += other.constructs
        self.pairs += other.pairs
        self.found += other.found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--programs", type=int, default=int(os.environ.get("FUZZ_PROGRAMS", "1000")))
    parser.add_argument("--first", type=int, default=0, help="the number of the first program")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--found", type=Path, default=Path("build/fuzz"), help="where findings and figures go"
    )
    options = parser.parse_args()
    folder = options.found / "programs"
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    total = Figures()
    numbers = range(options.first, options.first + options.programs)
    for done in compared(numbers, options.workers):
        total.add(done)
        total.seconds = round(time.monotonic() - started, 1)
        for text in done.found:
            (folder / f"{text.split()[1]}.py").write_text(text)
        progress = (
            f"{total.programs} of {options.programs} programs, {len(total.found)} found, {total.seconds} s"
        )
        print(progress, end="\r" if sys.stderr.isatty() else "\n", file=sys.stderr, flush=True)
    print(table(total))
    (folder / "figures.json").write_bytes(msgspec.json.format(msgspec.json.encode(total)))
    for text in total.found[:5]:
        print(text)
    scarce = rare(total) if total.programs >= MANY else []
    if scarce:
        print(f"in less than {RARE:.1%} of the programs: {', '.join(scarce)}")
    return 1 if total.found or scarce else 0


def compared(numbers: range, workers: int) -> Iterator[Figures]:
    chunks = [numbers[place : place + CHUNK] for place in range(0, len(numbers), CHUNK)]
    if workers == 1:
        yield from map(compare_all, chunks)
        return
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=40) as pool:
        yield from pool.imap_unordered(compare_all, chunks)


def compare_all(numbers: Iterable[int]) -> Figures:
    """Compares these programs, whatever they come to."""
    figures = Figures()
    for number in numbers:
        figures.programs += 1
        try:
            compare(number, figures)
        except Exception:
            figures.found.append(f"# {number}\n{_commented(traceback.format_exc())}\n{_text(number)}")
    return figures


def compare(number: int, figures: Figures) -> None:
    """Compares one program. Raises `AssertionError` for a difference."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from tests.flow import equality  # pyright: ignore[reportMissingImports]

    told = equality.compare(number, equality.input_of(number))
    if told is None:
        figures.refused += 1
        return
    program, endings = told
    figures.compiled += 1
    figures.endings.update(endings)
    figures.constructs.update(program.used.keys())
    figures.pairs.update(f"{inner} in {outer}" for outer, inner in program.pairs)


def rare(figures: Figures) -> list[str]:
    """Which of all constructs, and of all pairs that there can be, occurred in too few of the programs, or in none."""
    from dressage.simulation.programs import CONSTRUCTS, LEAVING, can_nest, holders

    single = [*CONSTRUCTS, *LEAVING]
    pairs = [f"{inner} in {outer}" for outer in holders() for inner in single if can_nest(outer, inner)]
    least = RARE * figures.compiled
    return [name for name in single if figures.constructs[name] < least] + [
        name for name in pairs if figures.pairs[name] < least
    ]


def table(figures: Figures) -> str:
    """In which share of the programs that ran each construct and each pair occurred, the rarest last."""
    lines = [
        f"{figures.programs} programs in {figures.seconds} s: {figures.compiled} compared, {figures.refused} refused, "
        f"{len(figures.found)} found; their runs ended with {dict(figures.endings)}"
    ]
    for title, counted in (("construct", figures.constructs), ("pair", figures.pairs)):
        lines += ["", f"{title:<40}programs"]
        lines += [
            f"{name:<40}{count / max(1, figures.compiled):8.2%}{'  rare' * (count < RARE * figures.compiled)}"
            for name, count in counted.most_common()
        ]
    return "\n".join(lines)


def _text(number: int) -> Any:
    from tests.flow import equality  # pyright: ignore[reportMissingImports]

    return equality.program_of(number).text()


def _commented(text: str) -> str:
    return "".join(f"# {line}\n" for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
