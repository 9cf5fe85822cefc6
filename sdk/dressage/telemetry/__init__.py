"""Counters that Prometheus can read, or that cost nothing where prometheus-client is not installed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from socketserver import ThreadingMixIn
from typing import Any, Final, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from dressage.protocol.errors import BadInput
from dressage.telemetry.health import Health

__all__ = ["Counter", "Gauge", "Health", "Histogram", "Meters", "NoMeters", "PrometheusMeters", "meters_for"]


SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of what is over in an instant."""


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
    """Makes meters; names get the prefix `dressage_`. Beside them it is told whether the process does its work."""

    @property
    def health(self) -> Health: ...

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter: ...

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge: ...

    def histogram(
        self, name: str, about: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> Histogram: ...


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

    def __init__(self) -> None:
        self.health = Health()

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        return _Silent()

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        return _Silent()

    def histogram(
        self, name: str, about: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        return _Silent()


class PrometheusMeters:
    """Meters of a registry of their own, served on a port of this process."""

    def __init__(self) -> None:
        import prometheus_client

        self.health = Health()
        self._module: Any = prometheus_client
        self.registry = prometheus_client.CollectorRegistry()

    def counter(self, name: str, about: str, labels: Sequence[str] = ()) -> Counter:
        made: Counter = self._module.Counter(f"dressage_{name}", about, labels, registry=self.registry)
        return made

    def gauge(self, name: str, about: str, labels: Sequence[str] = ()) -> Gauge:
        made: Gauge = self._module.Gauge(f"dressage_{name}", about, labels, registry=self.registry)
        return made

    def histogram(
        self, name: str, about: str, labels: Sequence[str] = (), buckets: Sequence[float] = SECONDS
    ) -> Histogram:
        made: Histogram = self._module.Histogram(
            f"dressage_{name}", about, labels, registry=self.registry, buckets=buckets
        )
        return made

    def serve(self, port: int, host: str = "127.0.0.1") -> int:
        """Serves `/metrics`, `/healthz` and `/readyz` over HTTP in a thread; returns the port (0: a free one)."""
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]

        class Server(ThreadingMixIn, WSGIServer):
            daemon_threads = True
            address_family = family

        server = make_server(str(address[0]), port, self._answer, Server, _Quiet)
        threading.Thread(target=server.serve_forever, name="dressage-metrics", daemon=True).start()
        return int(server.server_port)

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] not in ("/healthz", "/readyz"):
            shown: Iterable[bytes] = self._module.make_wsgi_app(self.registry)(environ, start)
            return shown
        why = self.health.dead() if environ["PATH_INFO"] == "/healthz" else self.health.unready()
        start("503 Service Unavailable" if why else "200 OK", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{why or 'ok'}\n".encode()]


class _Quiet(WSGIRequestHandler):
    """Logs no requests: they come every few seconds."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


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
