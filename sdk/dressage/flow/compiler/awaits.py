"""What a workflow awaits: a task's result, time, an event, what people do, a child run, branches, a function
with statements of its own, or nothing but that a domain event is on its way."""

from __future__ import annotations

import ast
import asyncio

from dressage.expressions.spelling import text_of
from dressage.flow.compiler import calls, functions, helpers
from dressage.flow.compiler.children import child_args, child_of
from dressage.flow.compiler.choices import choice_of, ways
from dressage.flow.compiler.conditions import condition_of, is_wait_until
from dressage.flow.compiler.context import Context
from dressage.flow.compiler.gathers import emit_gather, until_of
from dressage.flow.compiler.hoisting import hoist_arguments
from dressage.flow.compiler.interrupts import emit_interruptible, is_interruptible
from dressage.flow.compiler.names import MISSING
from dressage.flow.compiler.people import assign_args, assign_of, user_task_of
from dressage.flow.compiler.publishes import given_to, is_publish
from dressage.flow.compiler.sleeps import duration_of, is_sleep, is_sleep_until, moment_of
from dressage.flow.compiler.waits import event_of, wait_of, wait_options
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Name
from dressage.protocol.spec import (
    ChildNode,
    ConditionNode,
    EventNode,
    PublishNode,
    SleepNode,
    SleepUntilNode,
    TaskNode,
    UserTaskNode,
)


def emit_await(context: Context, node: ast.Await, target: str | None) -> None:
    """The node of `await task(...)`, `await sleep(...)` and the like; what it gives goes to variable `target`."""
    call = node.value
    if not isinstance(call, ast.Call):
        written = wait_of(context, call) or assign_of(context, call) or "task(...)"
        raise context.refusal(call, "only a call can be awaited", f"write `await {written}`")
    _emit_call(context, node, hoist_arguments(context, call), target)


def _emit_call(context: Context, node: ast.Await, call: ast.Call, target: str | None) -> None:
    if (choice := choice_of(context, call)) is not None:
        which = choice.which
        if not isinstance(which, Name):
            which = Name(context.temporary())
            context.set(node, which.name, choice.which)
        for _, each in ways(context, node, which, choice):
            _emit_call(context, node, each, target)
        return
    task = calls.task_of(call, context.scope)
    if task is not None:
        args = calls.task_args(call, task, context.scope)
        context.use_task(call, task)
        context.graph.emit(TaskNode, node, target=target, **calls.task_fields(task, args))
    elif is_sleep(context, call):
        _check_no_target(context, node, target, "sleep")
        context.graph.emit(SleepNode, node, duration=duration_of(context, call))
    elif is_publish(context, call):
        _check_no_target(context, node, target, "publish")
        context.graph.emit(PublishNode, node, **given_to(context, call))
    elif is_sleep_until(context, call):
        _check_no_target(context, node, target, "sleep_until")
        moment = moment_of(context, call)
        context.graph.emit(SleepUntilNode, node, moment=moment.expr, watched=moment.watched)
    elif is_wait_until(context, call):
        _check_no_target(context, node, target, "wait_until")
        condition, text, timeout = condition_of(context, call)
        context.graph.emit(ConditionNode, node, condition=condition, timeout=timeout, text=text)
    elif (event := event_of(context, call)) is not None:
        options = wait_options(context, call)
        context.use_event(call, event)
        context.graph.emit(EventNode, node, event=event.name, target=target, **options)
    elif (user_task := user_task_of(context, call)) is not None:
        args = assign_args(context, call)
        context.use_user_task(call, user_task)
        context.graph.emit(UserTaskNode, node, user_task=user_task.name, target=target, args=args)
    elif (child := child_of(context, call)) is not None:
        args = child_args(context, call, child)
        context.use_child(call, child.workflow)
        context.graph.emit(ChildNode, node, target=target, **child.fields(args))
    elif is_interruptible(context, call):
        emit_interruptible(context, node, call, target)
    elif (until := until_of(context, call)) is not None:
        emit_gather(context, node, call, target, until)
    else:
        _emit_function(context, call, target)


def _check_no_target(context: Context, node: ast.Await, target: str | None, name: str) -> None:
    if target is not None:
        advice = f"write it as a statement: `await {name}(...)`"
        raise context.refusal(node, f"{name}() has no result", advice)


def _emit_function(context: Context, call: ast.Call, target: str | None) -> None:
    callee = functions.callee_of(context, call.func)
    if callee is None:
        raise _refusal(context, call)
    given = functions.arguments(context, call, callee)
    inner = functions.enter(context, call, callee, target)
    functions.give(inner, call, given)
    functions.body(inner, callee)


def _refusal(context: Context, call: ast.Call) -> DefinitionError:
    found = context.names.object(call.func)
    name = text_of(call.func)
    if found is asyncio.sleep:
        return context.refusal(call, f"{name}() would not be durable", "use `dressage.flow.sleep`")
    if found is asyncio.gather:
        return context.refusal(
            call, f"{name}() would leave branches behind when one fails", "use `dressage.flow.gather`"
        )
    if found in (asyncio.wait, asyncio.as_completed, asyncio.wait_for):
        advice = "use `first_completed` or `first_successful` of `dressage.flow`"
        return context.refusal(call, f"{name}() would not be durable", advice)
    if isinstance(call.func, ast.Attribute) and call.func.attr == "start":
        owner = text_of(call.func.value)
        advice = "start a workflow that is defined above: none can start itself"
        return context.refusal(call, f"{owner} is no workflow that is known here", advice)
    if helpers.helper_of(call.func, context.scope) is not None:
        return context.refusal(call, f"{name}() is not async", "call it without await")
    if isinstance(call.func, ast.Name) and call.func.id in context.names.functions:
        return context.refusal(call, f"{name}() is not defined so far", "define it above")
    if isinstance(call.func, ast.Name) and call.func.id in context.names.locals:
        advice = "await a task that is defined outside of the workflow"
        return context.refusal(call, f"{name} is a variable, not a task", advice)
    if found is MISSING and functions.is_itself(context, call.func):
        return functions.refused_recursion(context, call)
    if found is MISSING and isinstance(call.func, ast.Name):
        advice = "define it above: a workflow is compiled when Python gets to it"
        return context.refusal(call, f"{name} is not known", advice)
    if isinstance(call.func, ast.Subscript | ast.IfExp):
        advice = "name a dict of workflows or tasks at module level, `HANDLERS = {...}`, or write `match`"
        return context.refusal(call, f"which one {name}() calls is not known here", advice)
    return context.refusal(call, f"{name}() is no task", "declare it with @task: `@task` above `async def`")
