"""Sending: a row, or an entry of the log, in the transaction of whoever sends."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, overload

import msgspec

from dressage.client.values import as_raw
from dressage.flow import Event, Workflow
from dressage.outbox.connections import (
    AsyncConnection,
    CursorConnection,
    Rows,
    Script,
    Statement,
    SyncConnection,
    bind,
)
from dressage.outbox.messages import Outgoing, Post, Start, encode_message
from dressage.outbox.names import LOG_PREFIX, SLOT, TABLE
from dressage.protocol.errors import BadInput, DressageError
from dressage.protocol.names import check_actor, check_key, check_name, check_run_id
from dressage.protocol.versions import VersionRef, parse_target
from dressage.telemetry.tracing import current_traceparent

T = TypeVar("T")

_INSERT: Final = f"INSERT INTO {TABLE} (id, ordering_key, message) VALUES (?, ?, ?)"
_EMIT: Final = (
    "SELECT pg_logical_emit_message(true, CAST(? AS text), CAST(? AS text)) WHERE EXISTS ("
    "SELECT 1 FROM pg_replication_slots WHERE starts_with(CAST(slot_name AS text), CAST(? AS text)) "
    "AND database = current_database() AND COALESCE(wal_status, '') <> 'lost')"
)
"""Nothing is written where nobody would ever read it."""


class SlotMissing(DressageError):
    """There is no replication slot that keeps what is written to the log: nothing was sent, roll back."""

    code = "OUTBOX_SLOT_MISSING"


@dataclass(slots=True, frozen=True)
class Sent:
    """A message that goes out if the transaction commits. `id` is its own, `run_id` that of the run that it names."""

    id: str
    run_id: str = ""


class Outbox:
    """Writes messages where a relay finds them: into a table, or into PostgreSQL's log.

    Use the functions `start` and `post` of `dressage.outbox` for the table, and those of `dressage.outbox.log` for the
    log.
    """

    def __init__(self, *, in_log: bool = False) -> None:
        self._in_log = in_log

    @overload
    def start(  # pyright: ignore[reportOverlappingOverload]
        self,
        connection: AsyncConnection,
        workflow: str | Workflow[..., Any],
        input: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        version: VersionRef | None = None,
        actor: str = "",
    ) -> Awaitable[Sent]: ...
    @overload
    def start(
        self,
        connection: SyncConnection | CursorConnection,
        workflow: str | Workflow[..., Any],
        input: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        version: VersionRef | None = None,
        actor: str = "",
    ) -> Sent: ...
    def start(
        self,
        connection: AsyncConnection | SyncConnection | CursorConnection,
        workflow: str | Workflow[..., Any],
        input: Mapping[str, Any] | None = None,  # noqa: A002
        *,
        run_id: str | None = None,
        version: VersionRef | None = None,
        actor: str = "",
    ) -> Sent | Awaitable[Sent]:
        """Starts a run if the transaction of `connection` commits, and only then.

        `input` is a mapping of parameters by name; of a `Workflow` it is checked here and now. Without a `run_id` the
        message's own id is the run's. The same `run_id` with the same input is the same run, however often it is sent.
        A connection that is awaited everywhere is awaited here, too.

        Raises `BadValue` for an input that does not fit, `BadRunId`, `BadName`, and `BadInput`
        (OUTBOX_CONNECTION_UNKNOWN, OUTBOX_NO_TRANSACTION, OUTBOX_MESSAGE_TOO_LARGE, INPUT_INVALID).
        """
        name, ref = parse_target(workflow) if isinstance(workflow, str) else (workflow.name, "")
        if ref and version is not None:
            raise BadInput(
                f"{workflow!r} names a version, and version={version!r} another one: leave one of them out",
                code="VERSION_INVALID",
            )
        given = {} if input is None else input
        raw = (
            as_raw(given)
            if isinstance(workflow, str)
            else msgspec.Raw(workflow.signature.encode_args((), given))
        )
        message_id = uuid.uuid4().hex
        chosen = message_id if run_id is None else check_run_id(run_id)
        message = Start(
            *(message_id, name, chosen, raw, ref or ("" if version is None else version), check_actor(actor)),
            traceparent=current_traceparent(),
        )
        return self._send(connection, message, Sent(message_id, chosen))

    @overload
    def post(  # pyright: ignore[reportOverlappingOverload]
        self,
        connection: AsyncConnection,
        event: Event[T],
        payload: T = ...,
        *,
        run_id: str | None = None,
        key: str | None = None,
        actor: str = "",
    ) -> Awaitable[Sent]: ...
    @overload
    def post(
        self,
        connection: SyncConnection | CursorConnection,
        event: Event[T],
        payload: T = ...,
        *,
        run_id: str | None = None,
        key: str | None = None,
        actor: str = "",
    ) -> Sent: ...
    @overload
    def post(  # pyright: ignore[reportOverlappingOverload]
        self,
        connection: AsyncConnection,
        event: str,
        payload: Any = None,
        *,
        run_id: str | None = None,
        key: str | None = None,
        actor: str = "",
    ) -> Awaitable[Sent]: ...
    @overload
    def post(
        self,
        connection: SyncConnection | CursorConnection,
        event: str,
        payload: Any = None,
        *,
        run_id: str | None = None,
        key: str | None = None,
        actor: str = "",
    ) -> Sent: ...
    def post(
        self,
        connection: AsyncConnection | SyncConnection | CursorConnection,
        event: str | Event[Any],
        payload: Any = None,
        *,
        run_id: str | None = None,
        key: str | None = None,
        actor: str = "",
    ) -> Sent | Awaitable[Sent]:
        """Posts an external event, to a run or to a correlation `key`, if the transaction of `connection` commits.

        The payload of an `Event` is checked here and now. Raises as `start` does, `BadInput` (EVENT_INVALID,
        KEY_INVALID), and `BadInput` (OUTBOX_TARGET_INVALID) unless there is either a run id or a key.
        """
        if (run_id is None) == (key is None):
            raise BadInput(
                "an event goes to a run_id or to a key: give one of them", code="OUTBOX_TARGET_INVALID"
            )
        if isinstance(event, str):
            name, raw = check_name(event, "event"), as_raw(payload, "EVENT_INVALID")
        else:
            name, raw = event.name, msgspec.Raw(event.encode(payload))
        to_run = "" if run_id is None else check_run_id(run_id)
        to_key = "" if key is None else check_key(key)
        message = Post(uuid.uuid4().hex, name, raw, to_run, to_key, check_actor(actor))
        return self._send(connection, message, Sent(message.id, to_run))

    def _send(self, connection: object, message: Outgoing, sent: Sent) -> Sent | Awaitable[Sent]:
        text = encode_message(message)
        bound = bind(connection)
        if not self._in_log:
            return bound.run(_written(Statement(_INSERT, (message.id, message.ordering_key, text)), sent))
        if bound.dialect != "postgresql":
            raise BadInput(
                f"only PostgreSQL has a log that messages can be written to, not {bound.dialect}: use "
                "dressage.outbox.start and .post",
                code="OUTBOX_DIALECT_UNKNOWN",
            )
        return bound.run(_emitted(Statement(_EMIT, (LOG_PREFIX, text, SLOT), gives_rows=True), sent))


def _written(insert: Statement, sent: Sent) -> Script[Sent]:
    yield insert
    return sent


def _emitted(emit: Statement, sent: Sent) -> Script[Sent]:
    found: Rows = yield emit
    if not found:
        raise SlotMissing(
            f"this database has no replication slot {SLOT}*, or has lost it, so nobody would read the message: run "
            "`dressage outbox slot create`"
        )
    return sent
