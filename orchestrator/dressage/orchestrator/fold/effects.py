"""What a fold asks for. The turn performs it by storing a message in the commit; the fold performs nothing."""

from __future__ import annotations

import msgspec

from dressage.protocol.commands import Command, Json
from dressage.protocol.spec import TaskTimes


class DispatchTask(msgspec.Struct, frozen=True, gc=False):
    """Hand one attempt to the workers of `queue`; `not_before_ms` delays it by a timer named `timer_id`.

    `times` are those that a worker keeps to, `progress` is what attempts before it have said of theirs.
    """

    queue: str
    task: str
    task_id: str
    call_id: str
    attempt: int
    args: msgspec.Raw
    scheduled_ms: int
    not_before_ms: int = 0
    timer_id: str = ""
    times: TaskTimes = TaskTimes()
    progress: Json = msgspec.UNSET


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Send `command` to this run at `due_ms`."""

    timer_id: str
    due_ms: int
    command: Command


class CancelTimer(msgspec.Struct, frozen=True, gc=False):
    """Take back a timer that was set, or the delay of an attempt, before it fires. Harmless when it has fired."""

    timer_id: str


class SendCommand(msgspec.Struct, frozen=True, gc=False):
    """Send a command to a correlation key or a run, by its token, whichever shard it lives on.

    Those of one shard to one other come in their order. After a take-over some may come twice.
    """

    token: str
    command: Command


class Publish(msgspec.Struct, frozen=True, gc=False):
    """Publish `data` to a user's `subject`, once; `index` is that of the output event which tells of it."""

    subject: str
    index: int
    data: msgspec.Raw
    thread: int


class HandOn(msgspec.Struct, frozen=True, gc=False):
    """Hand a command on, as it came, to the shard where its run is or will be. Never asked for by a fold.

    `checked` says that the run is not at this place, from which it may have been looked for first. `deleted` says that
    the command was meant for one that was deleted here.
    """

    token: str
    shard: int
    checked: bool
    deleted: bool = False


Effect = DispatchTask | SetTimer | CancelTimer | SendCommand | Publish | HandOn
