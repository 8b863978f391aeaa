"""What came of an experiment: its figure, its table and its document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from switchml.bench.figure import axis_of, draw_columns
from switchml.bench.findings import Found, Quantity, arrange, places_of, quantities_of
from switchml.bench.results import Spread
from switchml.bench.settings import conditions, show_value
from switchml.experiment.saved import PROGRAM, Experiment

SUFFIXES = (".svg", ".png")


def quantities(experiment: Experiment, found: Found) -> dict[str, Quantity]:
    """What is drawn, in the file's order; of a program, what the file says of it."""
    known = quantities_of(experiment.y, found) if experiment.measure != PROGRAM else {}
    return {name: known.get(name) or experiment.quantities.get(name, Quantity(name)) for name in experiment.y}


def draw(experiment: Experiment, found: Found, machine: Mapping[str, Any], folder: Path) -> list[Path]:
    """The figure, in every format; returns its files."""
    values = experiment.values[experiment.x]
    axis = axis_of(experiment.x, values)
    columns = arrange(
        found, experiment.x, experiment.columns, experiment.varied, places_of(experiment.x, values)
    )
    paths = [folder / f"{experiment.name}{suffix}" for suffix in SUFFIXES]
    lines = [conditions(experiment.values), _rounds(experiment), _machine(machine)]
    draw_columns(columns, axis, quantities(experiment, found), experiment.title, filter(None, lines), paths)
    return paths


def _rounds(experiment: Experiment) -> str:
    number = experiment.options["rounds"]
    kind = "seed" if experiment.measure == PROGRAM else "round"
    own = ", ".join(
        f"{name} {experiment.values[name][0]}"
        for name in experiment.arguments
        if len(experiment.values[name]) == 1
    )
    counted = f"median of {number} {kind}s, bars from minimum to maximum" if number > 1 else f"one {kind}"
    return "; ".join(filter(None, (own, counted)))


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"switchml {machine['switchml']}; {machine['cores']} cores of {machine['processor']}, Linux {machine['kernel']}, "
        f"TCP {machine['tcp_congestion_control']}"
    )


def table(experiment: Experiment, found: Found) -> Table:
    """A row a point and system: medians with their extremes."""
    drawn = quantities(experiment, found)
    shown = Table(box=None, pad_edge=False, header_style="bold")
    varied = experiment.varied
    for name in (*varied, "system"):
        shown.add_column(name, no_wrap=True)
    for quantity in drawn.values():
        shown.add_column(quantity.label, justify="right", no_wrap=True)
    for point, findings in found:
        for one in findings:
            own = [show_value(name, point[name]) for name in varied]
            cells = [
                _cell([value * quantity.factor for value in one.samples.get(name, [])])
                for name, quantity in drawn.items()
            ]
            shown.add_row(*own, one.system, *cells)
    return shown


def _cell(samples: list[float]) -> str:
    if not samples:
        return ""
    spread = Spread.of(samples)
    return f"{spread.median:.4g} \\[{spread.minimum:.4g} {spread.maximum:.4g}]"


def document(experiment: Experiment, found: Found, machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, every sample included, in plain values: seconds, bytes, bits a second."""
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "measure": experiment.measure,
        "program": experiment.program and experiment.program.name,
        "x": experiment.x,
        "columns": experiment.columns,
        "y": list(experiment.y),
        "settings": experiment.values,
        "options": dict(experiment.options),
        "machine": dict(machine),
        "points": [
            {"settings": dict(point), "findings": [one.as_json() for one in findings]}
            for point, findings in found
        ],
    }
