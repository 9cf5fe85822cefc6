"""What breaks between two versions of a workflow: the rules one by one, and that none says less than it should."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dressage.expressions import TypeTable
from dressage.expressions.compatibility import REASONS_TOLD, Types, breaks, wider
from dressage.protocol.errors import BadSpec, BadValue
from dressage.protocol.expressions import Const
from dressage.protocol.spec import EventDef, ReturnNode, Variable, WorkflowSpec
from dressage.protocol.types import (
    ANY,
    NONE,
    DictOf,
    EnumMember,
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

INT, STR, FLOAT, BOOL = Scalar("int"), Scalar("str"), Scalar("float"), Scalar("bool")


def raw(value: str) -> msgspec.Raw:
    return msgspec.Raw(value.encode())


def optional(name: str, ref: TypeRef, default: str = "0") -> Field:
    return Field(name, ref, required=False, default=raw(default))


def spec(
    *params: Field, output: TypeRef = NONE, types: tuple[TypeDef, ...] = (), view: str = ""
) -> WorkflowSpec:
    variables = (Variable("view", Named(view), view=True),) if view else ()
    end = ReturnNode(Const(raw("null")))
    return WorkflowSpec(1, "shop", params, output, (end,), types=types, variables=variables)


def waits(event: EventDef) -> WorkflowSpec:
    return msgspec.structs.replace(spec(), events=(event,))


def enum(*names: str) -> EnumType:
    return EnumType("Status", tuple(EnumMember(name.upper(), name) for name in names))


def record(*fields: Field, form: Any = "object") -> RecordType:
    return RecordType("Order", fields, form)


def replace(field: Field, **changes: Any) -> Field:
    return msgspec.structs.replace(field, **changes)


@dataclass(frozen=True)
class Case:
    before: WorkflowSpec
    after: WorkflowSpec
    said: str = ""


ORDER, STATUS = Named("Order"), Named("Status")
CASES = {
    "the same": Case(spec(Field("a", INT)), spec(Field("a", INT))),
    "another order of parameters": Case(
        spec(Field("a", INT), Field("b", STR)), spec(Field("b", STR), Field("a", INT))
    ),
    "a new optional parameter": Case(spec(), spec(optional("a", INT))),
    "a new required parameter": Case(
        spec(), spec(Field("a", INT)), "parameter 'a' is new and required: give it"
    ),
    "one that is required now": Case(
        spec(optional("a", INT)), spec(Field("a", INT)), "parameter 'a' is required now: give it the default"
    ),
    "one that is optional now": Case(spec(Field("a", INT)), spec(optional("a", INT))),
    "one that is gone": Case(
        spec(Field("a", INT)), spec(), "parameter 'a' is gone, and a start with it is refused"
    ),
    "another default": Case(spec(optional("a", INT)), spec(optional("a", INT, "7"))),
    "a wider parameter": Case(spec(Field("a", INT)), spec(Field("a", UnionOf((INT, NONE))))),
    "a narrower parameter": Case(
        spec(Field("a", UnionOf((INT, NONE)))),
        spec(Field("a", INT)),
        "parameter 'a': it is int now, and was int | None, with which runs are started",
    ),
    "ints for floats": Case(spec(Field("a", INT)), spec(Field("a", FLOAT))),
    "floats for ints": Case(
        spec(Field("a", FLOAT)), spec(Field("a", INT)), "parameter 'a': it is int now, and was"
    ),
    "anything for something": Case(spec(Field("a", ListOf(INT))), spec(Field("a", ANY))),
    "something for anything": Case(
        spec(Field("a", ANY)), spec(Field("a", ListOf(INT))), "parameter 'a': it is list"
    ),
    "a masked parameter": Case(spec(Field("a", STR)), spec(Field("a", MaskedOf(STR)))),
    "one that is not masked any more": Case(spec(Field("a", MaskedOf(STR))), spec(Field("a", STR))),
    "a large parameter": Case(spec(Field("a", STR)), spec(Field("a", LargeOf(STR)))),
    "one that is not large any more": Case(
        spec(Field("a", LargeOf(STR))),
        spec(Field("a", STR)),
        "parameter 'a': it is not large any more, with which",
    ),
    "anything instead of what is large": Case(
        spec(Field("a", LargeOf(STR))), spec(Field("a", ANY)), "parameter 'a': it is not large any more"
    ),
    "another type of what is large": Case(
        spec(Field("a", LargeOf(STR))), spec(Field("a", LargeOf(INT))), "parameter 'a': it is int now"
    ),
    "a result that is large now": Case(
        spec(output=STR), spec(output=LargeOf(STR)), "the result: it is large now"
    ),
    "a result that is not large any more": Case(spec(output=LargeOf(STR)), spec(output=STR)),
    "a literal more": Case(spec(Field("a", LiteralOf(("x",)))), spec(Field("a", LiteralOf(("x", "y"))))),
    "a literal less": Case(
        spec(Field("a", LiteralOf(("x", "y")))),
        spec(Field("a", LiteralOf(("x",)))),
        "parameter 'a': it is never 'y' now, with which",
    ),
    "a member more in an input": Case(
        spec(Field("a", STATUS), types=(enum("new"),)), spec(Field("a", STATUS), types=(enum("new", "old"),))
    ),
    "a member less in an input": Case(
        spec(Field("a", STATUS), types=(enum("new", "old"),)),
        spec(Field("a", STATUS), types=(enum("new"),)),
        "parameter 'a': it is never 'old' now",
    ),
    "a member more in the result": Case(
        spec(output=STATUS, types=(enum("new"),)),
        spec(output=STATUS, types=(enum("new", "old"),)),
        "the result: it may be 'old' now, which who awaits it does not expect",
    ),
    "a field more in the result": Case(
        spec(output=ORDER, types=(record(Field("id", STR)),)),
        spec(output=ORDER, types=(record(Field("id", STR), Field("n", INT)),)),
    ),
    "a field less in the result": Case(
        spec(output=ORDER, types=(record(Field("id", STR), Field("n", INT)),)),
        spec(output=ORDER, types=(record(Field("id", STR)),)),
        "the result, at n: it is gone",
    ),
    "an optional field for a required one in the result, which is always there": Case(
        spec(output=ORDER, types=(record(Field("n", INT)),)),
        spec(output=ORDER, types=(record(optional("n", INT)),)),
    ),
    "a key of a dict that may be missing from the result": Case(
        spec(output=ORDER, types=(record(Field("n", INT), form="dict"),)),
        spec(output=ORDER, types=(record(Field("n", INT, required=False), form="dict"),)),
        "the result, at n: it may be missing now",
    ),
    "a field more in an input": Case(
        spec(Field("o", ORDER), types=(record(Field("id", STR)),)),
        spec(Field("o", ORDER), types=(record(Field("id", STR), Field("n", INT)),)),
        "parameter 'o', at n: it is required now, with which runs are started",
    ),
    "an optional field more in an input": Case(
        spec(Field("o", ORDER), types=(record(Field("id", STR)),)),
        spec(Field("o", ORDER), types=(record(Field("id", STR), optional("n", INT)),)),
    ),
    "a field less in an input, which could come again as another one": Case(
        spec(Field("o", ORDER), types=(record(optional("n", INT)),)),
        spec(Field("o", ORDER), types=(record(),)),
        "parameter 'o', at n: it is gone, with which runs are started",
    ),
    "a key less in the result that was not always there": Case(
        spec(output=ORDER, types=(record(Field("n", INT, required=False), form="dict"),)),
        spec(output=ORDER, types=(record(form="dict"),)),
        "the result, at n: it is gone",
    ),
    "null for a default": Case(
        spec(optional("a", UnionOf((STR, NONE)), "null")), spec(optional("a", STR, '""'))
    ),
    "literals of a union": Case(
        spec(Field("a", LiteralOf(("x", None)))), spec(Field("a", UnionOf((STR, NONE))))
    ),
    "an event of another type": Case(
        waits(EventDef("go", INT)),
        waits(EventDef("go", STR)),
        "external event 'go': it is str now, and was int",
    ),
    "an event of a wider type": Case(waits(EventDef("go", INT)), waits(EventDef("go", FLOAT))),
    "an event less": Case(
        waits(EventDef("go", INT)), spec(), "external event 'go' is not waited for any more"
    ),
    "an event more": Case(spec(), waits(EventDef("go", INT))),
    "a field deep inside": Case(
        spec(Field("o", ListOf(ORDER)), types=(record(Field("id", STR)),)),
        spec(Field("o", ListOf(ORDER)), types=(record(Field("id", INT)),)),
        "parameter 'o', at [].id: it is int now, and was str",
    ),
    "another name of a record": Case(
        spec(Field("o", ORDER), types=(record(Field("id", STR)),)),
        spec(Field("o", Named("Buy")), types=(RecordType("Buy", (Field("id", STR),)),)),
    ),
    "a tuple for an object": Case(
        spec(output=ORDER, types=(record(Field("id", STR)),)),
        spec(output=ORDER, types=(record(Field("id", STR), form="tuple"),)),
        "the result: it has another shape now",
    ),
    "a wider result": Case(
        spec(output=INT), spec(output=UnionOf((INT, NONE))), "the result: it is int | None now"
    ),
    "a narrower result": Case(spec(output=UnionOf((INT, NONE))), spec(output=INT)),
    "a result that is masked now": Case(
        spec(output=STR), spec(output=MaskedOf(STR)), "the result: it is masked now"
    ),
    "no view any more": Case(
        spec(types=(record(Field("a", INT)),), view="Order"), spec(), "there is no view any more"
    ),
    "a view now": Case(spec(), spec(types=(record(Field("a", INT)),), view="Order")),
    "a field less in the view": Case(
        spec(types=(record(Field("a", INT), Field("b", INT)),), view="Order"),
        spec(types=(record(Field("a", INT)),), view="Order"),
        "the view, at b: it is gone, which readers do not expect",
    ),
    "a field that cannot be searched any more": Case(
        spec(types=(record(replace(Field("a", INT), searchable=True)),), view="Order"),
        spec(types=(record(Field("a", INT)),), view="Order"),
        "a of the view is no longer searchable",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_change_breaks_or_does_not(name: str) -> None:
    case = CASES[name]
    found = breaks(case.before, case.after)
    if case.said:
        assert len(found) == 1
        assert case.said in found[0]
    else:
        assert found == ()


def test_all_that_breaks_is_told_up_to_a_limit() -> None:
    assert len(breaks(spec(Field("a", INT)), spec(Field("b", INT), output=STR))) == 3
    many = breaks(spec(), spec(*(Field(f"p{number}", INT) for number in range(REASONS_TOLD + 9))))
    assert len(many) == REASONS_TOLD + 1
    assert many[-1] == "and more"


def test_records_that_share_their_parts_are_compared_in_no_time() -> None:
    """Each has the one below it twice, so there are more paths than could be walked."""

    def tower(leaf: TypeRef) -> tuple[TypeDef, ...]:
        made = [RecordType("R0", (Field("x", leaf),))]
        for number in range(1, 30):
            below = Named(f"R{number - 1}")
            made.append(RecordType(f"R{number}", (Field("x", below), Field("y", below))))
        return tuple(made)

    top = Named("R29")
    assert breaks(spec(output=top, types=tower(INT)), spec(output=top, types=tower(INT))) == ()
    assert (
        len(breaks(spec(output=top, types=tower(INT)), spec(output=top, types=tower(STR))))
        == REASONS_TOLD + 1
    )


# -- no rule lets through what the other version refuses -------------------------------------------------
SAMPLES: dict[str, tuple[str, ...]] = {
    "any": ("null", "[1]", '{"a": "x"}', "2.5"),
    "none": ("null",),
    "bool": ("true", "false"),
    "int": ("0", "-7", "12345678901234567890"),
    "float": ("0.5", "3", "-1e10"),
    "str": ('""', '"x"', '"red"'),
    "bytes": ('"YWI="',),
    "decimal": ('"1.50"',),
    "datetime": ('"2026-01-01T00:00:00Z"',),
    "date": ('"2026-01-01"',),
    "timedelta": ('"PT5S"',),
    "uuid": ('"12345678-1234-5678-1234-567812345678"',),
}
WORDS = ("red", "blue", "", "x")
LITERALS: list[str | int | None] = [*WORDS, 0, 1, 7]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[TypeDef, ...]:
    """An enum and two records, the second of which may hold the first."""
    members = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3, unique=True))
    made: list[TypeDef] = [EnumType("E", tuple(EnumMember(f"M{word}", word) for word in members))]
    for name, inner in (("R", ("E",)), ("S", ("E", "R"))):
        form: Any = draw(st.sampled_from(["object", "object", "tuple", "dict"]))
        fields: list[Field] = []
        for field in draw(st.lists(st.sampled_from("abc"), max_size=3, unique=True)):
            ref = draw(refs(inner))
            if form == "dict":
                fields.append(Field(field, ref, required=draw(st.booleans())))
            elif (draw(st.booleans()) and not any(not each.required for each in fields)) or form == "tuple":
                fields.append(Field(field, ref))
            else:
                fields.append(Field(field, UnionOf((ref, NONE)) if ref != NONE else ref, False, raw("null")))
        made.append(RecordType(name, tuple(fields), form))
    return tuple(made)


def refs(names: tuple[str, ...]) -> st.SearchStrategy[TypeRef]:
    """Types that can be declared, nearly all of them: JSON cannot tell every union apart."""
    plain: st.SearchStrategy[TypeRef] = st.sampled_from([Scalar(name) for name in SAMPLES])  # type: ignore[arg-type]
    literals: st.SearchStrategy[TypeRef] = st.lists(
        st.sampled_from(LITERALS), min_size=1, max_size=3, unique=True
    ).map(lambda values: LiteralOf(tuple(values)))
    leaf: st.SearchStrategy[TypeRef] = st.one_of(
        st.sampled_from([Named(name) for name in names]), plain, literals
    )
    words: st.SearchStrategy[TypeRef] = st.sampled_from([STR, INT, Scalar("date"), Named("E")])

    def around(inner: st.SearchStrategy[TypeRef]) -> st.SearchStrategy[TypeRef]:
        return st.one_of(
            inner.map(ListOf),
            words.map(SetOf),
            inner.map(MaskedOf),
            inner.map(LargeOf),
            st.lists(inner, max_size=2).map(lambda items: TupleOf(tuple(items))),
            st.tuples(inner, st.sampled_from([INT, NONE, FLOAT])).map(UnionOf),
            st.tuples(words, inner).map(lambda pair: DictOf(*pair)),
        )

    return st.one_of(leaf, st.recursive(leaf, around, max_leaves=3))


@st.composite
def changed(draw: st.DrawFn, ref: TypeRef) -> TypeRef:
    """The type with a small change somewhere, or none."""

    def one(items: tuple[TypeRef, ...]) -> tuple[TypeRef, ...]:
        place = draw(st.integers(0, len(items) - 1))
        return (*items[:place], draw(changed(items[place])), *items[place + 1 :])

    match ref:
        case ListOf(item):
            return ListOf(draw(changed(item)))
        case SetOf(item):
            return SetOf(draw(changed(item)))
        case MaskedOf(item):
            return MaskedOf(draw(changed(item)))
        case LargeOf(item):
            return LargeOf(draw(changed(item)))
        case DictOf(key, value):
            return DictOf(key, draw(changed(value)))
        case TupleOf(items) if items:
            return TupleOf(one(items) if draw(st.booleans()) else items[:-1])
        case UnionOf(options) if len(options) > 1:
            dropped = draw(st.integers(0, len(options) - 1))
            left = tuple(option for place, option in enumerate(options) if place != dropped)
            return UnionOf(one(options) if draw(st.booleans()) else left)
        case LiteralOf(literals):
            fewer = LiteralOf(literals[:-1] or literals)
            others: list[TypeRef] = [LiteralOf((*literals, "new")), fewer, STR, INT, Named("E")]
            return draw(st.sampled_from(others))
        case Scalar("int" | "float"):
            others = [INT, FLOAT, BOOL, UnionOf((ref, NONE)), LiteralOf((0, 1))]
            return draw(st.sampled_from(others))
        case _:
            others = [ref, STR, UnionOf((ref, NONE)), MaskedOf(ref), LargeOf(ref), Named("E"), ListOf(ref)]
            return draw(st.sampled_from(others))


@st.composite
def changed_world(draw: st.DrawFn, world: tuple[TypeDef, ...]) -> tuple[TypeDef, ...]:
    """The types, each with a small change or none."""
    made: list[TypeDef] = []
    for each in world:
        if isinstance(each, EnumType):
            members = {
                member.name: member
                for member in [*each.members, EnumMember("Mred", "red"), EnumMember("Mblue", "blue")]
            }
            made.append(EnumType("E", tuple(list(members.values())[: draw(st.integers(1, len(members)))])))
            continue
        fields = [draw(changed_field(field, each.form)) for field in each.fields]
        dropped = draw(st.integers(0, 3 * len(fields)))
        made.append(RecordType(each.name, tuple(fields[:dropped] + fields[dropped + 1 :]), each.form))
    return tuple(made)


@st.composite
def changed_field(draw: st.DrawFn, field: Field, form: Any) -> Field:
    what = draw(st.sampled_from(["nothing", "type", "required"]))
    if what == "required" and form == "dict":
        return replace(field, required=not field.required)
    if what == "required":
        return replace(field, required=True, default=msgspec.UNSET)
    if what == "type" and field.required:
        return replace(field, type=draw(changed(field.type)))
    return field


def values(ref: TypeRef, types: dict[str, TypeDef]) -> st.SearchStrategy[str]:
    """Texts in JSON that a type may have; not each is one, as hashes and keys have rules of their own."""
    match ref:
        case Scalar(name):
            return st.sampled_from(SAMPLES[name])
        case LiteralOf(literals):
            return st.sampled_from([msgspec.json.encode(each).decode() for each in literals])
        case MaskedOf(item) | LargeOf(item):
            return values(item, types)
        case ListOf(item) | SetOf(item):
            return st.lists(values(item, types), max_size=2).map(lambda items: f"[{', '.join(items)}]")
        case TupleOf(items):
            return st.tuples(*(values(item, types) for item in items)).map(
                lambda made: f"[{', '.join(made)}]"
            )
        case UnionOf(options):
            return st.one_of(*(values(option, types) for option in options))
        case DictOf(key, value):
            text = values(key, types).map(lambda each: each if each.startswith('"') else f'"{each}"')
            pairs = st.dictionaries(text, values(value, types), max_size=2)
            return pairs.map(
                lambda made: "{" + ", ".join(f"{key}: {each}" for key, each in made.items()) + "}"
            )
        case Named(name):
            definition = types[name]
            if isinstance(definition, EnumType):
                return st.sampled_from(
                    [msgspec.json.encode(each.value).decode() for each in definition.members]
                )
            return _fields(definition, types)


def _fields(definition: RecordType, types: dict[str, TypeDef]) -> st.SearchStrategy[str]:
    parts = [values(field.type, types) for field in definition.fields]
    if definition.form == "tuple":
        return st.tuples(*parts).map(lambda made: f"[{', '.join(made)}]")
    there = [st.just(True) if field.required else st.booleans() for field in definition.fields]
    names = [field.name for field in definition.fields]
    return st.tuples(st.tuples(*parts), st.tuples(*there)).map(
        lambda made: (
            "{"
            + ", ".join(
                f'"{name}": {part}' for name, part, is_there in zip(names, *made, strict=True) if is_there
            )
            + "}"
        )
    )


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_what_may_stay_is_taken_by_both(data: st.DataObject) -> None:
    before = data.draw(worlds())
    worlds_ = before, data.draw(changed_world(before))
    given_ref = data.draw(refs(("E", "R", "S")))
    taken_ref = data.draw(changed(given_ref))
    givens, takens = ({each.name: each for each in world} for world in worlds_)
    try:
        codecs = [
            TypeTable(world).codec(ref) for world, ref in zip(worlds_, (given_ref, taken_ref), strict=True)
        ]
    except BadSpec:
        return  # Such types cannot be declared.
    text = data.draw(values(given_ref, givens)).encode()
    try:
        value = codecs[0].decode(text)
    except BadValue:
        return  # As two that are equal in a set.
    if not wider(given_ref, taken_ref, Types(givens), Types(takens)):
        codecs[1].decode(text)
    if codecs[0].mask is None and not wider(given_ref, taken_ref, Types(givens), Types(takens), written=True):
        codecs[1].decode(codecs[0].encode(value))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_type_may_stay_what_it_is(data: st.DataObject) -> None:
    types = Types({each.name: each for each in data.draw(worlds())})
    ref = data.draw(refs(("E", "R", "S")))
    assert wider(ref, ref, types, types) == []
    assert wider(ref, ref, types, types, written=True) == []
