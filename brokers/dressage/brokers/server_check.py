"""Looks at a server before trusting it: version, JetStream, and whether an acknowledged write is on disk.

The first two are refused, the third is reported. A server tells its sync policy only to its system account
and on its monitoring port, so there are three answers: `always`, `lazy`, and an honest `unknown`. Two doors
are tried:

1. the request `$SYS.REQ.SERVER.PING` on the connection at hand. It is answered by every server of the cluster
   when the user is of the system account, or when the account imports that one service from it, which the
   embedded server and our shipped configurations arrange;
2. the monitoring port, `http://<host>:8222/varz` unless told otherwise, which covers one server.
"""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

import anyio.to_thread
import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from dressage.protocol.errors import ServerUnsuitable

MINIMUM_VERSION: Final = (2, 12, 1)
"""The first release whose atomic batches and message schedules do what a turn needs."""

PING_SUBJECT: Final = "$SYS.REQ.SERVER.PING"
JETSTREAM_INFO_SUBJECT: Final = "$JS.API.INFO"
MONITORING_PORT: Final = 8222

REPLY_TIMEOUT_S: Final = 2.0
PING_TIMEOUT_S: Final = 1.0
MONITORING_TIMEOUT_S: Final = 1.0
MONITORING_REPLY_BYTES_MAX: Final = 1_000_000

NO_JETSTREAM_FOR_ACCOUNT: Final = 10039

SyncPolicy = Literal["always", "lazy", "unknown"]


@dataclass(frozen=True, slots=True)
class ServerWarning:
    """Something the operator should change, though it stops nothing. `code` is stable, as an error's."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is known of the connected server and, where they could be asked, of the others of its cluster."""

    name: str
    version: str
    cluster: str | None
    max_payload_bytes: int
    sync: SyncPolicy
    servers: int = 0
    """How many servers told their sync policy; `sync` is the worst of what they said."""
    warnings: tuple[ServerWarning, ...] = ()


async def check_server(nc: Client, *, monitoring_url: str | None = None) -> ServerFacts:
    """Refuse a server that Dressage cannot keep its promises on, and report what weakens them.

    `monitoring_url` is the base URL of the server's monitoring port, such as `http://nats-1:8222`. It is
    needed only where that is not port 8222 of the host we are connected to. Takes at most some four seconds.

    Raises `ServerUnsuitable` with code SERVER_TOO_OLD, JETSTREAM_OFF, JETSTREAM_OFF_FOR_ACCOUNT or
    JETSTREAM_UNAVAILABLE (retryable: a cluster that has no leader yet).
    """
    hello = _hello(nc)
    _require_version(hello.server_name, hello.version)
    await _require_jetstream(nc)
    seen = await _ask_cluster(nc) or await _ask_monitoring(nc, hello, monitoring_url)
    for server in seen.servers:
        _require_version(server.name, server.version)
    sync = seen.sync
    return ServerFacts(
        name=hello.server_name,
        version=hello.version,
        cluster=hello.cluster,
        max_payload_bytes=nc.max_payload,
        sync=sync,
        servers=len(seen.servers),
        warnings=_sync_warnings(sync, seen),
    )


# --- version ---------------------------------------------------------------------------------------------


class _Hello(msgspec.Struct):
    """The first line that a server sends on a connection."""

    server_id: str = ""
    server_name: str = "?"
    version: str = ""
    cluster: str | None = None


def _hello(nc: Client) -> _Hello:
    # nats-py parses this line but shows only its version; the id tells whose monitoring port we talk to.
    info = nc._server_info  # pyright: ignore[reportPrivateUsage]
    return msgspec.convert(info, _Hello)


