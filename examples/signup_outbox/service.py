"""The service: it writes accounts, and with each the start of its run, and knows nothing of NATS."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy.exc import IntegrityError

from dressage import outbox
from signup_outbox.model import Account, sessions
from signup_outbox.workflow import confirmed, sign_up

api = FastAPI(title="sign-up")


class Form(BaseModel):
    email: str


class Shown(BaseModel):
    id: int
    email: str
    status: str
    credit: int


@api.post("/accounts", status_code=201)
def create(form: Form) -> Shown:
    """If the address is taken nothing is committed, so nothing is started."""
    try:
        with sessions.begin() as session:
            account = Account(email=form.email, status="new", credit=0)
            session.add(account)
            session.flush()
            outbox.start(session, sign_up, {"account": account.id}, run_id=f"sign-up-{account.id}")
            return _shown(account)
    except IntegrityError as error:
        raise HTTPException(409, f"{form.email} has an account") from error


@api.post("/accounts/{account_id}/confirmation", status_code=202)
def confirm(account_id: int) -> None:
    with sessions.begin() as session:
        if session.get(Account, account_id) is None:
            raise HTTPException(404, "no such account")
        outbox.post(session, confirmed, run_id=f"sign-up-{account_id}")


@api.get("/accounts/{account_id}")
def show(account_id: int) -> Shown:
    with sessions() as session:
        account = session.get(Account, account_id)
        if account is None:
            raise HTTPException(404, "no such account")
        return _shown(account)


def _shown(account: Account) -> Shown:
    return Shown(id=account.id, email=account.email, status=account.status, credit=account.credit)
