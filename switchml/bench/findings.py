"""What a run found, in samples that a picture can be made of, whatever was measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from switchml.bench.results import Measurement, Spread
from switchml.bench.settings import SETTINGS, Point, called, show_value
from switchml.bench.timed_collectives import COLLECTIVES


@dataclass(frozen=True)
class Quantity:
    """Something that is measured and drawn.

    Attributes:
        label: of an axis, with the unit that `factor` makes.
        factor: from the samples to that unit.
        mark: a value with a line of its own; None = there is none.
        zero: whether an axis that is not logarithmic begins at 0.
    """

    label: str
    factor: float = 1.0
    mark: float | None = None
    zero: bool = True


TIME, SPEED_UP = "time", "speedup"
QUANTITIES = {
    TIME: Quantity("time of one {words} (ms)", 1e3),
    "algbw": Quantity("tensor size / time (GB/s)", 1e-9),
    SPEED_UP: Quantity("times as fast as {reference}", mark=1.0),
    "of_limit": Quantity("of what the links allow (%)", 100.0, mark=100.0),
    "sent_again": Quantity("packets sent again (%)", 100.0),
}
"""Of collectives. {words}: what is timed; {reference}: the first baseline."""


@dataclass(frozen=True)
class Finding:
    """What one system did at one point.

    Attributes:
        system: its name.
        baseline: whether ours are compared with it.
        samples: by quantity, in order; those of one round stand at the same place.
        limits: by quantity, what the network allows.
        detail: all that the benchmark tells of it.
    """

    system: str
    baseline: bool
    samples: dict[str, list[float]]
    limits: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def findings_of(measured: Sequence[Measurement], baselines: Sequence[str]) -> list[Finding]:
    """Those of all systems at one point, measured in turns.

    Args:
        measured: of one size and number of workers.
        baselines: names of those that ours are compared with, the reference first.
    """
    present = {one.system: one for one in measured}
    reference = next((present[name] for name in baselines if name in present), None)
    return [_finding(one, reference, one.system in baselines) for one in measured]


def _finding(one: Measurement, reference: Measurement | None, baseline: bool) -> Finding:
    samples = {TIME: list(one.rounds), "algbw": [one.size / seconds for seconds in one.rounds]}
    limits = {}
    if reference is not None and reference is not one:
        pairs = zip(reference.rounds, one.rounds, strict=True)
        samples[SPEED_UP] = [above / below for above, below in pairs]
    if one.limit is not None:
        limits = {TIME: one.size / one.limit, "algbw": one.limit}
        samples["of_limit"] = [one.size / seconds / one.limit for seconds in one.rounds]
    if sent := one.counters.get("packets_sent", 0):
        samples["sent_again"] = [one.counters.get("retransmissions", 0) / sent]
    return Finding(one.system, baseline, samples, limits, one.as_json())


Found = Sequence[tuple[Point, Sequence[Finding]]]
"""Points with what was found there."""


class Place(NamedTuple):
    """A value of what lies along the bottom: where, and what it is called."""

    at: float
    text: str


@dataclass
class Curve:
    """One line of a picture.

    Attributes:
        system: of it.
        baseline: whether ours are compared with it.
        level: what lies along the bottom means nothing to it: the same everywhere.
        samples: by quantity and place.
        limits: likewise.
    """

    system: str
    baseline: bool
    level: bool = False
    samples: dict[str, dict[float, list[float]]] = field(default_factory=dict)
    limits: dict[str, dict[float, float]] = field(default_factory=dict)

    def add(self, finding: Finding, places: Iterable[float]) -> None:
        """A finding at a place or, of a level, at all."""
        for at in places:
            for name, values in finding.samples.items():
                self.samples.setdefault(name, {}).setdefault(at, []).extend(values)
            for name, limit in finding.limits.items():
                self.limits.setdefault(name, {})[at] = limit

    def spreads(self, quantity: str, factor: float) -> dict[float, Spread]:
        """Medians with their extremes by place, in order."""
        found = self.samples.get(quantity, {})
        return {at: Spread.of([value * factor for value in found[at]]) for at in sorted(found)}


Column = dict[str, Curve]
"""Curves by name, in order."""


def places_of(name: str, values: Sequence[Any]) -> dict[Any, Place]:
    """Where a setting's values lie on an axis of its scale."""
    setting = SETTINGS.get(name)
    if setting is not None and setting.scale.startswith("l") and all(values):
        return {value: Place(float(value), show_value(name, value)) for value in sorted(values)}
    return {value: Place(float(index), show_value(name, value)) for index, value in enumerate(values)}


def is_of_names(name: str) -> bool:
    """Whether nothing lies between two values of a setting."""
    return name not in SETTINGS or SETTINGS[name].scale == "names"


def base_of(name: str, values: Sequence[Any]) -> int:
    """Of an axis' logarithm; 0 = it has none."""
    setting = SETTINGS.get(name)
    return {"log2": 2, "log10": 10}.get(setting.scale, 0) if setting is not None and all(values) else 0


def arrange(
    found: Found, x: str, columns: str, varied: Sequence[str], xs: Mapping[Any, Place]
) -> dict[str, Column]:
    """Curves in columns.

    Args:
        found: points with what was found there.
        x: the setting along the bottom.
        columns: the setting of which each value has a column; "" = one column.
        varied: all settings that have several values.
        xs: where the values of `x` lie.
    """
    others = [name for name in varied if name not in (x, columns)]
    arranged: dict[str, Column] = {}
    for point, findings in found:
        title = called(point, [columns]) if columns else ""
        column = arranged.setdefault(title, {})
        for one in findings:
            told = [name for name in others if not (one.baseline and _ours(name))]
            name = ", ".join(filter(None, (one.system, called(point, told))))
            level = one.baseline and _ours(x)
            curve = column.setdefault(name, Curve(one.system, one.baseline, level))
            curve.add(one, (place.at for place in xs.values()) if level else (xs[point[x]].at,))
    return arranged


def _ours(name: str) -> bool:
    return name in SETTINGS and SETTINGS[name].ours


def systems_of(found: Found) -> Iterator[str]:
    """Names of those that ours are compared with, in order, each once."""
    yield from dict.fromkeys(one.system for _, findings in found for one in findings if one.baseline)


def quantities_of(names: Iterable[str], found: Found) -> dict[str, Quantity]:
    """Those of `QUANTITIES`, with what was timed and compared in their labels."""
    first = next((one.detail for _, findings in found for one in findings), {})
    words = COLLECTIVES[first.get("collective", "allreduce")].words
    reference = next(systems_of(found), "")
    return {
        name: replace(one, label=one.label.format(words=words, reference=reference))
        for name, one in QUANTITIES.items()
        if name in names
    }
