"""The ASGI app: any ASGI server runs it, and a Starlette or FastAPI app mounts it.

It says the same as the micro service, in the words of HTTP: each path is one of its operations.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

import msgspec

from dressage.brokers.interface import Broker
from dressage.connectors.http.exchange import (
    BODY_BYTES_MAX,
    Answer,
    BodyTooLarge,
    ClientGone,
    Receive,
    Scope,
    Send,
    failed,
    path_of,
    read_body,
    write,
)
from dressage.connectors.http.linked import LinkedApp
from dressage.connectors.http.openapi import openapi
from dressage.connectors.http.routes import ROUTES, WAIT_S, WAIT_S_MAX, Route, status_of
from dressage.orchestrator.api_messages import Failed, RunAnswer, Started
from dressage.orchestrator.operations import Operations
from dressage.protocol.errors import BadInput, ServerUnreachable
from dressage.protocol.traces import usable_trace
from dressage.telemetry import Meters, NoMeters
from dressage.telemetry.tracing import current_traceparent

_log = logging.getLogger("dressage.connectors")

RETRY_AFTER_S: Final = 1
OPENAPI: Final = "/openapi.json"
CONNECT_S: Final = 5.0
"""So long a request waits for the connection."""

ANSWER_S: Final = 20.0
"""So long the engine may take to accept what it is told."""

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True, frozen=True)
class HttpOptions:
    """How the app serves.

    `tokens` are those of which a request has to show one (`Authorization: Bearer TOKEN`); none: whoever reaches it may
    do all that it offers. `in_flight` is how many requests are under way at a time, waits for results among them; one
    more is answered with 503. `body_s` is how long a body may take to come.
    """

    tokens: Sequence[str] = ()
    in_flight: int = 1_000
    body_s: float = 10.0

    def __post_init__(self) -> None:
        """Raises `BadInput` (TOKEN_INVALID) for tokens that anybody could guess."""
        if isinstance(self.tokens, str) or any(not each.strip() for each in self.tokens):
            raise BadInput("tokens are a list of texts, none of which is empty", code="TOKEN_INVALID")


class HttpApp(LinkedApp):
    """Runs by HTTP."""

    def __init__(
        self,
        server: str | Broker,
        namespace: str = "default",
        options: HttpOptions | None = None,
        meters: Meters | None = None,
    ) -> None:
        super().__init__(server, namespace, "http")
        self._options = options or HttpOptions()
        self._tokens = [each.encode() for each in self._options.tokens]
        self._ending = asyncio.Event()
        self._in_flight = 0
        self._requests = (meters or NoMeters()).counter(
            "http_requests_total", "Requests by HTTP, by operation and status", ["op", "status"]
        )

    def end(self) -> None:
        """Answers those that wait for a result now, as it stands: its server is about to end."""
        self._ending.set()

    async def close(self) -> None:
        """Disconnects; what comes afterwards is answered with 503."""
        self.end()
        await super().close()

    # -- requests ----------------------------------------------------------------------------------
    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET" and path_of(scope) == OPENAPI:
            await write(Answer(200, openapi(str(scope.get("root_path", "")).rstrip("/"))), send)
            return
        route, fields = _found(scope)
        try:
            answer = await self._answered(route, fields, scope, receive)
        except ClientGone:
            return
        except Exception:
            _log.exception("HTTP request %s %s fails", scope["method"], path_of(scope))
            answer = failed(
                500, "INTERNAL", "it is not done, for a mistake of ours; the log has the traceback"
            )
        self._requests.labels("unknown" if route is None else route.operation, str(answer.status)).inc()
        await write(answer, send)

    async def _answered(
        self, route: Route | None, fields: Mapping[str, str], scope: Scope, receive: Receive
    ) -> Answer:
        if not self._may(scope):
            more = {"connection": "close", "www_authenticate": "Bearer"}
            return _failed(401, "TOKEN_INVALID", "show a token: Authorization: Bearer TOKEN", **more)
        if route is None:
            offered = [each for each in ROUTES if _matches(each, scope) is not None]
            if offered:
                allow = ", ".join(each.method for each in offered)
                more = {"connection": "close", "allow": allow}
                return _failed(405, "METHOD_NOT_ALLOWED", f"send it by {allow}", **more)
            return _failed(404, "PATH_UNKNOWN", f"there is nothing here: see {OPENAPI}", connection="close")
        if self._in_flight >= self._options.in_flight:
            return _later("TOO_BUSY", "too many requests are under way: send it again")
        self._in_flight += 1
        try:
            request = _request(route, fields, scope, await self._body(route, scope, receive))
            return await self._done(route, request, receive)
        except _Refused as refused:
            return refused.answer
        except BadInput as error:
            return _failed(400, error.code, error.message)
        finally:
            self._in_flight -= 1

    async def _body(self, route: Route, scope: Scope, receive: Receive) -> bytes:
        """Raises `_Refused`, `ClientGone`."""
        kind = _header(scope, b"content-type").partition(";")[0].strip().lower()
        if route.body and not self._tokens and kind != "application/json":
            # What a page of somebody else can let a browser send without being asked has another one.
            raise _Refused(
                415, "TYPE_UNSUPPORTED", "without tokens a body says Content-Type: application/json"
            )
        try:
            async with asyncio.timeout(self._options.body_s):
                return await read_body(scope["headers"], receive)
        except BodyTooLarge:
            message = f"send at most {BODY_BYTES_MAX} bytes (limit webhook-body-size)"
            raise _Refused(413, "BODY_TOO_LARGE", message, connection="close") from None
        except TimeoutError:
            message = "the body did not come in time: send it again"
            raise _Refused(408, "BODY_TOO_SLOW", message, connection="close") from None

    def _may(self, scope: Scope) -> bool:
        if not self._tokens:
            return True
        kind, _, token = _header(scope, b"authorization").partition(" ")
        known = [hmac.compare_digest(token.strip().encode(), each) for each in self._tokens]
        return kind.lower() == "bearer" and any(known)

    async def _done(self, route: Route, request: dict[str, Any], receive: Receive) -> Answer:
        """Raises `_Refused`, `ClientGone`."""
        try:
            async with asyncio.timeout(CONNECT_S):
                operations = Operations(await self._link.client())
        except (TimeoutError, ServerUnreachable):
            message = "the engine cannot be reached at the moment: send it again"
            return _later("SERVER_UNREACHABLE", message)
        if route.operation == "wait":
            answer = await self._waited(operations, request, receive)
        else:
            answer = await operations.answer(route.operation, _encode(request))
        if isinstance(answer, Failed):
            status = status_of(answer)
            headers = {"retry-after": str(RETRY_AFTER_S)} if status == 503 else {}
            # Whoever sends it again under the same id starts, or posts, nothing twice.
            named = {
                each: request[each] for each in ("run_id", "event_id") if isinstance(request.get(each), str)
            }
            return Answer(status, {**msgspec.to_builtins(answer), **named}, headers)
        status = 200
        if isinstance(answer, Started):
            status = 200 if answer.existing else 201
        if isinstance(answer, RunAnswer) and route.operation == "wait" and answer.run.status == "running":
            status = 202
        return Answer(status, answer)

    async def _waited(self, operations: Operations, request: dict[str, Any], receive: Receive) -> Any:
        """The end of a run, or how it stands when that is not to be waited for any more. Raises `ClientGone`."""
        waiting = asyncio.create_task(operations.answer("wait", _encode(request)))
        gone = asyncio.create_task(_gone(receive))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait({waiting, gone, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done() and gone.done():
                raise ClientGone
            answer = (
                waiting.result() if waiting.done() else Failed("NO_ANSWER", "it is ending", retryable=True)
            )
        finally:
            for each in (waiting, gone, ending):
                each.cancel()
            await asyncio.gather(waiting, gone, ending, return_exceptions=True)
        if not isinstance(answer, Failed) or answer.code != "NO_ANSWER":
            return answer
        # It has not ended in time; or nobody can be asked, as is said then.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_S):
                return await operations.answer("get", _encode({"run_id": request["run_id"]}))
        return answer


async def _gone(receive: Receive) -> None:
    """Returns when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Refused(Exception):
    """A request that is answered without asking the engine."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.answer = _failed(status, code, message, **headers)


def _found(scope: Scope) -> tuple[Route | None, Mapping[str, str]]:
    for each in ROUTES:
        fields = _matches(each, scope)
        if fields is not None and each.method == scope["method"]:
            return each, fields
    return None, {}


def _matches(route: Route, scope: Scope) -> dict[str, str] | None:
    """The fields in the path of a request; None if it is another path. A run id may have a slash in it, escaped."""
    path = path_of(scope)
    parts = [unquote(each) for each in (scope.get("raw_path") or b"").decode("latin-1").split("/")]
    # Below the place where it is mounted, which may be escaped as well.
    below = next((parts[n:] for n in range(len(parts)) if "/" + "/".join(parts[n:]) == path), None)
    given = "/".join(path.split("/")[1:]).split("/") if below is None else below
    if len(given) > 1 and not given[-1]:
        given = given[:-1]
    if len(given) != len(route.parts):
        return None
    fields: dict[str, str] = {}
    for part, each in zip(route.parts, given, strict=True):
        if part.startswith("{"):
            fields[part.strip("{}")] = each
        elif part != each:
            return None
    return fields


def _request(route: Route, fields: Mapping[str, str], scope: Scope, body: bytes) -> dict[str, Any]:
    """What is asked of the operation. Raises `BadInput`."""
    request: dict[str, Any] = {}
    if route.body == "request":
        request = _object(body)
        if not _named(request.get("run_id")):
            request["run_id"] = _header(scope, b"idempotency-key").strip() or str(uuid.uuid4())
        if not _named(request.get("traceparent")):
            # A span of a program that this app is part of is in the caller's already.
            request["traceparent"] = current_traceparent() or usable_trace(
                _header(scope, b"traceparent").strip()
            )
    elif route.body:
        request[route.body] = msgspec.Raw(_json(body))
        request["event_id"] = str(uuid.uuid4())
    given = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    if len({name for name, _ in given}) < len(given):
        raise BadInput("a parameter is there twice", code="REQUEST_MALFORMED")
    for name, value in given:
        kind = (route.query or {}).get(name)
        if kind is None:
            raise BadInput(f"there is no parameter {name[:80]!r} here", code="REQUEST_MALFORMED")
        try:
            request[name] = kind(value)
        except ValueError as error:
            raise BadInput(f"{name} is a number, not {value[:80]!r}", code="REQUEST_MALFORMED") from error
    if route.operation == "wait":
        request["timeout_s"] = min(request.get("timeout_s", WAIT_S), WAIT_S_MAX)
    if route.operation in ("start", "post"):
        actor = _header(scope, b"dressage-actor").strip()
        if actor or not _named(request.get("actor")):
            request["actor"] = actor or "http"
        request["timeout_s"] = ANSWER_S
    return {**request, **fields}


def _named(value: msgspec.Raw | None) -> bool:
    """Whether a field of a body says something."""
    return value is not None and bytes(value) not in (b"null", b'""')


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the body is no JSON object: {error}", code="REQUEST_MALFORMED") from error


def _json(body: bytes) -> bytes:
    try:
        msgspec.json.decode(body or b"null")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"the body is no JSON: {error}", code="REQUEST_MALFORMED") from error
    return body or b"null"


def _header(scope: Scope, name: bytes) -> str:
    found: bytes = next((value for each, value in scope["headers"] if each.lower() == name), b"")
    try:
        return found.decode()
    except UnicodeDecodeError:
        return found.decode("latin-1")  # As HTTP has it.


def _failed(status: int, code: str, message: str, **headers: str) -> Answer:
    """An error of the app's own, in the form of the micro service's."""
    answer = failed(status, code, message, **headers)
    said = Failed(code, message, retryable=status in (408, 503))
    return Answer(status, msgspec.to_builtins(said), answer.headers)


def _later(code: str, message: str) -> Answer:
    return _failed(503, code, message, retry_after=str(RETRY_AFTER_S))
