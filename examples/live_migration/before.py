"""A membership that begins with a trial, as it was first: the decision is awaited for as long as it takes."""

from __future__ import annotations

from dataclasses import dataclass

from dressage.flow import App, Event, Searchable, workflow

app = App("members")
decided = Event("decided", of=str)


@dataclass
class MembershipView:
    status: Searchable[str] = "TRIAL"


@app.task(retries=5)
def welcome(member: str) -> str:
    return f"card of {member}"


@app.task(retries=5)
def bill(member: str, euros: int) -> str:
    return f"{member} pays {euros}"


@workflow(name="membership")
async def membership(member: str) -> str:
    view = MembershipView()
    card = await welcome(member)
    answer = await decided.wait()
    if answer != "stay":
        view.status = "LEFT"
        return f"{card} is void"
    view.status = "MEMBER"
    return await bill(member, 20)
