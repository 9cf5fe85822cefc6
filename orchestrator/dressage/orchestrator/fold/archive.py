"""The marks of a correlation key's earlier events, for which its own state has no room: a tree of small entries.

The key remembers the newest ids itself. Older ones move, by the first hexadecimal digit of their marks, to sixteen
entries below it, and from one of these that is full to sixteen below that; so a key may have had any number of events,
and a question about one of them passes as many entries as that number has digits. A mark is forgotten where it was only
when the next entry has said that it keeps it, so it does not matter in which order commands of different shards come,
nor which of them come twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from dressage.orchestrator.fold.effects import Effect, SendCommand
from dressage.orchestrator.fold.limits import MARKS_MAX, REMEMBERED_MAX
from dressage.orchestrator.fold.marks import path_of
from dressage.orchestrator.fold.outcome import Outcome, RefuseCommand, Stamp
from dressage.orchestrator.fold.state import MARKS_FORMAT, Marks, State
from dressage.protocol.commands import AskMark, Command, KeepMarks, MarksKept, TellMark
from dressage.protocol.names import key_token, marks_of, marks_token


def fold_marks(state: State | None, command: Command, token: str, stamp: Stamp) -> Outcome:
    """Applies one command to one part of a key's marks. Raises `RefuseCommand`. The state is never changed."""
    event, key, path = marks_of(token)
    before = state if isinstance(state, Marks) else None
    after = Marks(MARKS_FORMAT, 0, 0) if before is None else before.copy()
    after.seq, after.time_ms = stamp.seq, max(after.time_ms, stamp.time_ms)
    match command:
        case KeepMarks():
            _check(command.marks, path)
            return _keep(before, after, command.marks, (event, key, path))
        case MarksKept():
            gone = set(command.marks)
            after.marks = [mark for mark in after.marks if mark not in gone]
            changed = before is not None and len(after.marks) < len(before.marks)
            return Outcome(after) if changed else Outcome(before, existing=True)
        case AskMark():
            _check((command.mark,), path)
            if after.divided and command.mark not in after.marks:
                return Outcome(before, [SendCommand(_below(event, key, path, command.mark), command)])
            told = TellMark(command.number, known=command.mark in after.marks)
            return Outcome(before or after, [SendCommand(key_token(event, key), told)])
        case _:
            raise RefuseCommand("RUN_UNKNOWN", f"{token!r} stands for marks of events, and for no run")


def move(marks: Sequence[str], event: str, key: str, path: str = "") -> list[Effect]:
    """Asks the entries below `path` to keep marks."""
    by_entry: dict[str, list[str]] = {}
    for mark in marks:
        by_entry.setdefault(_below(event, key, path, mark), []).append(mark)
    return [SendCommand(token, KeepMarks(tuple(moved))) for token, moved in sorted(by_entry.items())]


def ask(number: int, mark: str, event: str, key: str) -> Effect:
    """Asks whether the key has had an event whose mark it has moved."""
    return SendCommand(_below(event, key, "", mark), AskMark(number, mark))


def _keep(before: Marks | None, after: Marks, marks: tuple[str, ...], place: tuple[str, str, str]) -> Outcome:
    event, key, path = place
    known = set(after.marks)
    more = [mark for mark in marks if mark not in known]
    after.marks += more
    effects: list[Effect] = [SendCommand(_above(event, key, path), MarksKept(marks))]
    if after.divided:
        effects += move(more, event, key, path)
    elif len(after.marks) > MARKS_MAX:
        after.divided = True
        effects += move(after.marks, event, key, path)
    return Outcome(after if more or before is None else before, effects)


def _below(event: str, key: str, path: str, mark: str) -> str:
    return marks_token(event, key, path_of(mark)[: len(path) + 1])


def _above(event: str, key: str, path: str) -> str:
    return key_token(event, key) if len(path) == 1 else marks_token(event, key, path[:-1])


def _check(marks: tuple[str, ...], path: str) -> None:
    """Raises `RefuseCommand` for what the engine has not sent here."""
    if len(marks) > REMEMBERED_MAX:
        raise RefuseCommand(
            "EVENT_INVALID", f"{len(marks)} marks at a time: at most {REMEMBERED_MAX} are moved"
        )
    for mark in marks:
        found = path_of(mark)
        if not found.startswith(path) or found == path:
            raise RefuseCommand("EVENT_INVALID", f"{mark!r} is no mark of an event that belongs to {path!r}")
