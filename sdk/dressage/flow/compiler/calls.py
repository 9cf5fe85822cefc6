"""What a workflow calls: tasks with their options, constructors of records and of failures."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from dressage.expressions.checks import float_fixer
from dressage.expressions.matching import KINDS
from dressage.expressions.parse import constant
from dressage.expressions.spelling import text_of
from dressage.flow.compiler.names import MISSING, callables_in
from dressage.flow.failures import WorkflowFailure
from dressage.flow.members import Unsupported, record_form
from dressage.flow.models import is_model
from dressage.flow.publishing import publish
from dressage.flow.rates import check_priority
from dressage.flow.retries import CallOptions, Exponential, check_limited
from dressage.flow.runnable import Runnable
from dressage.flow.tasks import Task
from dressage.protocol.errors import BadInput, DefinitionError
from dressage.protocol.expressions import Call, Const, DictOfExpr, Expr, Make
from dressage.protocol.names import LIMIT_KEY, check_key
from dressage.protocol.spec_sizes import TASK_KEY, TASK_PRIORITY
from dressage.protocol.types import Field, RecordType, Scalar

if TYPE_CHECKING:
    from dressage.flow.compiler.scope import FlowScope

_NO_CLOCK = "let a task return it: a run has no clock of its own"
_OF_A_FIELD = "read the field itself: `order.item`"

_ADVICE = {
    "datetime.now": _NO_CLOCK,
    "datetime.utcnow": _NO_CLOCK,
    "date.today": _NO_CLOCK,
    "time.time": _NO_CLOCK,
    "uuid4": "let a task return a new id, or take it as a parameter",
    "datetime.fromtimestamp": "let a task return the datetime, or add a timedelta to a constant",
    "datetime.combine": "write `datetime(day.year, day.month, day.day, hour)`",
    "frozenset": "use a set: no value is ever changed",
    "map": "write a comprehension",
    "filter": "write a comprehension with `if`",
    "next": "write `[x for x in items if ...][0]`, or a `for` with `break`",
    "iter": "go through it with `for`, or index it",
    "slice": "cut where it is used: `items[1:3]`",
    "dict.fromkeys": "write `{key: value for key in keys}`",
    "format": 'use an f-string: f"{value:>10}"',
    "ascii": 'use an f-string: f"{value!r}"',
    "bin": 'use an f-string: f"{value:#b}"',
    "hex": 'use an f-string: f"{value:#x}"',
    "oct": 'use an f-string: f"{value:#o}"',
    "bytes": 'write b"..." or `text.encode()`',
    "type": "ask `isinstance(value, Order)`, or write `match`",
    "getattr": _OF_A_FIELD,
    "hasattr": _OF_A_FIELD,
    "cast": "declare the variable: `value: Order = ...`",
    "replace": "build it anew: `Order(id=order.id, quantity=2)`",
    "math.floor": "write `int(value // 1)`",
    "math.ceil": "write `-int(-value // 1)`",
    "math.sqrt": "write `value ** 0.5`",
    "print": "put what should be seen into the view, or let a task log it",
}
"""By the end of the name that is called, from a dot on."""


# -- records ---------------------------------------------------------------------------------------
def record(node: ast.Call, scope: FlowScope) -> Expr:
    """The expression for a call of what is no builtin: a dataclass. Refuses everything else with its advice."""
    kind = scope.names.object(node.func)
    name = text_of(node.func)
    if kind is isinstance:
        return instance_check(node, scope)
    if isinstance(kind, Task):
        raise scope.refusal(node, f"task {name} is called inside an expression", _task_advice(name))
    if kind is publish:
        raise scope.refusal(
            node,
            f"{name}() is called inside an expression",
            f"await it in a statement of its own: `await {name}(...)`",
        )
    if isinstance(kind, type) and issubclass(kind, WorkflowFailure):
        raise scope.refusal(node, f"failure {name} is no value", f"raise it: `raise {name}(...)`")
    if isinstance(node.func, ast.Name) and scope.is_undefined_helper(name):
        raise scope.refusal(node, f"{name}() is not defined so far", "define it above")
    own = isinstance(node.func, ast.Name) and scope.is_function(name)
    if own or isinstance(kind, Runnable) or inspect.iscoroutinefunction(kind):
        raise scope.refusal(node, f"{name}() is called inside an expression", _task_advice(name))
    if _is_of_awaitable(node.func, scope):
        raise scope.refusal(node, f"{name}() is called without await", f"write `await {name}(...)`")
    if isinstance(node.func, ast.Subscript) and callables_in(scope.names.object(node.func.value)) is not None:
        raise scope.refusal(node, f"{name}() is called inside an expression", _task_advice(name))
    if kind is MISSING and isinstance(node.func, ast.Name) and not scope.has_variable(name):
        raise scope.refusal(node, f"name {name} is not known", "define it above the workflow, or import it")
    form = "object" if is_model(kind) else record_form(kind)
    if not isinstance(kind, type) or form is None:
        advice = next((text for end, text in _ADVICE.items() if f".{name}".endswith(f".{end}")), None)
        raise scope.refusal(
            node,
            f"{name}() cannot be called in a workflow",
            advice or "make it a task, or write the expression itself",
        )
    _check_constructor(node, kind, scope)
    try:
        scope.book.ref(kind)
    except Unsupported as error:
        raise scope.refusal(node, error.what, error.advice) from error
    definition = scope.book.definitions[kind.__name__]
    assert isinstance(definition, RecordType)
    if form == "dict":
        return _dict_of(bound(node, name, definition.fields, [], scope))
    given = bound(node, name, definition.fields, _places(kind), scope)
    return Make(kind.__name__, _as_model(node, definition, given, scope) if is_model(kind) else given)


def _is_of_awaitable(func: ast.expr, scope: FlowScope) -> bool:
    """Whether this is the `start` of a workflow, or a task or workflow with its options."""
    match func:
        case ast.Attribute(value=ast.expr() as owner, attr="start"):
            return isinstance(scope.names.object(owner), Runnable)
        case ast.Call(func=ast.Attribute(value=ast.expr() as owner, attr="options")):
            return isinstance(scope.names.object(owner), Task | Runnable)
        case _:
            return False


def _dict_of(given: Mapping[str, Expr]) -> DictOfExpr:
    keys = tuple(Const(msgspec.Raw(msgspec.json.encode(name))) for name in given)
    return DictOfExpr(keys, tuple(given.values()))


def _as_model(
    node: ast.Call, definition: RecordType, given: Mapping[str, Expr], scope: FlowScope
) -> dict[str, Expr]:
    """The fields as pydantic's constructor makes them: it turns an int that is given for a float into one."""
    made = dict(given)
    for field in definition.fields:
        if field.name not in given or float_fixer(field.type, scope.book.table().classes) is None:
            continue
        if field.type != Scalar("float"):
            raise scope.refusal(
                node,
                f"pydantic may turn ints inside {definition.name}.{field.name} into floats, which no run would do",
                "let a task build it, or use a dataclass",
            )
        made[field.name] = Call("float", (given[field.name],))
    return made


