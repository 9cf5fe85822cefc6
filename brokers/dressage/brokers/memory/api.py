"""The part of JetStream's JSON API that Dressage asks for by plain requests, past `Connection`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from dressage.brokers.memory.records import Publish
from dressage.brokers.memory.refusals import NobodyListens, Refusal
from dressage.brokers.memory.subjects import overlap

if TYPE_CHECKING:
    from dressage.brokers.memory.consumer import Consumer
    from dressage.brokers.memory.server import MemoryServer
    from dressage.brokers.memory.stream import Stream

PREFIX: Final = "$JS.API."
_Body = dict[str, Any]
_decoder = msgspec.json.Decoder(_Body)
_encode = msgspec.json.Encoder().encode


def answer(server: MemoryServer, subject: str, data: bytes, writer: object) -> bytes:
    """Raises `NobodyListens` for what is not in here."""
    operation = ".".join(subject[len(PREFIX) :].split(".")[:2])
    names = subject[len(PREFIX) :].split(".")[2:]
    serve = _OPERATIONS.get(operation)
    if serve is None:
        raise NobodyListens
    body = _decoder.decode(data) if data else {}
    try:
        return _encode(serve(server, names, body, writer))
    except Refusal as refusal:
        return _encode(_error(refusal))


def publish_answer(stream: Stream, publish: Publish, writer: object) -> bytes:
    """What a plain request on a subject of a stream is answered with."""
    try:
        seq, duplicate = stream.publish(publish, writer)
    except Refusal as refusal:
        return _encode({"stream": stream.name, "seq": 0, **_error(refusal)})
    return _encode({"stream": stream.name, "seq": seq} | ({"duplicate": True} if duplicate else {}))


def _error(refusal: Refusal) -> _Body:
    code = 404 if refusal.description.endswith("not found") else 400
    return {"error": {"code": code, "err_code": refusal.err_code, "description": refusal.description}}


def _stream_info(server: MemoryServer, names: list[str], body: _Body, _: object) -> _Body:
    stream = server.stream(names[0])
    config, log = stream.config, stream.log
    state: _Body = {
        "messages": len(log.messages),
        "bytes": sum(len(record.data) + len(record.block) for record in log.messages.values()),
        "first_seq": log.first_seq,
        "last_seq": log.last_seq,
        "consumer_count": len(stream.consumers),
    }
    wanted = body.get("subjects_filter")
    if wanted:
        found = server.stream_state(stream.name, str(wanted))
        state["subjects"] = dict(found.subjects) if found else {}
    return {
        "config": {
            "name": config.name,
            "subjects": list(config.subjects),
            "num_replicas": config.replicas,
            "max_age": int(config.max_age_s * 1e9),
            "duplicate_window": stream.window_ns,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msgs_per_subject": config.per_subject_max,
        },
        "created": _time(stream.created_ns),
        "ts": _time(server.now_ns()),
        "state": state,
    }


def _stream_names(server: MemoryServer, _names: list[str], body: _Body, _: object) -> _Body:
    subject = str(body.get("subject") or "")
    found = [stream.name for stream in server.streams.values() if not subject or _meets(stream, subject)]
    return {"total": len(found), "offset": 0, "limit": 1024, "streams": sorted(found) or None}


def _meets(stream: Stream, subject: str) -> bool:
    return any(overlap(subject, bound) for bound in stream.config.subjects)


def _stream_purge(server: MemoryServer, names: list[str], body: _Body, writer: object) -> _Body:
    below = body.get("seq")
    purged = server.purge(names[0], str(body.get("filter") or ">"), int(below) if below else None, writer)
    return {"success": True, "purged": purged}


def _consumer_info(server: MemoryServer, names: list[str], _body: _Body, _: object) -> _Body:
    stream = server.stream(names[0])
    consumer = stream.consumer(names[1])
    consumer.notice_ghosts()
    return {"stream_name": stream.name, "name": consumer.name, **_consumer_state(consumer)}


def _consumer_state(consumer: Consumer) -> _Body:
    config = consumer.config
    delivered, consumer_delivered = consumer.delivered
    settings: _Body = {
        "name": config.name,
        "ack_policy": "explicit" if config.explicit_ack else "none",
        "ack_wait": int(config.ack_wait_s * 1e9),
        "max_ack_pending": config.max_ack_pending,
    }
    filters = list(config.filters)
    if len(filters) == 1:
        settings["filter_subject"] = filters[0]
    elif filters:
        settings["filter_subjects"] = filters
    if config.start_seq is not None:
        settings["opt_start_seq"] = config.start_seq
    elif config.start_time is not None:
        settings["opt_start_time"] = config.start_time
    return {
        "config": settings,
        "delivered": {"consumer_seq": consumer_delivered, "stream_seq": delivered},
        "ack_floor": {"consumer_seq": consumer.consumer_floor, "stream_seq": consumer.ack_floor},
        "num_ack_pending": consumer.ack_pending,
        "num_waiting": consumer.waiting,
        "num_pending": consumer.undelivered,
    }


def _time(time_ns: int) -> str:
    whole = datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{time_ns % 1_000_000_000:09d}Z"


_Serve = Callable[["MemoryServer", list[str], _Body, object], _Body]
_OPERATIONS: Final[dict[str, _Serve]] = {
    "STREAM.INFO": _stream_info,
    "STREAM.NAMES": _stream_names,
    "STREAM.PURGE": _stream_purge,
    "CONSUMER.INFO": _consumer_info,
}
