"""Whether the server of a connection still reaches the leaders of its cluster, by what it answers."""

from __future__ import annotations

from typing import Final

UNSERVED_S: Final = 4.0
"""For how long a server may leave every request without the answer of a leader, if there are others."""


class Unserved:
    """Times are in seconds, of one clock.

    A server that was a stream's leader and stood still believes for a while that it is one: it gives what it has and
    refuses what it has to, and can store nothing. So after a write that nobody served only a stored one proves the
    contrary; after a read any answer does.
    """

    def __init__(self) -> None:
        self._since: float | None = None
        self._by_write = False

    @property
    def certain(self) -> bool:
        """Whether nothing speaks against this server."""
        return self._since is None

    def failed(self, now: float, *, write: bool) -> None:
        """A request got no answer, or that of a server without a leader."""
        if self._since is None:
            self._since = now
        self._by_write = self._by_write or write

    def answered(self, *, stored: bool) -> None:
        """A request was answered; `stored` if it was a write that is stored."""
        if stored or not self._by_write:
            self.forget()

    def too_long(self, now: float) -> bool:
        return self._since is not None and now - self._since >= UNSERVED_S

    def forget(self) -> None:
        """Begins anew: it is another server, or this one has proved itself."""
        self._since, self._by_write = None, False
