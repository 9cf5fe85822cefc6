"""Order approval: a credit check lets most orders through; what is above a customer's limit is decided by a person.

Whoever has to decide finds it by their group: `dressage user-task list --group credit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from dressage.flow import (
    App,
    Exponential,
    Searchable,
    UserTask,
    UserTaskCancelled,
    WorkflowFailure,
    workflow,
)

app = App("orders")


class NotAccepted(WorkflowFailure):
    """The order is not accepted; the text says why, as the customer may read it."""


@dataclass
class Order:
    id: str
    customer: str
    total: Decimal


@dataclass
class Credit:
    score: int
    limit: Decimal


@dataclass
class Approval:
    ok: bool
    reason: str = ""
    pay_until: date | None = None


@dataclass
class OrderView:
    customer: Searchable[str]
    status: Searchable[str] = "CHECKING"


approve_order = UserTask("approve-order", form=Approval)


@app.task(retries=4, backoff=Exponential(base=timedelta(milliseconds=20)))
def check_credit(customer: str) -> Credit:
    return Credit(12, Decimal(0)) if "broke" in customer else Credit(80, Decimal(500))


@app.task(retries=3)
def confirm(order: str, pay_until: date | None) -> str:
    return f"confirmed {order}" + (f", to be paid until {pay_until}" if pay_until else "")


@app.task(retries=3)
def turn_down(order: str, why: str) -> None: ...


@workflow
async def accept_order(order: Order) -> str:
    view, pay_until = OrderView(order.customer), None
    try:
        credit = await check_credit(order.customer)
        if credit.score < 20:
            raise NotAccepted("we deliver against payment in advance")
        if order.total > credit.limit:
            view.status = "WAITING FOR APPROVAL"
            approval = await approve_order.assign(
                group="credit",
                notes=f"{order.customer} orders for {order.total}; the limit is {credit.limit}",
                due=timedelta(days=2),
                remind=timedelta(days=1),
                timeout=timedelta(days=5),
            )
            if not approval.ok:
                raise NotAccepted(approval.reason)
            pay_until = approval.pay_until
    except TimeoutError:
        view.status = "EXPIRED"
        await turn_down(order.id, "we could not decide in time")
        raise NotAccepted("nobody has decided") from None
    except UserTaskCancelled as withdrawn:
        view.status = "WITHDRAWN"
        return f"withdrawn: {withdrawn}"
    except NotAccepted as refused:
        view.status = "REFUSED"
        await turn_down(order.id, f"{refused}")
        raise
    view.status = "ACCEPTED"
    return await confirm(order.id, pay_until)
