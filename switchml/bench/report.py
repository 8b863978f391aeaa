"""The benchmark's table and the words around it."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from switchml.bench.allreduce import Plan
from switchml.bench.limits import SHAPED, WIRE, goodput_limit, ring_limit
from switchml.bench.quantities import show_rate, show_size
from switchml.bench.results import Measurement
from switchml.bench.spread import Spread

EXPLANATION = """\
time: milliseconds of one all-reduce, median of the rounds [minimum maximum]; systems take turns in every round.
algbw: size / time. busbw: algbw x 2(n-1)/n. ATE/s: tensor elements aggregated a second, in millions.
retrans: packets sent again during the rounds, all ranks. #wrong: elements out of bounds, all ranks.
vs X: X's time over this system's, median of the rounds' own ratios [minimum maximum]; above 1 this system is faster."""


def heading(plan: Plan, facts: dict[str, Any]) -> list[str]:
    """Lines above the table: machine, network, baselines."""
    lines = [
        f"switchml {facts['switchml']}, {facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, "
        f"TCP {facts['tcp_congestion_control']}",
        _network(plan),
    ]
    if facts["load_average"] > 0.5 * facts["cores"]:
        lines.append(
            f"Load average {facts['load_average']:.1f}: other programs are running, expect wide spreads."
        )
    lines += EXPLANATION.splitlines()
    return lines


def _network(plan: Plan) -> str:
    if plan.shape is None:
        return "Network: loopback of this machine" if not plan.switch else f"Network: switch at {plan.switch}"
    words = [show_rate(plan.shape.rate) if plan.shape.rate else "unshaped"]
    if plan.shape.loss:
        words.append(f"{plan.shape.loss:.4%} of packets lost in each direction")
    return f"Network: a star of namespaces, each link {', '.join(words)}, MTU {plan.mtu}"


def build_table(plan: Plan, measured: list[Measurement]) -> Table:
    """One row a system, size and number of workers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = len(plan.workers) > 1
    limited = any(one.limit is not None for one in measured)
    baselines = [entry.name for entry in plan.baselines]
    columns = ["size\n(B)", "count", "type", "redop", *(["workers"] if several else [])]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("system", no_wrap=True)
    heads = ["time\n(ms)", "[min max]", "algbw\n(GB/s)", "busbw\n(GB/s)", "ATE/s\n(M)"]
    heads += ["of limit\n(%)"] if limited else []
    heads += ["retrans", "#wrong", *(f"vs {name}" for name in baselines)]
    for name in heads:
        table.add_column(name, justify="right", no_wrap=True)
    previous: tuple[int, int] | None = None
    for one in measured:
        here = (one.workers, one.size)
        if previous is not None and here != previous:
            table.add_row()
        lead = [
            show_size(one.size),
            str(one.count),
            one.dtype,
            one.op,
            *([str(one.workers)] if several else []),
        ]
        row = [*lead, one.system, *_times(one.time)]
        row += [_figure(one.algbw / 1e9), _figure(one.busbw / 1e9), _figure(one.elements_per_second / 1e6)]
        if limited:
            row.append("-" if one.of_limit is None else f"{100 * one.of_limit:.1f}")
        row += [str(one.counters.get("retransmissions", "-")), _wrong(one)]
        row += [_ratio(one.ratios.get(name)) for name in baselines]
        table.add_row(*row)
        previous = here
    return table


def closing(plan: Plan, measured: list[Measurement]) -> list[str]:
    """Lines under the table: what limits the figures."""
    shaped = plan.shape is not None and plan.shape.rate > 0
    rate = plan.shape.rate if plan.shape is not None and shaped else plan.line_rate
    if not rate:
        return [
            "No link rate is known here: the limit is this machine's own copying and scheduling. --rate shapes links."
        ]
    framing = SHAPED if shaped else WIRE
    lines = []
    payloads = sorted({one.facts["payload"] for one in measured if "payload" in one.facts})
    for payload in payloads:
        here, wire = (goodput_limit(rate, payload, kind) / 1e9 for kind in (framing, WIRE))
        lines.append(
            f"Limit of in-network aggregation: goodput of one link = {show_rate(rate)} x {payload} / "
            f"({payload} + 10 + 28 + {framing.overhead}) = {here:.4g} GB/s ({framing.words})."
            + ("" if framing is WIRE else f" On an Ethernet wire, with 38: {wire:.4g} GB/s.")
        )
    for workers in plan.workers:
        if workers > 1 and any(entry.ring for entry in plan.baselines):
            ring = ring_limit(rate, workers, plan.mtu, framing) / 1e9
            lines.append(
                f"Limit of a ring over TCP at {workers} workers: goodput x {workers} / "
                f"{2 * (workers - 1)} = {ring:.4g} GB/s."
            )
    return lines


def _times(time: Spread) -> list[str]:
    low, high = _figure(time.minimum * 1e3), _figure(time.maximum * 1e3)
    return [_figure(time.median * 1e3), f"[{low} {high}]"]


def _wrong(one: Measurement) -> str:
    if one.verdict is None:
        return "-"
    return str(one.verdict.wrong) if not one.verdict.wrong else f"[bold red]{one.verdict.wrong}[/]"


def _ratio(spread: Spread | None) -> str:
    if spread is None:
        return ""
    median, low, high = (_times_over(value) for value in (spread.median, spread.minimum, spread.maximum))
    return f"{median} [dim]\\[{low} {high}][/]"


def _times_over(ratio: float) -> str:
    """Three digits that matter."""
    for limit, digits in ((100, 0), (10, 1), (0.1, 2)):
        if ratio >= limit:
            return f"{ratio:.{digits}f}"
    return f"{ratio:.4f}"


def _figure(value: float) -> str:
    """Four digits that matter, without exponents."""
    for limit, digits in ((1000, 0), (100, 1), (10, 2), (1, 3), (0.1, 4)):
        if value >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.5f}"
