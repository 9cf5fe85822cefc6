"""Counters that Prometheus can read, or that cost nothing where prometheus-client is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from dressage.protocol.errors import BadInput

__all__ = ["Counter", "Gauge", "Histogram", "Meters", "NoMeters", "PrometheusMeters", "meters_for"]


class Counter(Protocol):
    def inc(self, amount: float = 1) -> None: ...

    def labels(self, *values: str) -> Counter: ...


class Gauge(Protocol):
    def set(self, value: float) -> None: ...

    def labels(self, *values: str) -> Gauge: ...


class Histogram(Protocol):
    def observe(self, amount: float) -> None: ...

    def labels(self, *values: str) -> Histogram: ...


class Meters(Protocol):
    """Makes meters; names get the prefix `dressage_`."""

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter: ...

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge: ...

    def histogram(self, name: str, about: str, labels: Sequence[str] = ()) -> Histogram: ...


class _Silent:
    def inc(self, amount: float = 1) -> None:
        pass

    def set(self, value: float) -> None:
        pass

    def observe(self, amount: float) -> None:
        pass

    def labels(self, *values: str) -> _Silent:
        return self


class NoMeters:
    """Meters that measure nothing."""

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        return _Silent()

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        return _Silent()

    def histogram(self, name: str, about: str, labels: Sequence[str] = ()) -> Histogram:
        return _Silent()


class PrometheusMeters:
    """Meters of a registry of their own, served on a port of this process."""

    def __init__(self) -> None:
        import prometheus_client

        self._module: Any = prometheus_client
        self.registry = prometheus_client.CollectorRegistry()

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        made: Counter = self._module.Counter(f"dressage_{name}", about, labels, registry=self.registry)
        return made

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        made: Gauge = self._module.Gauge(f"dressage_{name}", about, labels, registry=self.registry)
        return made

    def histogram(self, name: str, about: str, labels: Sequence[str] = ()) -> Histogram:
        made: Histogram = self._module.Histogram(f"dressage_{name}", about, labels, registry=self.registry)
        return made

    def serve(self, port: int, host: str = "127.0.0.1") -> int:
        """Serves the registry over HTTP at `/metrics` in a thread; returns the port (0 chooses a free one)."""
        server, _ = self._module.start_http_server(port, addr=host, registry=self.registry)
        return int(server.server_port)


def meters_for(port: int | None, host: str = "127.0.0.1") -> Meters:
    """What `--metrics-port` asks for: nothing, or meters that are served on that port.

    Raises `BadInput` when prometheus-client is not installed.
    """
    if port is None:
        return NoMeters()
    try:
        meters = PrometheusMeters()
    except ImportError as error:
        raise BadInput(
            "--metrics-port needs prometheus-client: pip install 'dressage[server]'", code="EXTRA_MISSING"
        ) from error
    meters.serve(port, host)
    return meters
