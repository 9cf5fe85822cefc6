"""An answer as a picture of bars, by matplotlib, which is an extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from dressage.protocol.errors import BadInput

Picture = Literal["png", "svg"]

_WIDTH_IN: Final = 9.0
_BAR_IN: Final = 0.28
_EDGE_IN: Final = 1.2
_HEIGHT_IN_MAX: Final = 200.0
_LABEL_CHARS: Final = 60


def draw(labels: Sequence[str], values: Sequence[float], what: str, picture: Picture, output: Path) -> None:
    """Writes a bar for each label, the first one on top; `what` is what the values are of.

    Raises `BadInput` (EXTRA_MISSING) without matplotlib.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadInput(
            f"a picture needs matplotlib: pip install 'dressage[charts]', or take --format chart ({error})",
            code="EXTRA_MISSING",
        ) from error
    height_in = min(_HEIGHT_IN_MAX, _EDGE_IN + _BAR_IN * max(1, len(labels)))
    # Text stays text, and the same answer is the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dressage"}):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(labels))
        bars = axes.barh(places, values, color="#3b6ea5")
        axes.bar_label(bars, labels=[f"{value:.6g}" for value in values], padding=3)
        axes.set_yticks(places, [_short(label) for label in labels], parse_math=False)
        axes.set_xlabel(_short(what), parse_math=False)
        axes.invert_yaxis()
        axes.margins(x=0.12, y=0.01)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(output, format=picture, dpi=150, metadata={"Date": None} if picture == "svg" else None)


def _short(text: str) -> str:
    """In one line, without what no picture can show."""
    shown = "".join(each if each.isprintable() else " " for each in text)
    return shown if len(shown) <= _LABEL_CHARS else shown[: _LABEL_CHARS - 1] + "…"
