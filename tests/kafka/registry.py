"""A schema registry over HTTP, as small as one can be: schemas by id, and by subject and version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec


class Registry:
    """What Confluent's clients ask of one: to register a schema, and to give it back."""

    def __init__(self) -> None:
        self.schemas: list[dict[str, Any]] = []
        self.away = False
        self.url = ""

    def register(self, schema: dict[str, Any]) -> int:
        """The id of a schema, the same however often it is registered."""
        if schema not in self.schemas:
            self.schemas.append(schema)
        return self.schemas.index(schema) + 1

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if self.away:
            return 503, {"error_code": 50301, "message": "away"}
        parts = path.partition("?")[0].strip("/").split("/")
        if method == "POST" and parts[0] == "subjects":
            schema = {key: value for key, value in msgspec.json.decode(body).items() if key in _KEPT}
            number = self.register(schema)
            return 200, {"id": number, "version": number, "subject": parts[1], **schema}
        if method == "GET" and parts[:2] == ["schemas", "ids"] and int(parts[2]) <= len(self.schemas):
            return 200, self.schemas[int(parts[2]) - 1]
        return 404, {"error_code": 40403, "message": "Schema not found"}


_KEPT = ("schema", "schemaType", "references")


@contextmanager
def serve() -> Iterator[Registry]:
    """One that serves on loopback."""
    registry = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._serve("GET")

        def do_POST(self) -> None:
            self._serve("POST")

        def _serve(self, method: str) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = registry.answer(method, self.path, body)
            data = msgspec.json.encode(answer)
            self.send_response(status)
            self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
