"""From a delivery to a command: what cannot be one is refused here, before anything is looked up for it."""

from __future__ import annotations

from typing import Final

import msgspec

from dressage.brokers.interface import Delivery
from dressage.orchestrator.fold import retention
from dressage.orchestrator.fold.state import Gone, State
from dressage.protocol.commands import Command, ForgetRun, RefusalCode, ReviewRun, decode_command
from dressage.protocol.errors import BadRunId
from dressage.protocol.names import ACTOR_CHARS_MAX, place_of
from dressage.protocol.nesting import COMMAND_DEPTH_MAX, nests_deeper

TOLD_BYTES_MAX: Final = 1500
"""Of what is said of a command, or of a dead letter."""


class Unreadable(Exception):
    """The message is no command for this shard."""

    def __init__(self, code: RefusalCode, message: str) -> None:
        super().__init__(message)
        self.code: RefusalCode = code
        self.message = message


def short(text: str) -> str:
    """At most `TOLD_BYTES_MAX` bytes of UTF-8: what a sender wrote may come back in an error, in any size or script."""
    return text.encode(errors="replace")[:TOLD_BYTES_MAX].decode(errors="ignore")


def is_of_the_end(delivery: Delivery) -> bool:
    """Whether this is of the timer of a run that has ended, or was deleted, here: where there is no such run any more
    it is nobody's, and never for one of the same id elsewhere."""
    try:
        return isinstance(read_command(delivery), ForgetRun | ReviewRun)
    except Unreadable:
        return False


def is_of_deleted(delivery: Delivery, state: State | None) -> bool:
    """Whether this was meant for the run that was deleted here, and not for the next one of its id."""
    try:
        return isinstance(state, Gone) and retention.is_of_deleted(state, read_command(delivery))
    except Unreadable:
        return False


def token_of(delivery: Delivery) -> str:
    return delivery.subject.rsplit(".", 1)[1]


def read_place(token: str) -> str:
    """What says on which shard a command belongs. Raises `Unreadable` for a subject that names no run and no key."""
    try:
        return place_of(token)
    except BadRunId as error:
        raise Unreadable("RUN_ID_INVALID", error.message) from error


def read_command(delivery: Delivery) -> Command:
    """Raises `Unreadable` for a payload that is no command."""
    data = delivery.data
    try:
        if not data.isascii():
            data.decode()  # What is passed on as it is, such as a failure's details, is not decoded otherwise.
        if len(data) > COMMAND_DEPTH_MAX and nests_deeper(data, COMMAND_DEPTH_MAX):
            raise Unreadable(
                "COMMAND_MALFORMED",
                f"the command nests deeper than {COMMAND_DEPTH_MAX} levels: make its values flatter "
                "(limit command-depth)",
            )
        return decode_command(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        # msgspec says where the text stands and how long it may be, and cannot know the name of the limit.
        limit = " (limit actor-size)" if f"`str` of length <= {ACTOR_CHARS_MAX}" in str(error) else ""
        raise Unreadable("COMMAND_MALFORMED", f"the command does not decode: {error}{limit}") from error
