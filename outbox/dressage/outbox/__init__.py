"""The transactional outbox: a start or an event that goes out exactly if your own transaction commits.

::

    from dressage import outbox

    with Session(engine) as session, session.begin():
        session.add(user)
        outbox.start(session, sign_up, {"email": user.email}, run_id=f"sign-up-{user.id}")

- `start`, `post`: write a row of the table `dressage_outbox` in the transaction of a connection or session.
- `table`: what these two are methods of.
- `log.start`, `log.post`: write an entry of PostgreSQL's log instead, and no row.
- `inbox`: the twin for workers, so that a task's own effect in a database happens exactly once.
- `relay`: the process that sends what was committed.
"""

from typing import Final

from dressage.outbox.sending import Outbox, Sent, SlotMissing

table: Final = Outbox()
start = table.start
post = table.post
log: Final = Outbox(in_log=True)

__all__ = ["Outbox", "Sent", "SlotMissing", "log", "post", "start", "table"]
