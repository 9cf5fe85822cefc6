"""The tree of errors, with stable codes.

::

    DressageError                  code, retryable
    |- BadInput                    what the caller gave is wrong: never retry unchanged
    |  |- BadName                  NAME_INVALID
    |  |- BadRunId                 RUN_ID_INVALID
    |  |- BadSpec                  SPEC_INVALID
    |  |- BadValue                 VALUE_INVALID
    |  |- ChangeRefused            CHANGE_BREAKING, CHANGE_REFUSED
    |  '- DefinitionError          DEFINITION_REFUSED (file, line, caret, advice)
    |- RunFailed                   RUN_FAILED: the run ended without a result (in `dressage.client`)
    |  '- RunCancelled             RUN_CANCELLED: somebody ended it
    |- RunEnded                    RUN_ENDED: the run ended without what was waited for (in `dressage.client`)
    |- EventsGone                  EVENTS_GONE: the stream has dropped events of the run (in `dressage.client`)
    |- ObjectDamaged               OBJECT_DAMAGED: a large value is gone or damaged (in `dressage.brokers`)
    |- Refused                     the engine answered no; `code` is one of RefusalCode
    |- NotFound                    NOT_FOUND
    |- BrokerError                 the broker said no, or said nothing
    |  |- ServerUnsuitable         SERVER_TOO_OLD, JETSTREAM_OFF, SYNC_LAZY, ...
    |  |- ServerUnreachable        SERVER_UNREACHABLE (retryable)
    |  |- EmbeddedServerError      EMBEDDED_START_FAILED, EMBEDDED_BINARY_MISSING,
    |  |                           EMBEDDED_DATA_IN_USE, EMBEDDED_PORT_IN_USE, EMBEDDED_HOST_REFUSED
    |  |- PublishRefused           PUBLISH_REFUSED (with the broker's own err_code)
    |  '- OutcomeUnknown           OUTCOME_UNKNOWN (retryable: the write may have happened)
    |     |- NoLeader              the same code: this server has nobody to ask at the moment
    |     '- Unheard               the same code: no stream took it, so nothing is stored
    |- NoAnswer                    NO_ANSWER (retryable)
    '- InvariantBroken             INVARIANT_BROKEN: a bug of ours

A message says what happened and what to do next. Codes never change their meaning once released.
"""

from __future__ import annotations


class DressageError(Exception):
    """Base of every error that Dressage raises on purpose.

    `code` is stable and for programs; the message is for people. `retryable` says whether the same
    call may succeed later without any change by the caller.
    """

    code: str = "ERROR"
    retryable: bool = False

    def __init__(self, message: str, *, code: str | None = None, retryable: bool | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable

    @property
    def message(self) -> str:
        return str(self.args[0])

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class BadInput(DressageError):
    """What the caller gave cannot be used."""

    code = "BAD_INPUT"


class BadName(BadInput):
    """A namespace, workflow, task, event or queue name outside `[a-z0-9][a-z0-9-]{0,62}`."""

    code = "NAME_INVALID"


class BadRunId(BadInput):
    """A run id that is empty, too long, or not text."""

    code = "RUN_ID_INVALID"


class BadSpec(BadInput):
    """A workflow spec that does not decode or contradicts itself."""

    code = "SPEC_INVALID"


class EventConflict(BadInput):
    """An external event of this name is another one for other workflows."""

    code = "EVENT_CONFLICT"


class ChangeRefused(BadInput):
    """A version of a workflow that those who registered it do not allow: it breaks those who use the workflow, or it is
    any change where none is allowed."""

    code = "CHANGE_BREAKING"


class BadValue(BadInput):
    """A value that is not of the type declared for it."""

    code = "VALUE_INVALID"


class DefinitionError(BadInput):
    """Source code that the compiler refuses; says where, what was written, and what to write instead."""

    code = "DEFINITION_REFUSED"


class Refused(DressageError):
    """The engine, or a service of it, refused a command. `code` is a `RefusalCode`."""

    code = "REFUSED"


class NotFound(DressageError):
    """No such definition or run."""

    code = "NOT_FOUND"


class NoAnswer(DressageError):
    """Nobody answered in time. What was acknowledged before is safe; ask again."""

    code = "NO_ANSWER"
    retryable = True


class InvariantBroken(DressageError):
    """A rule of our own that must always hold did not: a bug in Dressage, never the user's."""

    code = "INVARIANT_BROKEN"


class BrokerError(DressageError):
    """The broker refused something or cannot be used."""

    code = "BROKER_ERROR"


class ServerUnsuitable(BrokerError):
    """A server that Dressage cannot keep its promises on."""

    code = "SERVER_UNSUITABLE"


class ServerUnreachable(BrokerError):
    """No connection to the server."""

    code = "SERVER_UNREACHABLE"
    retryable = True


class EmbeddedServerError(BrokerError):
    """The nats-server that we run ourselves could not be started; the message says which cure applies."""

    code = "EMBEDDED_START_FAILED"


class PublishRefused(BrokerError):
    """JetStream answered a publish with an error; `err_code` is JetStream's own number."""

    code = "PUBLISH_REFUSED"

    def __init__(self, message: str, *, err_code: int) -> None:
        super().__init__(message)
        self.err_code = err_code


class OutcomeUnknown(BrokerError):
    """A write was sent and no answer came: it may have happened or not."""

    code = "OUTCOME_UNKNOWN"
    retryable = True


class Unheard(OutcomeUnknown):
    """No stream captures the subject, or its stream has no leader now. Nothing was stored."""


class NoLeader(OutcomeUnknown):
    """The server knows no leader that could answer: there is an election, or it is cut off from its cluster."""
