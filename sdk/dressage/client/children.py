"""The child runs of a run, as its history has them, and how each of them stands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from dressage.protocol.errors import NotFound
from dressage.protocol.events import ChildStarted, decode_data

if TYPE_CHECKING:
    from dressage.client.client import Client

AT_ONCE: Final = 16
"""So many children are asked at a time how they stand."""


class ChildRun(msgspec.Struct, frozen=True):
    """A run that another one has started. `started_at` is when it asked for it, RFC 3339. `status` is that of a run, or
    `absent`: it is not there yet, was never begun, or was deleted."""

    run_id: str
    workflow: str
    started_at: str
    status: str


async def children_of(client: Client, run_id: str) -> list[ChildRun]:
    """As `Client.children`."""
    started: dict[str, tuple[str, str]] = {}
    async for event in client.history(run_id):
        if event.kind == "child-started":
            child = decode_data(event)
            assert isinstance(child, ChildStarted)
            started.setdefault(child.run_id, (child.workflow, event.time))
    free = asyncio.Semaphore(AT_ONCE)

    async def status(of: str) -> str:
        async with free:
            try:
                view = await client.get(of)
            except NotFound:
                return "absent"
            # Under a chosen id there may be somebody else's.
            return view.status if view.parent == run_id else "absent"

    found = await asyncio.gather(*(status(each) for each in started))
    return [
        ChildRun(child, workflow, at, stands)
        for (child, (workflow, at)), stands in zip(started.items(), found, strict=True)
    ]
