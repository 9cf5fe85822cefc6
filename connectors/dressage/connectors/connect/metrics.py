"""What connectors count. Every meter has the connector's name as its first label."""

from __future__ import annotations

from math import nan

from dressage.telemetry import Counter, Gauge, Meters


class Metrics:
    """The meters of a process, for all of its connectors."""

    def __init__(self, meters: Meters) -> None:
        label, code = ["connector"], ["connector", "code"]
        self.records = meters.counter(
            "connector_records_total",
            "Records read from Kafka or committed to it, or events that were taken",
            label,
        )
        self.done = meters.counter(
            "connector_done_total", "Records of which the engine has a run or an event", label
        )
        self.existing = meters.counter(
            "connector_existing_total",
            "Records whose run or event was there before, as after a redelivery",
            label,
        )
        self.skipped = meters.counter(
            "connector_skipped_total", "Records or events that a filter left out", label
        )
        self.dead = meters.counter(
            "connector_dead_letters_total", "Records or events that cannot be dealt with, and are kept", code
        )
        self.retries = meters.counter(
            "connector_retries_total", "Records or events that wait for a passing fault", code
        )
        self.paused = meters.counter(
            "connector_pauses_total", "Partitions paused, as too much was under way", label
        )
        self.transactions = meters.counter(
            "connector_transactions_total", "Kafka transactions committed", label
        )
        self.lag = meters.gauge("connector_lag", "Records or events that are not dealt with", label)
        self.active = meters.gauge("connector_active", "1 while this process is the one that writes", label)
        self.faulty = meters.gauge(
            "connector_faulty", "1 while a passing fault holds the connector up", label
        )
        self.failed = meters.gauge("connector_failed", "1 after an error that somebody has to look at", label)


class ConnectorMetrics:
    """The meters of one connector, which show from its beginning, at 0."""

    def __init__(self, all_connectors: Metrics, connector: str) -> None:
        self._all = all_connectors
        self._connector = connector
        self.records: Counter = all_connectors.records.labels(connector)
        self.done: Counter = all_connectors.done.labels(connector)
        self.existing: Counter = all_connectors.existing.labels(connector)
        self.skipped: Counter = all_connectors.skipped.labels(connector)
        self.paused: Counter = all_connectors.paused.labels(connector)
        self.transactions: Counter = all_connectors.transactions.labels(connector)
        self.lag: Gauge = all_connectors.lag.labels(connector)
        self.lag.set(nan)
        self.active: Gauge = all_connectors.active.labels(connector)
        self.faulty: Gauge = all_connectors.faulty.labels(connector)
        self.failed: Gauge = all_connectors.failed.labels(connector)

    def dead_letter(self, code: str) -> None:
        self._all.dead.labels(self._connector, code).inc()

    def retry(self, code: str) -> None:
        self._all.retries.labels(self._connector, code).inc()
