"""What is kept of a request that was signed, and asks for nothing that there is: the event as it was, and why.

The headers are those of a trigger's dead letter; `Dressage-Webhook` says whose it was, `Dressage-Subject` has the path,
and `Dressage-Event-Id` the id of the event where no expression gives one.
"""

from __future__ import annotations

from hashlib import sha256

from dressage.brokers.interface import Delivery, Message
from dressage.connectors.dead_letter import REASON_CHARS_MAX, fitted, rfc3339, safe_value
from dressage.protocol.errors import DressageError
from dressage.protocol.names import Names


def webhook_letter(
    names: Names,
    webhook: str,
    event: Delivery,
    event_id: str,
    error: DressageError,
    *,
    payload_bytes_max: int,
) -> Message:
    """The message for the dead-letter stream. Its id is the same whenever the same request is buried."""
    originals = dict(event.headers or {})
    headers = {
        "Dressage-Code": safe_value(error.code, 100),
        "Dressage-Reason": safe_value(error.message, REASON_CHARS_MAX),
        "Dressage-Webhook": webhook,
        "Dressage-Subject": safe_value(event.subject, REASON_CHARS_MAX),
        "Dressage-Time": rfc3339(event.time_ns),
        "Dressage-Event-Id": event_id,
    }
    letter = Message(
        names.dead_webhook(webhook), event.data, headers, msg_id=f"webhook-{webhook}-{_digest(event)}"
    )
    return fitted(letter, originals.items(), payload_bytes_max)


def is_whole(letter: Message) -> bool:
    """Whether it has all that its event needs to be asked for once more."""
    return not (letter.headers or {}).keys() & {"Dressage-Payload-Bytes", "Dressage-Headers-Dropped"}


def _digest(event: Delivery) -> str:
    lines = sorted(f"{name}:{value}\n" for name, value in (event.headers or {}).items())
    return sha256("".join(lines).encode() + b"\n" + event.data).hexdigest()
