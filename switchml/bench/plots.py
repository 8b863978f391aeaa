"""Pictures of runs of collectives and of packets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from switchml.bench.results import Measurement, Spread
from switchml.bench.timed_collectives import COLLECTIVES
from switchml.bench.units import show_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from switchml.bench.packet_rate import PacketRate

_MARKERS = "osD^vPX"
_GROUP_WIDTH = 0.8
_RATIOS = (0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.2, 1.5, 2, 3, 4, 5, 7, 10, 20, 50, 100)


class _Axis(NamedTuple):
    """What lies along the bottom of a picture: its name, where its marks are and what they say."""

    label: str
    marks: dict[float, str]
    base: int  # of the logarithm; 0: marks at equal distances


Series = list[tuple[float, Measurement]]
"""Measurements with their places on the axis."""


def draw(measured: list[Measurement], baselines: list[str], path: Path, *, conditions: str = "") -> None:
    """Times above, ratios to the first baseline below, one column a number of workers. Nothing is shown on a screen.

    Args:
        measured: a run's measurements.
        baselines: names of the systems that are drawn dashed.
        path: where the picture goes; the format follows from the suffix.
        conditions: what the title says of the network.
    """
    columns = {}
    for number in sorted({one.workers for one in measured}):
        series = [(float(one.size), one) for one in measured if one.workers == number]
        axis = _Axis("size of the tensor (B)", {size: show_size(round(size)) for size, _ in series}, 2)
        columns[f"{number} worker{'s' if number != 1 else ''}"] = (axis, series)
    _draw(columns, baselines, path, conditions)


def draw_along(
    label: str,
    runs: dict[str, list[Measurement]],
    baselines: list[str],
    path: Path,
    *,
    conditions: str = "",
) -> None:
    """As `draw`, in one column, along something that differs from run to run.

    Args:
        label: what differs.
        runs: by its value in words, in order.
        baselines: names of the systems that are drawn dashed.
        path: where the picture goes; the format follows from the suffix.
        conditions: what the title says of the network.
    """
    axis = _Axis(label, {float(place): text for place, text in enumerate(runs)}, 0)
    series = [(float(place), one) for place, measured in enumerate(runs.values()) for one in measured]
    _draw({"": (axis, series)}, baselines, path, conditions)


def _draw(
    columns: dict[str, tuple[_Axis, Series]], baselines: list[str], path: Path, conditions: str
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [one for _, series in columns.values() for _, one in series]
    systems = list(dict.fromkeys(one.system for one in measured))
    reference = next((name for name in baselines if any(one.system == name for one in measured)), None)
    colours = {name: f"C{number}" for number, name in enumerate(systems)}
    markers = {name: _MARKERS[number % len(_MARKERS)] for number, name in enumerate(systems)}
    rows = 2 if reference is not None else 1
    figure, grid = pyplot.subplots(
        rows,
        len(columns),
        figsize=(max(7.6, 2.2 + 4.2 * len(columns)), 3.4 * rows + 0.6),
        squeeze=False,
        sharex="col",
        sharey="row",
        layout="constrained",
    )
    for column, (name, (axis, here)) in enumerate(columns.items()):
        top: Axes = grid[0][column]
        top.set_title(name)
        _limit(top, [(place, one) for place, one in here if one.system not in baselines])
        for system in systems:
            style = {"color": colours[system], "marker": markers[system], "label": system}
            style["linestyle"] = "--" if system in baselines else "-"
            own = [(place, one) for place, one in here if one.system == system]
            _times(top, own, style)
            if reference is not None:
                _ratios(grid[1][column], own, reference, style)
        for axes in grid[:, column]:
            if axis.base:
                axes.set_xscale("log", base=axis.base)
        _name_axis(grid[-1][column], axis)
        if reference is not None:
            grid[1][column].axhline(1.0, color=colours[reference], linewidth=1.0, linestyle="--")
    words = COLLECTIVES[measured[0].collective].words
    grid[0][0].set_ylabel(f"time of one {words} (ms)")
    if reference is not None:
        grid[1][0].set_ylabel(f"time of {reference} / time of system")
    first = measured[0]
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    title = [
        f"{words}, {first.dtype}{f' {first.op}' if first.op != 'none' else ''}",
        conditions,
        "median of rounds, band from minimum to maximum",
    ]
    figure.suptitle("\n".join(line for line in title if line), fontsize="medium")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _times(axes: Axes, series: Series, style: dict[str, Any]) -> None:
    def text(value: float, _: Any) -> str:
        low, high = axes.get_ylim()
        return f"{value:g}" if high < 5 * low or f"{value:e}"[0] in "125" else ""

    _spreads(axes, [(place, _scaled(one.time, 1e3)) for place, one in series], style)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(text)
    axes.yaxis.set_minor_formatter(text)
    axes.grid(True, which="both", alpha=0.3)


def _scaled(spread: Spread, factor: float) -> Spread:
    return Spread(spread.median * factor, spread.minimum * factor, spread.maximum * factor)


def _spreads(axes: Axes, spreads: list[tuple[float, Spread]], style: dict[str, Any]) -> None:
    places = [place for place, _ in spreads]
    axes.plot(places, [one.median for _, one in spreads], markersize=4, **style)
    low, high = [one.minimum for _, one in spreads], [one.maximum for _, one in spreads]
    if len(spreads) > 1:
        axes.fill_between(places, low, high, color=style["color"], alpha=0.18, linewidth=0)
    else:  # no band can be seen at a single point
        axes.vlines(places, low, high, color=style["color"], alpha=0.5)


def _limit(axes: Axes, here: Series) -> None:
    """The time below which the links' rate lets nobody pass, where it is known."""
    times = {place: one.size / one.limit * 1e3 for place, one in here if one.limit is not None}
    if times:
        axes.plot(
            list(times),
            list(times.values()),
            color="black",
            linestyle=":",
            marker="_",
            label="limit of a link",
        )


