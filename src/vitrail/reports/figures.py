"""Figures as SVG to be written into a page: text and axes in the page's own colour, series in colours the page can set.

Nothing here is drawn with pyplot, so no global state: every figure is a value. Class names may be any text.
"""

import contextlib
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

INK = "#010203"  # no other colour is this one: it becomes currentColor, so that text and axes follow the page's theme
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe & Ito 2008: told apart by colour-blind eyes
GOOD, BAD = SERIES[0], SERIES[1]
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: screen readers and searches find it, and it takes the page's font
    "svg.hashsalt": "vitrail",  # the same figure is the same bytes
    "text.parse_math": False,  # a class may be called $5
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "font.size": 10,
    "axes.unicode_minus": True,
}
PLAIN = "DejaVu Sans"
"""matplotlib's own font."""


@dataclass(frozen=True)
class Drawing:
    """An SVG element to be put into a page as it is, what it shows in words, and a line to read under it."""

    svg: str
    alt: str
    caption: str = ""
    wide: bool = False
    """Whether a narrow screen lets it scroll, in place of making it too small to read."""


@dataclass(frozen=True)
class Panel:
    """One diagram of curves: rows' keys and the names to show for them."""

    title: str
    series: Mapping[str, str]
    percent: bool = False
    log: bool = False


PANELS = (
    Panel("Loss", {"loss": "training", "held_out_nll": "held out"}, log=True),
    Panel("Accuracy", {"accuracy": "training", "held_out_top1": "held out"}, percent=True),
    Panel("Learning rate", {"lr": "learning rate"}),
)


def curves(
    rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel] = PANELS, *, x: str = "epoch"
) -> tuple[Drawing, ...]:
    """One drawing for each panel that has something to show, over the rows' `x`. Rows without a value are left out."""
    return tuple(drawing for panel in panels if (drawing := _curve(rows, panel, x)))


def reliability(
    edges: Sequence[float], images: Sequence[int], confidence: Sequence[float | None], accuracy: Sequence[float | None]
) -> Drawing:
    """How far confidence can be believed: each bin's accuracy against the diagonal, and its share of the images."""
    edge, weight = np.asarray(edges), np.asarray(images)
    filled = [k for k, value in enumerate(accuracy) if value is not None]
    sure, right = ([values[k] for k in filled] for values in (confidence, accuracy))
    with styled(size=(4.6, 5.0), rows=2, heights=(3, 1)) as (figure, (top, below)):
        top.plot([0, 1], [0, 1], color=INK, linestyle=(0, (4, 3)), linewidth=1, label="perfectly calibrated")
        top.plot(sure, right, "o", color=BAD, markersize=4, label="mean of the bin")
        top.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
        top.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)  # above: bars may stand anywhere below
        bars = {"align": "edge", "color": GOOD, "alpha": 0.35, "edgecolor": GOOD}
        top.bar(edge[filled], right, np.diff(edge)[filled], **bars)
        below.bar(edge[:-1], weight / max(1, weight.sum()), np.diff(edge), **bars)
        below.set(xlim=(0, 1), xlabel="confidence", ylabel="share of images")
        for axes in (top, below):
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        gaps = ", ".join(f"{c:.0%} sure {a:.0%} right" for c, a in zip(sure, right, strict=True))
        return Drawing(svg(figure), f"Reliability diagram, bin by bin: {gaps}.")


def draw_intervals(names: Sequence[str], points: Sequence[tuple[float, float, float]]) -> Drawing:
    """A dot for each name, with a line from the low to the high end of its interval: (mean, low, high), shares."""
    with styled(size=(7.2, 0.6 + 0.26 * len(names))) as (figure, axes):
        for place, (mean, low, high) in enumerate(points):
            axes.plot([low, high], [place, place], color=GOOD, linewidth=1.4, alpha=0.5)
            axes.plot([mean], [place], "o", color=GOOD, markersize=5)
        axes.set_yticks(range(len(names)), [shorten(name, 48) for name in names], fontsize=8.5)
        axes.set(ylim=(len(names) - 0.5, -0.5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="x")
        said = "; ".join(f"{name} {mean:.1%}" for name, (mean, _, _) in zip(names, points, strict=True))
        return Drawing(svg(figure), f"Accuracies with intervals. {said}.", wide=True)


def draw_severities(curves: Mapping[str, Sequence[tuple[int, float]]], clean: float) -> Drawing:
    """Small diagrams, one for each corruption: accuracy over severity, the clean accuracy as a line."""
    across = min(4, len(curves))
    down = -(-len(curves) // across)
    with styled(size=(2.1 * across, 1.75 * down + 0.2), rows=down, columns=across) as (figure, grid):
        cells = np.atleast_1d(np.asarray(grid, dtype=object)).ravel()
        for axes in cells[len(curves) :]:
            axes.set_axis_off()
        for axes, (name, points) in zip(cells, curves.items(), strict=False):
            axes.axhline(clean, color=INK, linewidth=0.8, alpha=0.4)
            axes.plot(*zip(*points, strict=True), color=GOOD, marker="o", markersize=3)
            axes.set_title(name.replace("_", " "), fontsize=9)
            axes.set(ylim=(0, 1.02), xlim=(0.7, 5.3), xticks=range(1, 6))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            axes.tick_params(labelsize=7.5)
            axes.grid(axis="y")
        said = "; ".join(f"{name} from {points[0][1]:.0%} to {points[-1][1]:.0%}" for name, points in curves.items())
        return Drawing(svg(figure), f"Accuracy over severity. Clean {clean:.0%}; {said}.", wide=True)


def draw_answers(truth: Float[np.ndarray, "N"], answers: Float[np.ndarray, "N"], name: str) -> Drawing:
    """A dot an image: the answer over the truth, with the line on which both are equal."""
    low, high = float(min(truth.min(), answers.min())), float(max(truth.max(), answers.max()))
    with styled(size=(4.6, 4.4)) as (figure, axes):
        axes.plot([low, high], [low, high], color=INK, linestyle=(0, (4, 3)), linewidth=1)
        axes.plot(truth, answers, "o", color=GOOD, markersize=4, alpha=0.6)
        axes.set(xlabel=f"{shorten(name, 30)}, truth", ylabel="answer")
        axes.grid(alpha=0.15)
        return Drawing(svg(figure), f"Answers against truth of {len(truth):,} images, from {low:.4g} to {high:.4g}.")


def _curve(rows: Sequence[Mapping[str, Any]], panel: Panel, x: str) -> Drawing | None:
    with styled(size=(4.6, 3.0)) as (figure, axes):
        ends = []
        for colour, (key, name) in zip(SERIES, panel.series.items(), strict=False):
            points = [(row[x], row[key]) for row in rows if row.get(key) is not None and row.get(x) is not None]
            if points:
                smooth = mean_by_epoch(points) if x == "epoch" else points
                if len(smooth) < len(points):
                    axes.plot(*zip(*points, strict=True), color=colour, alpha=0.25, linewidth=0.8)
                axes.plot(*zip(*smooth, strict=True), color=colour, label=name, marker="o" if len(smooth) == 1 else "")
                ends.append(f"{name} from {points[0][1]:.4g} to {points[-1][1]:.4g}")
        if not ends:
            return None
        low, high = axes.dataLim.intervaly
        if panel.log and 0 < 5 * low < high:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0) if panel.percent else FormatStrFormatter("%g"))
        axes.set(title=panel.title, xlabel=x)
        axes.grid(axis="y")
        if len(ends) > 1:
            axes.legend()
        return Drawing(svg(figure), f"{panel.title} over {x}: {'; '.join(ends)}.")


