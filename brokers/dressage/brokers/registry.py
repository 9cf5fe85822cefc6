"""Definitions of workflows and of external events in their bucket: immutable versions, and for each name an entry that
says which is the latest, and, of a workflow, what stands of the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeVar, get_args

import msgspec

from dressage.brokers.interface import WRONG_LAST_SEQUENCE, Connection, Expect, Message
from dressage.brokers.provision import ensure_queue, require_namespace
from dressage.expressions.compatibility import breaks
from dressage.protocol.errors import (
    BadInput,
    BadSpec,
    ChangeRefused,
    EventConflict,
    NotFound,
    PublishRefused,
)
from dressage.protocol.names import Names, build_queue, check_actor, check_name
from dressage.protocol.retention import Retention, check_retention
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
from dressage.protocol.uses import Use, Used, uses_of
from dressage.protocol.versions import (
    ALIASES_MAX,
    LATEST,
    VERSIONS_SHOWN,
    Alias,
    Label,
    VersionRef,
    Versions,
    VersionsView,
    VersionView,
    aliases_of,
    check_alias,
)

T = TypeVar("T")


Allow = Literal["all", "compatible", "none"]
"""Which changes of a workflow become a version: all, those that break nobody who uses it, or none."""

Change = Literal["new", "unchanged", "compatible", "breaking"]


class Plan(NamedTuple):
    """What a registration comes to: the version, and what of it breaks those who use the workflow."""

    workflow: str
    version: int
    label: Label
    change: Change
    breaks: tuple[str, ...] = ()


class Pointer(msgspec.Struct, frozen=True, omit_defaults=True):
    """The latest version of an external event, with the `workflows` that wait for it."""

    version: int
    digest: str
    workflows: tuple[str, ...] = ()


_pointer = msgspec.json.Decoder(Pointer)
_versions = msgspec.json.Decoder(Versions)
_encode = msgspec.json.Encoder().encode


class Registry:
    """Reads and writes definitions of one namespace."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names

    async def put(
        self, spec: WorkflowSpec, actor: str = "", *, allow: Allow = "all", build: str = ""
    ) -> tuple[RegisteredWorkflow, bool]:
        """Registers a spec; gives it with its version, and whether that version is new. With a `build` its tasks go to
        workers of that.

        The same spec again is a no-op, unless there are other versions of its children now, or the build is another.
        Safe to repeat, and to race: versions are created once, and a pointer that a crash left behind is moved on by
        whoever comes next.

        Raises `BadSpec`, `BadName`, `NotFound` (WORKFLOW_UNKNOWN) for a child that is not registered, `ChangeRefused`
        for a change that `allow` does not, `BadInput` (WORKFLOW_ARCHIVED, VERSION_RETIRED), or `EventConflict`, and
        then there is no new version of the workflow; events of it that come before the one in conflict are registered.
        """
        check_spec(spec)
        check_spec_size(spec)
        check_actor(actor)
        queues = _queues(spec, build)
        while True:
            children = await self._children(spec, {})
            versions, pointer_seq = await self._read_versions(spec.name)
            plan, digest = await self._planned(spec, children, versions, build)
            if plan.change == "unchanged":
                await self._ensure_queues(queues)
                await self._put_events(spec)
                known = await self.get(spec.name, plan.version)
                return msgspec.structs.replace(known, label=str(plan.label)), False
            refused = refusal(plan, allow)
            if refused is not None:
                raise refused
            await self._put_events(spec)
            wanted = RegisteredWorkflow(spec, 0, digest, actor, _now(), children, "1.0", plan.breaks, build)
            made = await self._stored(wanted, plan, versions or NO_VERSIONS, pointer_seq)
            if made is None:
                continue
            stored, moved = made
            await self._ensure_queues(queues)
            # They were put before; somebody may have put others since.
            with contextlib.suppress(EventConflict):
                await self._put_events(spec)
            if await self._point(self._names.workflow_key(spec.name), moved, pointer_seq):
                return stored, True

    async def _stored(
        self, wanted: RegisteredWorkflow, plan: Plan, versions: Versions, entry_seq: int
    ) -> tuple[RegisteredWorkflow, Versions] | None:
        """The version as it is stored, `wanted` but for its number and label, and what is to stand of all of them then;
        None if that is another one meanwhile.

        A number that is taken is this very definition, or somebody is about to register it. Who has not within a moment
        was refused since, or has died: then it was given to nobody, and is passed over.
        """
        while True:
            label = versions.next_label(
                versions.latest or versions.version, breaking=plan.change == "breaking"
            )
            made = msgspec.structs.replace(wanted, version=versions.version + 1, label=str(label))
            stored, _ = await self._create(made)
            if stored.digest == wanted.digest:
                known = msgspec.structs.replace(stored, label=str(label), breaks=plan.breaks)
                return known, versions.with_version(wanted.digest, label)
            if await self._changes(wanted.spec.name, entry_seq):
                return None
            versions = versions.buried(versions.latest or versions.version)

    async def _changes(self, name: str, entry_seq: int) -> bool:
        """Whether what stands of the versions becomes another thing within a moment."""
        for _ in range(ABOUT_TO_LOOKS):
            await asyncio.sleep(ABOUT_TO_S / ABOUT_TO_LOOKS)
            if (await self._read_versions(name))[1] != entry_seq:
                return True
        return False

    async def plan(
        self, spec: WorkflowSpec, planned: Mapping[str, int] = MappingProxyType({}), build: str = ""
    ) -> Plan:
        """What registering a spec would come to, without doing it. `planned` are the versions that its children will
        have then, where they differ from those that they have.

        Raises as `put` does, but for what `allow` refuses.
        """
        check_spec(spec)
        check_spec_size(spec)
        _queues(spec, build)
        children = await self._children(spec, planned)
        versions, _ = await self._read_versions(spec.name)
        plan, _ = await self._planned(spec, children, versions, build)
        for event in spec.events:
            pointer, _ = await self._event_pointer(event.name)
            _check_alone(event, needed(event.type, spec.types), spec.name, pointer)
        return plan

    async def plans(self, specs: Sequence[WorkflowSpec], build: str = "") -> list[Plan]:
        """What registering all of them would come to; children stand before those that start runs of them."""
        plans: list[Plan] = []
        for spec in specs:
            plans.append(
                await self.plan(
                    spec, {plan.workflow: plan.version for plan in plans if plan.change != "unchanged"}, build
                )
            )
        return plans

    async def _planned(
        self, spec: WorkflowSpec, children: Mapping[str, int], versions: Versions | None, build: str
    ) -> tuple[Plan, str]:
        """Also the digest. A change is one of the version that new runs get, as that is what others use."""
        digest = registered_digest(spec, children, build)
        if versions is None:
            return Plan(spec.name, 1, Label(1, 0), "new"), digest
        if versions.archived:
            raise BadInput(
                f"workflow {spec.name!r} is archived: unarchive it before you register it again",
                code="WORKFLOW_ARCHIVED",
            )
        if versions.digest == digest:
            version = versions.version
            if version in versions.retired:
                raise BadInput(
                    f"workflow {spec.name!r} is its version {version}, which is retired: restore that, or change it",
                    code="VERSION_RETIRED",
                )
            return Plan(spec.name, version, versions.label(version), "unchanged"), digest
        base = versions.latest or versions.version
        try:
            broken = breaks((await self.get(spec.name, base)).spec, spec)
        except BadSpec as error:
            broken = (f"version {base} cannot be compared with: {error.message}",)
        label = versions.next_label(base, breaking=bool(broken))
        change: Change = "breaking" if broken else "compatible"
        return Plan(spec.name, versions.version + 1, label, change, broken), digest

    async def _children(self, spec: WorkflowSpec, planned: Mapping[str, int]) -> dict[str, int]:
        """The versions of the workflows that it starts runs of: the planned ones, else the latest.

        Raises `NotFound`, or `BadSpec` where one has become another since this spec was made.
        """
        versions: dict[str, int] = {}
        for child in spec.children:
            if child.workflow in planned:
                versions[child.workflow] = planned[child.workflow]
                continue
            found = await self.get(child.workflow, await self.resolve(child.workflow))
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
            _check_alone(event, types, workflow, pointer)
            version = (pointer.version if pointer else 0) + 1
            stored = wanted = RegisteredEvent(event, types, version, digest, workflow)
            version_key = self._names.event_version_key(event.name, version)
            try:
                await self._connection.publish(Message(version_key, _encode(wanted), expect=Expect(0)))
            except PublishRefused as refused:
                if refused.err_code != WRONG_LAST_SEQUENCE:
                    raise
                stored = await self.event(event.name, version)
            latest = Pointer(version, stored.digest, (stored.workflow,))
            if await self._point(key, latest, pointer_seq) and stored is wanted:
                return version

    async def event_version(self, name: str) -> int:
        """The number of the latest version of an external event; 0 if no workflow that is registered waits for it."""
        pointer, _ = await self._event_pointer(check_name(name, "event"))
        return 0 if pointer is None else pointer.version

    async def event(self, name: str, version: int) -> RegisteredEvent:
        """A version of an external event. Raises `NotFound` (EVENT_UNKNOWN)."""
        key = self._names.event_version_key(name, version)
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        if found is None:
            raise NotFound(f"event {name!r} has no version {version}", code="EVENT_UNKNOWN")
        return read_event(found.data)

    async def _event_pointer(self, name: str) -> tuple[Pointer | None, int]:
        return await self._read_pointer(self._names.event_key(name), _pointer, f"event {name!r}")

    async def _point(self, key: str, pointer: Pointer | Versions, expected_seq: int) -> bool:
        """Whether it does now; somebody else may have been faster."""
        try:
            await self._connection.publish(Message(key, _encode(pointer), expect=Expect(expected_seq)))
        except PublishRefused as refused:
            if refused.err_code != WRONG_LAST_SEQUENCE:
                raise
            return False
        return True

    async def _read_versions(self, name: str) -> tuple[Versions | None, int]:
        return await self._read_pointer(self._names.workflow_key(name), _versions, f"workflow {name!r}")

    async def _read_pointer(
        self, key: str, decoder: msgspec.json.Decoder[T], what: str
    ) -> tuple[T | None, int]:
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        if found is None:
            return None, 0
        try:
            return decoder.decode(found.data), found.seq
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadSpec(f"the latest version of {what} is unreadable: {error}") from error

    async def _ensure_queues(self, queues: Sequence[str]) -> None:
        """Behind the version: whoever adds shards meanwhile finds either that, or us the shards."""
        shards = (await require_namespace(self._connection, self._names)).shards
        for queue in queues:
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
                    registered = read_registered(stored.data)
                    found.update(_queues(registered.spec, registered.build))
        return sorted(found)

    # -- versions ----------------------------------------------------------------------------------
    async def versions(self, name: str) -> Versions:
        """What stands of all versions of a workflow. Raises `NotFound` (WORKFLOW_UNKNOWN)."""
        return (await self._known_versions(name))[0]

    async def _known_versions(self, name: str) -> tuple[Versions, int]:
        versions, seq = await self._read_versions(check_name(name, "workflow"))
        if versions is None:
            raise NotFound(
                f"workflow {name!r} is not registered: put its definition first", code="WORKFLOW_UNKNOWN"
            )
        return versions, seq

    async def resolve(self, name: str, ref: VersionRef = LATEST) -> int:
        """The number of the version that a new run gets. Raises as `Versions.resolve` does."""
        return (await self.versions(name)).resolve(name, ref)

    async def set_alias(self, name: str, alias: str, ref: VersionRef, actor: str = "") -> int:
        """Lets `name@alias` be the version that `ref` is now; gives its number. The alias may have been another's.

        Raises as `resolve` does, and `BadInput` (VERSION_INVALID, TOO_MANY_ALIASES).
        """
        check_alias(alias)
        check_actor(actor)

        def change(versions: Versions) -> Versions:
            version = versions.resolve(name, ref)
            known = versions.aliases.get(alias)
            if known is not None and known.version == version:
                return versions
            if known is None and len(versions.aliases) >= ALIASES_MAX:
                raise BadInput(
                    f"workflow {name!r} has {ALIASES_MAX} aliases, which is the most: remove one (limit aliases)",
                    code="TOO_MANY_ALIASES",
                )
            aliases = {**versions.aliases, alias: Alias(version, actor, _now())}
            return msgspec.structs.replace(versions, aliases=aliases)

        return (await self._change(name, change)).aliases[alias].version

    async def remove_alias(self, name: str, alias: str) -> None:
        """One that is not there is no error. Raises `NotFound` (WORKFLOW_UNKNOWN)."""
        check_alias(alias)

        def change(versions: Versions) -> Versions:
            aliases = {each: version for each, version in versions.aliases.items() if each != alias}
            return msgspec.structs.replace(versions, aliases=aliases)

        await self._change(name, change)

    async def retire(self, name: str, ref: VersionRef) -> int:
        """Lets no new run be started of a version; gives its number. Its runs go on.

        Raises as `Versions.find` does, and `BadInput` (VERSION_ALIASED) where an alias stands for it.
        """
        version = 0
        _check_named(name, ref)

        def change(versions: Versions) -> Versions:
            nonlocal version
            version = versions.find(name, ref)
            aliases = aliases_of(versions.aliases, version)
            if aliases:
                raise BadInput(
                    f"version {version} of workflow {name!r} is {name}@{aliases[0]}: let the alias be another version "
                    "first, or remove it",
                    code="VERSION_ALIASED",
                )
            retired = tuple(sorted({*versions.retired, version}))
            return msgspec.structs.replace(versions, retired=retired)

        await self._change(name, change)
        return version

    async def restore(self, name: str, ref: VersionRef) -> int:
        """Lets runs be started of a retired version again; gives its number.

        Raises as `Versions.find` does, and `ChangeRefused` where a newer version of its major one breaks who uses it,
        as that was compared with what was left while it was retired.
        """
        _check_named(name, ref)
        versions = await self.versions(name)
        version = versions.find(name, ref)
        major = versions.label(version).major
        newer = [
            each
            for each in range(version + 1, versions.version + 1)
            if versions.label(each).major == major and each not in versions.retired
        ]
        for each in newer:
            broken = breaks((await self.get(name, version)).spec, (await self.get(name, each)).spec)
            if broken:
                said = "".join(f"\n- {reason}" for reason in broken)
                raise ChangeRefused(
                    f"version {each} of workflow {name!r} breaks who uses version {version}: retire that first, or "
                    f"register version {version} anew{said}"
                )

        def change(versions: Versions) -> Versions:
            retired = tuple(each for each in versions.retired if each != version)
            return msgspec.structs.replace(versions, retired=retired)

        await self._change(name, change)
        return version

    async def archive(self, name: str, *, archived: bool = True) -> None:
        """Lets no new run be started of a workflow, and no version of it be registered, until it is unarchived. Its
        runs go on. Raises `NotFound` (WORKFLOW_UNKNOWN)."""
        await self._change(name, lambda versions: msgspec.structs.replace(versions, archived=archived))

    async def keep(self, name: str, retention: Retention | None) -> None:
        """Says for how long runs of a workflow are kept that have ended, of all its versions; None: as the namespace
        has it. Raises `NotFound` (WORKFLOW_UNKNOWN), or `BadInput` (RETENTION_INVALID)."""
        if retention is not None:
            check_retention(retention)
        await self._change(name, lambda versions: msgspec.structs.replace(versions, retention=retention))

    async def _change(self, name: str, change: Callable[[Versions], Versions]) -> Versions:
        """Safe to repeat, and to race: each change is one of what stood there when it was made."""
        while True:
            versions, seq = await self._known_versions(name)
            changed = change(versions)
            if changed == versions or await self._point(self._names.workflow_key(name), changed, seq):
                return changed

    # -- reading -----------------------------------------------------------------------------------
    async def view(self, name: str, limit: int = VERSIONS_SHOWN) -> VersionsView:
        """A workflow with its last versions, at most `limit` of them. Raises `NotFound` (WORKFLOW_UNKNOWN)."""
        versions = await self.versions(name)
        shown: list[VersionView] = []
        for version in range(versions.version, max(0, versions.version - limit), -1):
            label, retired = str(versions.label(version)), version in versions.retired
            aliases = tuple(aliases_of(versions.aliases, version))
            try:
                found = await self.get(name, version)
            except BadSpec as error:
                shown.append(VersionView(version, label, "", "", "", (error.message,), retired, aliases))
                continue
            # One that was passed over has another label than it was to have.
            broken = found.breaks if found.label == label else ()
            shown.append(
                VersionView(
                    version,
                    label,
                    found.digest,
                    found.registered_at,
                    found.actor,
                    broken,
                    retired,
                    aliases,
                    found.build,
                )
            )
        latest = 0 if versions.archived else versions.latest
        more = versions.version > limit
        return VersionsView(name, latest, versions.archived, versions.aliases, shown, more)

    async def get(self, name: str, ref: VersionRef = LATEST) -> RegisteredWorkflow:
        """A version, retired or not. Raises as `Versions.find` does, or `BadSpec` if a newer release wrote it."""
        if isinstance(ref, int) and ref > 0:
            wanted = ref
        else:
            wanted = (await self.versions(name)).find(name, ref)
        key = self._names.workflow_version_key(check_name(name, "workflow"), wanted)
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        if found is None:
            raise NotFound(f"workflow {name!r} has no version {wanted}", code="WORKFLOW_UNKNOWN")
        try:
            return read_registered(found.data)
        except BadInput as error:
            raise BadSpec(f"workflow {name!r} version {wanted}: {error.message}") from error

    async def uses(self, what: Used, name: str, *, all_versions: bool = False) -> list[Use]:
        """The workflows that use it, by the versions that new runs get: the latest, and those with an alias. With
        `all_versions` every version there is, of archived workflows as well."""
        found: list[Use] = []
        for workflow in await self.names():
            versions = await self.versions(workflow)
            given = {versions.latest, *(each.version for each in versions.aliases.values())} - {0}
            if all_versions:
                given = set(range(1, versions.version + 1))
            elif versions.archived:
                continue
            for version in sorted(given):
                label = str(versions.label(version))
                try:
                    lines = uses_of((await self.get(workflow, version)).spec, what, name)
                except NotFound:
                    continue
                except BadSpec:
                    found.append(Use(workflow, version, label, unread=True))
                    continue
                if lines is not None:
                    found.append(Use(workflow, version, label, lines))
        return found

    async def names(self) -> list[str]:
        """All workflows that are registered."""
        state = await self._connection.stream_state(
            self._names.definitions_stream(), subjects=self._names.workflow_keys()
        )
        prefix = len(self._names.workflow_key(""))
        return sorted(subject[prefix:] for subject in state.subjects) if state else []


