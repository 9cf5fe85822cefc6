"""Output events for people, a line each."""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

from dressage.protocol.events import KINDS, ReceivedEvent

VALUE_SHOWN_MAX: Final = 200
"""Characters of a value that a line or a table shows; `--json` shows all."""

KIND_CHARS: Final = max(map(len, KINDS))


def line_of(event: ReceivedEvent) -> str:
    """An event of a run that is known."""
    return f"{event.index:>5}  {event.time}  {_what(event)}".rstrip()


def line_with_run(event: ReceivedEvent) -> str:
    """An event of whichever run."""
    return f"{event.time}  {event.workflow}  {event.subject}  {_what(event)}".rstrip()


def _what(event: ReceivedEvent) -> str:
    return f"{event.kind:<{KIND_CHARS}}  {brief(' '.join(said(event).split()))}"


def said(event: ReceivedEvent) -> str:
    """The data of an event without the ids that only programs need."""
    data: dict[str, Any] = msgspec.json.decode(event.data)
    name = data.get("task") or data.get("name") or ""
    failure = data.get("failure")
    parts = [str(name)] if name else []
    if "branch" in data:
        parts.append(f"branch {data['branch'] + 1}")
    if data.get("cancelled"):
        parts.append("cancelled")
    if data.get("reason"):
        parts.append(data["reason"])
    if data.get("attempt", 1) > 1:
        parts.append(f"attempt {data['attempt']}")
    if failure:
        parts.append(f"{failure['name']}: {failure.get('message', '')}")
    parts += [as_text(data[key]) for key in ("input", "value", "output") if key in data]
    return " ".join(parts)


def as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def brief(text: str) -> str:
    return text if len(text) <= VALUE_SHOWN_MAX else text[: VALUE_SHOWN_MAX - 1] + "…"
