"""Pictures for a publication: what was measured along what was varied, with minimum and maximum, beside what links allow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from switchml.bench.findings import Column, Curve, Place, Quantity, base_of, is_of_names, places_of
from switchml.bench.results import Spread
from switchml.bench.settings import SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision can tell apart; its yellow is too light for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_GREY = "#555555"
_LIMIT = "what links allow"
_LOOK: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "switchml",
    "pdf.fonttype": 42,
}
_DOTS_AN_INCH = 200
_NARROW, _WIDE = 4.6, 3.4  # inches of the only column, and of each of several
_HIGH = 2.7
_FULL_DECADE = 5.0  # of an axis' ends: within that, every mark of a logarithmic axis has its number
_LOGARITHMIC = (
    12.0  # of the largest over the smallest median: from there on small ones cannot be seen on a linear axis
)
_LETTERS, _FEWER_LETTERS = 42, 30  # below an axis, of the only column and of each of several
_APART = 0.06  # of the distance of two marks: so far bars stand from each other that would lie on each other


@dataclass(frozen=True)
class Axis:
    """What lies along the bottom.

    Attributes:
        label: of it.
        places: its marks.
        base: of the logarithm; 0 = none.
        names: nothing lies between two marks, and no lines are drawn between them.
    """

    label: str
    places: Sequence[Place]
    base: int = 0
    names: bool = False


def axis_of(name: str, values: Sequence[Any]) -> Axis:
    """Of a setting with these values."""
    setting = SETTINGS.get(name)
    label = name if setting is None else setting.label
    return Axis(label, list(places_of(name, values).values()), base_of(name, values), is_of_names(name))


def draw_columns(
    columns: Mapping[str, Column],
    axis: Axis,
    quantities: Mapping[str, Quantity],
    title: str,
    lines: Iterable[str],
    paths: Iterable[Path],
) -> None:
    """A row a quantity, a column a title, written to files; nothing is shown on a screen.

    Args:
        columns: curves by the column's title.
        axis: what lies along the bottom.
        quantities: what is drawn, by the name of the samples.
        title: over everything.
        lines: below everything, smaller.
        paths: of the files; a format follows from the suffix.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    with pyplot.rc_context(_LOOK):
        width = 1.9 + (_NARROW if len(columns) == 1 else _WIDE * len(columns))
        figure, grid = pyplot.subplots(
            len(quantities),
            len(columns),
            figsize=(width, 0.8 + _HIGH * len(quantities)),
            squeeze=False,
            sharex="col",
            sharey="row",
            layout="constrained",
        )
        for row, (name, quantity) in zip(grid, quantities.items(), strict=True):
            drawn = [
                _curves(axes, column, names, axis, name, quantity)
                for axes, column in zip(row, columns.values(), strict=True)
            ]
            row[0].set_ylabel(quantity.label)
            _scale(row[0], [value for values in drawn for value in values], quantity, bool(axis.base))
        for column_axes, heading in zip(grid[0], columns, strict=True):
            column_axes.set_title(heading)
        for column_axes in grid[-1]:
            _bottom(column_axes, axis, len(columns))
        handles: dict[str, Any] = {}
        for axes in grid.flat:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        handles = {label: handles[label] for label in (*names, _LIMIT) if label in handles}
        figure.legend(list(handles.values()), list(handles), loc="outside right upper")
        left = {"x": 0.01, "horizontalalignment": "left"}
        figure.suptitle(title, fontsize=10, fontweight="bold", **left)
        figure.supxlabel("\n".join(lines), fontsize=7, color=_GREY, **left)
        for path in paths:
            undated = {"Date": None} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=_DOTS_AN_INCH, metadata=undated)
        pyplot.close(figure)


