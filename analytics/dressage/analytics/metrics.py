"""What analytics counts. `NoMetrics` counts nothing; `PrometheusMetrics` needs the extra `server`."""

from __future__ import annotations

from typing import Protocol


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


class PrometheusMetrics:
    """See `Metrics`. Registers with the default registry, so there is one for each namespace and process."""

    def __init__(self, namespace: str) -> None:
        # Optional at run time: a service without metrics does not install the client.
        from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

        registry: CollectorRegistry = REGISTRY

        def counter(name: str, text: str) -> Counter:
            return Counter(f"dressage_analytics_{name}", text, ["namespace"], registry=registry)

        self._events = counter("events", "Output events written to the file").labels(namespace)
        self._rejects = counter("rejects", "Messages that are no output events").labels(namespace)
        self._gaps = counter("gaps", "Ranges that the stream dropped before they were read").labels(namespace)
        self._missed = counter("gap_sequences", "Stream sequences inside those ranges").labels(namespace)
        self._lag = Gauge(
            "dressage_analytics_lag", "Stream sequences not yet in the file", ["namespace"], registry=registry
        ).labels(namespace)
        self._queries = Counter(
            "dressage_analytics_queries", "Queries by result", ["namespace", "code"], registry=registry
        )
        self._seconds = Histogram(
            "dressage_analytics_query_seconds", "Time to answer a query", ["namespace"], registry=registry
        ).labels(namespace)
        self._namespace = namespace

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
        self._queries.labels(self._namespace, code or "OK").inc()
        self._seconds.observe(seconds)
