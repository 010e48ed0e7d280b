"""Charts as inline SVG with colours and letters of the page, so that they follow light, dark and print."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import StringIO
from itertools import count
from typing import Any
from warnings import catch_warnings, filterwarnings

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.report.folder import Line

INK = "#010101"
FRAME = "#020202"
SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
STROKES = ("-", "--", ":")  # of lines beyond the colours
LETTERS = 40  # of a name in a legend
COLOURS = {
    INK: "var(--ink)",
    FRAME: "var(--line)",
    **{colour: f"var(--series-{k})" for k, colour in enumerate(SERIES)},
}
"""Colours that stand for those of the page, which names them in its template."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dream",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": FRAME,
    "axes.labelcolor": INK,
    "xtick.color": FRAME,
    "ytick.color": FRAME,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
    "text.parse_math": False,
}
FEW = 15  # points that are marked, too
SIZE = (5.2, 2.7)  # inches; the page scales a chart to the width it has


@dataclass(frozen=True)
class Chart:
    """A chart and its caption."""

    title: str
    caption: str
    """One sentence that says what to look for."""
    svg: str


class Charts:
    """Drawer of the charts of one page, whose ids never clash."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def draw(self, title: str, caption: str, fill: Callable[[Axes], None]) -> Chart:
        """A chart whose only axes `fill` fills."""
        with rc_context(STYLE), catch_warnings():
            # the page's letters are the reader's, not matplotlib's
            filterwarnings("ignore", message="Glyph .* missing")
            figure = Figure(figsize=SIZE, layout="constrained")
            fill(figure.subplots())
            written = StringIO()
            figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return Chart(title, caption, inline(written.getvalue(), f"chart{next(self._numbers)}-", title))

    def lines(
        self,
        title: str,
        caption: str,
        lines: Mapping[str, Line],
        x: str,
        y: str,
        thin: Mapping[str, Sequence[Line]] | None = None,
    ) -> Chart:
        """A line for each name, and thin ones of the same colour behind it."""

        def fill(axis: Axes) -> None:
            for k, (name, line) in enumerate(lines.items()):
                colour = SERIES[k % len(SERIES)]
                for one in (thin or {}).get(name, ()):
                    axis.plot(*zip(*one, strict=True), color=colour, lw=0.7, alpha=0.45)
                if line:
                    marker = "o" if len(line) < FEW else None
                    stroke = STROKES[k // len(SERIES) % len(STROKES)]
                    axis.plot(
                        *zip(*line, strict=True),
                        stroke,
                        color=colour,
                        lw=1.5,
                        marker=marker,
                        ms=3.0,
                        label=label(name),
                    )
            axis.set(xlabel=x, ylabel=y)
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            if len(lines) > 1:
                axis.legend(loc="best", ncols=2, fontsize=8)

        return self.draw(title, caption, fill)

    def histogram(
        self,
        title: str,
        caption: str,
        counts: Mapping[str, Sequence[float]],
        borders: Mapping[str, Sequence[float]],
        x: str,
        y: str,
    ) -> Chart:
        """The outline of a histogram for each name."""

        def fill(axis: Axes) -> None:
            for k, (name, values) in enumerate(counts.items()):
                colour = SERIES[k % len(SERIES)]
                axis.stairs(values, borders[name], color=colour, lw=1.4, label=label(name))
                axis.stairs(values, borders[name], color=colour, alpha=0.18, fill=True)
            axis.set(xlabel=x, ylabel=y)
            axis.xaxis.set_major_locator(MaxNLocator(6))
            axis.set_ylim(0, None)
            if len(counts) > 1:
                axis.legend(loc="best", fontsize=8)

        return self.draw(title, caption, fill)


def label(name: str) -> str:
    """A name, cut to the room in a legend."""
    return name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"


def inline(svg: str, prefix: str, title: str) -> str:
    """Make an SVG file part of a page: own ids, the page's colours and letters, as wide as its place."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: (?:[\w.]+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, variable in COLOURS.items():
        svg = svg.replace(colour, variable)
    head, _, body = svg.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} role="img" aria-label="{escape(title)}">{body}'
