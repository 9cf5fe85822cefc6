"""What the outbox is called in a database."""

from __future__ import annotations

from typing import Final

TABLE: Final = "dressage_outbox"
INBOX_TABLE: Final = "dressage_inbox"
CHANNEL: Final = "dressage_outbox"
"""Where PostgreSQL notifies relays of rows."""

LOG_PREFIX: Final = "dressage-outbox"
"""Marks our entries of PostgreSQL's log."""

SLOT: Final = "dressage_outbox_"
"""How the name of a replication slot begins; behind it is the number of its database, as slots are the server's."""

PUBLICATION: Final = "dressage_outbox"
"""One without tables: a relay asks for entries of the log alone."""
