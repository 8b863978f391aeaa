"""Packets a second of the switches: the native pipeline, the P4 program in our emulator, and BMv2.

All do the same: they sum the packets of one job under full load, every slot at work, and send each result to every worker.
Each has its own links, virtual Ethernet pairs that end in packet sockets of the benchmark; the switches take turns in every
round, and while one works the others sleep.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from switchml.bench.allreduce import Observer
from switchml.bench.results import Spread, interleaved, paired_ratio
from switchml.bench.systems.packet_switches import SWITCHES, PacketSwitch, Setting
from switchml.errors import UsageError
from switchml.protocol.messages import PAYLOAD_SIZES


@dataclass(frozen=True)
class PacketPlan:
    """What to measure.

    Attributes:
        switches: names of `SWITCHES`.
        elements: int32 a packet, one program each.
        workers: of the job.
        window: slots, a power of two.
        rounds: in each, every switch runs one batch.
        min_time: seconds that a batch lasts at least, about.
        programs: folder of the compiled P4 programs.
        bmv2: paths of simple_switch and its CLI; None = they are not here.
    """

    switches: list[str]
    elements: list[int]
    workers: int
    window: int
    rounds: int
    min_time: float
    programs: Path
    bmv2: tuple[str, str] | None

    @property
    def reference(self) -> str:
        """The switch that the table compares with."""
        return "bmv2" if "bmv2" in self.switches else self.switches[0]

    def validate(self) -> None:
        """Check the plan before anything is started.

        Raises:
            UsageError: it cannot be carried out.
        """
        unknown = [name for name in self.switches if name not in SWITCHES]
        if unknown or not self.switches or len(set(self.switches)) != len(self.switches):
            raise UsageError(f"--switches: choose from {', '.join(SWITCHES)}, each once")
        if "bmv2" in self.switches and self.bmv2 is None:
            raise UsageError("bmv2 takes part only with simple_switch: --bmv2 FOLDER")
        if not 1 <= self.workers <= 64:
            raise UsageError("--workers: a P4 switch serves 1 to 64 a job")
        if not 1 <= self.window <= 1024 or self.window & (self.window - 1):
            raise UsageError("--window: a power of two, at most 1024, the slots of the P4 program")
        sizes = [size.payload // 4 for size in PAYLOAD_SIZES]
        if any(elements not in sizes for elements in self.elements):
            raise UsageError(f"--elements: there are packets of {', '.join(map(str, sizes))}")
        if self.rounds < 1 or self.min_time <= 0:
            raise UsageError("at least one round, and a positive --min-time")


def steps(plan: PacketPlan) -> int:
    """How many times an observer's `step` is called."""
    return len(plan.elements) * len(plan.switches) * (1 + plan.rounds)


@dataclass(frozen=True)
class PacketRate:
    """One switch with packets of one size.

    Attributes:
        switch: its name.
        elements: int32 a packet.
        workers: of the job.
        rounds: packets a second that it took in, a value a round.
        retransmissions: packets that were sent again.
        wrong: results that were not the sum.
        against: by the other switch's name, this one's rate over its, round by round.
    """

    switch: str
    elements: int
    workers: int
    rounds: tuple[float, ...]
    retransmissions: int
    wrong: int
    against: dict[str, Spread] = field(default_factory=dict)

    @property
    def rate(self) -> Spread:
        """Packets a second."""
        return Spread.of(self.rounds)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**dataclasses.asdict(self), "rate": dataclasses.asdict(self.rate)}


def measure_packets(plan: PacketPlan, observer: Observer) -> Iterator[PacketRate]:
    """Every switch of the plan in turn, `plan.rounds` times, for each number of elements.

    Whatever was started is ended in every case.

    Raises:
        UsageError: the plan cannot be carried out.
        TestbedError: nor can its links be built.
        BenchError: a switch failed.
    """
    plan.validate()
    for elements in plan.elements:
        setting = Setting(elements, plan.workers, plan.window, plan.programs, plan.bmv2)
        with contextlib.ExitStack() as stack:
            running: dict[str, PacketSwitch] = {}
            batches: dict[str, int] = {}
            for name in plan.switches:
                observer.phase(f"{elements} elements: starting {name}")
                running[name] = SWITCHES[name](setting, stack)
                batches[name] = _chunks_of_batch(running[name], plan)
                observer.step()
            rounds: dict[str, list[float]] = {name: [] for name in running}
            for number, name in interleaved(list(running), plan.rounds):
                observer.phase(f"{elements} elements: round {number}, {name}")
                chunks = batches[name]
                rounds[name].append(chunks * plan.workers / running[name].seconds(chunks))
                observer.step()
            for name, rates in rounds.items():
                load = running[name].load
                against = {other: paired_ratio(rates, rounds[other]) for other in rounds if other != name}
                yield PacketRate(
                    name, elements, plan.workers, tuple(rates), load.retransmissions, load.wrong, against
                )


def _chunks_of_batch(switch: PacketSwitch, plan: PacketPlan) -> int:
    """How many chunks last `min_time`, from a first batch (all slots in both versions) and a second one."""
    least = 2 * plan.window
    switch.seconds(least)
    return max(least, round(least * plan.min_time / switch.seconds(least)))
