"""The types of expressions and variables, as far as they can be derived; None where they cannot.

Nothing is rejected for being unknown: mypy checks types. What is derived here decides the few questions whose
wrong answer would make a program mean something else than in Python, and gives readers the types of variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from typing import Any, Final, Literal, cast

import msgspec

from dressage.expressions.parse import constant
from dressage.expressions.time_methods import FIELDS
from dressage.flow.compiler.walk import bindings_in, targets_of
from dressage.protocol.expressions import (
    Attribute,
    Binary,
    Bind,
    Call,
    Compare,
    Comprehension,
    Conditional,
    Const,
    DictOfExpr,
    Expr,
    Format,
    Index,
    Lambda,
    ListOfExpr,
    Logical,
    Make,
    Name,
    SetOfExpr,
    Slice,
    Spread,
    Target,
    TupleOfExpr,
    Unary,
    locals_of,
    parts_of,
    variables_in,
)
from dressage.protocol.spec import AssignNode, ChildNode, EventNode, GatherNode, Node, TaskNode, UserTaskNode
from dressage.protocol.types import (
    ANY,
    NONE,
    DictOf,
    EnumType,
    LargeOf,
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
BYTES: Final = Scalar("bytes")
DATETIME: Final = Scalar("datetime")
DATE: Final = Scalar("date")
UUID: Final = Scalar("uuid")
_DATES = (DATETIME, DATE)
_PASSES_MAX = 8

_RESULTS: dict[str, TypeRef] = {
    "len": INT,
    "bool": BOOL,
    "str": STR,
    "int": INT,
    "float": FLOAT,
    "Decimal": DECIMAL,
    "timedelta": TIMEDELTA,
    **dict.fromkeys(("repr", "chr"), STR),
    **dict.fromkeys(("any", "all"), BOOL),
    "ord": INT,
    "datetime": DATETIME,
    "datetime.fromisoformat": DATETIME,
    "date": DATE,
    "date.fromisoformat": DATE,
    "UUID": UUID,
    **{
        f".{name}": kind
        for kind, names in (
            (
                BOOL,
                "startswith endswith isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric "
                "isspace istitle isupper issubset issuperset isdisjoint is_finite is_infinite is_nan is_signed "
                "is_zero",
            ),
            (
                STR,
                "lower upper title capitalize swapcase casefold strip lstrip rstrip removeprefix removesuffix "
                "ljust rjust center zfill expandtabs join decode hex isoformat",
            ),
            (INT, "find rfind index rindex count weekday isoweekday toordinal"),
            (FLOAT, "timestamp total_seconds"),
            (DECIMAL, "copy_abs copy_negate normalize quantize to_integral_value"),
        )
        for name in names.split()
    },
    **dict.fromkeys((".split", ".rsplit", ".splitlines"), ListOf(STR)),
    **dict.fromkeys((".partition", ".rpartition"), TupleOf((STR, STR, STR))),
    ".encode": BYTES,
    ".date": DATE,
    ".astimezone": DATETIME,
}
_LAZY: Final = frozenset({"range", "enumerate", "zip", "reversed", ".keys", ".values", ".items"})
_SAME: Final = frozenset(
    {".copy", ".replace", ".union", ".intersection", ".difference", ".symmetric_difference"}
)
"""The methods that give what they are called on; what others bring into a set is of the same type, or mypy objects."""

_OF_ITEMS: Final[dict[str, Callable[[TypeRef], TypeRef | None]]] = {
    "list": ListOf,
    "sorted": ListOf,
    "set": SetOf,
}
_INT_FIELDS: Final = frozenset[str]().union(*FIELDS.values()) - {"hex"}
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
        self,
        definitions: Mapping[str, TypeDef],
        variables: Mapping[str, TypeRef],
        failures: Mapping[str, Sequence[str]],
    ) -> None:
        self.definitions = definitions
        self.variables: dict[str, TypeRef | None] = dict(variables)
        self.failures = failures
        """The records of the failures that a variable may hold, by the name of the variable."""

        self._initial: dict[str, TypeRef] = {}

    def start(self, name: str, kind: TypeRef) -> None:
        """Says what a variable is before any assignment: a parameter that the function assigns again."""
        self._initial[name] = kind
        self.variables[name] = kind

    def derive(
        self,
        nodes: Sequence[Node],
        output_of: Callable[[Node], TypeRef | None],
        results: Mapping[str, tuple[str, ...]],
        fixed: frozenset[str],
    ) -> None:
        """Finds the types of all variables but the `fixed` ones from what is assigned to them, loops included.

        `output_of` is the type of what a node waits for.
        `results` are the variables that hold what branches come to, by the variable that takes them all.
        """
        assigned = sorted({name for node in nodes for name in targets_of(node)} - fixed)
        sources = [
            (name, value, set[str]() if isinstance(value, TypeRef) else variables_in(value))
            for node in nodes
            for name, value in _given(node, output_of, results)
            if name not in fixed
        ]
        left = set(assigned)
        while growing := self._growing(left, sources):
            # A type that still grows, as in `x = [x]`, has no finite description.
            self.variables.update(dict.fromkeys(growing))
            left -= growing

    def _growing(self, left: set[str], sources: Sequence[tuple[str, Expr | TypeRef, set[str]]]) -> set[str]:
        """Derives the types of the variables that are `left`, and gives those that come to no end."""
        changed: set[str] = set()
        for _ in range(_PASSES_MAX):
            found: dict[str, list[TypeRef | None]] = {
                name: [self._initial[name]] if name in self._initial else [] for name in left
            }
            for name, value, read in sources:
                # A variable that no pass has seen yet says nothing: the next pass knows it.
                if name in left and self.variables.keys() >= read:
                    found[name].append(value if isinstance(value, TypeRef) else self.of(value))
            joined = {name: join(kinds) for name, kinds in found.items() if kinds}
            unseen = joined.keys() - self.variables.keys()
            changed = {name for name, kind in joined.items() if self.variables.get(name) != kind} | unseen
            if not changed:
                return set()
            self.variables.update(joined)
        return changed

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
            case Slice(value):
                return _slice_of(self.of(value))
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
            case SetOfExpr(items):
                return SetOf(self._joined(items))
            case TupleOfExpr(items):
                return self._tuple(items)
            case DictOfExpr():
                return self._dict(expr)
            case Comprehension():
                return self._comprehension(expr)
            case Bind(_, value):
                return self.of(value)
            case Make(name):
                return Named(name)
            case Call():
                return self._call(expr)

    def _joined(self, items: Sequence[Expr | Spread]) -> TypeRef:
        return join([self._item(each) for each in items]) or ANY

    def _item(self, item: Expr | Spread) -> TypeRef | None:
        return self.item_of(item.value) if isinstance(item, Spread) else self.of(item)

    def _tuple(self, items: Sequence[Expr | Spread]) -> TypeRef | None:
        kinds: list[TypeRef] = []
        for item in items:
            if not isinstance(item, Spread):
                kinds.append(self.of(item) or ANY)
                continue
            spread = self.of(item.value)
            if not isinstance(spread, TupleOf):
                return None
            kinds += spread.items
        return TupleOf(tuple(kinds))

    def _dict(self, expr: DictOfExpr) -> TypeRef:
        keys: list[TypeRef | None] = []
        values: list[TypeRef | None] = []
        for key, value in zip(expr.keys, expr.values, strict=True):
            kind = self.of(value)
            if key is not None:
                keys.append(self.of(key))
                values.append(kind)
            else:
                keys.append(kind.key if isinstance(kind, DictOf) else None)
                values.append(kind.value if isinstance(kind, DictOf) else None)
        return DictOf(join(keys) or ANY, join(values) or ANY)

    # -- comprehensions ----------------------------------------------------------------------------
    def _comprehension(self, expr: Comprehension) -> TypeRef | None:
        inner = self.inside(expr)
        element = inner.of(expr.element) or ANY
        if expr.kind == "dict":
            return DictOf((inner.of(expr.key) if expr.key else None) or ANY, element)
        if expr.kind == "set":
            return SetOf(element)
        return ListOf(element) if expr.kind == "list" else None

    def inside(self, expr: Comprehension) -> Types:
        """The types of all variables inside of a comprehension."""
        inner = self._around({})
        # A variable of its own hides one of the run, also where its type is not known.
        inner.variables.update(dict.fromkeys(locals_of(expr)))
        for place, clause in enumerate(expr.clauses):
            item = (inner if place else self).item_of(clause.iterable)
            inner.variables.update(_targets(clause.target, item))
        return inner

    def _around(self, variables: Mapping[str, TypeRef | None]) -> Types:
        inner = copy(self)
        inner.variables = {**self.variables, **variables}
        return inner

    def within(self, expr: Expr) -> Iterator[tuple[Any, Types]]:
        """An expression and all that it consists of, as `subexpressions`, each with the types that hold there."""
        if isinstance(expr, Comprehension):
            yield expr, self
            inner = self.inside(expr)
            first, *others = parts_of(expr)
            yield from self.within(first)
        else:
            yield expr, self
            inner, others = self, list(parts_of(expr))
            if isinstance(expr, Format):
                yield from ((piece, self) for piece in expr.parts if not isinstance(piece, str))
            elif isinstance(expr, Call):
                for key in expr.keywords.values():
                    if isinstance(key, Lambda):
                        others.remove(key.body)
                        item = self.item_of(expr.args[0]) if len(expr.args) == 1 else None
                        yield from self._around({key.param: item}).within(key.body)
        for part in others:
            yield from inner.within(part)

    def item_of(self, expr: Expr) -> TypeRef | None:
        """The type of each item of what is gone through; None if it is not known."""
        if isinstance(expr, Comprehension) and expr.kind == "generator":
            return self.inside(expr).of(expr.element)
        if isinstance(expr, Call) and expr.function in _LAZY:
            return self._item_of_lazy(expr)
        kind = self.of(expr)
        if isinstance(kind, ListOf | SetOf):
            return kind.item
        if isinstance(kind, DictOf):
            return kind.key
        if isinstance(kind, TupleOf):
            return join(kind.items)
        return {STR: STR, BYTES: INT}.get(kind) if isinstance(kind, Scalar) else None

    def _item_of_lazy(self, expr: Call) -> TypeRef | None:
        if expr.function == "range":
            return INT
        items = [self.item_of(arg) or ANY for arg in expr.args]
        if expr.function == "zip":
            return TupleOf(tuple(items))
        if expr.function == "enumerate":
            return TupleOf((INT, items[0]))
        if expr.function == "reversed":
            return items[0]
        owner = self.of(expr.args[0])
        if not isinstance(owner, DictOf):
            return None
        kinds: dict[str, TypeRef] = {
            ".keys": owner.key,
            ".values": owner.value,
            ".items": TupleOf((owner.key, owner.value)),
        }
        return kinds[expr.function]

    def _attribute(self, expr: Attribute) -> TypeRef | None:
        if isinstance(expr.value, Name) and expr.value.name in self.failures:
            if expr.name == "details":
                return DictOf(STR, ANY)
            if expr.name == "exceptions":
                return ListOf(ANY)
            return (
                STR
                if expr.name in ("name", "message")
                else self._field_of_failure(expr.value.name, expr.name)
            )
        owner = self.of(expr.value)
        definition = self.definitions.get(owner.name) if isinstance(owner, Named) else None
        if isinstance(definition, RecordType) and definition.form != "dict":
            return next((field.type for field in definition.fields if field.name == expr.name), None)
        if isinstance(definition, EnumType):
            return STR if expr.name == "name" or isinstance(definition.members[0].value, str) else INT
        if owner in (*_DATES, TIMEDELTA, UUID):
            return STR if expr.name == "hex" else INT if expr.name in _INT_FIELDS else None
        return None

    def _field_of_failure(self, variable: str, name: str) -> TypeRef | None:
        records = [self.definitions[record] for record in self.failures[variable]]
        kinds: list[TypeRef | None] = [
            field.type
            for record in records
            if isinstance(record, RecordType)
            for field in record.fields
            if field.name == name
        ]
        return join(kinds) if kinds else None

    def _index(self, expr: Index) -> TypeRef | None:
        if isinstance(expr.value, Call) and expr.value.function == "range":
            return INT
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
            default = expr.keywords.get("default")
            item = self.item_of(expr.args[0])
            return join([item, self.of(default)]) if default and not isinstance(default, Lambda) else item
        if expr.function == "unpack":
            return _unpacked(kinds[0], expr.args[1:])
        if expr.function in _OF_ITEMS:
            item = self.item_of(expr.args[0]) if expr.args else None
            return _OF_ITEMS[expr.function](item or ANY)
        if expr.function == "sum":
            return self._sum_of(expr, kinds)
        if expr.function == "dict":
            return self._dict_of(expr, kinds)
        if expr.function == "divmod":
            return TupleOf((_binary("//", *kinds) or ANY, _binary("%", *kinds) or ANY))
        if expr.function == "pow" and len(kinds) == 2:
            return _binary("**", *kinds)
        if expr.function in _SAME:
            return kinds[0]
        if expr.function == ".get" and isinstance(kinds[0], DictOf):
            return join([kinds[0].value, kinds[2] if len(kinds) > 2 else NONE])
        return None

    def _sum_of(self, expr: Call, kinds: Sequence[TypeRef | None]) -> TypeRef | None:
        start = expr.keywords.get("start")
        first = kinds[1] if len(kinds) > 1 else INT
        if start is not None and not isinstance(start, Lambda):
            first = self.of(start)
        item = self.item_of(expr.args[0])
        total = _binary("+", first, item)
        return join([first, total])

    def _dict_of(self, expr: Call, kinds: Sequence[TypeRef | None]) -> TypeRef | None:
        keys: list[TypeRef | None] = [STR] if expr.keywords else []
        values = [None if isinstance(each, Lambda) else self.of(each) for each in expr.keywords.values()]
        if expr.args:
            item = self.item_of(expr.args[0])
            pair = item.items if isinstance(item, TupleOf) and len(item.items) == 2 else (None, None)
            if isinstance(kinds[0], DictOf):
                pair = (kinds[0].key, kinds[0].value)
            keys.append(pair[0])
            values.append(pair[1])
        return DictOf(join(keys) or ANY, join(values) or ANY)

    def definition(self, expr: Expr) -> TypeDef | None:
        """The record or enum that an expression is of, if it is known to be one."""
        kind = self.of(expr)
        return self.definitions.get(kind.name) if isinstance(kind, Named) else None


def _given(
    node: Node, output_of: Callable[[Node], TypeRef | None], results: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, Expr | TypeRef]]:
    """The variables that a node sets, each with where its value comes from."""
    for each in bindings_in(node):
        yield each.name, each.value
    if isinstance(node, TaskNode | EventNode | UserTaskNode | ChildNode) and node.target:
        yield node.target, output_of(node) or ANY
    elif isinstance(node, AssignNode) and node.attribute is None:
        yield node.target, node.value
    elif isinstance(node, GatherNode):
        for branch in node.branches:
            yield from branch.args.items()
        if node.each is not None:
            item = Index(node.each.items, constant(0))
            yield from ((name, Index(item, constant(place))) for place, name in enumerate(node.each.names))
        held = [Name(each) for each in results.get(node.target or "", ())]
        if node.target and node.until == "interrupted":
            yield node.target, held[-1]
        elif node.target and node.until != "all" and held:
            # Whichever of them it is.
            either: Expr = held[-1]
            for other in held[:-1]:
                either = Conditional(constant(True), other, either)
            yield node.target, TupleOfExpr((constant(0), either))
        elif node.target:
            # A tuple of nobody knows how many is, for what is derived from it, as good as a list.
            yield node.target, TupleOfExpr(tuple(held)) if node.each is None else ListOfExpr(tuple(held))


def _unpacked(kind: TypeRef | None, counts: Sequence[Expr]) -> TypeRef | None:
    """The types of the targets that a value is taken apart for."""
    count, *star = [int(msgspec.json.decode(each.value)) for each in counts if isinstance(each, Const)]
    items = kind.items if isinstance(kind, TupleOf) else ()
    item = STR if kind == STR else kind.item if isinstance(kind, ListOf) else None
    if not star:
        if len(items) == count:
            return TupleOf(tuple(items))
        return None if item is None else TupleOf((item,) * count)
    before, after = star[0], count - star[0] - 1
    if len(items) >= before + after:
        end = len(items) - after
        return TupleOf((*items[:before], ListOf(join(items[before:end]) or ANY), *items[end:]))
    return None if item is None else TupleOf((*[item] * before, ListOf(item), *[item] * after))


def _slice_of(kind: TypeRef | None) -> TypeRef | None:
    return kind if kind in (STR, BYTES) or isinstance(kind, ListOf) else None


def _targets(target: Target, kind: TypeRef | None) -> dict[str, TypeRef | None]:
    """The variables of a comprehension's target, for items of this type."""
    if target.name:
        return {target.name: kind}
    plain = isinstance(kind, TupleOf) and len(kind.items) == len(target.items)
    found: dict[str, TypeRef | None] = {}
    for place, each in enumerate(target.items):
        if any(other.star for other in target.items):
            found.update(_targets(each, None))
        elif isinstance(kind, TupleOf) and plain:
            found.update(_targets(each, kind.items[place]))
        else:
            found.update(_targets(each, kind.item if isinstance(kind, ListOf) else None))
    return found


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


Opaque = Literal["masked", "large"]


def opaque_kind(kind: TypeRef | None) -> Opaque | None:
    """Whether a value of this type may be masked, or large, so that no expression can look at it."""
    match kind:
        case MaskedOf():
            return "masked"
        case LargeOf():
            return "large"
        case UnionOf(options):
            return next((found for option in options if (found := opaque_kind(option))), None)
        case _:
            return None


def is_immutable(kind: TypeRef | None, definitions: Mapping[str, TypeDef]) -> bool:
    """Whether Python has no way to change a value of this type in place. Unknown types may have one."""
    if isinstance(kind, UnionOf):
        return all(is_immutable(option, definitions) for option in kind.options)
    if isinstance(kind, Named):
        definition = definitions.get(kind.name)
        return not (isinstance(definition, RecordType) and definition.form == "dict")
    return kind is not None and kind != ANY and not isinstance(kind, ListOf | DictOf | SetOf)


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
    if isinstance(left, SetOf):
        return left if operator in ("-", "&") or left == right else None
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
