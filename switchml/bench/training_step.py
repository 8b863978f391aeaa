"""Time of a data-parallel training step, next to the all-reduce of the same bytes alone.

DDP overlaps the reduction with the backward pass, so where the network is the limit a step should take little longer
than the all-reduce of all gradients in one piece.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any

from switchml.bench import rank_protocol
from switchml.bench.allreduce import Network, Observer, Plan
from switchml.bench.rank_group import RankGroup
from switchml.bench.results import Spread, interleaved, paired_ratio
from switchml.bench.systems.catalogue import Entry

_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class StepTimes:
    """One system at one number of workers.

    Attributes:
        system: its name.
        workers: number of ranks.
        rounds: seconds of a step, or of the bare all-reduce, a value a round.
        against: by the other system's name, its time divided by this one's, round by round.
    """

    system: str
    workers: int
    rounds: tuple[float, ...]
    against: dict[str, Spread]

    @property
    def time(self) -> Spread:
        """Seconds."""
        return Spread.of(self.rounds)

    def as_json(self) -> dict[str, Any]:
        """Plain values, seconds."""
        return {**dataclasses.asdict(self), "time": dataclasses.asdict(self.time)}


def training_entry(backend: str, parameters: int, batch: int, timeout: float, variant: Entry) -> Entry:
    """The catalogue entry of a DDP training over `backend`; over switchml it goes by the variant's transport."""
    ours = backend == "switchml"
    options: dict[str, Any] = {
        "backend": backend, "parameters": parameters, "batch": batch, "timeout": timeout
    }  # fmt: skip
    if ours:
        options["transport"] = variant.options["transport"]
    return Entry(
        name=f"step over {backend}",
        rank="switchml.bench.systems.ddp:DdpTraining",
        launcher="processes",
        requires=("torch",),
        extra="bench",
        in_namespaces=variant.in_namespaces if ours else True,
        ring=not ours,
        dtypes=variant.dtypes,
        operations=variant.operations,
        options=options,
        environment=_ONE_THREAD if ours else {**_ONE_THREAD, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"},
    )


def measure_training(plan: Plan, steps: int, observer: Observer) -> list[StepTimes]:
    """Every system of the plan in turn, `plan.rounds` times. Whatever was started is ended in every case.

    Args:
        plan: what to measure; the bare all-reduces are of `plan.sizes[0]` bytes.
        steps: training steps, or all-reduces, in a round.
        observer: told how the run goes on.

    Raises:
        UsageError: the plan cannot be carried out.
        TestbedError: nor can its network be built.
        BenchError: a system failed.
    """
    plan.validate()
    found: list[StepTimes] = []
    for workers in plan.workers:
        with contextlib.ExitStack() as stack:
            network = Network.build(plan, workers, stack)
            groups: list[RankGroup] = []
            for entry in plan.entries:
                observer.phase(f"{workers} workers: starting {entry.name}")
                groups.append(network.start(entry, plan, stack))
                groups[-1].ask(rank_protocol.Prepare(_elements(plan, entry), "float32", "sum"), plan.timeout)
                groups[-1].ask(rank_protocol.Batch(plan.warm_up, 1), plan.timeout)
                observer.step()
            rounds: dict[str, list[float]] = {group.name: [] for group in groups}
            for number, group in interleaved(groups, plan.rounds):
                observer.phase(f"{workers} workers: round {number}, {group.name}")
                seconds = group.ask(rank_protocol.Batch(steps, steps), plan.timeout)
                rounds[group.name].append(max(seconds) / steps)
                observer.step()
            for name, times in rounds.items():
                against = {other: paired_ratio(rounds[other], times) for other in rounds if other != name}
                found.append(StepTimes(name, workers, tuple(times), against))
    return found


def _elements(plan: Plan, entry: Entry) -> int:
    # A training has its own gradients and needs no tensor.
    return 1 if "backend" in entry.options else plan.sizes[0] // 4
