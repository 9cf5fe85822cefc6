"""The output events of one run as the stream delivers them, through whatever consumers that takes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import Final

import msgspec

from dressage.brokers.interface import Connection, ConsumerConfig, Delivery, Pull
from dressage.protocol.commands import RunView
from dressage.protocol.errors import BrokerError, DressageError, OutcomeUnknown
from dressage.protocol.events import RUN_HEADER, ReceivedEvent, decode_event
from dressage.protocol.names import Names, run_token

_log = logging.getLogger("dressage.client")

WINDOW: Final = 500
"""Deliveries asked for or held: it bounds memory, however slowly they are read."""

INACTIVE_S: Final = 30.0
"""After this time without a pull request the server forgets the consumer of a client that died."""

CLOSE_S: Final = 1.0
"""How long the removal of a consumer is waited for."""

RETRY_S: Final = 0.2
REFUSED_S: Final = 30.0
"""For so long a server may refuse to make a consumer, as one that is just starting does, until that is an error."""


class RunFeed:
    """A run's events share their subjects with those of other runs, which are passed over here.

    A consumer acknowledges nothing and lives in the server's memory. It is thrown away at the first doubt, and a new
    one is made behind what was read.
    """

    def __init__(self, connection: Connection, names: Names, run: RunView, since: str | None) -> None:
        self._connection = connection
        self._stream = names.events_stream
        self._subject = names.events_of_run(run.shard, run.run_id, run.workflow)
        self._token = run_token(run.run_id)
        self._consumer = ""
        self._pull: Pull | None = None
        self._arrived: asyncio.Queue[Delivery | str] = asyncio.Queue()
        self._expected = 1
        self._refused_since: float | None = None
        self.since = since
        """What was stored earlier (RFC 3339) is not looked at; None looks at everything."""
        self.reached = 0
        """Sequence in the stream of the last message that was looked at."""

    async def next(self, patience_s: float) -> ReceivedEvent | None:
        """The next event of the run; None if none has come in that time.

        Raises `OutcomeUnknown` once the connection is closed, `BrokerError` if the server goes on refusing a consumer.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience_s
        while True:
            if self._pull is not None or await self._opened():
                try:
                    async with asyncio.timeout_at(deadline):
                        arrived = await self._arrived.get()
                except TimeoutError:
                    return None
                event = await self._taken(arrived)
                if event is not None:
                    return event
            if loop.time() >= deadline:
                return None

    async def holds_more(self, until: int) -> bool:
        """Whether anything up to this sequence of the stream is still to come here; its leader is asked."""
        found = await self._connection.next_message(self._stream, self.reached + 1, self._subject)
        return found is not None and found.seq <= until

    async def again(self, *, from_start: bool = False) -> None:
        """Goes on by a new consumer behind what was read, or from the stream's beginning."""
        await self.close()
        if from_start:
            self.since, self.reached = None, 0

    async def close(self) -> None:
        """What has arrived and was not read is dropped; it would come again."""
        pull, self._pull = self._pull, None
        consumer, self._consumer = self._consumer, ""
        if pull is not None:
            await pull.close()
        if consumer:
            # If this fails, the server forgets the consumer by itself.
            with contextlib.suppress(DressageError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._connection.delete_consumer(self._stream, consumer)

    async def _opened(self) -> bool:
        """Whether there is a consumer now, and a pull on it. After a failure it pauses for a moment."""
        await self.close()
        self._consumer, self._expected = f"run_{uuid.uuid4().hex}", 1
        arrived = self._arrived = asyncio.Queue[Delivery | str]()
        config = ConsumerConfig(
            self._consumer,
            [self._subject],
            durable=False,
            explicit_ack=False,
            memory=True,
            inactive_s=INACTIVE_S,
            start_seq=self.reached + 1 if self.reached else None,
            start_time=None if self.reached else self.since,
        )
        try:
            await self._connection.create_consumer(self._stream, config)
            self._pull = await self._connection.pull(
                self._stream, self._consumer, WINDOW, arrived.put_nowait, arrived.put_nowait
            )
        except BrokerError as error:
            if self._connection.lost.is_set():
                raise
            self._check_patience(error)
            await asyncio.sleep(RETRY_S)
            return False
        self._refused_since = None
        return True

    def _check_patience(self, error: BrokerError) -> None:
        """A server that is away comes back; one that says no for long means it. Raises what it said."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, OutcomeUnknown):
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif now - self._refused_since > REFUSED_S:
            raise error
        _log.info("output events of run %s: %s", self._token, error.message)

    async def _taken(self, arrived: Delivery | str) -> ReceivedEvent | None:
        """The event, if this is one of the run. The end of a pull, and a delivery that got lost, end the consumer."""
        if isinstance(arrived, str) or arrived.consumer_seq != self._expected:
            why = arrived if isinstance(arrived, str) else f"delivery {self._expected} was lost"
            _log.info("output events of run %s: reading on: %s", self._token, why)
            await self.close()
            return None
        self._expected += 1
        self.reached = arrived.stream_seq
        if self._pull is not None:
            await self._pull.taken()
        if not arrived.headers or arrived.headers.get(RUN_HEADER) != self._token:
            return None
        try:
            return decode_event(arrived.data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None  # Nothing that an engine has written.
