"""What an orchestrator counts."""

from __future__ import annotations

from typing import Final

from dressage.protocol.events import (
    EventData,
    RunCancelled,
    RunCompleted,
    RunFailed,
    RunFaulted,
    RunRescued,
    RunStarted,
    TaskCompleted,
    TaskFailed,
    TaskScheduled,
)
from dressage.telemetry import Meters, NoMeters

TURN_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
TURN_COMMANDS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
WAIT_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
RUN_SECONDS: Final = (0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3600.0, 86_400.0, 604_800.0, 2_592_000.0)
"""Runs live for milliseconds, or for months."""

_STATUS: Final[dict[type[EventData], str]] = {
    RunStarted: "started",
    RunRescued: "rescued",
    RunCompleted: "completed",
    RunFailed: "failed",
    RunCancelled: "cancelled",
    RunFaulted: "faulted",
}


class EngineMetrics:
    """One set for all shards of a process."""

    def __init__(self, meters: Meters | None = None) -> None:
        meters = meters or NoMeters()
        self.commands = meters.counter(
            "commands_total", "Commands folded, by outcome: accepted, or the code of the refusal", ["outcome"]
        )
        self.unanswered = meters.counter(
            "answers_unsent_total", "Answers whose reply subject cannot be sent to"
        )
        self.turn_seconds = meters.histogram(
            "turn_seconds", "Time until a turn was committed", ["shard"], TURN_SECONDS
        )
        self.turn_commands = meters.histogram(
            "turn_commands", "Commands that a turn has folded", ["shard"], TURN_COMMANDS
        )
        self.events = meters.counter("events_total", "Output events published")
        self.published = meters.counter("published_total", "Domain events stored on users' subjects")
        self.unpublished = meters.gauge(
            "unpublished", "Domain events on their way to users' subjects, or that no stream takes", ["shard"]
        )
        self.states = meters.counter("states_total", "Run states written to the bucket")
        self._runs = meters.counter(
            "runs_total", "Runs started, rescued and ended, by status", ["status", "workflow"]
        )
        self._run_seconds = meters.histogram(
            "run_seconds", "Time from the start of a run to its end", ["status", "workflow"], RUN_SECONDS
        )
        self._tasks = meters.counter(
            "tasks_total", "Attempts scheduled and ended, by outcome", ["outcome", "task"]
        )
        self._task_wait = meters.histogram(
            "task_wait_seconds", "Time of an attempt that was outside of its handler", ["task"], WAIT_SECONDS
        )
        self.faults = meters.counter("engine_faults_total", "Commands whose fold raised: bugs of the engine")
        self.dead_letters = meters.counter("dead_letters_total", "Dead letters, by origin", ["origin"])
        self.requests = meters.counter(
            "api_requests_total", "API requests, by operation and code", ["op", "code"]
        )
        self.tenures = meters.counter("tenures_total", "Tenures of shards that ended")
        self.owned = meters.gauge("shard_owned", "1 while this process serves the shard", ["shard"])
        self.backlog = meters.gauge("shard_backlog", "Commands delivered and not yet folded", ["shard"])
        self.lag = meters.gauge("shard_lag_seconds", "Age of the oldest of them", ["shard"])
        self.uncovered = meters.gauge(
            "shard_uncovered", "Commands whose states are not stored: a take-over folds them again", ["shard"]
        )
        self.behind = meters.gauge(
            "shard_events_behind", "Output events of committed turns that are not stored", ["shard"]
        )
        self.waiting = meters.gauge("queue_waiting", "Attempts that no worker has taken", ["shard", "queue"])
        self.taken = meters.gauge("queue_taken", "Attempts that are with workers", ["shard", "queue"])

    def happened(self, event: EventData, workflow: str) -> None:
        """Counts what an output event of a run of `workflow` says."""
        match event:
            case TaskScheduled():
                self._tasks.labels("scheduled", event.task).inc()
            case TaskCompleted():
                self._tasks.labels("completed", event.task).inc()
                self._task_wait.labels(event.task).observe(
                    max(0.0, event.waited_ms - event.duration_ms) / 1000
                )
            case TaskFailed():
                outcome = "failed" if event.failure.kind == "failure" else "errored"
                self._tasks.labels(outcome, event.task).inc()
            case RunStarted() | RunRescued() | RunFaulted() | RunCompleted() | RunFailed() | RunCancelled():
                status = _STATUS[type(event)]
                self._runs.labels(status, workflow).inc()
                if isinstance(event, RunCompleted | RunFailed | RunCancelled):
                    self._run_seconds.labels(status, workflow).observe(event.duration_ms / 1000)
            case _:
                pass
