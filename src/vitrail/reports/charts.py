"""Curves and points with their spread: in a page, as SVG and PNG for light and dark paper, and as CSV."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from vitrail.reports.figures import INK, SERIES, Drawing, choose_fonts, styled, svg
from vitrail.reports.tables import Column, Table
from vitrail.storage import write_whole

COLOURS = (*SERIES, "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f")
MARKS = "osD^vPX*"
THEMES = {
    # paper, ink, colours of the series in the order of COLOURS
    "light": ("#ffffff", "#1d2025", COLOURS),
    "dark": ("#14161a", "#e6e7ea", ("#56a9e0", "#f08c4a", "#35c79d", "#dd9cc3", *COLOURS[4:])),
}


@dataclass(frozen=True)
class Series:
    """Points of one colour. `x` holds numbers, or names in their order."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    spread: Sequence[float | None] = ()
    """Half the length of each bar; none without values."""
    line: bool = True
    behind: bool = False
    """Grey, behind all others: other people's numbers, or a fitted curve."""
    labels: Sequence[str] = ()
    """A word at each point."""


@dataclass(frozen=True)
class Chart:
    """One diagram. `name` is that of its files."""

    name: str
    title: str
    x: str
    y: str
    series: Sequence[Series]
    log: bool = False
    """Whether x is logarithmic."""
    note: str = ""
    size: tuple[float, float] = field(default=(5.6, 3.7))

    @property
    def names(self) -> list[str]:
        """The words on the x axis, where it has words."""
        return list(dict.fromkeys(x for one in self.series for x in one.x if isinstance(x, str)))


def draw_chart(chart: Chart) -> Drawing:
    """The chart for a page, in the page's colours."""
    with styled(size=chart.size, family=_fonts(chart)) as (figure, axes):
        _paint(axes, chart, INK, COLOURS)
        return Drawing(svg(figure), _alt(chart), chart.note)


def save_chart(chart: Chart, folder: Path) -> list[Path]:
    """NAME-light.svg, NAME-dark.svg, the same as PNG, and NAME.csv with the numbers."""
    written = {folder / f"{chart.name}.csv": numbers_of(chart).csv().encode()}
    for theme, (paper, ink, colours) in THEMES.items():
        for kind in ("svg", "png"):
            written[folder / f"{chart.name}-{theme}.{kind}"] = _file(chart, kind, paper, ink, colours)
    for path, content in written.items():
        write_whole(path, content)
    return list(written)


def numbers_of(chart: Chart) -> Table:
    """One row a point."""
    rows = [(one.name, x, y, spread) for one in chart.series for x, y, spread in _points(one)]
    return Table((Column("series"), Column(chart.x), Column(chart.y), Column("spread")), tuple(rows), chart.title)


def _points(series: Series) -> Iterator[tuple[float | str, float, float | None]]:
    spread = series.spread or [None] * len(series.x)
    return zip(series.x, series.y, spread, strict=True)


def _file(chart: Chart, kind: str, paper: str, ink: str, colours: Sequence[str]) -> bytes:
    with styled(size=chart.size, family=_fonts(chart), ink=ink) as (figure, axes):
        _paint(axes, chart, ink, colours)
        for part in (figure, axes):
            part.set_facecolor(paper)
        file = io.BytesIO()
        nothing = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}
        figure.savefig(file, format=kind, dpi=160, metadata=nothing)
        return file.getvalue()


def _paint(axes: Axes, chart: Chart, ink: str, colours: Sequence[str]) -> None:
    places = {name: place for place, name in enumerate(chart.names)}
    shown = [one for one in chart.series if not one.behind]
    for one in chart.series:
        number = -1 if one.behind else shown.index(one) % len(colours)
        x = [places[at] if isinstance(at, str) else at for at in one.x]
        if places and not one.behind and len(shown) > 1:  # points of one name side by side
            x = [at + 0.16 * (number - (len(shown) - 1) / 2) for at in x]
        colour, alpha, above = (ink, 0.35, 1) if one.behind else (colours[number], 1.0, 2)
        bars = [value or 0.0 for _, _, value in _points(one)]
        mark = "" if one.behind and one.line else MARKS[number] if not one.behind else "o"
        join = "-" if one.line and not places else "none"
        axes.errorbar(
            x,
            one.y,
            bars if any(bars) else None,
            fmt=mark,
            ls=join,
            ms=4.5,
            lw=1.4,
            label=one.name,
            color=colour,
            alpha=alpha,
            zorder=above,
        )
        for at, y, label in zip(x, one.y, one.labels, strict=False):
            place: dict[str, Any] = {"xytext": (-4, 4), "ha": "right"} if one.behind else {"xytext": (4, 4)}
            axes.annotate(label, (at, y), textcoords="offset points", fontsize=7.5, color=ink, alpha=0.7, **place)
    axes.set(xlabel=chart.x, ylabel=chart.y, title=chart.title)
    axes.grid(axis="y")
    _ticks(axes, chart, places)
    if len(chart.series) > 1:
        axes.get_figure().legend(fontsize=8, loc="outside lower center", ncols=4)  # pyrefly: ignore[missing-attribute]


def _ticks(axes: Axes, chart: Chart, places: dict[str, int]) -> None:
    if places:
        slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, places)) > 60 else {}
        axes.set_xticks(list(places.values()), list(places), fontsize=8.5, **slant)
        axes.set_xlim(-0.6, len(places) - 0.4)
    elif chart.log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if high > 200 * low else (1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e5 else f"{value:.0e}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(6))


def _fonts(chart: Chart) -> list[str]:
    return choose_fonts([chart.title, chart.x, chart.y, *chart.names, *(one.name for one in chart.series)])


def _alt(chart: Chart) -> str:
    said = "; ".join(
        f"{one.name}: " + ", ".join(f"{y:.4g} at {x if isinstance(x, str) else f'{x:.4g}'}" for x, y, _ in _points(one))
        for one in chart.series
        if not one.behind
    )
    return f"{chart.title}: {chart.y} over {chart.x}. {said}."
