"""The object store of a unit test: large values go through it as through the engine's."""

from __future__ import annotations

import hashlib


class KeptObjects:
    """Objects in memory."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], bytes] = {}

    async def put(self, root: str, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self._kept[root, digest] = data
        return digest

    async def get(self, root: str, digest: str, size: int) -> bytes:
        return self._kept[root, digest]