def mean_by_epoch(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of each epoch at its end; the points themselves where there are hardly more than epochs."""
    epochs: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        epochs.setdefault(math.ceil(point[0]), []).append(point)
    if len(epochs) < 3 or len(points) < 3 * len(epochs):
        return list(points)
    *parts, last = epochs.values()
    parts = [*parts, last] if 2 * len(last) >= len(parts[-1]) else [*parts[:-1], [*parts[-1], *last]]  # a begun epoch
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def shorten(name: str, limit: int = 18) -> str:
    """As much of a name as fits; Chinese, Japanese and Korean signs are two letters wide."""
    widths = list(itertools.accumulate(2 if east_asian_width(sign) in "WF" else 1 for sign in name))
    return name if not widths or widths[-1] <= limit else name[: sum(width < limit for width in widths)] + "…"


def standalone(drawing: Drawing) -> str:
    """The drawing as an SVG file of its own, on white."""
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return drawing.svg.replace('<svg style="', f'<svg {names} role="img" style="background: white; ', 1)


@contextlib.contextmanager
def styled(
    *, size: tuple[float, float], rows: int = 1, columns: int = 1, heights: Any = None, family: Sequence[str] = (),
    ink: str = INK,
) -> Iterator[tuple[Figure, Any]]:  # fmt: skip
    """A figure in our style and its axes; the style ends with the block."""
    style = {name: ink if value == INK else value for name, value in STYLE.items()}
    fonts = {"font.family": list(family)} if family else {}
    with matplotlib.rc_context(style | fonts), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's reader has the font, or sees a box
        figure = Figure(figsize=size, layout="constrained")
        grid = {"height_ratios": heights} if heights else {}
        yield figure, figure.subplots(rows, columns, gridspec_kw=grid)


def choose_fonts(texts: Iterable[str]) -> list[str]:
    """Font families that can write these texts: matplotlib's own, then installed ones for the letters that it lacks."""
    missing = {ord(letter) for letter in "".join(texts) if letter.isprintable()}
    missing -= set(_letters(font_manager.findfont(PLAIN)))
    families = [PLAIN]
    files = sorted(font_manager.findSystemFonts()) if missing else []
    for path in sorted(files, key=lambda path: "Regular" not in path):  # the list of matplotlib's cache may be old
        if found := missing & _letters(path):
            font_manager.fontManager.addfont(path)
            families.append(FT2Font(path).family_name)
            missing -= found
    return families


@cache
def _letters(path: str) -> frozenset[int]:
    """Code points that a font can draw; none of a file that FreeType cannot read."""
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()


def _lay_out(figure: Figure) -> None:
    """Once: a figure that is saved with a layout engine is laid out and drawn twice, for every file."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)


def png(figure: Figure) -> bytes:
    """The figure as a file, on white."""
    _lay_out(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def svg(figure: Figure) -> str:
    """The figure as an element of a page: no header, no fixed size, no ids but those it refers to, colours by theme."""
    _lay_out(figure)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = file.getvalue()[file.getvalue().index("<svg") :]
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", text)
    widest = round(figure.get_figwidth() * 120)  # pixels
    text = re.sub(r"<svg[^>]*viewBox", f'<svg style="max-width: {widest}px" viewBox', text, count=1)
    referred = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in referred else "", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", text)
    for number, colour in enumerate(SERIES, start=1):
        text = text.replace(colour, f"var(--series-{number}, {colour})")
    return text.replace(INK, "currentColor")
