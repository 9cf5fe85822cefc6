"""Runs and correlation keys that are folded by hand, with what they send each other on its way."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import msgspec
from tests.limits.specs import expr, raw, spec_of  # pyright: ignore[reportMissingImports]

from dressage.orchestrator.fold import archive, mailbox
from dressage.orchestrator.fold.definition import Definition, EventDefinition
from dressage.orchestrator.fold.effects import CancelTimer, SendCommand, SetTimer
from dressage.orchestrator.fold.fold import fold
from dressage.orchestrator.fold.mailbox import fold_key
from dressage.orchestrator.fold.outcome import Outcome, Stamp
from dressage.orchestrator.fold.state import Mailbox, RunState, State, decode_state, encode_state
from dressage.protocol.commands import Command, PostEvent, StartRun, decode_command, encoder
from dressage.protocol.events import EventPosted
from dressage.protocol.names import is_key, key_token, run_id_of, run_token
from dressage.protocol.spec import (
    EventDef,
    EventNode,
    Handler,
    Node,
    RegisteredEvent,
    RegisteredWorkflow,
    ReturnNode,
    Scope,
    WorkflowSpec,
)
from dressage.protocol.types import ANY, Scalar, TypeRef

KEY = key_token("e", "k")
INT: TypeRef = Scalar("int")


@contextmanager
def remembering(count: int) -> Iterator[None]:
    """Correlation keys and the parts of their marks have room for so many marks only."""
    with mock.patch.object(mailbox, "MARKS_MAX", count), mock.patch.object(archive, "MARKS_MAX", count):
        yield


def waiting(
    count: int = 1, timeout: str | None = None, of: TypeRef = ANY, *, lasting: bool = False
) -> WorkflowSpec:
    """Waits at key `k` for event `e` so many times, and returns the last payload; a timeout is nothing special."""
    given_to = expr(timeout) if timeout is not None else None
    nodes: list[Node] = [
        EventNode("e", n + 1, given_to, target="a", key=expr("'k'"), scope=0) for n in range(count)
    ]
    nodes.append(ReturnNode(expr("a")))
    nodes.append(ReturnNode(expr("'late'")))
    scopes = (Scope((Handler(("TimeoutError",), count + 1),)),)
    events = (EventDef("e", of, 60.0 if lasting else None, lasting),)
    return spec_of(nodes, events=events, scopes=scopes)


class System:
    """Runs and keys that are folded by hand, with what they send each other on its way."""

    def __init__(self, spec: WorkflowSpec, event: EventDef | None = None) -> None:
        self.definition = Definition(RegisteredWorkflow(spec, 1, ""))
        self.event = EventDefinition(RegisteredEvent(event or spec.events[0], spec.types, 1, ""))
        self.states: dict[str, State] = {}
        self.lanes: dict[str, deque[SendCommand]] = {}
        self.old: dict[str, list[SendCommand]] = {}
        self.timers: dict[tuple[str, str], Command] = {}
        self.taken: list[tuple[str, Any]] = []
        self.seq = 0
        self.now_ms = 1_000

    def apply(self, token: str, command: Command) -> Outcome:
        self.seq += 1
        stamp, before = Stamp(self.seq, self.now_ms), self.states.get(token)
        sent = decode_command(encoder.encode(command))
        of_event = self.event if isinstance(command, PostEvent) else None
        if is_key(token):
            outcome = fold_key(before, sent, token, stamp, of_event)
        else:
            early = not isinstance(before, RunState) and isinstance(command, PostEvent)
            outcome = fold(before, sent, run_id_of(token), stamp, of_event if early else self.definition)
        if outcome.state is not None:
            assert decode_state(encode_state(outcome.state)) == outcome.state
            self.states[token] = outcome.state
        for effect in outcome.effects:
            match effect:
                case SendCommand():
                    # What goes between a key and the parts of its marks may live on any shard, and go any way.
                    lane = f"{token} {effect.token}" if is_key(token) and is_key(effect.token) else token
                    self.lanes.setdefault(lane, deque()).append(effect)
                case SetTimer():
                    self.timers[token, effect.timer_id] = effect.command
                case CancelTimer():
                    self.timers.pop((token, effect.timer_id), None)
                case _:
                    raise AssertionError(effect)
        for event in outcome.events:
            if isinstance(event, EventPosted):
                self.taken.append((event.event_id, token))
        return outcome

    def start(self, run_id: str) -> Outcome:
        return self.apply(run_token(run_id), StartRun("hostile", 1, raw({}), f"start {run_id}"))

    def post(self, event_id: str, payload: Any = None, token: str = KEY) -> Outcome:
        return self.apply(token, PostEvent("e", event_id, raw(payload), "ann", 1))

    def forward(self, source: str) -> None:
        """The next command that `source` has sent arrives."""
        sent = self.lanes[source].popleft()
        self.old.setdefault(source, []).append(sent)
        self.apply(sent.token, sent.command)

    def repeat(self, source: str, back: int) -> None:
        """A new owner sends again what the one before had sent and not removed: the last ones, in their order."""
        for sent in self.old.get(source, [])[-back:]:
            self.apply(sent.token, sent.command)

    def settle(self) -> None:
        while sources := [source for source, lane in self.lanes.items() if lane]:
            self.forward(sources[0])

    @property
    def mailbox(self) -> Mailbox:
        found = self.states[KEY]
        assert isinstance(found, Mailbox)
        return found

    def run(self, run_id: str) -> RunState:
        found = self.states[run_token(run_id)]
        assert isinstance(found, RunState)
        return found


def output(state: RunState) -> Any:
    assert isinstance(state.output, msgspec.Raw)
    return json.loads(bytes(state.output))
