"""From bytes to a spec: what could be read in two ways, or not at all, is refused.

A spec decides what becomes of everybody's runs, so it is read more strictly than other JSON: an unknown or a repeated
member is an error, not something to pass over. Who registers a spec and who folds by it read it alike.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeVar

import msgspec

from dressage.protocol.errors import BadSpec
from dressage.protocol.nesting import SPEC_DEPTH_MAX, nests_deeper
from dressage.protocol.spec import RegisteredEvent, RegisteredWorkflow, WorkflowSpec
from dressage.protocol.spec_check import check_spec
from dressage.protocol.spec_sizes import SPEC_BYTES_MAX

REGISTERED_BYTES_BESIDE: Final = 16_384
"""What a registered workflow may hold beside its spec."""

_T = TypeVar("_T")
_specs: Final = msgspec.json.Decoder(WorkflowSpec)
_registered: Final = msgspec.json.Decoder(RegisteredWorkflow)
_events: Final = msgspec.json.Decoder(RegisteredEvent)


def read_spec(data: bytes) -> WorkflowSpec:
    """The spec in JSON. Raises `BadSpec` or `BadName` for anything that is none, or contradicts itself."""
    spec = _read(_specs, data, SPEC_BYTES_MAX)
    check_spec(spec)
    return spec


def read_registered(data: bytes) -> RegisteredWorkflow:
    """A version as the registry stores it. Raises `BadSpec` or `BadName`; also for what a newer release wrote."""
    registered = _read(_registered, data, SPEC_BYTES_MAX + REGISTERED_BYTES_BESIDE)
    check_spec(registered.spec)
    return registered


def read_event(data: bytes) -> RegisteredEvent:
    """A version of an external event as the registry stores it. Raises `BadSpec`."""
    return _read(_events, data, SPEC_BYTES_MAX + REGISTERED_BYTES_BESIDE)


def check_spec_size(spec: WorkflowSpec) -> None:
    """Raises `BadSpec` for a spec that does not fit into a message with room to spare."""
    _check_size(len(spec.encode()), SPEC_BYTES_MAX)


def _read(decoder: msgspec.json.Decoder[_T], data: bytes, bytes_max: int) -> _T:
    _check_size(len(data), bytes_max)
    if nests_deeper(data, SPEC_DEPTH_MAX):
        raise BadSpec(
            f"the spec nests deeper than {SPEC_DEPTH_MAX} levels: split its expressions (limit spec-size)"
        )
    try:
        found = decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadSpec(f"the spec does not decode: {error}") from error
    _refuse_repeated(data)
    return found


def _check_size(size: int, bytes_max: int) -> None:
    if size > bytes_max:
        raise BadSpec(
            f"the spec takes {size} bytes of {bytes_max} allowed: split the workflow, or shorten its constants "
            "(limit spec-size)"
        )


def _refuse_repeated(data: bytes) -> None:
    """Another reader might take the first of two members of one name, where ours takes the last."""
    try:
        json.loads(data, object_pairs_hook=_members)
    except ValueError as error:
        raise BadSpec(f"the spec does not decode: {error}") from error


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        left = set(found)
        for name, _ in pairs:
            if name not in left:
                raise BadSpec(
                    f"the spec has an object with {name[:80]!r} twice: each member may stand there once"
                )
            left.remove(name)
    return found
