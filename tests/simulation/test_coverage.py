"""Every construct, command, effect, output event and refusal occurs in the seeds.

What a feature adds to these unions and not to the programs or the workloads of the simulation fails here. `UNSEEN` are
the exceptions, each with its reason; one that occurs after all fails too.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from dressage.brokers.memory import Record
from dressage.orchestrator.fold.effects import Effect
from dressage.protocol.commands import Command, RefusalCode, decode_command
from dressage.protocol.events import EventData
from dressage.protocol.expressions import Expr
from dressage.protocol.spec import Node
from dressage.simulation.refold import Folded, Refold
from dressage.simulation.seed import run_seed
from dressage.simulation.workloads import PROGRAMS, program

SEEDS = 60
RARE = (690,)
"""Seeds that show what those before them do not: an event that comes back to its key."""

UNSEEN = {
    "EventExpired": "whether one expires first is chance, and no Python tells; tests/orchestrator has it",
    "RunFaulted": "a fold has to fail by a bug of its own; tests/orchestrator has one made for it",
    "EventRefused": "clients post what programs wait for; tests/orchestrator has it",
    "RefuseWait": "takes 1,000 runs that wait at one key; tests/orchestrator has it",
    "EventReturned": "of these seeds none has an event whose handler never begins; tests/testing has it",
    "DeferPermit": "takes 10,000 attempts that wait for one limit; tests/orchestrator has it",
    "TimetableFull": "takes 1,000 schedules of one timetable; tests/orchestrator has it",
}
BY_CHANCE = {"EVENT_UNKNOWN"}
"""Those of `UNSEEN_REFUSALS` that some seeds have: which ones changes with every request that somebody adds."""

UNSEEN_REFUSALS = {
    "ENGINE_FAULT": "as RunFaulted",
    "CANCEL_INVALID": "nobody cancels run thread 0; tests/testing has it",
    "EVENTS_FULL": "takes 2,000 events of a run, or 128 KiB of them; tests/orchestrator has it",
    "USER_TASK_FULL": "takes 100 comments, or 2,000 events; tests/testing has it",
    "SPEC_INVALID": "no registry takes such a definition, and its place cannot be written by a client",
    "EVENT_UNKNOWN": "an event of an unknown name comes to runs that mostly have ended; tests/orchestrator has it",
    **dict.fromkeys(
        ("NAME_INVALID", "PAYLOAD_TOO_LARGE", "OPERATION_UNKNOWN", "REQUEST_MALFORMED", "NOT_FOUND"),
        "an answer to a request, not to a command",
    ),
}


def members(union: Any) -> set[str]:
    return {member.__name__ for member in typing.get_args(union)}


def structs_in(value: Any) -> Iterator[msgspec.Struct]:
    """A struct and all that it holds, however deep."""
    match value:
        case msgspec.Struct():
            yield value
            for name in value.__struct_fields__:
                yield from structs_in(getattr(value, name))
        case dict():
            for each in value.values():
                yield from structs_in(each)
        case list() | tuple():
            for each in value:
                yield from structs_in(each)
        case _:
            pass


def test_programs_have_every_node_and_every_expression() -> None:
    missing = members(Node) | members(Expr)
    for number in range(PROGRAMS):
        module = program(number)
        if module is not None:
            missing -= {type(each).__name__ for each in structs_in(module.flow.spec)}
        if not missing:
            return
    assert not missing


@pytest.mark.timeout(300)
def test_seeds_have_every_command_effect_event_and_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = members(Command) | members(Effect) | members(EventData)
    refusals = set(typing.get_args(RefusalCode))
    seen: set[str] = set()
    command = Refold.command

    def noting(self: Refold, record: Record, number: int) -> Folded:
        folded = command(self, record, number)
        outcome = folded.outcome
        seen.update(type(each).__name__ for each in (*outcome.effects, *outcome.events))
        if outcome.code is not None:
            seen.add(outcome.code)
        if outcome.events or outcome.effects or folded.changed:
            seen.add(type(decode_command(record.data)).__name__)
        return folded

    monkeypatch.setattr(Refold, "command", noting)
    expected = (wanted - UNSEEN.keys()) | (refusals - UNSEEN_REFUSALS.keys())
    for seed in (*range(1, SEEDS + 1), *RARE):
        run_seed(seed)
        if seen >= expected:
            break
    print(sorted(seen))
    missing = sorted(expected - seen)
    assert missing == []
    assert sorted(seen & (UNSEEN.keys() | UNSEEN_REFUSALS.keys() - BY_CHANCE)) == []
