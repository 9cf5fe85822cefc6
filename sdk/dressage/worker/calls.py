"""What a handler is given, and what becomes of what it returns or raises.

A value that is not of the declared type is wrong every time (`type-error`, never retried); any other exception but a
`WorkflowFailure` is a technical error, with the end of its traceback in the details.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dressage.flow import Handler, WorkflowFailure
from dressage.protocol.commands import FailureInfo, Json
from dressage.protocol.errors import BadValue

TRACEBACK_CHARS_MAX: Final = 4_000
"""Of a longer one the end is kept: that is where it happened."""

MESSAGE_CHARS_MAX: Final = 2_000
_CUT: Final = "..."


@dataclass(slots=True, frozen=True)
class Ended:
    """How a handler ended: exactly one of the three is set."""

    output: Json = msgspec.UNSET
    failure: FailureInfo | None = None
    error: FailureInfo | None = None

    @property
    def outcome(self) -> str:
        if self.error is not None:
            return "errored"
        return "completed" if self.failure is None else "failed"


def arguments_of(handler: Handler, args: msgspec.Raw) -> dict[str, Any] | Ended:
    """The arguments by name, of the types that the handler declares; or how an attempt ends that has none of them."""
    try:
        return handler.decode_args(args)
    except BadValue as error:
        return _mismatch(f"arguments of task {handler.definition.name!r}: {error.message}")


def called(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """What a plain handler returns. A `StopIteration` of its own does not come out of a thread, as it does not come out
    of a coroutine: it is the `RuntimeError` that Python makes of it there."""
    try:
        return function(**arguments)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration") from error


def ended_by(error: BaseException) -> Ended:
    """How an attempt ended whose handler raised."""
    if isinstance(error, WorkflowFailure):
        return _failed(error)
    # A handler that calls sys.exit() means its own end, not that of the worker with everything else it runs.
    return Ended(error=technical(error))


def _failed(failure: WorkflowFailure) -> Ended:
    try:
        return Ended(failure=failure.info())
    except BadValue as error:
        return _mismatch(f"failure {failure.name!r}: {error.message}")
    except Exception as error:
        # A class with an __init__ of its own may have left it half made. The attempt has to end all the same.
        return Ended(error=technical(error))


def ended_with(handler: Handler, value: Any) -> Ended:
    """How an attempt ended whose handler returned."""
    try:
        return Ended(output=msgspec.Raw(handler.encode_result(value)))
    except BadValue as error:
        return _mismatch(f"result of task {handler.definition.name!r}: {error.message}")


def without_arguments(message: str) -> Ended:
    """How an attempt ended whose large arguments cannot be had, however often it is tried."""
    return Ended(error=FailureInfo("large-value-missing", message, "type-error"))


def too_large(message: str) -> Ended:
    """How an attempt ended whose result is larger than any value may be."""
    return Ended(error=FailureInfo("large-value-size", message, "limit"))


def sayable(text: object) -> str:
    """A text as JSON can carry it: a file name may hold what is no character, an exception may fail to say itself."""
    try:
        said = str(text)
    except Exception as error:
        said = f"<a {type(text).__name__} that cannot be said: {type(error).__name__}>"
    return said.encode("utf-8", "replace").decode()


def cancelled_itself() -> FailureInfo:
    """What an attempt has failed with whose handler raised `CancelledError`, and nobody had cancelled it."""
    return FailureInfo("CancelledError", "the handler has cancelled itself", "task-error")


def took_too_long(seconds: float) -> FailureInfo:
    """What an attempt has failed with whose handler was not done within its timeout."""
    return FailureInfo("attempt-timeout", f"the handler has taken more than {seconds:g} s", "timeout")


def was_silent(seconds: float) -> FailureInfo:
    """What an attempt has failed with whose handler has given no sign of life for so long."""
    return FailureInfo("heartbeat-timeout", f"the handler was silent for {seconds:g} s", "timeout")


def _mismatch(message: str) -> Ended:
    return Ended(error=FailureInfo("type-error", message, "type-error"))


def technical(error: BaseException) -> FailureInfo:
    """What is reported of an exception, with the classes that it derives from; what is cut ends, or begins, with three
    dots."""
    trace, message = sayable("".join(traceback.format_exception(error))), sayable(error)
    if len(trace) > TRACEBACK_CHARS_MAX:
        trace = _CUT + trace[len(_CUT) - TRACEBACK_CHARS_MAX :]
    if len(message) > MESSAGE_CHARS_MAX:
        message = message[: MESSAGE_CHARS_MAX - len(_CUT)] + _CUT
    details = msgspec.Raw(msgspec.json.encode({"traceback": trace}))
    family = tuple(kind.__name__ for kind in type(error).__mro__[1:] if kind not in _ANY)
    return FailureInfo(type(error).__name__, message, "task-error", details, family)


_ANY: Final = (Exception, BaseException, object)