def _curves(
    axes: Axes, column: Column, names: list[str], axis: Axis, name: str, quantity: Quantity
) -> list[float]:
    """Draw them; returns the medians."""
    medians: list[float] = []
    shown = [each for each in column if name in column[each].samples]
    if quantity.mark is not None:
        axes.axhline(quantity.mark, color=_GREY, linewidth=0.9, linestyle="--")
    side_by_side = [each for each in shown if not column[each].level]
    for each in shown:
        curve, index = column[each], names.index(each)
        colour, marker = _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)]
        spreads = curve.spreads(name, quantity.factor)
        medians += [spread.median for spread in spreads.values()]
        if curve.level:
            _level(axes, spreads, axis, colour, each)
            continue
        _allowed(axes, curve, name, quantity, colour, joined=len(axis.places) > 1 and not axis.names)
        aside = (side_by_side.index(each) - (len(side_by_side) - 1) / 2) * _APART
        _points(
            axes,
            {_moved(at, aside, axis): spread for at, spread in spreads.items()},
            curve,
            colour,
            marker,
            each,
            axis,
        )
    axes.grid(True, which="major", alpha=0.25, linewidth=0.6)
    return medians


def _moved(at: float, aside: float, axis: Axis) -> float:
    """A place a little to the side, on the axis' scale."""
    if axis.base:
        return float(at * axis.base**aside)
    if len(axis.places) < 2:
        return at + aside
    marks = [place.at for place in axis.places]
    return at + aside * min(after - before for before, after in pairwise(marks))


def _points(
    axes: Axes,
    spreads: Mapping[float, Spread],
    curve: Curve,
    colour: str,
    marker: str,
    label: str,
    axis: Axis,
) -> None:
    medians = [one.median for one in spreads.values()]
    below = [one.median - one.minimum for one in spreads.values()]
    above = [one.maximum - one.median for one in spreads.values()]
    axes.errorbar(
        list(spreads),
        medians,
        yerr=(below, above),
        color=colour,
        marker=marker,
        markersize=4.5,
        markerfacecolor="white" if curve.baseline else colour,
        linestyle="none" if axis.names else "--" if curve.baseline else "-",
        linewidth=1.3,
        elinewidth=0.9,
        capsize=2.5,
        label=label,
        clip_on=False,  # a point on the axis is seen whole
    )


def _level(axes: Axes, spreads: Mapping[float, Spread], axis: Axis, colour: str, label: str) -> None:
    one = next(iter(spreads.values()))
    axes.axhline(one.median, color=colour, linestyle="--", linewidth=1.3, label=label)
    axes.axhspan(one.minimum, one.maximum, color=colour, alpha=0.12, linewidth=0)


def _allowed(axes: Axes, curve: Curve, name: str, quantity: Quantity, colour: str, *, joined: bool) -> None:
    """The line beyond which the links' rate lets this one not pass, where it is known."""
    limits = curve.limits.get(name, {})
    if limits:
        places = sorted(limits)
        values = [limits[at] * quantity.factor for at in places]
        axes.plot(
            places,
            values,
            color=colour,
            linestyle=":" if joined else "none",
            linewidth=1.1,
            marker="_",
            markersize=6 if joined else 12,
        )
        axes.plot([], [], color=_GREY, linestyle=":" if joined else "none", marker="_", label=_LIMIT)


def _scale(axes: Axes, medians: list[float], quantity: Quantity, logarithmic: bool) -> None:
    if not medians:
        return
    least, most = min(medians), max(medians)
    if least > 0 and (most / least > _LOGARITHMIC or (logarithmic and most / least > _FULL_DECADE)):

        def text(value: float, _: Any) -> str:
            low, high = axes.get_ylim()
            return f"{value:g}" if high < _FULL_DECADE * low or f"{value:e}"[0] in "125" else ""

        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(text)
        axes.yaxis.set_minor_formatter(text)
    elif quantity.zero and least >= 0:
        axes.set_ylim(bottom=0)


def _bottom(axes: Axes, axis: Axis, columns: int) -> None:
    from matplotlib.ticker import NullLocator

    marks = {place.at: place.text for place in axis.places}
    if axis.base:
        axes.set_xscale("log", base=axis.base)
    crowded = sum(map(len, marks.values())) > (_LETTERS if columns == 1 else _FEWER_LETTERS)
    axes.set_xlabel(axis.label)
    axes.set_xticks(list(marks), list(marks.values()), rotation=45 if crowded else 0)
    axes.xaxis.set_minor_locator(NullLocator())
    if len(marks) == 1:
        axes.margins(x=0.2)
    elif axis.names:
        axes.set_xlim(-0.5, len(marks) - 0.5)
