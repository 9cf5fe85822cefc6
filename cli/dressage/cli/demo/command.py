"""The command, and the course of the demo."""

from __future__ import annotations

import asyncio
import importlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from dressage.cli.demo.accounting import (
    DeadLetter,
    Expected,
    differences,
    read_dead_letters,
    read_found,
    read_published,
)
from dressage.cli.demo.progress import Counts, Showing
from dressage.cli.demo.questions import QUESTIONS, Question, show
from dressage.cli.demo.stage import STREAM, TRIGGER, Stage, StageConfig
from dressage.cli.running import run, signals
from dressage.protocol.errors import BadInput, DressageError

POLL_S: Final = 0.4
STALLED_S: Final = 20.0
"""Nothing has moved for so long: what is missing then will not come, and is named."""

SHOWN_MAX: Final = 20
PIPE_COLUMNS: Final = 120

_COUNTS: Final = """SELECT (SELECT count(*) FROM run_starts), (SELECT count(*) FROM run_ends),
       (SELECT count(*) FROM attempt_ends)"""


@click.command()
@click.option("--invoices", type=click.IntRange(1), help="Only so many of the 1,088, spread over all days.")
@click.option(
    "--rate", type=click.FloatRange(1), default=120.0, show_default=True, help="Events published a second."
)
@click.option(
    "--shards", type=click.IntRange(1, 16), default=1, show_default=True, help="Shards of the engine."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep streams, logs and the DuckDB file in this new folder.  [default: a temporary one, removed]",
)
def demo(invoices: int | None, rate: float, shards: int, data: Path | None) -> None:
    """Run a shop's orders through everything, and ask SQL how they went.

    Exits with 0 only if each event that was published is accounted for.
    """
    importlib.import_module(
        "duckdb"
    )  # An extra, which its analytics process needs: better said before than then.
    examples = _examples()
    if data is not None and data.exists() and any(data.iterdir()):
        raise BadInput(
            f"{data} is not empty. Orders are known by their invoice, so a second demo there would start nothing: "
            "name a new folder",
            code="DATA_NOT_EMPTY",
        )
    folder = data or Path(tempfile.mkdtemp(prefix="dressage-demo-"))
    config = StageConfig(examples, folder.absolute(), shards, invoices, rate)
    try:
        # In a pipe a table must not be cut to the width of a terminal that is not there.
        run(_until_interrupted(_Demo(config, Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS))))
    except DressageError:
        click.echo(f"logs and data are kept in {folder}", err=True)
        raise
    except BaseException:
        _remove(folder, data)
        raise
    _remove(folder, data)


def _remove(folder: Path, wanted: Path | None) -> None:
    if wanted is None:
        shutil.rmtree(folder, ignore_errors=True)


def _examples() -> Path:
    """The repository's examples, which are no part of the installed package."""
    for root in (Path(__file__).resolve().parents[4], Path.cwd()):
        if (root / "examples" / "online_retail" / "worker.py").exists():
            return root / "examples"
    raise BadInput(
        "the demo needs the folder examples/ of the repository: call it from a clone, as `make demo` does",
        code="EXAMPLES_MISSING",
    )


async def _until_interrupted(course: _Demo) -> None:
    """Ctrl-C and SIGTERM end the demo as its own end does: every process is stopped, in order."""
    task = asyncio.create_task(course.run())
    with signals(task.cancel):
        try:
            await task
        except asyncio.CancelledError:
            raise click.Abort from None


@dataclass(frozen=True)
class _Plan:
    """What the example says will be published, and what must come of it."""

    expected: dict[str, Expected]
    events: int
    unreadable: int
    run_id_prefix: str


