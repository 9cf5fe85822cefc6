"""Sinks that need no Kafka: output events go to subjects of users, and to the URLs of webhooks.

- `config`: what a file says of them.
- `place`: which process is the active one, and how far it is.
- `sink`: one process's part of a sink; `under_way`: has each event delivered, those of a run in order.
- `subject`, `webhook`: deliver one event.

`webhook` needs the extra `webhooks`.
"""
