"""The command `dressage`: one click group, whose commands live in a module each and are imported when called.

Exit codes: 0 for success, 1 for an error that Dressage names, 2 for a call that cannot be understood.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import click

from dressage.cli.lifeline import hold_lifeline
from dressage.protocol.errors import DressageError


class Place(NamedTuple):
    """Where a command is defined, and what the list of commands says of it."""

    module: str
    attribute: str
    help: str


COMMANDS: Final[Mapping[str, Place]] = {
    "demo": Place("demo", "demo", "Run a shop's orders through everything, and ask SQL how they went."),
    "init": Place("init", "init", "Write a small project that works, to begin with."),
    "dev": Place("dev", "dev", "Run a broker, the engine and your application in one process."),
    "orchestrator": Place("orchestrator", "orchestrator", "Serve the shards of a namespace."),
    "worker": Place("worker", "worker", "Execute the tasks of an application."),
    "trigger": Place(
        "triggers", "trigger", "Start runs, and post to them, from the events of other services."
    ),
    "http": Place("http", "http", "Start runs, read them, and post to them, by HTTP."),
    "webhook": Place("webhooks", "webhook", "Start runs, and post to them, from signed HTTP requests."),
    "outbox": Place("outbox", "outbox", "Send what applications have committed to their own databases."),
    "connect": Place("connect", "connect", "Let Kafka start runs, and output events go out to others."),
    "analytics": Place("analytics", "analytics", "Write the output events into a DuckDB file."),
    "query": Place("analytics", "query", "Ask the analytics process in SQL."),
    "mining": Place("mining", "mining", "See which step follows which, and write logs for process mining."),
    "deploy": Place("workflows", "deploy", "Register definitions, or say what registering them would break."),
    "workflow": Place("workflows", "workflow", "Read definitions, and say which versions new runs get."),
    "spec": Place("spec", "spec", "Show what a definition does, and what changed between two."),
    "run": Place("runs", "runs", "Start runs, wait for them, and read them."),
    "search": Place("search", "search", "Find runs by what is known of them."),
    "count": Place("search", "count", "Say how many runs there are of a kind."),
    "bulk": Place("bulk", "bulk", "Do the same with all runs that a search finds."),
    "why": Place("why", "why", "Say why a run stands where it stands, and what would let it go on."),
    "tail": Place("tail", "tail", "Show what happens in all runs, as it happens."),
    "event": Place("events", "events", "Post external events to correlation keys, and look at a key."),
    "task": Place("tasks", "tasks", "Find tasks whose last attempt has failed, and retry them."),
    "user-task": Place("user_tasks", "user_tasks", "Find what people have to do, and do it."),
    "schedule": Place("schedules", "schedules", "Start runs by themselves, at the moments of a calendar."),
    "migrate": Place("migrations", "migrate", "Let runs go on in another version of their workflow."),
    "retention": Place("retention", "retention", "Say for how long runs are kept that have ended."),
    "objects": Place("objects", "objects", "Remove large values that belong to no run."),
    "simulate": Place("simulate", "simulate", "Run the engine through seeded faults on virtual time."),
    "shards": Place("shards", "shards", "Show who serves which slice of a namespace, and cut it anew."),
    "api": Place("api", "api", "Show what the micro service is asked, and what it answers."),
    "doctor": Place(
        "doctor", "doctor", "Look at the server, its streams and the shards, and say what to do."
    ),
    "bench": Place("bench", "bench", "Measure the engine beside bare JetStream."),
    "completion": Place("completion", "completion", "Print what a shell needs to complete commands."),
}
"""The help stands here so that listing the commands imports none of them."""

EXTRA_OF: Final = {
    "confluent_kafka": "kafka",
    "duckdb": "analytics",
    "httpx": "webhooks",
    "psycopg": "postgres",
    "pymysql": "mysql",
    "prometheus_client": "server",
    "uvicorn": "http",
}
"""Which extra brings a module that is not there."""


class Failure(click.ClickException):
    """Shows an error of ours as `CODE: message`."""

    exit_code = 1

    def __init__(self, error: DressageError) -> None:
        super().__init__(error.message)
        self.code = error.code

    def show(self, file: Any = None) -> None:
        click.echo(f"{self.code}: {self.message}", err=True, file=file)


class Commands(click.Group):
    """Imports the module of a command when that command is called, and turns our errors into a line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        try:
            module = importlib.import_module(f"dressage.cli.{place.module}")
        except ModuleNotFoundError as error:
            raise Failure(missing_extra(error)) from error
        command = getattr(module, place.attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except DressageError as error:
            raise Failure(error) from error
        except ModuleNotFoundError as error:
            raise Failure(missing_extra(error)) from error


def missing_extra(error: ModuleNotFoundError) -> DressageError:
    """What to install for a module that is absent. Raises the error itself when no extra would bring it."""
    extra = EXTRA_OF.get((error.name or "").partition(".")[0])
    if extra is None:
        raise error
    return DressageError(
        f"{error.name} is not installed: pip install 'dressage[{extra}]'", code="EXTRA_MISSING"
    )


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dressage", prog_name="dressage")
@click.option("-v", "--verbose", count=True, help="Show what happens (-v), and every detail of it (-vv).")
def main(verbose: int) -> None:
    """Durable workflows on NATS JetStream, in plain Python."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    hold_lifeline()


if __name__ == "__main__":
    main()
