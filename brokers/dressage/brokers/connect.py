"""Connecting to a nats-server within a bounded time, with an error that says what to do."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import nats.errors
from nats.aio.client import Client

from dressage.protocol.errors import BadValue, ServerUnreachable

CONNECT_TIMEOUT_S: Final = 5.0
RECONNECT_WAIT_S: Final = 0.25
"""Between two attempts at one server. NATS's own two seconds would be most of the pause after a restart."""

_SCHEMES: Final = {"nats", "tls", "ws", "wss"}

_log = logging.getLogger(__name__)


async def connect(url: str | list[str], *, timeout_s: float = CONNECT_TIMEOUT_S, **options: Any) -> Client:
    """Connect to `url`, trying again until it answers or `timeout_s` has passed.

    Several addresses of one cluster are a list, or one text with commas. Once connected, the client
    reconnects for ever: whoever holds it decides when to give up. `options` are those of nats-py's own
    `connect`, and win over the defaults here.

    Raises `ServerUnreachable`, which names the cause and the cure, and `BadValue` for what is no address.
    """
    urls = addresses(url) if isinstance(url, str) else url
    where = ", ".join(_without_password(one) for one in urls)
    client = Client()
    errors = _Errors(options.pop("error_cb", None))
    settings: dict[str, Any] = {
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_S,
        "connect_timeout": timeout_s,
        "error_cb": errors.add,
    } | options
    try:
        async with asyncio.timeout(timeout_s):
            await client.connect(urls, **settings)
    except (TimeoutError, OSError, nats.errors.Error) as error:
        await client.close()
        cause = errors.last or error
        raise ServerUnreachable(
            f"no NATS server answered at {where} within {timeout_s:g} s: {_plain(cause)}. {_cure(cause)}",
            retryable=not _is_login_refused(cause),
        ) from cause
    except BaseException:
        with anyio.CancelScope(shield=True):
            await client.close()
        raise
    errors.connected = True
    return client


def addresses(url: str) -> list[str]:
    """The servers that a text with commas names. nats-py itself takes one address, or a list."""
    return [one.strip() for one in url.split(",")]


class _Errors:
    """Keeps the reason of a failed attempt, and from then on passes on what nats-py reports."""

    def __init__(self, forward: Any) -> None:
        self.last: Exception | None = None
        self.connected = False
        self._forward = forward

    async def add(self, error: Exception) -> None:
        # A refused login is tried again too, and may then look like a mere reset of the connection.
        if self.last is None or self.connected or not _is_login_refused(self.last):
            self.last = error
        if self._forward is not None:
            await self._forward(error)
        elif self.connected:
            _log.warning("connection to NATS: %s", _plain(error))


def _without_password(url: str) -> str:
    """The address as it may be shown. Raises `BadValue` when it is not one."""
    # A bare `host:port` is an address for NATS too.
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        if parts.scheme in _SCHEMES and parts.hostname:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return f"{parts.scheme}://{host}:{parts.port or 4222}"
    except ValueError:  # the port is not a number
        pass
    raise BadValue(f"{url!r} is not the address of a NATS server, which looks like nats://host:4222")


def _plain(error: Exception) -> str:
    """The cause in a few words, without the addresses of sockets and the names of modules."""
    match error:
        case ConnectionRefusedError():
            return "nothing listens there"
        case socket.gaierror():
            return "the host name is not known"
        case TimeoutError() | nats.errors.TimeoutError():
            return "the connection was not answered in time"
        case _:
            return str(error).removeprefix("nats: ").strip(" '") or type(error).__name__


def _is_login_refused(error: Exception) -> bool:
    return "authorization" in str(error).lower()


def _cure(cause: Exception) -> str:
    if _is_login_refused(cause):
        return (
            "Give the user and password in the URL (nats://user:password@host:4222), or a credentials file."
        )
    return (
        "Start one with `dressage dev`, or give the address of a running one with --server nats://host:4222."
    )
