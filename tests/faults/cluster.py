"""Three nats-servers in a cluster, orchestrators, workers: real processes on loopback, and the links between them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from tests.faults.disk import SmallDisk  # pyright: ignore[reportMissingImports]
from tests.faults.processes import Family, Process, connected, free_ports  # pyright: ignore[reportMissingImports]
from tests.faults.proxy import Link, Links  # pyright: ignore[reportMissingImports]

from dressage.brokers.interface import Connection
from dressage.brokers.jetstream import JetStreamBroker
from dressage.brokers.server_binary import find_server_binary
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names

HERE: Final = Path(__file__).resolve().parent
CONFIG: Final = HERE.parents[1] / "deploy" / "nats" / "nats.conf"
"""The very file that the compose file mounts."""

SERVERS: Final = 3
QUIET: Final = ("--no_advertise", "--cluster_advertise", "127.0.0.1:1")
"""Servers tell each other and their clients where else the cluster listens. That would lead around the links."""

FORM_S: Final = 90.0
REQUEST_S: Final = 2.0
NO_SERVER: Final = re.compile("^(JETSTREAM_UNAVAILABLE|SERVER_UNREACHABLE): ", re.MULTILINE)
SETTLED_S: Final = 3.0
"""Longer than an orchestrator takes to notice that another one came or went, and to give up a shard."""


class Server:
    """One nats-server of the cluster. It keeps its ports and its data when it is started again."""

    def __init__(
        self,
        family: Family,
        index: int,
        ports: tuple[int, int, int],
        routes: Sequence[int],
        quiet: Sequence[str] = (),
        disk: SmallDisk | None = None,
    ) -> None:
        """`ports` are those for clients, cluster and monitoring, `routes` those of the others as it reaches them."""
        self.name = f"nats-{index + 1}"
        self.port, route_port, self._monitor_port = ports
        environment = {
            "NATS_NAME": self.name,
            "NATS_LISTEN": f"127.0.0.1:{self.port}",
            "NATS_MONITOR": f"127.0.0.1:{self._monitor_port}",
            "NATS_CLUSTER_LISTEN": f"127.0.0.1:{route_port}",
            "NATS_ROUTES": json.dumps([f"nats://127.0.0.1:{port}" for port in routes]),
            "NATS_DATA": str(disk.folder if disk is not None else family.folder / f"{self.name}-data"),
        }
        command = [find_server_binary(), "-c", str(CONFIG), *quiet]
        if disk is not None:
            command = disk.inside(*command)
        self.process = family.program(self.name, *command, env=environment)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def monitor(self, path: str) -> Any:
        """What the server's own monitoring says, such as `jsz`."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self._monitor_port}/{path}", timeout=REQUEST_S
        ) as reply:
            return json.load(reply)


