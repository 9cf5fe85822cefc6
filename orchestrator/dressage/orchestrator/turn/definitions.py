"""Immutable versions of workflows, compiled once and kept."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import msgspec

from dressage.brokers.interface import Connection
from dressage.orchestrator.fold.definition import Definition, EventDefinition
from dressage.protocol.errors import BadInput, BadName, BadSpec, DressageError, NotFound
from dressage.protocol.names import Names, check_name, is_name
from dressage.protocol.retention import Retention
from dressage.protocol.spec import RegisteredEvent, RegisteredWorkflow
from dressage.protocol.spec_reading import read_event, read_registered
from dressage.protocol.versions import VersionRef, Versions

KEPT_BYTES_MAX: Final = 32 * 1024 * 1024
"""Specs of so many bytes in JSON are kept compiled, the least recently used are dropped: they take ten times that."""


EVENTS_KEPT: Final = 1_000
"""So many versions of external events are kept."""

LATEST_S: Final = 1.0
"""So long what stands of the versions of a workflow is taken for that."""


class Definitions:
    """Loads versions by name from the definitions' bucket, from its leader."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        kept_bytes_max: int = KEPT_BYTES_MAX,
        retention: Callable[[], Retention] = Retention,
    ) -> None:
        """`retention` is what holds for workflows of which nothing else is said."""
        self._retention = retention
        self._connection = connection
        self._names = names
        self._kept_bytes_max = kept_bytes_max
        self._kept_bytes = 0
        self._known: OrderedDict[tuple[str, int], tuple[Definition | BadSpec, int]] = OrderedDict()
        self._events: OrderedDict[tuple[str, int], EventDefinition | BadSpec] = OrderedDict()
        self._versions: dict[str, tuple[Versions | None, float]] = {}

    async def get(self, workflow: str, version: int) -> Definition | None:
        """None when there is no such version yet. Raises `BadSpec` for one that cannot be used."""
        known = self._known.get((workflow, version))
        if known is None:
            try:
                check_name(workflow, "workflow")
            except BadName:
                return None
            key = self._names.workflow_version_key(workflow, version)
            found = await self._connection.last_message(self._names.definitions_stream(), key)
            if found is None or not found.data:
                return None
            known = self._keep(workflow, version, found.data)
        else:
            self._known.move_to_end((workflow, version))
        definition, _ = known
        if isinstance(definition, BadSpec):
            raise BadSpec(definition.message)
        return definition

    async def resolve(self, workflow: str, ref: VersionRef, *, anew: bool = False) -> int:
        """The version that a new run gets, as it was less than a moment ago, or is now if it is to be read `anew`; 0 if
        there is none, as it is now.

        Raises `msgspec.MsgspecError` where what is stored cannot be read.
        """
        known = self._versions.get(workflow)
        if not anew and known is not None and asyncio.get_running_loop().time() < known[1]:
            version = _resolved(known[0], workflow, ref)
            if version:
                return version
        return _resolved(await self._read_versions(workflow), workflow, ref)

    async def retention(self, workflow: str) -> Retention:
        """For how long the workflow's runs are kept, as it was less than a moment ago."""
        known = self._versions.get(workflow)
        if known is None or asyncio.get_running_loop().time() >= known[1]:
            try:
                versions = await self._read_versions(workflow)
            except msgspec.MsgspecError:
                return Retention()  # Whatever stands there: nothing is deleted by it.
        else:
            versions = known[0]
        own = None if versions is None else versions.retention
        return self._retention() if own is None else own

    async def _read_versions(self, workflow: str) -> Versions | None:
        key = self._names.workflow_key(workflow)
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        versions = None if found is None or not found.data else msgspec.json.decode(found.data, type=Versions)
        self._versions.pop(workflow, None)
        self._versions[workflow] = versions, asyncio.get_running_loop().time() + LATEST_S
        if len(self._versions) > EVENTS_KEPT:
            del self._versions[next(iter(self._versions))]
        return versions

    async def event(self, name: str, version: int) -> EventDefinition | None:
        """None when there is no such version of an external event. Raises `BadSpec` for one that cannot be used."""
        known = self._events.get((name, version))
        if known is None:
            if not is_name(name) or version < 1:
                return None
            key = self._names.event_version_key(name, version)
            found = await self._connection.last_message(self._names.definitions_stream(), key)
            if found is None or not found.data:
                return None
            try:
                known = load_event(name, version, found.data)
            except BadSpec as error:
                known = error.with_traceback(None)
            self._events[name, version] = known
            if len(self._events) > EVENTS_KEPT:
                self._events.popitem(last=False)
        if isinstance(known, BadSpec):
            raise BadSpec(known.message)
        return known

    def _keep(self, workflow: str, version: int, data: bytes) -> tuple[Definition | BadSpec, int]:
        """Also what cannot be used is remembered: a version never changes, and finding out takes as long each time."""
        kept: Definition | BadSpec
        try:
            kept = load_definition(workflow, version, data)
        except BadSpec as error:
            kept = error.with_traceback(None)
        entry = self._known[workflow, version] = (kept, len(data))
        self._kept_bytes += len(data)
        while self._kept_bytes > self._kept_bytes_max and len(self._known) > 1:
            _, (_, size) = self._known.popitem(last=False)
            self._kept_bytes -= size
        return entry


def _resolved(versions: Versions | None, workflow: str, ref: VersionRef) -> int:
    try:
        return versions.resolve(workflow, ref) if versions else 0
    except (BadInput, NotFound):
        return 0


def load_definition(workflow: str, version: int, data: bytes) -> Definition:
    """The version that is stored under this name and number. Raises `BadSpec`, whatever is wrong with it."""
    try:
        registered = read_registered(data)
    except DressageError as error:
        raise BadSpec(f"workflow {workflow!r} version {version}: {error.message}") from error
    if (registered.spec.name, registered.version) != (workflow, version):
        raise BadSpec(
            f"what is stored as workflow {workflow!r} version {version} is {registered.spec.name!r} "
            f"version {registered.version}"
        )
    return make_definition(registered)


def load_event(name: str, version: int, data: bytes) -> EventDefinition:
    """The version of an external event that is stored under this name and number. Raises `BadSpec`."""
    try:
        registered = read_event(data)
    except DressageError as error:
        raise BadSpec(f"event {name!r} version {version}: {error.message}") from error
    if (registered.event.name, registered.version) != (name, version):
        raise BadSpec(f"what is stored as event {name!r} version {version} is another one")
    return make_event(registered)


def make_event(registered: RegisteredEvent) -> EventDefinition:
    """Raises `BadSpec` for one that cannot be used, whatever is wrong with it."""
    try:
        return EventDefinition(registered)
    except Exception as error:
        raise BadSpec(f"event {registered.event.name!r} cannot be used: {error}") from error


def make_definition(registered: RegisteredWorkflow) -> Definition:
    """Raises `BadSpec` for a spec that cannot be used, whatever is wrong with it."""
    try:
        return Definition(registered)
    except BadSpec:
        raise
    except DressageError as error:
        raise BadSpec(f"workflow {registered.spec.name!r}: {error.message}") from error
    except Exception as error:
        raise BadSpec(f"workflow {registered.spec.name!r} cannot be compiled: {error}") from error
