"""What a workflow waits for: a task's result, or time."""

from __future__ import annotations

import ast
import asyncio

from dressage.flow.compiler import calls
from dressage.flow.compiler.context import Context
from dressage.flow.sleeping import sleep
from dressage.protocol.errors import DefinitionError
from dressage.protocol.expressions import Expr
from dressage.protocol.spec import SleepNode, TaskNode


def emit_await(context: Context, node: ast.Await, target: str | None) -> None:
    """The node of `await task(...)` or `await sleep(...)`; a task's result goes to variable `target`."""
    call = node.value
    if not isinstance(call, ast.Call):
        raise context.refusal(call, "only a call can be awaited", "write `await task(...)`")
    task = calls.task_of(call, context.scope)
    if task is not None:
        args = calls.task_args(call, task, context.scope)
        context.use_task(call, task)
        context.graph.emit(TaskNode, node, task=task.name, args=args, target=target, retry=task.call_retry)
    elif context.names.object(call.func) is sleep:
        if target is not None:
            raise context.refusal(
                node, "sleep() has no result", "write it as a statement: `await sleep(...)`"
            )
        context.graph.emit(SleepNode, node, duration=_duration(context, call))
    else:
        raise _refusal(context, call)


def _duration(context: Context, call: ast.Call) -> Expr:
    keywords = [each.value for each in call.keywords if each.arg == "duration"]
    given = [*call.args, *keywords]
    if len(given) != 1 or len(keywords) != len(call.keywords):
        raise context.refusal(call, "sleep() takes one duration", "write `await sleep(timedelta(hours=1))`")
    return context.translate(given[0])


def _refusal(context: Context, call: ast.Call) -> DefinitionError:
    found = context.names.object(call.func)
    name = ast.unparse(call.func)
    if found is asyncio.sleep:
        return context.refusal(call, f"{name}() would not be durable", "use `dressage.flow.sleep`")
    if found is asyncio.gather:
        return context.refusal(
            call, "parallel branches are not supported yet", "await one task after the other"
        )
    if type(found).__name__ == "Workflow":
        return context.refusal(
            call, f"{name} is a workflow: child runs are not supported yet", "await its tasks"
        )
    if isinstance(call.func, ast.Name) and call.func.id in context.names.locals:
        advice = "await a task that is defined outside of the workflow"
        return context.refusal(call, f"{name} is a variable, not a task", advice)
    return context.refusal(call, f"{name}() is no task", "declare it with @task: `@task` above `async def`")
