"""The same membership a year later: who says nothing is reminded three times, and is asked for less."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dressage.flow import App, Event, Searchable, workflow

app = App("members")
decided = Event("decided", of=str)


@dataclass
class MembershipView:
    status: Searchable[str] = "TRIAL"
    reminders: Searchable[int] = 0


@app.task(retries=5)
def welcome(member: str) -> str:
    return f"card of {member}"


@app.task(retries=5)
def remind(member: str, number: int) -> None: ...


@app.task(retries=5)
def bill(member: str, euros: int) -> str:
    return f"{member} pays {euros}"


@workflow(name="membership")
async def membership(member: str) -> str:
    view, answer = MembershipView(), ""
    card = await welcome(member)
    while not answer and view.reminders < 3:
        try:
            answer = await decided.wait(timeout=timedelta(days=14))
        except TimeoutError:
            view.reminders += 1
            await remind(member, view.reminders)
    if answer != "stay":
        view.status = "LEFT"
        return f"{card} is void"
    view.status = "MEMBER"
    return await bill(member, 20 - 2 * view.reminders)
