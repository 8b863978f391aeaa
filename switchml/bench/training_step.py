"""Time of a training step, and of other things that torch.distributed does, over switchml and gloo.

DDP overlaps the reduction with the backward pass, so where the network is the limit a step should take little longer
than the all-reduce of all gradients in one piece: that is measured beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
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
        size: bytes of the tensor, where the system is told of one.
        rounds: seconds of a step, or of another call, a value a round.
        against: by the other system's name, its time divided by this one's, round by round.
    """

    system: str
    workers: int
    size: int
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
    options = {"parameters": parameters, "batch": batch}
    return torch_entry("step", "switchml.bench.systems.ddp:DdpTraining", backend, options, timeout, variant)


def torch_entry(
    what: str, rank: str, backend: str, options: Mapping[str, Any], timeout: float, variant: Entry
) -> Entry:
    """The catalogue entry of something that `torch.distributed` does over `backend`.

    Args:
        what: is done, for its name: "what over backend".
        rank: "module:Class" of its `System`.
        backend: of torch.distributed; switchml goes by the variant's transport.
        options: of the system, beside backend, timeout and transport.
        timeout: seconds.
        variant: of ours.
    """
    ours = backend == "switchml"
    options = {**options, "backend": backend, "timeout": timeout}
    if ours:
        options["transport"] = variant.options["transport"]
    return Entry(
        name=f"{what} over {backend}",
        rank=rank,
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
        plan: what to measure; whatever is no training, with tensors of each of `plan.sizes`.
        steps: training steps, or other calls, in a round; 0 = as many as last `plan.min_time`.
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
                observer.step()
            for size in plan.sizes:
                found += _of_size(plan, workers, size, groups, steps, observer)
    return found


def _of_size(
    plan: Plan, workers: int, size: int, groups: list[RankGroup], steps: int, observer: Observer
) -> list[StepTimes]:
    repeats = {group.name: steps for group in groups}
    rounds: dict[str, list[float]] = {group.name: [] for group in groups}
    for group in groups:
        observer.phase(f"{workers} workers: warming up {group.name}")
        # A training has its own gradients and needs no tensor.
        count = 1 if "parameters" in group.entry.options else size // 4
        group.ask(rank_protocol.Prepare(count, "float32", "sum"), plan.timeout)
        seconds = max(group.ask(rank_protocol.Batch(plan.warm_up, 1), plan.timeout)) / plan.warm_up
        repeats[group.name] = steps or max(1, round(plan.min_time / seconds))
        observer.step()
    for number, group in interleaved(groups, plan.rounds):
        observer.phase(f"{workers} workers: round {number}, {group.name}")
        calls = repeats[group.name]
        rounds[group.name].append(max(group.ask(rank_protocol.Batch(calls, calls), plan.timeout)) / calls)
        observer.step()
    return [
        StepTimes(
            name,
            workers,
            size,
            tuple(times),
            {other: paired_ratio(rounds[other], times) for other in rounds if other != name},
        )
        for name, times in rounds.items()
    ]


def total_steps(plan: Plan) -> int:
    """How many times an observer's `step` is called."""
    return len(plan.workers) * len(plan.entries) * (1 + len(plan.sizes) * (1 + plan.rounds))
