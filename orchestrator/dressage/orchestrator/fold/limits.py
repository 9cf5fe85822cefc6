"""The limits of one run, checked where a value enters its state; what is too large ends that run by name.

The names in the errors are those of docs/limits.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from dressage.expressions.errors import ExpressionFailed, LimitExceeded, error_family
from dressage.expressions.limits import VALUE_MAX_DEPTH
from dressage.orchestrator.fold.state import (
    ChildWait,
    EventWait,
    GatherWait,
    HeldWait,
    KeyedWait,
    RunState,
    RunThread,
    TaskWait,
    UserWait,
)
from dressage.protocol.commands import FailureInfo, Json, KeyedEvent
from dressage.protocol.errors import BadValue
from dressage.protocol.names import is_name
from dressage.protocol.nesting import nests_deeper
from dressage.protocol.spec import Limits

STATE_BYTES_MAX = 950_000
"""Bytes of input, variables, output, run threads and external events of a run together. With its failure and its ids
they make the state, which is one message: below a server's default max_payload of 1 MiB."""

BRANCH_DEPTH_MAX = 100
"""Run threads that are each a branch of the one before."""

RUN_THREADS_MAX = 1_000
"""Run threads of one run at a time."""

OPEN_CHILDREN_MAX = 1_000
"""Child runs of one run that are to be cancelled when it ends, and have not ended themselves."""

CHILD_BYTES = 80
"""What one of them takes in the state beside its id."""

CHILD_DEPTH_MAX = 8
"""Runs that wait for each other, one for the end of the next."""

DETAILS_BYTES_MAX = 32 * 1024
MESSAGE_CHARS_MAX = 8192
ERROR_NAME_CHARS_MAX = 128
FAMILY_NAMES_MAX = 16

LOG_CHARS_MAX = 8_192
"""Characters of what an attempt has logged; of more the end is kept."""

POSTED_MAX = 2_000
"""External events of one run: their ids are remembered as long as the run is, so that none counts twice."""

POSTED_BYTES = 20
"""What is remembered of an id takes in the state."""

SEEN_BYTES = 24
"""What stands in the state beside the token of a key of lasting events: how many the run has had."""

UNCLAIMED_BYTES_MAX = 128 * 1024
"""Bytes of the payloads of a run's unclaimed external events together."""

BRANCH_BYTES = 384
"""What a branch takes in the state besides variables, names, and what it gives or is given: ids and counters."""

TIMES_BYTES = 192
"""What stands in the state of a call that has a deadline or a start timeout, beside what every call has."""

QUOTING_BYTES = 4
"""What stands around the name of a variable in the state, and behind its value."""

TURN_BYTES = 8
"""What a thread takes that waits for its turn to interrupt, at most."""

CANCELLED_BYTES = 20
"""What a thread takes beside the reason that somebody cancelled it for."""

ENDED_BYTES = 12
"""What the place of a branch that has ended takes in the state."""

MARKS_MAX = 4_096
"""External events whose ids a correlation key remembers in its own state: the newest ones; those before have entries of
their own, each of at most so many before it is divided."""

REMEMBERED_MAX = 2 * MARKS_MAX
"""The same with those whose marks are on their way to an entry of their own, which takes some milliseconds."""

GIVEN_MAX = 4_000
"""Waits at one correlation key of which is remembered what they were given: the last ones. They matter for seconds."""

WAITS_MAX = 1_000
"""Runs that wait at one correlation key at a time."""

WAITS_BYTES_MAX = 256 * 1024
"""What they take in its state together: run ids of characters that JSON has to escape take six times their size."""

KEYED_BYTES_MAX = 64 * 1024
"""Bytes of the payload of one external event that is posted to a correlation key, or to a run that does not exist."""

KEPT_BYTES_MAX = 256 * 1024
"""Bytes that the unclaimed events of a correlation key take in its state, with their ids and who posted them."""

RETURNED_BYTES_MAX = 400 * 1024
"""The same with those that came back: what comes back was accepted before. Beside what is remembered of others, and
the runs that wait, it has to fit into one message."""

LIMITER_WAITS_MAX = 10_000
"""Attempts that wait at one limiter at a time; those that would be behind them come again some seconds later."""

LIMITER_BYTES_MAX = 850_000
"""Bytes that they take in its state together, with those that have a permit."""

PERMIT_BYTES = 28
"""What stands there for one of them, beside its id and the token of its run."""

GROUP_BYTES_MAX = 32 * 1024
"""Bytes of the failures of all branches together; of those beyond it name and family are kept."""

FAILED_BYTES_MAX = 72 * 1024
"""Bytes of the failure that a run ends with. What does not fit of a group is left out there, and nowhere else."""

