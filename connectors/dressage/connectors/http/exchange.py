"""What comes by HTTP and what is answered, over plain ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

BODY_BYTES_MAX: Final = 512 * 1024
"""Of a request: it has to fit into a dead letter, whole."""

Headers = Sequence[tuple[bytes, bytes]]
"""As ASGI has them: names in small letters, repeated ones repeated."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_encode = msgspec.json.Encoder().encode


class BodyTooLarge(Exception):
    """There is more than `BODY_BYTES_MAX`; the rest is not read."""


class ClientGone(Exception):
    """Nobody is there to be answered."""


@dataclass(slots=True, frozen=True)
class Request:
    """One that has come whole."""

    path: str
    headers: Headers
    body: bytes


@dataclass(slots=True, frozen=True)
class Answer:
    """What is said to the sender: the `body` becomes JSON, if it is not that already."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def code(self) -> str:
        """Of an error; empty for what is none."""
        return str(self.body.get("code", "")) if isinstance(self.body, Mapping) else ""


def failed(status: int, code: str, message: str, **headers: str) -> Answer:
    """An error; an underscore in the name of a header stands for a hyphen."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"code": code, "message": message}, more)


def path_of(scope: Scope) -> str:
    """The path below the place where the app is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    below = path.removeprefix(root)
    return below if root and path.startswith(root) and below.startswith("/") else path


async def read_body(headers: Headers, receive: Receive) -> bytes:
    """All of the body. Raises `BodyTooLarge` as soon as that is certain, `ClientGone`."""
    told = next((value for name, value in headers if name.lower() == b"content-length"), b"0")
    if told.isdigit() and int(told[:20]) > BODY_BYTES_MAX:
        raise BodyTooLarge
    parts, size, more = list[bytes](), 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        part = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > BODY_BYTES_MAX:
            raise BodyTooLarge
        more = message.get("more_body", False)
    return b"".join(parts)


async def write(answer: Answer, send: Send) -> None:
    body = answer.body if isinstance(answer.body, bytes) else _encode(answer.body)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **answer.headers}
    start = {
        "type": "http.response.start",
        "status": answer.status,
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})
