"""The benchmarks' tables and the words around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rich.table import Table

from switchml.bench.limits import (
    SHAPED,
    SWITCHES,
    WIRE,
    goodput_limit,
    passes,
    ring_limit,
    tcp_goodput_limit,
    uplink_passes,
)
from switchml.bench.results import Measurement, Spread
from switchml.bench.timed_collectives import COLLECTIVES
from switchml.bench.units import show_rate, show_size
from switchml.protocol.messages import FLOAT32, wire_lanes

if TYPE_CHECKING:
    from switchml.bench.allreduce import Plan
    from switchml.bench.import_time import ImportTimes
    from switchml.bench.memory_use import MemoryUse
    from switchml.bench.packet_rate import PacketRate
    from switchml.bench.quantize import KernelTimes
    from switchml.bench.training_step import StepTimes

_MIB = 1 << 20

EXPLANATION = """\
time: milliseconds of one {words}, median of the rounds [minimum maximum]; systems take turns in every round.
algbw: size / time. busbw: algbw x {bus}. ATE/s: tensor elements aggregated a second, in millions.
retrans: packets sent again during the rounds, all ranks. #wrong: elements out of bounds, all ranks.
vs X: X's time over this system's, median of the rounds' own ratios [minimum maximum]; above 1 this system is faster."""


def heading(plan: Plan, facts: dict[str, Any], network: str = "") -> list[str]:
    """Lines above the table: machine, network (in words of its own where it is not the plan's), baselines."""
    lines = [
        f"switchml {facts['switchml']}, {facts['processor']}, {facts['cores']} cores, Linux {facts['kernel']}, "
        f"TCP {facts['tcp_congestion_control']}",
        f"Network: {network}" if network else _network(plan),
    ]
    if facts["load_average"] > 0.5 * facts["cores"]:
        lines.append(
            f"Load average {facts['load_average']:.1f}: other programs are running, expect wide spreads."
        )
    if plan.wire != FLOAT32:
        lines.append(
            f"Ours on the wire {plan.wire}: sums of float32 are rounded, #wrong counts errors beyond the bound."
        )
    collective = COLLECTIVES[plan.collective]
    lines += EXPLANATION.format(words=collective.words, bus=collective.bus_words).splitlines()
    return lines


def _network(plan: Plan) -> str:
    where = f"; {SWITCHES[plan.switches]}" if plan.switches != "hub" else ""
    if plan.shape is None:
        return (
            f"Network: switch at {plan.switch}"
            if plan.switch
            else f"Network: loopback of this machine{where}"
        )
    words = [show_rate(plan.shape.rate) if plan.shape.rate else "unshaped"]
    star = "a star of namespaces"
    if plan.racks > 1:
        star = f"{plan.racks} racks of namespaces"
        words[0] += f" (a rack's to the middle {show_rate(plan.uplink)})" if plan.uplink else ""
    if plan.shape.loss:
        words.append(f"{plan.shape.loss:.4%} of packets lost in each direction")
    if plan.shape.delay:
        words.append(f"a round trip of {2e3 * plan.shape.delay:g} ms")
    return f"Network: {star}, each link {', '.join(words)}, MTU {plan.mtu}{where}"


