"""Releases of the engine that differ, so that an upgrade in the middle of a seed is one.

A release newer than ours keeps a run's variables under another name in the states that it stores. It reads what every
older release has stored; an older one takes its states for those of runs without variables, and no decoder complains.
All that stands between that and the runs is the fold version in the cursor. What has ended may be read by the owners of
other shards, whose cursor says nothing of it, and looks as ever.
"""

from __future__ import annotations

import contextvars
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from unittest import mock

from dressage.orchestrator.fold.fold import FOLD_VERSION
from dressage.orchestrator.fold.state import State, decode_state, encode_state
from dressage.orchestrator.turn import behind, runs

OURS: Final = b'"variables":'
_THEIRS: Final = re.compile(rb'"variables of (\d+)":')

_release: contextvars.ContextVar[int] = contextvars.ContextVar("dressage_simulation_release")


def run_as(fold_version: int) -> None:
    """From here on the process whose context this is runs the release with this fold version."""
    _release.set(fold_version)


def plain(data: bytes) -> bytes:
    """A stored state as our own release would have stored it, whichever stored it."""
    return _THEIRS.sub(OURS, data) if b'"variables of ' in data else data


def _encode(state: State) -> bytes:
    data, release = encode_state(state), _release.get(FOLD_VERSION)
    if release <= FOLD_VERSION or state.finished:
        return data
    return data.replace(OURS, b'"variables of %d":' % release)


def _decode(payload: bytes) -> State:
    found = _THEIRS.search(payload)
    readable = found is not None and int(found[1]) <= _release.get(FOLD_VERSION)
    return decode_state(plain(payload) if readable else payload)


@contextmanager
def releases() -> Iterator[None]:
    """Every process stores and reads states as its release does."""
    with (
        mock.patch.object(behind, "encode_state", _encode),
        mock.patch.object(runs, "decode_state", _decode),
    ):
        yield
