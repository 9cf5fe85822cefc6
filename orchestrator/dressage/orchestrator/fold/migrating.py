"""A run goes on in another version of its workflow: where it stands there, and what of its variables it takes along.

LittleHorse moves a run thread when it comes to a step that its plan names, so that a run can be on both versions for
long. Here a run moves at once and as a whole, or not at all and says why: between two commands it only waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from dressage.expressions.compatibility import types_of, wider
from dressage.expressions.errors import LimitExceeded
from dressage.expressions.values import decode_stored, encode_stored
from dressage.orchestrator.fold.advance import Advance
from dressage.orchestrator.fold.definition import Definition
from dressage.orchestrator.fold.effects import Effect
from dressage.orchestrator.fold.limiter import return_permit
from dressage.orchestrator.fold.outcome import RefuseCommand, Stamp
from dressage.orchestrator.fold.state import (
    ChildWait,
    ConditionWait,
    EventWait,
    GatherWait,
    HeldWait,
    Raised,
    RunState,
    RunThread,
    RunThreads,
    SleepWait,
    Taken,
    TaskWait,
    TurnWait,
    Unclaimed,
    UserWait,
    Wait,
)
from dressage.protocol.errors import BadValue
from dressage.protocol.events import RunMigrated, TaskSettled, UserTaskCancelled
from dressage.protocol.migrations import Migration
from dressage.protocol.positions import lanes_moved, same_step, step_text
from dressage.protocol.spec import ChildNode, GatherNode
from dressage.protocol.types import TypeRef

REASONS_TOLD: Final = 20
"""So many of what is in the way are told."""

CHARS_TOLD: Final = 300
"""So much of each: one may have a value in it."""


class CannotMove(Exception):
    """What is in the way of a run."""

    def __init__(self, reasons: list[str]) -> None:
        told = tuple(
            each if len(each) <= CHARS_TOLD else f"{each[: CHARS_TOLD - 3]}..."
            for each in reasons[:REASONS_TOLD]
        )
        self.reasons = (*told, "and more") if len(reasons) > REASONS_TOLD else told
        super().__init__("; ".join(self.reasons))


def moved(
    state: RunState, migration: Migration, before: Definition | None, after: Definition | None
) -> Moved:
    """The run in the other version, as it would stand there. Raises `CannotMove`."""
    if (state.workflow, state.version) != (migration.workflow, migration.before):
        raise CannotMove(
            [
                f"it is a run of {state.workflow} version {state.version}, and not of version {migration.before}"
            ]
        )
    if before is None or after is None:
        missing = migration.before if before is None else migration.after
        raise CannotMove([f"workflow {migration.workflow!r} has no version {missing}"])
    if state.finished:
        raise CannotMove([f"it is {state.status}"])
    if state.cancelling:
        raise CannotMove(["it is being cancelled, and ends"])
    return Moved(state, migration, before, after)


def migrate(found: Moved, stamp: Stamp) -> Advance:
    """The fold in progress that moves the run. Raises `RefuseCommand`, and `LimitExceeded`."""
    old, new = found.before, found.after
    state = found.state.copy()
    state.seq, state.time_ms = stamp.seq, max(state.time_ms, stamp.time_ms)
    advance = Advance(state, new, stamp)
    advance.effects += found.effects
    try:
        advance.check_history()
        advance.stored = True
        advance.check_sizes()
    except LimitExceeded as error:
        raise RefuseCommand("MIGRATION_REFUSED", f"run {state.run_id!r}: {error.message}") from error
    advance.emit(RunMigrated(old.version, new.version))
    for name in sorted(new.views & state.variables.keys()):
        if old.searchable != new.searchable or found.changed(name):
            advance.tell_view(name)
    for number in found.begin:
        _begin(advance, advance.thread(number))
    looking = [
        each.id
        for each in state.threads
        if isinstance(each.wait, ConditionWait | SleepWait) and each.wait.begun
    ]
    advance.watches.look_again(looking)
    return advance


def _begin(advance: Advance, thread: RunThread) -> None:
    """A thread gives up what it waits for, and begins at the node where it stands now."""
    wait = thread.wait
    assert wait is not None
    advance.drop_timers(thread)
    if isinstance(wait, TaskWait) and wait.permit and not advance.definition.limited:
        advance.effects.append(return_permit(advance.state.run_id, wait))
    if isinstance(wait, TaskWait) and wait.dead is not None:
        advance.emit(TaskSettled(wait.task, wait.task_id, thread.node, "cancel"))
    if isinstance(wait, UserWait):
        advance.emit(UserTaskCancelled(thread.node, wait.user_task, wait.wait_id, "withdrawn"))
    if isinstance(wait, ChildWait):
        advance.cancel_child(wait)
    advance.withdraw(wait)
    advance.return_taken(thread)
    thread.taken = None
    if advance.holds(thread):
        advance.hold(thread, HeldWait(thread.node, advance.stamp.seq, begins=True))
    else:
        advance.go_on(thread, thread.node)


class Moved:
    """A run as it stands in the other version."""

    def __init__(self, state: RunState, migration: Migration, before: Definition, after: Definition) -> None:
        """Raises `CannotMove`."""
        self.migration, self.before, self.after = migration, before, after
        self._state = state
        self._types = types_of(before.spec), types_of(after.spec)
        self._old_types = {each.name: each.type for each in before.spec.variables}
        self._old_types |= {field.name: field.type for field in before.spec.params}
        self._new_types = {each.name: each.type for each in after.spec.variables}
        self._new_types |= {field.name: field.type for field in after.spec.params}
        self._reasons: list[str] = []
        self.begin: list[int] = []
        """The ids of the run threads that give up what they wait for."""

        self.effects: list[Effect] = []

        self._needed: dict[int, tuple[frozenset[str], frozenset[str]]] = {}
        """By the thread: what it reads in the other version, and what it would have read in this one."""

        self._renamed = frozenset(migration.variables.values())
        """What has its value of another variable has it of no other one."""

        self._wrong = set[str]()
        """The variables whose values are none there."""

        self._by_id = {thread.id: thread for thread in state.threads}
        threads = [self._thread(thread) for thread in state.threads]
        variables = {} if self._reasons else self._variables(threads)
        self._reasons += self._contract()
        unclaimed = [self._unclaimed(each) for each in state.unclaimed]
        if self._reasons:
            raise CannotMove(list(dict.fromkeys(self._reasons)))
        self.state = msgspec.structs.replace(
            state,
            version=after.version,
            began=state.began or state.version,
            raised=_raised(state.raised, migration, after),
            caught={
                self._name_there(name): moved
                for name, raised in state.caught.items()
                if (moved := _raised(raised, migration, after)) is not None and self._name_there(name)
            },
            threads=RunThreads(threads),
            variables=variables,
            unclaimed=unclaimed,
        )

    def changed(self, name: str) -> bool:
        """Whether a variable of the run is another one than before."""
        was = self._state.variables.get(name)
        return was is None or bytes(was) != bytes(self.state.variables[name])

    # -- where it stands ---------------------------------------------------------------------------
    def _thread(self, thread: RunThread) -> RunThread:
        here = thread.node if thread.wait is None else thread.wait.node
        node = self.before.spec.nodes[here]
        where = f"line {node.line} ({step_text(node)})" if node.line else step_text(node)
        there = self.migration.nodes.get(here, -1)
        after = self.after.spec
        if not 0 <= there < len(after.nodes):
            self._reasons.append(f"{where} has no place in version {self.after.version}")
            return thread
        lanes = self.before.positions.lanes.get(here, ())
        if lanes_moved(lanes, self.migration.nodes) != self.after.positions.lanes.get(there):
            self._reasons.append(
                f"{where} stands in another branch, or handler that interrupts, in version {self.after.version}"
            )
            return thread
        why = same_step(self.before.spec, node, after, after.nodes[there])
        held = thread.wait
        if isinstance(held, HeldWait) and held.begins and thread.taken is None:
            why = ""
        if why:
            self._cannot_give_up(thread, where, why)
            self.begin.append(thread.id)
        begun = isinstance(held, HeldWait) and held.begins
        begins = bool(why) or begun
        read = self.before.positions.begins(here)
        waited = self.before.positions.waits(here)
        needed = self.after.positions.begins(there) if begins else self.after.positions.waits(there)
        self._needed[thread.id] = needed, waited | read
        self._check_kept(thread, read if begun else waited, needed, where)
        wait = thread.wait
        if wait is not None:
            wait = msgspec.structs.replace(wait, node=there) if why else self._wait(wait, there, where)
        taken = thread.taken if thread.taken is None or why else self._taken(thread.taken)
        gather = self.migration.nodes.get(thread.gather, 0) if thread.parent is not None else 0
        return msgspec.structs.replace(thread, node=there, wait=wait, gather=gather, taken=taken)

    def _check_kept(
        self, thread: RunThread, read: frozenset[str], needed: frozenset[str], where: str
    ) -> None:
        """A failure that passes through, and what a saga is to undo, is not forgotten."""
        old = self.before.positions
        for name in sorted(read & old.kept):
            raw = self._stored(thread, name)
            if raw is None or bytes(raw) == b"[]" or self._name_there(name) in needed:
                continue
            what = "what is to be undone" if name in old.undone else "a failure that passes through"
            self._reasons.append(f"{where}: version {self.after.version} would forget {what}")

    def _stored(self, thread: RunThread, name: str) -> msgspec.Raw | None:
        """The value that a thread sees."""
        by_id = self._by_id
        while thread.parent is not None and name not in thread.variables:
            thread = by_id[thread.parent]
        return self._state.variables.get(name) if thread.parent is None else thread.variables[name]

    def _name_there(self, name: str) -> str:
        """What a variable is called in the other version; empty if it is none there that is known."""
        return self.migration.variables.get(
            name, "" if name.startswith("$") or name in self._renamed else name
        )

    def _cannot_give_up(self, thread: RunThread, where: str, why: str) -> None:
        match thread.wait:
            case GatherWait():
                self._reasons.append(f"{where} has branches, which cannot be given up: {why}")
            case TurnWait():
                self._reasons.append(
                    f"{where} waits for its turn: try again when the other handler has ended"
                )
            case ChildWait(detached=True):
                self._reasons.append(f"{where} is about to start a child run: try again")
            case _:
                pass

    def _wait(self, wait: Wait, there: int, where: str) -> Wait:
        match wait:
            case TaskWait():
                return self._task(self._permitted(wait, where), there, where)
            case EventWait():
                self._event(wait.event, where)
            case UserWait(values=msgspec.Raw() as values):
                form = self.after.user_tasks[wait.user_task]
                self._try(lambda: form.read_some(bytes(values)), f"{where}: what is saved")
            case ChildWait():
                self._child(wait.workflow, where)
            case GatherWait():
                return self._gather(wait, there, where)
            case HeldWait():
                again = None if wait.again is None else self._task(wait.again, there, where)
                value = wait.value
                if isinstance(value, msgspec.Raw):
                    value = self._come(value, wait.node, there, f"{where}: what has come")
                return msgspec.structs.replace(wait, node=there, again=again, value=value)
            case _:
                pass
        return msgspec.structs.replace(wait, node=there)

    def _come(self, value: msgspec.Raw, here: int, there: int, what: str) -> msgspec.Raw:
        """What a thread that is stopped, or interrupted, has waited for, as its step takes it in the other version."""
        declared = self.after.comes_to(self.after.spec.nodes[there])
        if declared is None:
            return self._read_again(value, what)
        was = self.before.comes_to(self.before.spec.nodes[here])
        return self._converted(value, declared, was, what) or value

    def _task(self, wait: TaskWait, there: int, where: str) -> TaskWait:
        params = self.after.task_params[wait.task]
        self._try(lambda: params.decode(wait.args), f"{where}: its arguments")
        self._fits(
            self.before.task(wait.task).output, self.after.task(wait.task).output, f"{where}: its result"
        )
        return msgspec.structs.replace(wait, node=there)

    def _permitted(self, wait: TaskWait, where: str) -> TaskWait:
        """Where the task has no limit any more, the permit of an attempt is returned."""
        if not wait.permit or self.after.task(wait.task).limit is not None:
            return wait
        if wait.permit != "held":
            self._reasons.append(f"{where} waits for a limit that it does not have there: try again later")
        self.effects.append(return_permit(self._state.run_id, wait))
        return msgspec.structs.replace(wait, permit="")

    def _event(self, name: str, where: str) -> None:
        types = {each.name: each.type for each in self.before.spec.events}
        later = {each.name: each.type for each in self.after.spec.events}
        self._fits(types[name], later[name], f"{where}: its payload")

    def _child(self, name: str, where: str) -> None:
        outputs = {each.workflow: each.output for each in self.before.spec.children}
        later = {each.workflow: each.output for each in self.after.spec.children}
        self._fits(outputs[name], later[name], f"{where}: its result")

    def _gather(self, wait: GatherWait, there: int, where: str) -> GatherWait:
        before, after = self.before.spec.nodes[wait.node], self.after.spec.nodes[there]
        assert isinstance(before, GatherNode)
        assert isinstance(after, GatherNode)
        outputs = {
            place: self._read_again(raw, f"{where}: the result of branch {place + 1}")
            for place, raw in wait.outputs.items()
        }
        given = self._given_to(wait, before, after, where) if wait.given else []
        held = wait.held + sum(map(len, given)) + sum(map(len, outputs.values()))
        held -= sum(map(len, wait.given)) + sum(map(len, wait.outputs.values()))
        return msgspec.structs.replace(wait, node=there, outputs=outputs, given=given, held=held)

    def _given_to(
        self, wait: GatherWait, before: GatherNode, after: GatherNode, where: str
    ) -> list[msgspec.Raw]:
        """Items whose branches have not begun: each part for the variable that it was for."""
        names = before.each.names if before.each else ()
        later = after.each.names if after.each else ()
        renamed = [self._name_there(name) for name in names]
        if sorted(renamed) != sorted(later):
            self._reasons.append(f"{where}: its items have other parts")
            return []
        given: list[msgspec.Raw] = []
        for raw in wait.given:
            values = decode_stored(raw, self.before.types)
            parts = dict(zip(renamed, zip(names, values, strict=True), strict=True))
            moved = [
                self._converted(
                    msgspec.Raw(encode_stored(value)),
                    self._new_types.get(name),
                    self._old_types.get(was),
                    f"{where}: an item",
                )
                for name, (was, value) in ((name, parts[name]) for name in later)
            ]
            given.append(
                msgspec.Raw(b'{"$tuple":[%b]}' % b",".join(bytes(part or b"null") for part in moved))
            )
        return given

    def _taken(self, taken: Taken) -> Taken:
        if taken.own is not None:
            return msgspec.structs.replace(taken, own=self._unclaimed(taken.own))
        if taken.given is not None:
            given, codec = taken.given, self.after.events.get(taken.given.event)
            if codec is not None:
                self._try(lambda: codec.decode(given.payload), f"event {given.event}")
        return taken

    def _unclaimed(self, event: Unclaimed) -> Unclaimed:
        """An event that nobody has claimed; one that the other version does not know stays as it is. This one may not
        know it either, as an earlier one did."""
        codec, known = self.after.events.get(event.event), self.before.events.get(event.event)
        if codec is None:
            return event
        was = None if known is None else known.type
        payload = self._converted(event.payload, codec.type, was, f"event {event.event}")
        return msgspec.structs.replace(event, payload=payload or event.payload)

    # -- what it takes along -----------------------------------------------------------------------
    def _variables(self, threads: list[RunThread]) -> dict[str, msgspec.Raw]:
        """The run's own; those of branches are put into `threads`."""
        needed = {name for new, _ in self._needed.values() for name in new}
        variables = self._taken_along(self._state.variables, needed)
        own: dict[int, frozenset[str]] = {0: frozenset()}
        for place, thread in enumerate(threads):
            if thread.parent is not None:
                owned = self.after.branch_variables
                names = owned.get((thread.gather, thread.branch)) or owned[thread.gather, 0]
                own[thread.id] = names
                taken = self._taken_along(thread.variables, needed)
                kept = {name: raw for name, raw in taken.items() if name in names}
                threads[place] = msgspec.structs.replace(thread, variables=kept)
        by_id = {thread.id: thread for thread in threads}
        for thread in threads:
            self._complete(thread, by_id, own, variables)
        return variables

    def _taken_along(self, stored: Mapping[str, msgspec.Raw], needed: set[str]) -> dict[str, msgspec.Raw]:
        found: dict[str, msgspec.Raw] = {}
        for name, raw in stored.items():
            there = self._name_there(name)
            if there not in self._new_types:
                continue
            if there in found:
                self._reasons.append(f"two variables would be {there}")
                continue
            told = len(self._reasons)
            if name in self.before.positions.undone:
                raw = self._renumbered(raw, name, there)
            value = self._converted(
                raw, self._new_types[there], self._old_types.get(name), f"variable {there}"
            )
            if value is not None:
                found[there] = value
                continue
            self._wrong.add(there)
            if there not in needed and there not in self.after.views:
                del self._reasons[told:]  # Nobody reads it any more.
        return found

    def _renumbered(self, raw: msgspec.Raw, name: str, there: str) -> msgspec.Raw:
        """What a saga is to undo, by the numbers that its steps have in the other version."""
        old = self.before.positions.undone[name]
        new = self.after.positions.undone.get(there, ())
        held, entries = decode_stored(raw, self.before.types), list[Any]()
        for entry in held if isinstance(held, list) else [None]:
            match entry:
                case (int(number), *given) if 0 <= number < len(old):
                    how = old[number]
                case _:  # Only a spec that no compiler wrote can say so.
                    return raw
            if how not in new:
                task = how.partition(b" ")[0].decode()
                self._reasons.append(
                    f"version {self.after.version} does not undo by task {task} what is to be undone"
                )
                return raw
            entries.append((new.index(how), *given))
        return msgspec.Raw(encode_stored(entries))

    def _complete(
        self,
        thread: RunThread,
        by_id: Mapping[int, RunThread],
        own: Mapping[int, frozenset[str]],
        variables: dict[str, msgspec.Raw],
    ) -> None:
        """What a thread reads has a value, as far as it had one before; the migration may give it."""
        needed, before = self._needed[thread.id]
        missing = self._missing(thread, needed, by_id, own, variables)
        if not missing:
            return
        was = self._by_id[thread.id]
        known = {self._name_there(name) for name in before if self._stored(was, name) is None}
        for name in sorted(missing):
            where = _owner(thread, name, by_id, own)
            held = variables if where is None else where.variables
            if name in self._wrong:
                continue  # What it has is in the way already.
            given = None if name.startswith("$") else self.migration.values.get(name)
            if given is not None:
                held[name] = self._given(name, given)
            elif name in known:
                continue  # It had none before, and there too it is set before it is read.
            elif name.startswith("$"):
                self._reasons.append(
                    f"line {self.after.spec.nodes[thread.node].line}: it goes on with something that version "
                    f"{self.before.version} does not keep there"
                )
            else:
                self._reasons.append(f"variable {name} has no value: give one")

    @staticmethod
    def _missing(
        thread: RunThread,
        needed: frozenset[str],
        by_id: Mapping[int, RunThread],
        own: Mapping[int, frozenset[str]],
        variables: Mapping[str, msgspec.Raw],
    ) -> set[str]:
        """What a thread reads and does not see. (A thousand threads may read ten thousand variables each.)"""
        missing, left = set[str](), needed
        while thread.parent is not None:
            missing |= (left & own[thread.id]) - thread.variables.keys()
            left -= own[thread.id]
            thread = by_id[thread.parent]
        return missing | (left - variables.keys())

    def _given(self, name: str, given: msgspec.Raw) -> msgspec.Raw:
        try:
            value: Any = self.after.read(self._new_types.get(name), bytes(given))
            return msgspec.Raw(encode_stored(value))
        except (BadValue, LimitExceeded) as error:
            self._reasons.append(f"the value that is given for variable {name}: {error.message}")
        return msgspec.Raw(b"null")

    def _converted(
        self, raw: msgspec.Raw, declared: TypeRef | None, was: TypeRef | None, what: str
    ) -> msgspec.Raw | None:
        """A stored value as one of the other version: as it stands, or else as the JSON of it is read there. None, with
        a reason, if it is none."""
        codec, before = self.after.reader(declared), self.before.reader(was)
        if codec is None:
            return self._read_again(raw, what)
        if before is not None and before.mask is not None and codec.mask is None:
            self._reasons.append(f"{what} is masked, and would be shown in version {self.after.version}")
            return None
        try:
            value = codec.admit(decode_stored(raw, self.after.types), what)
            return msgspec.Raw(encode_stored(value))
        except (BadValue, LimitExceeded) as error:
            reason = error.message
        if before is not None:
            try:
                value = codec.decode(before.encode(decode_stored(raw, self.before.types)))
                return msgspec.Raw(encode_stored(value))
            except (BadValue, LimitExceeded) as error:
                reason = error.message
        self._reasons.append(f"{what} has a value that version {self.after.version} does not take: {reason}")
        return None

    def _read_again(self, raw: msgspec.Raw, what: str) -> msgspec.Raw:
        try:
            return msgspec.Raw(encode_stored(decode_stored(raw, self.after.types)))
        except (BadValue, LimitExceeded) as error:
            self._reasons.append(f"{what} cannot be read in version {self.after.version}: {error.message}")
            return raw

    # -- what others expect ------------------------------------------------------------------------
    def _contract(self) -> Iterator[str]:
        parent = self._state.parent
        if parent is None or not parent.told:
            return
        old, new = self._types
        for path, wrong in wider(self.after.spec.output, self.before.spec.output, new, old, written=True):
            yield f"run {parent.run_id} waits for its result{path and f', of which {path} is another one'}: {wrong}"

    def _fits(self, given: TypeRef, taken: TypeRef, what: str) -> None:
        old, new = self._types
        for path, wrong in wider(given, taken, old, new):
            self._reasons.append(f"{what}{path}: {wrong}")

    def _try(self, read: Any, what: str) -> None:
        try:
            read()
        except (BadValue, LimitExceeded) as error:
            self._reasons.append(f"{what} does not fit version {self.after.version}: {error.message}")


def _raised(raised: Raised | None, migration: Migration, after: Definition) -> Raised | None:
    """A failure that passes through was raised there in the other version; None if that has no place in it."""
    there = -1 if raised is None else migration.nodes.get(raised.node, -1)
    if raised is None or not 0 <= there < len(after.spec.nodes):
        return None
    node, child = after.spec.nodes[there], raised.child
    same = (
        isinstance(node, ChildNode)
        and child is not None
        and not node.detached
        and node.workflow == child.workflow
    )
    return Raised(there, msgspec.structs.replace(child, node=there) if same and child is not None else None)


def _owner(
    thread: RunThread, name: str, by_id: Mapping[int, RunThread], own: Mapping[int, frozenset[str]]
) -> RunThread | None:
    """The branch, of this one and those around it, whose own variable this is; None for one of the run."""
    while thread.parent is not None:
        if name in own[thread.id]:
            return thread
        thread = by_id[thread.parent]
    return None
