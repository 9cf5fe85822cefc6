"""Immutable versions of workflows, compiled once and kept."""

from __future__ import annotations

import msgspec

from dressage.brokers.interface import Connection
from dressage.orchestrator.fold.definition import Definition
from dressage.protocol.errors import BadName, BadSpec, DressageError
from dressage.protocol.names import Names, check_name
from dressage.protocol.spec import RegisteredWorkflow

_decoder = msgspec.json.Decoder(RegisteredWorkflow)


class Definitions:
    """Loads versions by name from the definitions' bucket, from its leader."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._known: dict[tuple[str, int], Definition] = {}

    async def get(self, workflow: str, version: int) -> Definition | None:
        """None when there is no such version yet. Raises `BadSpec` for one that cannot be used."""
        known = self._known.get((workflow, version))
        if known is not None:
            return known
        try:
            check_name(workflow, "workflow")
        except BadName:
            return None
        key = self._names.workflow_version_key(workflow, version)
        found = await self._connection.last_message(self._names.definitions_stream(), key)
        if found is None or not found.data:
            return None
        try:
            registered = _decoder.decode(found.data)
        except msgspec.MsgspecError as error:
            raise BadSpec(f"workflow {workflow!r} version {version} does not decode: {error}") from error
        definition = self._known[workflow, version] = make_definition(registered)
        return definition


def make_definition(registered: RegisteredWorkflow) -> Definition:
    """Raises `BadSpec` for a spec that cannot be used, whatever is wrong with it."""
    try:
        return Definition(registered)
    except DressageError:
        raise
    except Exception as error:
        raise BadSpec(f"workflow {registered.spec.name!r} cannot be compiled: {error}") from error
