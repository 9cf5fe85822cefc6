"""Publishing a domain event: the run asks for it and goes on; the turn's commit makes it certain."""

from __future__ import annotations

from math import isfinite
from typing import Any

import msgspec

from dressage.expressions.errors import ExpressionFailed
from dressage.expressions.limits import parts_of_value
from dressage.expressions.masked import encode_revealed, encode_sorted
from dressage.expressions.opaque import OpaqueValue
from dressage.expressions.values import type_name
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import ReadyNode
from dressage.orchestrator.fold.effects import Publish
from dressage.orchestrator.fold.limits import too_large
from dressage.orchestrator.fold.state import RunThread
from dressage.protocol.commands import FailureInfo
from dressage.protocol.events import Published
from dressage.protocol.names import wrong_with_subject
from dressage.protocol.spec import PublishNode


def enter(advance: Advance, thread: RunThread, ready: ReadyNode) -> None:
    node = ready.node
    assert isinstance(node, PublishNode)
    subject = advance.evaluate(ready, "subject")
    value = advance.evaluate(ready, "data")
    _check_subject(subject)
    advance.scope.spend_on(value)
    data = _encoded(value)
    if len(data) > advance.definition.limits.value_bytes:
        raise too_large("published-size", f"what is published to {subject}", data, advance.definition.limits)
    # Twice: for the message, and for the output event that tells of it.
    advance.scope.spend(2 * len(data))
    advance.effects.append(Publish(subject, advance.state.events, msgspec.Raw(data), thread.id))
    advance.emit(Published(thread.node, subject, msgspec.Raw(data), thread.id))
    thread.node = node.next


def _check_subject(subject: Any) -> None:
    """Raises `ExpressionFailed`, in the words of `dressage.flow.publish`."""
    if type(subject) is not str:
        raise ExpressionFailed(f"TypeError: publish() takes a subject of type str, not {type_name(subject)}")
    wrong = wrong_with_subject(subject)
    if wrong:
        raise ExpressionFailed(f"ValueError: {wrong}")


def _encoded(value: Any) -> bytes:
    """The value in wire JSON, whatever its type. Raises `ExpressionFailed` for what nobody else may see, or read."""
    holds_set = _holds_set(value)
    try:
        # Equal sets are written alike, as far as that goes: whoever folds this again must come to the same.
        return encode_sorted(value) if holds_set else encode_revealed(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ExpressionFailed(f"TypeError: publish() takes data that JSON can say: {error}") from error


def _holds_set(value: Any) -> bool:
    """Whether a set is anywhere in it. Raises `ExpressionFailed` for a part that must not be published."""
    kind = type(value)
    if isinstance(value, OpaqueValue):
        raise ExpressionFailed(f"TypeError: {value.said} cannot be published")
    if kind is FailureInfo:
        raise ExpressionFailed("TypeError: publish() takes data that JSON can say: a failure is none of it")
    if kind is float and not isfinite(value):
        raise ExpressionFailed(
            "TypeError: publish() takes data that JSON can say: nan and infinity are none of it"
        )
    # All of them are looked at, also behind a set.
    held = [_holds_set(part) for part in parts_of_value(value)]
    return kind is set or any(held)