GROUP_CUT = "(cut: limit failure-group)"
FAMILY_SHORT_MAX = 4

MESSAGE_CUT = " ... (cut: limit failure-message)"
"""How a message ends that was longer."""

_to_json = msgspec.json.Encoder().encode
_UNREADABLE = msgspec.Raw(b'{"dropped":"details that cannot be read"}')
_TOO_LARGE = msgspec.Raw(b'{"dropped":"details above %d bytes (limit failure-details)"}' % DETAILS_BYTES_MAX)
_TOO_DEEP = msgspec.Raw(b'{"dropped":"details above %d levels (limit failure-details)"}' % VALUE_MAX_DEPTH)


def too_large(limit: str, what: str, data: bytes, limits: Limits) -> LimitExceeded:
    """The error of a value of more than `value_bytes` bytes."""
    return LimitExceeded(
        limit, f"{what} takes {len(data)} bytes of {limits.value_bytes} allowed: pass a reference to it"
    )


def variables_too_large(size: int, limits: Limits) -> LimitExceeded:
    return LimitExceeded(
        "variables-size",
        f"variables take {size} bytes of {limits.variables_bytes} allowed: keep references instead of values",
    )


def limit_state(size: int) -> None:
    """Refuses a state whose parts take so many bytes together."""
    if size > STATE_BYTES_MAX:
        raise LimitExceeded(
            "state-size",
            f"the run's state takes {size} bytes of {STATE_BYTES_MAX} allowed: keep references instead of values",
        )


def limit_threads(count: int) -> None:
    """Refuses so many run threads at a time."""
    if count > RUN_THREADS_MAX:
        raise LimitExceeded(
            "open-branches",
            f"more than {RUN_THREADS_MAX} run threads at a time: give the gather a lower limit, or start them one "
            "gather after the other",
        )


def limit_nesting(depth: int) -> None:
    """Refuses so many run threads, each started by the one before it. Only a spec that no compiler wrote has them."""
    if depth > BRANCH_DEPTH_MAX:
        raise LimitExceeded(
            "branch-depth", f"more than {BRANCH_DEPTH_MAX} run threads, each a branch of another one"
        )


def limit_details(details: bytes, what: str) -> None:
    """Refuses the details of a failure whose fields are declared: who catches it counts on them."""
    if len(details) > DETAILS_BYTES_MAX:
        raise LimitExceeded(
            "failure-details",
            f"{what} takes {len(details)} bytes of {DETAILS_BYTES_MAX} allowed: pass a reference to what is large",
        )
    if nests_deeper(details, VALUE_MAX_DEPTH):
        raise LimitExceeded("failure-details", f"{what} nests deeper than {VALUE_MAX_DEPTH} levels")


def bytes_of(failure: FailureInfo) -> int:
    """What a failure takes in the state."""
    return len(_to_json(failure))


def thread_bytes(thread: RunThread) -> tuple[int, int]:
    """What the variables of a run thread take in the state, and what else there is of it, at most."""
    variables = rest = 0
    if thread.parent is not None:
        variables = stored_bytes(thread.variables)
        rest = BRANCH_BYTES + QUOTING_BYTES * len(thread.variables)
    wait = thread.wait
    if thread.taken is not None:
        rest += len(_to_json(thread.taken))
    if thread.cancelled_for is not None:
        rest += CANCELLED_BYTES + len(_to_json(thread.cancelled_for))
    if type(wait) is TaskWait:
        rest += (
            len(wait.args)
            + len(wait.task)
            + len(wait.queue)
            + TIMES_BYTES * bool(wait.deadline_id or wait.start_id)
        )
        if wait.permit:
            rest += PERMIT_BYTES + len(_to_json(wait.key))
        if wait.worker:
            rest += len(_to_json(wait.worker))
        if wait.progress:
            rest += len(wait.progress)
        if wait.dead is not None:
            rest += bytes_of(wait.dead)
    elif type(wait) is GatherWait:
        rest += wait.held + ENDED_BYTES * (len(wait.outputs) + len(wait.failures)) + len(wait.given)
        rest += TURN_BYTES * len(wait.turns)
    elif type(wait) is ChildWait:
        rest += len(wait.run_id.encode()) + len(wait.workflow)
    elif type(wait) is UserWait or type(wait) is HeldWait:
        rest += len(_to_json(wait))
    elif type(wait) is EventWait and wait.key:
        rest += len(_to_json(wait.key))
    return variables, rest


