"""Onboarding: three departments prepare a colleague's first day side by side; what one forgets goes to its leads.

It is with the leads after three days, and its reminders begin anew there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal

from dressage.flow import App, Searchable, UserTask, WorkflowFailure, gather, workflow

app = App("people")
A_DAY = timedelta(days=1)


class NotReady(WorkflowFailure):
    """The contract is not signed: nobody begins."""


@dataclass
class Colleague:
    name: str
    manager: str
    begins: datetime


@dataclass
class Contract:
    signed: bool
    salary_level: int = 1


@dataclass
class Equipment:
    laptop: Literal["light", "strong"]
    serial: str
    extras: list[str]


@dataclass
class Welcome:
    buddy: str
    lunch_on: date | None = None


@dataclass
class OnboardingView:
    status: Searchable[str] = "PREPARING"
    buddy: Searchable[str] = ""


sign_contract = UserTask("sign-contract", form=Contract)
hand_out = UserTask("hand-out-equipment", form=Equipment)
find_buddy = UserTask("find-buddy", form=Welcome)


@app.task(retries=5)
def open_accounts(name: str, serial: str) -> str:
    return f"{name.lower()}@example.com"


@app.task(retries=5)
def send_welcome(address: str, buddy: str) -> None: ...


@workflow
async def onboard(colleague: Colleague) -> str:
    view = OnboardingView()
    contract, equipment, welcome = await gather(
        sign_contract.assign(
            group="hr",
            notes=f"contract of {colleague.name}",
            due=colleague.begins - timedelta(days=7),
            remind=A_DAY,
        ),
        hand_out.assign(
            group="it",
            notes=f"laptop for {colleague.name}",
            due=colleague.begins - A_DAY,
            remind=A_DAY,
            escalate_after=timedelta(days=3),
            escalate_to="it-leads",
        ),
        find_buddy.assign(user=colleague.manager, group="managers", notes=f"a buddy for {colleague.name}"),
    )
    if not contract.signed:
        view.status = "CANCELLED"
        raise NotReady(f"{colleague.name} has not signed")
    address = await open_accounts(colleague.name, equipment.serial)
    await send_welcome(address, welcome.buddy)
    view.status, view.buddy = "READY", welcome.buddy
    return address
