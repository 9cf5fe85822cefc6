"""The engine as a NATS micro service (ADR-32): JSON in and out, for any language, discoverable by `$SRV`.

Each of the operations is on a subject of its own, `dressage.<ns>.api.<operation>`. An answer is `{"ok": true, ...}` or
`{"ok": false, "code", "message", "retryable"}`.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from dressage.brokers.interface import Broker, Connection
from dressage.client import Client
from dressage.orchestrator.api_messages import Failed
from dressage.orchestrator.metrics import EngineMetrics
from dressage.orchestrator.operations import OPERATIONS, Operations
from dressage.protocol.names import Names, is_reply_subject

_log = logging.getLogger("dressage.orchestrator")

QUEUE: Final = "dressage-api"
VERSION: Final = "0.1.0"


@dataclass(slots=True)
class EndpointStats:
    """What `$SRV.STATS` tells of one operation; times are nanoseconds."""

    requests: int = 0
    errors: int = 0
    last_error: str = ""
    took_ns: int = 0

    def count(self, took_ns: int, error: str) -> None:
        self.requests += 1
        self.took_ns += took_ns
        if error:
            self.errors += 1
            self.last_error = error

    def shown(self, name: str, subject: str) -> dict[str, Any]:
        return {
            "name": name,
            "subject": subject,
            "queue_group": QUEUE,
            "num_requests": self.requests,
            "num_errors": self.errors,
            "last_error": self.last_error,
            "processing_time": self.took_ns,
            "average_processing_time": self.took_ns // max(1, self.requests),
        }


class Api:
    """Serves the operations in one queue group of all orchestrators."""

    def __init__(self, broker: Broker, connection: Connection, names: Names, metrics: EngineMetrics) -> None:
        self._client = Client(broker, namespace=names.namespace)
        self._operations = Operations(self._client)
        self._connection = connection
        self._names = names
        self._metrics = metrics
        self._id = uuid.uuid4().hex
        self._stack = AsyncExitStack()
        self._running: set[asyncio.Task[None]] = set()
        self._started = datetime.now(UTC).isoformat()
        self._stats = {name: EndpointStats() for name in OPERATIONS}

    async def __aenter__(self) -> Self:
        await self._client.connect()
        self._stack.push_async_callback(self._client.close)
        served = await self._connection.serve(self._names.api("*"), self._on_request, QUEUE)
        self._stack.push_async_callback(served.close)
        await self._discoverable()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    # -- requests ----------------------------------------------------------------------------------
    async def _on_request(self, subject: str, data: bytes, reply: str) -> None:
        """Each request is a task of its own: one that waits for a run must not hold up the others."""
        task = asyncio.create_task(self._handle(subject.rsplit(".", 1)[1], data, reply))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _handle(self, operation: str, data: bytes, reply: str) -> None:
        began = time.perf_counter_ns()
        answer = await self._operations.answer(operation, data)
        code = answer.code if isinstance(answer, Failed) else "OK"
        known = operation if operation in OPERATIONS else "unknown"
        if known in self._stats:
            self._stats[known].count(time.perf_counter_ns() - began, "" if code == "OK" else code)
        self._metrics.requests.labels(known, code).inc()
        if not is_reply_subject(reply):
            return
        payload = msgspec.json.encode(answer)
        if len(payload) > self._connection.payload_bytes_max:
            message = (
                f"the answer takes {len(payload)} bytes, more than the server's max_payload: ask for less"
            )
            payload = msgspec.json.encode(Failed("PAYLOAD_TOO_LARGE", message))
        await self._connection.tell(reply, payload)

    # -- discovery ---------------------------------------------------------------------------------
    async def _discoverable(self) -> None:
        """Answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, as ADR-32 has it."""
        name = "dressage"
        for verb in ("PING", "INFO", "STATS"):
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{name}", f"$SRV.{verb}.{name}.{self._id}"):
                served = await self._connection.serve(subject, self._on_discovery)
                self._stack.push_async_callback(served.close)

    async def _on_discovery(self, subject: str, _: bytes, reply: str) -> None:
        verb = subject.split(".")[1]
        answer: dict[str, Any] = {
            "type": f"io.nats.micro.v1.{verb.lower()}_response",
            "name": "dressage",
            "id": self._id,
            "version": VERSION,
            "metadata": {"namespace": self._names.namespace},
        }
        if verb == "INFO":
            answer["description"] = "Dressage: durable workflows on JetStream"
            answer["endpoints"] = [
                {"name": name, "subject": self._names.api(name), "queue_group": QUEUE} for name in OPERATIONS
            ]
        if verb == "STATS":
            answer["started"] = self._started
            answer["endpoints"] = [
                self._stats[name].shown(name, self._names.api(name)) for name in OPERATIONS
            ]
        if reply:
            await self._connection.tell(reply, msgspec.json.encode(answer))
