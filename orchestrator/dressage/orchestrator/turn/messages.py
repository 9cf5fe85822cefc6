"""Effects and output events as messages of the broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from dressage.brokers.interface import Delivery, Message, Schedule
from dressage.orchestrator.fold.effects import (
    CancelTimer,
    DispatchTask,
    Effect,
    HandOn,
    Publish,
    SendCommand,
    SetTimer,
)
from dressage.orchestrator.fold.state import Gone, RunState, State
from dressage.orchestrator.fold.state import Schedule as ScheduleState
from dressage.orchestrator.fold.times import rfc3339
from dressage.orchestrator.turn.turn import TimerCancel
from dressage.protocol.commands import REPLY_HEADER, TaskMessage
from dressage.protocol.events import (
    CONTENT_TYPE,
    ID_HEADER,
    KIND,
    RUN_HEADER,
    SUBJECT_HEADER,
    TYPE_PREFIX,
    DomainEvent,
    EventData,
    OutputEvent,
)
from dressage.protocol.names import Names, event_bucket, place_of
from dressage.protocol.shardmap import DELETED_HEADER, FORWARDED_HEADER, ShardMap, forwarded_mark
from dressage.protocol.traces import TRACEPARENT

_encode = msgspec.json.Encoder().encode


def carried(delivery: Delivery) -> dict[str, str]:
    """The headers of a command that go with it from shard to shard."""
    found = delivery.headers or {}
    return {name: found[name] for name in (REPLY_HEADER, FORWARDED_HEADER, DELETED_HEADER) if name in found}


class MessageMaker:
    """Makes the messages of one shard."""

    def __init__(self, names: Names, shard: int, shard_map: Callable[[], ShardMap]) -> None:
        """`shard_map` is the one that holds for the command whose effects are made."""
        self._names = names
        self._shard = shard
        self._maps = shard_map
        self._source = f"/dressage/{names.namespace}/{shard}"

    def effect(self, effect: Effect, state: State | None, token: str) -> Message | TimerCancel:
        match effect:
            case DispatchTask():
                assert isinstance(state, RunState)
                return self._task(effect, state, token)
            case SetTimer():
                return Message(
                    self._names.timer(self._shard, token, effect.timer_id),
                    _encode(effect.command),
                    schedule=Schedule(rfc3339(effect.due_ms), self._names.command(self._shard, token)),
                )
            case CancelTimer():
                return TimerCancel(self._names.timer(self._shard, token, effect.timer_id))
            case SendCommand():
                return self._send(effect)
            case Publish():
                assert isinstance(state, RunState)
                return self._publish(effect, state, token)
            case HandOn():
                raise TypeError("a fold hands nothing on")

    def _task(self, effect: DispatchTask, state: RunState, token: str) -> Message:
        names, shard = self._names, self._shard
        subject = names.task(shard, effect.queue)
        data = _encode(
            TaskMessage(
                task=effect.task,
                task_id=effect.task_id,
                call_id=effect.call_id,
                run_id=state.run_id,
                workflow=state.workflow,
                version=state.version,
                attempt=effect.attempt,
                args=effect.args,
                reply=names.command(shard, token),
                scheduled_at=rfc3339(effect.scheduled_ms),
                timeout_s=effect.times.attempt_s or 0.0,
                heartbeat_s=effect.times.heartbeat_s or 0.0,
                tells_start=effect.times.start_s is not None,
                progress=effect.progress,
                traceparent=state.traceparent,
            )
        )
        if not effect.not_before_ms:
            return Message(subject, data)
        schedule = Schedule(rfc3339(effect.not_before_ms), subject)
        return Message(names.timer(shard, token, effect.timer_id), data, schedule=schedule)

    def hand_on(self, effect: HandOn, delivery: Delivery) -> Message:
        """The command as it came, with what its sender waits on, on its way to another shard."""
        headers = {name: value for name, value in carried(delivery).items() if name != FORWARDED_HEADER}
        if effect.checked:
            generation = self._maps().generation
            headers[FORWARDED_HEADER] = forwarded_mark(generation, self._shard, delivery.stream_seq)
        if effect.deleted:
            headers[DELETED_HEADER] = "1"
        return Message(self._names.send(self._shard, effect.shard, effect.token), delivery.data, headers)

    def _send(self, effect: SendCommand) -> Message:
        target = self._maps().first(place_of(effect.token))
        if target == self._shard:
            return Message(self._names.command(target, effect.token), _encode(effect.command))
        return Message(self._names.send(self._shard, target, effect.token), _encode(effect.command))

    def _publish(self, effect: Publish, state: RunState, token: str) -> Message:
        """The domain event as it will stand on the user's subject, on its way there."""
        data = _encode(
            DomainEvent(
                id=f"{state.run_id}/{effect.index}",
                source=f"/dressage/{self._names.namespace}/workflow/{state.workflow}",
                type=effect.subject,
                time=rfc3339(state.time_ms),
                subject=state.run_id,
                workflow=state.workflow,
                version=state.version,
                data=effect.data,
                traceparent=state.traceparent or msgspec.UNSET,
            )
        )
        headers = {
            SUBJECT_HEADER: effect.subject,
            ID_HEADER: self._names.publish_id(token, state.started_ms, effect.index),
        }
        if state.trace:
            headers[TRACEPARENT] = state.traceparent
        return Message(self._names.publish(self._shard, token), data, headers)

    def events(
        self,
        events: Sequence[EventData],
        first_index: int,
        state: RunState | Gone | ScheduleState,
        token: str,
        actor_name: str,
    ) -> list[Message]:
        """The CloudEvents of consecutive output events of one command; `state` is the state after its fold."""
        run_id, workflow = state.run_id, state.workflow
        time, command, actor = rfc3339(state.time_ms), str(state.seq), actor_name or msgspec.UNSET
        bucket = event_bucket(run_id)
        trace = state.traceparent if isinstance(state, RunState) else ""
        lines = f"{RUN_HEADER}: {token}\r\ncontent-type: {CONTENT_TYPE}\r\n"
        messages: list[Message] = []
        for index, data in enumerate(events, first_index):
            kind = KIND[type(data)]
            event = OutputEvent(
                id=f"{run_id}/{index}",
                source=self._source,
                type=TYPE_PREFIX + kind,
                time=time,
                subject=run_id,
                workflow=workflow,
                version=state.version,
                index=index,
                command=command,
                data=data,
                actor=actor,
                traceparent=trace or msgspec.UNSET,
            )
            subject = self._names.event(self._shard, workflow, kind, bucket)
            messages.append(Message(subject, _encode(event), lines=lines))
        return messages