def instance_check(node: ast.Call, scope: FlowScope) -> Expr:
    """`isinstance(value, Class)`, or with a tuple of classes."""
    if len(node.args) != 2 or node.keywords:
        raise scope.refusal(
            node, "isinstance() takes a value and its classes", "write `isinstance(x, Order)`"
        )
    value, classes = node.args
    kinds = classes.elts if isinstance(classes, ast.Tuple) else [classes]
    names = [name for kind in kinds for name in type_names(scope, kind, scope.names.object(kind))]
    return Call("isinstance", (scope.translate(value), *names))


def type_names(scope: FlowScope, place: ast.AST, kind: Any) -> tuple[Expr, ...]:
    """A class as `isinstance` of an expression knows it. Refuses what no value of a run is an instance of."""
    if kind in KINDS.values():
        return (constant(f"${kind.__name__}"),)
    # A TypedDict's values are dicts, which do not know it.
    known = isinstance(kind, type) and (is_model(kind) or record_form(kind) in ("object", "tuple"))
    try:
        if known and not kind.__subclasses__():
            scope.book.ref(kind)
            return (constant(kind.__name__),)
    except Unsupported as error:
        raise scope.refusal(place, error.what, error.advice) from error
    name = getattr(kind, "__name__", str(kind))
    if isinstance(kind, type) and issubclass(kind, BaseException):
        raise scope.refusal(
            place, f"a failure is no value: it is no {name}", f"write `except {name}` in front"
        )
    what = f"{name} has subclasses, whose values would match too" if known else f"no value here is a {name}"
    raise scope.refusal(place, what, "compare a field that tells the kinds apart")


def _task_advice(name: str) -> str:
    return f"await it in a statement of its own: `result = await {name}(...)`"


def _check_constructor(node: ast.Call, kind: type, scope: FlowScope) -> None:
    """Refuses a class whose construction runs code of its own, which no run would execute."""
    if is_model(kind):
        return  # What it may not have was refused with its type.
    for method in ("__post_init__", "__init__", "__new__"):
        found = inspect.getattr_static(kind, method, None)
        own = inspect.isfunction(found) and found.__code__.co_filename != "<string>"
        if own:
            raise scope.refusal(
                node,
                f"{kind.__name__} has its own {method}(), which no run would call",
                "let a task build it, or use a dataclass without it",
            )


def _places(kind: type) -> list[str]:
    """The fields that may be given by place."""
    return [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]


