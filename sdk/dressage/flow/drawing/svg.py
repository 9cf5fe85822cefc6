"""A spec as an SVG picture: layers from the top, each node below all that lead to it; ways back run at the right."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from dressage.flow.drawing.flowgraph import FlowGraph
from dressage.flow.drawing.nodes import NODES, Shape, handler_text, node_text
from dressage.protocol.spec import WorkflowSpec

CHARS_MAX: Final = 44
"""Of a longer text the beginning is shown; the whole of it appears when the pointer rests on it."""

CHAR_WIDTH: Final = 7
BOX_HEIGHT: Final = 34
GAP_X: Final = 28
GAP_Y: Final = 46
MARGIN: Final = 24
_COLOURS: Final[dict[Shape, str]] = {
    "work": "#dbeafe",
    "choice": "#fef3c7",
    "wait": "#ede9fe",
    "step": "#f3f4f6",
    "end": "#dcfce7",
    "fork": "#fae8ff",
}
_HEAD: Final = """<defs><marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"
orient="auto"><path d="M0 0L8 4L0 8z" fill="#374151"/></marker></defs>
<style>text{font:12px ui-monospace,monospace;fill:#111827}.label{font-size:11px;fill:#4b5563}
path.way{fill:none;stroke:#374151;marker-end:url(#arrow)}path.failure{stroke:#b91c1c;stroke-dasharray:4 3}</style>"""


@dataclass(frozen=True)
class _Edge:
    start: int
    to: int
    label: str
    failure: bool = False


@dataclass(frozen=True)
class _Box:
    x: float
    y: float
    width: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


def svg(spec: WorkflowSpec) -> str:
    """The picture. Solid lines are ways, dashed ones lead from a try to its except clauses."""
    graph = FlowGraph(spec)
    texts = {number: _text(spec, number) for number in graph.order}
    edges = list(_edges(graph))
    boxes = _boxes(graph, edges, texts)
    right = max(box.x + box.width for box in boxes.values())
    back = [edge for edge in edges if boxes[edge.to].y <= boxes[edge.start].y]
    lanes = {edge: right + GAP_X + 14 * place for place, edge in enumerate(back)}
    longest = max([len(edge.label) for edge in back], default=0) * CHAR_WIDTH
    width = max([right, *lanes.values()]) + longest + MARGIN
    height = max(box.y for box in boxes.values()) + BOX_HEIGHT + MARGIN
    drawn = [_line(edge, boxes, lanes.get(edge)) for edge in edges]
    drawn += [_shape(spec, graph, number, box, texts[number]) for number, box in boxes.items()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" role="img" '
        f"aria-label={quoteattr(spec.name)}>\n{_HEAD}\n" + "\n".join(drawn) + "\n</svg>\n"
    )


def _text(spec: WorkflowSpec, number: int) -> str:
    node = spec.nodes[number]
    return f"{node.line}  {node_text(spec, node)}" if node.line else node_text(spec, node)


def _cut(text: str) -> str:
    return text if len(text) <= CHARS_MAX else f"{text[: CHARS_MAX - 1]}…"


def _edges(graph: FlowGraph) -> Iterator[_Edge]:
    for node, way in graph.ways_shown:
        yield _Edge(node, way.to, way.label)
    for number, scope in enumerate(graph.spec.scopes):
        body = [node for node in graph.order if number in graph.scopes[node]]
        if body:
            for handler in scope.handlers:
                yield _Edge(body[0], handler.node, handler_text(handler), failure=True)


def _boxes(graph: FlowGraph, edges: list[_Edge], texts: dict[int, str]) -> dict[int, _Box]:
    """A node's layer is the longest way to it that leads only onwards; in it, it stands below where it comes from."""
    onwards: dict[int, list[int]] = {node: [] for node in graph.order}
    for edge in edges:
        if graph.order[edge.start] < graph.order[edge.to]:
            onwards[edge.to].append(edge.start)
    layers: dict[int, int] = {}
    for node in graph.order:
        layers[node] = 1 + max((layers[before] for before in onwards[node]), default=-1)
    boxes: dict[int, _Box] = {}
    for layer in range(max(layers.values()) + 1):
        left = float(MARGIN)
        row = [node for node in graph.order if layers[node] == layer]
        wanted = {node: _wanted(node, onwards, boxes) for node in row}
        for node in sorted(row, key=lambda node: (wanted[node], graph.order[node])):
            width = CHAR_WIDTH * len(_cut(texts[node])) + 24.0
            x = max(left, wanted[node] - width / 2)
            boxes[node] = _Box(x, MARGIN + layer * (BOX_HEIGHT + GAP_Y), width)
            left = x + width + GAP_X
    return boxes


def _wanted(node: int, onwards: dict[int, list[int]], boxes: dict[int, _Box]) -> float:
    above = [boxes[before].middle for before in onwards[node]]
    return sum(above) / len(above) if above else 0.0


def _line(edge: _Edge, boxes: dict[int, _Box], lane: float | None) -> str:
    start, end = boxes[edge.start], boxes[edge.to]
    bottom = start.y + BOX_HEIGHT
    if lane is None:
        middle = (bottom + end.y) / 2
        path = (
            f"M{start.middle:.0f} {bottom:.0f}C{start.middle:.0f} {middle:.0f} {end.middle:.0f} {middle:.0f} "
        )
        path += f"{end.middle:.0f} {end.y:.0f}"
        x, y = (start.middle + end.middle) / 2 + 4, middle
    else:
        side, height = end.x + end.width, end.y + BOX_HEIGHT / 2
        out = start.x + start.width
        path = f"M{out:.0f} {start.y + BOX_HEIGHT / 2:.0f}H{lane:.0f}V{height:.0f}H{side:.0f}"
        x, y = lane + 4, (start.y + height) / 2
    kind = "way failure" if edge.failure else "way"
    label = f'<text class="label" x="{x:.0f}" y="{y:.0f}">{escape(edge.label)}</text>' if edge.label else ""
    return f'<path class="{kind}" d="{path}"/>{label}'


def _shape(spec: WorkflowSpec, graph: FlowGraph, number: int, box: _Box, text: str) -> str:
    shape = NODES[type(spec.nodes[number])].shape
    radius = {"end": BOX_HEIGHT / 2, "wait": 10}.get(shape, 2)
    border = "#b91c1c" if graph.scopes[number] else "#6b7280"
    rect = (
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{BOX_HEIGHT}" rx="{radius:.0f}" '
        f'fill="{_COLOURS[shape]}" stroke="{border}"/>'
    )
    at = f'x="{box.middle:.0f}" y="{box.y + BOX_HEIGHT / 2 + 4:.0f}" text-anchor="middle"'
    return f"<g><title>{escape(text)}</title>{rect}<text {at}>{escape(_cut(text))}</text></g>"
