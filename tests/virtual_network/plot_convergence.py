"""Draws how the congestion window finds its path, on the virtual clock: docs/networks.md shows the picture.

PYTHONPATH=tests/shared python tests/virtual_network/plot_convergence.py docs/convergence.png
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from virtual_network import NetworkConditions, Task, VirtualNetwork

from switchml.protocol.header import HEADER_BYTES
from switchml.worker.window import FRAMING, WORDS

matplotlib.use("Agg")
from matplotlib import pyplot

PAYLOAD = 1024
PACKET = HEADER_BYTES + PAYLOAD + FRAMING
MBIT = 125_000
MS = 1_000_000


@dataclass
class Trace:
    """What one job was seen to do. Milliseconds, packets, and shares of the link."""

    at: list[float] = field(default_factory=list)
    window: list[float] = field(default_factory=list)
    backlog: list[float] = field(default_factory=list)
    queue: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    accepted: int = 0

    def note(self, job: VirtualNetwork, every: int) -> None:
        rank = job._ranks[0]
        state: Any = rank.congestion[0]
        waits = max(0, max(job._busy_until[job.workers :]) - job.now)
        accepted = int(rank.window.stream[0]["accepted"])
        delivered, self.accepted = accepted - self.accepted, accepted
        self.at.append(job.now / MS)
        self.window.append(state["window"] / PACKET)
        self.backlog.append(state["backlog"] / PACKET)
        self.queue.append(waits * job.conditions.rate / 1_000_000_000 / PACKET)
        self.rate.append(delivered * PACKET / (job.conditions.rate * every / 1_000_000_000))


def job(queue: int, delay: int, *, loss: float = 0.0, late: int = 0, seed: int = 1) -> VirtualNetwork:
    rows = (np.arange(PAYLOAD // 4 * 8000, dtype=np.uint32),) * 2
    conditions = NetworkConditions(loss=loss, delay=delay, jitter=1000, rate=100 * MBIT, queue=queue)
    task = Task(WORDS, rows[0].size, rows)
    return VirtualNetwork(2, 512, PAYLOAD, (task,), conditions, seed, patient=True, late=late)


def watch(jobs: list[VirtualNetwork], until: int, every: int) -> list[Trace]:
    traces = [Trace() for _ in jobs]
    for one in jobs:
        one.share_links(jobs[0])
        one.start()
    for now in range(every, until, every):
        while min(one.next_at() for one in jobs if not one.done()) < now:
            min((one for one in jobs if not one.done()), key=VirtualNetwork.next_at).step()
        for one, trace in zip(jobs, traces, strict=True):
            one.now = now
            trace.note(one, every)
    return traces


def main(path: str) -> None:
    cases = [
        ("64 KiB of queue, 0.2 ms round trip", [job(64 << 10, MS // 10)]),
        ("256 KiB, 20 ms", [job(256 << 10, 10 * MS)]),
        ("256 KiB, 0.2 ms, a second job after 150 ms",
         [job(256 << 10, MS // 10), job(256 << 10, MS // 10, late=150 * MS, seed=2)]),
    ]  # fmt: skip
    figure, grid = pyplot.subplots(3, 3, figsize=(11, 6.6), sharex=True, sharey="row", layout="constrained")
    for column, (title, jobs) in enumerate(cases):
        limit = jobs[0].conditions.queue / PACKET
        traces = watch(jobs, 500 * MS, 5 * MS)
        top, middle, bottom = grid[0][column], grid[1][column], grid[2][column]
        top.set_title(title, fontsize="medium")
        for number, trace in enumerate(traces):
            name = "" if len(traces) == 1 else ("first ", "second ")[number]
            top.plot(trace.at, trace.window, color=f"C{number}", label=f"{name}window")
            top.plot(trace.at, trace.backlog, color=f"C{number}", linestyle=":", label=f"{name}backlog")
            bottom.plot(trace.at, trace.rate, color=f"C{number}", label=f"{name}job".strip())
        middle.plot(traces[0].at, traces[0].queue, color="C2")
        middle.axhline(limit, color="grey", linestyle="--", linewidth=1)
        top.legend(frameon=False, fontsize="small")
        bottom.set_xlabel("time (ms)")
    grid[0][0].set_ylabel("packets")
    grid[1][0].set_ylabel("packets in the fuller queue\n(dashed: it holds)")
    grid[2][0].set_ylabel("share of the link")
    grid[2][0].set_ylim(0, 1.15)
    figure.suptitle(
        "2 workers, links of 100 Mbit/s, packets of 1 KiB, no random loss; virtual clock", fontsize="medium"
    )
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main(*sys.argv[1:])
