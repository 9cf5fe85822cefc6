"""Large values between who makes or takes them and the object store: stored before the command that refers to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol

from dressage.expressions.large import LargePlaces
from dressage.protocol.errors import BadInput, BadValue
from dressage.protocol.large import (
    INLINE_BYTES_MAX,
    JSON,
    LARGE_VALUE_BYTES_MAX,
    Reference,
    mentions_large,
    reference_json,
    reference_of,
)
from dressage.protocol.names import root_token
from dressage.protocol.types import Field, TypeDef, TypeRef

Shape = TypeRef | Sequence[Field]
"""The type of a value, or the parameters that a JSON object has by name."""


class Objects(Protocol):
    """Where they are stored: for the runs of a root, each by the SHA-256 of its bytes."""

    async def put(self, root: str, data: bytes) -> str: ...

    async def get(self, root: str, digest: str, size: int) -> bytes: ...


class LargeValues:
    """Stores and fetches large values."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    @staticmethod
    def may_be_stored(raw: bytes) -> bool:
        """Whether a part of this JSON could be large enough, or be taken for a reference; mostly it is not."""
        return len(raw) > INLINE_BYTES_MAX or mentions_large(raw)

    async def stored(self, run_id: str, shape: Shape, types: Iterable[TypeDef], raw: bytes) -> bytes:
        """The JSON with references in place of what is large, once all of that is stored.

        Raises `BadInput` (VALUE_TOO_LARGE), or `BrokerError`.
        """
        if not self.may_be_stored(raw):
            return raw
        return await _changed(shape, types, raw, partial(self._store, root_token(run_id)))

    async def fetched(self, run_id: str, shape: Shape, types: Iterable[TypeDef], raw: bytes) -> bytes:
        """The JSON with the values themselves in place of references.

        Raises `BadValue` for what is no reference that can be read, `ObjectDamaged`, or `BrokerError`.
        """
        if not mentions_large(raw):
            return raw
        return await _changed(shape, types, raw, partial(self._fetch, root_token(run_id)))

    async def _store(self, root: str, raw: bytes) -> bytes:
        if len(raw) <= INLINE_BYTES_MAX and not _is_like_reference(raw):
            return raw
        if len(raw) > LARGE_VALUE_BYTES_MAX:
            raise BadInput(
                f"a large value takes {len(raw)} bytes of {LARGE_VALUE_BYTES_MAX} allowed: split it, or keep it where "
                "you can name it (limit large-value-size)",
                code="VALUE_TOO_LARGE",
            )
        digest = await self._objects.put(root, raw)
        return reference_json(Reference(digest, len(raw)))

    async def _fetch(self, root: str, raw: bytes) -> bytes:
        reference = reference_of(raw)
        if reference is None:
            return raw
        if reference.encoding != JSON:
            raise BadValue(
                f"a large value is encoded as {reference.encoding!r}, which is not known here: use a version of "
                "Dressage that knows it"
            )
        return await self._objects.get(root, reference.sha256, reference.size)


async def _changed(shape: Shape, types: Iterable[TypeDef], raw: bytes, change: partial[Any]) -> bytes:
    places = LargePlaces(types)
    if isinstance(shape, Sequence):
        return await places.change_fields(shape, raw, change)
    return await places.change(shape, raw, change)


def _is_like_reference(raw: bytes) -> bool:
    """Whether a small value could be taken for a reference."""
    try:
        return reference_of(raw) is not None
    except BadValue:
        return True
