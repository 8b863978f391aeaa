"""A picture of packets a second: a group of bars a number of elements, a bar a switch."""

from __future__ import annotations

from pathlib import Path

from switchml.bench.packets import PacketRate

_GROUP_WIDTH = 0.8


def draw_packets(found: list[PacketRate], path: Path) -> None:
    """Write the picture; the format follows from the path's suffix. Nothing is shown on a screen."""
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
