"""Who may begin: an owner counts the open runs of its shard, and refuses starts beyond its share of the limit.

Whether a start was refused depends on how many runs were open at that moment, which nobody can find out a second time.
So the decision is made once: the cursor holds the sequences of the starts that were refused, for as long as their
commands are in the stream, and whoever folds one of them again refuses it again. It goes into the commit that makes the
refusal a fact, under the same compare-and-set as everything else. What the cursor covers and does not name was let in,
whatever the limit is by now.

A task can be stored before the cursor that covers its start (the commit by singles), and an owner may die in between.
So that the next one decides about that start as this one did, the limit that counts is the one that the cursor names.
A new one is written into it first; and starts that were in the stream when a take-over fenced it are decided by what
the cursor named then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from dressage.brokers.provision import Namespace

REFUSED_KEPT_MAX: Final = 4_096
"""Refused starts that a cursor holds: some 30 KB. More wait until the commands of earlier ones are removed."""


class Starts:
    """The starts of one tenure.

    `decided` is the last command whose decision is made, `fenced` the sequence of the take-over's fence. `open_runs` is
    how many runs are open by the events that are stored (None: nobody counted them, so nobody is refused), `share` how
    many may be by the cursor. `defined` tells how many may be by the namespace's definition, and `removed` up to which
    command the stream has been emptied.
    """

    def __init__(
        self,
        decided: int,
        fenced: int,
        refused: Sequence[int],
        open_runs: int | None,
        share: int | None,
        defined: Callable[[], int | None],
        removed: Callable[[], int],
    ) -> None:
        self._decided = decided
        self._fenced = fenced
        self._refused = list(refused)
        self._refused_before = frozenset(refused)
        self._share = self.next_share = share
        self._defined = defined
        self._removed = removed
        self.open_runs = open_runs

    def outdated(self, seq: int) -> bool:
        """Whether this start waits for a cursor with another limit, which `next_share` is from here on."""
        if seq > self._fenced:
            self.next_share = self._defined()
        return self.next_share != self._share

    def follow(self) -> None:
        """The turn that holds the new limit is on its way, and nothing behind it can be stored before it."""
        self._share = self.next_share

    def refusal(self, seq: int) -> str:
        """Why the start with this sequence is refused; empty if it is not."""
        if seq <= self._decided:
            return self._message() if seq in self._refused_before else ""
        if self._share is None or self.open_runs is None or self.open_runs < self._share:
            return ""
        self._refused.append(seq)
        return self._message()

    def _message(self) -> str:
        figure = "" if self._share is None else f" of {self._share} that are allowed"
        return (
            f"{self.open_runs} runs are open on this shard{figure}: start it again when others have ended, or raise "
            "the limit with `dressage shards limit` (limit open-runs)"
        )

    def count(self, opens: int) -> None:
        """A run has started (1) or ended (-1)."""
        if self.open_runs is not None:
            self.open_runs += opens

    @property
    def kept(self) -> tuple[int, ...]:
        """What the cursor has to hold."""
        if self._refused:
            removed = self._removed()
            self._refused = [seq for seq in self._refused if seq > removed]
        return tuple(self._refused)

    @property
    def full(self) -> bool:
        return len(self._refused) >= REFUSED_KEPT_MAX and len(self.kept) >= REFUSED_KEPT_MAX


def share_of(namespace: Namespace | None) -> int | None:
    """How many runs may be open on each shard; None without a limit."""
    if namespace is None or not namespace.open_runs_max:
        return None
    return -(-namespace.open_runs_max // namespace.shards)
