"""A spec as a Mermaid flowchart, which GitHub and many editors draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dressage.flow.drawing.flowgraph import FlowGraph
from dressage.flow.drawing.nodes import NODES, Shape, handler_text, node_text
from dressage.protocol.spec import WorkflowSpec

_SHAPES: Final[dict[Shape, tuple[str, str]]] = {
    "work": ('[["', '"]]'),
    "choice": ('{"', '"}'),
    "wait": ('("', '")'),
    "step": ('["', '"]'),
    "end": ('(["', '"])'),
}


def mermaid(spec: WorkflowSpec) -> str:
    """The flowchart; a try is a frame, from which dotted lines lead to its except clauses."""
    return "\n".join(["flowchart TD", *_lines(spec)]) + "\n"


def _lines(spec: WorkflowSpec) -> Iterator[str]:
    graph = FlowGraph(spec)
    yield f'    start(["{escaped(spec.name)}"]) --> n{spec.entry}'
    for node in graph.order:
        if not graph.scopes[node]:
            yield f"    {_box(spec, node)}"
    for scope in range(len(spec.scopes)):
        if spec.scopes[scope].parent is None:
            yield from _frame(graph, scope, 1)
    for node in graph.order:
        for way in graph.ways[node]:
            label = f'|"{escaped(way.label)}"|' if way.label else ""
            yield f"    n{node} -->{label} n{way.to}"
    for number in _scopes_in_use(graph):
        for handler in spec.scopes[number].handlers:
            yield f'    try{number} -.->|"{escaped(handler_text(handler))}"| n{handler.node}'


def _scopes_in_use(graph: FlowGraph) -> list[int]:
    return sorted({scope for node in graph.order for scope in graph.scopes[node]})


def _frame(graph: FlowGraph, scope: int, depth: int) -> Iterator[str]:
    if scope not in _scopes_in_use(graph):
        return
    indent = "    " * depth
    yield f'{indent}subgraph try{scope}["try"]'
    for node in graph.order:
        if graph.scopes[node][-1:] == (scope,):
            yield f"{indent}    {_box(graph.spec, node)}"
    for inner, each in enumerate(graph.spec.scopes):
        if each.parent == scope:
            yield from _frame(graph, inner, depth + 1)
    yield f"{indent}end"


def _box(spec: WorkflowSpec, number: int) -> str:
    node = spec.nodes[number]
    opening, closing = _SHAPES[NODES[type(node)].shape]
    line = f"line {node.line}: " if node.line else ""
    return f"n{number}{opening}{escaped(line + node_text(spec, node))}{closing}"


def escaped(text: str) -> str:
    """Text as a label may hold it: what Mermaid or HTML would read in another way stands as its number."""
    return "".join(char if char.isalnum() or char in " .,:()=_-+/" else f"#{ord(char)};" for char in text)
