"""The paths of the app, which operation is behind each, and what an error is by HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dressage.orchestrator.api_messages import Failed

WAIT_S: Final = 20.0
"""So long a result is waited for if nothing else is said."""

WAIT_S_MAX: Final = 60.0
"""And at most: proxies give up behind that."""


@dataclass(slots=True, frozen=True)
class Route:
    """A `method` on a path, whose parts in braces are fields of the operation's request, as are those of `query`.

    `body` says what the body is: the rest of the request ("request"), one field of it ("payload"), or nothing.
    """

    method: str
    path: str
    operation: str
    about: str
    body: str = ""
    query: Mapping[str, type] | None = None

    @property
    def parts(self) -> list[str]:
        return self.path.strip("/").split("/")


ROUTES: Final = [
    Route(
        "POST",
        "/runs",
        "start",
        "Start a run, and answer once the engine has it. The same run id and input again is the same run; a header "
        "`Idempotency-Key` is the run id where the body has none.",
        body="request",
    ),
    Route("GET", "/runs/{run_id}", "get", "How a run stands."),
    Route(
        "GET",
        "/runs/{run_id}/result",
        "wait",
        "Wait until a run has ended, at most `timeout_s` seconds. One that has not is answered with 202.",
        query={"timeout_s": float},
    ),
    Route(
        "POST",
        "/runs/{run_id}/events/{event}",
        "post",
        "Post an external event to a run; the body is its payload. The same `event_id` is the same event.",
        body="payload",
        query={"event_id": str},
    ),
    Route(
        "POST",
        "/events/{event}/{key}",
        "post",
        "Post an external event to a correlation key; the body is its payload. The same `event_id` is the same event.",
        body="payload",
        query={"event_id": str},
    ),
]

CONFLICTS: Final = frozenset(
    {
        "RUN_ID_CONFLICT",
        "RUN_FINISHED",
        "RUN_DELETED",
        "VERSION_RETIRED",
        "WORKFLOW_ARCHIVED",
        "EVENTS_FULL",
        "EVENT_CONFLICT",
    }
)
TOO_LARGE: Final = frozenset({"PAYLOAD_TOO_LARGE", "VALUE_TOO_LARGE"})
AWAY: Final = frozenset({"NAMESPACE_UNKNOWN", "BROKER_ERROR", "PUBLISH_REFUSED", "SERVER_UNREACHABLE"})
"""Nothing is wrong with the request."""


def status_of(failed: Failed) -> int:
    """What an error is by HTTP."""
    if failed.code in ("ENGINE_FAULT", "INVARIANT_BROKEN"):
        return 500
    if failed.retryable or failed.code in AWAY:
        return 503
    if failed.code in CONFLICTS:
        return 409
    if failed.code in TOO_LARGE:
        return 413
    return 404 if failed.code.endswith("_UNKNOWN") else 400
