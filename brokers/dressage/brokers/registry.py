"""Definitions of workflows and of external events in their bucket: immutable versions, and a pointer to the latest of
each name."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import msgspec

from dressage.brokers.interface import WRONG_LAST_SEQUENCE, Connection, Expect, Message
from dressage.brokers.provision import ensure_queue, require_namespace
from dressage.protocol.errors import BadInput, BadSpec, EventConflict, NotFound, PublishRefused
from dressage.protocol.names import Names, check_actor, check_name
from dressage.protocol.spec import (
    ChildDef,
    EventDef,
    RegisteredEvent,
    RegisteredWorkflow,
    WorkflowSpec,
    event_digest,
    registered_digest,
)
from dressage.protocol.spec_check import check_spec
from dressage.protocol.spec_reading import check_spec_size, read_event, read_registered
from dressage.protocol.types import TypeDef, needed


class Pointer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The latest version of a workflow, or of an external event, with the `workflows` that wait for it."""

    version: int
    digest: str
    workflows: tuple[str, ...] = ()


_pointer = msgspec.json.Decoder(Pointer)
_encode = msgspec.json.Encoder().encode


class Registry:
    """Reads and writes definitions of one namespace."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def put(self, spec: WorkflowSpec, actor: str = "") -> tuple[RegisteredWorkflow, bool]:
        """Registers a spec; gives it with its version, and whether that version is new.

        The same spec again is a no-op, unless there are other versions of its children now. Safe to repeat, and to
        race: versions are created once, and a pointer that a crash left behind is moved on by whoever comes next.

        Raises `BadSpec`, `BadName`, `NotFound` (WORKFLOW_UNKNOWN) for a child that is not registered, or
        `EventConflict`, and then there is no new version of the workflow; events of it that come before the one in
        conflict are registered.
        """
        check_spec(spec)
        check_spec_size(spec)
        check_actor(actor)
        while True:
            children = await self._children(spec)
            digest = registered_digest(spec, children)
            pointer, pointer_seq = await self._pointer(spec.name)
            if pointer is not None and pointer.digest == digest:
                await self._ensure_queues(spec)
                await self._put_events(spec)
                return await self.get(spec.name, pointer.version), False
            await self._put_events(spec)
            version = (pointer.version if pointer else 0) + 1
            stamp = datetime.now(UTC).isoformat(timespec="seconds")
            wanted = RegisteredWorkflow(spec, version, digest, actor, stamp, children)
            stored, created = await self._create(wanted)
            await self._ensure_queues(stored.spec)
            # They were put before; somebody may have put others since.
            with contextlib.suppress(EventConflict):
                await self._put_events(stored.spec)
            await self._point(
                self._names.workflow_key(spec.name), Pointer(version, stored.digest), pointer_seq
            )
            if stored.digest == digest:
                return stored, created

    async def _children(self, spec: WorkflowSpec) -> dict[str, int]:
        """The latest versions of the workflows that it starts runs of.

        Raises `NotFound`, or `BadSpec` where one has become another since this spec was made.
        """
        versions: dict[str, int] = {}
        for child in spec.children:
            found = await self.get(child.workflow)
            known = ChildDef(found.spec.name, found.spec.params, found.spec.output)
            if known != child or _types_of(child, spec) != _types_of(child, found.spec):
                raise BadSpec(
                    f"workflow {spec.name!r} starts runs of {child.workflow!r} with other parameters, or for another "
                    f"result, than its version {found.version} has: deploy both from one state of their source"
                )
            versions[child.workflow] = found.version
        return versions

    async def _create(self, wanted: RegisteredWorkflow) -> tuple[RegisteredWorkflow, bool]:
        key = self._names.workflow_version_key(wanted.spec.name, wanted.version)
        try:
            await self._connection.publish(Message(key, _encode(wanted), expect=Expect(0)))
        except PublishRefused as refused:
            if refused.err_code != WRONG_LAST_SEQUENCE:
                raise
            return await self.get(wanted.spec.name, wanted.version), False
        return wanted, True

    async def _put_events(self, spec: WorkflowSpec) -> None:
        """Before the pointer to the workflow: who starts a run can post what it waits for. Raises `EventConflict`."""
        for event in spec.events:
            await self.put_event(event, needed(event.type, spec.types), spec.name)

    async def put_event(self, event: EventDef, types: tuple[TypeDef, ...], workflow: str) -> int:
        """Registers an external event with the types that it needs; gives its version. The same again is a no-op.

        It may become another one as long as no other workflow knows it. Raises `EventConflict`.
        """
        digest, key = event_digest(event, types), self._names.event_key(event.name)
        while True:
            pointer, pointer_seq = await self._event_pointer(event.name)
            known = pointer.workflows if pointer is not None else ()
            if pointer is not None and pointer.digest == digest:
                shared = Pointer(pointer.version, digest, (*known, workflow))
                if workflow in known or await self._point(key, shared, pointer_seq):
                    return pointer.version
                continue
            others = [each for each in known if each != workflow]
            if others:
                raise EventConflict(
                    f"event {event.name!r} of workflow {workflow!r} is not the one that workflow {others[0]!r} is "
                    "registered with: who posts it could not know which is meant. Give one another name, or let "
                    "both use the same Event"
                )
            version = (pointer.version if pointer else 0) + 1
            stored = wanted = RegisteredEvent(event, types, version, digest, workflow)
            version_key = self._names.event_version_key(event.name, version)
            try:
                await self._connection.publish(Message(version_key, _encode(wanted), expect=Expect(0)))
            except PublishRefused as refused:
                if refused.err_code != WRONG_LAST_SEQUENCE:
                    raise
                stored = await self._event(event.name, version)
            latest = Pointer(version, stored.digest, (stored.workflow,))
            if await self._point(key, latest, pointer_seq) and stored is wanted:
                return version

    async def event_version(self, name: str) -> int:
        """The number of the latest version of an external event; 0 if no workflow that is registered waits for it."""
        pointer, _ = await self._event_pointer(check_name(name, "event"))
        return 0 if pointer is None else pointer.version

    async def _event(self, name: str, version: int) -> RegisteredEvent:
        key = self._names.event_version_key(name, version)
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        if found is None:
            raise NotFound(f"event {name!r} has no version {version}", code="EVENT_UNKNOWN")
        return read_event(found.data)

    async def _event_pointer(self, name: str) -> tuple[Pointer | None, int]:
        return await self._read_pointer(self._names.event_key(name), f"event {name!r}")

    async def _point(self, key: str, pointer: Pointer, expected_seq: int) -> bool:
        """Whether it does now; somebody else may have been faster."""
        try:
            await self._connection.publish(Message(key, _encode(pointer), expect=Expect(expected_seq)))
        except PublishRefused as refused:
            if refused.err_code != WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

    async def _pointer(self, name: str) -> tuple[Pointer | None, int]:
        return await self._read_pointer(self._names.workflow_key(name), f"workflow {name!r}")

    async def _read_pointer(self, key: str, what: str) -> tuple[Pointer | None, int]:
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        if found is None:
            return None, 0
        try:
            return _pointer.decode(found.data), found.seq
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadSpec(f"the latest version of {what} is unreadable: {error}") from error

    async def _ensure_queues(self, spec: WorkflowSpec) -> None:
        """Behind the version: whoever adds shards meanwhile finds either that, or us the shards."""
        shards = (await require_namespace(self._connection, self._names)).shards
        for queue in _queues(spec):
            await ensure_queue(self._connection, self._names, shards, queue)

    async def queues(self) -> list[str]:
        """The queues of all versions of all workflows; a version that no engine can use has none."""
        state = await self._connection.stream_state(
            self._names.definitions_stream(), subjects=self._names.workflow_version_keys()
        )
        found: set[str] = set()
        for subject in state.subjects if state else ():
            stored = await self._connection.last_message(self._names.definitions_stream(), subject)
            if stored is not None:
                with contextlib.suppress(BadInput):
                    found.update(_queues(read_registered(stored.data).spec))
        return sorted(found)

    async def latest(self, name: str) -> int:
        """The number of the latest version. Raises `NotFound`."""
        pointer, _ = await self._pointer(check_name(name, "workflow"))
        if pointer is None:
            raise NotFound(
                f"workflow {name!r} is not registered: put its definition first", code="WORKFLOW_UNKNOWN"
            )
        return pointer.version

    async def get(self, name: str, version: int | None = None) -> RegisteredWorkflow:
        """A version, or the latest. Raises `NotFound`, or `BadSpec` if it was written by a newer release."""
        wanted = await self.latest(name) if version is None else version
        key = self._names.workflow_version_key(check_name(name, "workflow"), wanted)
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        if found is None:
            raise NotFound(f"workflow {name!r} has no version {wanted}", code="WORKFLOW_UNKNOWN")
        try:
            return read_registered(found.data)
        except BadInput as error:
            raise BadSpec(f"workflow {name!r} version {wanted}: {error.message}") from error

    async def names(self) -> list[str]:
        """All workflows that are registered."""
        state = await self._connection.stream_state(
            self._names.definitions_stream(), subjects=self._names.workflow_keys()
        )
        prefix = len(self._names.workflow_key(""))
        return sorted(subject[prefix:] for subject in state.subjects) if state else []


def _types_of(child: ChildDef, spec: WorkflowSpec) -> dict[str, TypeDef]:
    refs = (child.output, *(field.type for field in child.params))
    return {each.name: each for ref in refs for each in needed(ref, spec.types)}


def _queues(spec: WorkflowSpec) -> list[str]:
    return sorted({task.queue for task in spec.tasks})
