"""SQL over the events, asked of whichever analytics process of the namespace answers first.

::

    DressageError
    '- QueryError
       |- QUERY_INVALID        DuckDB refuses the statement; its own message says why
       |- QUERY_NOT_READ_ONLY  anything but one statement that only reads
       |- QUERY_TIMEOUT        it took longer than allowed (retryable)
       |- QUERY_TOO_LARGE      one row exceeds a message, or the query the memory it may use
       |- QUERY_BEHIND         the position asked for was not reached in time (retryable)
       |- QUERY_BUSY           too many queries wait already (retryable)
       '- QUERY_MALFORMED      the request itself cannot be read
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from dressage.brokers.interface import Connection
from dressage.protocol.errors import DressageError, NoAnswer
from dressage.protocol.names import Names

ROWS_DEFAULT: Final = 1_000
TIMEOUT_DEFAULT_S: Final = 30.0

RETRYABLE: Final = frozenset({"QUERY_TIMEOUT", "QUERY_BEHIND", "QUERY_BUSY"})
"""Codes of `QueryError` under which the same query may succeed later."""


class QueryError(DressageError):
    """A query was not answered; `code` is one of the codes above."""

    code = "QUERY_INVALID"


Params = list[Any] | dict[str, Any]


class QueryRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload of a request on `names.query()`.

    `params` go to `$1`, `$2` (a list) or `$name` (an object). `not_before` maps a stream to the sequence that
    the answer must reflect. `timeout_s` covers that wait and the query together.
    """

    sql: str
    params: Params | None = None
    limit_rows: int = ROWS_DEFAULT
    not_before: dict[str, int] = {}
    timeout_s: float = TIMEOUT_DEFAULT_S


class QueryResult(msgspec.Struct, frozen=True):
    """An answer: `types` are DuckDB's; `values` says how their values stand in `rows`.

    `positions` maps a stream to the sequence up to which the answer reflects it. `truncated` means that there
    are more rows than `limit_rows` allows or one message can hold.
    """

    columns: list[str]
    types: list[str]
    rows: list[list[Any]]
    positions: dict[str, int]
    elapsed_ms: float
    truncated: bool = False


class QueryReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The payload of a reply: a result, or the code and message of a `QueryError`."""

    result: QueryResult | None = None
    code: str = ""
    message: str = ""


_reply_decoder: Final = msgspec.json.Decoder(QueryReply)
_encoder: Final = msgspec.json.Encoder()


async def query(
    connection: Connection,
    names: Names,
    sql: str,
    params: Params | None = None,
    *,
    limit_rows: int = ROWS_DEFAULT,
    not_before: dict[str, int] | None = None,
    fresh: bool = False,
    timeout_s: float = TIMEOUT_DEFAULT_S,
) -> QueryResult:
    """Asks whichever analytics process answers first.

    `not_before` maps a stream to a sequence that the answer must reflect; one that is `fresh` reflects all that had
    been told when this is called. `timeout_s` covers the wait for it. Raises `QueryError` with its codes, and
    `NoAnswer` when no process of this namespace answers.
    """
    told = await connection.stream_state(names.events_stream) if fresh else None
    if told is not None:
        not_before = {**(not_before or {}), names.events_stream: told.last_seq}
    request = QueryRequest(sql, params, limit_rows, not_before or {}, timeout_s)
    try:
        # A little longer than the process itself waits, so that its own answer comes first.
        data = await connection.request(names.query(), _encoder.encode(request), timeout_s + 2.0)
    except NoAnswer as error:
        raise NoAnswer(
            f"no analytics process of namespace {names.namespace} answered: start `dressage analytics`, or "
            "give the file itself with --db if nothing writes it"
        ) from error
    reply = _reply_decoder.decode(data)
    if reply.result is None:
        raise QueryError(reply.message, code=reply.code, retryable=reply.code in RETRYABLE)
    return reply.result
