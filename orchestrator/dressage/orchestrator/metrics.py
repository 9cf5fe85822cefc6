"""What an orchestrator counts."""

from __future__ import annotations

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
from dressage.telemetry import Counter, Meters, NoMeters


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
        self.turns = meters.counter("turns_total", "Turns committed")
        self.events = meters.counter("events_total", "Output events published")
        self.published = meters.counter("published_total", "Domain events stored on users' subjects")
        self.unpublished = meters.gauge(
            "unpublished", "Domain events on their way to users' subjects, or that no stream takes", ["shard"]
        )
        self.states = meters.counter("states_total", "Run states written to the bucket")
        self.runs = meters.counter("runs_total", "Runs started, rescued and ended, by status", ["status"])
        self.tasks = meters.counter("tasks_total", "Attempts scheduled and ended, by outcome", ["outcome"])
        self.faults = meters.counter("engine_faults_total", "Commands whose fold raised: bugs of the engine")
        self.dead_letters = meters.counter("dead_letters_total", "Dead letters, by origin", ["origin"])
        self.requests = meters.counter(
            "api_requests_total", "API requests, by operation and code", ["op", "code"]
        )
        self.tenures = meters.counter("tenures_total", "Tenures of shards that ended")
        self.owned = meters.gauge("shard_owned", "1 while this process serves the shard", ["shard"])
        self._by_event: dict[type[EventData], Counter] = {
            RunStarted: self.runs.labels("started"),
            RunCompleted: self.runs.labels("completed"),
            RunFailed: self.runs.labels("failed"),
            RunCancelled: self.runs.labels("cancelled"),
            RunFaulted: self.runs.labels("faulted"),
            RunRescued: self.runs.labels("rescued"),
            TaskScheduled: self.tasks.labels("scheduled"),
            TaskCompleted: self.tasks.labels("completed"),
        }
        self._failed, self._errored = self.tasks.labels("failed"), self.tasks.labels("errored")
        self.backlog = meters.gauge("shard_backlog", "Commands delivered and not yet folded", ["shard"])

    def happened(self, event: EventData) -> None:
        """Counts what an output event says."""
        if isinstance(event, TaskFailed):
            (self._failed if event.failure.kind == "failure" else self._errored).inc()
        elif (counter := self._by_event.get(type(event))) is not None:
            counter.inc()
