"""A source that asks the analytics process, and hands each row to the engine, once.

What makes a row count once is the id that it gives its run, or its event, made of the connector's name and the row's
key: whoever asks again, another process or this one after a crash, asks for the same. What this process remembers only
saves asking.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from dressage.client import Client, QueryError
from dressage.connectors.asked.config import QuerySource
from dressage.connectors.connect.asking import Asks
from dressage.connectors.connect.metrics import ConnectorMetrics
from dressage.connectors.connect.options import ConnectorFailed, ConnectorOptions
from dressage.connectors.engine import engine_of_source
from dressage.connectors.gate import Faults, Gate
from dressage.connectors.setting import backoff_s
from dressage.connectors.waiting import pause
from dressage.protocol.errors import BadInput, DressageError, Refused

_log = logging.getLogger("dressage.connectors")

ROWS: Final = 1_000
"""Of one answer; what is behind them is asked for at once."""

AT_A_TIME: Final = 20
QUERY_S: Final = 30.0
REFUSED_S: Final = 60.0
"""A query that is refused for so long is wrong. For less than that it may have been a process of an earlier release, or
one that had too little memory at that moment."""

AGAIN_S: Final = 5.0
"""Until a query that was refused is tried again, at most."""

DONE_MAX: Final = 100_000
"""Keys of rows that are done with, and are not handed on again as long as the query gives them."""

_STARTED: Final = frozenset({"RUN_ID_CONFLICT", "RUN_DELETED"})
"""The row has started its run before, by other values of its columns, or that run was deleted a moment ago."""

_LATE: Final = frozenset({"RUN_FINISHED", "RUN_DELETED"})
"""The run has ended since the query looked, and takes no events any more."""


@dataclass(slots=True)
class _Sweep:
    """One look at all rows: which keys it has seen, and whether there were more than are remembered."""

    seen: set[str] = field(default_factory=set[str])
    too_many: bool = False


class QueryTask:
    """Any number of processes may run the same one: all ask, and each row counts once."""

    def __init__(
        self, config: QuerySource, client: Client, options: ConnectorOptions, metrics: ConnectorMetrics
    ) -> None:
        self._config = config
        self._client = client
        self._metrics = metrics
        self._asks = Asks(config)
        self._engine = engine_of_source(config, client, answer_s=options.answer_s)
        self._faults = Faults(config.name, metrics.faulty, "connector")
        self._gate = Gate(self._faults, "engine")
        self._done: set[str] = set()
        """The engine has a run or an event of them."""

        self._left: dict[str, int] = {}
        """Rows that lead to nothing as they are, by what is in them: the same key with other values may not."""

        self._refused_at: float | None = None
        column = config.key.replace('"', '""')
        self._sql = (
            f'SELECT CAST("{column}" AS VARCHAR), * FROM (\n{config.query}\n) '
            f'WHERE "{column}" IS NOT NULL '
            f'AND ($after::VARCHAR IS NULL OR CAST("{column}" AS VARCHAR) > $after) ORDER BY 1'
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Returns after `stop`. Raises `ConnectorFailed`."""
        self._metrics.active.set(1)
        try:
            while not stop.is_set():
                refused = not await self._sweep(stop)
                await pause(stop, min(AGAIN_S, self._config.every_s) if refused else self._config.every_s)
        finally:
            self._metrics.active.set(0)

    async def _sweep(self, stop: asyncio.Event) -> bool:
        """Deals with all rows that there are, by their keys; False if it came to no end."""
        sweep, more = _Sweep(), True
        after: str | None = None
        while more:
            page = await self._page(after)
            if page is None:
                return False
            rows, more = page
            after = rows[-1][0] if rows else after
            await self._deal_with(rows, sweep, stop)
            if stop.is_set():
                return False
        self._metrics.lag.set(0)
        self._done &= sweep.seen
        self._left = {key: value for key, value in self._left.items() if key in sweep.seen}
        if sweep.too_many:
            self._faults.begin(
                "rows",
                "ROWS_MANY",
                f"the query has more rows than are remembered, {DONE_MAX:,}: the engine is asked for others at each "
                "look. Let it give those of the last hours only (limit query-rows)",
            )
        else:
            self._faults.end("rows")
        return True

    async def _page(self, after: str | None) -> tuple[list[tuple[str, dict[str, Any]]], bool] | None:
        """The rows behind a key, or all, and if there are more; None if nobody answers. Raises `ConnectorFailed`."""
        try:
            found = await self._client.query(
                self._sql, {"after": after}, limit_rows=ROWS, fresh=True, timeout_s=QUERY_S
            )
        except DressageError as error:
            self._faults.begin("query", error.code, error.message)
            if isinstance(error, QueryError) and not error.retryable:
                self._refused(error)
            return None
        self._refused_at = None
        self._faults.end("query")
        names = found.columns[1:]
        rows = [(key, dict(zip(names, values, strict=True))) for key, *values in found.rows]
        return rows, found.truncated and bool(rows)

    def _refused(self, error: QueryError) -> None:
        """Raises `ConnectorFailed` once that has gone on for so long that it is the query."""
        now = asyncio.get_running_loop().time()
        self._refused_at = now if self._refused_at is None else self._refused_at
        if now - self._refused_at >= REFUSED_S:
            raise ConnectorFailed(
                f"connector {self._config.name!r}: its query is not answered: {error.code}: {error.message}"
            ) from error

    async def _deal_with(
        self, rows: list[tuple[str, dict[str, Any]]], sweep: _Sweep, stop: asyncio.Event
    ) -> None:
        """Raises `ConnectorFailed`."""
        new = [
            (key, row)
            for key, row in rows
            if key not in sweep.seen and key not in self._done and self._left.get(key) != _content(row)
        ]
        sweep.seen.update(key for key, _ in rows)
        self._metrics.lag.set(len(new))
        for place in range(0, len(new), AT_A_TIME):
            dealing = [self._deal(key, row, stop) for key, row in new[place : place + AT_A_TIME]]
            for failed in await asyncio.gather(*dealing, return_exceptions=True):
                if failed is not None:
                    raise failed
            if len(self._done) > DONE_MAX:
                sweep.too_many = True
                self._done.difference_update([key for key, _ in new[place : place + AT_A_TIME]])

    async def _deal(self, key: str, row: dict[str, Any], stop: asyncio.Event) -> None:
        """Goes on until the row is dealt with."""
        self._metrics.records.inc()
        attempts = 0
        while not stop.is_set():
            try:
                await self._once(key, row)
            except ConnectorFailed:
                raise
            except DressageError as error:
                self._metrics.retry(error.code)
            except Exception:
                self._metrics.retry("INTERNAL")
                _log.exception("connector %r fails on row %r", self._config.name, key)
            else:
                return
            attempts += 1
            await pause(stop, backoff_s(attempts))

    async def _once(self, key: str, row: dict[str, Any]) -> None:
        """Raises a `DressageError` when it has to be tried again."""
        try:
            asked = self._asks.asked({"value": row, "key": key}, key)
            if asked is None:
                self._metrics.skipped.inc()
                self._left[key] = _content(row)
                return
            existing = await self._gate.through(lambda: self._engine.ask(asked))
        except (BadInput, Refused) as error:
            if error.code not in (_STARTED if self._config.workflow else _LATE):
                self._leave(key, row, error)
                return
            existing = True
        (self._metrics.existing if existing else self._metrics.done).inc()
        self._done.add(key)

    def _leave(self, key: str, row: dict[str, Any], error: DressageError) -> None:
        """No letter is kept: the row is in the file. Raises `ConnectorFailed` where that is not tolerated."""
        if self._config.tolerance == "none":
            raise ConnectorFailed(
                f"connector {self._config.name!r} stops at row {key!r}, as errors.tolerance is none: {error.code}: "
                f'{error.message}. With errors.tolerance = "all" such a row is left out'
            )
        self._left[key] = _content(row)
        self._metrics.dead_letter(error.code)
        _log.warning("connector %r: row %r is left out: %s", self._config.name, key, error)


def _content(row: dict[str, Any]) -> int:
    return hash(msgspec.json.encode(row))
