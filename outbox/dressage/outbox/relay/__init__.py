"""The relay: rows of the outbox, or entries of the log, become commands of the engine.

- `relay`: takes, sends, writes down.
- `store`: what it needs of a database; `sql` says it in SQL, `postgres`, `sqlite` and `mysql` are the drivers.
- `engine`: asks as a client does, and tells what a refusal means.
- `log`: PostgreSQL's log in place of a table.
"""

from dressage.outbox.relay.relay import Relay, RelayOptions

__all__ = ["Relay", "RelayOptions"]
