"""Customer sign-up: open the account, set up what belongs to it side by side, and wait for the mail to be confirmed.

Reminders go out for nine days. An account that nobody confirms is closed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from dressage.flow import App, Searchable, WorkflowFailure, gather, sleep, workflow

app = App("customers")
REMINDERS = 3
PATIENCE = timedelta(days=3)


class Plan(Enum):
    FREE = "free"
    TEAM = "team"


class EmailTaken(WorkflowFailure): ...


class SetupFailed(WorkflowFailure):
    account: str


class NotConfirmed(WorkflowFailure): ...


@dataclass
class SignUp:
    email: str
    name: str
    plan: Plan = Plan.FREE


@dataclass
class Account:
    id: str
    workspace: str
    confirmed_after: timedelta


@dataclass
class SignUpView:
    email: Searchable[str]
    plan: Searchable[Plan]
    status: Searchable[str] = "NEW"


@app.task
def open_account(form: SignUp) -> str:
    if form.email == "taken@example.com":
        raise EmailTaken(f"{form.email} has an account")
    return f"account-{form.name.lower()}"


@app.task
def make_workspace(account: str) -> str:
    return f"{account}.example.com"


@app.task
def start_billing(account: str, plan: Plan) -> None:
    if plan is Plan.TEAM and account == "account-nobody":
        raise LookupError("the billing service knows nobody of that name")


@app.task(retries=5)
def send_mail(email: str, text: str) -> None: ...


@app.task
def is_confirmed(account: str, asked: int) -> bool:
    """Stands for a look at the mail service: most answer at once, some are slow, and some never do."""
    return {"account-slow": asked == 3, "account-never": False}.get(account, True)


@app.task(retries=5)
def close_account(account: str) -> None: ...


@workflow
async def sign_up(form: SignUp) -> Account:
    view = SignUpView(form.email, form.plan)
    account = await open_account(form)
    try:
        workspace, _, _ = await gather(
            make_workspace(account),
            start_billing(account, form.plan),
            send_mail(form.email, f"Welcome {form.name}, please confirm this address"),
        )
    except ExceptionGroup as failures:
        await close_account(account)
        view.status = "FAILED"
        raise SetupFailed(str(failures), account=account) from failures
    view.status = "UNCONFIRMED"
    for asked in range(1, REMINDERS + 1):
        await sleep(PATIENCE)
        confirmed = await is_confirmed(account, asked)
        if confirmed:
            break
        await send_mail(form.email, f"Reminder {asked} of {REMINDERS}: please confirm this address")
    else:
        await close_account(account)
        view.status = "CLOSED"
        raise NotConfirmed(f"{form.email} did not answer {REMINDERS} mails")
    view.status = "ACTIVE"
    return Account(account, workspace, asked * PATIENCE)
