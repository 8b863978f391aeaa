"""Pictures of runs of collectives and of packets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from switchml.bench.figure import Axis, axis_of, draw_columns
from switchml.bench.findings import (
    SPEED_UP,
    TIME,
    Column,
    Found,
    arrange,
    findings_of,
    places_of,
    quantities_of,
    systems_of,
)
from switchml.bench.results import Measurement
from switchml.bench.settings import Point, Values, conditions, several
from switchml.bench.timed_collectives import COLLECTIVES

if TYPE_CHECKING:
    from switchml.bench.packet_rate import PacketRate

_GROUP_WIDTH = 0.8
_RUN = "run"  # no setting's name
_BARS = "median of rounds, bars from minimum to maximum"


def draw(measured: list[Measurement], baselines: list[str], path: Path, *, conditions: str = "") -> None:
    """Times above, ratios to the first baseline below, one column a number of workers. Nothing is shown on a screen.

    Args:
        measured: a run's measurements.
        baselines: names of the systems that are drawn dashed.
        path: where the picture goes; the format follows from the suffix.
        conditions: what is said of the network.
    """
    found = [
        ({"workers": workers, "sizes": size}, findings_of(list(group), baselines))
        for (workers, size), group in groupby(measured, lambda one: (one.workers, one.size))
    ]
    sizes = list(dict.fromkeys(one.size for one in measured))
    axis = axis_of("sizes", sizes)
    columns = arrange(found, "sizes", "workers", [], places_of("sizes", sizes))
    _draw(columns, axis, measured[0], found, path, conditions)


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
        conditions: what is said of the network.
    """
    found = [({_RUN: text}, findings_of(measured, baselines)) for text, measured in runs.items()]
    places = places_of(_RUN, list(runs))
    axis = Axis(label, list(places.values()))
    first = next(one for measured in runs.values() for one in measured)
    _draw(arrange(found, _RUN, "", [], places), axis, first, found, path, conditions)


def draw_combinations(
    runs: Sequence[tuple[Point, list[Measurement]]], values: Values, baselines: list[str], path: Path
) -> None:
    """Along the first setting that has several values, sizes after the others; a column a value of the second.

    Args:
        runs: measurements at each combination of settings, numbers of workers and sizes apart.
        values: of all settings.
        baselines: names of the systems that are drawn dashed.
        path: where the picture goes.
    """
    found = [
        ({**point, "workers": workers, "sizes": size}, findings_of(list(group), baselines))
        for point, measured in runs
        for (workers, size), group in groupby(measured, lambda one: (one.workers, one.size))
    ]
    varied = sorted(several(values), key=lambda name: name in ("workers", "sizes"))
    along, columns = varied[0], varied[1] if len(varied) > 1 else ""
    columns_of = arrange(found, along, columns, varied, places_of(along, values[along]))
    axis = axis_of(along, values[along])
    _draw(columns_of, axis, runs[0][1][0], found, path, conditions(values, ("dtype", "op")))


def _draw(
    columns: dict[str, Column], axis: Axis, first: Measurement, found: Found, path: Path, conditions: str
) -> None:
    names = [TIME, SPEED_UP] if next(systems_of(found), None) is not None else [TIME]
    words = COLLECTIVES[first.collective].words
    title = f"{words}, {first.dtype}{f' {first.op}' if first.op != 'none' else ''}"
    lines = [line for line in (conditions, _BARS) if line]
    draw_columns(columns, axis, quantities_of(names, found), title, lines, [path])


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