def parse_version(text: str) -> tuple[int, int, int] | None:
    """The three numbers of `2.12.1`, `v2.12.1` or `2.14.0-beta.2`; None when there are none."""
    match = re.match(r"v?(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def too_old(where: str, version: str) -> ServerUnsuitable:
    """The error for a server below `MINIMUM_VERSION`; `where` says which server it is."""
    minimum = ".".join(map(str, MINIMUM_VERSION))
    return ServerUnsuitable(
        f"{where} is nats-server {version or 'of unknown version'}; Dressage needs {minimum} or later, for "
        "atomic batches and message schedules. Upgrade the server (the packages of Linux distributions are "
        "often years old: take a release from https://github.com/nats-io/nats-server/releases), or use the "
        "one that comes with `pip install 'dressage[server]'`.",
        code="SERVER_TOO_OLD",
    )


def _require_version(name: str, version: str) -> None:
    numbers = parse_version(version)
    if numbers is None or numbers < MINIMUM_VERSION:
        raise too_old(f"the server {name}", version)


# --- JetStream -------------------------------------------------------------------------------------------


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _AccountInfo(msgspec.Struct):
    error: _ApiError | None = None


async def _require_jetstream(nc: Client) -> None:
    try:
        reply = await nc.request(JETSTREAM_INFO_SUBJECT, timeout=REPLY_TIMEOUT_S)
    except nats.errors.NoRespondersError:
        raise ServerUnsuitable(
            "the server runs without JetStream, where Dressage keeps everything. Add "
            '`jetstream { store_dir: "/path", sync_interval: always }` to its configuration and restart it.',
            code="JETSTREAM_OFF",
        ) from None
    except nats.errors.TimeoutError:
        raise _unavailable(f"it did not answer within {REPLY_TIMEOUT_S:g} s") from None
    error = msgspec.json.decode(reply.data, type=_AccountInfo).error
    if error is None:
        return
    if error.err_code == NO_JETSTREAM_FOR_ACCOUNT:
        raise ServerUnsuitable(
            "the server has JetStream, but not for the account of this user. Add `jetstream: enabled` to "
            "that account in the server's configuration, or connect as a user of an account that has it.",
            code="JETSTREAM_OFF_FOR_ACCOUNT",
        )
    raise _unavailable(error.description)


def _unavailable(reason: str) -> ServerUnsuitable:
    return ServerUnsuitable(
        f"the server has JetStream, but it is not available: {reason}. A cluster needs more than half of its "
        "servers to elect a leader: see that they run and reach each other, then try again.",
        code="JETSTREAM_UNAVAILABLE",
        retryable=True,
    )


# --- sync policy -----------------------------------------------------------------------------------------


class _JetStreamConfig(msgspec.Struct):
    sync_always: bool = False
    sync_interval: int = 0
    """In nanoseconds."""


class _JetStream(msgspec.Struct):
    config: _JetStreamConfig


@dataclass(frozen=True, slots=True)
class _Server:
    name: str
    version: str
    jetstream: _JetStreamConfig | None


@dataclass(frozen=True, slots=True)
class _Seen:
    """The servers that told about themselves, and whether there are others."""

    servers: tuple[_Server, ...] = ()
    complete: bool = False

    def __bool__(self) -> bool:
        return bool(self.servers)

    @property
    def lazy(self) -> list[_Server]:
        return [server for server in self.servers if server.jetstream and not server.jetstream.sync_always]

    @property
    def sync(self) -> SyncPolicy:
        if self.lazy:
            return "lazy"
        return "always" if self.complete else "unknown"


class _PingServer(msgspec.Struct):
    id: str
    name: str
    ver: str


class _PingStats(msgspec.Struct):
    active_servers: int = 1
    jetstream: _JetStream | None = None


class _PingReply(msgspec.Struct):
    server: _PingServer
    statsz: _PingStats


async def _ask_cluster(nc: Client) -> _Seen:
    """Ask every server at once; nothing seen means that this account may not ask."""
    replies: dict[str, _PingReply] = {}
    inbox = nc.new_inbox()
    subscription = await nc.subscribe(inbox)
    try:
        await nc.publish(PING_SUBJECT, reply=inbox)
        async with asyncio.timeout(PING_TIMEOUT_S):
            while (reply := _decode_ping(await subscription.next_msg(PING_TIMEOUT_S))) is not None:
                replies[reply.server.id] = reply
                if _all_there(replies.values()):
                    break
    except (TimeoutError, nats.errors.TimeoutError):
        pass
    finally:
        await subscription.unsubscribe()
    servers = (_Server(r.server.name, r.server.ver, _config(r.statsz.jetstream)) for r in replies.values())
    return _Seen(tuple(servers), complete=_all_there(replies.values()))


def _decode_ping(message: Msg) -> _PingReply | None:
    """None stands for "nobody answers here" and for an answer that is not of the server's making."""
    try:
        return msgspec.json.decode(message.data, type=_PingReply)
    except msgspec.DecodeError:
        return None


def _all_there(replies: Iterable[_PingReply]) -> bool:
    found = list(replies)
    return bool(found) and len(found) >= max(reply.statsz.active_servers for reply in found)


def _config(jetstream: _JetStream | None) -> _JetStreamConfig | None:
    return jetstream.config if jetstream else None


class _Varz(msgspec.Struct):
    server_id: str
    server_name: str
    version: str
    jetstream: _JetStream | None = None


async def _ask_monitoring(nc: Client, hello: _Hello, monitoring_url: str | None) -> _Seen:
    """Ask the monitoring port. A guessed one is believed only when it belongs to our server."""
    url = monitoring_url or _guess_monitoring_url(nc)
    varz = await anyio.to_thread.run_sync(_get_varz, url, abandon_on_cancel=True) if url else None
    if varz is None or (monitoring_url is None and varz.server_id != hello.server_id):
        return _Seen()
    server = _Server(varz.server_name, varz.version, _config(varz.jetstream))
    return _Seen((server,), complete=hello.cluster is None)


def _guess_monitoring_url(nc: Client) -> str | None:
    connected = nc.connected_url
    if connected is None or connected.hostname is None:
        return None
    host = f"[{connected.hostname}]" if ":" in connected.hostname else connected.hostname
    return f"http://{host}:{MONITORING_PORT}"


def _get_varz(base_url: str) -> _Varz | None:
    # A proxy from the environment has no business between us and our own broker.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(base_url.rstrip("/") + "/varz", timeout=MONITORING_TIMEOUT_S) as response:
            return msgspec.json.decode(response.read(MONITORING_REPLY_BYTES_MAX), type=_Varz)
    except (OSError, ValueError, msgspec.DecodeError):
        return None


def _sync_warnings(sync: SyncPolicy, seen: _Seen) -> tuple[ServerWarning, ...]:
    if sync == "always":
        return ()
    return (_lazy_warning(seen.lazy) if sync == "lazy" else _unknown_warning(seen),)


def _lazy_warning(lazy: list[_Server]) -> ServerWarning:
    names = ", ".join(sorted(server.name for server in lazy))
    longest_s = max(server.jetstream.sync_interval for server in lazy if server.jetstream) / 1e9
    return ServerWarning(
        "SYNC_LAZY",
        f"writes are acknowledged up to {longest_s:g} s before they are on disk by: {names}. A power failure "
        "or a crash of the machine can lose acknowledged commands. Set `sync_interval: always` in the "
        "`jetstream` block of the server's configuration and restart it.",
    )


def _unknown_warning(seen: _Seen) -> ServerWarning:
    known = ", ".join(sorted(server.name for server in seen.servers))
    who = f"the other servers of the cluster (only {known} could be asked)" if known else "the server"
    return ServerWarning(
        "SYNC_UNKNOWN",
        f"whether an acknowledged write is on disk could not be verified for {who}. See that "
        "`sync_interval: always` stands in the `jetstream` block of the configuration; to have it verified, "
        f"let this account import the service `{PING_SUBJECT}` from the system account, or open the "
        "monitoring port to this host.",
    )
