"""What a run shows: a line of progress where stderr is a terminal, and a table at the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import IO, Self

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from switchml.closing import Closing
from switchml.launch.throughput import Traffic

_DRAIN = 2.0


class Progress(Closing):
    """A live line below what the workers print. Does nothing unless stderr is a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = (
            Live(console=console, transient=True, auto_refresh=False) if console.is_terminal else None
        )
        self._relays: list[threading.Thread] = []

    @property
    def piped(self) -> tuple[int, ...]:
        """The outputs of the workers that have to come through us, so that the line and they do not mix."""
        return () if self._live is None else tuple(number for number in (1, 2) if os.isatty(number))

    def relay(self, outputs: Iterable[IO[bytes] | None]) -> None:
        """Prints the workers' lines above the progress line, as they come."""
        for output in outputs:
            if output is not None:
                thread = threading.Thread(target=self._copy, args=(output,), daemon=True)
                thread.start()
                self._relays.append(thread)

    def show(self, elapsed: float, traffic: Traffic) -> None:
        """`elapsed` in seconds."""
        if self._live is not None:
            drops = sum(traffic.named("dropped_").values()) - traffic.counters.get("dropped_duplicate", 0)
            self._live.update(
                Text(
                    f"{elapsed:5.0f} s   {decimal(traffic.bytes)}   {traffic.packet_rate:,.0f} packets/s   "
                    f"{traffic.retransmissions:,} retransmissions   {drops:,} dropped",
                    style="cyan",
                    overflow="ellipsis",
                    no_wrap=True,
                ),
                refresh=True,
            )

    @override
    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    @override
    def close(self) -> None:
        for thread in self._relays:
            thread.join(_DRAIN)
        if self._live is not None:
            self._live.stop()

    def _copy(self, output: IO[bytes]) -> None:
        assert self._live is not None
        with output:
            for line in output:
                text = Text.from_ansi(line.decode(errors="replace").rstrip("\n"))
                self._live.console.print(text, soft_wrap=True, highlight=False)


def summary(traffic: Traffic | None, *, workers: int, seconds: float, exit_code: int) -> Table:
    """The closing table; `traffic` None = no switch could be asked."""
    table = Table(title="switchml run", title_justify="left", title_style="bold", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("workers", str(workers))
    table.add_row("time", f"{seconds:.1f} s")
    if exit_code:
        table.add_row("exit code", str(exit_code))
    if traffic is None:
        table.add_row("traffic", "unknown: no switch answered that --switch names")
        return table
    if not traffic.counters.get("packets_received"):
        asked = 'none: did the script ask for the backend "switchml"?'
        table.add_row("traffic", "none before it ended" if exit_code else asked)
        return table
    for direction in ("received", "sent"):
        size, packets = (traffic.counters.get(f"{what}_{direction}", 0) for what in ("bytes", "packets"))
        table.add_row(f"{direction} by the switch", f"{decimal(size)} in {packets:,} packets")
    table.add_row("chunks summed", f"{traffic.counters.get('chunks_completed', 0):,}")
    table.add_row("retransmissions", f"{traffic.retransmissions:,}")
    for prefix in ("dropped_", "fault_"):
        for name, count in traffic.named(prefix).items():
            table.add_row(name.replace("_", " ").replace("fault ", "on purpose "), f"{count:,}")
    table.add_row("elements aggregated", f"{traffic.elements:,}")
    table.add_row("ATE/s while summing", f"{traffic.elements_per_second:,.0f}")
    return table
