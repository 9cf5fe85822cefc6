"""Domain events: what a workflow tells other services."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from dressage.flow import models
from dressage.protocol.names import wrong_with_subject

Sink = Callable[[str, Any], object]


class Publish:
    """`publish`: tells other services what has happened, by a message on a subject that the workflow chooses::

        await publish(f"orders.{order.region}.shipped", order)

    The run goes on at once. The message is stored once in whichever stream captures the subject, as a CloudEvent
    whose data is `data` in JSON; what a run publishes is stored in the order in which it does.
    """

    _sink: Sink | None = None
    """Process-wide, as the fakes of tasks are."""

    async def __call__(self, subject: str, data: object) -> None:
        """Raises `ValueError` for a subject with wildcards, spaces or empty tokens, one that is too long, and one of
        the broker's or the engine's own; `TypeError` for data that JSON cannot say, and for masked values.

        Where a workflow's function runs as plain Python, it goes to what a test says (`faked`).
        """
        if type(subject) is not str:
            raise TypeError(f"publish() takes a subject of type str, not {type(subject).__name__}")
        wrong = wrong_with_subject(subject)
        if wrong:
            raise ValueError(wrong)
        _check(data)
        if self._sink is None:
            raise NotImplementedError(
                "nothing is published in plain Python: say what takes it, by `publish.faked(...)`"
            )
        self._sink(subject, data)

    @contextmanager
    def faked(self, sink: Sink) -> Iterator[None]:
        """Inside the `with` block `sink` is called with subject and data, in the whole process: for unit tests."""
        before, self._sink = self._sink, sink
        try:
            yield
        finally:
            self._sink = before

    def __repr__(self) -> str:
        return "<publish>"


publish: Final = Publish()


def _check(data: object) -> None:
    """Raises `TypeError` for what JSON cannot say."""
    try:
        msgspec.json.encode(data, enc_hook=models.to_plain)
        plain = msgspec.to_builtins(data, enc_hook=models.to_plain)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise TypeError(f"publish() takes data that JSON can say: {error}") from error
    if not _is_finite(plain):
        raise TypeError("publish() takes data that JSON can say: nan and infinity are none of it")


def _is_finite(plain: Any) -> bool:
    """Whether there is no float in it for which JSON has no word; the encoder would write null in its place."""
    if isinstance(plain, dict):
        pairs: dict[Any, Any] = plain
        return all(_is_finite(key) and _is_finite(item) for key, item in pairs.items())
    if isinstance(plain, list | tuple | set | frozenset):
        items: Iterable[Any] = plain
        return all(map(_is_finite, items))
    return not isinstance(plain, float) or math.isfinite(plain)
