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
    "fork": ('[/"', '"/]'),
}


def mermaid(spec: WorkflowSpec) -> str:
    """The flowchart. A try is a frame, from which dotted lines lead to its except clauses, and so is a branch."""
    return "\n".join(["flowchart TD", *_lines(spec)]) + "\n"


def _lines(spec: WorkflowSpec) -> Iterator[str]:
    graph = FlowGraph(spec)
    yield f'    start(["{escaped(spec.name)}"]) --> n{spec.entry}'
    yield from _frame(graph, (), list(graph.order))
    for node, way in graph.ways_shown:
        label = f'|"{escaped(way.label)}"|' if way.label else ""
        yield f"    n{node} -->{label} n{way.to}"
    for number in sorted({scope for node in graph.order for scope in graph.scopes[node]}):
        for handler in spec.scopes[number].handlers:
            yield f'    try{number} -.->|"{escaped(handler_text(handler))}"| n{handler.node}'


def _frame(graph: FlowGraph, around: tuple[str, ...], nodes: list[int]) -> Iterator[str]:
    """The nodes of a frame, then the frames in it; `around` are its own name and those of the frames around it."""
    indent = "    " * (len(around) + 1)
    inner: dict[str, list[int]] = {}
    for node in nodes:
        frames = _frames(graph, node)
        if frames == around:
            yield f"{indent}{_box(graph.spec, node)}"
        else:
            inner.setdefault(frames[len(around)], []).append(node)
    for name, inside in inner.items():
        title = "try" if name.startswith("try") else f"branch {name.rpartition('_')[2]}"
        yield f'{indent}subgraph {name}["{title}"]'
        yield from _frame(graph, (*around, name), inside)
        yield f"{indent}end"


def _frames(graph: FlowGraph, node: int) -> tuple[str, ...]:
    """The frames that a node stands in, the outermost first: a branch stands where its gather does."""
    lanes = graph.lanes[node]
    around = (
        (*_frames(graph, lanes[-1].gather), f"branch{lanes[-1].gather}_{lanes[-1].branch}") if lanes else ()
    )
    return (*around, *(f"try{scope}" for scope in graph.scopes[node]))


def _box(spec: WorkflowSpec, number: int) -> str:
    node = spec.nodes[number]
    opening, closing = _SHAPES[NODES[type(node)].shape]
    line = f"line {node.line}: " if node.line else ""
    return f"n{number}{opening}{escaped(line + node_text(spec, node))}{closing}"


def escaped(text: str) -> str:
    """Text as a label may hold it: what Mermaid or HTML would read in another way stands as its number."""
    return "".join(char if char.isalnum() or char in " .,:()=_-+/" else f"#{ord(char)};" for char in text)
