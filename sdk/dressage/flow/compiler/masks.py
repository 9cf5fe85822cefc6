"""What a workflow may do with masked values, and with variables that it declares, as far as derived types show it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import msgspec

from dressage.expressions.checks import masker, shown
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.inference import Types, is_masked
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
from dressage.protocol.types import ANY, Field, Named, RecordType, Scalar, TypeRef, UnionOf


# -- masked values ---------------------------------------------------------------------------------
def check_masks(context: Context, node: Node, place: ast.AST, types: Types) -> None:
    """Refuses expressions that look at a masked value: it can be passed, stored, returned, compared with None."""
    for expr in _looked_at(node):
        if is_masked(types.of(expr)):
            raise _refusal(context, place)
    for expr in expressions_of(node):
        _check(context, expr, place, types)
    for expr, field in _given(context, node):
        _check_receiver(context, expr, field, place, types)
    if isinstance(node, PublishNode):
        _check_published(context, node, place, types)


def _check_published(context: Context, node: PublishNode, place: ast.AST, types: Types) -> None:
    """Refuses to publish what has a masked part: who listens would be shown it, or stars in its place."""
    kind = types.of(node.data)
    if kind is not None and masker(kind, context.scope.book.table().classes) is not None:
        raise context.refusal(
            place,
            f"{shown(kind)} has a masked part, which would be published",
            "publish what everybody may see, by itself",
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
    elif isinstance(node, TaskNode):
        yield from filter(None, (node.key, node.priority))


def _check(context: Context, expr: Expr, place: ast.AST, types: Types) -> None:
    inner = types.inside(expr) if isinstance(expr, Comprehension) else types
    for number, part in enumerate(parts_of(expr)):
        # What a comprehension first goes through is evaluated outside of it.
        known = inner if number else types
        if is_masked(known.of(part)) and not _passes(expr, part):
            raise _refusal(context, place)
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
    elif isinstance(node, ReturnNode) and node.value is not None:
        yield node.value, Field("the workflow's result", context.signature.output)


def _check_receiver(context: Context, expr: Expr, field: Field, place: ast.AST, types: Types) -> None:
    if is_masked(types.of(expr)) and not is_masked(field.type):
        raise context.refusal(
            place,
            f"{field.name} is {shown(field.type)} and would show a masked value",
            f"declare it as Masked[{shown(field.type)}]",
        )


def _refusal(context: Context, place: ast.AST) -> DefinitionError:
    return context.refusal(
        place,
        "a masked value is looked at here",
        "it can be passed, stored, returned, and compared with None: let a task that takes Masked[...] look at it",
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
    if declared is not None and is_masked(kind) and not is_masked(declared):
        raise context.refusal(
            place, f"{name} would show a masked value", f"declare it as Masked[{shown(declared)}]"
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