def events_bytes(state: RunState) -> int:
    """What external events take in the state, those that wait to be claimed, and marks of all; and open child runs, and
    who has stopped what."""
    kept = sum(len(_to_json(each)) for each in state.unclaimed)
    seen = sum(map(len, state.seen)) + SEEN_BYTES * len(state.seen)
    children = sum(CHILD_BYTES + len(_to_json(each.run_id)) for each in state.children)
    stops = sum(len(_to_json(each)) for each in state.stops) + POSTED_BYTES * (
        len(state.stopping) + len(state.settled)
    )
    return kept + seen + POSTED_BYTES * len(state.posted) + children + stops


def kept_bytes(kept: list[KeyedEvent] | list[KeyedWait]) -> int:
    """What unclaimed events or waits take in the state of a correlation key: an id may be larger than a payload."""
    return len(_to_json(kept))


def failure_of(error: ExpressionFailed, line: int | None = None) -> FailureInfo:
    """What a run fails with whose expression has no value, or that passes a limit."""
    where = "" if line is None else f"line {line}: "
    return FailureInfo(error.name, f"{where}{error.message}", error.kind, family=error.family)


def type_error(wrong: BadValue, line: int) -> FailureInfo:
    """A value that is not of the type that it must have in the workflow."""
    return FailureInfo(
        "type-error", f"line {line}: {wrong.message}", "type-error", family=error_family("TypeError")
    )


def stored_bytes(variables: Mapping[str, msgspec.Raw]) -> int:
    """What variables take in the state: the bytes of their values and of their names."""
    return sum(map(len, variables.values())) + len("".join(variables).encode())


def fitting(state: RunState, limits: Limits) -> dict[str, msgspec.Raw]:
    """The variables of a run that has failed, without the largest if they are too large together: it must be stored."""
    beside = len(state.input) + events_bytes(state) + QUOTING_BYTES * len(state.variables)
    left = min(limits.variables_bytes, STATE_BYTES_MAX - beside)
    if stored_bytes(state.variables) <= left:
        return state.variables
    kept: set[str] = set()
    for name in sorted(state.variables, key=lambda name: len(state.variables[name])):
        left -= len(name.encode()) + len(state.variables[name])
        if left < 0:
            break
        kept.add(name)
    return {name: raw for name, raw in state.variables.items() if name in kept}


def bounded(failure: FailureInfo) -> FailureInfo:
    """A failure as its author wrote it, cut to what a state and an event may hold."""
    plain = not failure.details and not failure.causes and failure.kind != "failure"
    plain = plain or not (failure.details or failure.causes or failure.family)
    if plain and len(failure.message) <= MESSAGE_CHARS_MAX and len(failure.name) <= ERROR_NAME_CHARS_MAX:
        return failure
    family = failure.family
    if failure.kind == "failure":
        family = tuple(name for name in family[:FAMILY_NAMES_MAX] if is_name(name))
    return FailureInfo(
        failure.name[:ERROR_NAME_CHARS_MAX],
        _bounded_message(failure.message),
        failure.kind,
        _bounded_details(failure.details),
        family,
        _bounded_causes(failure.causes),
    )


def at_end(failure: FailureInfo) -> FailureInfo:
    """A failure as a run ends with it, beside all that its state holds: of a large group the first ones."""
    left, kept = FAILED_BYTES_MAX - bytes_of(msgspec.structs.replace(failure, causes=())), list[FailureInfo]()
    for cause in failure.causes:
        left -= bytes_of(cause) + 1
        if left < 0:
            cut = f"{failure.message}, the first {len(kept)} of them told {GROUP_CUT}"
            return msgspec.structs.replace(failure, message=cut, causes=tuple(kept))
        kept.append(cause)
    return failure


def _bounded_causes(causes: tuple[FailureInfo, ...]) -> tuple[FailureInfo, ...]:
    """All of them, by name and family; the texts and details of the first ones, as far as there is room."""
    left, kept = GROUP_BYTES_MAX, list[FailureInfo]()
    for cause in map(bounded, causes):
        left -= len(_to_json(cause))
        if left < 0:
            short = FailureInfo(cause.name, GROUP_CUT, cause.kind, family=cause.family[:FAMILY_SHORT_MAX])
            kept.append(min(short, cause, key=bytes_of))
        else:
            kept.append(cause)
    return tuple(kept)


def _bounded_message(message: str) -> str:
    if len(message) <= MESSAGE_CHARS_MAX:
        return message
    return message[: MESSAGE_CHARS_MAX - len(MESSAGE_CUT)] + MESSAGE_CUT


def _bounded_details(details: Json) -> Json:
    """Details that everybody can read, or what became of them: a worker may send anything."""
    if not isinstance(details, msgspec.Raw):
        return details
    data = bytes(details)
    if len(data) > DETAILS_BYTES_MAX:
        return _TOO_LARGE
    if nests_deeper(data, VALUE_MAX_DEPTH):
        return _TOO_DEEP
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _UNREADABLE
    return details
