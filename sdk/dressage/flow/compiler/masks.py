"""What a workflow may do with masked and large values, and with variables that it declares, as far as derived types
show it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

import msgspec

from dressage.expressions.checks import shown
from dressage.expressions.large import LargePlaces
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.inference import Opaque, Types, opaque_kind
from dressage.flow.compiler.walk import expressions_of
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import (
    Compare,
    Comprehension,
    Conditional,
    Const,
    DictOfExpr,
    Expr,
    ListOfExpr,
    Logical,
    Make,
    TupleOfExpr,
    parts_of,
)
from dressage.protocol.spec import (
    AssignNode,
    BranchNode,
    ChildNode,
    ConditionNode,
    EventNode,
    Node,
    PublishNode,
    RaiseNode,
    ReturnNode,
    SleepNode,
    SleepUntilNode,
    TaskNode,
    UserTaskNode,
)
from dressage.protocol.types import ANY, Field, Named, RecordType, Scalar, TypeRef, UnionOf, within

_WORDS: Final[dict[Opaque, str]] = {"masked": "Masked", "large": "Large"}


# -- masked values, and large ones -----------------------------------------------------------------
def check_masks(context: Context, node: Node, place: ast.AST, types: Types) -> None:
    """Refuses expressions that look at a masked or large value: it can be passed, stored, returned, compared with
    None."""
    for expr in _looked_at(node):
        kind = opaque_kind(types.of(expr))
        if kind is not None:
            raise _refusal(context, place, kind)
    for expr in expressions_of(node):
        _check(context, expr, place, types)
    for expr, field in _given(context, node):
        _check_receiver(context, expr, field, place, types)
    if isinstance(node, PublishNode):
        _check_published(context, node, place, types)
    elif isinstance(node, ChildNode) and node.run_id is not None:
        _check_apart(context, node, place)
    elif isinstance(node, EventNode) and node.key is not None:
        _check_keyed(context, node, place)


def _check_published(context: Context, node: PublishNode, place: ast.AST, types: Types) -> None:
    """Refuses to publish what has a masked part: who listens would be shown it, or stars in its place. What is large
    is stored for the runs of one root, and nobody else finds it."""
    kind = types.of(node.data)
    if kind is None:
        return
    for part in within(kind, context.scope.book.definitions):
        if (opaque := opaque_kind(part)) is not None:
            raise context.refusal(
                place,
                f"{shown(kind)} has a {opaque} part, which would be published",
                "publish what everybody may see, by itself",
            )


def _check_apart(context: Context, node: ChildNode, place: ast.AST) -> None:
    """Refuses large values of a run with an id of its own: they are stored for the runs of one root."""
    spec = context.children[node.workflow].spec
    places = LargePlaces(spec.types)
    if any(places.has(ref) for ref in (spec.output, *(param.type for param in spec.params))):
        raise context.refusal(
            place,
            f"a run with an id of its own does not find the large values of this one, and {node.workflow} has some",
            "leave run_id out, so that the child run has its id from this one",
        )


def _check_keyed(context: Context, node: EventNode, place: ast.AST) -> None:
    """Refuses large payloads of what comes to a correlation key: it belongs to no run yet that they are stored for."""
    event = context.output_of(node)
    if event is not None and LargePlaces(context.scope.book.definitions.values()).has(event):
        raise context.refusal(
            place,
            f"{shown(event)} is large, and what comes to a correlation key belongs to no run yet",
            "wait without a key, and post to the run by its id",
        )


def _looked_at(node: Node) -> Iterator[Expr]:
    """The expressions whose value the engine itself looks at, or tells."""
    if isinstance(
        node,
        BranchNode | SleepNode | SleepUntilNode | ConditionNode | EventNode | UserTaskNode | RaiseNode,
    ):
        yield from expressions_of(node)
    elif isinstance(node, PublishNode):
        yield node.subject


def _check(context: Context, expr: Expr, place: ast.AST, types: Types) -> None:
    inner = types.inside(expr) if isinstance(expr, Comprehension) else types
    for number, part in enumerate(parts_of(expr)):
        # What a comprehension first goes through is evaluated outside of it.
        known = inner if number else types
        kind = opaque_kind(known.of(part))
        if kind is not None and not _passes(expr, part):
            raise _refusal(context, place, kind)
        _check(context, part, place, known)
    if isinstance(expr, Make):
        record = types.definitions.get(expr.type)
        for field in record.fields if isinstance(record, RecordType) else ():
            if field.name in expr.fields:
                _check_receiver(context, expr.fields[field.name], field, place, types)


def _passes(expr: Expr, part: Expr) -> bool:
    """Whether an expression hands a part of it on without looking at it."""
    match expr:
        case ListOfExpr() | TupleOfExpr() | Make():
            return True
        case DictOfExpr():
            return not any(part is key for key in expr.keys)
        case Comprehension():
            return part is expr.element
        case Conditional():
            return part is not expr.test
        case Logical():
            return part is expr.values[-1]
        case Compare():
            operands = [expr.left, *(link.right for link in expr.chain)]
            others = [each for each in operands if each is not part]
            return len(operands) == 2 and all(map(_is_none, others))
        case _:
            return False


def _is_none(expr: Expr) -> bool:
    return isinstance(expr, Const) and msgspec.json.decode(expr.value) is None


def _given(context: Context, node: Node) -> Iterator[tuple[Expr, Field]]:
    """What a node hands to a declared parameter, or to the caller."""
    if isinstance(node, TaskNode):
        params = {param.name: param for param in context.tasks[node.task].definition.params}
        yield from ((expr, params[name]) for name, expr in node.args.items())
    elif isinstance(node, ChildNode):
        params = {param.name: param for param in context.children[node.workflow].spec.params}
        yield from ((expr, params[name]) for name, expr in node.args.items())
        if node.run_id is not None:
            yield node.run_id, Field("the id of a run", Scalar("str"))
    elif isinstance(node, AssignNode) and node.attribute is not None:
        kind = context.names.views[node.target]
        record = context.scope.book.definitions.get(kind.__name__) if kind else None
        fields = record.fields if isinstance(record, RecordType) else ()
        yield from ((node.value, field) for field in fields if field.name == node.attribute)
    elif isinstance(node, ReturnNode) and node.value is not None and not context.is_of_branch(node.value):
        yield node.value, Field("the workflow's result", context.signature.output)


def _check_receiver(context: Context, expr: Expr, field: Field, place: ast.AST, types: Types) -> None:
    kind = opaque_kind(types.of(expr))
    if kind is not None and opaque_kind(field.type) != kind:
        would = "show a masked value" if kind == "masked" else "be given a large value"
        raise context.refusal(
            place,
            f"{field.name} is {shown(field.type)} and would {would}",
            f"declare it as {_WORDS[kind]}[{shown(field.type)}]",
        )


def _refusal(context: Context, place: ast.AST, kind: Opaque) -> DefinitionError:
    return context.refusal(
        place,
        f"a {kind} value is looked at here",
        "it can be passed, stored, returned, and compared with None: let a task that takes "
        f"{_WORDS[kind]}[...] look at it",
    )


# -- declared variables ----------------------------------------------------------------------------
def check_declared(context: Context, node: Node, place: ast.AST, types: Types) -> None:
    """Refuses a value that no run could give to a variable of the declared type."""
    kind: TypeRef | None
    if isinstance(node, TaskNode | EventNode | UserTaskNode | ChildNode):
        name, kind = node.target, context.output_of(node)
    elif isinstance(node, AssignNode) and node.attribute is None:
        name, kind = node.target, types.of(node.value)
    else:
        return
    declared = context.declared.get(name or "")
    opaque = opaque_kind(kind)
    if declared is not None and opaque is not None and opaque_kind(declared) != opaque:
        would = "show a masked value" if opaque == "masked" else "hold a large value"
        raise context.refusal(
            place, f"{name} would {would}", f"declare it as {_WORDS[opaque]}[{shown(declared)}]"
        )
    if declared is not None and kind is not None and not any(_may_be(kind, declared)):
        raise context.refusal(
            place, f"{name} is declared as {shown(declared)}, and this is {shown(kind)}", "declare what it is"
        )


def _may_be(kind: TypeRef, declared: TypeRef) -> Iterator[bool]:
    """For each pair of options whether a value of the one may be one of the other; unsure means yes."""
    for one in kind.options if isinstance(kind, UnionOf) else (kind,):
        for other in declared.options if isinstance(declared, UnionOf) else (declared,):
            if isinstance(one, Scalar) and isinstance(other, Scalar):
                yield one == other or ANY in (one, other) or (one.name, other.name) == ("int", "float")
            elif isinstance(one, Named) and isinstance(other, Named):
                yield one == other
            else:
                yield not (isinstance(one, Scalar | Named) and isinstance(other, Scalar | Named)) or ANY in (
                    one,
                    other,
                )
