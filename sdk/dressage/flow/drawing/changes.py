"""What changed between two specs, in words: declarations by their names, steps by the tree they stand in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Final, Literal

import msgspec

from dressage.expressions.checks import shown
from dressage.flow.drawing.nodes import backoff_text, limit_text, times_text
from dressage.flow.drawing.outline import Line, outline, parameter_text
from dressage.protocol.spec import EventDef, GatherNode, Limits, RetryOptions, TaskDef, Variable, WorkflowSpec
from dressage.protocol.types import EnumType, Field, TypeDef


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One difference. `part` is such as "tasks" or "steps"; `line` and `line_before` count as each source does."""

    part: str
    kind: Literal["added", "removed", "changed"]
    name: str = ""
    before: str = ""
    after: str = ""
    line_before: int = 0
    line: int = 0

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-", "changed": "~"}[self.kind]
        said = {
            "added": self.after,
            "removed": self.before,
            "changed": f"{self.before or 'nothing'} -> {self.after or 'nothing'}",
        }[self.kind]
        where = str(self.line or self.line_before or "") if self.part == "steps" else ""
        return f"{sign} {where:>5}  {said}" if self.part == "steps" else f"{sign} {self.name}: {said}"


Parts = dict[str, dict[str, str]]
"""What a spec declares: texts by part and name."""


def changes(before: WorkflowSpec, after: WorkflowSpec) -> list[Change]:
    """Every difference of meaning; nothing for two specs that differ in their lines alone. Raises `BadSpec`."""
    found = list(_declared(_parts(before), _parts(after)))
    found += _steps(outline(before), outline(after))
    digests = before.digest(), after.digest()
    if not found and len(set(digests)) > 1:
        # What no line shows, such as the numbering of nodes. A version of its own it is all the same.
        found.append(Change("workflow", "changed", "digest", *digests))
    return found


def _declared(before: Parts, after: Parts) -> Iterator[Change]:
    for part in after:
        old, new = before[part], after[part]
        for name in dict.fromkeys([*old, *new]):
            if name not in new:
                yield Change(part, "removed", name, before=old[name])
            elif name not in old:
                yield Change(part, "added", name, after=new[name])
            elif old[name] != new[name]:
                yield Change(part, "changed", name, before=old[name], after=new[name])
        shared = [name for name in old if name in new]
        if part == "parameters" and shared != [name for name in new if name in old]:
            yield Change(part, "changed", "order", ", ".join(old), ", ".join(new))


def _steps(before: list[Line], after: list[Line]) -> Iterator[Change]:
    old, new = ([(line.depth, line.text) for line in lines] for lines in (before, after))
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        for line in before[old_start:old_end]:
            yield Change("steps", "removed", before=_indented(line), line_before=line.line)
        for line in after[new_start:new_end]:
            yield Change("steps", "added", after=_indented(line), line=line.line)


def _indented(line: Line) -> str:
    return "    " * line.depth + line.text


# -- what a spec declares --------------------------------------------------------------------------
def _parts(spec: WorkflowSpec) -> Parts:
    return {
        "workflow": {"name": spec.name, "output": shown(spec.output), **_retry(spec.retry)}
        | ({"description": spec.description} if spec.description else {}),
        "parameters": {field.name: parameter_text(field) for field in spec.params},
        "limits": _limits(spec.limits or Limits()),
        "tasks": {name: text for task in spec.tasks for name, text in _task(task)},
        "failures": {each.name: " < ".join([each.name, *each.family]) for each in spec.failures},
        "events": {each.name: _event(each) for each in spec.events},
        "user tasks": {each.name: f"form {each.form}" for each in spec.user_tasks},
        "types": {name: text for each in spec.types for name, text in _type(each)},
        "variables": _variables(spec),
    }


def _event(event: EventDef) -> str:
    lasting = ", lasting" if event.lasting else ""
    return (
        shown(event.type)
        + lasting
        + ("" if event.expires_s is None else f", expires after {event.expires_s:g} s")
    )


def _variables(spec: WorkflowSpec) -> dict[str, str]:
    branches = [branch for node in spec.nodes if isinstance(node, GatherNode) for branch in node.branches]
    owned = Counter(name for branch in branches for name in branch.variables)
    return {each.name: _variable(each, owned[each.name]) for each in spec.variables if not each.temporary}


def _variable(variable: Variable, branches: int) -> str:
    said = "the view, " if variable.view else ""
    said += "declared as " if variable.declared else ""
    said += "of no known type" if variable.type is None else shown(variable.type)
    return said + (f", each of {branches} branches has its own" if branches else "")


def _limits(limits: Limits) -> dict[str, str]:
    return {name: str(getattr(limits, name)) for name in Limits.__struct_fields__}


def _retry(retry: RetryOptions | None) -> dict[str, str]:
    said: dict[str, str] = {}
    if retry is not None and retry.retries is not None:
        said["retries"] = str(retry.retries)
    if retry is not None and retry.backoff is not None:
        said["backoff"] = backoff_text(retry.backoff)
    if retry is not None and retry.never is not None:
        said["not retried"] = ", ".join(retry.never)
    if retry is not None and retry.exhausted is not None:
        said["exhausted"] = retry.exhausted
    return said


def _task(task: TaskDef) -> Iterator[tuple[str, str]]:
    parameters = ", ".join(map(parameter_text, task.params))
    yield task.name, f"({parameters}) -> {shown(task.output)}"
    yield f"{task.name} queue", task.queue
    for name, text in _retry(task.retry).items():
        yield f"{task.name} {name}", text
    if task.times is not None:
        yield f"{task.name} times", ", ".join(times_text(task.times).values())
    if task.limit is not None:
        priority = f", priority {task.priority}" if task.priority else ""
        yield f"{task.name} limit", limit_text(task.limit) + priority
    if task.failures:
        yield f"{task.name} failures", ", ".join(task.failures)


_FORMS: Final = {"object": "record", "tuple": "record, as a tuple", "dict": "record, as a dict"}


def _type(definition: TypeDef) -> Iterator[tuple[str, str]]:
    if isinstance(definition, EnumType):
        mixin = f"({definition.mixin})" if definition.mixin else ""
        yield definition.name, f"enum{mixin}"
        for member in definition.members:
            yield f"{definition.name}.{member.name}", repr(member.value)
        return
    yield definition.name, _FORMS[definition.form]
    for field in definition.fields:
        yield f"{definition.name}.{field.name}", _field(field)


def _field(field: Field) -> str:
    return parameter_text(field) + (", searchable" if field.searchable else "")
