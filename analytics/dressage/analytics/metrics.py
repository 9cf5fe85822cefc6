"""What analytics counts. `NoMetrics` counts nothing, `Metered` with the meters of the process."""

from __future__ import annotations

from typing import Protocol

from dressage.telemetry import Meters


class Metrics(Protocol):
    """Gets told; must not block and must not raise."""

    def ingested(self, events: int) -> None: ...

    def rejected(self, events: int) -> None: ...

    def lost(self, sequences: int) -> None:
        """One more gap, of that many stream sequences."""
        ...

    def lag(self, sequences: int) -> None:
        """The stream's last sequence minus the position of the file."""
        ...

    def answered(self, code: str, seconds: float) -> None:
        """A query was answered; `code` is empty when it succeeded."""
        ...


class NoMetrics:
    """See `Metrics`."""

    def ingested(self, events: int) -> None: ...

    def rejected(self, events: int) -> None: ...

    def lost(self, sequences: int) -> None: ...

    def lag(self, sequences: int) -> None: ...

    def answered(self, code: str, seconds: float) -> None: ...


class Metered:
    """See `Metrics`."""

    def __init__(self, meters: Meters) -> None:
        self._events = meters.counter("analytics_events_total", "Output events written to the file")
        self._rejects = meters.counter("analytics_rejects_total", "Messages that are no output events")
        self._gaps = meters.counter(
            "analytics_gaps_total", "Ranges that the stream dropped before they were read"
        )
        self._missed = meters.counter("analytics_gap_sequences_total", "Stream sequences inside those ranges")
        self._lag = meters.gauge("analytics_lag", "Stream sequences not yet in the file")
        self._queries = meters.counter("analytics_queries_total", "Queries, by result", ["code"])
        self._seconds = meters.histogram("analytics_query_seconds", "Time to answer a query")

    def ingested(self, events: int) -> None:
        self._events.inc(events)

    def rejected(self, events: int) -> None:
        self._rejects.inc(events)

    def lost(self, sequences: int) -> None:
        self._gaps.inc()
        self._missed.inc(sequences)

    def lag(self, sequences: int) -> None:
        self._lag.set(sequences)

    def answered(self, code: str, seconds: float) -> None:
        self._queries.labels(code or "OK").inc()
        self._seconds.observe(seconds)
