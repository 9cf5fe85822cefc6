"""The messages of one stream, in order, and by subject."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from dressage.brokers.memory.records import Record
from dressage.brokers.memory.subjects import has_wildcard, within

_VERDICTS_MAX = 20_000


class MessageLog:
    """Appending, the last message of a subject, and removing cost the same however many messages there are."""

    def __init__(self) -> None:
        self.messages: dict[int, Record] = {}
        self.subjects: dict[str, list[int]] = {}
        self.last_seq = 0
        self._order: list[int] = []
        """All sequences ever appended; those that were removed are passed over, and cleared away in time."""
        self._head = 0
        self._verdicts: dict[tuple[str, str], bool] = {}

    def append(self, record: Record) -> None:
        seq = self.last_seq = record.seq
        self.messages[seq] = record
        self._order.append(seq)
        seqs = self.subjects.get(record.subject)
        if seqs is None:
            self.subjects[record.subject] = [seq]
        else:
            seqs.append(seq)

    @property
    def first_seq(self) -> int:
        """Of the first message there is; the next one's when there is none, and 0 when there never was one."""
        order, messages = self._order, self.messages
        while self._head < len(order) and order[self._head] not in messages:
            self._head += 1
        if self._head < len(order):
            return order[self._head]
        return self.last_seq + 1 if self.last_seq else 0

    # -- reading -----------------------------------------------------------------------------------
    def last_of(self, subject: str) -> Record | None:
        """The last message of a subject, or of all subjects that match."""
        seqs = self.subjects.get(subject)
        if seqs is not None:
            return self.messages[seqs[-1]]
        if not has_wildcard(subject):
            return None
        last = max((seqs[-1] for seqs in self.matching(subject)), default=0)
        return self.messages.get(last)

    def next_of(self, seq: int, pattern: str) -> Record | None:
        """The first message at or after `seq` on a subject that matches."""
        if not has_wildcard(pattern):
            seqs = self.subjects.get(pattern, [])
            place = bisect_left(seqs, seq)
            return self.messages[seqs[place]] if place < len(seqs) else None
        messages = self.messages
        for place in range(max(self._head, bisect_left(self._order, seq)), len(self._order)):
            record = messages.get(self._order[place])
            if record is not None and self._is_within(record.subject, pattern):
                return record
        return None

    def matching(self, pattern: str) -> Iterator[list[int]]:
        """The sequences of each subject that matches."""
        if not has_wildcard(pattern):
            if pattern in self.subjects:
                yield self.subjects[pattern]
            return
        for subject, seqs in self.subjects.items():
            if within(subject, pattern):
                yield seqs

    def seqs_from(self, seq: int, wanted: Callable[[str], bool]) -> list[int]:
        found: list[int] = []
        for subject, seqs in self.subjects.items():
            if wanted(subject):
                found += seqs[bisect_left(seqs, seq) :]
        return sorted(found)

    def seq_since(self, time_ns: int) -> int:
        """Of the first message that was stored at this time or later; the next one's when there is none."""
        messages = self.messages
        for seq in islice(self._order, self._head, None):
            record = messages.get(seq)
            if record is not None and record.time_ns >= time_ns:
                return seq
        return self.last_seq + 1

    def _is_within(self, subject: str, pattern: str) -> bool:
        if pattern == ">":
            return True
        key = subject, pattern
        verdict = self._verdicts.get(key)
        if verdict is None:
            if len(self._verdicts) >= _VERDICTS_MAX:
                self._verdicts.clear()
            verdict = self._verdicts[key] = within(subject, pattern)
        return verdict

    # -- removing ----------------------------------------------------------------------------------
    def remove_below(self, pattern: str, below: int | None) -> list[Record]:
        """Removes what stands below a sequence (None: everything) on matching subjects; gives it in order."""
        removed: list[int] = []
        for seqs in list(self.matching(pattern)):
            count = len(seqs) if below is None else bisect_left(seqs, below)
            if count:
                removed += seqs[:count]
                self._cut(seqs, count)
        return [self._take(seq) for seq in sorted(removed)]

    def keep_last(self, subject: str, keep: int) -> Sequence[Record]:
        """Removes all but the last `keep` messages of one subject."""
        seqs = self.subjects[subject]
        count = len(seqs) - keep
        if count <= 0:
            return ()
        removed = seqs[:count]
        self._cut(seqs, count)
        return [self._take(seq) for seq in removed]

    def remove(self, record: Record) -> None:
        seqs = self.subjects[record.subject]
        if seqs[0] == record.seq:
            self._cut(seqs, 1, record.subject)
        else:
            seqs.remove(record.seq)
        self._take(record.seq)

    def _cut(self, seqs: list[int], count: int, subject: str = "") -> None:
        if count == len(seqs):
            del self.subjects[subject or self.messages[seqs[0]].subject]
        else:
            del seqs[:count]

    def _take(self, seq: int) -> Record:
        record = self.messages.pop(seq)
        if len(self._order) - self._head > 2 * len(self.messages) + 1000:
            self._order = list(self.messages)
            self._head = 0
        return record
