"""The application of the scaling test: what a run costs the engine, and next to nothing else."""

from __future__ import annotations

from dressage.flow import App, workflow

app = App("scaling")


@app.task
async def add_one(n: int) -> int:
    return n + 1


@workflow(name="scaled")
async def scaled(n: int) -> int:
    a = await add_one(n)
    b = await add_one(a)
    return await add_one(b)