def _ratios(axes: Axes, series: Series, reference: str, style: dict[str, Any]) -> None:
    pairs = [(place, one.ratios[reference]) for place, one in series if reference in one.ratios]
    _spreads(axes, pairs, style)
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    marks = [ratio for ratio in _RATIOS if low <= ratio <= high]
    axes.set_yticks(marks, [f"{ratio:g}" for ratio in marks])
    axes.minorticks_off()
    axes.grid(True, which="major", alpha=0.3)


def _name_axis(axes: Axes, axis: _Axis) -> None:
    axes.set_xlabel(axis.label)
    axes.set_xticks(list(axis.marks), list(axis.marks.values()), rotation=45 if axis.base else 0)
    axes.minorticks_off()


def draw_packets(found: list[PacketRate], path: Path) -> None:
    """A group of bars a number of elements, a bar a switch; the format follows from the path's suffix."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    switches = list(dict.fromkeys(one.switch for one in found))
    sizes = list(dict.fromkeys(one.elements for one in found))
    width = _GROUP_WIDTH / len(switches)
    figure, axes = pyplot.subplots(
        figsize=(2.5 + 1.0 * len(sizes) * len(switches), 3.6), layout="constrained"
    )
    for number, switch in enumerate(switches):
        own = [one for one in found if one.switch == switch]
        places = [sizes.index(one.elements) - _GROUP_WIDTH / 2 + (number + 0.5) * width for one in own]
        medians = [one.rate.median for one in own]
        below = [one.rate.median - one.rate.minimum for one in own]
        above = [one.rate.maximum - one.rate.median for one in own]
        bars = axes.bar(places, medians, width * 0.92, yerr=(below, above), capsize=3, label=switch)
        axes.bar_label(bars, [f"{median:,.0f}" for median in medians], padding=2, fontsize=8)
    axes.set_yscale("log")
    axes.set_xticks(range(len(sizes)), [f"{size} elements" for size in sizes])
    axes.set_ylabel("packets a second taken in")
    axes.margins(y=0.15)
    axes.grid(True, which="major", axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title(
        f"One job of {found[0].workers} workers: median of rounds, bar from minimum to maximum", fontsize=10
    )
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
