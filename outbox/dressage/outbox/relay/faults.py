"""What may go wrong with a database."""

from __future__ import annotations

from dressage.protocol.errors import DressageError


class StoreFault(DressageError):
    """The database does not answer, or not as it should. What was not acknowledged is sent again."""

    code = "OUTBOX_STORE_FAULT"
    retryable = True


class SlotTaken(StoreFault):
    """Another relay reads the log. Nothing is wrong: this one stands by."""


class SchemaMissing(DressageError):
    """The outbox's table is not there, or this user may not use it."""

    code = "OUTBOX_SCHEMA_MISSING"


class DsnInvalid(DressageError):
    """An address of a database that cannot be used."""

    code = "OUTBOX_DSN_INVALID"
