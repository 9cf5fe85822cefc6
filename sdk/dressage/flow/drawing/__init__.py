"""A spec as people read it: as a text tree, as a graph, and what changed between two of them. Needs only its data.

- `expressions`: an expression as Python text.
- `nodes`: the one table of node kinds, with the text of each and the ways that lead on from it.
- `flowgraph`: what leads where.
- `outline`: the nodes as a tree of branches, loops and try bodies.
- `mermaid`, `svg`: the same as a graph.
- `changes`: what differs between two specs, in words.
"""

from dressage.flow.drawing.changes import Change, changes
from dressage.flow.drawing.expressions import EXPRESSIONS, expression_text
from dressage.flow.drawing.mermaid import mermaid
from dressage.flow.drawing.nodes import NODES, node_text, ways_of
from dressage.flow.drawing.outline import Line, outline, signature
from dressage.flow.drawing.svg import svg

__all__ = [
    "EXPRESSIONS",
    "NODES",
    "Change",
    "Line",
    "changes",
    "expression_text",
    "mermaid",
    "node_text",
    "outline",
    "signature",
    "svg",
    "ways_of",
]
