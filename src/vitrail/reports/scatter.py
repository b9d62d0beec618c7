"""Accuracy against cost: what was measured here, with other people's numbers behind it in grey."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from vitrail.reports.figures import INK, SERIES, Drawing, styled, svg


@dataclass(frozen=True)
class Point:
    """A model: what it costs, how good it is (a share), and its name beside the dot."""

    name: str
    cost: float
    accuracy: float


def cost_scatter(
    ours: Sequence[Point], theirs: Sequence[Point], *, cost: str, accuracy: str, reference: str, caption: str = ""
) -> Drawing:
    """Dots over a logarithmic cost axis; `theirs` are reference points, `reference` their one name in the legend.

    Of them three are named: the cheapest, the dearest and a middle one of those that nothing cheaper beats.
    """
    with styled(size=(7.2, 4.4)) as (figure, axes):
        axes.grid(axis="y")
        _dots(axes, theirs, reference, color=INK, alpha=0.35, markersize=4.5)
        _dots(axes, ours, "measured here", color=SERIES[1], markersize=7)
        for point in ours:
            _name(axes, point, offset=(7, 4), fontsize=9)
        for point in _front(theirs):
            _name(axes, point, offset=(-4, 6), fontsize=7.5, alpha=0.6, ha="right")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set(xlabel=cost, ylabel=f"{accuracy}, %")
        axes.margins(x=0.15, y=0.12)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        said = "; ".join(f"{point.name}: {point.cost:.3g}, {point.accuracy:.1%}" for point in ours)
        return Drawing(svg(figure), f"{accuracy} against {cost}. {said}.", caption)


def _dots(axes: Axes, points: Sequence[Point], label: str, **style: Any) -> None:
    if points:
        axes.plot([p.cost for p in points], [100 * p.accuracy for p in points], "o", label=label, **style)


def _name(axes: Axes, point: Point, *, offset: tuple[int, int], **style: Any) -> None:
    axes.annotate(point.name, (point.cost, 100 * point.accuracy), xytext=offset, textcoords="offset points", **style)


def _front(points: Sequence[Point]) -> list[Point]:
    """As many names as stay legible."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return [front[i] for i in sorted({0, len(front) // 2, len(front) - 1})] if front else []
