"""Sign-up: give the account a credit, wait for the mail to be confirmed, and close what nobody confirms."""

from __future__ import annotations

from datetime import timedelta

from dressage.flow import App, Event, workflow
from dressage.outbox import inbox
from signup_outbox.model import Account, sessions

app = App("accounts")
confirmed = Event("mail-confirmed")
PATIENCE = timedelta(days=3)


@app.task(retries=5)
def give_credit(account: int, amount: int) -> int:
    """Once for each call, however often the task is executed: the credit and the fact are one transaction."""
    with sessions.begin() as session:
        once = inbox.once(session)
        if not once:
            return int(once.result)
        found = session.get_one(Account, account)
        found.credit += amount
        once.keep(found.credit)
        return found.credit


@app.task(retries=5)
def set_status(account: int, status: str) -> None:
    with sessions.begin() as session:
        session.get_one(Account, account).status = status


@workflow
async def sign_up(account: int) -> str:
    await give_credit(account, 10)
    status = "confirmed"
    try:
        await confirmed.wait(timeout=PATIENCE)
    except TimeoutError:
        status = "closed"
    await set_status(account, status)
    return status
