"""The picture of switches as text for a terminal of 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from switchml.protocol.counters import SWITCH_COUNTERS
from switchml.telemetry.picture import JobPicture, Picture, SwitchPicture, WorkerPicture, readable_name

_BARS = "▁▂▃▄▅▆▇█"
_PREFIXES = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))
_TIMES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
_LATELY = 30  # seconds
_JOB_LATELY = 24
_WORKER_LATELY = 8
_WORKERS_SHOWN = 16
_ENDED_SHOWN = 4
_NAME, _NAME_END = 36, 12  # of a job: torchrun's have an identifier of 36 characters in the middle
_LATE = 0.5
_SILENT = 3.0
_FLOWS = (
    ("packets in", "packets_received", ""),
    ("packets out", "packets_sent", ""),
    ("data in", "bytes_received", "B"),
    ("data out", "bytes_sent", "B"),
    ("chunks", "chunks_completed", ""),
)
TROUBLES = tuple(
    counter.name
    for counter in SWITCH_COUNTERS
    if counter.name.startswith(("dropped_", "fault_")) or counter.name == "results_retransmitted"
)


def render(picture: Picture, now: float, waiting: str = "") -> RenderableType:
    """All of it.

    Args:
        picture: what there is to see.
        now: by the clock of `Picture.take`.
        waiting: what to say while nothing has come.
    """
    if not picture.switches:
        return Text(waiting, style="dim")
    parts: list[RenderableType] = []
    for switch in picture.switches.values():
        parts += [*_switch(switch, now - switch.heard), Text("")]
    return Group(*parts[:-1])


def sparkline(values: Sequence[float], width: int, most: float | None = None) -> str:
    """The last `width` values as bars from 0 up to the largest, or to `most`."""
    shown = list(values)[-width:]
    top = max([*shown, most or 0.0])
    if top <= 0:
        return _BARS[0] * len(shown)
    return "".join(_BARS[min(7, int(8 * max(0.0, value) / top))] for value in shown)


def quantity(value: float, unit: str = "") -> str:
    """Three digits and a prefix: 1.23 GB."""
    for prefix, size in _PREFIXES:
        if value >= 0.9995 * size:
            return f"{_three_digits(value / size)} {prefix}{unit}"
    text = f"{value:.0f}" if value == int(value) or value >= 100 else _three_digits(value)
    return f"{text} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Three digits of s, ms or µs."""
    unit, size = next((each for each in _TIMES if seconds >= 0.9995 * each[1]), _TIMES[-1])
    return f"{_three_digits(seconds / size)} {unit}"


