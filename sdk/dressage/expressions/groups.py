"""Several failures as one, and what an `except*` clause takes of them (PEP 654)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from dressage.expressions.frame import OPERATION_WORK, Frame
from dressage.protocol.commands import FailureInfo
from dressage.protocol.spec import ANY_ERROR, ANY_FAILURE, GROUP_FAMILY

_COUNT: Final = re.compile(r" \([0-9]+ sub-exceptions?\)$")


def group_of(causes: Sequence[FailureInfo], text: str) -> FailureInfo:
    """Several failures as one, with Python's text of an `ExceptionGroup`. To be cancelled is none of them."""
    causes = [each for each in causes if each.kind != "cancelled"]
    count = f"{len(causes)} sub-exception" + "s" * (len(causes) != 1)
    return FailureInfo(
        "exception-group", f"{text} ({count})", "group", family=GROUP_FAMILY, causes=tuple(causes)
    )


def split_failures(frame: Frame, failure: Any, *names: str) -> tuple[Any, Any]:
    """What of a failure clauses of these names take, as a group, and what is left; None for nothing.

    A failure that is no group is taken as a whole or not at all.
    """
    if failure is None:
        return None, None
    if not isinstance(failure, FailureInfo):
        raise TypeError(f"a {type(failure).__name__} is no failure that could be split")
    if failure.kind != "group":
        taken = _takes(frame, names, failure)
        return (group_of([failure], ""), None) if taken else (None, failure)
    return _split(frame, failure, names)


def _split(frame: Frame, group: FailureInfo, names: tuple[str, ...]) -> tuple[Any, Any]:
    if ANY_ERROR in names:
        return group, None
    taken: list[FailureInfo] = []
    left: list[FailureInfo] = []
    for cause in group.causes:
        if cause.kind == "group":
            inner, rest = _split(frame, cause, names)
            taken += [] if inner is None else [inner]
            left += [] if rest is None else [rest]
        else:
            (taken if _takes(frame, names, cause) else left).append(cause)
    text = _COUNT.sub("", group.message)
    return (group_of(taken, text) if taken else None), (group_of(left, text) if left else None)


def _takes(frame: Frame, names: tuple[str, ...], failure: FailureInfo) -> bool:
    frame.spend(OPERATION_WORK * len(names) * (1 + len(failure.family)))
    known = {failure.name, ANY_FAILURE, ANY_ERROR} if failure.kind == "failure" else set[str]()
    return not known.union(failure.family).isdisjoint(names)
