"""Delivers output events to subjects of users, each under an id by which its stream drops a repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Self

from dressage.brokers.interface import Connection, Message
from dressage.connectors.connect.event_mapping import Output, headers_of
from dressage.connectors.events_out.outgoing import NotDelivered, Outgoing, Sure, Undeliverable
from dressage.connectors.mapping import Unmappable
from dressage.protocol.errors import BadInput, PublishRefused, Unheard
from dressage.protocol.names import wrong_with_subject

MESSAGE_TOO_LARGE: Final = 10054
"""The stream takes no message of this size, now or later."""


class SubjectDelivery:
    """Publishes, and awaits the acknowledgement of whichever stream captures the subject.

    It has a connection of its own: a slow stream of somebody else's must not make the sink's lease wait.
    """

    deadline_s: float | None = None

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def check(self, output: Output) -> None:
        subject = output.target
        if not isinstance(subject, str):
            raise Unmappable(
                f"subject: it gives a {type(subject).__name__}, not a str: use str(...)", code="VALUE_INVALID"
            )
        wrong = wrong_with_subject(subject)
        if wrong:
            raise Unmappable(wrong, code="SUBJECT_INVALID")

    async def deliver(self, outgoing: Outgoing, sure: Sure) -> None:
        told = outgoing.told
        message = Message(told.target, told.value, headers_of(told), msg_id=outgoing.id)
        connection = await self._connected()
        await sure()
        try:
            await connection.publish_elsewhere(message)
        except Unheard as error:
            raise NotDelivered(
                f"no stream captures {told.target}, or it has no leader: make one, or correct the subject",
                code="NO_STREAM",
            ) from error
        except PublishRefused as refused:
            if refused.err_code == MESSAGE_TOO_LARGE:
                raise Undeliverable(
                    f"{told.target}: {refused.message}", code="PAYLOAD_TOO_LARGE"
                ) from refused
            raise NotDelivered(f"{told.target}: {refused.message}", code=refused.code) from refused
        except BadInput as error:
            raise Undeliverable(error.message, code=error.code) from error

    async def _connected(self) -> Connection:
        """The connection, opened anew if it was lost for good."""
        async with self._opening:
            if self._connection is None or self._connection.lost.is_set():
                self._connection = await self._connect()
            return self._connection
