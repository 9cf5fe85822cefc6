"""What breaks between two versions of a workflow for those who use it: who starts runs, who tells them something, and
who reads them.

The rules are those of subtyping: what was taken before must be taken still, and what is given must be what was given
before. A change that no rule here allows counts as one that breaks, so a new major version may be one too many, and
never one too few. Nothing else of a workflow counts: runs stay on the version that they began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from dressage.expressions.checks import shown
from dressage.expressions.searching import searchable_paths
from dressage.protocol.spec import WorkflowSpec
from dressage.protocol.types import (
    ANY,
    NONE,
    DictOf,
    EnumType,
    Field,
    LargeOf,
    ListOf,
    LiteralOf,
    MaskedOf,
    Named,
    RecordType,
    Scalar,
    SetOf,
    TupleOf,
    TypeDef,
    TypeRef,
    UnionOf,
)

REASONS_TOLD: Final = 20
"""So many differences are told, and of one type too."""

CHARS_TOLD: Final = 300
"""So much of each."""

Finite = frozenset[tuple[type, str | int | bool | None]]
"""The values of a type that has few, as JSON has them: a bool is no int."""


class Types(NamedTuple):
    """The records and enums of one version."""

    definitions: Mapping[str, TypeDef]

    def record(self, ref: TypeRef) -> RecordType | None:
        found = self.definitions.get(ref.name) if isinstance(ref, Named) else None
        return found if isinstance(found, RecordType) else None

    def values(self, ref: TypeRef) -> Finite | None:
        """None for a type with too many values to name them."""
        match ref:
            case LiteralOf(values):
                return frozenset((type(value), value) for value in values)
            case Scalar("bool"):
                return frozenset([(bool, True), (bool, False)])
            case Scalar("none"):
                return frozenset([(type(None), None)])
            case Named(name):
                found = self.definitions.get(name)
                if isinstance(found, EnumType):
                    return frozenset((type(member.value), member.value) for member in found.members)
                return None
            case _:
                return None


def breaks(before: WorkflowSpec, after: WorkflowSpec) -> tuple[str, ...]:
    """What of `after` breaks those who use `before`, each with what to do about it; nothing if they may stay as they
    are.

    These are a start, or an external event, that is refused now, a result or a view of another type, and a search that
    finds nothing more.
    """
    found = list(islice(_breaks(before, after), REASONS_TOLD + 1))
    told = [each if len(each) <= CHARS_TOLD else f"{each[: CHARS_TOLD - 3]}..." for each in found]
    return (*told[:REASONS_TOLD], "and more") if len(told) > REASONS_TOLD else tuple(told)


def _breaks(before: WorkflowSpec, after: WorkflowSpec) -> Iterator[str]:
    old, new = _types(before), _types(after)
    yield from _input(before.params, after.params, old, new)
    for path, wrong in wider(after.output, before.output, new, old, written=True):
        yield f"{_at('the result', path)}: {wrong}, which who awaits it does not expect"
    yield from _view(before, after, old, new)
    yield from _events(before, after, old, new)


def _types(spec: WorkflowSpec) -> Types:
    return Types({each.name: each for each in spec.types})


def _at(what: str, path: str) -> str:
    return f"{what}, at {path.lstrip('.')}" if path else what


def _input(before: Sequence[Field], after: Sequence[Field], old: Types, new: Types) -> Iterator[str]:
    then, now = ({field.name: field for field in fields} for fields in (before, after))
    for name, field in now.items():
        known = then.get(name)
        if known is None and field.required:
            yield f"parameter {name!r} is new and required: give it a default"
        elif known is not None and field.required and not known.required:
            yield f"parameter {name!r} is required now: give it the default that it had"
        if known is not None:
            # Null stands for the default where the type does not take it.
            given = known.type if field.required else _without_none(known.type)
            for path, wrong in wider(given, field.type, old, new):
                yield f"{_at(f'parameter {name!r}', path)}: {wrong}, with which runs are started"
    for name in then:
        if name not in now:
            yield f"parameter {name!r} is gone, and a start with it is refused: keep it, with a default"


def _without_none(ref: TypeRef) -> TypeRef:
    left = tuple(each for each in ref.options if each != NONE) if isinstance(ref, UnionOf) else ()
    return ref if not left else left[0] if len(left) == 1 else UnionOf(left)


def _events(before: WorkflowSpec, after: WorkflowSpec, old: Types, new: Types) -> Iterator[str]:
    now = {event.name: event for event in after.events}
    for event in before.events:
        if event.name not in now:
            yield f"external event {event.name!r} is not waited for any more, and refused: keep it"
            continue
        for path, wrong in wider(event.type, now[event.name].type, old, new):
            yield f"{_at(f'external event {event.name!r}', path)}: {wrong}, with which it is posted"


def _view(before: WorkflowSpec, after: WorkflowSpec, old: Types, new: Types) -> Iterator[str]:
    then, now = (next((each for each in spec.variables if each.view), None) for spec in (before, after))
    if then is None or then.type is None:
        return
    if now is None or now.type is None:
        yield "there is no view any more, which readers and searches use"
        return
    for path, wrong in wider(now.type, then.type, new, old, written=True):
        yield f"{_at('the view', path)}: {wrong}, which readers do not expect"
    searched, found = _searchable(then.type, old), _searchable(now.type, new)
    for path in sorted(searched - found):
        yield f"{path} of the view is no longer searchable"


def _searchable(view: TypeRef, types: Types) -> set[str]:
    if not isinstance(view, Named):
        return set()
    return {path for paths in searchable_paths(types.definitions, view.name).values() for path in paths}


def wider(
    given: TypeRef, taken: TypeRef, givens: Types, takens: Types, *, written: bool = False
) -> list[tuple[str, str]]:
    """Where values of `given` may be none of `taken`: paths, and what is wrong there. Nothing if each is one.

    `written` values come from the engine, which leaves no field of a record out, and hides what is masked.
    """
    return list(islice(_Comparison(givens, takens, written=written).of(given, taken, ""), REASONS_TOLD + 1))


Wrong = Iterator[tuple[str, str]]


class _Comparison:
    """Compares each pair of types once: records that share their parts have more paths than anybody can walk."""

    def __init__(self, givens: Types, takens: Types, *, written: bool) -> None:
        self._givens = givens
        self._takens = takens
        self._written = written
        self._known: dict[tuple[TypeRef, TypeRef], bool] = {}

    def of(self, given: TypeRef, taken: TypeRef, path: str) -> Wrong:
        if not self._fits(given, taken):
            yield from self._compare(given, taken, path)

    def _fits(self, given: TypeRef, taken: TypeRef) -> bool:
        known = self._known.get((given, taken))
        if known is None:
            known = next(self._compare(given, taken, ""), None) is None
            self._known[given, taken] = known
        return known

    def _compare(self, given: TypeRef, taken: TypeRef, path: str) -> Wrong:
        match given, taken:
            case UnionOf(options), _:
                if not all(self._fits(option, taken) for option in options):
                    yield self._other(given, taken, path)
            case LiteralOf(values), UnionOf() if len(values) > 1:
                if not all(self._fits(LiteralOf((value,)), taken) for value in values):
                    yield self._other(given, taken, path)
            case _, UnionOf(options):
                if not any(self._fits(given, option) for option in options):
                    yield self._other(given, taken, path)
            case MaskedOf(item), MaskedOf(whole):
                yield from self.of(item, whole, path)
            case MaskedOf(), _ if self._written:
                yield path, "it is masked now"
            case MaskedOf(item), _:
                yield from self.of(item, taken, path)
            case _, MaskedOf(whole):
                yield from self.of(given, whole, path)
            case LargeOf(item), LargeOf(whole):
                yield from self.of(item, whole, path)
            case LargeOf(), _:
                yield path, "it is large now" if self._written else "it is not large any more"
            case _, LargeOf(whole):
                yield from self.of(given, whole, path)
            case _ if taken == ANY:
                return
            case (ListOf(item), ListOf(whole)) | (SetOf(item), SetOf(whole)):
                yield from self.of(item, whole, f"{path}[]")
            case TupleOf(items), TupleOf(wholes) if len(items) == len(wholes):
                for place, (item, whole) in enumerate(zip(items, wholes, strict=True)):
                    yield from self.of(item, whole, f"{path}[{place}]")
            case DictOf(key, value), DictOf(whole_key, whole):
                yield from self.of(key, whole_key, f"{path} (keys)")
                yield from self.of(value, whole, f"{path}[]")
            case _:
                record, whole_record = self._givens.record(given), self._takens.record(taken)
                if record is not None and whole_record is not None and _alike(record, whole_record):
                    yield from self._members(record, whole_record, path)
                elif not self._narrow(given, taken):
                    yield self._other(given, taken, path)

    def _other(self, given: TypeRef, taken: TypeRef, path: str) -> tuple[str, str]:
        values, wholes = self._givens.values(given), self._takens.values(taken)
        if values is not None and wholes is not None and values & wholes:
            other = ", ".join(sorted(repr(value) for _, value in values - wholes))
            return path, f"it may be {other} now" if self._written else f"it is never {other} now"
        now, then = (given, taken) if self._written else (taken, given)
        if shown(now) == shown(then):
            return path, "it has another shape now"
        return path, f"it is {shown(now)} now, and was {shown(then)}"

    def _members(self, given: RecordType, taken: RecordType, path: str) -> Wrong:
        """Those that are too many are read over. One that is gone breaks all the same: should it come again, it could
        be another one, and that would be compared with a version that does not have it."""
        fields = {field.name: field for field in given.fields}
        wholes = {field.name: field for field in taken.fields}
        for name in dict.fromkeys([*wholes, *fields]):
            field, whole, where = fields.get(name), wholes.get(name), f"{path}.{name}"
            if field is None and whole is not None and (self._written or whole.required):
                yield where, "it is gone" if self._written else "it is required now"
            elif whole is None and not self._written:
                yield where, "it is gone"
            elif field is not None and whole is not None:
                yield from self.of(field.type, whole.type, where)
                if self._is_there(taken, whole) and not self._is_there(given, field):
                    yield where, "it may be missing now" if self._written else "it is required now"

    def _is_there(self, record: RecordType, field: Field) -> bool:
        return field.required or (self._written and record.form != "dict")

    def _narrow(self, given: TypeRef, taken: TypeRef) -> bool:
        if isinstance(given, Scalar) and isinstance(taken, Scalar):
            return given == taken or (given.name, taken.name) == ("int", "float")
        values, wholes = self._givens.values(given), self._takens.values(taken)
        if values is None:
            return False
        if wholes is not None:
            return values <= wholes
        kinds = {kind for kind, _ in values}
        return (taken == Scalar("str") and kinds <= {str}) or (
            taken in (Scalar("int"), Scalar("float")) and kinds <= {int}
        )


def _alike(given: RecordType, taken: RecordType) -> bool:
    """Whether JSON has both as objects, or as arrays with the same places."""
    if "tuple" not in (given.form, taken.form):
        return True
    return given.form == taken.form and [each.name for each in given.fields] == [
        each.name for each in taken.fields
    ]
