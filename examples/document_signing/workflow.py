"""Document signing: invite every party, wait a week for each of their answers, and take everything back if one fails.

The parties answer from outside: `dressage run post contract-7 answered '{"by": "Ann", "agrees": true}'`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from dressage.flow import App, Event, Saga, Searchable, WorkflowFailure, workflow

app = App("documents")
PATIENCE = timedelta(days=7)


class NotSigned(WorkflowFailure):
    """There is no contract: somebody refused, or did not answer in time."""

    missing: list[str]


@dataclass
class Document:
    id: str
    parties: list[str]


@dataclass
class Answer:
    by: str
    agrees: bool
    remark: str = ""


@dataclass
class SigningView:
    status: Searchable[str] = "INVITING"
    missing: Searchable[list[str]] | None = None


answered = Event("answered", of=Answer)


@app.task(retries=3)
def lock_draft(document: str) -> str:
    return f"draft-{document}"


@app.task(retries=10)
def unlock_draft(draft: str) -> None: ...


@app.task(retries=3)
def invite(party: str, draft: str) -> str:
    return f"{party}:{draft}"


@app.task(retries=10)
def withdraw(invitation: str) -> None: ...


@app.task(retries=10)
def seal(draft: str, parties: list[str]) -> str:
    return f"{draft} signed by {' and '.join(parties)}"


@workflow
async def sign_document(document: Document) -> str:
    view, missing = SigningView(), document.parties
    async with Saga() as saga:
        draft = await lock_draft(document.id)
        saga.undo(unlock_draft, draft)
        for party in document.parties:
            saga.undo(withdraw, await invite(party, draft))
        view.status = "WAITING"
        while missing:
            view.missing = missing
            try:
                answer = await answered.wait(timeout=PATIENCE)
            except TimeoutError as error:
                view.status = "TOO LATE"
                raise NotSigned(f"no answer from {', '.join(missing)}", missing=missing) from error
            if not answer.agrees:
                view.status = "REFUSED"
                raise NotSigned(f"{answer.by} refuses: {answer.remark}", missing=missing)
            missing = [party for party in missing if party != answer.by]
        view.missing = None
        view.status = "SIGNED"
    return await seal(draft, document.parties)
