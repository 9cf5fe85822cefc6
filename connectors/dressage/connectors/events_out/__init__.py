"""Sinks that need no Kafka: output events go to subjects of users, and to the URLs of webhooks.

- `config`: what a file says of them.
- `place`: which process is the active one, and how far it is.
- `sink`: reads the stream of output events, and has each delivered, those of a run in order.
- `subject`, `webhook`: deliver one event.

`webhook` needs the extra `webhooks`.
"""
