"""What is kept of an event that cannot start a run: the event as it was, and why.

====================================  ==========================================================
`Dressage-Code`, `Dressage-Reason`    a stable code, and the cause in words
`Dressage-Trigger`                    whose event it was
`Dressage-Stream`, `-Sequence`        where the event is, or was, stored
`Dressage-Subject`, `-Time`           what it was published on, and when it was stored (RFC 3339)
`Dressage-Original-*`                 the event's own headers
`Dressage-Headers-Dropped`            how many of those did not fit
`Dressage-Payload-Bytes`              the payload's true size, if it had to be cut to be stored at all
====================================  ==========================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from dressage.brokers.interface import Delivery, Message
from dressage.protocol.names import Names

REASON_CHARS_MAX: Final = 1_000
HEADERS_BYTES_MAX: Final = 16 * 1024
"""All of the event's own headers together, and once more what a Kafka record is beside its value: a message that is
nothing but headers is of no use to anybody."""

ORIGINAL: Final = "Dressage-Original-"
"""Before the name of each header of the event, so that none of them means anything to the server."""

_NOT_IN_NAME: Final = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LINE_BYTES: Final = len(": \r\n")
_RESERVE_BYTES: Final = 512
"""For the first line of a block of headers, and for the message id."""


def dead_letter(
    names: Names,
    trigger: str,
    stream: str,
    event: Delivery,
    code: str,
    reason: str,
    *,
    payload_bytes_max: int,
) -> Message:
    """The message for the dead-letter stream.

    Its id is the same whenever this event is buried, so a repeat within the stream's duplicate window is dropped.
    What the server would not take is made to fit: first the event's headers go, last the payload's end.
    """
    headers = {
        "Dressage-Code": safe_value(code, 100),
        "Dressage-Reason": safe_value(reason, REASON_CHARS_MAX),
        "Dressage-Trigger": trigger,
        "Dressage-Stream": stream,
        "Dressage-Sequence": str(event.stream_seq),
        "Dressage-Subject": safe_value(event.subject, REASON_CHARS_MAX),
        "Dressage-Time": rfc3339(event.time_ns),
    }
    # The time is part of the id because a stream that was made anew counts from one again.
    msg_id = f"trigger-{trigger}-{stream}-{event.stream_seq}-{event.time_ns}"
    letter = Message(names.dead_trigger(trigger), event.data, headers, msg_id=msg_id)
    return fitted(letter, (event.headers or {}).items(), payload_bytes_max)


def fitted(letter: Message, originals: Iterable[tuple[str, str]], payload_bytes_max: int) -> Message:
    """A dead letter that the server takes, with as many of the event's own headers as there is room for."""
    headers, data = dict(letter.headers or {}), letter.data
    room = payload_bytes_max - _size(headers) - _RESERVE_BYTES
    if len(data) > room:
        headers["Dressage-Payload-Bytes"] = str(len(data))
        data = data[: max(0, room)]
    _keep_originals(headers, originals, min(room - len(data), HEADERS_BYTES_MAX))
    return Message(letter.subject, data, headers, msg_id=letter.msg_id)


def has_room(letter: Message, more: Mapping[str, str], payload_bytes_max: int) -> bool:
    """Whether a dead letter can have these headers, too, and its payload whole."""
    size = _size(more)
    whole = _size(letter.headers or {}) + size + len(letter.data) + _RESERVE_BYTES
    return size <= HEADERS_BYTES_MAX and whole <= payload_bytes_max


def safe_value(text: str, chars_max: int) -> str:
    """`text` as a header's value: one line of valid UTF-8, without control characters, of a bounded length."""
    plain = _CONTROL.sub(" ", text.encode("utf-8", "replace").decode()).strip()
    return plain if len(plain) <= chars_max else plain[: chars_max - 3] + "..."


def _keep_originals(headers: dict[str, str], originals: Iterable[tuple[str, str]], room: int) -> None:
    dropped = 0
    for name, value in originals:
        kept = {ORIGINAL + _NOT_IN_NAME.sub("_", name): safe_value(value, HEADERS_BYTES_MAX)}
        size = _size(kept)
        if size > room:
            dropped += 1
        else:
            headers |= kept
            room -= size
    if dropped:
        headers["Dressage-Headers-Dropped"] = str(dropped)


def _size(headers: Mapping[str, str]) -> int:
    return sum(len(name) + len(value.encode()) + _LINE_BYTES for name, value in headers.items())


def rfc3339(time_ns: int) -> str:
    """A time in nanoseconds since 1970, to the millisecond."""
    stamp = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{time_ns // 1_000_000 % 1000:03}Z"
