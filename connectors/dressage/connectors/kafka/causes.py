"""Why Kafka cannot be used, under codes of ours.

A client tells by its callback, once, of a login that is refused or a certificate that it does not know. What it is
asked for only fails with the consequence: that no broker was there in time. So what was told is remembered, and
explains it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from dressage.connectors.secrets import scrubbed
from dressage.protocol.errors import BrokerError

LOGIN_REFUSED: Final = "KAFKA_LOGIN_REFUSED"
TLS_FAILED: Final = "KAFKA_TLS_FAILED"
UNREACHABLE: Final = "KAFKA_UNREACHABLE"

_CODES: Final = {
    KafkaError._AUTHENTICATION: LOGIN_REFUSED,
    KafkaError.SASL_AUTHENTICATION_FAILED: LOGIN_REFUSED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM: LOGIN_REFUSED,
    KafkaError._SSL: TLS_FAILED,
    KafkaError._ALL_BROKERS_DOWN: UNREACHABLE,
    KafkaError._TRANSPORT: UNREACHABLE,
    KafkaError._RESOLVE: UNREACHABLE,
    KafkaError._TIMED_OUT: UNREACHABLE,
}
_ADVICE: Final = {
    LOGIN_REFUSED: "Kafka refuses the login: correct sasl.*, or the user there",
    TLS_FAILED: "there is no TLS with Kafka: look at ssl.ca.location, and at what the listener speaks",
    UNREACHABLE: "Kafka is not reached",
}

_OF_TLS: Final = ("SSL handshake failed", "PLAINTEXT broker listener", "SSL listener")
"""How the client guesses, of a connection that was closed, that only one side speaks TLS."""

LOOK_S: Final = 1.0
"""How soon a client that waits for an answer is first asked what it has to tell; then half as often each time."""


class KafkaAway(BrokerError):
    """Kafka does not do what it is asked for now. The code says why: one of ours, or the name that Kafka has for it."""

    code = UNREACHABLE
    retryable = True


class Causes:
    """What the clients of a connector have told of their connections. Its methods may be called in any thread."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """The secrets of these settings are left out of messages."""
        self._settings = settings
        self._told: KafkaError | None = None

    def note(self, error: KafkaError) -> None:
        """An `error_cb` of a client."""
        if _code_of(error) in (LOGIN_REFUSED, TLS_FAILED):
            self._told = error

    def clear(self) -> None:
        """Kafka does what it is asked for."""
        self._told = None

    @property
    def is_known(self) -> bool:
        return self._told is not None

    def explained(self, error: KafkaError) -> KafkaAway:
        """The error, or what was told that has led to it."""
        told = self._told
        if told is not None and _code_of(error) == UNREACHABLE:
            error = told
        code = _code_of(error)
        text = scrubbed(str(error.str()), self._settings)
        advice = _ADVICE.get(code)
        return KafkaAway(f"{advice}: {text}" if advice else text, code=code)


def topics_of(client: Any, causes: Causes, patience_s: float) -> Any:
    """The topics that a client, whose `error_cb` notes in `causes`, is told of: metadata by name.

    Raises `KafkaException` when no broker has answered in that time, or as soon as it is known why none will.
    """
    deadline, look_s = time.monotonic() + patience_s, LOOK_S
    while True:
        try:
            left_s = max(LOOK_S, deadline - time.monotonic())
            return client.list_topics(timeout=min(look_s, left_s)).topics
        except KafkaException as error:
            client.poll(0)  # what it has to tell
            look_s *= 2  # A large cluster may take long to tell.
            may_pass = _code_of(error.args[0]) == UNREACHABLE and not causes.is_known
            if not may_pass or time.monotonic() >= deadline:
                raise


def _code_of(error: KafkaError) -> str:
    if error.code() == KafkaError._TRANSPORT and any(each in error.str() for each in _OF_TLS):
        return TLS_FAILED
    return _CODES.get(error.code()) or str(error.name())