def clock(seconds: float) -> str:
    """1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _three_digits(value: float) -> str:
    return f"{value:.2f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _switch(switch: SwitchPicture, silence: float) -> Iterable[RenderableType]:
    about = switch.about
    head = Text.assemble((f"switch {switch.address}", "bold"), overflow="ellipsis", no_wrap=True)
    if about:
        head.append(
            f"   up {clock(about['uptime'])}   {about['free_slots']:,} of {about['pool_slots']:,} slots free"
        )
    if silence >= _SILENT:
        head.append(f"   silent for {clock(silence)}", style="yellow")
    if switch.missed:
        head.append(f"   {switch.missed:,} messages missed", style="yellow")
    yield head
    if about.get("suspended"):
        yield Text(f"nobody can join now: {about['suspended']}", style="yellow")
    yield _flows(switch)
    for job in switch.jobs.values():
        yield Text("")
        yield from _job(job)
    if not switch.jobs:
        yield Text("no jobs", style="dim")
    troubles = _troubles(switch)
    if troubles.row_count:
        yield Text("")
        yield troubles
    if switch.ended:
        yield Text("")
        yield _ended(switch.ended)


def _grid(*columns: tuple[str, dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    for name, options in columns:
        table.add_column(name, no_wrap=True, **options)
    return table


_RIGHT: dict[str, Any] = {"justify": "right"}


def _flows(switch: SwitchPicture) -> Table:
    table = _grid(
        ("", {"width": 11}),
        ("a second", _RIGHT | {"width": 8}),
        (f"last {_LATELY} s", {}),
        ("in all", _RIGHT),
    )
    meter = switch.meter
    for label, name, unit in _FLOWS:
        table.add_row(
            label,
            quantity(meter.rate(name), unit),
            Text(sparkline(meter.lately(name), _LATELY).ljust(_LATELY), style="cyan"),
            quantity(meter.counters.get(name, 0), unit),
        )
    return table


def _job(job: JobPicture) -> Iterable[RenderableType]:
    status = job.status
    head = Text(overflow="ellipsis", no_wrap=True)
    head.append("job ", style="bold")
    name = readable_name(status["name"])
    if len(name) > _NAME:
        name = f"{name[: _NAME - _NAME_END - 1]}…{name[-_NAME_END:]}"
    head.append(name, style="bold green")
    number = f" #{status['job_number']}" if status["job_number"] else ""
    ranks = f"{len(status['members'])} of {status['world_size']} ranks"
    head.append(f"{number}   {status['state']}   {ranks}   {clock(status['age'])}")
    if status["job_number"]:
        head.append(f"   {status['window']} slots of {status['payload']} B, {status['wire']}", style="dim")
    yield head
    if status["waits_for"]:
        yield Text(f"  waits for {status['waits_for']}", style="yellow")
    if status["job_number"]:
        line = Text(overflow="ellipsis", no_wrap=True)
        line.append(f"  {quantity(job.sums)} elements/s ".ljust(21))
        line.append(
            sparkline(job.meter.lately("elements_added"), _JOB_LATELY).ljust(_JOB_LATELY), style="cyan"
        )
        troubled = [
            sum(pair) for pair in zip(job.slots.get("resent", ()), job.slots.get("dropped", ()), strict=False)
        ]
        if any(troubled):
            line.append("  again, by slot ", style="dim")
            line.append(sparkline(troubled, len(troubled)), style="yellow")
        yield line
    yield _workers(job)


def _workers(job: JobPicture) -> Table:
    paced = any(worker.round_trip.points for worker in job.workers.values())
    table = _grid(
        ("  rank", _RIGHT),
        ("way", {}),
        ("state", {}),
        ("heard", _RIGHT),
        *([("round trip", _RIGHT), ("", {}), ("window", _RIGHT), ("", {})] if paced else []),
        ("again", _RIGHT),
        ("late", _RIGHT),
    )
    ranked = sorted(job.workers.items(), key=lambda pair: -pair[1].late)
    shown = sorted(ranked[:_WORKERS_SHOWN])
    for rank, worker in shown:
        if worker.status:
            table.add_row(*_worker(rank, worker, paced))
    if len(ranked) > len(shown):
        table.add_row("", f"{len(ranked) - len(shown)} more")
    return table


def _worker(rank: int, worker: WorkerPicture, paced: bool) -> list[str | Text]:
    status = worker.status
    heard = status["packet"] if status["packet"] is not None else status["heartbeat"]
    pace: list[str | Text] = []
    if paced:
        trips, windows = list(worker.round_trip.points), list(worker.in_flight.points)
        pace = [
            duration(trips[-1]) if trips else "",
            Text(sparkline(trips, _WORKER_LATELY).ljust(_WORKER_LATELY), style="cyan"),
            f"{windows[-1]:.0f}" if windows else "",
            Text(sparkline(windows, _WORKER_LATELY).ljust(_WORKER_LATELY), style="cyan"),
        ]
    return [
        str(rank),
        status["transport"],
        status["state"],
        "never" if heard is None else f"{heard:.1f} s",
        *pace,
        quantity(status["sent_again"]),
        Text(f"{worker.late:.0%}", style="yellow" if worker.late >= _LATE else ""),
    ]


def _troubles(switch: SwitchPicture) -> Table:
    table = _grid(
        ("dropped, repeated", {}),
        ("a second", _RIGHT | {"width": 8}),
        (f"last {_LATELY} s", {}),
        ("in all", _RIGHT),
    )
    meter = switch.meter
    for name in TROUBLES:
        if meter.counters.get(name):
            table.add_row(
                name.removeprefix("dropped_").replace("_", " "),
                quantity(meter.rate(name)),
                Text(sparkline(meter.lately(name), _LATELY).ljust(_LATELY), style="yellow"),
                f"{meter.counters[name]:,}",
            )
    return table


def _ended(ended: Sequence[Mapping[str, Any]]) -> Text:
    lines = [
        f"{readable_name(each['name'])} #{each['job_number']}  {clock(each['ended'])} ago  {each['reason']}"
        for each in ended[:_ENDED_SHOWN]
    ]
    return Text("ended jobs\n" + "\n".join(lines), style="dim", no_wrap=True, overflow="ellipsis")
