"""The types of expressions and variables, as far as they can be derived; None where they cannot.

Nothing is rejected for being unknown: mypy checks types. What is derived here decides the few questions whose
wrong answer would make a program mean something else than in Python, and gives readers the types of variables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from dressage.flow.compiler.walk import variables_in
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    Call,
    Compare,
    Conditional,
    Const,
    DictOfExpr,
    Expr,
    Format,
    Index,
    ListOfExpr,
    Logical,
    Make,
    Name,
    TupleOfExpr,
    Unary,
)
from dressage.protocol.spec import AssignNode, Node, TaskDef, TaskNode
from dressage.protocol.types import (
    ANY,
    NONE,
    DictOf,
    EnumType,
    ListOf,
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

BOOL: Final = Scalar("bool")
INT: Final = Scalar("int")
FLOAT: Final = Scalar("float")
STR: Final = Scalar("str")
DECIMAL: Final = Scalar("decimal")
TIMEDELTA: Final = Scalar("timedelta")
_DATES = (Scalar("datetime"), Scalar("date"))
_PASSES_MAX = 8

_RESULTS: dict[str, TypeRef] = {
    "len": INT,
    "bool": BOOL,
    "str": STR,
    "int": INT,
    "float": FLOAT,
    "Decimal": DECIMAL,
    "timedelta": TIMEDELTA,
    ".lower": STR,
    ".upper": STR,
    ".strip": STR,
    ".startswith": BOOL,
    ".endswith": BOOL,
}
_STORED: dict[str, TypeRef] = {
    "$decimal": DECIMAL,
    "$datetime": Scalar("datetime"),
    "$date": Scalar("date"),
    "$timedelta": TIMEDELTA,
    "$uuid": Scalar("uuid"),
    "$bytes": Scalar("bytes"),
    "$float": FLOAT,
    "$set": SetOf(ANY),
    "$dict": DictOf(ANY, ANY),
}


class Types:
    """Types of the variables of one function, and of expressions over them."""

    def __init__(
        self, definitions: Mapping[str, TypeDef], variables: Mapping[str, TypeRef], failures: frozenset[str]
    ) -> None:
        self.definitions = definitions
        self.variables: dict[str, TypeRef | None] = dict(variables)
        self.failures = failures
        self._initial: dict[str, TypeRef] = {}

    def start(self, name: str, kind: TypeRef) -> None:
        """Says what a variable is before any assignment: a parameter that the function assigns again."""
        self._initial[name] = kind
        self.variables[name] = kind

    def derive(self, nodes: Sequence[Node], tasks: Mapping[str, TaskDef], fixed: frozenset[str]) -> None:
        """Finds the types of all variables but the `fixed` ones from what is assigned to them, loops included."""
        assigned = sorted({name for node in nodes if (name := _target(node))} - fixed)
        for _ in range(_PASSES_MAX):
            before = dict(self.variables)
            found: dict[str, list[TypeRef | None]] = {
                name: [self._initial[name]] if name in self._initial else [] for name in assigned
            }
            for node in nodes:
                name = _target(node)
                if name in found:
                    self._note(found[name], node, tasks)
            self.variables.update({name: join(kinds) for name, kinds in found.items() if kinds})
            if self.variables == before:
                return
        # A type that still grows, as in `x = [x]`, has no finite description.
        for name in assigned:
            self.variables[name] = None

    def _note(self, kinds: list[TypeRef | None], node: Node, tasks: Mapping[str, TaskDef]) -> None:
        if isinstance(node, TaskNode):
            kinds.append(tasks[node.task].output)
        elif isinstance(node, AssignNode) and node.attribute is None:
            # A variable that no pass has seen yet says nothing: the next pass knows it.
            if not any(name not in self.variables for name in variables_in(node.value)):
                kinds.append(self.of(node.value))

    def of(self, expr: Expr) -> TypeRef | None:
        """The type of an expression; None if it is not known."""
        match expr:
            case Const():
                return _of_stored(msgspec.json.decode(expr.value))
            case Name(name):
                return self.variables.get(name)
            case Attribute():
                return self._attribute(expr)
            case Index():
                return self._index(expr)
            case Binary(operator, left, right):
                return _binary(operator, self.of(left), self.of(right))
            case Unary(operator, value):
                return BOOL if operator == "not" else _signed(self.of(value))
            case Compare():
                return BOOL
            case Logical(_, values):
                return join([self.of(value) for value in values])
            case Conditional(_, then, otherwise):
                return join([self.of(then), self.of(otherwise)])
            case Format():
                return STR
            case ListOfExpr(items):
                return ListOf(self._joined(items))
            case TupleOfExpr(items):
                return TupleOf(tuple(self.of(item) or ANY for item in items))
            case DictOfExpr(keys, values):
                return DictOf(self._joined(keys), self._joined(values))
            case Make(name):
                return Named(name)
            case Call():
                return self._call(expr)

    def _joined(self, exprs: Sequence[Expr]) -> TypeRef:
        return join([self.of(each) for each in exprs]) or ANY

    def _attribute(self, expr: Attribute) -> TypeRef | None:
        if isinstance(expr.value, Name) and expr.value.name in self.failures:
            return DictOf(STR, ANY) if expr.name == "details" else STR
        owner = self.of(expr.value)
        definition = self.definitions.get(owner.name) if isinstance(owner, Named) else None
        if isinstance(definition, RecordType) and definition.form != "dict":
            return next((field.type for field in definition.fields if field.name == expr.name), None)
        if isinstance(definition, EnumType):
            return STR if expr.name == "name" or isinstance(definition.members[0].value, str) else INT
        return None

    def _index(self, expr: Index) -> TypeRef | None:
        owner = self.of(expr.value)
        if isinstance(owner, ListOf):
            return owner.item
        if isinstance(owner, DictOf):
            return owner.value
        if isinstance(owner, TupleOf):
            return _item_of(owner, expr.index)
        definition = self.definitions.get(owner.name) if isinstance(owner, Named) else None
        if isinstance(definition, RecordType) and definition.form == "tuple":
            return _item_of(TupleOf(tuple(field.type for field in definition.fields)), expr.index)
        if isinstance(definition, RecordType) and isinstance(expr.index, Const):
            key = msgspec.json.decode(expr.index.value)
            return next((field.type for field in definition.fields if field.name == key), None)
        return STR if owner == STR else None

    def _call(self, expr: Call) -> TypeRef | None:
        if expr.function in _RESULTS:
            return _RESULTS[expr.function]
        kinds = [self.of(arg) for arg in expr.args]
        if expr.function == "round":
            return (
                INT
                if len(kinds) == 1 and not expr.keywords and kinds[0] in (INT, FLOAT, DECIMAL)
                else kinds[0]
            )
        if expr.function == "abs":
            return _signed(kinds[0])
        if expr.function in ("min", "max"):
            if len(kinds) > 1:
                return join(kinds)
            return kinds[0].item if isinstance(kinds[0], ListOf) and not expr.keywords else None
        if expr.function == ".get" and isinstance(kinds[0], DictOf):
            return join([kinds[0].value, kinds[2] if len(kinds) > 2 else NONE])
        return None

    def definition(self, expr: Expr) -> TypeDef | None:
        """The record or enum that an expression is of, if it is known to be one."""
        kind = self.of(expr)
        return self.definitions.get(kind.name) if isinstance(kind, Named) else None


def _item_of(owner: TupleOf, index: Expr) -> TypeRef | None:
    """The type at a place that is written there, and any of them at one that the run finds out, if it gets so far."""
    place = msgspec.json.decode(index.value) if isinstance(index, Const) else None
    if isinstance(place, int) and -len(owner.items) <= place < len(owner.items):
        return owner.items[place]
    return join(owner.items) if owner.items else None


def join(kinds: Sequence[TypeRef | None]) -> TypeRef | None:
    """The type that admits all of these; None if one is unknown, or there is none."""
    options: list[TypeRef] = []
    for kind in kinds:
        if kind is None or kind == ANY:
            return kind
        for option in kind.options if isinstance(kind, UnionOf) else (kind,):
            if option not in options:
                options.append(option)
    if not options or len(options) > 8:
        return None
    return options[0] if len(options) == 1 else UnionOf(tuple(options))


def is_masked(kind: TypeRef | None) -> bool:
    """Whether a value of this type may be masked, so that no expression can look at it."""
    return isinstance(kind, MaskedOf) or (isinstance(kind, UnionOf) and any(map(is_masked, kind.options)))


def is_immutable(kind: TypeRef | None, definitions: Mapping[str, TypeDef]) -> bool:
    """Whether Python has no way to change a value of this type in place. Unknown types may have one."""
    if isinstance(kind, UnionOf):
        return all(is_immutable(option, definitions) for option in kind.options)
    if isinstance(kind, Named):
        definition = definitions.get(kind.name)
        return not (isinstance(definition, RecordType) and definition.form == "dict")
    return kind is not None and kind != ANY and not isinstance(kind, ListOf | DictOf | SetOf)


def _target(node: Node) -> str:
    if isinstance(node, TaskNode):
        return node.target or ""
    return node.target if isinstance(node, AssignNode) else ""


def _of_stored(stored: Any) -> TypeRef | None:
    if stored is None:
        return NONE
    if isinstance(stored, bool):
        return BOOL
    if isinstance(stored, int | float | str):
        return Scalar(type(stored).__name__)  # type: ignore[arg-type]
    if isinstance(stored, list):
        return ListOf(join([_of_stored(item) for item in stored]) or ANY)
    tag, content = cast("tuple[str, Any]", next(iter(stored.items()), ("", None)))
    if tag in ("$enum", "$record"):
        return Named(content[0])
    if tag == "$tuple":
        return TupleOf(tuple(_of_stored(item) or ANY for item in content))
    return (
        _STORED.get(tag)
        if tag.startswith("$")
        else DictOf(STR, join(list(map(_of_stored, stored.values()))) or ANY)
    )


def _signed(kind: TypeRef | None) -> TypeRef | None:
    return INT if kind == BOOL else kind if kind in (INT, FLOAT, DECIMAL, TIMEDELTA) else None


def _binary(operator: str, left: TypeRef | None, right: TypeRef | None) -> TypeRef | None:
    """The type of `left operator right` for the pairs that occur; None for all others."""
    left, right = (INT if kind == BOOL else kind for kind in (left, right))
    if left is None or right is None:
        return None
    pair: set[Scalar] = {left, right} if isinstance(left, Scalar) and isinstance(right, Scalar) else set()
    if pair and pair <= {INT, FLOAT}:
        return _numbers(operator, pair)
    if pair and pair <= {INT, DECIMAL}:
        return DECIMAL
    if operator == "*":
        return _product(left, right)
    if operator in ("+", "-"):
        return _sum(operator, left, right)
    if operator == "/" and left == TIMEDELTA:
        return FLOAT if right == TIMEDELTA else TIMEDELTA
    return left if operator == "|" and left == right else None


def _numbers(operator: str, pair: set[Scalar]) -> TypeRef | None:
    if operator == "**":
        return FLOAT if FLOAT in pair else None
    return INT if pair == {INT} and operator != "/" else FLOAT


def _product(left: TypeRef, right: TypeRef) -> TypeRef | None:
    for one, other in ((left, right), (right, left)):
        if one == INT and (other == STR or isinstance(other, ListOf)):
            return other
        if one in (INT, FLOAT) and other == TIMEDELTA:
            return TIMEDELTA
    return None


def _sum(operator: str, left: TypeRef, right: TypeRef) -> TypeRef | None:
    if TIMEDELTA in (left, right):
        dates = [kind for kind in (left, right) if kind in _DATES]
        return dates[0] if dates else TIMEDELTA if left == right else None
    if operator == "-":
        return TIMEDELTA if left == right and left in _DATES else None
    if left == right == STR:
        return STR
    if isinstance(left, ListOf) and isinstance(right, ListOf):
        return left if left == right else ListOf(join([left.item, right.item]) or ANY)
    if isinstance(left, TupleOf) and isinstance(right, TupleOf):
        return TupleOf((*left.items, *right.items))
    return None
