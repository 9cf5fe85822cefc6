"""Asks the engine for what an event asks for, and tells what that event will never get from what may pass."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from dressage.client import Client
from dressage.client.starting import PASSING
from dressage.connectors.config import PostTarget, StartTarget
from dressage.connectors.connect.reading import AskingConfig
from dressage.connectors.mapping import Post, Start, Unmappable
from dressage.protocol.errors import DressageError
from dressage.protocol.versions import LATEST, VersionRef

VERSION_AGE_S: Final = 1.0
"""For how long the version of a workflow or of an event counts as known: to ask for each costs as much as a start."""

COMMAND_BYTES: Final = 2_048
"""What a command takes in its message beside the input or the payload."""

_PASSING: Final = PASSING | {"EVENT_UNKNOWN"}
"""Refusals that say nothing about the event."""


class NotYet(DressageError):
    """The engine refuses for a reason that has nothing to do with the event; the code is the engine's."""

    retryable = True


class Engine:
    """Starts runs of one workflow, or posts one event. Both are safe to repeat: the event has said the ids."""

    def __init__(
        self,
        client: Client,
        *,
        actor: str,
        answer_s: float,
        workflow: str = "",
        version: VersionRef | None = None,
        event: str = "",
    ) -> None:
        """Either a workflow is named, or an event."""
        self._workflow = workflow
        self._wanted = version or LATEST
        self._event = event
        self._client = client
        self._answer_s = answer_s
        self._actor = actor
        self._known = 0
        self._known_until = 0.0
        self._asking = asyncio.Lock()

    async def ask(self, request: Start | Post) -> bool:
        """Returns once the engine has accepted the request: whether it had done so before.

        Raises as `Client.start`, `Client.post` and `Client.post_by_key` do, or `NotYet`.
        """
        self._check_size(request.input if isinstance(request, Start) else request.payload)
        try:
            version = await self._version()
            return await (
                self._start(request, version) if isinstance(request, Start) else self._post(request, version)
            )
        except DressageError as error:
            if error.code in _PASSING:
                raise NotYet(error.message, code=error.code) from error
            raise

    async def _start(self, start: Start, version: int) -> bool:
        run = await self._client.start(
            self._workflow,
            msgspec.Raw(start.input),
            run_id=start.run_id,
            version=version,
            timeout_s=self._answer_s,
            actor=self._actor,
            traceparent=start.traceparent,
        )
        return run.existing

    async def _post(self, post: Post, version: int) -> bool:
        if not version:
            raise NotYet(
                f"no workflow that is registered waits for event {post.event!r}: register one, or look at the name",
                code="EVENT_UNKNOWN",
            )
        payload, who = msgspec.Raw(post.payload), {"event_id": post.event_id, "actor": self._actor}
        if post.run_id:
            posting = self._client.post(post.run_id, post.event, payload, timeout_s=self._answer_s, **who)
        else:
            posting = self._client.post_by_key(post.event, post.key, payload, timeout_s=self._answer_s, **who)
        return (await posting).existing

    def _check_size(self, given: bytes) -> None:
        if len(given) > self._client.connection.payload_bytes_max - COMMAND_BYTES:
            raise Unmappable(
                f"{len(given)} bytes exceed what a command can carry: pass on less of the event (limit payload-size)",
                code="PAYLOAD_TOO_LARGE",
            )

    async def _version(self) -> int:
        loop = asyncio.get_running_loop()
        if loop.time() < self._known_until:
            return self._known
        async with self._asking:
            if loop.time() >= self._known_until:
                self._known = await self._resolved()
                self._known_until = loop.time() + VERSION_AGE_S
            return self._known

    async def _resolved(self) -> int:
        registry = self._client.registry
        if self._workflow:
            return await registry.resolve(self._workflow, self._wanted)
        return await registry.event_version(self._event)


def engine_of(target: StartTarget | PostTarget, client: Client, *, actor: str, answer_s: float) -> Engine:
    """That of a trigger."""
    if isinstance(target, StartTarget):
        return Engine(
            client, actor=actor, answer_s=answer_s, workflow=target.workflow, version=target.version
        )
    return Engine(client, actor=actor, answer_s=answer_s, event=target.event)


def engine_of_source(config: AskingConfig, client: Client, *, answer_s: float) -> Engine:
    """That of a source."""
    return Engine(
        client,
        actor=f"connector/{config.name}",
        answer_s=answer_s,
        workflow=config.workflow,
        version=config.version,
        event=config.event,
    )
