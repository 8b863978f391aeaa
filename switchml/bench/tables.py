"""Tables of the smaller benchmarks."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from switchml.bench.imports import ImportTimes
from switchml.bench.kernels import KernelTimes
from switchml.bench.memory import MemoryUse
from switchml.bench.packets import PacketRate
from switchml.bench.quantities import show_size
from switchml.bench.spread import Spread
from switchml.bench.training import StepTimes

_MIB = 1 << 20


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
