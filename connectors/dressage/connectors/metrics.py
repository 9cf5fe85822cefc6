"""What triggers count. Every meter has the trigger's name as its first label."""

from __future__ import annotations

from math import nan

from dressage.connectors.mapping import Post, Start
from dressage.telemetry import Counter, Gauge, Meters


class Metrics:
    """The meters of a process, for all of its triggers."""

    def __init__(self, meters: Meters) -> None:
        label, code = ["trigger"], ["trigger", "code"]
        self.events = meters.counter(
            "trigger_events_total", "Deliveries from the source, repeated ones too", label
        )
        self.started = meters.counter("trigger_started_total", "Events that started a run", label)
        self.posted = meters.counter(
            "trigger_posted_total", "Events that were posted as external events", label
        )
        self.existing = meters.counter(
            "trigger_existing_total", "Events that the engine knew before, as after a redelivery", label
        )
        self.refused = meters.counter(
            "trigger_refused_total", "Messages without a stream that came when too many were held", label
        )
        self.skipped = meters.counter("trigger_skipped_total", "Events that `when` left out", label)
        self.dead = meters.counter(
            "trigger_dead_letters_total", "Events that ask for nothing that there is", code
        )
        self.retries = meters.counter(
            "trigger_retries_total", "Deliveries put back for a passing fault", code
        )
        self.lag = meters.gauge("trigger_lag", "Events of the source that are not dealt with", label)
        self.active = meters.gauge(
            "trigger_active",
            "1 in the process that takes the events of a trigger with order_by or batch",
            label,
        )
        self.faulty = meters.gauge("trigger_faulty", "1 while a passing fault holds the trigger up", label)


class TriggerMetrics:
    """The meters of one trigger, which show from its beginning, at 0."""

    def __init__(self, all_triggers: Metrics, trigger: str) -> None:
        self._all = all_triggers
        self._trigger = trigger
        self.events: Counter = all_triggers.events.labels(trigger)
        self.started: Counter = all_triggers.started.labels(trigger)
        self.posted: Counter = all_triggers.posted.labels(trigger)
        self.existing: Counter = all_triggers.existing.labels(trigger)
        self.refused: Counter = all_triggers.refused.labels(trigger)
        self.skipped: Counter = all_triggers.skipped.labels(trigger)
        self.lag: Gauge = all_triggers.lag.labels(trigger)
        # Until it has been asked for it is not known to be none.
        self.lag.set(nan)
        self.active: Gauge = all_triggers.active.labels(trigger)
        self.faulty: Gauge = all_triggers.faulty.labels(trigger)

    def accepted(self, request: Start | Post, *, existing: bool, count: int = 1) -> None:
        """The engine has taken what so many events asked for."""
        counter = self.posted if isinstance(request, Post) else self.started
        (self.existing if existing else counter).inc(count)

    def dead_letter(self, code: str) -> None:
        self._all.dead.labels(self._trigger, code).inc()

    def retry(self, code: str) -> None:
        self._all.retries.labels(self._trigger, code).inc()
