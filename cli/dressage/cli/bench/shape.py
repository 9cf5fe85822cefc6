"""What a workflow costs in messages: how many, on which streams, how large, read off the streams after a real load."""

from __future__ import annotations

import msgspec

from dressage.cli.bench.workload import order_input
from dressage.client import Client
from dressage.protocol.commands import StartRun, TaskMessage, TaskResult, WorkerInfo
from dressage.protocol.names import Names

_TEXT = msgspec.Raw(msgspec.json.encode("c" * 198))
_RUN = "0" * 36


class Shape(msgspec.Struct):
    """Bytes of each message of one workflow. `states` is how many states are written for one, on average."""

    start: int
    task: int
    result: int
    events: list[int]
    state: int
    states: float

    @property
    def messages(self) -> float:
        """Messages stored for one workflow, cursors and positions (one a batch) left out."""
        return 1 + 3 + 3 + len(self.events) + self.states


async def read_shape(client: Client, runs: int) -> Shape:
    """The shape, once `runs` workflows have run."""
    names, connection = client.names, client.connection
    events: list[int] = []
    seq = 1
    while len(events) < 400:
        found = await connection.next_message(names.events_stream, seq, names.all_events())
        if found is None:
            break
        events.append(len(found.data))
        seq = found.seq + 1
    mean = sum(events) // len(events)
    states = await connection.stream_state(names.runs_stream())
    state = await connection.next_message(
        names.runs_stream(), states.first_seq if states else 1, names.run_keys(0)
    )
    return Shape(
        start=len(msgspec.json.encode(_start())),
        task=len(msgspec.json.encode(_task(names))),
        result=len(msgspec.json.encode(_result())),
        events=[mean] * 13,
        state=len(state.data) if state else 0,
        states=(states.last_seq if states else 0) / runs,
    )


def _start() -> StartRun:
    return StartRun("bench-order", 1, msgspec.Raw(msgspec.json.encode(order_input(0))), "0" * 32, "bench")


def _task(names: Names) -> TaskMessage:
    return TaskMessage(
        task="charge",
        task_id="0-1-100000-1",
        call_id="0-1-100000",
        run_id=_RUN,
        workflow="bench-order",
        version=1,
        attempt=1,
        args=msgspec.Raw(b'{"text":%b}' % bytes(_TEXT)),
        reply=names.command(0, _RUN),
        scheduled_at="2026-01-01T00:00:00.000Z",
    )


def _result() -> TaskResult:
    return TaskResult("0-1-100000-1", WorkerInfo("bench@host:10000", 0.0123456), _TEXT)
