"""Parameters that a child run has from the workflow that starts it, without being given them at each call."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from types import FrameType
from typing import Any, Final


class _Inherited:
    """The type of `INHERITED`."""

    def __repr__(self) -> str:
        return "inherited()"


INHERITED: Final = _Inherited()


def inherited() -> Any:
    """The default of a parameter of a workflow: a call in another workflow that does not give it hands on what the
    variable of the same name holds there.

    Only whoever starts such a workflow by itself has to give it. What is handed on is a value, as that of every other
    argument: who changes it later changes it for nobody else. (LittleHorse's `INHERITED` variables are written through;
    here a run would change under the hands of another one.)
    """
    return INHERITED


def with_inherited(
    function: Callable[..., Any],
    names: Collection[str],
    args: tuple[Any, ...],
    keywords: Mapping[str, Any],
    frame: FrameType | None,
) -> dict[str, Any]:
    """The keywords of a call in plain Python, with what its caller hands on. Raises `TypeError`."""
    given = dict(keywords)
    if not names:
        return given
    told = inspect.signature(function).bind_partial(*args, **keywords).arguments
    while frame is not None and frame.f_code.co_name in _INNER:
        frame = frame.f_back
    for name in names:
        if name in told:
            continue
        if frame is None or name not in frame.f_locals:
            raise TypeError(
                f"{function.__name__}() inherits {name}, and its caller has no such variable: give it"
            )
        given[name] = frame.f_locals[name]
    return given


def caller() -> FrameType:
    """Where the function is called that asks this."""
    return sys._getframe(2)  # pyright: ignore[reportPrivateUsage]


_INNER: Final = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<lambda>"})
"""What is called inside of these has the variables of the function around."""
