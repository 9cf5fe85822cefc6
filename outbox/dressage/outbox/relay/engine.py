"""Asks the engine for what a message says, exactly as a client does, and tells what a refusal means."""

from __future__ import annotations

import asyncio
from typing import Final

from dressage.client import Client
from dressage.client.starting import PASSING
from dressage.outbox.messages import Post, Start, decode_message
from dressage.outbox.relay.store import Row, Verdict
from dressage.protocol.errors import BadInput, DressageError, NotFound, Refused
from dressage.protocol.versions import LATEST, VersionRef

VERSION_AGE_S: Final = 1.0
"""For how long the version of a workflow counts as known: to ask for each message costs as much as a start."""

KNOWN_WORKFLOWS: Final = 1_000

ANSWER_S: Final = 8.0
"""How long a message waits for the engine before it is tried again."""

AGAIN_MS_MIN: Final = 500
AGAIN_MS_MAX: Final = 30_000

_PASSING: Final = PASSING | {"EVENT_UNKNOWN", "RUN_UNKNOWN", "EVENTS_FULL"}
"""Of an event: no workflow that is registered waits for it, or so many wait that nobody has claimed."""


class Engine:
    """Sends messages through a client."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, VersionRef], tuple[asyncio.Future[int], float]] = {}

    async def send(self, row: Row) -> Verdict | None:
        """None once the engine has accepted it; else why it does not.

        Raises a `DressageError` for what has nothing to do with the message: there is no engine, or no broker.
        """
        try:
            await self._send(row)
        except (BadInput, Refused, NotFound) as error:
            later_ms = min(AGAIN_MS_MAX, AGAIN_MS_MIN * 2 ** min(row.attempts, 10))
            return Verdict(error.code, error.message, later_ms if error.code in _PASSING else 0)
        return None

    async def _send(self, row: Row) -> None:
        message = decode_message(row.message)
        actor = message.actor or "outbox"
        if isinstance(message, Start):
            await self._start(message, actor)
        elif message.run_id:
            await self._client.post(
                message.run_id,
                message.event,
                message.payload,
                event_id=message.id,
                timeout_s=ANSWER_S,
                actor=actor,
            )
        else:
            await self._post_by_key(message, actor)

    async def _post_by_key(self, message: Post, actor: str) -> None:
        await self._client.post_by_key(
            message.event,
            message.key,
            message.payload,
            event_id=message.id,
            timeout_s=ANSWER_S,
            actor=actor,
        )

    async def _start(self, message: Start, actor: str) -> None:
        await self._client.start(
            message.workflow,
            message.input,
            run_id=message.run_id,
            version=await self._version(message),
            command_id=message.id,
            timeout_s=ANSWER_S,
            actor=actor,
            traceparent=message.traceparent,
        )

    async def _version(self, message: Start) -> int:
        """What the message names, asked for by one of those who want to know it at the same time."""
        wanted = message.workflow, message.version or LATEST
        known = self._known.get(wanted)
        if known is None or known[1] < asyncio.get_running_loop().time():
            if len(self._known) > KNOWN_WORKFLOWS:
                self._known.clear()
            asking = asyncio.ensure_future(self._client.registry.resolve(*wanted))
            known = self._known[wanted] = asking, asyncio.get_running_loop().time() + VERSION_AGE_S
        try:
            return await asyncio.shield(known[0])
        except DressageError:
            if self._known.get(wanted) is known:
                del self._known[wanted]
            raise
