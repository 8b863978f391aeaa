"""What a benchmark found, in the units of the report and as JSON."""

from __future__ import annotations

import bisect
import dataclasses
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from switchml.bench.timed_collectives import COLLECTIVES
from switchml.bench.verification import Verdict

_T = TypeVar("_T")


@dataclass(frozen=True)
class Spread:
    """A median with the extremes it was taken from."""

    median: float
    minimum: float
    maximum: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value.

        Raises:
            ValueError: there is none.
        """
        if not values:
            raise ValueError("a spread needs at least one value")
        return cls(statistics.median(values), min(values), max(values))


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """Spread of the ratios round by round.

    Both sides of a round ran within a moment of each other, so what the machine did to one it did to the other.

    Raises:
        ValueError: the rounds do not pair.
    """
    return Spread.of([above / below for above, below in zip(numerators, denominators, strict=True)])


def interleaved(items: Sequence[_T], rounds: int) -> Iterator[tuple[int, _T]]:
    """Every item once a round, the order rotating from round to round; with the round's number, from 1."""
    for number in range(rounds):
        shift = number % len(items)
        for item in (*items[shift:], *items[:shift]):
            yield number + 1, item


@dataclass(frozen=True)
class Measurement:
    """One system at one size and number of workers.

    Attributes:
        system: its name.
        workers: number of ranks.
        size: bytes of the tensor.
        count: elements of it.
        dtype: name of the element type.
        op: name of the reduction.
        iterations: all-reduces in a batch.
        rounds: seconds of one all-reduce, a value a round: the slowest rank's loop divided by its iterations.
        verdict: how sums that are known compared; None = unchecked.
        counters: what the system counted during the rounds, summed over ranks.
        facts: what the system says of itself.
        limit: bytes a second that the algbw cannot pass on this network; None when no rate is known.
        collective: its name.
        shares: what it left to others, or has of what it shares with them, by their name; parts of 1.
        ratios: by baseline, its time divided by this system's, round by round: above 1 this system is faster.
    """

    system: str
    workers: int
    size: int
    count: int
    dtype: str
    op: str
    iterations: int
    rounds: tuple[float, ...]
    verdict: Verdict | None
    counters: dict[str, int]
    facts: dict[str, Any]
    limit: float | None
    shares: dict[str, Spread] = field(default_factory=dict)
    collective: str = "allreduce"
    ratios: dict[str, Spread] = field(default_factory=dict)

    @property
    def time(self) -> Spread:
        """Seconds of one all-reduce."""
        return Spread.of(self.rounds)

    @property
    def algbw(self) -> float:
        """Bytes of the tensor a second, at the median."""
        return self.size / self.time.median

    @property
    def busbw(self) -> float:
        """Bytes a second that a link has to carry by the best known algorithm, as nccl-tests defines it: see `Collective.bus`."""
        return self.algbw * COLLECTIVES[self.collective].bus(self.workers)

    @property
    def elements_per_second(self) -> float:
        """ATE/s: aggregated tensor elements a second (NSDI 2021, section 5.1)."""
        return self.count / self.time.median

    @property
    def of_limit(self) -> float | None:
        """Share of its limit that the algbw reaches; None when no limit is known."""
        return None if self.limit is None else self.algbw / self.limit

    def as_json(self) -> dict[str, Any]:
        """Plain values: seconds, bytes, bytes a second."""
        found = dataclasses.asdict(self)
        found["time"] = dataclasses.asdict(self.time)
        found["algbw"] = self.algbw
        found["busbw"] = self.busbw
        found["elements_per_second"] = self.elements_per_second
        found["of_limit"] = self.of_limit
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Measurement:
        """What `as_json` made, as it was."""
        own = {one.name: found[one.name] for one in dataclasses.fields(cls)}
        spreads = {
            name: {key: Spread(**spread) for key, spread in own[name].items()}
            for name in ("shares", "ratios")
        }
        verdict = None if own["verdict"] is None else Verdict(**own["verdict"])
        return cls(**{**own, **spreads, "rounds": tuple(own["rounds"]), "verdict": verdict})


def overlap(timelines: Sequence[Sequence[float]]) -> tuple[float, list[float]]:
    """How far each of several jobs came while all of them ran.

    Args:
        timelines: of each job, when it began and when each of its all-reduces was done.

    Returns:
        Seconds in which all ran, and the all-reduces of each in that time, the unfinished one in parts.

    Raises:
        ValueError: they did not run at the same time.
    """
    begin, end = max(line[0] for line in timelines), min(line[-1] for line in timelines)
    if end <= begin:
        raise ValueError("the jobs did not run at the same time")
    return end - begin, [_done(line, end) - _done(line, begin) for line in timelines]


def _done(timeline: Sequence[float], at: float) -> float:
    """All-reduces that were done at a moment between a job's first and last."""
    number = min(max(bisect.bisect_right(timeline, at) - 1, 0), len(timeline) - 2)
    begin, end = timeline[number], timeline[number + 1]
    return number + (at - begin) / (end - begin)


def with_ratios(measured: list[Measurement], baselines: list[str]) -> list[Measurement]:
    """The measurements of one size with their ratios to the baselines among them."""
    against = {one.system: one for one in measured if one.system in baselines}
    return [
        dataclasses.replace(
            one,
            ratios={
                name: paired_ratio(base.rounds, one.rounds)
                for name, base in against.items()
                if name != one.system
            },
        )
        for one in measured
    ]
