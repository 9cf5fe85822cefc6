"""Assignments: to a variable, to a field of the view, and several at once; with or without an await."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from dressage.expressions.parse import BINARY_OPERATORS, constant
from dressage.flow.compiler import calls
from dressage.flow.compiler.awaits import emit_await
from dressage.flow.compiler.context import Augmented, Context
from dressage.flow.compiler.gathers import results_of
from dressage.flow.compiler.names import MISSING, callables_in
from dressage.flow.members import Unsupported
from dressage.flow.runnable import Runnable
from dressage.flow.signatures import closure_of
from dressage.protocol.expressions import Attribute, Binary, Call, Expr, Index, Name, TupleOfExpr
from dressage.protocol.spec import AssignNode


def assign(context: Context, node: ast.Assign) -> None:
    if len(node.targets) > 1:
        _assign_chain(context, node)
        return
    target = node.targets[0]
    if isinstance(target, ast.Tuple | ast.List):
        _assign_several(context, target, node.value)
    else:
        _assign_one(context, target, node.value, node)


def _assign_chain(context: Context, node: ast.Assign) -> None:
    """`a = b = value`: the value once, then the targets from the left."""
    for target in node.targets:
        if isinstance(target, ast.Name) and context.is_view(context.variable(target.id)):
            raise context.refusal(
                target, "the run's view has one name", "assign it in a statement of its own"
            )
    held = context.temporary()
    _hold(context, node.value, held, ("", None))
    for target in node.targets:
        emit_parts(context, target, Name(held))


def annotated(context: Context, node: ast.AnnAssign) -> None:
    if not isinstance(node.target, ast.Name):
        raise context.refusal(node.target, "only variables are declared with a type", "leave the type out")
    _check_target(context, node.target)
    _declare(context, context.variable(node.target.id), node.annotation)
    if node.value is not None:
        _assign_one(context, node.target, node.value, node)


def _declare(context: Context, name: str, annotation: ast.expr) -> None:
    """Reads a local annotation, which Python never evaluates, as Python would where it stands."""
    function = context.function
    namespace = {**context.signature.book.namespace, **closure_of(function)}
    try:
        code = compile(ast.Expression(annotation), context.source.file, "eval")
        declared = eval(code, function.__globals__, namespace)
        if isinstance(declared, str):
            declared = eval(declared, function.__globals__, namespace)
        context.declared[name] = context.scope.book.ref(declared)
    except Unsupported as error:
        raise context.refusal(annotation, f"variable {name}: {error.what}", error.advice) from error
    except Exception as error:
        advice = "import what it names, also at run time"
        raise context.refusal(annotation, f"this type cannot be read: {error}", advice) from error


def augmented(context: Context, node: ast.AugAssign) -> None:
    operator = BINARY_OPERATORS.get(type(node.op))
    if operator is None:
        raise context.refusal(
            node, "matrix multiplication is not part of the language", "compute this in a task"
        )
    name, attribute = _target(context, node.target)
    current: Expr = Name(name) if attribute is None else Attribute(Name(name), attribute)
    if attribute is not None and any(isinstance(each, ast.Await) for each in ast.walk(node.value)):
        # Python reads it first: meanwhile a branch may set it.
        held = context.temporary()
        context.set(node, held, current)
        current = Name(held)
    context.augmented.append(Augmented(node, current))
    value = Binary(operator, current, context.translate(node.value))
    _emit(context, node, name, attribute, value)


# -- one target ------------------------------------------------------------------------------------
def _assign_one(context: Context, target: ast.expr, value: ast.expr, place: ast.AST) -> None:
    name, attribute = _target(context, target)
    if attribute is None and context.is_view(name):
        _check_fresh(context, name, value)
    if not isinstance(value, ast.Await):
        _emit(context, place, name, attribute, context.translate(value))
    elif attribute is None:
        emit_await(context, value, name)
    else:
        # The result is there before the view changes: a failure leaves the view as it was.
        result = context.temporary()
        emit_await(context, value, result)
        _emit(context, place, name, attribute, Name(result))


def _emit(context: Context, place: ast.AST, name: str, attribute: str | None, value: Expr) -> None:
    context.graph.emit(AssignNode, place, target=name, value=value, attribute=attribute)


def _target(context: Context, target: ast.expr) -> tuple[str, str | None]:
    """The variable that is assigned, and the field of it if it is the view. Refuses every other target."""
    if isinstance(target, ast.Name):
        _check_target(context, target)
        return context.variable(target.id), None
    if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name):
        _check_view(context, target, target.value.id)
        return context.variable(target.value.id), target.attr
    if isinstance(target, ast.Subscript):
        raise context.refusal(
            target,
            "lists and dicts are values: an item cannot be assigned",
            "write `settings = settings | {key: value}`, or let a task return the changed list",
        )
    if isinstance(target, ast.Starred | ast.Tuple | ast.List):
        raise context.refusal(target, "this target is not supported", "assign each variable by itself")
    raise context.refusal(
        target,
        "only fields of the view itself can be assigned",
        "build a new record, and assign that to a field",
    )


def _check_target(context: Context, target: ast.Name) -> None:
    if target.id in context.names.functions:
        raise context.refusal(target, f"{target.id} is also a function", "use another name")
    if target.id in context.names.failures:
        raise context.refusal(
            target,
            f"{target.id} also names a caught failure, which is gone after its clause",
            "use another name",
        )


def _check_view(context: Context, target: ast.Attribute, name: str) -> None:
    if name in context.names.params:
        raise context.refusal(
            target,
            f"{name} is a parameter: its fields cannot be assigned",
            "only the run's view changes: a dataclass instance that this function makes",
        )
    kind = context.view(context.variable(name))
    if kind is None:
        raise context.refusal(
            target,
            f"{name} is not made by this function, so its fields cannot be assigned",
            f"only the run's view changes: write `{name} = SomeView(...)`, or build a new record",
        )
    if _is_frozen(kind):
        raise context.refusal(target, f"{kind.__name__} is frozen", "let the view's dataclass be mutable")


def _is_frozen(kind: type) -> bool:
    dataclass = getattr(kind, "__dataclass_params__", None)
    struct = getattr(kind, "__struct_config__", None)
    return bool((dataclass and dataclass.frozen) or (struct and struct.frozen))


def _check_fresh(context: Context, name: str, value: ast.expr) -> None:
    """Refuses a view that is anything but a new instance, since another name might still show it."""
    kind = context.view(name)
    made = context.names.object(value.func) if isinstance(value, ast.Call) else MISSING
    # Without a class it is no view, and the assignment of its field is refused with the better advice.
    if kind is not None and made is not kind:
        raise context.refusal(
            value,
            f"{name} is the run's view: it must be a new instance",
            f"write `{name} = {kind.__name__}(...)`",
        )


# -- several targets -------------------------------------------------------------------------------
def _assign_several(context: Context, target: ast.Tuple | ast.List, value: ast.expr) -> None:
    targets = target.elts
    if not isinstance(value, ast.Tuple | ast.List):
        _unpack(context, target, value)
        return
    plain = ast.Name | ast.Attribute
    if any(not isinstance(each, plain) for each in targets) or any(
        isinstance(each, ast.Starred) for each in value.elts
    ):
        _unpack(context, target, value)
        return
    if len(targets) != len(value.elts):
        raise context.refusal(
            target, "targets and values differ in number", "write one value for each target"
        )
    pairs = [_target(context, each) for each in targets]
    if len(set(pairs)) < len(pairs):
        raise context.refusal(target, "one target stands here twice", "assign it once")
    whole = {name for name, attribute in pairs if attribute is None}
    if any(attribute is not None and name in whole for name, attribute in pairs):
        raise context.refusal(
            target, "a view and its field are assigned at once", "write an assignment for each of them"
        )
    late: list[tuple[tuple[str, str | None], Expr]] = []
    for place, (pair, each) in enumerate(zip(pairs, value.elts, strict=True)):
        rest = value.elts[place + 1 :]
        if _can_assign_now(context, pair, rest, bool(late)):
            _assign_one(context, targets[place], each, each)
        else:
            held = context.temporary()
            _hold(context, each, held, pair)
            late.append((pair, Name(held)))
    for (name, attribute), held_value in late:
        _emit(context, target, name, attribute, held_value)


def _can_assign_now(
    context: Context, pair: tuple[str, str | None], rest: list[ast.expr], earlier_wait: bool
) -> bool:
    """Whether a target may be set before the values after it are computed, as nothing could tell the difference.

    Python computes all values first. A later value may read the target, or fail where the failure is caught and
    the old value of the target is seen.
    """
    if not rest and (pair[1] is None or not earlier_wait):
        return True
    if earlier_wait or pair[1] is not None or context.graph.scope is not None:
        return False
    return not any(_reads(context, each, pair[0]) for value in rest for each in ast.walk(value))


def _reads(context: Context, node: ast.AST, variable: str) -> bool:
    """Whether a variable may be read here: by its name, by a nested function, or by what inherits it."""
    if not isinstance(node, ast.Name | ast.Attribute):
        return False
    if isinstance(node, ast.Name) and (
        context.variable(node.id) == variable or context.scope.is_function(node.id)
    ):
        return True
    found = context.names.object(node)
    called = callables_in(found)
    several = called.values() if isinstance(called, Mapping) else called or [found]
    return any(
        isinstance(each, Runnable)
        and any(context.variable(name) == variable for name in each.signature.inherited)
        for each in several
    )


def _hold(context: Context, value: ast.expr, held: str, pair: tuple[str, str | None]) -> None:
    if pair[1] is None and context.is_view(pair[0]):
        _check_fresh(context, pair[0], value)
    if isinstance(value, ast.Await):
        emit_await(context, value, held)
    else:
        _emit(context, value, held, None, context.translate(value))


def _unpack(context: Context, target: ast.Tuple | ast.List, value: ast.expr) -> None:
    """`a, b = value`: the value first, as a whole, and then its items, as many as there are targets."""
    known = None if _starred(target) else _length(context, value)
    if known is not None and known != len(target.elts):
        raise context.refusal(
            value,
            f"this has {known} items, not {len(target.elts)}",
            f"write {known} targets, or one with a star",
        )
    held = context.temporary()
    _hold(context, value, held, ("", None))
    if known is None:
        emit_parts(context, target, Name(held))
    else:
        _emit_items(context, target, Name(held))


def _length(context: Context, value: ast.expr) -> int | None:
    """How many items a value is certain to have: by the task that gives it, or as there are branches."""
    call = value.value if isinstance(value, ast.Await) else None
    if not isinstance(call, ast.Call):
        return None
    task = calls.task_of(call, context.scope)
    if task is not None:
        return task.signature.book.places_of(task.definition.output)
    return results_of(context, call)


def _starred(target: ast.Tuple | ast.List) -> list[int]:
    return [place for place, each in enumerate(target.elts) if isinstance(each, ast.Starred)]


# -- what is known as an expression ----------------------------------------------------------------
Parts = Expr | tuple[Any, ...]
"""A value, or the parts of a tuple that need not be made."""


def emit_parts(context: Context, target: ast.expr, value: Parts) -> None:
    """Assigns a value, or the parts of one, to any target."""
    if isinstance(target, ast.Tuple | ast.List):
        if isinstance(value, tuple) and len(value) == len(target.elts) and not _starred(target):
            for each, part in zip(target.elts, value, strict=True):
                emit_parts(context, each, part)
            return
        _emit_unpacked(context, target, as_value(value))
        return
    name, attribute = _target(context, target)
    if attribute is None and context.is_view(name):
        raise context.refusal(
            target,
            f"{name} is the run's view: it must be a new instance",
            "assign it in a statement of its own",
        )
    _emit(context, target, name, attribute, as_value(value))


def as_value(value: Parts) -> Expr:
    """The parts as the tuple that they are parts of."""
    return TupleOfExpr(tuple(as_value(each) for each in value)) if isinstance(value, tuple) else value


def _emit_unpacked(context: Context, target: ast.Tuple | ast.List, value: Expr) -> None:
    starred = _starred(target)
    if len(starred) > 1:
        raise context.refusal(target.elts[starred[1]], "two targets cannot take the rest", "star one of them")
    counts = [len(target.elts), *starred]
    held = context.temporary()
    context.set(target, held, Call("unpack", (value, *map(constant, counts))))
    _emit_items(context, target, Name(held))


def _emit_items(context: Context, target: ast.Tuple | ast.List, held: Expr) -> None:
    for place, each in enumerate(target.elts):
        inner = each.value if isinstance(each, ast.Starred) else each
        emit_parts(context, inner, Index(held, constant(place)))