ABOUT_TO_S: Final = 2.0
"""So long somebody has who has created a version, and not said yet that it is one."""

ABOUT_TO_LOOKS: Final = 40
NO_VERSIONS: Final = Versions(0, "")


def _check_alone(event: EventDef, types: tuple[TypeDef, ...], workflow: str, pointer: Pointer | None) -> None:
    """Raises `EventConflict` where an event is another one for other workflows."""
    if pointer is None or pointer.digest == event_digest(event, types):
        return
    others = [each for each in pointer.workflows if each != workflow]
    if others:
        raise EventConflict(
            f"event {event.name!r} of workflow {workflow!r} is not the one that workflow {others[0]!r} is "
            "registered with: who posts it could not know which is meant. Give one another name, or let "
            "both use the same Event"
        )


def refusal(plan: Plan, allow: Allow) -> ChangeRefused | None:
    """What `allow` has against a plan, with what breaks. Raises `BadInput` for what is no policy."""
    if allow not in get_args(Allow):
        raise BadInput(f"allow is one of {', '.join(get_args(Allow))}, and not {allow!r}")
    if allow == "all" or plan.change in ("new", "unchanged"):
        return None
    if allow == "compatible" and plan.change == "compatible":
        return None
    said = "".join(f"\n- {each}" for each in plan.breaks)
    if allow == "none":
        return ChangeRefused(
            f"workflow {plan.workflow!r} is another one than its version {plan.version - 1}, and no change is allowed"
            f"{said}",
            code="CHANGE_REFUSED",
        )
    return ChangeRefused(f"workflow {plan.workflow!r} breaks those who use it:{said}")


def _check_named(name: str, ref: VersionRef) -> None:
    """Raises `BadInput` for the latest one: that is another one when it was retired."""
    if ref in (0, "", LATEST):
        raise BadInput(
            f"say which version of workflow {name!r}: by its number, its label or an alias",
            code="VERSION_INVALID",
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _types_of(child: ChildDef, spec: WorkflowSpec) -> dict[str, TypeDef]:
    refs = (child.output, *(field.type for field in child.params))
    return {each.name: each for ref in refs for each in needed(ref, spec.types)}


def _queues(spec: WorkflowSpec, build: str) -> list[str]:
    """Raises `BadName` for what is no build, also where there is no task."""
    if build:
        check_name(build, "build")
    return sorted({build_queue(task.queue, build) for task in spec.tasks})