def bound(
    node: ast.Call,
    name: str,
    fields: Sequence[Field],
    places: Sequence[str],
    scope: FlowScope,
    inherited: Sequence[str] = (),
) -> dict[str, Expr]:
    """The arguments of a call by name, in the order in which they are written and so evaluated; behind them those that
    are `inherited`, from variables of the function that calls."""
    names = [field.name for field in fields]
    given: dict[str, Expr] = {}
    for place, argument in enumerate(node.args):
        if isinstance(argument, ast.Starred):
            raise scope.refusal(
                argument, "* in a call hides what is passed", "write the arguments one by one"
            )
        if place >= len(places):
            raise scope.refusal(
                argument, f"{name}() takes {len(places)} arguments by place", _takes(name, names)
            )
        given[places[place]] = scope.translate(argument)
    for keyword in node.keywords:
        if keyword.arg is None:
            raise scope.refusal(
                keyword.value, "** in a call hides what is passed", "write the arguments by name"
            )
        if keyword.arg not in names:
            raise scope.refusal(keyword, f"{name}() has no parameter {keyword.arg}", _takes(name, names))
        if keyword.arg in given:
            raise scope.refusal(keyword, f"{name}() gets {keyword.arg} twice", "give it once")
        given[keyword.arg] = scope.translate(keyword.value)
    for each in inherited:
        given[each] = _handed_on(node, name, each, scope)
    missing = [field.name for field in fields if field.required and field.name not in given]
    if missing:
        raise scope.refusal(node, f"{name}() misses {', '.join(missing)}", _takes(name, names))
    return given


def _handed_on(node: ast.Call, name: str, variable: str, scope: FlowScope) -> Expr:
    if variable not in scope.names.locals or variable in scope.comprehended:
        raise scope.refusal(
            node,
            f"{name}() inherits {variable}, which is no variable of the function that calls it",
            f"give it: `{variable}=...`",
        )
    return scope.translate(ast.copy_location(ast.Name(variable, ast.Load()), node))


def _takes(name: str, names: Sequence[str]) -> str:
    return f"it is {name}({', '.join(names)})"


# -- tasks -----------------------------------------------------------------------------------------
_COMPUTED: Final = {"key": TASK_KEY, "priority": TASK_PRIORITY}
"""The options of a call that are expressions of the workflow, with what they are called among its arguments."""


def task_of(node: ast.Call, scope: FlowScope) -> Task[..., Any] | None:
    """The task that is called, with the options written at the call; None if it is no task."""
    function = node.func
    if isinstance(function, ast.Call) and isinstance(function.func, ast.Attribute):
        owner = scope.names.object(function.func.value)
        if isinstance(owner, Task) and function.func.attr == "options":
            return _with_options(owner, function, scope)
    found = scope.names.object(function)
    return found if isinstance(found, Task) else None


def _with_options(task: Task[..., Any], node: ast.Call, scope: FlowScope) -> Task[..., Any]:
    if node.args:
        raise scope.refusal(node.args[0], "options are given by name", "write `.options(retries=3)`")
    options: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg not in CallOptions.__annotations__:
            known = ", ".join(CallOptions.__annotations__)
            raise scope.refusal(keyword, f"there is no option {keyword.arg}", f"the options are {known}")
        if keyword.arg not in _COMPUTED:
            options[keyword.arg] = _fixed(keyword.value, scope)
    try:
        check_limited(task.definition, [keyword.arg for keyword in node.keywords if keyword.arg])
        return task.options(**options)
    except DefinitionError as error:
        raise scope.refusal(
            node, f"these options are not valid: {error.message}", "see Task.options"
        ) from error
    except (TypeError, AttributeError) as error:
        raise scope.refusal(node, f"these options are not valid: {error}", "see Task.options") from error


def _fixed(node: ast.expr, scope: FlowScope) -> Any:
    """The value of an option, which must be known when the workflow is defined."""
    if isinstance(node, ast.Constant):
        return node.value
    if (
        isinstance(node, ast.UnaryOp)
        and isinstance(node.op, ast.USub)
        and isinstance(node.operand, ast.Constant)
    ):
        return -node.operand.value if isinstance(node.operand.value, int | float) else None
    found = scope.names.object(node)
    if found is not MISSING:
        return found
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_fixed(each, scope) for each in node.elts)
    if isinstance(node, ast.Call):
        kind = scope.names.object(node.func)
        if kind is Exponential or kind is timedelta:
            args = [_fixed(each, scope) for each in node.args]
            keywords = {each.arg: _fixed(each.value, scope) for each in node.keywords if each.arg}
            try:
                return kind(*args, **keywords)
            except (DefinitionError, TypeError, OverflowError) as error:
                raise scope.refusal(
                    node, f"this option is not valid: {error}", "see its documentation"
                ) from error
    raise scope.refusal(
        node, "an option must be known when the workflow is defined", "use a literal or a module constant"
    )


