"""What a connector asks of the engine: to start a run, or to take an external event.

Which refusals say something about the event, and which say only "not yet", is the same for every connector.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from dressage.client import Client
from dressage.client.client import Posted, RunHandle
from dressage.connectors.mapping import Start, Unmappable
from dressage.protocol.errors import DressageError, NotFound
from dressage.protocol.versions import LATEST, VersionRef

VERSION_AGE_S: Final = 1.0
"""For how long the version of a workflow counts as known: to ask for each event costs as much as a start."""

COMMAND_BYTES: Final = 2_048
"""What a start takes in its message beside the input."""

_PASSING: Final = frozenset(
    {
        "WORKFLOW_UNKNOWN",
        "ALIAS_UNKNOWN",
        "VERSION_RETIRED",
        "WORKFLOW_ARCHIVED",
        "SPEC_INVALID",
        "OPEN_RUNS",
    }
)
"""Refusals that say nothing about the event: the definition is missing, is not for new runs, or was written by a newer
release; or so many runs are open that the event has to wait."""


class NotYet(DressageError):
    """The engine refuses for a reason that has nothing to do with the event; the code is the engine's."""

    retryable = True


class Engine:
    """Starts runs of one workflow, or posts events, for one connector, which is their `actor`."""

    def __init__(
        self, client: Client, answer_s: float, actor: str, workflow: str = "", version: VersionRef = LATEST
    ) -> None:
        self._client = client
        self._answer_s = answer_s
        self._actor = actor
        self._workflow = workflow
        self._wanted = version
        self._known = 0
        self._known_until = 0.0
        self._asking = asyncio.Lock()

    async def start(self, start: Start) -> RunHandle[Any]:
        """Returns once the engine has accepted the start. Raises as `Client.start` does, or `NotYet`."""
        self._check_size(start.input, "an input")
        try:
            return await self._client.start(
                self._workflow,
                msgspec.Raw(start.input),
                run_id=start.run_id,
                version=await self._version(),
                timeout_s=self._answer_s,
                actor=self._actor,
            )
        except DressageError as error:
            raise _seen(error) from error

    async def post(self, event: str, run_id: str, payload: bytes, event_id: str) -> Posted:
        """Returns once the run has the event. Raises as `Client.post` does, or `NotYet`."""
        self._check_size(payload, "a payload")
        try:
            return await self._client.post(
                run_id,
                event,
                msgspec.Raw(payload),
                event_id=event_id,
                timeout_s=self._answer_s,
                actor=self._actor,
            )
        except DressageError as error:
            raise _seen(error) from error

    async def post_by_key(self, event: str, key: str, payload: bytes, event_id: str) -> Posted:
        """Returns once the correlation key has the event. Raises as `Client.post_by_key` does, or `NotYet`."""
        self._check_size(payload, "a payload")
        try:
            return await self._client.post_by_key(
                event,
                key,
                msgspec.Raw(payload),
                event_id=event_id,
                timeout_s=self._answer_s,
                actor=self._actor,
            )
        except NotFound as error:
            raise NotYet(error.message, code=error.code) from error
        except DressageError as error:
            raise _seen(error) from error

    def _check_size(self, data: bytes, what: str) -> None:
        if len(data) > self._client.connection.payload_bytes_max - COMMAND_BYTES:
            raise Unmappable(
                f"{what} of {len(data)} bytes exceeds what a command can carry: pass on less of the event "
                "(limit payload-size)",
                code="PAYLOAD_TOO_LARGE",
            )

    async def _version(self) -> int:
        loop = asyncio.get_running_loop()
        if loop.time() < self._known_until:
            return self._known
        async with self._asking:
            if loop.time() >= self._known_until:
                self._known = await self._client.registry.resolve(self._workflow, self._wanted)
                self._known_until = loop.time() + VERSION_AGE_S
            return self._known


def _seen(error: DressageError) -> DressageError:
    return NotYet(error.message, code=error.code) if error.code in _PASSING else error