class _Demo:
    """One performance."""

    def __init__(self, config: StageConfig, console: Console) -> None:
        self._config = config
        self._console = console
        self._began = time.monotonic()

    async def run(self) -> None:
        self._say("starting a broker and one process each: orchestrator, worker, analytics, trigger, shop")
        # Reading the invoices takes as long as the processes take to start.
        planning = asyncio.create_task(asyncio.to_thread(self._plan))
        async with AsyncExitStack() as stack:
            stage = await Stage.open(self._config, stack)
            plan = await planning
            again = plan.events - len(plan.expected) - plan.unreadable
            self._say(
                f"publishing {len(plan.expected)} orders, {again} of them twice, and {plan.unreadable} events "
                "that were made up to be unreadable"
            )
            async with stage.publisher() as publisher:
                with Showing(self._console, plan.events, len(plan.expected), plan.unreadable) as showing:
                    await self._watch(stage, plan, showing)
                if publisher.process.returncode:
                    raise publisher.failure()
            await self._answer(stage)
            await self._account(stage, plan)
        self._say(f"done in {time.monotonic() - self._began:.0f} s")

    def _plan(self) -> _Plan:
        """Asks the example. It is loaded by name, because it is a user of Dressage and no part of it."""
        sys.path.insert(0, str(self._config.examples))
        orders: Any = importlib.import_module("online_retail.orders")
        publish: Any = importlib.import_module("online_retail.publish")
        expected: Any = importlib.import_module("online_retail.expected")
        chosen = {each.number for each in orders.sample(orders.read_invoices(), self._config.invoices)}
        return _Plan(
            {number: outcome for number, outcome in expected.outcomes().items() if number in chosen},
            len(list(publish.events(self._config.invoices, malformed=True))),
            len(orders.malformed_events()),
            expected.RUN_ID_PREFIX,
        )

    # -- watching ----------------------------------------------------------------------------------
    async def _watch(self, stage: Stage, plan: _Plan, showing: Showing) -> None:
        """Returns when as much has ended as should, or when nothing has moved for long."""
        before, moved_at = Counts(), time.monotonic()
        while time.monotonic() - moved_at < STALLED_S:
            stage.check()
            counts = await self._counts(stage)
            if counts != before:
                before, moved_at = counts, time.monotonic()
            complete = (
                counts.published >= plan.events
                and counts.ended >= len(plan.expected)
                and counts.dead >= plan.unreadable
            )
            showing.show(counts, last=complete)
            if complete:
                return
            await asyncio.sleep(POLL_S)
        showing.show(before, last=True)

    async def _counts(self, stage: Stage) -> Counts:
        published, dead = await stage.last_seq(STREAM), await stage.last_seq(stage.names.dead_stream)
        ((started, ended, attempts),) = (await stage.ask(_COUNTS)).rows
        return Counts(published, started, ended, attempts, dead)

    # -- the end -----------------------------------------------------------------------------------
    async def _answer(self, stage: Stage) -> None:
        position = await stage.last_seq(stage.names.events_stream)
        for question in QUESTIONS:
            answer = await stage.ask(question.sql, not_before=position)
            show(self._console, question, answer.columns, answer.rows)

    async def _account(self, stage: Stage, plan: _Plan) -> None:
        """Raises `DressageError` that names what is missing or wrong."""
        position = await stage.last_seq(stage.names.events_stream)
        published = await read_published(stage.connection, STREAM, plan.expected)
        letters = await read_dead_letters(stage.connection, stage.names, TRIGGER)
        self._show_letters(letters)
        found = await read_found(lambda sql: stage.ask(sql, not_before=position))
        wrong = sorted(
            differences(plan.expected, plan.unreadable, published, found, letters, plan.run_id_prefix)
        )
        if wrong:
            more = [f"... and {len(wrong) - SHOWN_MAX} more"] if len(wrong) > SHOWN_MAX else []
            text = "\n".join(["not everything is accounted for:", *wrong[:SHOWN_MAX], *more])
            raise DressageError(text, code="NOT_ACCOUNTED_FOR")
        repeats = published.events - len(plan.expected) - len(letters)
        kinds = Counter(each.status.lower() for each in plan.expected.values())
        self._console.print()
        self._say(
            f"accounted for: {published.events} events = {len(plan.expected)} orders + {repeats} repeats "
            f"+ {len(letters)} dead letters. Each order has exactly one run, and it ended as the CSV files say: "
            + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        )

    def _show_letters(self, letters: list[DeadLetter]) -> None:
        question = Question(
            "Which events could not be mapped? (The CSV files have none: these were made up.)",
            f"the dead letters of trigger {TRIGGER}, read from their stream",
        )
        rows = [[letter.sequence, letter.code, letter.reason] for letter in letters]
        show(self._console, question, ["event", "code", "reason"], rows)

    def _say(self, text: str) -> None:
        self._console.print(
            f"{time.monotonic() - self._began:5.1f} s  {text}", highlight=False, soft_wrap=True
        )