def build_table(plan: Plan, measured: list[Measurement]) -> Table:
    """One row a system, size and number of workers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    several = len(plan.workers) > 1
    limited = any(one.limit is not None for one in measured)
    baselines = [entry.name for entry in plan.baselines]
    shared = list(dict.fromkeys(name for one in measured for name in one.shares))
    columns = ["size\n(B)", "count", "type", "redop", *(["workers"] if several else [])]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("system", no_wrap=True)
    heads = ["time\n(ms)", "[min max]", "algbw\n(GB/s)", "busbw\n(GB/s)", "ATE/s\n(M)"]
    heads += ["of limit\n(%)"] if limited else []
    heads += [f"{'' if name.startswith('tcp') else 'of '}{name}\n(%)" for name in shared]
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
        row += [
            _figure(one.algbw / 1e9),
            _figure(one.busbw / 1e9),
            _figure(one.elements_per_second / 1e6) if one.op != "none" else "-",
        ]
        if limited:
            row.append("-" if one.of_limit is None else f"{100 * one.of_limit:.1f}")
        row += [_spread(one.shares[name], 100.0, 1) if name in one.shares else "" for name in shared]
        row += [str(one.counters.get("retransmissions", "-")), _wrong(one)]
        row += [_ratio(one.ratios.get(name)) for name in baselines]
        table.add_row(*row)
        previous = here
    return table


def closing(plan: Plan, measured: list[Measurement]) -> list[str]:
    """Lines under the table: what limits the figures."""
    shaped = plan.shape is not None and plan.shape.rate > 0
    rate = plan.shape.rate if plan.shape is not None and shaped else plan.line_rate
    if plan.collective != "allreduce":
        return []
    if not rate:
        if plan.launcher is not None:
            return ["The links' rate is not known: --line-rate 10gbit shows how near to their limit this is."]
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
            + (
                ""
                if plan.wire == FLOAT32
                else f" Times {wire_lanes(plan.wire)} for float32 on the wire {plan.wire}."
            )
        )
    if plan.beside:
        tcp = tcp_goodput_limit(rate, plan.mtu, framing) / 1e9
        lines.append(
            f"{plan.beside} up, down: the bulk flow's goodput on the first worker's link, of {tcp:.4g} GB/s that TCP can have."
        )
    for workers in plan.workers:
        often = passes(plan.switches, workers, plan.a_host)
        if plan.racks > 1:
            upwards = uplink_passes(plan.switches, workers, plan.racks)
            uplink = plan.uplink or rate
            lines.append(
                f"{workers} workers in {plan.racks} racks: a tensor passes a rack's link to the middle, of {show_rate(uplink)}, "
                f"{upwards:g} times upwards with {SWITCHES[plan.switches]}, {2 * (workers - 1) / workers:g} times in a ring; "
                "the slower of the two kinds of link is the limit."
            )
        elif often and payloads and (plan.switches != "hub" or plan.a_host > 1):
            lines.append(
                f"With {SWITCHES[plan.switches]}, {workers} workers: a tensor passes the busiest link {often:g} times each way, "
                f"so the limit is that goodput / {often:g}."
            )
        if workers > 1 and any(entry.ring for entry in plan.baselines):
            slowest = min(rate, plan.uplink or rate)
            ring = ring_limit(slowest, workers, plan.mtu, framing) / 1e9
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


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _spread(spread: Spread, scale: float, digits: int) -> str:
    median, low, high = (
        f"{value * scale:.{digits}f}" for value in (spread.median, spread.minimum, spread.maximum)
    )
    return f"{median} \\[{low} {high}]"


def memory_table(found: list[MemoryUse]) -> Table:
    """A row a system and size, in MiB."""
    return _table(
        ("system", "workers", "tensor (B)", "grows by", "keeps", "extra", "libraries", "peak"),
        (
            (
                use.system,
                str(use.workers),
                show_size(use.size),
                *(
                    f"{size / _MIB:.1f}"
                    for size in (use.growth, use.held, use.extra, use.libraries, use.peak)
                ),
            )
            for use in found
        ),
    )


def import_table(times: ImportTimes) -> Table:
    """Milliseconds without and with autoload, and the difference."""
    sides = (("without autoload", False), ("with autoload", True))
    rows = [
        (name, *(_spread(Spread.of(kind[side]), 1e3, 1) for kind in (times.elapsed, times.processor)))
        for name, side in sides
    ]
    both = (times.difference, times.processor_difference)
    rows.append(("difference", *(_spread(spread, 1e3, 1) for spread in both)))
    rows.append(("entry points alone", _spread(Spread.of(times.alone), 1e3, 1), ""))
    return _table(("import torch", "ms [min max]", "ms of processor time"), rows)


def kernel_table(found: list[KernelTimes]) -> Table:
    """A row a kernel and size: bytes of float32 a second, and the ratio to memcpy."""
    return _table(
        ("kernel", "size (B)", "GB/s", "of memcpy"),
        (
            (one.kernel, show_size(one.size), _spread(one.speed, 1e-9, 2), _spread(one.ratio, 1.0, 2))
            for one in found
        ),
    )


def training_table(found: list[StepTimes]) -> Table:
    """A row a system: milliseconds, and the other systems' times over its own."""
    names = list(dict.fromkeys(one.system for one in found))
    return _table(
        ("system", "workers", "ms", *(f"{name} / this" for name in names)),
        (
            (
                one.system,
                str(one.workers),
                _spread(one.time, 1e3, 1),
                *(_spread(one.against[name], 1.0, 2) if name in one.against else "" for name in names),
            )
            for one in found
        ),
    )


def calls_table(found: list[StepTimes], tensor: Callable[[int], str], *beside: str) -> Table:
    """A row a call and tensor: milliseconds, and the times of the same call over gloo, and of others, over its own.

    Args:
        found: times of calls named "what over backend".
        tensor: what a tensor of that many bytes is called.
        beside: names of the others.
    """

    def over(one: StepTimes, name: str) -> str:
        return _spread(one.against[name], 1.0, 2) if name in one.against else ""

    rows = (
        (
            one.system,
            str(one.workers),
            tensor(one.size),
            _spread(one.time, 1e3, 1),
            *(over(one, name) for name in (f"{one.system.split(' over ')[0]} over gloo", *beside)),
        )
        for one in found
    )
    heads = ("gloo / this", *(f"{name} / this" for name in beside))
    return _table(("call", "workers", "tensor", "ms", *heads), rows)


def packet_table(found: list[PacketRate], reference: str) -> Table:
    """A row a switch and number of elements: packets a second, and its rate over the reference's."""
    return _table(
        ("switch", "elements", "packets/s", f"times {reference}", "retrans", "#wrong"),
        (
            (
                one.switch,
                str(one.elements),
                _spread(one.rate, 1.0, 0),
                _spread(one.against[reference], 1.0, 2) if reference in one.against else "",
                str(one.retransmissions),
                str(one.wrong),
            )
            for one in found
        ),
    )