def task_args(node: ast.Call, task: Task[..., Any], scope: FlowScope) -> dict[str, Expr]:
    """The arguments of a task's call by name, behind those of its options that are computed. Refuses what does not fit
    its parameters."""
    written = node.func.keywords if isinstance(node.func, ast.Call) else []
    chosen = {
        _COMPUTED[each.arg]: _computed(each.arg, each.value, scope)
        for each in written
        if each.arg in _COMPUTED
    }
    parameters = inspect.signature(task.function).parameters
    places = [name for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    name = getattr(task, "__name__", task.name)
    return chosen | bound(node, name, task.definition.params, places, scope)


def _computed(name: str, node: ast.expr, scope: FlowScope) -> Expr:
    """Refuses a constant that no call could have."""
    of_key = name == "key"
    try:
        if isinstance(node, ast.Constant) and of_key:
            check_key(node.value, LIMIT_KEY)
        elif isinstance(node, ast.Constant):
            check_priority(cast("int", node.value))
    except (BadInput, DefinitionError) as error:
        like = (
            "what names the thing, such as `key=order.customer`"
            if of_key
            else "an int, or `priority=order.urgency`"
        )
        raise scope.refusal(node, error.message, f"write {like}") from error
    return scope.translate(node)


def task_fields(task: Task[..., Any], given: Mapping[str, Expr]) -> dict[str, Any]:
    """The fields of the node of a call that is given this."""
    args = dict(given)
    return {
        "task": task.name,
        "key": args.pop(TASK_KEY, None),
        "priority": args.pop(TASK_PRIORITY, None),
        "args": args,
        "retry": task.call.retry,
        "times": task.call.times,
    }


# -- failures --------------------------------------------------------------------------------------
def failure_class(node: ast.expr, scope: FlowScope) -> type[WorkflowFailure]:
    """The failure that is raised by this name. Refuses every other exception."""
    found = scope.names.object(node)
    if isinstance(found, type) and issubclass(found, WorkflowFailure):
        return found
    name = text_of(node)
    if isinstance(found, type) and issubclass(found, BaseException):
        advice = "raise a subclass of WorkflowFailure: a business failure has a name that others can catch"
        raise scope.refusal(node, f"{name} is no WorkflowFailure", advice)
    raise scope.refusal(node, f"{name} is no failure class", "name a subclass of WorkflowFailure")


def no_failure(node: ast.expr, kind: Any, scope: FlowScope) -> DefinitionError:
    """The refusal of what an `except` clause cannot take."""
    name = text_of(node)
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        advice = "name a subclass of WorkflowFailure, TaskError, or an error of Python's own"
        return scope.refusal(node, f"{name} is no failure class", advice)
    if not issubclass(kind, Exception):
        advice = "write `except Exception` for what can be; what a branch tidies up that loses a race is for `finally`"
        return scope.refusal(node, f"{name} cannot be caught in a run", advice)
    advice = "what a worker raises is a TaskError here: write `except TaskError`"
    return scope.refusal(node, f"{name} is never raised in a run", advice)


def failure_fields(
    node: ast.Call, kind: type[WorkflowFailure], scope: FlowScope
) -> tuple[Expr | None, Expr | None]:
    """Message and details of `Failure(message, field=...)`."""
    if kind.__init__ is not WorkflowFailure.__init__:
        raise scope.refusal(
            node,
            f"{kind.__name__} has its own __init__(), which no run would call",
            "declare its fields, as `code: str`: it takes a message, and them by name",
        )
    if len(node.args) > 1 or any(isinstance(each, ast.Starred) for each in node.args):
        raise scope.refusal(node.args[-1], "a failure takes one message", "give its fields by name")
    said = [each for each in node.keywords if each.arg == "message"]
    if said and node.args:
        raise scope.refusal(said[0], "a failure takes one message", "give it once")
    if said and said[0] is not node.keywords[0]:
        raise scope.refusal(said[0], "the message is looked at before the fields", "write it first")
    message = scope.translate(node.args[0]) if node.args else None
    if said:
        message = scope.translate(said[0].value)
    keywords = [each for each in node.keywords if each.arg != "message"]
    declared = kind.declared()
    fields = declared.fields if declared is not None else ()
    for each in keywords:
        if each.arg is not None and each.arg not in {field.name for field in fields}:
            what = f"{kind.__name__} has no field {each.arg}"
            raise scope.refusal(each, what, f"declare it in the class, as `{each.arg}: str`")
    fields_alone = ast.copy_location(ast.Call(node.func, [], keywords), node)
    given = bound(fields_alone, kind.__name__, fields, [], scope)
    return message, Make(declared.record, given) if declared is not None else None