class Servers:
    """The cluster of servers alone.

    With `links` they reach each other through links that can be cut. The last one's data is on `disk`, if there is one.
    """

    def __init__(self, family: Family, links: Links | None = None, disk: SmallDisk | None = None) -> None:
        ports = free_ports(3 * SERVERS)
        self.routes: dict[frozenset[int], list[Link]] = {}
        self.all: list[Server] = []
        route_ports = ports[SERVERS : 2 * SERVERS]
        reached: dict[int, list[int]] = {index: list(route_ports) for index in range(SERVERS)}
        if links is not None:
            for one, other in itertools.permutations(range(SERVERS), 2):
                link = links.link(f"nats-{one + 1} to nats-{other + 1}", route_ports[other])
                self.routes.setdefault(frozenset({one, other}), []).append(link)
                reached[one][other] = link.port
        for index in range(SERVERS):
            own = ports[index], route_ports[index], ports[2 * SERVERS + index]
            full = disk if index == SERVERS - 1 else None
            self.all.append(Server(family, index, own, reached[index], QUIET if links else (), full))

    @property
    def url(self) -> str:
        return ",".join(server.url for server in self.all)

    def __getitem__(self, name: str) -> Server:
        return next(server for server in self.all if server.name == name)

    def start(self) -> None:
        for server in self.all:
            server.process.start()

    def between(self, one: Server, other: Server) -> list[Link]:
        """The links between two servers: either may be the one that dials."""
        return self.routes[frozenset({self.all.index(one), self.all.index(other)})]

    def around(self, server: Server) -> list[Link]:
        """All links between this server and the others."""
        return [link for other in self.all if other is not server for link in self.between(server, other)]

    async def formed(self) -> None:
        """Returns once a stream can be made on as many servers as there are."""
        config = {"name": "probe", "subjects": ["probe"], "num_replicas": SERVERS}
        async with asyncio.timeout(FORM_S):
            while True:
                with contextlib.suppress(DressageError):
                    connection = await JetStreamBroker(self.url).connect("forming", reconnect=True)
                    try:
                        while not await self._made(connection, config):
                            await asyncio.sleep(0.1)
                        await connection.request("$JS.API.STREAM.DELETE.probe", b"", REQUEST_S)
                        return
                    finally:
                        await connection.close()
                await asyncio.sleep(0.1)

    async def healthy(self, server: Server) -> None:
        """Returns once the server says that all it holds is there and up to date."""
        async with asyncio.timeout(FORM_S):
            while True:
                with contextlib.suppress(OSError):
                    if server.monitor("healthz")["status"] == "ok":
                        return
                await asyncio.sleep(0.2)

    async def _made(self, connection: Connection, config: dict[str, Any]) -> bool:
        try:
            reply = await connection.request(
                "$JS.API.STREAM.CREATE.probe", json.dumps(config).encode(), REQUEST_S
            )
        except DressageError:
            return False
        return "error" not in json.loads(reply)


class _ClusterInfo(msgspec.Struct):
    leader: str = ""


class _StreamInfo(msgspec.Struct):
    cluster: _ClusterInfo | None = None


@dataclass(frozen=True)
class Shape:
    """What is started. With `linked`, everything but the checker goes through links."""

    shards: int = 3
    orchestrators: int = 3
    workers: int = 4
    linked: bool = True
    small_disk_mb: int = 0
    """0: none of the servers has a disk that can be filled."""


