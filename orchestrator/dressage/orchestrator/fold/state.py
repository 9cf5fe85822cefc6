"""The state of a run: small, typed, and without history (history is the output events).

The structs are outside the garbage collector (`gc=False`): they hold no cycles, and an owner keeps tens of thousands
of them in memory, which a full collection would walk through again and again.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from dressage.protocol.commands import FailureInfo, Json, RunStatus

STATE_FORMAT: Literal[1] = 1


class TaskWait(msgspec.Struct, tag="task", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits for the result of exactly one attempt: the one with this `task_id`.

    `args` are kept in wire form, so that a retry gets what the first attempt got. `timer_id` names the timer that
    delays a retry; it may have fired.
    """

    task_id: str
    call_id: str
    task: str
    queue: str
    node: int
    attempt: int
    scheduled_ms: int
    args: msgspec.Raw
    timer_id: str = ""


class SleepWait(msgspec.Struct, tag="sleep", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Sleeps until `until_ms`, when `timer_id` fires.

    `begun` is set where the moment is watched: it is the same as that of a condition.
    """

    timer_id: str
    node: int
    until_ms: int
    begun: int = 0


class ConditionWait(
    msgspec.Struct, tag="condition", tag_field="kind", frozen=True, omit_defaults=True, gc=False
):
    """Waits until the condition at `node` holds, since `since_ms`; with a timeout, until `until_ms`, when `timer_id`
    fires.

    `begun` orders the waits of a run that look at variables: it counts the output events before each of them.
    """

    node: int
    begun: int
    since_ms: int
    timer_id: str = ""
    until_ms: int = 0


class EventWait(msgspec.Struct, tag="event", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits for an external event, since `since_ms`; with a timeout, until `until_ms`, when `timer_id` fires.

    `begun` orders the waits of a run: the earliest takes what is posted.
    """

    event: str
    node: int
    begun: int
    since_ms: int
    timer_id: str = ""
    until_ms: int = 0


class GatherWait(msgspec.Struct, tag="gather", tag_field="kind", frozen=True, omit_defaults=True, gc=False):
    """Waits for the branches of the gather at `node`; of those that have ended it holds the result, in stored form,
    or what they failed with, by their place.

    `won` is the place of the branch that has won a race. Of `dropped` branches that have ended nothing is kept.
    `given` has what those are given, in stored form, that have not begun, as there is a `limit` to how many run at a
    time; 0: there is none. `held` is how many bytes of results, failures and such there are.
    """

    node: int
    branches: int
    outputs: dict[int, msgspec.Raw] = {}
    failures: dict[int, FailureInfo] = {}
    won: int | None = None
    dropped: int = 0
    given: list[msgspec.Raw] = []
    limit: int = 0
    held: int = 0

    @property
    def ended(self) -> int:
        """How many of the branches have ended."""
        return len(self.outputs) + len(self.failures) + self.dropped


Wait = TaskWait | SleepWait | ConditionWait | EventWait | GatherWait


class RunThread(msgspec.Struct, omit_defaults=True, gc=False):
    """A path of control: at `node`, and waiting there if `wait` is set.

    A branch was started by thread `parent` as the branch at place `branch` of its gather at node `gather`, and has
    `variables` of its own, in stored form. One that is to be cancelled is "asked", until `CancelledError` is "raised"
    in it, which happens once: where it waits, but behind its own branches if it waits for such.
    """

    id: int
    node: int
    wait: Wait | None = None
    parent: int | None = None
    gather: int = 0
    branch: int = 0
    variables: dict[str, msgspec.Raw] = {}
    cancel: Literal["", "asked", "raised"] = ""

    def copy(self) -> RunThread:
        """A copy that can be changed without touching this one."""
        copied = msgspec.structs.replace(self)
        if self.variables:
            copied.variables = dict(self.variables)
        return copied

    @property
    def timer_id(self) -> str:
        """The timer that this thread waits for, or that delays what it waits for; empty if there is none."""
        return "" if self.wait is None or isinstance(self.wait, GatherWait) else self.wait.timer_id


class Unclaimed(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """An external event that no wait has claimed yet. `payload` is in stored form."""

    event: str
    event_id: str
    posted_ms: int
    payload: msgspec.Raw


class RunState(msgspec.Struct, omit_defaults=True, gc=False):
    """Everything the fold knows of a run.

    `seq` is the stream sequence of the last command folded into it, `time_ms` the run's own time (broker time
    that never runs backwards), `events` the number of output events so far. `variables` are in stored form.
    `threads_made` is how many run threads it has had: each has an id of its own.
    `unclaimed` are external events in the order in which they came, `posted` marks of the ids of all that ever came.
    `reason` is what a cancelled run was cancelled for.
    """

    format: Literal[1]
    run_id: str
    workflow: str
    version: int
    seq: int
    time_ms: int
    started_ms: int
    command_id: str
    input: msgspec.Raw
    status: RunStatus = "running"
    events: int = 0
    threads: list[RunThread] = []
    threads_made: int = 1
    variables: dict[str, msgspec.Raw] = {}
    unclaimed: list[Unclaimed] = []
    posted: list[str] = []
    output: Json = msgspec.UNSET
    failure: FailureInfo | None = None
    reason: str = ""
    ended_ms: int = 0
    actor: str = ""

    def copy(self) -> RunState:
        """A copy that can be changed without touching this one; the values inside are immutable."""
        return msgspec.structs.replace(
            self,
            threads=[thread.copy() for thread in self.threads],
            variables=dict(self.variables),
            unclaimed=list(self.unclaimed),
            posted=list(self.posted),
        )

    @property
    def finished(self) -> bool:
        return self.status != "running"


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(RunState)


def encode_state(state: RunState) -> bytes:
    return _encoder.encode(state)


def decode_state(payload: bytes) -> RunState:
    """Raises `msgspec.MsgspecError` for what no release has written."""
    return _decoder.decode(payload)
