"""A workflow in Python whose tasks a worker in JavaScript executes: here they are only declared."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dressage.flow import WorkflowFailure, task, workflow


@dataclass
class Price:
    item: str
    cents: int


class CardDeclined(WorkflowFailure):
    limit: int


@task(queue="shop-node")
async def price(item: str) -> Price:
    raise NotImplementedError


@task(queue="shop-node")
async def charge(cents: int) -> str:
    raise NotImplementedError


@task(queue="shop-node", retries=2, heartbeat=timedelta(seconds=5))
async def count(rows: int) -> str:
    raise NotImplementedError


@task(queue="shop-node", timeout=timedelta(seconds=30))
async def ship(ms: int) -> str:
    raise NotImplementedError


@workflow
async def node_order(item: str) -> str:
    priced = await price(item)
    try:
        return await charge(priced.cents)
    except CardDeclined as declined:
        return f"declined: {declined.message}, above {declined.limit}"


@workflow
async def node_import(rows: int) -> str:
    return await count(rows)


@workflow
async def node_shipment(ms: int) -> str:
    return await ship(ms)
