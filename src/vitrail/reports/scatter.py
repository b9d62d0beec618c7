"""Accuracy against cost: what was measured here, with other people's numbers behind it in grey."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.reports.figures import INK, SERIES, Drawing, styled, svg


@dataclass(frozen=True)
class Point:
    """A model: what it costs, how good it is (a share), and its name beside the dot."""

    name: str
    cost: float
    accuracy: float


def cost_scatter(
    ours: Sequence[Point], theirs: Sequence[Point], *, cost: str, accuracy: str, reference: str
) -> Drawing:
    """Dots over a logarithmic cost axis; `theirs` are reference points, named by `reference`."""
    with styled(size=(7.2, 4.4)) as (figure, axes):
        axes.grid(axis="y")
        if theirs:
            axes.plot(
                [p.cost for p in theirs],
                [100 * p.accuracy for p in theirs],
                "o",
                color=INK,
                alpha=0.3,
                markersize=5,
                label=reference,
            )
        axes.plot(
            [p.cost for p in ours],
            [100 * p.accuracy for p in ours],
            "o",
            color=SERIES[1],
            markersize=7,
            label="measured here",
        )
        for point in ours:
            axes.annotate(
                point.name, (point.cost, 100 * point.accuracy), xytext=(6, 4), textcoords="offset points", fontsize=9
            )
        for point in theirs:
            axes.annotate(
                point.name,
                (point.cost, 100 * point.accuracy),
                xytext=(5, -9),
                textcoords="offset points",
                fontsize=7,
                alpha=0.55,
            )
        axes.set_xscale("log")
        axes.set(xlabel=cost, ylabel=f"{accuracy}, %")
        axes.margins(x=0.12, y=0.12)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
        said = "; ".join(f"{p.name}: {p.cost:.3g}, {p.accuracy:.1%}" for p in ours)
        return Drawing(svg(figure), f"{accuracy} against {cost}. {said}.")
