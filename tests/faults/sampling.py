"""What processes, streams and files weigh, sampled over time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from dressage.brokers.interface import Connection
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names

REQUEST_S: Final = 2.0
MB: Final = 1024 * 1024


class Point(NamedTuple):
    """A value at a time, with the number of runs that had ended by then."""

    at_s: float
    runs: int
    value: float


class Samples:
    """Series by name. A process that is started again begins a new series, because its memory begins anew."""

    def __init__(self, began_s: float) -> None:
        self._began_s = began_s
        self.series: dict[str, list[Point]] = {}

    def add(self, name: str, now_s: float, runs: int, value: float) -> None:
        self.series.setdefault(name, []).append(Point(now_s - self._began_s, runs, value))


def process_values(pid: int) -> dict[str, float]:
    """Resident memory in MB and open files of a process; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return {"memory MB": process.memory_info().rss / MB, "open files": float(process.num_fds())}
    return {}


async def broker_values(connection: Connection, names: Names, shards: int) -> dict[str, float]:
    """Numbers and sizes of streams, consumers and buckets; empty while the server does not answer."""
    try:
        account = await _ask(connection, "INFO")
        values = {"streams": float(account["streams"]), "consumers": float(account["consumers"])}
        shard_streams = [names.shard_stream(shard) for shard in range(shards)]
        states = {stream: await _state(connection, stream) for stream in (*shard_streams, *_named(names))}
    except (DressageError, KeyError):
        return {}
    for stream, label in _named(names).items():
        values[f"{label} MB"] = states[stream]["bytes"] / MB
        values[f"{label} messages"] = states[stream]["messages"]
    values["shard streams MB"] = sum(states[stream]["bytes"] for stream in shard_streams) / MB
    values["shard streams messages"] = sum(states[stream]["messages"] for stream in shard_streams)
    return values


def _named(names: Names) -> dict[str, str]:
    return {
        names.events_stream: "EVENTS",
        names.runs_stream(): "states of runs",
        names.definitions_stream(): "definitions",
        f"KV_{names.members_bucket}": "members",
        names.dead_stream: "dead letters",
        names.objects_stream(): "objects",
    }


async def _ask(connection: Connection, subject: str) -> dict[str, float]:
    return dict(json.loads(await connection.request(f"$JS.API.{subject}", b"", REQUEST_S)))


async def _state(connection: Connection, stream: str) -> Mapping[str, float]:
    reply = json.loads(await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", REQUEST_S))
    return dict(reply["state"])


def files_mb(folder: Path) -> float:
    """What the files of a folder take on disk."""
    return sum(_blocks(Path(where, name).stat) for where, _, names in os.walk(folder) for name in names) / MB


def file_mb(path: Path) -> float:
    """A file and those beside it whose names begin with its own, such as a write-ahead log."""
    return sum(_blocks(each.stat) for each in path.parent.glob(path.name + "*")) / MB


def _blocks(stat: Callable[[], object]) -> int:
    with contextlib.suppress(OSError):  # files come and go
        return getattr(stat(), "st_blocks", 0) * 512
    return 0