class Cluster:
    """Everything together, as an async context manager. `observer` goes around all links, to whichever server lives."""

    def __init__(self, folder: Path, app: str, shape: Shape = Shape()) -> None:
        self.shape = shape
        self.names = Names()
        self._folder = folder
        self._app = app
        self._stack = contextlib.AsyncExitStack()
        self._links_of: dict[str, list[Link]] = {}
        self.orchestrators: list[Process] = []
        self.workers: list[Process] = []
        self._metrics_ports: dict[str, int] = {}
        self.disk: SmallDisk | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            print(self.family.logs())
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self.family = self._stack.enter_context(Family(self._folder))
        links = self._links = self._stack.enter_context(Links()) if self.shape.linked else None
        if self.shape.small_disk_mb:
            disk = self.disk = SmallDisk(self.family, self._folder / "small-disk", self.shape.small_disk_mb)
            await disk.mount()
        self.servers = Servers(self.family, links, self.disk)
        self.servers.start()
        await self.servers.formed()
        self.observer = await JetStreamBroker(self.servers.url).connect("observer", reconnect=True)
        self._stack.push_async_callback(self.observer.close)
        for number, port in enumerate(free_ports(self.shape.orchestrators), 1):
            name = f"orchestrator-{number}"
            at = ("--server", self.url_for(name), "--metrics-port", str(port))
            size = ("--shards", str(self.shape.shards), "--replicas", str(SERVERS))
            self._metrics_ports[name] = port
            self.orchestrators.append(self.family.dressage(name, "-v", "orchestrator", *at, *size))
        # The first of them makes the streams; the others find them.
        self.orchestrators[0].start()
        restarting = asyncio.create_task(self._restart())
        self._stack.callback(restarting.cancel)
        self.client = await connected(self.url_for("client"), FORM_S)
        self._stack.push_async_callback(self.client.close)
        for process in self.orchestrators[1:]:
            process.start()
        for number in range(1, self.shape.workers + 1):
            name = f"worker-{number}"
            worker = self.family.dressage(
                name, "-v", "worker", self._app, "--server", self.url_for(name), cwd=HERE
            )
            self.workers.append(worker)
            worker.start()
        await self.settled()

    def url_for(self, process: str) -> str:
        """The servers as this process reaches them: through links of its own, if there are any."""
        if self._links is None:
            return self.servers.url
        if process not in self._links_of:
            self._links_of[process] = [
                self._links.link(f"{process} to {server.name}", server.port) for server in self.servers.all
            ]
        return ",".join(f"nats://127.0.0.1:{link.port}" for link in self._links_of[process])

    def links_of(self, process: str) -> list[Link]:
        """The links between this process (or "client") and the servers."""
        return self._links_of[process]

    # -- who does what, as it is told to anybody who asks ------------------------------------------------
    async def owner(self, shard: int) -> Process:
        """The orchestrator that serves a shard, once one does."""
        async with asyncio.timeout(FORM_S):
            while (owner := self.owners().get(shard)) is None:
                await asyncio.sleep(0.1)
        return owner

    async def look_from_elsewhere(self, server: Server) -> None:
        """The observer leaves a server that is about to be cut off.

        A leader that is cut off answers for a while yet, and what it says of its streams is old.
        """
        async with asyncio.timeout(FORM_S):
            while (url := self.observer.nats.connected_url) is None or url.port == server.port:
                await self.observer.nats.force_reconnect()
                await asyncio.sleep(0.2)

    def owners(self) -> dict[int, Process]:
        """Which orchestrator serves which shard, by their metrics."""
        return {shard: process for process in self.orchestrators for shard in self._owned(process)}

    def _owned(self, process: Process) -> list[int]:
        pattern = r'^dressage_shard_owned\{shard="(\d+)"\} 1\.0$'
        return [int(shard) for shard in re.findall(pattern, self._metrics(process), re.MULTILINE)]

    def _metrics(self, process: Process) -> str:
        """What a process measures; empty if it does not say."""
        url = f"http://127.0.0.1:{self._metrics_ports[process.name]}/metrics"
        try:
            with urllib.request.urlopen(url, timeout=REQUEST_S) as reply:
                return str(reply.read(), "utf-8")
        except OSError:
            return ""

    async def settled(self) -> None:
        """Returns once every shard is served, by the same orchestrators for a while, and all processes run."""
        async with asyncio.timeout(FORM_S):
            since, before = time.monotonic(), self.owners()
            while time.monotonic() - since < SETTLED_S:
                await asyncio.sleep(0.2)
                now = self.owners()
                if (
                    now != before
                    or len(now) < self.shape.shards
                    or not all(map(self._metrics, self.orchestrators))
                ):
                    since, before = time.monotonic(), now
                self.require_alive()

    def require_alive(self) -> None:
        """Raises `AssertionError` for a process that has ended by itself: each of them must outlive the others.

        One that finds no server at its start says so and ends. It is started again, as a service manager would.
        """
        for process in self.family.processes.values():
            if not process.alive and not process.ended_as_told:
                assert NO_SERVER.search(process.log()[-400:]), (
                    f"{process.name} ended: {process.log()[-1000:]}"
                )
                process.start()

    async def _restart(self) -> None:
        while True:
            self.require_alive()
            await asyncio.sleep(0.5)

    async def leader(self, stream: str) -> Server | None:
        """The server that leads a stream now; None while there is none."""
        with contextlib.suppress(DressageError, StopIteration):
            reply = await self.observer.request(f"$JS.API.STREAM.INFO.{stream}", b"", REQUEST_S)
            info = msgspec.json.decode(reply, type=_StreamInfo)
            if info.cluster is not None:
                return self.servers[info.cluster.leader]
        return None
